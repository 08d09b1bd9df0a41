"""Neuron selectivity: against the formula channel by channel, both ways of computing it, and at the edges."""

import math

import pytest
import torch
import torch.nn.functional as F
from lessons import make, ready

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.features import pairs
from kdbench.method import build_method
from kdbench.methods.nst import nst_loss
from kdbench.types import MethodSpec


def literal(student, teacher):
    """Mean over images of MMD^2 with (x.y)^2 between channels scaled to length 1, in float64; maps of one size."""

    def channels(image):
        rows = [row.flatten().double().tolist() for row in image]
        return [[v / (math.sqrt(sum(w * w for w in row)) or 1.0) for v in row] for row in rows]

    def kernel(xs, ys):
        total = sum(sum(a * b for a, b in zip(x, y, strict=True)) ** 2 for x in xs for y in ys)
        return total / (len(xs) * len(ys))

    total = 0.0
    for one, other in zip(student, teacher, strict=True):
        ours, theirs = channels(one), channels(other)
        total += kernel(ours, ours) + kernel(theirs, theirs) - 2 * kernel(ours, theirs)
    return total / len(student)


def maps(channels=(3, 5), size=3, samples=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(samples, count, size, size, generator=generator, dtype=torch.float64).to(dtype)
        for count in channels
    ]


@pytest.mark.parametrize(("channels", "size"), [((3, 5), 3), ((3, 5), 2), ((6, 7), 2), ((20, 30), 2), ((4, 20), 3)])
@pytest.mark.parametrize("samples", [1, 4])
def test_equals_the_formula(channels, size, samples):
    """With fewer channels than positions and with more: another sum, the same value."""
    student, teacher = maps(channels, size, samples)
    expected = literal(student, teacher)
    assert expected > 1e-3
    assert nst_loss(student, teacher).item() == pytest.approx(expected, rel=1e-4)


def test_equals_a_case_by_hand():
    # channels (1, 0) and (0, 1) against (1, 0) twice: 1/2 + 1 - 2 / 2
    student = torch.tensor([[[[2.0, 0.0]], [[0.0, 3.0]]]])
    teacher = torch.tensor([[[[1.0, 0.0]], [[5.0, 0.0]]]])
    assert nst_loss(student, teacher).item() == pytest.approx(0.5)


def test_maps_are_brought_to_the_smaller_size():
    student, teacher = maps(size=4)
    small = F.adaptive_avg_pool2d(teacher, 2)
    assert nst_loss(student, small).item() == pytest.approx(literal(F.adaptive_avg_pool2d(student, 2), small), rel=1e-4)


@pytest.mark.parametrize(("channels", "size"), [((2, 3), 2), ((5, 6), 2)])
def test_gradcheck(channels, size):
    student, teacher = maps(channels, size, 2, torch.float64)
    assert torch.autograd.gradcheck(lambda x: nst_loss(x, teacher), (student.requires_grad_(),))


def test_is_zero_at_equality_up_to_order_and_scale_of_the_channels():
    student, _ = maps()
    assert nst_loss(student, student).item() == pytest.approx(0, abs=1e-6)
    shuffled = student.roll(1, 1) * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    assert nst_loss(student, shuffled).item() == pytest.approx(0, abs=1e-6)
    assert nst_loss(student, student.roll(1, 3)).item() > 1e-2


def test_a_dead_channel_gets_no_gradient_and_harms_no_other():
    student, teacher = maps()
    student[:, 1] = 0
    student.requires_grad_()
    loss = nst_loss(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(literal(student.detach(), teacher), rel=1e-4)
    assert student.grad[:, 1].abs().max() == 0
    assert 0 < student.grad.abs().max() < 10


@pytest.mark.parametrize("pair", ["cnn<cnn", "cnn<vit"])
def test_sums_over_the_paired_stages(pair):
    setting, lesson = make(pair)
    expected = 0.0
    for ours, theirs in pairs(4, 4):
        student, teacher = lesson.student.stages[ours].detach(), lesson.teacher.stages[theirs]
        size = min(student.shape[2], teacher.shape[2])
        expected += literal(F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size))
    terms = ready("nst", setting)(lesson)
    assert set(terms) == {"nst"}
    assert terms["nst"].item() == pytest.approx(50 * expected, rel=1e-4)


def test_other_batches_are_refused():
    with pytest.raises(ShapeMismatch, match="'stages'"):
        nst_loss(torch.zeros(4, 2, 3, 3), torch.zeros(5, 2, 3, 3))


def test_defaults_are_those_of_the_literature():
    assert build_method(MethodSpec(name="nst")).options.weight == 50


@pytest.mark.parametrize("wrong", [{"weight": -1}, {"kd_weight": -1}, {"beta": 1}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"option '{next(iter(wrong))}'"):
        build_method(MethodSpec(name="nst", options=wrong))
