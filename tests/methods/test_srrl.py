"""Features for the teacher's classifier: against the formula, and what is and is not trained."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from lessons import make, ready
from torch import nn

from kdbench.errors import ConfigError, ShapeMismatch, TrainError
from kdbench.method import build_method
from kdbench.methods.srrl import srrl_loss
from kdbench.types import MethodSpec


def mean_square(ours, theirs):
    pairs = list(zip(ours.double().flatten().tolist(), theirs.double().flatten().tolist(), strict=True))
    return sum((s - t) ** 2 for s, t in pairs) / len(pairs)


def features(dtype=torch.float32):
    """(connected, teacher's features, answer, teacher's logits)."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator).to(dtype) for shape in ((4, 6), (4, 6), (4, 3), (4, 3))]


def with_head(setting, head):
    return dataclasses.replace(setting, teachers=(dataclasses.replace(setting.teacher, head=head),))


def test_equals_the_formula():
    connected, teacher, answer, logits = features()
    expected = mean_square(connected, teacher) + mean_square(answer, logits)
    assert srrl_loss(connected, teacher, answer, logits).item() == pytest.approx(expected, rel=1e-5)
    assert srrl_loss(teacher, teacher, logits, logits).item() == 0


def test_gradcheck():
    connected, teacher, answer, logits = features(torch.float64)
    leaves = (connected.requires_grad_(), answer.requires_grad_())
    assert torch.autograd.gradcheck(lambda c, a: srrl_loss(c, teacher, a, logits), leaves)


@pytest.mark.parametrize("pair", ["cnn<cnn", "mobile<cnn", "cnn<vit"])
def test_connects_normalises_and_asks_the_teachers_classifier(pair):
    setting, lesson = make(pair)
    method = ready("srrl", setting)
    terms = method(lesson)
    projected = lesson.student.pooled.detach() @ method.connector[0].weight.detach()[:, :, 0, 0].T
    variance, mean = torch.var_mean(projected, 0, unbiased=False)
    connected = (projected - mean) / (variance + 1e-5).sqrt()
    answer = setting.teacher.head(connected).detach()
    expected = mean_square(connected, lesson.teacher.pooled) + mean_square(answer, lesson.teacher.logits)
    assert set(terms) == {"srrl"}
    assert terms["srrl"].item() == pytest.approx(expected, rel=1e-4)


def test_the_teachers_own_features_cost_nothing():
    setting, lesson = make()
    teacher = lesson.teacher
    logits = setting.teacher.head(teacher.pooled).detach()
    perfect = dataclasses.replace(lesson, teachers=(dataclasses.replace(teacher, logits=logits),))
    student = dataclasses.replace(lesson.student, pooled=teacher.pooled)
    method = ready("srrl", dataclasses.replace(setting, student=setting.teacher))
    method.connector = nn.Identity()
    assert method(dataclasses.replace(perfect, student=student))["srrl"].item() == pytest.approx(0, abs=1e-10)


def test_the_head_is_a_frozen_copy():
    setting, lesson = make()
    method = ready("srrl", setting)
    assert {name.split(".")[0] for name, _ in method.named_parameters()} == {"connector"}
    before = method(lesson)["srrl"]
    with torch.no_grad():
        setting.teacher.head.weight.zero_()
        setting.teacher.head.bias.zero_()
    assert torch.equal(method(lesson)["srrl"], before)
    before.backward()
    assert setting.teacher.head.weight.grad is None
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_the_gradient_comes_through_the_head_too():
    setting, lesson = make()
    method = ready("srrl", setting)
    (with_answer,) = torch.autograd.grad(method(lesson)["srrl"], method.connector[1].bias)
    projected = method.connector(lesson.student.pooled[:, :, None, None]).flatten(1)
    alone = F.mse_loss(projected, lesson.teacher.pooled)
    (without,) = torch.autograd.grad(alone, method.connector[1].bias)
    assert not torch.allclose(with_answer, without, rtol=1e-2)


def test_a_head_without_bias_will_do():
    setting, lesson = make()
    assert ready("srrl", with_head(setting, nn.Linear(20, 5, bias=False)))(lesson)["srrl"].isfinite()


def test_a_single_image_is_normalised_by_the_running_statistics():
    setting, lesson = make(samples=1)
    method = ready("srrl", setting)
    connected = lesson.student.pooled.detach() @ method.connector[0].weight.detach()[:, :, 0, 0].T / (1 + 1e-5) ** 0.5
    answer = setting.teacher.head(connected).detach()
    expected = mean_square(connected, lesson.teacher.pooled) + mean_square(answer, lesson.teacher.logits)
    assert method(lesson)["srrl"].item() == pytest.approx(expected, rel=1e-4)


def test_a_teacher_without_a_linear_classifier_is_refused():
    setting, _ = make()
    with pytest.raises(TrainError, match=r"'srrl' .* not a single linear layer; try") as caught:
        ready("srrl", with_head(setting, None))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("which", "tap"), [(0, "pooled"), (2, "logits")])
def test_other_shapes_are_refused(which, tap):
    given = features()
    given[which] = torch.zeros(4, 9)
    with pytest.raises(ShapeMismatch, match=f"'{tap}'"):
        srrl_loss(*given)


def test_defaults_are_those_of_the_literature():
    assert build_method(MethodSpec(name="srrl")).options.weight == 1.0


@pytest.mark.parametrize("wrong", [{"weight": -1}, {"kd_weight": -1}, {"beta": 1}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"option '{next(iter(wrong))}'"):
        build_method(MethodSpec(name="srrl", options=wrong))
