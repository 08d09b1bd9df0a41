"""Masked generation: what is masked, what is generated, and what it costs, with a generator that changes nothing."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from lessons import make, ready
from torch import nn

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.method import build_method
from kdbench.methods.mgd import generation_loss, masked
from kdbench.types import MethodSpec


def literal(generated, teacher):
    """Sum over channels and positions of (g - t)^2, mean over images, in float64."""
    pairs = zip(generated.double().flatten().tolist(), teacher.double().flatten().tolist(), strict=True)
    return sum((g - t) ** 2 for g, t in pairs) / len(generated)


def maps(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, 5, 5, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]


def transparent(method):
    """The method with a generator that gives back whatever is positive."""
    for layer in (method.generator[0], method.generator[2]):
        nn.init.dirac_(layer.weight)
        nn.init.zeros_(layer.bias)
    method.align = nn.Identity()
    return method


def positive(lesson):
    """The lesson with last maps of the same channels, all above zero."""

    def last(grid):
        return (grid.detach()[:, :10].abs() + 1,)

    student = dataclasses.replace(lesson.student, stages=last(lesson.student.last))
    teacher = dataclasses.replace(lesson.teacher, stages=last(lesson.teacher.last))
    return dataclasses.replace(lesson, student=student, teachers=(teacher,))


def same_width(setting):
    return dataclasses.replace(setting, teachers=(setting.student,))


def test_the_error_equals_the_formula():
    generated, teacher = maps()
    assert generation_loss(generated, teacher).item() == pytest.approx(literal(generated, teacher), rel=1e-5)
    assert generation_loss(teacher, teacher).item() == 0


def test_gradcheck():
    generated, teacher = (grid[:2, :2, :2, :2] for grid in maps(torch.float64))
    leaf = generated.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: generation_loss(x, teacher), (leaf,))


@pytest.mark.parametrize("ratio", [0.0, 0.15, 0.5, 0.9])
@pytest.mark.parametrize("by", ["positions", "channels"])
def test_whole_positions_or_channels_are_masked_at_the_ratio(ratio, by):
    grid = torch.ones(50, 30, 6, 6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        left = masked(grid, ratio, by)
    across = (1,) if by == "positions" else (2, 3)
    assert torch.equal(left.amin(across), left.amax(across))
    assert set(left.unique().tolist()) <= {0.0, 1.0}
    assert 1 - left.mean().item() == pytest.approx(ratio, abs=0.03)
    assert ratio == 0 or not torch.equal(left[0], left[1])


def test_the_mask_is_of_the_students_map_and_the_target_is_whole():
    """Where nothing comes through, the error is the teacher's whole square; elsewhere that of the difference."""
    setting, lesson = make()
    lesson = positive(lesson)
    method = transparent(ready("mgd", same_width(setting), weight=1.0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        value = method(lesson)["mgd"].item()
        torch.manual_seed(5)
        kept = torch.rand(6, 1, 2, 2) >= 0.5
    assert 0 < kept.sum() < kept.numel()
    assert value == pytest.approx(literal(lesson.student.last * kept, lesson.teacher.last), rel=1e-5)


def test_without_a_mask_a_transparent_generator_gives_the_plain_difference():
    setting, lesson = make()
    lesson = positive(lesson)
    method = transparent(ready("mgd", same_width(setting), ratio=0.0))
    terms = method(lesson)
    assert set(terms) == {"mgd"}
    assert terms["mgd"].item() == pytest.approx(7e-5 * literal(lesson.student.last, lesson.teacher.last), rel=1e-5)
    twins = dataclasses.replace(lesson, teachers=(lesson.student,))
    assert method(twins)["mgd"].item() == 0


@pytest.mark.parametrize("pair", ["cnn<cnn", "cnn<vit", "vit<cnn"])
def test_generates_the_teachers_map_in_its_channels_at_the_smaller_size(pair):
    setting, lesson = make(pair)
    method = ready("mgd", setting, weight=1.0, ratio=0.0)
    size = min(lesson.student.last.shape[2], lesson.teacher.last.shape[2])
    small = [F.adaptive_avg_pool2d(grid.detach(), size) for grid in (lesson.student.last, lesson.teacher.last)]
    weights = [method.align, method.generator[0], method.generator[2]]
    made = F.conv2d(small[0], weights[0].weight, weights[0].bias)
    made = F.conv2d(made, weights[1].weight, weights[1].bias, padding=1).clamp(min=0)
    made = F.conv2d(made, weights[2].weight, weights[2].bias, padding=1)
    assert method(lesson)["mgd"].item() == pytest.approx(literal(made.detach(), small[1]), rel=1e-4)


def test_equal_channels_are_not_aligned():
    setting, _ = make()
    assert not list(ready("mgd", same_width(setting)).align.parameters())
    assert list(ready("mgd", setting).align.parameters())


def test_the_mask_follows_torchs_generator():
    setting, lesson = make()
    method = ready("mgd", setting)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        first, second = method(lesson)["mgd"], method(lesson)["mgd"]
        torch.manual_seed(3)
        assert torch.equal(method(lesson)["mgd"], first)
    assert not torch.equal(first, second)


def test_other_shapes_and_missing_maps_are_refused():
    with pytest.raises(ShapeMismatch, match="'last'"):
        generation_loss(torch.zeros(4, 2, 3, 3), torch.zeros(4, 3, 3, 3))
    setting, _ = make()
    mapless = dataclasses.replace(setting, teachers=(dataclasses.replace(setting.teacher, stages=()),))
    with pytest.raises(ShapeMismatch, match=r"'last': student gives shape \(10, 2, 2\), teacher gives \(\)"):
        ready("mgd", mapless)


def test_defaults_are_those_of_the_literature():
    options = build_method(MethodSpec(name="mgd")).options
    assert (options.weight, options.ratio, options.mask) == (7e-5, 0.5, "positions")


@pytest.mark.parametrize("wrong", [{"weight": -1}, {"ratio": 1.0}, {"ratio": -0.1}, {"mask": "pixels"}, {"beta": 1}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"option '{next(iter(wrong))}'"):
        build_method(MethodSpec(name="mgd", options=wrong))
