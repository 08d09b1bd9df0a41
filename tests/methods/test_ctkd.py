"""A temperature that learns against the student: its gradient is turned, its curriculum rises."""

import dataclasses
import math

import pytest
import torch
from lessons import lesson_of, make, ready, two_logits

from kdbench.errors import ConfigError
from kdbench.method import build_method
from kdbench.methods.ctkd import curriculum, reversed_gradient
from kdbench.methods.kd import softened_kl
from kdbench.types import MethodSpec


def taught(epoch=0, epochs=10, **options):
    method = ready("ctkd", make()[0], **options)
    return method, dataclasses.replace(lesson_of(*two_logits()), epoch=epoch, epochs=epochs)


def literal(student, teacher, temperature):
    total = 0.0
    for zs, zt in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        s, t = ([math.exp(z / temperature) for z in row] for row in (zs, zt))
        total += sum(b / sum(t) * math.log(b / sum(t) / (a / sum(s))) for a, b in zip(s, t, strict=True))
    return temperature**2 * total / len(student)


def test_starts_as_kd_at_the_reference_temperature():
    method, lesson = taught()
    start = 1 + 20 / (1 + math.exp(-1))
    assert method.temperature.item() == pytest.approx(start)
    expected = 0.9 * literal(lesson.student.logits, lesson.teacher.logits, start)
    terms = method(lesson)
    assert set(terms) == {"ctkd"}
    assert terms["ctkd"].item() == pytest.approx(expected, rel=1e-5)
    assert method.hard_weight == pytest.approx(0.1)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_reversal_keeps_the_value_and_turns_the_gradient(strength):
    value = torch.tensor([0.1, 15.62, -3.0], requires_grad=True)
    turned = reversed_gradient(value, strength)
    assert torch.equal(turned, value)
    (turned**2).sum().backward()
    torch.testing.assert_close(value.grad, -strength * 2 * value.detach())


@pytest.mark.parametrize("epoch", [0, 2, 9])
def test_the_temperature_rises_the_loss_that_the_student_lowers(epoch):
    method, lesson = taught(epoch, curriculum=0.5)
    method(lesson)["ctkd"].backward()
    plain = method.raw.detach().clone().requires_grad_()
    temperature = 1 + 20 * plain.sigmoid()
    (0.9 * softened_kl(lesson.student.logits, lesson.teacher.logits, temperature)).backward()
    assert plain.grad.abs() > 1e-4
    assert method.raw.grad.item() == pytest.approx(-curriculum(epoch, 10, 0.5) * plain.grad.item(), rel=1e-5)


def test_a_step_of_descent_makes_the_task_harder():
    method, lesson = taught(epoch=9)
    before = method(lesson)["ctkd"]
    before.backward()
    with torch.no_grad():
        method.raw -= 0.1 * method.raw.grad
    assert method(lesson)["ctkd"].item() > before.item()


def test_the_students_gradient_is_not_turned():
    method, lesson = taught()
    student = lesson.student.logits.clone().requires_grad_()
    softer = dataclasses.replace(lesson, student=dataclasses.replace(lesson.student, logits=student))
    method(softer)["ctkd"].backward()
    ours, student.grad = student.grad, None
    (0.9 * softened_kl(student, lesson.teacher.logits, method.temperature.item())).backward()
    torch.testing.assert_close(ours, student.grad, rtol=1e-5, atol=1e-7)


def test_curriculum_is_half_a_cosine_and_then_full():
    expected = [(1 - math.cos(math.pi * (epoch + 1) / 10)) / 2 for epoch in range(10)]
    assert [curriculum(epoch, 240, 10 / 240) for epoch in range(10)] == pytest.approx(expected)
    assert curriculum(0, 240, 10 / 240) > 0
    assert curriculum(10, 240, 10 / 240) == curriculum(239, 240, 10 / 240) == 1
    assert curriculum(0, 5, 0.0) == 1


def test_gradcheck_of_the_loss_in_logits_and_temperature():
    student, teacher, _ = two_logits(3, 4, dtype=torch.float64)
    student.requires_grad_()
    temperature = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z, t: softened_kl(z, teacher, t), (student, temperature))


def test_the_temperature_is_in_the_state_and_stays_in_its_range():
    method, _ = taught(lowest=2.0, span=3.0)
    assert set(method.state_dict()) == {"raw"}
    for raw in (-100.0, 100.0):
        method.load_state_dict({"raw": torch.tensor(raw)})
        assert 2.0 <= method.temperature.item() <= 5.0


def test_defaults_are_those_of_the_reference():
    method = build_method(MethodSpec(name="ctkd"))
    assert method.options.model_dump() == {"alpha": 0.9, "lowest": 1.0, "span": 20.0, "curriculum": 10 / 240}


@pytest.mark.parametrize("options", [{"alpha": 0}, {"alpha": 2}, {"lowest": 0}, {"span": -1}, {"curriculum": 1.1}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError, match=f"option '{next(iter(options))}'"):
        build_method(MethodSpec(name="ctkd", options=options))
