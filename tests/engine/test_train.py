"""The training loop: reproducible to the bit, equal to a literal loop, honest about what it keeps."""

import copy
import dataclasses
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from trials import BATCH, curve, go, make_model, make_noisy_model, make_spec, same_weights, weights
from trials import Scripted as Teacher

from kdbench.data.views import Views
from kdbench.engine import train as engine
from kdbench.engine.taps import Watched
from kdbench.engine.teacher import CachedTeacher, LiveTeacher, TeacherNetwork
from kdbench.errors import Diverged, TrainError
from kdbench.method import Method, build_method
from kdbench.model import IMAGENET_MEAN, IMAGENET_STD, build
from kdbench.seeding import derive
from kdbench.types import MethodSpec, Metrics, ModelChoice, TrainSpec

STEPS = 4  # of 16 images among the 70 for training
KD = {"name": "kd"}
SOFT = {"name": "kd", "ground_truth": False}


class Scripted(Method):
    """Gives the terms a function makes of (call, student logits)."""

    name, paper, summary, teachers = "scripted", "-", "for tests", "none"

    def __init__(self, term):
        super().__init__(MethodSpec(name="scripted"))
        self.term, self.calls = term, 0

    def forward(self, lesson):
        self.calls += 1
        return {"term": self.term(self.calls, lesson.student.logits)}


class Weighted(Method):
    """Has a parameter of its own."""

    name, paper, summary = "weighted", "-", "for tests"

    def __init__(self):
        super().__init__(MethodSpec(name="weighted"))
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, lesson):
        return {"term": F.mse_loss(lesson.student.logits * self.scale, lesson.teacher.logits)}


@pytest.fixture
def losses(monkeypatch):
    """The loss of every step, as the loop computes it."""
    seen, original = [], engine._loss

    def spy(*arguments):
        loss = original(*arguments)
        seen.append(loss.item())
        return loss

    monkeypatch.setattr(engine, "_loss", spy)
    return seen


# ---------------------------------------------------------------- the same again


@pytest.mark.parametrize("method", ["ce", KD, SOFT], ids=str)
def test_twice_is_the_same(tiny_data, method):
    spec = make_spec(tiny_data, method, ema_decay=0.9)
    first = go(tiny_data, spec, make_noisy_model())
    torch.randn(17)  # what was drawn before must not matter
    second = go(tiny_data, spec, make_noisy_model())
    assert same_weights(first.model, second.model)
    assert curve(first) == curve(second)
    other = go(tiny_data, make_spec(tiny_data, method, seed=1, ema_decay=0.9), make_noisy_model())
    assert not same_weights(first.model, other.model)


def test_model_has_learnt_and_comes_back_in_eval_mode(tiny_data):
    trained = go(tiny_data, make_spec(tiny_data, epochs=15), make_model())
    assert not trained.model.training
    assert trained.history[-1].train_loss < 0.6 * trained.history[0].train_loss
    assert trained.history[trained.best_epoch].val_accuracy >= 0.5
    assert [entry.epoch for entry in trained.history] == list(range(15))


def test_random_state_of_the_caller_is_untouched(tiny_data):
    model = make_noisy_model()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    go(tiny_data, make_spec(tiny_data, epochs=1), model)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


# ---------------------------------------------------------------- interrupted and resumed

SETTINGS = {
    "plain": {},
    "ema": {"ema_decay": 0.8},
    "clip": {"clip_norm": 0.5},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05},
    "all": {"ema_decay": 0.8, "clip_norm": 0.5, "optimizer": "sgd", "learning_rate": 0.05},
}


def interrupt_at(when):
    def progress(what, done, total):
        if done == when:
            raise KeyboardInterrupt

    return progress


def interrupted(data, spec, path, build_model, method=lambda: None, when=2 * STEPS + 2):
    with pytest.raises(KeyboardInterrupt):
        go(data, spec, build_model(), method(), checkpoint=path, progress=interrupt_at(when))
    assert path.exists()


