"""Raw logits: the plainest formula, and its place at the far end of softened probabilities."""

import pytest
import torch
from lessons import lesson_of, two_logits

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.method import build_method
from kdbench.methods.kd import softened_kl
from kdbench.methods.logit_mse import logit_mse
from kdbench.types import MethodSpec


def literal(student, teacher):
    pairs = zip(student.double().flatten().tolist(), teacher.double().flatten().tolist(), strict=True)
    return sum((a - b) ** 2 for a, b in pairs) / student.numel()


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize(("samples", "classes"), [(8, 5), (1, 5), (8, 2)])
def test_equals_the_formula(alpha, samples, classes):
    student, teacher, _ = two_logits(samples, classes)
    method = build_method(MethodSpec(name="logit_mse", options={"alpha": alpha}))
    terms = method(lesson_of(student, teacher))
    assert set(terms) == {"logit_mse"}
    assert terms["logit_mse"].item() == pytest.approx(alpha * literal(student, teacher), rel=1e-5)
    assert method.hard_weight == pytest.approx(1 - alpha)


def test_is_twice_the_limit_of_kd_at_high_temperature():
    student, teacher, _ = (part.double() for part in two_logits())
    student, teacher = (part - part.mean(1, keepdim=True) for part in (student, teacher))
    far = softened_kl(student, teacher, 1e5)
    assert logit_mse(student, teacher).item() == pytest.approx(2 * far.item(), rel=1e-3)


def test_is_zero_at_equality_and_a_constant_counts():
    _, teacher, _ = two_logits()
    assert logit_mse(teacher.clone(), teacher).item() == 0
    assert logit_mse(teacher + 2, teacher).item() == pytest.approx(4, rel=1e-5)


def test_gradcheck():
    student, teacher, _ = two_logits(3, 4, dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: logit_mse(z, teacher), (student,))


def test_bf16_logits_are_computed_in_float32():
    student, teacher, _ = two_logits(dtype=torch.bfloat16)
    loss = logit_mse(student, teacher)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(literal(student, teacher), rel=1e-5)


def test_default_leaves_the_labels_out():
    method = build_method(MethodSpec(name="logit_mse"))
    assert method.options.model_dump() == {"alpha": 1.0}
    assert method.hard_weight == 0.0


@pytest.mark.parametrize("alpha", [0, 1.1])
def test_wrong_options_are_refused(alpha):
    with pytest.raises(ConfigError, match="option 'alpha'"):
        build_method(MethodSpec(name="logit_mse", options={"alpha": alpha}))


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ShapeMismatch):
        logit_mse(torch.zeros(8, 5), torch.zeros(1, 5))
