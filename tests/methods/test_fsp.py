"""The flow of the solution procedure: against a literal reading of the formula, against a peer, and over the epochs."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from lessons import EPOCHS, make, ready
from torch import nn

from kdbench.errors import ConfigError, ShapeMismatch, TrainError
from kdbench.method import build_method
from kdbench.methods.fsp import flow, flow_loss
from kdbench.types import MethodSpec


def literal(shallow, deep):
    """G[n][i][j] = sum over positions of F1[n, i, h, w] F2[n, j, h, w] / (H W), of two maps of one size."""
    height, width = deep.shape[2:]
    return [
        [[sum(first[i][h][w] * second[j][h][w] for h in range(height) for w in range(width)) / (height * width)
          for j in range(len(second))] for i in range(len(first))]
        for first, second in zip(shallow.tolist(), deep.tolist(), strict=True)
    ]  # fmt: skip


def maps(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shallow = torch.randn(2, 3, 4, 2, generator=generator, dtype=torch.float64)
    return shallow.to(dtype), torch.randn(2, 5, 4, 2, generator=generator, dtype=torch.float64).to(dtype)


def test_flow_equals_the_formula():
    shallow, deep = maps()
    torch.testing.assert_close(flow(shallow, deep), torch.tensor(literal(shallow, deep)), rtol=1e-5, atol=1e-6)


def test_flow_equals_torchdistill():
    peers = pytest.importorskip("torchdistill.losses.mid_level")
    shallow, deep = maps()
    torch.testing.assert_close(flow(shallow, deep), peers.FSPLoss.compute_fsp_matrix(shallow, deep))


def test_the_larger_map_is_pooled():
    shallow, deep = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)
    assert torch.equal(flow(shallow, deep), flow(F.avg_pool2d(shallow, 2), deep))
    assert flow(deep, shallow).shape == (2, 5, 3)


@pytest.mark.parametrize("pair", ["cnn<cnn", "vit<cnn"])
def test_is_the_sum_over_neighbours(pair):
    setting, lesson = make(pair)
    method = ready("fsp", setting)
    ours = [project(stage) for stage, project in zip(lesson.student.stages, method.projectors, strict=True)]
    theirs = lesson.teacher.stages
    expected = sum((flow(*ours[i : i + 2]) - flow(*theirs[i : i + 2])).square().mean() for i in range(3))
    assert method(lesson)["fsp"].item() == pytest.approx(50 * expected.item(), rel=1e-5)


def test_is_zero_where_the_flows_agree():
    shallow, deep = maps()
    assert flow_loss((shallow, deep), (shallow, deep)).item() == 0
    assert flow_loss((-shallow, -deep), (shallow, deep)).item() == 0  # a flow does not know the sign of both
    assert flow_loss(maps(1), (shallow, deep)).item() > 1e-2


def test_gradcheck():
    shallow, deep = (part.requires_grad_() for part in maps(1, torch.float64))
    teacher = maps(0, torch.float64)
    assert torch.autograd.gradcheck(lambda *student: flow_loss(student, teacher), (shallow, deep))


def test_only_unlike_channels_are_projected():
    setting, _ = make()
    like = dataclasses.replace(setting.student, stages=((8, 16, 16), (6, 8, 8), (16, 4, 4), (10, 2, 2)))
    kinds = [type(part) for part in ready("fsp", dataclasses.replace(setting, student=like)).projectors]
    assert kinds == [nn.Identity, nn.Conv2d, nn.Identity, nn.Conv2d]


def test_together_or_first_and_alone():
    setting, _ = make()
    joint, first = ready("fsp", setting, kd_weight=1.0), ready("fsp", setting, kd_weight=1.0, init_fraction=0.5)
    lessons = [make(epoch=epoch)[1] for epoch in range(EPOCHS)]
    assert [set(joint(lesson)) for lesson in lessons] == [{"fsp", "kd"}] * 4
    assert [joint.hard_weight_at(epoch, EPOCHS) for epoch in range(EPOCHS)] == [1.0] * 4
    assert [set(first(lesson)) for lesson in lessons] == [{"fsp"}, {"fsp"}, {"kd"}, {"kd"}]
    assert [first.hard_weight_at(epoch, EPOCHS) for epoch in range(EPOCHS)] == [0.0, 0.0, 1.0, 1.0]


def test_one_epoch_has_no_two_parts():
    setting = dataclasses.replace(make()[0], epochs=1)
    with pytest.raises(TrainError, match="'fsp' works in two parts, not in 1 epoch"):
        ready("fsp", setting, init_fraction=0.5)
    ready("fsp", setting)


def test_one_stage_has_no_neighbour():
    setting, _ = make()
    short = dataclasses.replace(setting.student, stages=setting.student.stages[-1:])
    with pytest.raises(TrainError, match="student and teacher have 1 and 4, it needs 2 of each"):
        ready("fsp", dataclasses.replace(setting, student=short))


def test_other_shapes_are_refused():
    shallow, deep = maps()
    with pytest.raises(ShapeMismatch, match=r"student gives shape \(2, 5, 3\), teacher gives \(2, 3, 5\)"):
        flow_loss((deep, shallow), (shallow, deep))


def test_defaults_are_those_of_the_literature():
    options = build_method(MethodSpec(name="fsp")).options
    assert (options.weight, options.init_fraction) == (50.0, 0.0)


@pytest.mark.parametrize("option", [{"weight": -1}, {"init_fraction": 1}, {"init_fraction": -0.1}])
def test_wrong_options_are_refused(option):
    with pytest.raises(ConfigError, match=f"option '{next(iter(option))}'"):
        build_method(MethodSpec(name="fsp", options=option))