@pytest.mark.parametrize("method", ["ce", KD], ids=str)
@pytest.mark.parametrize(
    ("build_model", "settings"),
    [*((make_noisy_model, name) for name in SETTINGS), (make_model, "plain"), (make_model, "all")],
)
def test_resumed_run_ends_as_the_undisturbed_one(tiny_data, tmp_path, method, settings, build_model):
    spec = make_spec(tiny_data, method, epochs=4, **SETTINGS[settings])
    whole = go(tiny_data, spec, build_model())
    path = tmp_path / "run.pt"
    interrupted(tiny_data, spec, path, build_model)
    done = []
    # another initialisation: everything has to come from the checkpoint
    resumed = go(
        tiny_data,
        spec,
        build_model(seed=9),
        checkpoint=path,
        progress=lambda what, now, total: done.append((now, total)),
    )
    assert done[0] == (2 * STEPS, 4 * STEPS)  # the two whole epochs are not done again
    assert same_weights(whole.model, resumed.model)
    assert curve(whole) == curve(resumed)
    assert whole.best_epoch == resumed.best_epoch


def test_best_weights_survive_a_resume(tiny_data, tmp_path, monkeypatch):
    """The best epoch lies before the interrupt and nothing after it is better."""
    script_metrics(monkeypatch, [(0.9, 1.0), (0.2, 1.0), (0.3, 1.0), (0.1, 1.0)])
    spec = make_spec(tiny_data, epochs=4)
    whole = go(tiny_data, spec, make_model())
    script_metrics(monkeypatch, [(0.9, 1.0), (0.2, 1.0), (0.3, 1.0), (0.1, 1.0)])
    path = tmp_path / "run.pt"
    interrupted(tiny_data, spec, path, make_model)
    resumed = go(tiny_data, spec, make_model(), checkpoint=path)
    assert whole.best_epoch == resumed.best_epoch == 0
    assert same_weights(whole.model, resumed.model)


def test_parameters_of_the_method_are_trained_and_resumed(tiny_data, tmp_path):
    spec = make_spec(tiny_data)
    methods = [Weighted(), Weighted(), Weighted()]
    whole = go(tiny_data, spec, make_model(), methods[0])
    assert not torch.equal(methods[0].scale, torch.ones(5))
    path = tmp_path / "run.pt"
    interrupted(tiny_data, spec, path, make_model, lambda: methods[1])
    resumed = go(tiny_data, spec, make_model(), methods[2], checkpoint=path)
    assert torch.equal(methods[0].scale, methods[2].scale)
    assert same_weights(whole.model, resumed.model)


METHODS = {
    "simkd": {},
    "dml": {},
    "crd": {},
    "multi_fixed": {},
    "multi_gated": {},
    "takd": {},
    "ctkd": {},
    "vid": {},
    "ab": {},
    "fitnets": {"two_stage": True},
}


def networks(data, method, spec, folder=None, count=None):
    """Teachers of real networks: cached in a folder, or live."""
    views = Views(spec.views, IMAGENET_MEAN, IMAGENET_STD)
    many = {"none": 0, "one": 1, "many": 2}[method.teachers] if count is None else count
    known = [TeacherNetwork(make_model(30 + number), f"teacher {number}", data, views) for number in range(many)]
    needs = method.reads_of_teachers()
    if folder is None:
        return [LiveTeacher(network, needs, views) for network in known]
    return [CachedTeacher(network, needs, folder, passes=spec.train.epochs) for network in known]


@pytest.mark.parametrize("name", METHODS)
def test_a_resumed_run_of_any_kind_of_method_ends_as_the_undisturbed_one(tiny_data, tmp_path, name):
    spec = make_spec(tiny_data, {"name": name, "options": METHODS[name]}, epochs=4)

    def trained(seed, **more):
        method = build_method(spec.method)
        teachers = networks(tiny_data, method, spec, tmp_path)
        return method, go(tiny_data, spec, make_model(seed), method, teachers=teachers, **more)

    method, whole = trained(0)
    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(0, checkpoint=path, progress=interrupt_at(2 * STEPS + 2))
    assert path.exists()
    again, resumed = trained(9, checkpoint=path)
    assert same_weights(whole.model, resumed.model)
    assert curve(whole) == curve(resumed)
    assert same_weights(method, again)


