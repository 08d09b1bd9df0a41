"""Normalised distillation: against the formula, and what its two parts look at."""

import math

import pytest
import torch
from lessons import lesson_of, two_logits

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.method import build_method
from kdbench.methods.nkd import nkd_loss
from kdbench.types import MethodSpec


def softmax(row, temperature=1.0):
    powers = [math.exp(z / temperature) for z in row]
    return [power / sum(powers) for power in powers]


def literal(student, teacher, targets, gamma, temperature):
    total = 0.0
    for zs, zt, y in zip(student.double().tolist(), teacher.double().tolist(), targets.tolist(), strict=True):
        target = -softmax(zt)[y] * math.log(softmax(zs)[y])
        s, t = (softmax(row[:y] + row[y + 1 :], temperature) for row in (zs, zt))
        others = -sum(b * math.log(a) for a, b in zip(s, t, strict=True))
        total += target + gamma * temperature**2 * others
    return total / len(student)


@pytest.mark.parametrize(("gamma", "temperature"), [(1.5, 1.0), (1.0, 4.0), (0.0, 1.0)])
@pytest.mark.parametrize(("samples", "classes"), [(8, 5), (1, 5), (8, 2)])
def test_equals_the_formula(gamma, temperature, samples, classes):
    student, teacher, targets = two_logits(samples, classes)
    expected = literal(student, teacher, targets, gamma, temperature)
    method = build_method(MethodSpec(name="nkd", options={"gamma": gamma, "temperature": temperature}))
    terms = method(lesson_of(student, teacher, targets))
    assert set(terms) == {"nkd"}
    assert terms["nkd"].item() == pytest.approx(expected, rel=1e-5, abs=1e-5)
    exact = nkd_loss(student.double(), teacher.double(), targets, gamma, temperature)
    assert exact.item() == pytest.approx(expected, rel=1e-10)


def test_least_where_the_others_agree():
    """A cross-entropy: its gradient among the others is 0 there, and its value their entropy."""
    _, teacher, targets = two_logits(dtype=torch.float64)
    student = teacher.clone().requires_grad_()
    without = nkd_loss(student, teacher, targets, 0.0, 1.0)
    loss = nkd_loss(student, teacher, targets, 1.5, 1.0)
    (loss - without).backward()
    assert student.grad.abs().max() < 1e-12
    moved = teacher.roll(1, dims=1)
    assert nkd_loss(moved, teacher, targets, 1.5, 1.0) - nkd_loss(moved, teacher, targets, 0.0, 1.0) > loss - without


def test_two_classes_have_no_others():
    student, teacher, targets = two_logits(8, 2)
    assert nkd_loss(student, teacher, targets, 100.0, 3.0) == nkd_loss(student, teacher, targets, 0.0, 3.0)


def test_gradcheck():
    student, teacher, targets = two_logits(3, 4, dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: nkd_loss(z, teacher, targets, 1.5, 2.0), (student,))


def test_sure_networks_stay_finite():
    student = (1e4 * torch.eye(4)).requires_grad_()
    loss = nkd_loss(student, 1e4 * torch.eye(4).roll(1, dims=0), torch.arange(4), 1.5, 1.0)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_defaults_are_those_of_the_literature():
    method = build_method(MethodSpec(name="nkd"))
    assert method.options.model_dump() == {"gamma": 1.5, "temperature": 1.0}
    assert method.hard_weight == 1.0


@pytest.mark.parametrize("options", [{"gamma": -1}, {"temperature": 0}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError, match=f"option '{next(iter(options))}'"):
        build_method(MethodSpec(name="nkd", options=options))


def test_other_shapes_are_refused():
    with pytest.raises(ShapeMismatch):
        nkd_loss(torch.zeros(8, 5), torch.zeros(8, 4), torch.zeros(8, dtype=torch.int64), 1.5, 1.0)
