"""Relational distillation: against a peer at ordinary inputs, against the formula, and where the peer fails."""

import math

import pytest
import torch
from lessons import make, ready

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.method import build_method
from kdbench.methods.rkd import rkd_loss
from kdbench.types import MethodSpec


def huber(gap):
    return 0.5 * gap * gap if abs(gap) < 1 else abs(gap) - 0.5


def literal(student, teacher, distance_weight, angle_weight):
    """Pair by pair and triple by triple, in float64."""

    def relations(vectors):
        rows = vectors.double().tolist()
        count = len(rows)
        gaps = [[[b - a for a, b in zip(rows[i], rows[j], strict=True)] for j in range(count)] for i in range(count)]
        lengths = [[math.sqrt(sum(g * g for g in gap)) for gap in row] for row in gaps]
        positive = [length for row in lengths for length in row if length > 0]
        mean = sum(positive) / len(positive) if positive else 1.0
        angles = []
        for i in range(count):
            for j in range(count):
                for k in range(count):
                    product = sum(a * b for a, b in zip(gaps[i][j], gaps[i][k], strict=True))
                    size = lengths[i][j] * lengths[i][k]
                    angles.append(product / size if size else 0.0)
        return [length / mean for row in lengths for length in row], angles

    (ours, our_angles), (theirs, their_angles) = relations(student), relations(teacher)
    distances = sum(huber(s - t) for s, t in zip(ours, theirs, strict=True)) / len(ours)
    angles = sum(huber(s - t) for s, t in zip(our_angles, their_angles, strict=True)) / len(our_angles)
    return distance_weight * distances + angle_weight * angles


def vectors(samples=6, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(samples, 4, generator=generator, dtype=torch.float64)
    teacher = torch.randn(samples, 7, generator=generator, dtype=torch.float64)
    return student.to(dtype), teacher.to(dtype)


@pytest.mark.parametrize("samples", [2, 3, 6])
@pytest.mark.parametrize(("distance_weight", "angle_weight"), [(25, 50), (1, 0), (0, 1)])
def test_equals_the_formula(samples, distance_weight, angle_weight):
    student, teacher = vectors(samples)
    expected = literal(student, teacher, distance_weight, angle_weight)
    assert rkd_loss(student, teacher, distance_weight, angle_weight).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("distance_weight", "angle_weight"), [(25.0, 50.0), (1.0, 2.0)])
def test_equals_torchdistill(distance_weight, angle_weight):
    peers = pytest.importorskip("torchdistill.losses.mid_level")
    student, teacher = vectors(16)
    peer = peers.RKDLoss("s", "t", distance_weight, angle_weight, "mean")
    expected = peer({"s": {"output": student}}, {"t": {"output": teacher}})
    assert rkd_loss(student, teacher, distance_weight, angle_weight).item() == pytest.approx(expected.item(), abs=1e-5)


def test_equals_a_case_by_hand():
    # distances 1, 1, 2 and 1, 1, 1: over their means 3/4, 3/4, 3/2 and 1, 1, 1
    student = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])
    expected = 2 * (2 * huber(0.25) + huber(0.5)) / 9
    assert rkd_loss(student, teacher, 1.0, 0.0).item() == pytest.approx(expected, rel=1e-6)


def test_gradcheck():
    student, teacher = vectors(4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: rkd_loss(x, teacher), (student.requires_grad_(),))


def test_gradcheck_with_the_same_image_twice():
    """The pair itself has no gradient; the others have the right one."""
    student, teacher = vectors(4, dtype=torch.float64)
    apart = student[:3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rkd_loss(torch.cat([x, x[:1]]), teacher), (apart,))


def test_is_zero_at_equality_up_to_scale_rotation_and_shift():
    student, _ = vectors()
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))[0]
    assert rkd_loss(student, 3 * student @ rotation + 1.5).item() == pytest.approx(0, abs=1e-8)
    assert rkd_loss(student, student.roll(1, 0)).item() > 0.1


@pytest.mark.parametrize("rows", [[0], [0, 0], [0, 0, 1], [0, 0, 1, 1, 2], [0, 0, 0, 0]])
def test_a_single_image_and_equal_images_have_a_loss_and_a_gradient(rows):
    student, teacher = vectors()
    student = student[rows].requires_grad_()
    for other in (teacher[: len(rows)], teacher[rows]):
        loss = rkd_loss(student, other)
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.item() == pytest.approx(literal(student.detach(), other, 25, 50), abs=1e-4)
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e3


def test_a_shift_costs_no_precision():
    student, teacher = vectors()
    assert rkd_loss(student + 1000, teacher).item() == pytest.approx(rkd_loss(student, teacher).item(), rel=1e-2)


def test_weighs_the_pooled_vectors():
    setting, lesson = make()
    terms = ready("rkd", setting, weight=0.5, distance_weight=2.0, angle_weight=3.0)(lesson)
    expected = 0.5 * literal(lesson.student.pooled.detach(), lesson.teacher.pooled, 2, 3)
    assert terms["rkd"].item() == pytest.approx(expected, rel=1e-5)
    assert set(terms) == {"rkd"}


def test_other_batches_are_refused():
    with pytest.raises(ShapeMismatch, match="'pooled'"):
        rkd_loss(torch.zeros(4, 2), torch.zeros(5, 2))


def test_defaults_are_those_of_the_literature():
    options = build_method(MethodSpec(name="rkd")).options
    assert (options.weight, options.distance_weight, options.angle_weight) == (1.0, 25.0, 50.0)


@pytest.mark.parametrize("wrong", [{"weight": -1}, {"distance_weight": -1}, {"angle_weight": -1}, {"beta": 1}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"option '{next(iter(wrong))}'"):
        build_method(MethodSpec(name="rkd", options=wrong))