def test_interrupt_in_the_first_epoch_leaves_nothing(tiny_data, tmp_path):
    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        go(tiny_data, make_spec(tiny_data), make_model(), checkpoint=path, progress=interrupt_at(2))
    assert not path.exists()


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "another run", "no keys"])
def test_checkpoint_that_cannot_be_used_starts_over(tiny_data, tmp_path, caplog, damage):
    spec = make_spec(tiny_data)
    whole = go(tiny_data, spec, make_model())
    path = tmp_path / "run.pt"
    interrupted(tiny_data, make_spec(tiny_data, seed=1) if damage == "another run" else spec, path, make_model)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "noise":
        path.write_bytes(b"\x00\x01 not a checkpoint" * 100)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "no keys":
        torch.save({"weights": torch.zeros(3)}, path)
    again = go(tiny_data, spec, make_model(), checkpoint=path)
    assert "starts over" in caplog.text
    assert path.name in caplog.text
    assert same_weights(whole.model, again.model)
    assert curve(whole) == curve(again)


# ---------------------------------------------------------------- learning rate, averaging, clipping, smoothing


@pytest.mark.parametrize(
    ("settings", "step", "expected"),
    [
        ({}, 0, 1 / 20),
        ({}, 9, 10 / 20),
        ({}, 18, 19 / 20),
        ({}, 19, 1.0),
        ({}, 34, 0.5 * (1 + math.cos(math.pi * 15 / 31))),
        ({}, 29, 0.5 * (1 + math.cos(math.pi * 10 / 31))),
        ({}, 49, 0.5 * (1 + math.cos(math.pi * 30 / 31))),
        ({"warmup_epochs": 0}, 0, 0.5 * (1 + math.cos(math.pi / 51))),
        ({"warmup_epochs": 0.5}, 2, 3 / 5),
        ({"warmup_epochs": 0.5}, 4, 1.0),
        ({"warmup_epochs": 5}, 48, 49 / 50),
        ({"warmup_epochs": 5}, 49, 1.0),
        ({"warmup_epochs": 50}, 49, 50 / 500),
        ({"schedule": "constant"}, 9, 10 / 20),
        ({"schedule": "constant"}, 20, 1.0),
        ({"schedule": "constant"}, 49, 1.0),
        ({"schedule": "constant", "warmup_epochs": 0}, 0, 1.0),
    ],
)
def test_learning_rate_in_closed_form(settings, step, expected):
    settings = TrainSpec(**{"epochs": 5, "warmup_epochs": 2, "learning_rate": 0.3, **settings})
    assert engine._learning_rate(settings, step, 10) == pytest.approx(0.3 * expected, abs=1e-12)


def test_history_shows_the_last_rate_of_each_epoch(tiny_data):
    trained = go(tiny_data, make_spec(tiny_data, epochs=3, warmup_epochs=1, learning_rate=0.01), make_model())
    # four steps an epoch: the end of the warm-up, then steps 4 and 8 of a half cosine that would end at step 9
    expected = [0.01, *(0.005 * (1 + math.cos(math.pi * done / 9)) for done in (4, 8))]
    assert [entry.learning_rate for entry in trained.history] == pytest.approx(expected, abs=1e-12)


def test_average_is_the_exponential_one_of_the_weights_after_each_step(tiny_data):
    decay, snapshots = 0.7, []
    model = make_model()

    def progress(what, done, total):
        if done:
            snapshots.append(weights(model))

    spec = make_spec(tiny_data, epochs=1, ema_decay=decay, warmup_epochs=0)
    trained = go(tiny_data, spec, model, progress=progress)
    assert len(snapshots) == STEPS
    for key, value in trained.model.state_dict().items():
        if not value.is_floating_point():
            continue
        expected = snapshots[0][key].double()
        for snapshot in snapshots[1:]:
            expected = decay * expected + (1 - decay) * snapshot[key].double()
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    assert not same_weights(trained.model, snapshots[-1])


