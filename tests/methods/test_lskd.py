"""Standardised logits: against another library, against the formula, and rows that have no deviation."""

import dataclasses
import math
import statistics

import pytest
import torch
import torch.nn.functional as F
from lessons import lesson_of, make, ready, two_logits

from kdbench.errors import ConfigError, TrainError
from kdbench.method import build_method
from kdbench.methods.dkd import dkd_loss
from kdbench.methods.lskd import standardised
from kdbench.types import MethodSpec


def literal(student, teacher, temperature):
    total = 0.0
    for zs, zt in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        scaled = [[(z - statistics.mean(row)) / statistics.stdev(row) / temperature for z in row] for row in (zs, zt)]
        s, t = ([math.exp(z) / sum(math.exp(x) for x in row) for z in row] for row in scaled)
        total += sum(b * math.log(b / a) for a, b in zip(s, t, strict=True))
    return temperature**2 * total / len(student)


@pytest.mark.parametrize(("temperature", "weight"), [(2.0, 9.0), (1.0, 1.0), (4.0, 0.5)])
@pytest.mark.parametrize(("samples", "classes"), [(8, 5), (1, 5), (4, 3)])
def test_equals_the_formula(temperature, weight, samples, classes):
    student, teacher, _ = two_logits(samples, classes)
    method = build_method(MethodSpec(name="lskd", options={"temperature": temperature, "weight": weight}))
    terms = method(lesson_of(student, teacher))
    assert set(terms) == {"lskd"}
    assert terms["lskd"].item() == pytest.approx(weight * literal(student, teacher, temperature), abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 6.0])
def test_equals_torchdistill(temperature):
    peers = pytest.importorskip("torchdistill.losses.mid_level")
    student, teacher, targets = two_logits(16, 5)
    # without alpha it forgets T^2
    peer = peers.LogitStdKDLoss("s", "output", "t", "output", temperature=temperature, alpha=0.1, beta=9.0)
    expected = peer({"s": {"output": student}}, {"t": {"output": teacher}}, targets)
    method = build_method(MethodSpec(name="lskd", options={"temperature": temperature}))
    ours = method(lesson_of(student, teacher, targets))["lskd"] + method.hard_weight * F.cross_entropy(student, targets)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)


def test_dkd_can_be_the_base():
    student, teacher, targets = two_logits()
    method = build_method(MethodSpec(name="lskd", options={"base": "dkd"}))
    z = [(part - part.mean(1, keepdim=True)) / part.std(1, keepdim=True) for part in (student, teacher)]
    expected = 9.0 * dkd_loss(*z, targets, 1.0, 8.0, 2.0)
    assert method(lesson_of(student, teacher, targets))["lskd"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert method.hard_weight == 1.0


def test_dkd_as_the_base_keeps_its_warmup():
    """20 of 240 epochs, so 2 of 24."""
    method = build_method(MethodSpec(name="lskd", options={"base": "dkd"}))
    lesson = lesson_of(*two_logits())
    terms = [method(dataclasses.replace(lesson, epoch=epoch, epochs=24))["lskd"].item() for epoch in range(3)]
    assert terms == pytest.approx([terms[2] / 2, terms[2], terms[2]])


def test_standardised_rows_have_mean_0_and_deviation_1():
    rows = standardised(100 * torch.randn(6, 7, generator=torch.Generator().manual_seed(0)) + 50)
    assert rows.mean(1).abs().max() < 1e-5
    assert rows.std(1).tolist() == pytest.approx([1.0] * 6, abs=1e-5)


def test_scale_and_offset_of_a_row_do_not_count():
    _, teacher, _ = two_logits()
    method = build_method(MethodSpec(name="lskd"))
    scales = torch.linspace(0.5, 20, 8)[:, None]
    assert method(lesson_of(scales * teacher + 3, teacher))["lskd"].item() == pytest.approx(0, abs=1e-5)
    assert method(lesson_of(teacher.roll(1, dims=1), teacher))["lskd"].item() > 0.1
    assert method(lesson_of(-teacher, teacher))["lskd"].item() > 0.1


def test_gradcheck():
    logits, _, _ = two_logits(3, 4, dtype=torch.float64)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(standardised, (logits,))


@pytest.mark.parametrize("value", [0.0, 0.1, -1e4])
def test_a_constant_row_is_zero_with_a_gradient_of_ordinary_size(value):
    _, teacher, _ = two_logits(3, 5)
    student = torch.full((3, 5), value).requires_grad_()
    loss = build_method(MethodSpec(name="lskd"))(lesson_of(student, teacher))["lskd"]
    loss.backward()
    assert standardised(student.detach()).abs().max() < 1e-2
    assert loss.isfinite()
    assert 1e-2 < student.grad.norm() < 1e2


def test_two_classes_keep_only_their_order():
    student, teacher, _ = two_logits(8, 2)
    rows = standardised(student)
    assert rows.abs().flatten().tolist() == pytest.approx([0.5**0.5] * 16, abs=1e-5)
    student.requires_grad_()
    loss = build_method(MethodSpec(name="lskd"))(lesson_of(student, teacher))["lskd"]
    loss.backward()
    assert loss.isfinite()
    assert student.grad.abs().max() < 1e-4


def test_two_classes_are_refused_without_ground_truth():
    ready("lskd", make(classes=2)[0])
    with pytest.raises(TrainError, match="no gradient with 2 classes"):
        ready("lskd", make(classes=2, ground_truth=False)[0])


def test_defaults_are_those_of_the_literature():
    method = build_method(MethodSpec(name="lskd"))
    assert method.options.model_dump() == {"base": "kd", "temperature": 2.0, "weight": 9.0}
    assert method.hard_weight == pytest.approx(0.1)


@pytest.mark.parametrize("options", [{"base": "dist"}, {"temperature": 0}, {"weight": 0}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError, match=f"option '{next(iter(options))}'"):
        build_method(MethodSpec(name="lskd", options=options))
