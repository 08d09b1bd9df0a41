"""Distillation in one call: networks and images of one's own, and everything else left as it was."""

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from trials import same_weights, weights

import kdbench
from kdbench.activity import trainers
from kdbench.data.memory import from_arrays, from_torch
from kdbench.data.views import Views
from kdbench.engine import tuning
from kdbench.engine.distill import distill, weights_identity
from kdbench.engine.evaluate import measure, predict
from kdbench.engine.teacher import CachedTeacher, LiveTeacher
from kdbench.errors import ConfigError, DataError, Diverged, KdbenchError, ShapeMismatch, TrainError, UnknownName
from kdbench.model import IMAGENET_MEAN, IMAGENET_STD, build
from kdbench.types import DatasetSpec, ModelChoice, TrainSpec, ViewSpec

SIDE, COUNT, CLASSES = 16, 90, 3
SHORT = TrainSpec(epochs=2, batch_size=16, learning_rate=1e-2)


@pytest.fixture(autouse=True)
def _one_core(monkeypatch):
    """A call uses all cores: here that is one."""
    monkeypatch.setattr(tuning, "usable_cores", lambda: 1)


class Plain(nn.Module):
    """As anybody would write it: two convolutions, a mean, a classifier; knows nothing of kdbench or timm."""

    def __init__(self, width=4, classes=CLASSES, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.norm = nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width)
        self.second, self.drop = nn.Conv2d(width, 2 * width, 3, 2, 1), nn.Dropout(0.1)
        self.classifier = nn.Linear(2 * width, classes)

    def forward(self, pixels):
        out = F.relu(self.norm(self.first(pixels)))
        return self.classifier(self.drop(F.relu(self.second(out)).mean((2, 3))))


class Items:
    """A torch data set of PIL images, as torchvision's are."""

    classes = ("red", "green", "blue")

    def __init__(self, side=20):
        self.side = side

    def __len__(self):
        return COUNT

    def __getitem__(self, number):
        pixels = np.random.default_rng(number).integers(0, 60, (self.side, self.side, 3), dtype=np.uint8)
        pixels[..., number % CLASSES] += 150
        return Image.fromarray(pixels), number % CLASSES