def test_clipping_bounds_the_step(tiny_data):
    def moved(**settings):
        spec = make_spec(
            tiny_data, epochs=1, batch_size=70, optimizer="sgd", momentum=0.0, learning_rate=1.0, weight_decay=0.0,
            warmup_epochs=0, schedule="constant", **settings,
        )  # fmt: skip
        model = make_model()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        after = go(tiny_data, spec, model).model.parameters()
        return math.sqrt(sum(((a - b) ** 2).sum().item() for a, b in zip(after, before, strict=True)))

    free = moved()
    assert moved(clip_norm=free / 10) == pytest.approx(free / 10, rel=1e-3)
    assert moved(clip_norm=free * 10) == pytest.approx(free, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_label_smoothing(tiny_data, smoothing):
    spec = make_spec(tiny_data, epochs=1, batch_size=70, label_smoothing=smoothing)
    model = make_model()
    train = tiny_data.splits["train"]
    pixels = Views(spec.views, IMAGENET_MEAN, IMAGENET_STD)(tiny_data.images(train), train, 0)
    log_probability = copy.deepcopy(model)(pixels).log_softmax(1)
    targets = torch.from_numpy(tiny_data.labels[train])
    hard = -log_probability[torch.arange(70), targets].mean()
    expected = (1 - smoothing) * hard - smoothing * log_probability.mean()
    assert go(tiny_data, spec, model).history[0].train_loss == pytest.approx(expected.item(), rel=1e-5)


def test_bf16_smoke(tiny_data):
    full = go(tiny_data, make_spec(tiny_data, KD), make_model())
    half = go(tiny_data, make_spec(tiny_data, KD, precision="bf16"), make_model())
    assert all(p.dtype == torch.float32 for p in half.model.parameters())
    assert not same_weights(full.model, half.model)  # it really was another precision
    assert half.history[0].train_loss == pytest.approx(full.history[0].train_loss, rel=0.05)


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite_stops_the_run(tiny_data, value):
    spec = make_spec(tiny_data)
    method = Scripted(lambda call, student: student.sum() * (value if call == STEPS + 3 else 0.0))
    with pytest.raises(Diverged, match=f"step {STEPS + 2}") as caught:
        go(tiny_data, spec, make_model(), method)
    assert (caught.value.step, caught.value.run_id) == (STEPS + 2, spec.run_id)


def test_far_too_high_a_learning_rate_diverges(tiny_data):
    with pytest.raises(Diverged, match="lower learning rate"):
        go(tiny_data, make_spec(tiny_data, epochs=20, learning_rate=1e6, warmup_epochs=0), make_model())


def test_a_diverged_run_leaves_no_hooks_behind(tiny_data):
    method = Scripted(lambda call, student: student.sum() * float("nan"))
    method.needs = ("logits", "stages")
    model = make_model()
    with pytest.raises(Diverged):
        go(tiny_data, make_spec(tiny_data), model, method)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("method", "count"), [("ce", 1), ("dml", 1), (KD, 0), (KD, 2), ("multi_fixed", 1), ("multi_fixed", 0)], ids=str
)
def test_wrong_number_of_teachers(tiny_data, method, count):
    with pytest.raises(TrainError, match=f"{count} given"):
        go(tiny_data, make_spec(tiny_data, method), make_model(), teachers=[Teacher(tiny_data)] * count)


def test_one_teacher_is_not_many(tiny_data):
    method = Scripted(lambda call, student: student.sum() * 0.0)
    method.teachers = "many"
    spec = make_spec(tiny_data, epochs=1)
    with pytest.raises(TrainError, match="'scripted' takes 2 or more teachers, 1 given"):
        go(tiny_data, spec, make_model(), method, teachers=[Teacher(tiny_data)])
    go(tiny_data, spec, make_model(), method, teachers=[Teacher(tiny_data)] * 2)
    assert method.calls == STEPS


# ---------------------------------------------------------------- selection


def script_metrics(monkeypatch, accuracy_and_loss):
    script = iter(accuracy_and_loss)

    def scripted(logits, labels, classes):
        accuracy, loss = next(script)
        return Metrics(accuracy=accuracy, macro_f1=accuracy, loss=loss, recall={}, count=len(labels))

    monkeypatch.setattr(engine, "measure", scripted)


