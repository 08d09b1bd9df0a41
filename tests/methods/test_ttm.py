"""Transformed teacher matching, plain and weighted: against the power transform of its paper."""

import math

import pytest
import torch
from lessons import lesson_of, two_logits

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.method import build_method
from kdbench.methods.kd import softened_kl
from kdbench.methods.ttm import ttm_loss
from kdbench.types import MethodSpec


def softmax(row):
    powers = [math.exp(z) for z in row]
    return [power / sum(powers) for power in powers]


def literal(student, teacher, temperature, weighted):
    total = 0.0
    for zs, zt in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        powers = [p ** (1 / temperature) for p in softmax(zt)]
        target = [power / sum(powers) for power in powers]
        divergence = sum(t * math.log(t / s) for s, t in zip(softmax(zs), target, strict=True))
        total += divergence * (sum(powers) if weighted else 1)
    return total / len(student)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 10.0])
@pytest.mark.parametrize(("samples", "classes"), [(8, 5), (1, 5), (8, 2)])
def test_equals_the_formula(weighted, temperature, samples, classes):
    student, teacher, _ = two_logits(samples, classes)
    expected = literal(student, teacher, temperature, weighted)
    options = {"temperature": temperature, "weighted": weighted, "weight": 2.0}
    terms = build_method(MethodSpec(name="ttm", options=options))(lesson_of(student, teacher))
    assert set(terms) == {"ttm"}
    assert terms["ttm"].item() == pytest.approx(2 * expected, abs=1e-5, rel=1e-5)
    exact = ttm_loss(student.double(), teacher.double(), temperature, weighted)
    assert exact.item() == pytest.approx(expected, rel=1e-9)


def test_is_plain_kl_at_temperature_1_and_the_weights_are_then_1():
    student, teacher, _ = two_logits(dtype=torch.float64)
    expected = softened_kl(student, teacher, 1.0).item()
    for weighted in (False, True):
        assert ttm_loss(student, teacher, 1.0, weighted).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("weighted", [False, True])
def test_is_zero_where_the_student_says_the_softened_teacher(weighted):
    _, teacher, _ = two_logits()
    assert ttm_loss(teacher / 4 + 2, teacher, 4.0, weighted).item() == pytest.approx(0, abs=1e-5)
    assert ttm_loss(teacher, teacher, 4.0, weighted).item() > 0.1


def test_weights_lie_between_a_sure_teacher_and_one_that_knows_nothing():
    student, _, _ = two_logits(1, 5)
    for teacher, weight in ((1e4 * torch.eye(5)[:1], 1.0), (torch.zeros(1, 5), 5 ** (1 - 1 / 4))):
        plain, weighted = (ttm_loss(student, teacher, 4.0, choice).item() for choice in (False, True))
        assert weighted == pytest.approx(weight * plain, rel=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_gradcheck(weighted):
    student, teacher, _ = two_logits(3, 4, dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: ttm_loss(z, teacher, 4.0, weighted), (student,))


def test_defaults_are_those_of_the_reference():
    method = build_method(MethodSpec(name="ttm"))
    assert method.options.model_dump() == {"temperature": 10.0, "weight": 45.0, "weighted": False}
    assert method.hard_weight == 1.0


@pytest.mark.parametrize("options", [{"temperature": 0}, {"weight": 0}, {"weighted": "so-so"}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError, match=f"option '{next(iter(options))}'"):
        build_method(MethodSpec(name="ttm", options=options))


def test_other_shapes_are_refused():
    with pytest.raises(ShapeMismatch):
        ttm_loss(torch.zeros(8, 5), torch.zeros(8, 4), 4.0, True)