def arrays():
    labels = np.arange(COUNT) % CLASSES
    images = np.random.default_rng(3).integers(0, 60, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[..., label] += 150
    return images, labels


def teacher(width=8, seed=5, **more):
    return Plain(width, seed=seed, **more)


def go(student=None, taught_by=None, data=None, method="kd", **more):
    data = arrays() if data is None else data
    return distill(student or Plain(), taught_by, data, method, **{"train_spec": SHORT, **more})


def curve(result):
    return [entry.model_dump(exclude={"seconds"}) for entry in result.history]


def same(left, right):
    """Whether two results are one and the same, but for the time they took."""
    return same_weights(left.model, right.model) and curve(left) == curve(right) and left.test == right.test


# ---------------------------------------------------------------- what goes in, what comes out


def test_a_student_is_trained_in_place_and_measured():
    student = Plain()
    before = weights(student)
    result = go(student, teacher(), train_spec=TrainSpec(epochs=12, batch_size=16, learning_rate=2e-2))
    assert result.model is student
    assert not student.training
    assert not same_weights(student, before)
    assert result.test.accuracy > 0.8  # the images are as easy as they can be
    assert result.history[-1].train_loss < result.history[0].train_loss
    assert len(result.history) == 12
    assert result.best_epoch in range(12)
    assert result.seconds > 0
    data = from_arrays(*arrays())
    for side, found in (("val", result.val), ("test", result.test)):
        indices = data.splits[side]
        logits = predict(student, data, indices, Views(None, IMAGENET_MEAN, IMAGENET_STD))
        assert found == measure(logits, data.labels[indices], data.classes)
    assert result.val.accuracy == max(entry.val_accuracy for entry in result.history)


@pytest.mark.parametrize("kind", ["arrays", "a data set", "torch"])
def test_images_may_come_as_they_are(kind):
    data = {"arrays": arrays, "a data set": lambda: from_arrays(*arrays()), "torch": Items}[kind]()
    result = go(taught_by=teacher(), data=data, image_size=SIDE)
    assert set(result.test.recall) == ({"red", "green", "blue"} if kind == "torch" else {"0", "1", "2"})
    assert result.spec.dataset.image_size == SIDE
    if kind == "torch":
        assert same(result, go(taught_by=teacher(), data=from_torch(Items(), SIDE)))
    else:
        assert same(result, go(taught_by=teacher(), data=arrays()))


@pytest.mark.parametrize(
    ("taught_by", "method", "count"),
    [
        (None, "ce", 0),
        (None, "dml", 0),
        (teacher, "dkd", 1),
        (lambda: [teacher()], "dkd", 1),
        (lambda: (teacher(), teacher(6, seed=6)), "multi_entropy", 2),
    ],
)
def test_one_teacher_several_or_none(taught_by, method, count):
    result = go(taught_by=taught_by and taught_by(), method=method)
    assert len(result.spec.teachers) == len(result.teacher_outputs) == count
    assert result.spec.method.name == method


def test_the_spec_says_what_was_run():
    views = ViewSpec(pool=2, cutmix=1.0)
    student, one = Plain(), teacher()
    identities = weights_identity(student), weights_identity(one)
    result = go(student, one, options={"temperature": 2}, ground_truth=False, views=views, seed=4, train_spec=SHORT)
    spec = result.spec
    assert (spec.method.ground_truth, spec.method.options) == (False, {"temperature": 2.0, "alpha": 0.9})
    assert (spec.views, spec.train, spec.seed, spec.role) == (views, SHORT, 4, "student")
    assert spec.dataset == from_arrays(*arrays()).spec
    assert (spec.model.weights, spec.teachers[0].model.weights) == identities  # the weights it began with
    assert spec.title == "arrays/Plain/kd (no ground truth) < Plain/seed4"
    # what is asked for is in the id: another student, teacher, seed
    others = [
        go(Plain(seed=1), teacher(), seed=4).spec,
        go(Plain(), teacher(seed=6), seed=4).spec,
        go(Plain(), teacher(), seed=5).spec,
        go(Plain(), teacher(), seed=4).spec,
    ]
    assert len({other.run_id for other in others} | {spec.run_id}) == 5
    assert go(Plain(), teacher(), seed=4).spec.run_id == others[-1].run_id


def test_the_seed_decides_and_nothing_before_it():
    first = go(taught_by=teacher())
    torch.manual_seed(99), torch.randn(5), np.random.seed(1)
    student, one = Plain(), teacher()
    torch.randn(17)
    assert same(first, go(student, one))
    assert not same(first, go(taught_by=teacher(), seed=1))


def test_without_ground_truth_no_label_reaches_the_student():
    images, labels = arrays()
    data = from_arrays(images, labels)
    wrong = labels.copy()
    wrong[data.splits["train"]] = (wrong[data.splits["train"]] + 1) % 3
    sides = np.empty(COUNT, dtype=object)
    for side, indices in data.splits.items():
        sides[indices] = side
    right, other = (from_arrays(images, given, splits=list(sides)) for given in (labels, wrong))
    assert same_weights(*(go(taught_by=teacher(), data=one, ground_truth=False).model for one in (right, other)))
    assert not same_weights(*(go(taught_by=teacher(), data=one).model for one in (right, other)))


def test_teachers_are_heard_in_their_own_normalisation():
    """A network that undoes its normalisation says the same in any."""

    class Undone(nn.Module):
        def __init__(self, mean, std):
            super().__init__()
            self.inner = teacher().eval()
            self.inner.classifier.weight.data *= 30  # as sure of itself as a trained one
            self.mean, self.std = (torch.tensor(value)[:, None, None] for value in (mean, std))

        def forward(self, pixels):
            return self.inner(pixels * self.std + self.mean)

    other = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    alike = go(taught_by=Undone(IMAGENET_MEAN, IMAGENET_STD))
    apart = go(taught_by=Undone(*other), teacher_normalisation=other)
    unlike = go(taught_by=Undone(*other))
    losses = [[entry.train_loss for entry in result.history] for result in (alike, apart, unlike)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0] != pytest.approx(losses[2], rel=1e-3)


# ---------------------------------------------------------------- features, and how teachers are heard


@pytest.mark.parametrize("outputs", ["cached", "live"])
def test_a_feature_method_reads_the_named_taps(monkeypatch, outputs):
    shapes = set()
    kind = CachedTeacher if outputs == "cached" else LiveTeacher
    original = kind.__call__

    def spy(self, batch, epoch):
        said = original(self, batch, epoch)
        shapes.add(tuple(tuple(stage.shape[1:]) for stage in said.stages))
        return said

    monkeypatch.setattr(kind, "__call__", spy)
    result = go(
        taught_by=teacher(), method="fitnets", student_taps=["norm"], teacher_taps=["norm", "second"],
        options={"hint": 1}, teacher_outputs=outputs,
    )  # fmt: skip
    assert result.teacher_outputs == (outputs,)
    assert shapes == {((8, 8, 8), (16, 4, 4))}
    # one tap of the student's meets the deepest of the teacher's
    assert len(result.history) == 2
    found = go(taught_by=teacher(), method="fitnets", teacher_outputs=outputs)
    assert not same_weights(found.model, result.model)


def test_taps_of_another_network_are_refused():
    with pytest.raises(TrainError, match="no module 'layer1' to tap"):
        go(taught_by=teacher(), method="at", student_taps=["layer1"])
    with pytest.raises(TrainError, match="no module 'layer4' to tap"):
        go(taught_by=teacher(), method="at", teacher_taps=["layer4"])


@pytest.mark.parametrize("method", ["kd", "at", "crd"])
def test_a_second_call_replays_what_the_first_one_kept(tmp_path, monkeypatch, method):
    computed, original = [], CachedTeacher._fill
    monkeypatch.setattr(CachedTeacher, "_fill", lambda self, *more: computed.append(more) or original(self, *more))
    first = go(taught_by=teacher(), method=method, cache=tmp_path)
    assert (first.teacher_outputs, len(computed)) == (("cached",), 2)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.npy")}
    assert kept
    again = go(taught_by=teacher(), method=method, cache=str(tmp_path))
    assert len(computed) == 2
    assert same(first, again)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.npy")} == kept
    go(taught_by=teacher(seed=6), method=method, cache=tmp_path)  # another teacher is another entry
    assert len(computed) == 4
    assert same(first, go(taught_by=teacher(), method=method))  # and so is no cache at all


def test_without_a_cache_nothing_is_left_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    go(taught_by=teacher())
    assert list(tmp_path.iterdir()) == []


def test_other_processes_can_see_that_it_trains():
    seen = []
    go(taught_by=teacher(), progress=lambda *_: seen.extend(each.what for each in trainers(others=False)))
    assert set(seen) == {"distill"}
    assert trainers(others=False) == []


@pytest.mark.parametrize("method", ["kd", "at"])
def test_live_teaches_as_cached_does(method):
    """With one batch an epoch both see the same images in the same order."""
    spec = TrainSpec(epochs=2, batch_size=COUNT, learning_rate=1e-2)
    cached, live = (
        go(taught_by=teacher(), method=method, train_spec=spec, teacher_outputs=mode) for mode in ("cached", "live")
    )
    assert (cached.teacher_outputs, live.teacher_outputs) == (("cached",), ("live",))
    assert same_weights(cached.model, live.model)


def test_simkd_ships_a_network_of_its_own():
    torch.manual_seed(0)
    student, taught_by = (build(ModelChoice(name="resnet8_w16"), CLASSES, 32) for _ in range(2))
    images = np.repeat(np.repeat(arrays()[0], 2, axis=1), 2, axis=2)
    result = distill(student, taught_by, (images, arrays()[1]), "simkd", train_spec=SHORT)
    assert result.model is not student
    assert torch.equal(result.model.head.weight, taught_by.fc.weight)
    assert result.model.head is not taught_by.fc
    assert taught_by.fc.weight.requires_grad


# ---------------------------------------------------------------- left as it was


def state_of_the_caller():
    return (
        torch.get_num_threads(),
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        random.getstate(),
        torch.is_grad_enabled(),
    )


def looks(network):
    """All of a network that a call might change, but its weights."""
    return (
        [module.training for module in network.modules()],
        [parameter.requires_grad for parameter in network.parameters()],
        [parameter.grad for parameter in network.parameters()],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()],
        [parameter.device for parameter in network.parameters()],
        [parameter.is_contiguous() for parameter in network.parameters()],
    )