@pytest.mark.parametrize("ema", [None, 0.5])
@pytest.mark.parametrize(
    ("script", "best"),
    [
        ([(0.5, 1.0), (0.8, 2.0), (0.7, 0.1)], 1),  # accuracy first
        ([(0.5, 1.0), (0.5, 0.9), (0.5, 0.95)], 1),  # then the loss
        ([(0.5, 1.0), (0.5, 1.0), (0.5, 1.0)], 0),  # then the earlier one
        ([(0.0, 9.0), (0.0, 8.0), (0.0, 7.0)], 2),
        ([(0.9, 1.0), (0.1, 1.0), (0.1, 1.0)], 0),
    ],
)
def test_weights_of_the_best_epoch_are_kept(tiny_data, monkeypatch, script, best, ema):
    script_metrics(monkeypatch, script)
    judged, original = [], engine.predict

    def spy(model, *arguments, **more):
        judged.append(weights(model))
        return original(model, *arguments, **more)

    monkeypatch.setattr(engine, "predict", spy)
    trained = go(tiny_data, make_spec(tiny_data, ema_decay=ema), make_model())
    assert trained.best_epoch == best
    assert [(entry.val_accuracy, entry.val_loss) for entry in trained.history] == script
    for epoch, snapshot in enumerate(judged):
        assert same_weights(trained.model, snapshot) == (epoch == best)


def test_only_training_and_validation_images_are_looked_at(tiny_data, monkeypatch):
    seen = set()
    original = type(tiny_data).images

    def spy(self, indices):
        seen.update(indices.tolist())
        return original(self, indices)

    monkeypatch.setattr(type(tiny_data), "images", spy)
    go(tiny_data, make_spec(tiny_data), make_model())
    assert seen >= set(tiny_data.splits["val"].tolist())
    assert not seen & set(tiny_data.splits["test"].tolist())


# ---------------------------------------------------------------- against a loop written out


@pytest.mark.parametrize("method", ["ce", KD, SOFT], ids=str)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_steps_equal_a_literal_loop(tiny_data, losses, method, optimizer):
    """Six steps over two epochs, in plain torch."""
    spec = make_spec(tiny_data, method, epochs=2, batch_size=20, optimizer=optimizer, seed=3, warmup_epochs=0.5)
    model, twin = make_model(), make_model()
    go(tiny_data, spec, model)

    bare = [p for name, p in twin.named_parameters() if p.ndim < 2]
    rest = [p for name, p in twin.named_parameters() if p.ndim >= 2]
    groups = [{"params": bare, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.05}]
    opt = (
        torch.optim.AdamW(groups, lr=0.01)
        if optimizer == "adamw"
        else torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True)
    )
    rates = [0.01 * 1 / 1.5] + [0.01 * 0.5 * (1 + math.cos(math.pi * (k - 1.5) / 5.5)) for k in range(2, 7)]
    views = Views(spec.views, IMAGENET_MEAN, IMAGENET_STD)
    train, expected = tiny_data.splits["train"], []
    for epoch in range(2):
        order = np.random.default_rng(derive("order", 3, epoch)).permutation(70)
        taught = torch.from_numpy(Teacher(tiny_data).rows(epoch))
        twin.train()
        for step in range(3):
            for group in opt.param_groups:
                group["lr"] = rates[3 * epoch + step]
            chosen = np.sort(order[20 * step : 20 * step + 20])
            images = train[chosen]
            logits = twin(views(tiny_data.images(images), images, epoch))
            hard = F.cross_entropy(logits, torch.from_numpy(tiny_data.labels[images]))
            p, log_q = (taught[chosen] / 4).softmax(1), (logits / 4).log_softmax(1)
            soft = 16 * (p * (p.log() - log_q)).sum(1).mean()
            loss = {"ce": hard, str(KD): 0.9 * soft + 0.1 * hard, str(SOFT): 0.9 * soft}[str(method)]
            opt.zero_grad()
            loss.backward()
            opt.step()
            expected.append(loss.item())
    assert len(losses) == 6
    assert losses == pytest.approx(expected, rel=1e-5)


