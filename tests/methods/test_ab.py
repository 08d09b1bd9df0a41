"""Activation boundaries: against a literal reading of the formula, against a peer, and over the epochs."""

import dataclasses

import pytest
import torch
from lessons import EPOCHS, make, ready
from torch import nn

from kdbench.errors import ConfigError, ShapeMismatch, TrainError
from kdbench.method import build_method
from kdbench.methods.ab import SteadyNorm, boundary_loss, halving
from kdbench.methods.fitnets import paired_maps
from kdbench.types import MethodSpec


def literal(student, teacher, margin):
    total = 0.0
    for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
        if t <= 0 and s > -margin:
            total += (s + margin) ** 2
        if t > 0 and s <= margin:
            total += (s - margin) ** 2
    return total / len(student)


def maps(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 3, 2, generator=generator, dtype=torch.float64)
    return (2 * student).to(dtype), teacher.to(dtype)


@pytest.mark.parametrize("margin", [0.5, 1.0, 3.0])
def test_equals_the_formula(margin):
    student, teacher = maps()
    assert boundary_loss(student, teacher, margin).item() == pytest.approx(literal(student, teacher, margin), rel=1e-5)


@pytest.mark.parametrize("pair", ["cnn<cnn", "vit<cnn"])
def test_equals_torchdistill(pair):
    peers = pytest.importorskip("torchdistill.losses.mid_level")
    setting, lesson = make(pair)
    method = ready("ab", setting)
    connected = [(connect(s), t) for (s, t), connect in zip(paired_maps(lesson), method.connectors, strict=True)]
    named = {
        f"p{i}": {"weight": 0.5 ** (3 - i)}
        | {side: {"path": str(i), "io": "output"} for side in ("student", "teacher")}
        for i in range(4)
    }
    student, teacher = ({str(i): {"output": pair[side]} for i, pair in enumerate(connected)} for side in (0, 1))
    expected = 3e-3 * peers.AltActTransferLoss(named, margin=1.0, reduction="mean")(student, teacher)
    assert method(lesson)["ab"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_only_the_side_of_zero_is_read_of_the_teacher():
    student, teacher = maps()
    loss = boundary_loss(student, teacher, 1.0)
    assert torch.equal(boundary_loss(student, teacher.relu(), 1.0), loss)
    assert torch.equal(boundary_loss(student, 100 * teacher, 1.0), loss)
    assert not torch.equal(boundary_loss(student, -teacher, 1.0), loss)


def test_is_zero_beyond_the_margin():
    _, teacher = maps()
    side = torch.where(teacher > 0, 1.0, -1.0)
    assert boundary_loss(1.25 * side, teacher, 1.0).item() == 0
    assert boundary_loss(0.5 * side, teacher, 1.0).item() == pytest.approx(0.25 * 24)  # 24 numbers in an image


def test_gradcheck():
    student, teacher = maps(torch.float64)
    assert torch.autograd.gradcheck(lambda s: boundary_loss(s, teacher, 1.0), (student.requires_grad_(),))


def test_stages_count_half_as_much_towards_the_shallow_end():
    assert halving(4) == [0.125, 0.25, 0.5, 1.0]


def test_boundaries_come_first_and_alone():
    setting, _ = make()
    method = ready("ab", setting, init_fraction=0.5, kd_weight=1.0)
    said = [set(method(make(epoch=epoch)[1])) for epoch in range(EPOCHS)]
    assert said == [{"ab"}, {"ab"}, {"kd"}, {"kd"}]
    assert [method.hard_weight_at(epoch, EPOCHS) for epoch in range(EPOCHS)] == [0.0, 0.0, 1.0, 1.0]
    assert ready("ab", setting)(make(epoch=EPOCHS - 1)[1]) == {}


def test_one_epoch_has_no_two_parts():
    with pytest.raises(TrainError, match="'ab' works in two parts, not in 1 epoch"):
        ready("ab", dataclasses.replace(make()[0], epochs=1))


def test_normalisation_bears_a_single_value():
    norm = SteadyNorm(3).train()
    norm(torch.randn(8, 3, 2, 2) * 4 + 1)
    kept = norm.running_mean.clone()
    one = torch.randn(1, 3, 1, 1)
    torch.testing.assert_close(norm(one), (one - kept[:, None, None]) / (norm.running_var[:, None, None] + 1e-5).sqrt())
    assert torch.equal(norm.running_mean, kept)
    plain = nn.BatchNorm2d(3)
    two = torch.randn(2, 3, 1, 1)
    assert torch.equal(norm(two), plain(two))


def test_other_shapes_are_refused():
    with pytest.raises(ShapeMismatch, match="'stages': student gives shape"):
        boundary_loss(torch.zeros(3, 5, 3, 2), maps()[1], 1.0)


def test_defaults_are_those_of_the_literature():
    options = build_method(MethodSpec(name="ab")).options
    assert (options.weight, options.margin, options.init_fraction, options.kd_weight) == (3e-3, 1.0, 30 / 240, 0.0)


@pytest.mark.parametrize("option", [{"weight": -1}, {"margin": 0}, {"init_fraction": 0}, {"init_fraction": 1}])
def test_wrong_options_are_refused(option):
    with pytest.raises(ConfigError, match=f"option '{next(iter(option))}'"):
        build_method(MethodSpec(name="ab", options=option))