@pytest.mark.parametrize("outputs", ["cached", "live"])
@pytest.mark.parametrize("ending", ["done", "interrupted", "diverged", "refused"])
def test_teachers_and_caller_are_left_as_they_were(outputs, ending):
    one, other = teacher(), teacher(6, seed=6)
    one.train(), other.eval()
    one.second.eval()
    one.norm.weight.requires_grad_(False)
    before = weights(one), weights(other)
    seen = looks(one), looks(other)
    torch.set_num_threads(2), np.random.seed(7), random.seed(7)

    def stop(what, done, total):
        if "Plain/multi_fixed" in what and done == 3:
            raise KeyboardInterrupt

    more, problem = {
        "done": ({}, None),
        "interrupted": ({"progress": stop}, KeyboardInterrupt),
        "diverged": ({"train_spec": TrainSpec(epochs=3, learning_rate=1e12, warmup_epochs=0, batch_size=8)}, Diverged),
        "refused": ({"method": "kd"}, TrainError),
    }[ending]
    student = Plain()
    torch.manual_seed(7)
    caller = state_of_the_caller()
    arguments = {"method": "multi_fixed", "teacher_outputs": outputs, **more}
    if problem is None:
        go(student, [one, other], **arguments)
    else:
        with pytest.raises(problem):
            go(student, [one, other], **arguments)
    assert state_of_the_caller() == caller
    assert (looks(one), looks(other)) == seen
    assert same_weights(one, before[0])
    assert same_weights(other, before[1])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in student.modules())


