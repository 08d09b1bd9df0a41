"""Softened probabilities: against a literal reading of the formula, against a peer, and at the edges."""

import math

import pytest
import torch
import torch.nn.functional as F
from lessons import lesson_of, make

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.method import build_method
from kdbench.methods.kd import softened_kl
from kdbench.types import MethodSpec


def literal(student, teacher, temperature):
    """T^2 * KL(softmax(zt / T) || softmax(zs / T)), number by number in float64, mean over the samples."""
    total = 0.0
    for zs, zt in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        es = [math.exp(z / temperature) for z in zs]
        et = [math.exp(z / temperature) for z in zt]
        for s, t in zip(es, et, strict=True):
            total += t / sum(et) * math.log((t / sum(et)) / (s / sum(es)))
    return temperature**2 * total / len(student)


def logits(samples=8, classes=5, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    student = 3 * torch.randn(samples, classes, generator=generator, dtype=torch.float64)
    teacher = 3 * torch.randn(samples, classes, generator=generator, dtype=torch.float64)
    return student.to(dtype), teacher.to(dtype)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize(("samples", "classes"), [(8, 5), (1, 5), (8, 2), (1, 2)])
def test_equals_the_formula(temperature, samples, classes):
    student, teacher = logits(samples, classes)
    expected = literal(student, teacher, temperature)
    assert expected > 1e-3
    assert softened_kl(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-4)
    assert softened_kl(student.double(), teacher.double(), temperature).item() == pytest.approx(expected, rel=1e-12)


def test_the_direction_is_teacher_to_student():
    student, teacher = logits()
    assert softened_kl(student, teacher, 2.0).item() != pytest.approx(literal(teacher, student, 2.0), rel=1e-2)


@pytest.mark.parametrize("alpha", [0.9, 0.5, 1.0])
def test_term_and_hard_weight_share_alpha(alpha):
    method = build_method(MethodSpec(name="kd", options={"alpha": alpha, "temperature": 3.0}))
    student, teacher = logits()
    terms = method(lesson_of(student, teacher))
    assert set(terms) == {"kd"}
    assert terms["kd"].item() == pytest.approx(alpha * literal(student, teacher, 3.0), rel=1e-4)
    assert method.hard_weight == pytest.approx(1 - alpha)


def test_defaults_are_those_of_the_literature():
    assert build_method(MethodSpec(name="kd")).options.model_dump() == {"temperature": 4.0, "alpha": 0.9}


@pytest.mark.parametrize("temperature", [1.0, 4.0, 10.0])
@pytest.mark.parametrize("alpha", [0.9, 0.3])
def test_equals_torchdistill(temperature, alpha):
    peers = pytest.importorskip("torchdistill.losses.mid_level")
    student, teacher = logits(16, 5)
    targets = torch.arange(16) % 5
    # the weight of its hard labels is ours of the teacher, turned round; at 0 it forgets T^2
    peer = peers.KDLoss("s", "output", "t", "output", temperature=temperature, alpha=1 - alpha)
    expected = peer({"s": {"output": student}}, {"t": {"output": teacher}}, targets)
    method = build_method(MethodSpec(name="kd", options={"temperature": temperature, "alpha": alpha}))
    ours = method(lesson_of(student, teacher, targets))["kd"] + method.hard_weight * F.cross_entropy(student, targets)
    assert ours.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_is_zero_where_both_agree_up_to_a_constant(temperature):
    _, teacher = logits()
    for student in (teacher, teacher + 7.25, teacher + torch.randn(8, 1)):
        assert softened_kl(student.clone(), teacher, temperature).item() == pytest.approx(0, abs=1e-5)
    assert softened_kl(teacher.roll(1, dims=1), teacher, temperature).item() > 0.1


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_large_logits_stay_finite(temperature):
    student, teacher = (100 * part for part in logits())
    student.requires_grad_()
    loss = softened_kl(student, teacher, temperature)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    assert student.grad.abs().sum() > 0


def test_bf16_logits_are_computed_in_float32():
    student, teacher = logits(dtype=torch.bfloat16)
    loss = softened_kl(student, teacher, 4.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(literal(student, teacher, 4.0), rel=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gradient_is_the_closed_form(temperature):
    student, teacher = logits(dtype=torch.float64)
    student.requires_grad_()
    softened_kl(student, teacher, temperature).backward()
    gap = (student.detach() / temperature).softmax(1) - (teacher / temperature).softmax(1)
    torch.testing.assert_close(student.grad, temperature * gap / len(student), rtol=1e-10, atol=1e-12)


def test_gradcheck():
    student, teacher = logits(3, 4, dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: softened_kl(z, teacher, 4.0), (student,))


def test_no_gradient_reaches_a_teacher_given_without_one():
    student, teacher = logits()
    student.requires_grad_()
    build_method(MethodSpec(name="kd"))(lesson_of(student, teacher))["kd"].backward()
    assert student.grad is not None
    assert teacher.grad is None
    assert not teacher.requires_grad


@pytest.mark.parametrize("shape", [(8, 4), (7, 5), (8, 1), (1, 5), (5,)])
def test_other_shapes_are_refused(shape):
    student, _ = logits()
    with pytest.raises(ShapeMismatch, match=r"student gives shape \(8, 5\)") as caught:
        softened_kl(student, torch.zeros(shape), 4.0)
    assert str(shape) in str(caught.value)


def test_a_missing_teacher_is_refused():
    with pytest.raises(ShapeMismatch):
        build_method(MethodSpec(name="kd"))(make(teachers=0)[1])


def test_every_wrong_option_is_named():
    with pytest.raises(ConfigError) as caught:
        build_method(MethodSpec(name="kd", options={"temperature": 0, "alpha": 1.5, "tau": 4}))
    assert len(caught.value.problems) == 3
    for word in ("'temperature'", "'alpha'", "'tau': unknown; known: temperature, alpha"):
        assert word in str(caught.value)