def test_each_epoch_shows_other_images_and_no_image_twice(tiny_data, monkeypatch):
    epochs = {}
    original = Views.__call__

    def spy(self, images, indices, epoch):
        if self.spec is not None:
            epochs.setdefault(epoch, []).extend(indices.tolist())
        return original(self, images, indices, epoch)

    monkeypatch.setattr(Views, "__call__", spy)
    go(tiny_data, make_spec(tiny_data), make_model())
    assert list(epochs) == [0, 1, 2]
    for shown in epochs.values():
        assert len(shown) == len(set(shown)) == STEPS * BATCH
        assert set(shown) <= set(tiny_data.splits["train"].tolist())
    assert len({frozenset(shown) for shown in epochs.values()}) == 3  # the images left out differ


# ---------------------------------------------------------------- without ground truth


@pytest.mark.parametrize(("method", "matters"), [(SOFT, False), (KD, True)], ids=str)
def test_without_ground_truth_the_labels_change_nothing(tiny_data, method, matters):
    labels = tiny_data.labels.copy()
    train = tiny_data.splits["train"]
    labels[train] = (labels[train] + 1) % 5
    other = dataclasses.replace(tiny_data, labels=labels)
    spec, teacher = make_spec(tiny_data, method, epochs=2, label_smoothing=0.1), Teacher(tiny_data)
    right = go(tiny_data, spec, make_model(), teachers=[teacher])
    wrong = go(other, spec, make_model(), teachers=[teacher])
    assert same_weights(right.model, wrong.model) is not matters
    assert (curve(right) == curve(wrong)) is not matters


def test_alpha_of_one_is_the_same_as_without_ground_truth(tiny_data, losses):
    go(tiny_data, make_spec(tiny_data, {"name": "kd", "options": {"alpha": 1.0}}, epochs=1), make_model())
    half = len(losses)
    spec = make_spec(tiny_data, {"name": "kd", "options": {"alpha": 1.0}, "ground_truth": False}, epochs=1)
    go(tiny_data, spec, make_model(), build_method(spec.method))
    assert losses[:half] == losses[half:]
    assert half == STEPS


# ---------------------------------------------------------------- methods in two parts


@pytest.mark.parametrize(
    ("method", "first_part"),
    [
        ({"name": "ab", "options": {"init_fraction": 0.5}}, 2),
        ({"name": "fitnets", "options": {"two_stage": True, "hint_fraction": 0.25}}, 1),
    ],
    ids=str,
)
def test_labels_teach_in_the_second_part_alone(tiny_data, method, first_part):
    labels = tiny_data.labels.copy()
    train = tiny_data.splits["train"]
    labels[train] = (labels[train] + 1) % 5
    other = dataclasses.replace(tiny_data, labels=labels)
    spec = make_spec(tiny_data, method, epochs=4)

    def losses_of(data):
        built = build_method(spec.method)
        trained = go(data, spec, make_model(), built, teachers=networks(data, built, spec))
        assert len(trained.history) == 4
        return [entry.train_loss for entry in trained.history]

    right, wrong = losses_of(tiny_data), losses_of(other)
    assert right[:first_part] == wrong[:first_part]
    assert all(ours != theirs for ours, theirs in zip(right[first_part:], wrong[first_part:], strict=True))


@pytest.mark.parametrize("name", ["ab", "fitnets"])
def test_a_hint_moves_what_lies_before_it_and_nothing_else(tiny_data, name):
    """Only the first part: what the hint cannot reach stays as it is drawn."""
    options = {"init_fraction": 0.9} if name == "ab" else {"two_stage": True, "hint_fraction": 0.9}
    spec = make_spec(tiny_data, {"name": name, "options": options}, epochs=2)
    method, model, after = build_method(spec.method), make_model(), []
    before = weights(model)

    def progress(what, done, total):
        if done == STEPS and not after:
            after.append(weights(model))

    go(tiny_data, spec, model, method, teachers=networks(tiny_data, method, spec), progress=progress)
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[0][key]) and "weight" in key}
    assert "layer1" in moved
    assert "fc" not in moved
    assert ("layer3" in moved) == (name == "ab")  # the hint is the second of four maps, behind layer1


# ---------------------------------------------------------------- a second student


