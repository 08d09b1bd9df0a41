"""Hard and soft distillation, through the logits or through a distillation token."""

import dataclasses
import math

import pytest
import torch
from lessons import lesson_of, two_logits

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.method import build_method
from kdbench.methods.deit import hard_distillation
from kdbench.types import MethodSpec


def literal_hard(student, teacher):
    total = 0.0
    for zs, zt in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        total -= math.log(math.exp(zs[zt.index(max(zt))]) / sum(math.exp(z) for z in zs))
    return total / len(student)


def literal_soft(student, teacher, temperature):
    total = 0.0
    for zs, zt in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        s, t = ([math.exp(z / temperature) for z in row] for row in (zs, zt))
        total += sum(b / sum(t) * math.log(b / sum(t) / (a / sum(s))) for a, b in zip(s, t, strict=True))
    return temperature**2 * total / len(student)


@pytest.mark.parametrize(("samples", "classes"), [(8, 5), (1, 5), (8, 2)])
def test_hard_equals_the_formula_at_half_weight(samples, classes):
    student, teacher, targets = two_logits(samples, classes)
    method = build_method(MethodSpec(name="deit"))
    terms = method(lesson_of(student, teacher, targets))
    assert set(terms) == {"deit"}
    assert terms["deit"].item() == pytest.approx(0.5 * literal_hard(student, teacher), rel=1e-5)
    assert method.hard_weight == 0.5


@pytest.mark.parametrize(("alpha", "temperature"), [(0.1, 3.0), (0.7, 1.0)])
def test_soft_equals_the_formula(alpha, temperature):
    student, teacher, targets = two_logits()
    options = {"hard": False, "alpha": alpha, "temperature": temperature}
    method = build_method(MethodSpec(name="deit", options=options))
    ours = method(lesson_of(student, teacher, targets))["deit"]
    assert ours.item() == pytest.approx(alpha * literal_soft(student, teacher, temperature), abs=1e-5)
    assert method.hard_weight == pytest.approx(1 - alpha)


@pytest.mark.parametrize("hard", [True, False])
def test_a_distillation_token_takes_the_teachers_term_and_the_logits_none_of_it(hard):
    student, teacher, _ = two_logits()
    token = two_logits(seed=3)[0].requires_grad_()
    student.requires_grad_()
    lesson = lesson_of(student, teacher)
    with_token = dataclasses.replace(lesson, student=dataclasses.replace(lesson.student, token_logits=token))
    method = build_method(MethodSpec(name="deit", options={"hard": hard}))
    term = method(with_token)["deit"]
    assert torch.equal(term, method(lesson_of(token, teacher))["deit"])
    term.backward()
    assert token.grad.abs().sum() > 0
    assert student.grad is None
    assert "token" in method.needs


def test_only_the_teachers_decision_counts_when_hard():
    student, teacher, _ = two_logits()
    assert torch.equal(hard_distillation(student, teacher), hard_distillation(student, 7 * teacher + 3))
    assert hard_distillation(student, teacher.roll(1, dims=1)) != hard_distillation(student, teacher)


def test_hard_is_zero_only_where_the_student_is_sure_of_the_decision():
    _, teacher, _ = two_logits()
    sure = 1e3 * torch.nn.functional.one_hot(teacher.argmax(1), 5).float()
    assert hard_distillation(sure, teacher).item() == 0
    assert hard_distillation(teacher, teacher).item() > 0.01


def test_gradcheck():
    student, teacher, _ = two_logits(3, 4, dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: hard_distillation(z, teacher), (student,))


def test_defaults_are_those_of_the_literature():
    options = build_method(MethodSpec(name="deit")).options
    assert options.model_dump() == {"hard": True, "temperature": 3.0, "alpha": 0.1}


@pytest.mark.parametrize("options", [{"hard": "maybe"}, {"temperature": 0}, {"alpha": 0}, {"alpha": 1.1}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError, match=f"option '{next(iter(options))}'"):
        build_method(MethodSpec(name="deit", options=options))


def test_other_shapes_are_refused():
    with pytest.raises(ShapeMismatch):
        hard_distillation(torch.zeros(8, 5), torch.zeros(8, 6))