def test_a_call_goes_on_from_its_checkpoint(tmp_path):
    path, seen = tmp_path / "state.pt", []
    spec = TrainSpec(epochs=4, batch_size=16, learning_rate=1e-2)
    whole = go(taught_by=teacher(), train_spec=spec)

    def stop(what, done, total):
        if "Plain/kd" in what and done == 2 * total // 4 + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(taught_by=teacher(), train_spec=spec, checkpoint=path, progress=stop)
    resumed = go(
        taught_by=teacher(), train_spec=spec, checkpoint=str(path),
        progress=lambda what, done, total: seen.append((what, done / total)),
    )  # fmt: skip
    assert next(done for what, done in seen if "Plain/kd" in what) == 0.5
    assert same(whole, resumed)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("data", "problem", "message"),
    [
        (lambda x, y: (x.astype(np.float32) / 255, y), DataError, r"images are float32 of shape .*uint8 is needed"),
        (lambda x, y: (x.transpose(0, 3, 1, 2), y), DataError, r"shape \(90, 3, 16, 16\)"),
        (lambda x, y: (x[:, :12], y), DataError, "square"),
        (lambda x, y: (x, y[:-1]), DataError, "90 integers are needed"),
        (lambda x, y: (x, y / 1.0), DataError, "labels are float64"),
        (lambda x, y: (x, y - 1), DataError, "labels go from -1 to 1; 0 to 1 is needed"),
        (lambda x, y: (x, y * 0), DataError, "labels go from 0 to 0; 0 to 1 is needed"),
        (lambda x, y: (x, y + 1), TrainError, "gives 3 logits, and the data set has 4 classes; .*classes=..."),
        (lambda x, y: (x[:4, :8, :8], y[:4]), ConfigError, "image_size"),
        (lambda x, y: 7, ConfigError, r"data is a int; give a kdbench Dataset, \(images, labels\), or a torch data"),
        (lambda x, y: "mixed", ConfigError, "data is a str"),
        (lambda x, y: {"images": x, "labels": y}, ConfigError, "data is a dict"),
        (lambda x, y: x, ConfigError, "data is a ndarray"),
        (lambda x, y: iter([(x[0], 0)]), ConfigError, "data is a list_iterator"),
        (lambda x, y: (x, y, y), DataError, r"item 0 is no \(image, label\)"),
        (lambda x, y: [(image, [0, 1]) for image in x], DataError, "item 0 is no .*whole number"),
        (lambda x, y: [(image / 255, 0) for image in x], DataError, "item 0 is float64 .*before ToTensor"),
    ],
)
def test_data_that_cannot_be_used_are_refused(data, problem, message):
    with pytest.raises(problem, match=message):
        go(taught_by=teacher(), data=data(*arrays()), image_size=SIDE)