class Peer(Method):
    """Keeps a second network like the student."""

    name, paper, summary, teachers = "peer", "-", "for tests", "none"

    def __init__(self):
        super().__init__(MethodSpec(name="peer"))

    def prepare(self, setting):
        self.peer = setting.fresh_student()

    def forward(self, lesson):
        self.hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in self.peer.modules())
        return {"peer": F.cross_entropy(self.peer(lesson.pixels), lesson.targets)}


def vit():
    torch.manual_seed(0)
    return build(ModelChoice(name="vit_micro"), 5, 32)


@pytest.mark.parametrize("make", [make_model, make_noisy_model, vit])
def test_a_second_student_is_drawn_anew_layer_by_layer(make):
    model = make()
    before = weights(model)
    torch.manual_seed(3)
    peer = engine.reinitialised(model)
    assert same_weights(model, before)
    ours, theirs = dict(model.named_parameters()), dict(peer.named_parameters())
    assert ours.keys() == theirs.keys()
    assert not {id(parameter) for parameter in ours.values()} & {id(parameter) for parameter in theirs.values()}
    for name, weight in ours.items():
        if weight.std() > 0:  # whatever is drawn at all
            assert not torch.equal(weight, theirs[name]), name
            # as each layer draws its own: of the same size
            assert theirs[name].std().item() == pytest.approx(weight.std().item(), rel=0.35), name
    torch.manual_seed(3)
    assert same_weights(engine.reinitialised(model), peer)


def test_what_cannot_be_drawn_anew_is_said():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(3))

    with pytest.raises(TrainError, match=r"'1' has parameters and no reset_parameters\(\)"):
        engine.reinitialised(nn.Sequential(nn.Conv2d(3, 3, 1), Scaled()))


def test_the_loop_makes_the_second_student_itself_unless_it_is_given_one(tiny_data):
    spec = make_spec(tiny_data, epochs=1)
    first, second, given = Peer(), Peer(), Peer()
    model = make_model()
    start = weights(model)
    alone = go(tiny_data, spec, make_model())
    trained = go(tiny_data, spec, model, first)
    again = make_model()
    torch.randn(17)  # what was drawn before must not matter
    go(tiny_data, spec, again, second)
    assert same_weights(first.peer, second.peer)  # drawn from the seed of the run
    assert first.hooks == 0
    assert same_weights(alone.model, trained.model)  # the student learns as it would alone
    assert not torch.equal(first.peer.conv1[0].weight, start["conv1.0.weight"])
    go(tiny_data, spec, make_model(), given, fresh_student=lambda: make_model(77))
    assert not same_weights(given.peer, first.peer)


# ---------------------------------------------------------------- what is left behind


@pytest.mark.parametrize("method", [KD, "at", "simkd"], ids=str)
@pytest.mark.parametrize("ending", ["done", "interrupted", "diverged"])
def test_neither_network_is_listened_to_afterwards(tiny_data, method, ending):
    rate = 1e9 if ending == "diverged" else 1e-2
    spec = make_spec(tiny_data, method, epochs=2, learning_rate=rate, warmup_epochs=0, optimizer="sgd")
    built, student = build_method(spec.method), make_model()
    (teacher,) = networks(tiny_data, built, spec)
    problem = {"done": None, "interrupted": KeyboardInterrupt, "diverged": Diverged}[ending]
    more = {"progress": interrupt_at(STEPS + 2)} if ending == "interrupted" else {}
    if problem is None:
        go(tiny_data, spec, student, built, teachers=[teacher], **more)
    else:
        with pytest.raises(problem):
            go(tiny_data, spec, student, built, teachers=[teacher], **more)
    for network in (student, teacher.network.model):
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_distilled_deit_answers_with_one_tensor_after_its_training(tiny_data):
    torch.manual_seed(0)
    model = build(ModelChoice(name="deit_micro_distilled"), 5, 32)
    spec = make_spec(tiny_data, "deit", epochs=1)
    both = []
    model.register_forward_hook(lambda module, inputs, output: both.append(isinstance(output, tuple)))
    trained = go(tiny_data, spec, model)
    assert both.count(True) == STEPS
    assert torch.is_tensor(trained.model.train()(torch.zeros(2, 3, 32, 32)))
    assert Watched(model, 32).anatomy.classes == 5
