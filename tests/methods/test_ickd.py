"""Inter-channel correlation: against the formula with its matrices written out, and at the edges."""

import dataclasses
import math

import pytest
import torch
from lessons import make, ready

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.method import build_method
from kdbench.methods.ickd import ickd_loss
from kdbench.types import MethodSpec


def literal(student, teacher):
    """Squared difference of row-normalised channel Gram matrices over N C, in float64."""

    def correlations(image):
        rows = [row.flatten().double().tolist() for row in image]
        gram = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]
        return [[value / (math.sqrt(sum(v * v for v in row)) or 1.0) for value in row] for row in gram]

    total = 0.0
    for one, other in zip(student, teacher, strict=True):
        for ours, theirs in zip(correlations(one), correlations(other), strict=True):
            total += sum((s - t) ** 2 for s, t in zip(ours, theirs, strict=True))
    return total / (student.shape[0] * student.shape[1])


def maps(channels=5, sizes=(3, 2), samples=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(samples, channels, size, size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes
    ]


@pytest.mark.parametrize("channels", [1, 2, 5, 17])
@pytest.mark.parametrize("sizes", [(3, 3), (3, 2), (1, 3)])
@pytest.mark.parametrize("samples", [1, 4])
def test_equals_the_formula_between_maps_of_any_size(channels, sizes, samples):
    student, teacher = maps(channels, sizes, samples)
    assert ickd_loss(student, teacher).item() == pytest.approx(literal(student, teacher), abs=1e-5)


def test_equals_a_case_by_hand():
    # Gram matrices [[1, 0], [0, 1]] and [[1, 1], [1, 1]]
    student = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    teacher = torch.tensor([[[[1.0, 0.0]], [[1.0, 0.0]]]])
    root = 1 / math.sqrt(2)
    assert ickd_loss(student, teacher).item() == pytest.approx((1 - root) ** 2 + root**2)


def test_gradcheck():
    student, teacher = maps(3, (2, 2), 2, torch.float64)
    assert torch.autograd.gradcheck(lambda x: ickd_loss(x, teacher), (student.requires_grad_(),))


def test_is_zero_at_equality_up_to_scale_and_order_of_positions():
    student, _ = maps()
    assert ickd_loss(student, student).item() == pytest.approx(0, abs=1e-6)
    assert ickd_loss(student, 3 * student.flip(3)).item() == pytest.approx(0, abs=1e-6)
    assert ickd_loss(student, student.roll(1, 1)).item() > 1e-2


def test_a_dead_channel_gets_no_runaway_gradient():
    student, teacher = maps()
    student[:, 1] = 0
    teacher[:, 2] = 0
    student.requires_grad_()
    loss = ickd_loss(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(literal(student.detach(), teacher), abs=1e-5)
    assert 0 < student.grad.abs().max() < 10


@pytest.mark.parametrize("pair", ["cnn<cnn", "vit<cnn", "cnn<vit"])
def test_weighs_the_last_maps_the_students_projected(pair):
    setting, lesson = make(pair)
    method = ready("ickd", setting)
    projected = method.projector(lesson.student.last).detach()
    assert projected.shape[1] == lesson.teacher.last.shape[1]
    terms = method(lesson)
    assert set(terms) == {"ickd"}
    assert terms["ickd"].item() == pytest.approx(2.5 * literal(projected, lesson.teacher.last), rel=1e-4)
    terms["ickd"].backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_one_image_of_one_position_can_be_taught():
    """Batch normalisation in the projector has no variance then."""
    setting, lesson = make(samples=1)
    tiny = dataclasses.replace(lesson.student, stages=(lesson.student.last[:, :, :1, :1],))
    assert ready("ickd", setting)(dataclasses.replace(lesson, student=tiny))["ickd"].isfinite()


def test_other_channels_and_missing_maps_are_refused():
    with pytest.raises(ShapeMismatch, match="'last'"):
        ickd_loss(torch.zeros(4, 2, 3, 3), torch.zeros(4, 3, 3, 3))
    setting, _ = make()
    mapless = dataclasses.replace(setting, student=dataclasses.replace(setting.student, stages=()))
    with pytest.raises(ShapeMismatch, match=r"'last': student gives shape \(\), teacher gives \(20, 2, 2\)"):
        ready("ickd", mapless)


def test_defaults_are_those_of_the_literature():
    assert build_method(MethodSpec(name="ickd")).options.weight == 2.5


@pytest.mark.parametrize("wrong", [{"weight": -1}, {"kd_weight": -1}, {"beta": 1}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"option '{next(iter(wrong))}'"):
        build_method(MethodSpec(name="ickd", options=wrong))