@pytest.mark.parametrize(
    ("changes", "problem", "message"),
    [
        ({"method": "kdd"}, UnknownName, "unknown method 'kdd'; did you mean"),
        ({"options": {"temprature": 2}}, ConfigError, "option 'temprature': unknown; known: temperature, alpha"),
        ({"options": {"temperature": 0}}, ConfigError, "temperature"),
        ({"method": "fitnets", "ground_truth": False}, ConfigError, "kd_weight"),
        ({"method": "multi_fixed"}, TrainError, "takes 2 or more teachers, 1 given"),
        ({"method": "ce"}, TrainError, "takes no teacher, 1 given"),
        ({"taught_by": None}, TrainError, "takes 1 teacher, 0 given"),
        ({"taught_by": lambda: teacher(classes=7)}, ShapeMismatch, r"'logits': student .* 3\), teacher gives .* 7\)"),
        ({"student": lambda: Plain(classes=5)}, TrainError, "gives 5 logits, and the data set has 3 classes"),
        ({"student": lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3))}, TrainError, "does not take images"),
        ({"views": "strong"}, ConfigError, "views is a str; give a ViewSpec"),
        ({"train_spec": TrainSpec(freeze=9)}, TrainError, "freeze at most"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, problem, message):
    made = {key: value() if callable(value) else value for key, value in changes.items()}
    with pytest.raises(problem, match=message):
        go(**{"taught_by": teacher(), **made})
    assert issubclass(problem, KdbenchError)


@pytest.mark.parametrize("share", [lambda one: one, lambda one: nn.Sequential(one), lambda one: shared(one)])
def test_a_teacher_that_is_the_student_is_refused(share):
    student = Plain()
    with pytest.raises(ConfigError, match="one network, or share layers; give the teacher as a deep copy"):
        go(student, share(student))
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert go(student, copy.deepcopy(student)).model is student


def shared(network):
    other = teacher(4)
    other.first = network.first
    return other


# ---------------------------------------------------------------- identity of weights


def test_identity_is_of_structure_weights_and_buffers():
    base = Plain()
    seen = {weights_identity(base)}
    assert weights_identity(Plain()) in seen
    assert weights_identity(Plain().eval()) in seen
    with torch.no_grad():
        other = Plain()
        other.classifier.bias[0] += 1e-6
        seen.add(weights_identity(other))
    other = Plain()
    other.norm.running_mean += 1
    seen.add(weights_identity(other))
    other = Plain()
    other.drop = nn.Dropout(0.2)
    seen.add(weights_identity(other))
    seen.add(weights_identity(Plain(seed=1)))
    seen.add(weights_identity(Plain().to(torch.bfloat16)))
    assert len(seen) == 6
    assert weights_identity(Plain().to(memory_format=torch.channels_last)) in seen


def test_the_names_are_there_for_everyone():
    assert kdbench.distill is distill
    assert kdbench.from_arrays is from_arrays
    assert isinstance(from_arrays(*arrays()).spec, DatasetSpec)
