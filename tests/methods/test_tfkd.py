"""A teacher that is no network: against the formula of the reference."""

import dataclasses
import math

import pytest
import torch
from lessons import lesson_of, make, two_logits

from kdbench.errors import ConfigError
from kdbench.method import METHODS, build_method, resolve_options
from kdbench.methods.tfkd import tfkd_loss, virtual_teacher
from kdbench.types import MethodSpec


def softmax(row):
    powers = [math.exp(z) for z in row]
    return [power / sum(powers) for power in powers]


def literal(student, targets, correct, temperature):
    total = 0.0
    for zs, y in zip(student.double().tolist(), targets.tolist(), strict=True):
        designed = [correct if k == y else (1 - correct) / (len(zs) - 1) for k in range(len(zs))]
        teacher = softmax([p / temperature for p in designed])
        total += sum(t * math.log(t / s) for s, t in zip(softmax(zs), teacher, strict=True))
    return total / len(student)


@pytest.mark.parametrize(("correct", "temperature"), [(0.99, 20.0), (0.9, 1.0), (0.99, 0.1)])
@pytest.mark.parametrize(("samples", "classes"), [(8, 5), (1, 5), (8, 2)])
def test_equals_the_formula(correct, temperature, samples, classes):
    student, _, targets = two_logits(samples, classes)
    expected = literal(student, targets, correct, temperature)
    assert tfkd_loss(student, targets, correct, temperature).item() == pytest.approx(expected, rel=1e-5)
    options = {"correct": correct, "temperature": temperature, "alpha": 0.25}
    method = build_method(MethodSpec(name="tfkd", options=options))
    terms = method(lesson_of(student, student, targets))
    assert set(terms) == {"tfkd"}
    assert terms["tfkd"].item() == pytest.approx(0.25 * expected, rel=1e-5)
    assert method.hard_weight == 0.75


def test_the_virtual_teacher_is_always_right_and_soft_at_the_papers_temperature():
    targets = torch.tensor([2, 0, 4])
    probabilities = virtual_teacher(targets, 5, 0.99, 20.0).exp()
    assert probabilities.sum(1).tolist() == pytest.approx([1.0] * 3)
    assert torch.equal(probabilities.argmax(1), targets)
    assert probabilities.max().item() == pytest.approx(0.2080, abs=1e-4)


def test_is_zero_where_the_student_says_the_same_and_only_there():
    targets = torch.arange(5)
    same = virtual_teacher(targets, 5, 0.99, 20.0) + 3
    assert tfkd_loss(same, targets, 0.99, 20.0).item() == pytest.approx(0, abs=1e-6)
    assert tfkd_loss(10 * torch.eye(5), targets, 0.99, 20.0).item() > 0.1


def test_a_student_that_is_too_sure_is_pulled_back():
    student = (10 * torch.eye(5)).requires_grad_()
    tfkd_loss(student, torch.arange(5), 0.99, 20.0).backward()
    assert (student.grad.diagonal() > 0).all()


def test_gradcheck():
    student, _, targets = two_logits(3, 4, dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: tfkd_loss(z, targets, 0.99, 20.0), (student,))


def test_needs_no_teacher_but_labels():
    method = METHODS.get("tfkd")
    assert (method.teachers, method.family, method.suite_teachers()) == ("none", "self", 0)
    _, lesson = make(teachers=0)
    terms = build_method(MethodSpec(name="tfkd"))(lesson)
    moved = build_method(MethodSpec(name="tfkd"))(dataclasses.replace(lesson, targets=(lesson.targets + 1) % 5))
    assert terms["tfkd"] != moved["tfkd"]
    with pytest.raises(ConfigError, match="without ground truth"):
        resolve_options(MethodSpec(name="tfkd", ground_truth=False))


def test_defaults_are_those_of_the_literature():
    method = build_method(MethodSpec(name="tfkd"))
    assert method.options.model_dump() == {"alpha": 0.1, "correct": 0.99, "temperature": 20.0}
    assert method.hard_weight == 0.9


@pytest.mark.parametrize("options", [{"alpha": 0}, {"alpha": 1}, {"correct": 1}, {"correct": 0}, {"temperature": 0}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError, match=f"option '{next(iter(options))}'"):
        build_method(MethodSpec(name="tfkd", options=options))
