"""Probabilistic knowledge transfer: against a peer, against the formula, and at the edges."""

import math

import pytest
import torch
from lessons import make, ready

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.method import build_method
from kdbench.methods.pkt import pkt_loss
from kdbench.methods.sp import unit_rows
from kdbench.types import MethodSpec


def literal(student, teacher):
    """Mean over the pairs of t log((t + e) / (s + e)), in float64."""

    def neighbourhoods(vectors):
        rows = vectors.double().tolist()
        units = [[v / (math.sqrt(sum(w * w for w in row)) or 1.0) for v in row] for row in rows]
        odds = [[(sum(a * b for a, b in zip(u, v, strict=True)) + 1) / 2 for v in units] for u in units]
        return [[value / sum(row) for value in row] for row in odds]

    total = 0.0
    for ours, theirs in zip(neighbourhoods(student), neighbourhoods(teacher), strict=True):
        total += sum(t * math.log((t + 1e-7) / (s + 1e-7)) for s, t in zip(ours, theirs, strict=True))
    return total / len(student) ** 2


def vectors(samples=6, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(samples, 4, generator=generator, dtype=torch.float64)
    teacher = torch.randn(samples, 7, generator=generator, dtype=torch.float64)
    return student.to(dtype), teacher.to(dtype)


@pytest.mark.parametrize("samples", [2, 6, 12])
def test_equals_the_formula(samples):
    student, teacher = vectors(samples)
    expected = literal(student, teacher)
    assert expected > 1e-3
    assert pkt_loss(student, teacher).item() == pytest.approx(expected, rel=1e-4)
    assert pkt_loss(student.double(), teacher.double()).item() == pytest.approx(expected, rel=1e-6)


def test_equals_torchdistill():
    peers = pytest.importorskip("torchdistill.losses.mid_level")
    student, teacher = vectors(16)
    peer = peers.PKTLoss("s", "output", "t", "output")
    expected = peer({"s": {"output": student}}, {"t": {"output": teacher}})
    assert pkt_loss(student, teacher).item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-7)


def test_the_direction_is_teacher_to_student():
    student, teacher = vectors()
    assert pkt_loss(student, teacher).item() != pytest.approx(literal(teacher, student), rel=1e-2)


def test_gradcheck():
    student, teacher = vectors(4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: pkt_loss(x, teacher), (student.requires_grad_(),))


def test_is_zero_at_equality_up_to_scale_and_rotation():
    student, _ = vectors()
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))[0]
    assert pkt_loss(student, 3 * student @ rotation).item() == pytest.approx(0, abs=1e-7)
    assert pkt_loss(student, student.roll(1, 0)).item() > 1e-3


def test_a_single_image_has_no_neighbours():
    student, teacher = vectors(1)
    student.requires_grad_()
    loss = pkt_loss(student, teacher)
    loss.backward()
    assert loss.item() == 0
    assert student.grad.abs().max() < 1e-6


def test_opposite_images_stay_finite():
    """Of some of these pairs the cosine rounds to less than -1, by more than the smallest of all odds makes up for."""
    below = 0.0
    for seed in range(40):
        vector = torch.rand(1, 4096, generator=torch.Generator().manual_seed(seed))
        student = torch.cat([vector, -vector]).requires_grad_()
        directions = unit_rows(student.detach())
        below = min(below, (directions @ directions.T + 1).min().item() / 2)
        loss = pkt_loss(student, vectors(2)[1])
        loss.backward()
        assert loss.isfinite()
        assert student.grad.isfinite().all()
    assert below < -1e-7


def test_a_dead_image_gets_no_runaway_gradient():
    student, teacher = vectors()
    student[2] = 0
    student.requires_grad_()
    loss = pkt_loss(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(literal(student.detach(), teacher), rel=1e-4)
    assert student.grad.abs().max() < 1
    assert student.grad[0].abs().sum() > 0


def test_weighs_the_pooled_vectors():
    setting, lesson = make()
    terms = ready("pkt", setting)(lesson)
    assert set(terms) == {"pkt"}
    expected = 30000 * literal(lesson.student.pooled.detach(), lesson.teacher.pooled)
    assert terms["pkt"].item() == pytest.approx(expected, rel=1e-4)


def test_other_batches_are_refused():
    with pytest.raises(ShapeMismatch, match="'pooled'"):
        pkt_loss(torch.zeros(4, 2), torch.zeros(5, 2))


def test_defaults_are_those_of_the_literature():
    assert build_method(MethodSpec(name="pkt")).options.weight == 30000


@pytest.mark.parametrize("wrong", [{"weight": -1}, {"kd_weight": -1}, {"beta": 1}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"option '{next(iter(wrong))}'"):
        build_method(MethodSpec(name="pkt", options=wrong))
