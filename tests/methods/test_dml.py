"""Mutual learning: both losses against a literal reading, who learns from which, and the peer that is kept along."""

import dataclasses
import math

import pytest
import torch
from lessons import make, ready
from torch import nn

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.method import build_method
from kdbench.methods.dml import mutual_loss
from kdbench.types import MethodSpec


def softmax(row, temperature=1.0):
    powers = [math.exp(z / temperature) for z in row]
    return [power / sum(powers) for power in powers]


def literal(student, peer, targets, temperature=1.0):
    """(KL(peer || student), cross-entropy of the peer + KL(student || peer)), number by number in float64."""
    for_student = for_peer = 0.0
    for zs, zp, target in zip(student.double().tolist(), peer.double().tolist(), targets.tolist(), strict=True):
        ps, pp = softmax(zs, temperature), softmax(zp, temperature)
        for_student += temperature**2 * sum(p * math.log(p / s) for s, p in zip(ps, pp, strict=True))
        for_peer += temperature**2 * sum(s * math.log(s / p) for s, p in zip(ps, pp, strict=True))
        for_peer -= math.log(softmax(zp)[target])
    return for_student / len(student), for_peer / len(student)


def logits(samples=6, classes=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(2)
    student, peer = (2 * torch.randn(samples, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.to(dtype), peer.to(dtype), torch.arange(samples) % classes


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize(("samples", "classes"), [(6, 4), (1, 4), (6, 2)])
def test_equals_the_formula(temperature, samples, classes):
    student, peer, targets = logits(samples, classes)
    expected = literal(student, peer, targets, temperature)
    assert min(expected) > 1e-2
    ours = mutual_loss(student, peer, targets, temperature)
    assert [term.item() for term in ours] == pytest.approx(expected, rel=1e-5)


def test_the_directions_are_those_of_the_paper():
    student, peer, targets = logits()
    for_student, for_peer = (term.item() for term in mutual_loss(student, peer, targets))
    turned = mutual_loss(peer, student, targets)[0].item()
    assert for_student != pytest.approx(turned, rel=1e-2)
    own = torch.nn.functional.cross_entropy(peer, targets).item()
    assert for_peer == pytest.approx(own + turned, rel=1e-5)


def test_each_learns_from_its_own_term_alone():
    student, peer, targets = logits()
    student.requires_grad_()
    peer.requires_grad_()
    for_student, for_peer = mutual_loss(student, peer, targets)
    assert torch.autograd.grad(for_student, peer, allow_unused=True, retain_graph=True)[0] is None
    assert torch.autograd.grad(for_peer, student, allow_unused=True, retain_graph=True)[0] is None
    gap = (student.softmax(1) - peer.softmax(1)).detach()
    torch.testing.assert_close(torch.autograd.grad(for_student, student)[0], gap / len(student))
    labelled = torch.nn.functional.one_hot(targets, student.shape[1])
    torch.testing.assert_close(
        torch.autograd.grad(for_peer, peer)[0], (-gap + peer.detach().softmax(1) - labelled) / len(peer)
    )


def test_gradcheck():
    student, peer, targets = logits(3, 4, torch.float64)
    student.requires_grad_()
    peer.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: mutual_loss(z, peer.detach(), targets)[0], (student,))
    assert torch.autograd.gradcheck(lambda z: mutual_loss(student.detach(), z, targets)[1], (peer,))


def test_nothing_is_to_be_learned_from_a_peer_that_agrees():
    student, _, targets = logits()
    for_student, for_peer = mutual_loss(student, student + 3.0, targets)
    assert for_student.item() == pytest.approx(0, abs=1e-6)
    assert for_peer.item() == pytest.approx(torch.nn.functional.cross_entropy(student, targets).item(), rel=1e-5)


def test_other_classes_are_refused():
    student, peer, targets = logits()
    with pytest.raises(ShapeMismatch):
        mutual_loss(student, peer[:, :3], targets)


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_the_peer_sees_what_the_student_was_shown(weight):
    setting, lesson = make(teachers=0)
    method = ready("dml", setting, weight=weight)
    terms = method(lesson)
    expected = literal(lesson.student.logits.detach(), method.peer(lesson.pixels).detach(), lesson.targets)
    assert list(terms) == ["mutual", "peer"]
    assert terms["mutual"].item() == pytest.approx(weight * expected[0], rel=1e-4)
    assert terms["peer"].item() == pytest.approx(expected[1], rel=1e-4)
    assert method.hard_weight == 1.0


def test_two_answers_are_one_mean():
    class TwoTokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = (nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 5)) for _ in "ab")

        def forward(self, pixels):
            return self.one(pixels), self.two(pixels)

    setting, lesson = make(teachers=0)
    method = ready("dml", dataclasses.replace(setting, fresh_student=TwoTokens))
    one, two = method.peer(lesson.pixels)
    expected = literal(lesson.student.logits.detach(), ((one + two) / 2).detach(), lesson.targets)
    assert [term.item() for term in method(lesson).values()] == pytest.approx(expected, rel=1e-4)


def test_the_peer_learns_alongside_and_is_saved():
    setting, lesson = make(teachers=0)
    method = ready("dml", setting)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05)
    before = method(lesson)["peer"].item()
    for _ in range(30):
        optimizer.zero_grad()
        method(lesson)["peer"].backward()
        optimizer.step()
    assert method(lesson)["peer"].item() < 0.9 * before
    twin = ready("dml", setting, seed=9)
    twin.load_state_dict(method.state_dict())
    assert torch.equal(twin.peer(lesson.pixels), method.peer(lesson.pixels))


def test_the_student_alone_is_shipped():
    setting, _ = make(teachers=0)
    student = nn.Linear(2, 2)
    assert ready("dml", setting).deploy(student) is student


def test_defaults_are_those_of_the_paper():
    assert build_method(MethodSpec(name="dml")).options.model_dump() == {"weight": 1.0, "temperature": 1.0}


@pytest.mark.parametrize("wrong", [{"weight": 0}, {"temperature": 0}, {"peers": 2}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build_method(MethodSpec(name="dml", options=wrong))


def test_it_does_not_work_without_labels():
    with pytest.raises(ConfigError, match="nothing to learn from without ground truth"):
        build_method(MethodSpec(name="dml", ground_truth=False))
