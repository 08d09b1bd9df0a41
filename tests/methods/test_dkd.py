"""Decoupled distillation: against its formula, against the identity that defines it, and where it vanishes."""

import dataclasses
import math

import pytest
import torch
from lessons import lesson_of, two_logits

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.method import build_method
from kdbench.methods.dkd import dkd_loss, ramp, without_target
from kdbench.methods.kd import softened_kl
from kdbench.types import MethodSpec


def softened(row, temperature):
    powers = [math.exp(z / temperature) for z in row]
    return [power / sum(powers) for power in powers]


def literal(student, teacher, targets, alpha, beta, temperature):
    """Number by number in float64, mean over the samples."""
    total = 0.0
    for zs, zt, y in zip(student.double().tolist(), teacher.double().tolist(), targets.tolist(), strict=True):
        s, t = softened(zs, temperature), softened(zt, temperature)
        binary = t[y] * math.log(t[y] / s[y]) + (1 - t[y]) * math.log((1 - t[y]) / (1 - s[y]))
        others = sum(
            t[k] / (1 - t[y]) * math.log((t[k] / (1 - t[y])) / (s[k] / (1 - s[y]))) for k in range(len(s)) if k != y
        )
        total += alpha * binary + beta * others
    return temperature**2 * total / len(student)


@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(1, 8, 4), (1, 0, 1), (0, 1, 2), (0.5, 2, 20)])
@pytest.mark.parametrize(("samples", "classes"), [(8, 5), (1, 5), (8, 2), (1, 3)])
def test_equals_the_formula(alpha, beta, temperature, samples, classes):
    student, teacher, targets = two_logits(samples, classes)
    expected = literal(student, teacher, targets, alpha, beta, temperature)
    assert dkd_loss(student, teacher, targets, alpha, beta, temperature).item() == pytest.approx(
        expected, abs=1e-5, rel=1e-5
    )
    exact = dkd_loss(student.double(), teacher.double(), targets, alpha, beta, temperature)
    assert exact.item() == pytest.approx(expected, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_is_kd_where_beta_is_what_the_target_leaves(temperature):
    """KD = target's part + (1 - teacher's probability of the target) * others' part."""
    student, teacher, targets = two_logits(dtype=torch.float64)
    for row in range(len(student)):
        one = slice(row, row + 1)
        left = 1 - (teacher[row] / temperature).softmax(0)[targets[row]].item()
        decoupled = dkd_loss(student[one], teacher[one], targets[one], 1.0, left, temperature)
        assert decoupled.item() == pytest.approx(softened_kl(student[one], teacher[one], temperature).item(), rel=1e-10)


def test_without_target_keeps_the_order_of_the_others():
    logits = torch.arange(12.0).reshape(3, 4)
    rest = without_target(logits, torch.tensor([0, 2, 3]))
    assert rest.tolist() == [[1, 2, 3], [4, 5, 7], [8, 9, 10]]


def test_two_classes_have_no_others():
    student, teacher, targets = two_logits(8, 2)
    assert dkd_loss(student, teacher, targets, 0.0, 8.0, 4.0).item() == 0.0
    assert dkd_loss(student, teacher, targets, 1.0, 8.0, 4.0).item() == pytest.approx(
        softened_kl(student, teacher, 4.0).item(), rel=1e-5
    )


def test_is_zero_where_both_agree_up_to_a_constant_and_only_there():
    _, teacher, targets = two_logits()
    assert dkd_loss(teacher + torch.randn(8, 1), teacher, targets, 1.0, 8.0, 4.0).item() == pytest.approx(0, abs=1e-5)
    assert dkd_loss(teacher.roll(1, dims=1), teacher, targets, 1.0, 8.0, 4.0).item() > 0.1


def test_gradcheck():
    student, teacher, targets = two_logits(3, 4, dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: dkd_loss(z, teacher, targets, 1.0, 8.0, 4.0), (student,))


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_sure_networks_stay_finite(scale):
    """Where log(1 - p) would be -inf: both sure of the target, and sure of different classes."""
    student = scale * torch.eye(4)
    teacher = scale * torch.eye(4).roll(1, dims=0)
    for taught_by in (student.clone(), teacher):
        leaf = student.clone().requires_grad_()
        loss = dkd_loss(leaf, taught_by, torch.arange(4), 1.0, 8.0, 1.0)
        loss.backward()
        assert loss.isfinite()
        assert leaf.grad.isfinite().all()


def test_bf16_logits_are_computed_in_float32():
    student, teacher, targets = two_logits(dtype=torch.bfloat16)
    loss = dkd_loss(student, teacher, targets, 1.0, 8.0, 4.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(literal(student, teacher, targets, 1.0, 8.0, 4.0), rel=1e-4)


@pytest.mark.parametrize(
    ("epochs", "fraction", "expected"),
    [(240, 20 / 240, [1 / 20, 2 / 20, 3 / 20]), (4, 0.5, [0.5, 1, 1, 1]), (10, 20 / 240, [1, 1]), (4, 0.0, [1, 1])],
)
def test_ramp_rises_by_epochs_and_is_never_zero(epochs, fraction, expected):
    assert [ramp(epoch, epochs, fraction) for epoch in range(len(expected))] == pytest.approx(expected)


def test_weight_rises_over_the_epochs():
    student, teacher, targets = two_logits()
    method = build_method(MethodSpec(name="dkd", options={"warmup": 0.5}))
    lesson = lesson_of(student, teacher, targets)
    full = dkd_loss(student, teacher, targets, 1.0, 8.0, 4.0).item()
    for epoch, part in enumerate([0.25, 0.5, 0.75, 1, 1, 1, 1, 1]):
        terms = method(dataclasses.replace(lesson, epoch=epoch, epochs=8))
        assert set(terms) == {"dkd"}
        assert terms["dkd"].item() == pytest.approx(part * full, rel=1e-6)


def test_defaults_are_those_of_the_literature():
    method = build_method(MethodSpec(name="dkd"))
    assert method.options.model_dump() == {"alpha": 1.0, "beta": 8.0, "temperature": 4.0, "warmup": 20 / 240}
    assert method.hard_weight == 1.0


@pytest.mark.parametrize(
    "options", [{"alpha": -1}, {"beta": -0.1}, {"temperature": 0}, {"warmup": 1.5}, {"warmup": -0.1}]
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError, match=f"option '{next(iter(options))}'"):
        build_method(MethodSpec(name="dkd", options=options))


def test_other_shapes_are_refused():
    student, _, targets = two_logits()
    with pytest.raises(ShapeMismatch, match=r"student gives shape \(8, 5\), teacher gives \(8, 4\)"):
        dkd_loss(student, torch.zeros(8, 4), targets, 1.0, 8.0, 4.0)
