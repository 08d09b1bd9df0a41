"""Similarity-preserving: against the paper's formula number by number (the peer library normalises otherwise)."""

import dataclasses
import math

import pytest
import torch
from lessons import make, ready

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.method import build_method
from kdbench.methods.sp import similarity_loss, unit_rows
from kdbench.types import MethodSpec


def literal(student, teacher):
    """|| G_s / row norms - G_t / row norms ||_F^2 / N^2, in float64."""

    def relations(features):
        rows = [row.flatten().double().tolist() for row in features]
        gram = [[sum(a * b for a, b in zip(one, other, strict=True)) for other in rows] for one in rows]
        return [[value / math.sqrt(sum(v * v for v in row)) for value in row] for row in gram]

    pairs = zip(relations(student), relations(teacher), strict=True)
    return sum((s - t) ** 2 for ours, theirs in pairs for s, t in zip(ours, theirs, strict=True)) / len(student) ** 2


def maps(samples=5, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(samples, 3, 4, 4, generator=generator, dtype=torch.float64)
    teacher = torch.randn(samples, 6, 2, 2, generator=generator, dtype=torch.float64)
    return student.to(dtype), teacher.to(dtype)


@pytest.mark.parametrize("samples", [2, 5, 9])
def test_equals_the_formula_between_unlike_maps(samples):
    student, teacher = maps(samples)
    expected = literal(student, teacher)
    assert expected > 1e-3
    assert similarity_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_equals_a_case_by_hand():
    # Gram matrices [[1, 0], [0, 1]] and [[1, 1], [1, 1]], the latter's rows over the root of 2
    student, teacher = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    root = 1 / math.sqrt(2)
    assert similarity_loss(student, teacher).item() == pytest.approx((2 * (1 - root) ** 2 + 2 * root**2) / 4)


def test_gradcheck():
    student, teacher = maps(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: similarity_loss(x, teacher), (student.requires_grad_(),))


def test_is_zero_at_equality_up_to_scale_and_rotation():
    student, _ = maps()
    assert similarity_loss(student, student).item() == 0
    rotation = torch.linalg.qr(torch.randn(48, 48, generator=torch.Generator().manual_seed(1)))[0]
    assert similarity_loss(student, 3 * student.flatten(1) @ rotation).item() == pytest.approx(0, abs=1e-10)
    assert similarity_loss(student, student.roll(1, 0)).item() > 1e-2


def test_a_single_image_has_no_relations():
    student, teacher = maps(1)
    student.requires_grad_()
    loss = similarity_loss(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-10)
    assert student.grad.abs().max() < 1e-5


def test_a_dead_image_gets_no_runaway_gradient():
    student, teacher = maps()
    student[2] = 0
    student.requires_grad_()
    similarity_loss(student, teacher).backward()
    assert student.grad.abs().max() < 10
    assert student.grad[0].abs().sum() > 0


def test_unit_rows_have_length_one_or_zero():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-5, 0.0]])
    assert unit_rows(rows).tolist() == [pytest.approx([0.6, 0.8]), [0, 0], pytest.approx([1, 0])]


def test_weighs_the_last_map_alone():
    setting, lesson = make()
    method = ready("sp", setting)
    expected = 3000 * literal(lesson.student.last.detach(), lesson.teacher.last)
    assert method(lesson)["sp"].item() == pytest.approx(expected, rel=1e-5)
    shallow = dataclasses.replace(lesson.student, stages=lesson.student.stages[-1:])
    assert torch.equal(method(dataclasses.replace(lesson, student=shallow))["sp"], method(lesson)["sp"])


def test_a_logits_term_comes_on_top_where_asked_for():
    setting, lesson = make()
    assert set(ready("sp", setting)(lesson)) == {"sp"}
    assert set(ready("sp", setting, kd_weight=1.0)(lesson)) == {"sp", "kd"}


def test_other_batches_are_refused():
    with pytest.raises(ShapeMismatch, match=r"'last': student gives shape \(4, 2\), teacher gives \(5, 2\)"):
        similarity_loss(torch.zeros(4, 2), torch.zeros(5, 2))


def test_defaults_are_those_of_the_literature():
    options = build_method(MethodSpec(name="sp")).options.model_dump()
    assert options == {"weight": 3000.0, "kd_weight": 0.0, "kd_temperature": 4.0}


@pytest.mark.parametrize("wrong", [{"weight": -1}, {"kd_weight": -1}, {"kd_temperature": 0}, {"beta": 1}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"option '{next(iter(wrong))}'"):
        build_method(MethodSpec(name="sp", options=wrong))
