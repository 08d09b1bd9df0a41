"""Three levels of alignment: against the formulas, and the temperatures that are summed over."""

import math

import pytest
import torch
from lessons import lesson_of, two_logits

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.method import build_method
from kdbench.methods.mlkd import TEMPERATURES, batch_level, class_level
from kdbench.types import MethodSpec


def probabilities(logits, temperature):
    rows = [[math.exp(z / temperature) for z in row] for row in logits.double().tolist()]
    return [[value / sum(row) for value in row] for row in rows]


def literal_instance(student, teacher, temperature):
    total = 0.0
    for s, t in zip(probabilities(student, temperature), probabilities(teacher, temperature), strict=True):
        total += sum(b * math.log(b / a) for a, b in zip(s, t, strict=True))
    return temperature**2 * total / len(student)


def gram_distance(s, t):
    """Squared distance between all inner products of rows of s and those of t, over the number of rows."""
    total = 0.0
    for i in range(len(s)):
        for j in range(len(s)):
            inner = [sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) for rows in (s, t)]
            total += (inner[1] - inner[0]) ** 2
    return total / len(s)


def literal_batch(student, teacher, temperature):
    return gram_distance(probabilities(student, temperature), probabilities(teacher, temperature))


def literal_class(student, teacher, temperature):
    turned = [list(zip(*probabilities(part, temperature), strict=True)) for part in (student, teacher)]
    return gram_distance(*turned)


LEVELS = {"instance": literal_instance, "batch": literal_batch, "class": literal_class}


@pytest.mark.parametrize(("samples", "classes"), [(8, 5), (1, 5), (8, 2)])
@pytest.mark.parametrize("alpha", [0.9, 0.5])
def test_equals_the_formula_summed_over_the_temperatures(samples, classes, alpha):
    student, teacher, _ = two_logits(samples, classes)
    method = build_method(MethodSpec(name="mlkd", options={"alpha": alpha}))
    terms = method(lesson_of(student, teacher))
    assert set(terms) == {f"mlkd_{level}" for level in LEVELS}
    for level, formula in LEVELS.items():
        expected = alpha * sum(formula(student, teacher, temperature) for temperature in (2, 3, 4, 5, 6))
        assert terms[f"mlkd_{level}"].item() == pytest.approx(expected, abs=1e-5, rel=1e-5)
    assert method.hard_weight == pytest.approx(1 - alpha)


@pytest.mark.parametrize("level", [batch_level, class_level])
def test_gradcheck(level):
    student, teacher, _ = two_logits(3, 4, dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: level(z, teacher, 2.0), (student,))


def test_is_zero_where_both_agree_up_to_a_constant_and_only_there():
    student, teacher, _ = two_logits()
    method = build_method(MethodSpec(name="mlkd"))
    for value in method(lesson_of(teacher + 3, teacher)).values():
        assert value.item() == pytest.approx(0, abs=1e-5)
    for value in method(lesson_of(student, teacher)).values():
        assert value.item() > 1e-3


def test_batch_level_looks_across_images_and_class_level_across_classes():
    """Classes exchanged are no news to the batch, images exchanged none to the classes."""
    _, teacher, _ = two_logits()
    assert batch_level(teacher.roll(1, dims=1), teacher, 2.0).item() == pytest.approx(0, abs=1e-6)
    assert class_level(teacher.roll(1, dims=0), teacher, 2.0).item() == pytest.approx(0, abs=1e-6)
    assert batch_level(teacher.roll(1, dims=0), teacher, 2.0).item() > 1e-3
    assert class_level(teacher.roll(1, dims=1), teacher, 2.0).item() > 1e-3


def test_defaults_are_those_of_the_reference():
    method = build_method(MethodSpec(name="mlkd"))
    assert TEMPERATURES == (2, 3, 4, 5, 6)
    assert method.options.model_dump() == {"alpha": 0.9}
    assert method.hard_weight == pytest.approx(0.1)


@pytest.mark.parametrize("alpha", [0, 1.1, -1])
def test_wrong_options_are_refused(alpha):
    with pytest.raises(ConfigError, match="option 'alpha'"):
        build_method(MethodSpec(name="mlkd", options={"alpha": alpha}))


@pytest.mark.parametrize("level", [batch_level, class_level])
def test_other_shapes_are_refused(level):
    with pytest.raises(ShapeMismatch):
        level(torch.zeros(8, 5), torch.zeros(8, 4), 2.0)
