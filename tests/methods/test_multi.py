"""Several teachers: the mixture and every kind of weight against literal readings, and against plain distillation."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from lessons import make, ready

from kdbench.errors import ConfigError, ShapeMismatch, TrainError
from kdbench.features import Outputs
from kdbench.method import build_method
from kdbench.methods.kd import softened_kl
from kdbench.methods.multi import (
    confidence_log_weights,
    entropy_log_weights,
    fixed_log_weights,
    log_mixture,
    mixture_kl,
)
from kdbench.types import MethodSpec

NAMES = ["multi_confidence", "multi_entropy", "multi_fixed", "multi_gated"]


def softmax(row, temperature=1.0):
    powers = [math.exp(z / temperature) for z in row]
    return [power / sum(powers) for power in powers]


def literal(student, teachers, weights, temperature):
    """T^2 * KL(sum_m w_m softmax(z_m / T) || softmax(z / T)), mean over the samples; float64."""
    total = 0.0
    for zs, said, ws in zip(student.double().tolist(), teachers.double().tolist(), weights, strict=True):
        probs = [softmax(row, temperature) for row in said]
        for k, s in enumerate(softmax(zs, temperature)):
            mixed = sum(w * row[k] for w, row in zip(ws, probs, strict=True))
            total += mixed * math.log(mixed / s)
    return temperature**2 * total / len(student)


def entropy_weights(teachers):
    weights = []
    for said in teachers.double().tolist():
        entropies = [-sum(p * math.log(p) for p in softmax(row)) for row in said]
        weights.append([(1 - h / sum(entropies)) / (len(said) - 1) for h in entropies])
    return weights


def confidence_weights(teachers, targets):
    weights = []
    for said, target in zip(teachers.double().tolist(), targets.tolist(), strict=True):
        powers = [math.exp(-math.log(softmax(row)[target])) for row in said]
        weights.append([(1 - power / sum(powers)) / (len(said) - 1) for power in powers])
    return weights


def logits(samples=6, teachers=3, classes=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(4)
    student = 2 * torch.randn(samples, classes, generator=generator, dtype=torch.float64)
    said = 2 * torch.randn(samples, teachers, classes, generator=generator, dtype=torch.float64)
    return student.to(dtype), said.to(dtype), torch.arange(samples) % classes


def lesson_with(teachers, **more):
    setting, lesson = make(teachers=teachers, **more)
    said = torch.stack([teacher.logits for teacher in lesson.teachers], dim=1)
    return setting, lesson, said


# ---------------------------------------------------------------- the mixture


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(("samples", "teachers", "classes"), [(6, 3, 4), (1, 2, 4), (6, 2, 2)])
def test_equals_the_formula(temperature, samples, teachers, classes):
    student, said, _ = logits(samples, teachers, classes)
    weights = torch.rand(samples, teachers, generator=torch.Generator().manual_seed(0)) + 0.1
    weights = weights / weights.sum(1, keepdim=True)
    expected = literal(student, said, weights.double().tolist(), temperature)
    assert expected > 1e-2
    assert mixture_kl(student, said, weights.log(), temperature).item() == pytest.approx(expected, rel=1e-4)
    mixed = log_mixture(said, weights.log(), temperature).exp()
    torch.testing.assert_close(mixed.sum(1), torch.ones(samples))


def test_gradcheck():
    student, said, targets = logits(3, 2, 4, torch.float64)
    student.requires_grad_()
    log_weights = confidence_log_weights(said, targets)
    assert torch.autograd.gradcheck(lambda z: mixture_kl(z, said, log_weights, 4.0), (student,))
    log_weights.requires_grad_()
    assert torch.autograd.gradcheck(lambda w: log_mixture(said, w.log_softmax(1)), (log_weights,))


def test_its_gradient_is_that_of_the_weighted_sum_of_losses():
    student, said, targets = logits(dtype=torch.float64)
    student.requires_grad_()
    weights = confidence_log_weights(said, targets)
    ours = torch.autograd.grad(mixture_kl(student, said, weights, 4.0), student)[0]
    theirs = 0
    for m in range(said.shape[1]):
        rows = F.kl_div((student / 4).log_softmax(1), (said[:, m] / 4).softmax(1), reduction="none").sum(1)
        theirs = theirs + 16 * (weights[:, m].exp() * rows).mean()
    torch.testing.assert_close(ours, torch.autograd.grad(theirs, student)[0])


def test_is_zero_where_the_student_gives_the_mixture():
    _, said, _ = logits()
    weights = fixed_log_weights(3)
    student = 4 * log_mixture(said, weights, 4.0) + 1.5
    assert mixture_kl(student, said, weights, 4.0).item() == pytest.approx(0, abs=1e-5)
    assert mixture_kl(said[:, 0], said, weights, 4.0).item() > 1e-2


# ---------------------------------------------------------------- the weights


def test_entropy_weights_equal_the_formula():
    _, said, _ = logits()
    expected = torch.tensor(entropy_weights(said))
    torch.testing.assert_close(entropy_log_weights(said).exp(), expected)
    assert expected.std(dim=1).min() > 1e-2


def test_of_two_teachers_the_weights_are_inverse_to_the_entropies():
    _, said, _ = logits(teachers=2)
    entropies = torch.distributions.Categorical(logits=said).entropy()
    torch.testing.assert_close(entropy_log_weights(said).exp(), (1 / entropies) / (1 / entropies).sum(1, keepdim=True))


def test_confidence_weights_equal_the_formula():
    _, said, targets = logits()
    expected = torch.tensor(confidence_weights(said, targets))
    torch.testing.assert_close(confidence_log_weights(said, targets).exp(), expected)
    assert expected.std(dim=1).min() > 1e-2


def test_the_teacher_that_is_right_counts_more_than_one_that_is_sure():
    right, sure = [1.0, 0.0, 0.0], [0.0, 9.0, 0.0]
    said, targets = torch.tensor([[right, sure]]), torch.tensor([0])
    assert confidence_log_weights(said, targets).exp()[0, 0] > 0.9
    assert entropy_log_weights(said).exp()[0, 1] > 0.9


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0, 1e4])
def test_weights_sum_to_one(count, scale):
    _, said, targets = logits(teachers=count)
    for log_weights in (
        fixed_log_weights(count),
        fixed_log_weights(count, 0.7),
        entropy_log_weights(scale * said),
        confidence_log_weights(scale * said, targets),
    ):
        assert log_weights.shape[1] == count
        assert log_weights.isfinite().all()
        torch.testing.assert_close(log_weights.exp().sum(1), torch.ones(len(log_weights)))


@pytest.mark.parametrize("weigh", [entropy_log_weights, lambda said: confidence_log_weights(said, torch.tensor([0]))])
def test_teachers_alike_count_alike(weigh):
    for row in ([0.3, -1.0, 2.0], [0.0, 0.0, 0.0], [1e5, 0.0, 0.0]):  # in doubt, undecided, without any doubt
        torch.testing.assert_close(weigh(torch.tensor([[row] * 3])).exp(), torch.full((1, 3), 1 / 3))


def test_the_first_weight_is_the_first_teachers():
    assert fixed_log_weights(3, 0.5).exp().tolist() == [pytest.approx([0.5, 0.25, 0.25])]
    assert fixed_log_weights(2).exp().tolist() == [pytest.approx([0.5, 0.5])]


# ---------------------------------------------------------------- the methods


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_terms_are_the_weighted_mixture(name, count):
    setting, lesson, said = lesson_with(count)
    weights = {
        "multi_fixed": [[1 / count] * count] * len(said),
        "multi_gated": [[1 / count] * count] * len(said),
        "multi_entropy": entropy_weights(said),
        "multi_confidence": confidence_weights(said, lesson.targets),
    }[name]
    method = ready(name, setting, alpha=0.7, temperature=3.0)
    expected = 0.7 * literal(lesson.student.logits.detach(), said, weights, 3.0)
    assert method(lesson)[name].item() == pytest.approx(expected, rel=1e-4)
    assert method.hard_weight == pytest.approx(0.3)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_teachers_that_agree_are_one_teacher(name, count):
    setting, lesson, _ = lesson_with(count)
    same = dataclasses.replace(lesson, teachers=lesson.teachers[:1] * count)
    expected = 0.9 * softened_kl(lesson.student.logits, lesson.teachers[0].logits, 4.0)
    assert ready(name, setting)(same)[name].item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_every_teacher_is_heard(name):
    setting, lesson, _ = lesson_with(3)
    method = ready(name, setting)
    before = method(lesson)[name].item()
    for place in range(3):
        teachers = list(lesson.teachers)
        teachers[place] = Outputs(teachers[place].logits.roll(1, dims=1))
        changed = method(dataclasses.replace(lesson, teachers=tuple(teachers)))[name].item()
        assert changed != pytest.approx(before, rel=1e-4)


def test_first_weight_reaches_the_term():
    setting, lesson, said = lesson_with(3)
    expected = literal(lesson.student.logits.detach(), said, [[0.8, 0.1, 0.1]] * len(said), 4.0)
    term = ready("multi_fixed", setting, first_weight=0.8)(lesson)["multi_fixed"]
    assert term.item() == pytest.approx(0.9 * expected, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_methods_that_say_so_read_labels(name):
    setting, lesson, _ = lesson_with(2)
    method = ready(name, setting)
    other = dataclasses.replace(lesson, targets=(lesson.targets + 1) % 5)
    before, after = (sum(method(said).values()).item() for said in (lesson, other))
    assert method.uses_labels == (name in ("multi_confidence", "multi_gated"))
    assert (before != after) == method.uses_labels


@pytest.mark.parametrize("name", NAMES)
def test_one_teacher_is_too_few(name):
    with pytest.raises(TrainError, match=f"{name} weighs teachers against each other, 1 given; try kd"):
        ready(name, make(teachers=1)[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_teacher_of_other_classes_is_refused(name):
    setting, lesson, _ = lesson_with(2)
    odd = dataclasses.replace(lesson, teachers=(lesson.teachers[0], Outputs(torch.zeros(6, 4))))
    with pytest.raises(ShapeMismatch, match="logits"):
        ready(name, setting)(odd)


# ---------------------------------------------------------------- the gate


def test_the_gate_learns_whom_to_trust_with_which_image():
    setting, lesson, _ = lesson_with(2)
    right = 8 * F.one_hot(lesson.targets, 5).float()
    first = torch.arange(6).unsqueeze(1) % 2 == 0  # each teacher is right about every other image
    teachers = (Outputs(torch.where(first, right, -right)), Outputs(torch.where(first, -right, right)))
    lesson = dataclasses.replace(lesson, teachers=teachers)
    said = torch.stack([teacher.logits for teacher in teachers], dim=1)
    method = ready("multi_gated", setting)
    optimizer = torch.optim.Adam(method.parameters(), lr=0.05)
    start = method.log_weights(lesson, said).exp()
    assert torch.equal(start, torch.full((6, 2), 0.5))
    for _ in range(60):
        optimizer.zero_grad()
        method(lesson)["gate"].backward()
        optimizer.step()
    weights = method.log_weights(lesson, said).exp()
    torch.testing.assert_close(weights.sum(1), torch.ones(6))
    assert (weights[:, 0] > 0.9).tolist() == first.squeeze(1).tolist()
    assert (weights[:, 1] > 0.9).tolist() == (~first).squeeze(1).tolist()


def test_the_gates_term_is_the_cross_entropy_of_the_mixed_prediction():
    setting, lesson, said = lesson_with(3)
    mixed = said.double().softmax(2).mean(1)
    expected = -mixed[torch.arange(6), lesson.targets].log().mean()
    assert ready("multi_gated", setting)(lesson)["gate"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_gate_and_student_do_not_teach_each_other():
    setting, lesson, _ = lesson_with(2)
    method = ready("multi_gated", setting)
    terms = method(lesson)
    own = list(method.parameters())
    assert torch.autograd.grad(terms["gate"], own, retain_graph=True)[-1].abs().sum() > 0
    grads = torch.autograd.grad(terms["gate"], lesson.student.last, allow_unused=True, retain_graph=True)
    assert grads == (None,)
    assert torch.autograd.grad(terms["multi_gated"], own, allow_unused=True) == (None,) * len(own)


# ---------------------------------------------------------------- options


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_those_of_plain_distillation(name):
    more = {"multi_fixed": {"first_weight": 0.0}, "multi_gated": {"gate_width": 64}}.get(name, {})
    expected = {"temperature": 4.0, "alpha": 0.9, **more}
    assert build_method(MethodSpec(name=name)).options.model_dump() == expected


@pytest.mark.parametrize(
    ("name", "wrong"),
    [(name, wrong) for name in NAMES for wrong in ({"temperature": 0}, {"alpha": 0}, {"alpha": 1.5}, {"beta": 1})]
    + [
        ("multi_fixed", {"first_weight": 1.0}),
        ("multi_fixed", {"first_weight": -0.1}),
        ("multi_gated", {"gate_width": 0}),
    ],
)
def test_wrong_options_are_refused(name, wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build_method(MethodSpec(name=name, options=wrong))
