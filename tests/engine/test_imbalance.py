"""Classes of unequal size, mixed images, frozen layers: what becomes of the labels, and what is left alone."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from trials import Scripted, curve, go, make_model, make_noisy_model, make_spec, same_weights, weights

from kdbench.data.views import Mix, Views
from kdbench.engine import train as engine
from kdbench.engine.train import HardLabels, epoch_order, freeze
from kdbench.errors import TrainError
from kdbench.method import Method
from kdbench.model import IMAGENET_MEAN, IMAGENET_STD, build
from kdbench.seeding import derive
from kdbench.types import MethodSpec, ModelChoice, TrainSpec, ViewSpec

COUNTS = (48, 16, 6)  # of the 70 training images; the last two of the five classes have none
CPU = torch.device("cpu")


@pytest.fixture
def skewed(tiny_data):
    """The drawn images, of which most are said to be of one class."""
    labels = tiny_data.labels.copy()
    labels[tiny_data.splits["train"]] = np.repeat(np.arange(3), COUNTS)[np.random.default_rng(0).permutation(70)]
    return dataclasses.replace(tiny_data, labels=labels)


class Listening(Method):
    """Writes down what it is told."""

    name, paper, summary, teachers = "listening", "-", "for tests", "none"

    def __init__(self):
        super().__init__(MethodSpec(name="listening"))
        self.lessons = []

    def forward(self, lesson):
        self.lessons.append(lesson)
        return {}


def cross_entropies(logits):
    """(N, K): what each label would cost."""
    return -logits.double().log_softmax(1)


# ---------------------------------------------------------------- sampling


def test_uniform_sampling_shows_every_image_once(skewed):
    orders = [epoch_order(make_spec(skewed, seed=seed), skewed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert sorted(order) == list(range(70))
    assert len({tuple(order) for order in orders}) == 4
    np.testing.assert_array_equal(orders[1], np.random.default_rng(derive("order", 0, 1)).permutation(70))


def test_balanced_sampling_shows_every_class_equally_often(skewed):
    spec = make_spec(skewed, sampling="balanced")
    orders = np.stack([epoch_order(spec, skewed, epoch) for epoch in range(200)])
    assert orders.shape == (200, 70)
    labels = skewed.labels[skewed.splits["train"]]
    shown = np.bincount(labels[orders.ravel()], minlength=5) / orders.size
    np.testing.assert_allclose(shown, [1 / 3, 1 / 3, 1 / 3, 0, 0], atol=0.015)  # standard error 0.004
    for label in range(3):  # and within a class every image
        inside = np.bincount(orders.ravel(), minlength=70)[labels == label]
        expected = orders.size / 3 / COUNTS[label]
        assert np.abs(inside - expected).max() < 5 * np.sqrt(expected)


def test_a_balanced_order_is_a_function_of_seed_and_epoch(skewed):
    spec = make_spec(skewed, sampling="balanced", seed=4)
    np.testing.assert_array_equal(epoch_order(spec, skewed, 3), epoch_order(spec, skewed, 3))
    assert (epoch_order(spec, skewed, 3) != epoch_order(spec, skewed, 2)).mean() > 0.9
    assert (epoch_order(spec, skewed, 3) != epoch_order(make_spec(skewed, sampling="balanced"), skewed, 3)).mean() > 0.9


def test_the_loop_shows_the_balanced_order(skewed):
    spec, method = make_spec(skewed, sampling="balanced", epochs=2), Listening()
    go(skewed, spec, make_model(), method)
    for epoch in range(2):
        shown = [lesson for lesson in method.lessons if lesson.epoch == epoch]
        order = epoch_order(spec, skewed, epoch)
        for step, lesson in enumerate(shown):
            positions = np.sort(order[16 * step : 16 * step + 16])
            np.testing.assert_array_equal(lesson.positions.numpy(), positions)
            np.testing.assert_array_equal(lesson.targets.numpy(), skewed.labels[skewed.splits["train"][positions]])


@pytest.mark.parametrize(
    "settings",
    [
        {"sampling": "balanced"},
        {"class_weights": "balanced", "views": ViewSpec(mixup=0.4, cutmix=1.0)},
        {"sampling": "balanced", "class_weights": "balanced", "freeze": 2, "ema_decay": 0.8},
    ],
    ids=str,
)
def test_resumed_run_ends_as_the_undisturbed_one(skewed, tmp_path, settings):
    spec = make_spec(skewed, **settings)
    whole = go(skewed, spec, make_noisy_model())

    def stop(what, done, total):
        if done == 4 + 2:  # in the second of three epochs
            raise KeyboardInterrupt

    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        go(skewed, spec, make_noisy_model(), checkpoint=path, progress=stop)
    resumed = go(skewed, spec, make_noisy_model(seed=9), checkpoint=path)
    assert same_weights(whole.model, resumed.model)
    assert curve(whole) == curve(resumed)


# ---------------------------------------------------------------- the hard labels


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_balanced_weights_in_closed_form(skewed, smoothing):
    logits = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2] * 4)
    hard = HardLabels(skewed, TrainSpec(class_weights="balanced", label_smoothing=smoothing), CPU)
    # 1 / frequency, so that the mean over the training images is 1; what never occurs weighs nothing
    weight = torch.tensor([70 / 3 / count for count in COUNTS] + [0, 0], dtype=torch.float64)
    costs = cross_entropies(logits)
    own = costs[torch.arange(12), targets] * weight[targets]
    expected = ((1 - smoothing) * own + smoothing * (costs * weight).mean(1)).sum() / weight[targets].sum()
    assert hard(logits, targets, None).item() == pytest.approx(expected.item(), rel=1e-5)
    train = torch.from_numpy(skewed.labels[skewed.splits["train"]])
    assert weight[train].mean().item() == pytest.approx(1)


def test_weights_are_of_the_training_images_alone(skewed):
    labels = skewed.labels.copy()
    for side in ("val", "test"):
        labels[skewed.splits[side]] = 4
    other = dataclasses.replace(skewed, labels=labels)
    logits, targets = torch.randn(6, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    settings = TrainSpec(class_weights="balanced")
    ours, theirs = (HardLabels(data, settings, CPU)(logits, targets, None) for data in (skewed, other))
    assert torch.equal(ours, theirs)


def test_without_weights_the_classes_count_as_they_come(skewed):
    logits, targets = torch.randn(9, 5), torch.tensor([0] * 7 + [1, 2])
    expected = cross_entropies(logits)[torch.arange(9), targets].mean()
    found = HardLabels(skewed, TrainSpec(), CPU)(logits, targets, None)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1}, {"class_weights": "balanced"}], ids=str)
def test_labels_of_a_mixed_image_share_it_as_its_pixels_do(skewed, settings):
    train = skewed.splits["train"]
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    chosen, partners = train[:8], train[[5, 1, 60, 61, 62, 63, 64, 7]]
    share = np.asarray([0.0, 1.0, 0.25, 0.5, 0.9, 0.1, 0.7, 1.0], dtype=np.float32)
    mix = Mix(partners, share, np.zeros((8, 4), dtype=np.int64), np.ones(8, dtype=bool))
    targets = torch.from_numpy(skewed.labels[chosen])
    weight = torch.ones(5, dtype=torch.float64)
    if "class_weights" in settings:
        weight = torch.tensor([70 / 3 / count for count in COUNTS] + [0, 0], dtype=torch.float64)
    smoothing, costs = settings.get("label_smoothing", 0.0), cross_entropies(logits)
    loss = weighed = 0.0
    for row in range(8):
        for label, part in ((targets[row], share[row]), (skewed.labels[partners[row]], 1 - share[row])):
            hard = (1 - smoothing) * costs[row, label] * weight[label] + smoothing * (costs[row] * weight).mean()
            loss += float(part) * hard.item()
            weighed += float(part) * weight[label].item()
    found = HardLabels(skewed, TrainSpec(**settings), CPU)(logits, targets, mix)
    assert found.item() == pytest.approx(loss / weighed, rel=1e-5)
    alone = Mix(train[:8], np.ones(8, dtype=np.float32), mix.boxes, ~mix.blended)
    hard = HardLabels(skewed, TrainSpec(**settings), CPU)
    assert hard(logits, targets, alone).item() == pytest.approx(hard(logits, targets, None).item(), rel=1e-6)


@pytest.mark.parametrize("views", [ViewSpec(cutmix=1.0), ViewSpec(mixup=1.0, mixed_share=0.5)], ids=str)
def test_the_loop_shares_out_the_labels_of_what_it_shows(tiny_data, views):
    spec = make_spec(tiny_data, epochs=1, batch_size=70, views=views)
    model = make_model()
    train = tiny_data.splits["train"]
    show = Views(views, IMAGENET_MEAN, IMAGENET_STD)
    mix = show.mix(tiny_data, train, 0)
    costs = cross_entropies(copy.deepcopy(model)(show.batch(tiny_data, train, 0)))
    rows, share = torch.arange(70), torch.from_numpy(mix.share)
    labels = torch.from_numpy(tiny_data.labels)
    own, other = costs[rows, labels[train]], costs[rows, labels[mix.partners]]
    expected = (share * own + (1 - share) * other).mean()
    assert go(tiny_data, spec, model).history[0].train_loss == pytest.approx(expected.item(), rel=1e-5)
    assert expected.item() != pytest.approx(own.mean().item(), rel=1e-3)


def test_a_method_is_told_the_label_of_the_larger_part(tiny_data):
    spec, method = make_spec(tiny_data, epochs=1, batch_size=70, views=ViewSpec(cutmix=1.0)), Listening()
    go(tiny_data, spec, make_model(), method)
    (lesson,) = method.lessons
    train = tiny_data.splits["train"]
    mix = Views(spec.views, IMAGENET_MEAN, IMAGENET_STD).mix(tiny_data, train, 0)
    expected = np.where(mix.share >= 0.5, tiny_data.labels[train], tiny_data.labels[mix.partners])
    assert (expected != tiny_data.labels[train]).any()
    np.testing.assert_array_equal(lesson.targets.numpy(), expected)


def test_without_ground_truth_a_method_is_told_what_its_teachers_say(tiny_data):
    method = Listening()
    method.teachers = "one"
    teacher = Scripted(tiny_data)
    soft = make_spec(tiny_data, {"name": "kd", "ground_truth": False}, epochs=1, batch_size=70)

    def term(lesson):
        method.lessons.append(lesson)
        return {"term": lesson.student.logits.square().mean()}

    method.forward = term
    go(tiny_data, soft, make_model(), method, teachers=[teacher])
    np.testing.assert_array_equal(method.lessons[0].targets.numpy(), teacher.rows(0).argmax(1))


# ---------------------------------------------------------------- frozen layers

STEM = {"conv1", "bn1"}


def moved(model, before):
    """The parts (by the first word of their names) of a model whose parameters or statistics are others than before."""
    after = model.state_dict()
    return {key.split(".")[0] for key in after if not torch.equal(after[key], before[key])}


@pytest.mark.parametrize(
    ("groups", "learning"),
    [
        (0, {*STEM, "layer1", "layer2", "layer3", "fc"}),
        (1, {"layer1", "layer2", "layer3", "fc"}),
        (3, {"layer3", "fc"}),
        (4, {"fc"}),
        (-1, {"fc"}),
    ],
)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_frozen_stages_keep_weights_and_statistics(tiny_data, groups, learning, optimizer):
    model = make_model()
    before = weights(model)
    assert any("running_mean" in key for key in before)
    trained = go(tiny_data, make_spec(tiny_data, epochs=1, freeze=groups, optimizer=optimizer), model)
    assert moved(trained.model, before) == learning


def test_frozen_layers_are_in_evaluation_mode_in_training_too(tiny_data):
    model, seen = make_model(), {}
    for name in ("bn1", "layer2.0.bn1"):
        modes = seen.setdefault(name, set())
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, modes=modes: modes.add((model.training, module.training))
        )
    go(tiny_data, make_spec(tiny_data, epochs=2, freeze=1), model)
    assert seen == {"bn1": {(True, False), (False, False)}, "layer2.0.bn1": {(True, True), (False, False)}}


@pytest.mark.parametrize("groups", [1, 3, -1])
def test_frozen_layers_of_a_vit(tiny_data, groups):
    torch.manual_seed(0)
    model = build(ModelChoice(name="vit_micro"), 5, 32)
    before = weights(model)
    frozen = freeze(model, groups)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    stem = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert stem <= set(before) - learning
    blocks = {name.split(".")[1] for name in learning if name.startswith("blocks.")}
    assert blocks == {1: set("012345"), 3: set("2345"), -1: set()}[groups]
    assert {name for name in learning if not name.startswith("blocks.")} == (
        {"head.weight", "head.bias"} | ({"norm.weight", "norm.bias"} if groups > 0 else set())
    )
    assert model.patch_embed.proj in frozen
    assert (model.blocks[0].norm1 in frozen) == (groups != 1)
    trained = go(tiny_data, make_spec(tiny_data, epochs=1, freeze=groups), model)
    after = trained.model.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} <= learning
    assert {"head.weight"} <= {name for name in after if not torch.equal(after[name], before[name])}


@pytest.mark.parametrize(
    ("groups", "learning"), [(1, {"1", "5"}), (2, {"5"}), (-1, {"5"})]
)  # of the children without parameters nothing is to be frozen
def test_frozen_layers_of_ones_own_network(tiny_data, groups, learning):
    model = make_noisy_model()
    before = weights(model)
    trained = go(tiny_data, make_spec(tiny_data, epochs=1, freeze=groups), model)
    assert moved(trained.model, before) == learning


@pytest.mark.parametrize(
    ("make", "groups", "most"),
    [(make_model, 5, 4), (make_noisy_model, 3, 2), (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), 1, 0)],
)
def test_more_layer_groups_than_there_are_cannot_be_frozen(make, groups, most):
    model = make()
    with pytest.raises(TrainError, match=rf"freeze {groups}: .* freeze at most {most}"):
        freeze(model, groups)
    assert all(parameter.requires_grad for parameter in model.parameters())


# ---------------------------------------------------------------- a method's own parameters


class Owning(Method):
    """Has layers of its own, and may share one with the student."""

    name, paper, summary, teachers = "owning", "-", "for tests", "none"

    def __init__(self):
        super().__init__(MethodSpec(name="owning"))
        self.layers = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Conv1d(1, 1, 1))
        self.scale = nn.Parameter(torch.ones(()))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.shared = None

    def forward(self, lesson):
        return {"term": lesson.student.logits.mean()}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_norms_and_biases_of_a_method_are_not_decayed(optimizer):
    model, method = make_noisy_model(), Owning()
    method.shared = model[-1]
    built = engine._optimizer(model, method, TrainSpec(optimizer=optimizer, weight_decay=0.3))
    decay = {id(parameter): group["weight_decay"] for group in built.param_groups for parameter in group["params"]}
    given = [parameter for group in built.param_groups for parameter in group["params"]]
    assert len(given) == len(decay)  # nothing twice, though a layer is the student's and the method's
    learning = [p for owner in (model, method) for p in owner.parameters() if p.requires_grad]
    assert set(decay) == {id(parameter) for parameter in learning}
    for parameter in learning:
        assert decay[id(parameter)] == (0.3 if parameter.ndim >= 2 else 0.0)
    assert id(method.frozen.weight) not in decay
