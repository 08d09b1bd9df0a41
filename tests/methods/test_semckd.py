"""Semantic calibration: against a literal reading of the formulas, and what its attention depends on."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from lessons import make, ready

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.method import build_method
from kdbench.methods.semckd import calibrated_loss, calibration, similarities
from kdbench.types import MethodSpec


def tensors(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 5), (2, 4, 5), (2, 3, 4))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def literal(queries, keys, differences):
    """Attention and loss, number by number."""
    total = 0.0
    for q, k, gaps in zip(queries.tolist(), keys.tolist(), differences.tolist(), strict=True):
        for query, row in zip(q, gaps, strict=True):
            powers = [math.exp(sum(a * b for a, b in zip(query, key, strict=True))) for key in k]
            total += sum(power * gap for power, gap in zip(powers, row, strict=True)) / sum(powers)
    return total / (len(queries) * queries.shape[1])


def test_equals_the_formula():
    queries, keys, differences = tensors()
    said = calibrated_loss(calibration(queries, keys), differences.abs())
    assert said.item() == pytest.approx(literal(queries, keys, differences.abs()), rel=1e-5)


@pytest.mark.parametrize("pair", ["cnn<cnn", "cnn<vit", "vit<cnn"])
def test_every_pair_of_stages_takes_part(pair):
    setting, lesson = make(pair)
    method = ready("semckd", setting, weight=2.0)
    student, teacher = lesson.student.stages, lesson.teacher.stages
    queries = torch.stack([method.queries[i](similarities(student[i], 64)) for i in range(4)], 1)
    keys = torch.stack([method.keys[j](similarities(teacher[j], 64)) for j in range(4)], 1)
    differences = torch.empty(6, 4, 4)
    for i in range(4):
        for j in range(4):
            size = min(student[i].shape[2], teacher[j].shape[2])
            regressed = method.regressors[4 * i + j](F.adaptive_avg_pool2d(student[i], size))
            gap = regressed - F.adaptive_avg_pool2d(teacher[j], size)
            differences[:, i, j] = gap.square().mean((1, 2, 3))
    terms = method(lesson)
    assert set(terms) == {"semckd"}
    assert terms["semckd"].item() == pytest.approx(2 * literal(queries, keys, differences), rel=1e-4)


@pytest.mark.parametrize("anchors", [2, 6, 9])
def test_similarities_are_inner_products_cut_or_filled_up(anchors):
    grid = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    said = similarities(grid, anchors)
    assert said.shape == (6, anchors)
    for n in range(6):
        for k in range(anchors):
            expected = (grid[n] * grid[k]).sum().item() if k < 6 else 0.0
            assert said[n, k].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("samples", [1, 6, 12])
def test_one_method_bears_batches_of_any_size(samples):
    method = ready("semckd", make()[0], anchors=8)
    assert method(make(samples=samples)[1])["semckd"].isfinite()


def test_shares_are_a_distribution_over_the_teachers_stages():
    queries, keys, _ = tensors()
    shares = calibration(queries, keys)
    torch.testing.assert_close(shares.sum(2), torch.ones(2, 3))
    assert shares.min() > 0
    assert torch.equal(calibration(torch.zeros_like(queries), keys), torch.full((2, 3, 4), 0.25))


def test_attention_is_trained_and_moves_the_student():
    setting, lesson = make()
    method = ready("semckd", setting)
    method(lesson)["semckd"].backward()
    for part in (*method.queries, *method.keys, *method.regressors):
        assert all(parameter.grad.abs().sum() > 0 for parameter in part.parameters())
    assert all(stage.grad.abs().sum() > 0 for stage in lesson.student.stages)


def test_is_zero_where_nothing_differs():
    queries, keys, differences = tensors()
    shares = calibration(queries, keys)
    assert calibrated_loss(shares, torch.zeros(2, 3, 4)).item() == 0
    assert calibrated_loss(shares, differences.abs()).item() > 0.1


def test_gradcheck():
    queries, keys, differences = (part.requires_grad_() for part in tensors(torch.float64))
    assert torch.autograd.gradcheck(lambda q, k, d: calibrated_loss(calibration(q, k), d), (queries, keys, differences))


def test_other_shapes_are_refused():
    queries, keys, differences = tensors()
    with pytest.raises(ShapeMismatch, match=r"student gives shape \(2, 3, 4\), teacher gives \(2, 4, 3\)"):
        calibrated_loss(calibration(queries, keys), differences.transpose(1, 2))


def test_missing_stages_are_refused():
    setting, lesson = make()
    bare = dataclasses.replace(lesson, teachers=(dataclasses.replace(lesson.teacher, stages=()),))
    with pytest.raises(ShapeMismatch, match="'stages'"):
        ready("semckd", setting)(bare)


def test_defaults_are_those_of_the_literature():
    assert build_method(MethodSpec(name="semckd")).options.weight == 400.0


@pytest.mark.parametrize("option", [{"weight": -1}, {"anchors": 0}, {"anchors": 1.5}])
def test_wrong_options_are_refused(option):
    with pytest.raises(ConfigError, match=f"option '{next(iter(option))}'"):
        build_method(MethodSpec(name="semckd", options=option))
