"""Logits in the order asked for, and metrics against torchmetrics and by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from trials import PLAIN, make_model, make_noisy_model, same_weights, weights

from kdbench.engine import evaluate
from kdbench.engine.evaluate import measure, predict

CLASSES = ("a", "b", "c", "d", "e")


@pytest.mark.parametrize("training", [True, False])
def test_predict_uses_the_eval_mode_and_puts_the_mode_back(tiny_data, training):
    model = make_noisy_model().train(training)
    before = weights(model)
    indices = tiny_data.splits["test"]
    first, second = (predict(model, tiny_data, indices, PLAIN) for _ in range(2))
    assert model.training is training
    assert same_weights(model, before)
    np.testing.assert_array_equal(first, second)  # no dropout
    assert (first.shape, first.dtype) == ((20, 5), np.float32)


def test_predict_puts_the_mode_back_after_an_error(tiny_data):
    model = make_model()
    with pytest.raises(IndexError):
        predict(model, tiny_data, np.asarray([10**6]), PLAIN)
    assert model.training


def test_predict_keeps_the_order_over_batches(tiny_data, monkeypatch):
    model, indices = make_model().eval(), tiny_data.splits["train"][::-1].copy()
    whole = predict(model, tiny_data, indices, PLAIN)
    monkeypatch.setattr(evaluate, "BATCH", 16)  # 70 images: four whole batches and a smaller one
    np.testing.assert_allclose(predict(model, tiny_data, indices, PLAIN), whole, rtol=1e-4, atol=1e-5)
    single = predict(model, tiny_data, indices[3:4], PLAIN)
    np.testing.assert_allclose(single[0], whole[3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_torchmetrics(seed):
    metrics = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(5), rng.choice(5, size=195, p=[0.5, 0.2, 0.15, 0.1, 0.05])])
    logits = (rng.normal(size=(200, 5)) + 1.5 * np.eye(5)[labels]).astype(np.float32)
    found = measure(logits, labels, CLASSES)
    z, y = torch.from_numpy(logits), torch.from_numpy(labels)
    assert found.accuracy == pytest.approx(metrics.multiclass_accuracy(z, y, 5, average="micro").item(), abs=1e-6)
    assert found.macro_f1 == pytest.approx(metrics.multiclass_f1_score(z, y, 5, average="macro").item(), abs=1e-6)
    recall = metrics.multiclass_recall(z, y, 5, average="none").tolist()
    assert found.recall == pytest.approx(dict(zip(CLASSES, recall, strict=True)), abs=1e-6)
    assert found.loss == pytest.approx(F.cross_entropy(z, y).item(), rel=1e-5)
    assert found.count == 200


def test_metrics_by_hand_with_classes_that_do_not_occur():
    """Truth a a a b b, guessed a a c b a: c is guessed but never true, d is neither, e likewise."""
    guessed = [0, 0, 2, 1, 0]
    logits = np.full((5, 5), -1.0, dtype=np.float32)
    logits[np.arange(5), guessed] = 1.0
    found = measure(logits, np.asarray([0, 0, 0, 1, 1]), CLASSES)
    assert found.accuracy == pytest.approx(3 / 5)
    assert found.recall == {"a": pytest.approx(2 / 3), "b": pytest.approx(1 / 2)}
    # a: 2 right of 3 true and 3 guessed; b: 1 right of 2 true and 1 guessed
    assert found.macro_f1 == pytest.approx((4 / 6 + 2 / 3) / 2)
    total = math.exp(1) + 4 * math.exp(-1)
    hit, miss = -math.log(math.exp(1) / total), -math.log(math.exp(-1) / total)
    assert found.loss == pytest.approx((3 * hit + 2 * miss) / 5, rel=1e-6)


def test_class_that_is_never_guessed_counts_zero():
    logits = np.asarray([[1, 0], [1, 0]], dtype=np.float32)
    found = measure(logits, np.asarray([0, 1]), ("a", "b"))
    assert found.recall == {"a": 1.0, "b": 0.0}
    assert found.macro_f1 == pytest.approx((2 / 3 + 0) / 2)


def test_huge_logits_give_a_finite_loss():
    logits = np.asarray([[3e4, -3e4], [-3e4, 3e4]], dtype=np.float32)
    assert measure(logits, np.asarray([0, 1]), ("a", "b")).loss == 0.0
    assert measure(logits, np.asarray([1, 0]), ("a", "b")).loss == pytest.approx(6e4)
