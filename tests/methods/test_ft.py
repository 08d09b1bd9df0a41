"""Factor transfer: against a literal reading of the formula, against a peer, and over the epochs."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from lessons import EPOCHS, make, ready

from kdbench.errors import ConfigError, ShapeMismatch, TrainError
from kdbench.method import build_method
from kdbench.methods.ft import factor_loss
from kdbench.types import MethodSpec


def literal(student, teacher, p):
    total = 0.0
    for ours, theirs in zip(student.double().flatten(1).tolist(), teacher.double().flatten(1).tolist(), strict=True):
        gaps = [s / math.hypot(*ours) - t / math.hypot(*theirs) for s, t in zip(ours, theirs, strict=True)]
        total += sum(map(abs, gaps)) / len(gaps) if p == 1 else math.hypot(*gaps)
    return total / len(student)


def maps(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 3, 2, generator=generator, dtype=torch.float64)
    return student.to(dtype), teacher.to(dtype)


@pytest.mark.parametrize("p", [1, 2])
def test_equals_the_formula(p):
    student, teacher = maps()
    assert factor_loss(student, teacher, p).item() == pytest.approx(literal(student, teacher, p), rel=1e-5)


@pytest.mark.parametrize("p", [1, 2])
def test_equals_torchdistill(p):
    """Its modules with our weights, its loss on what they say."""
    peers = pytest.importorskip("torchdistill.losses.mid_level")
    wrappers = pytest.importorskip("torchdistill.models.wrapper")
    setting, lesson = make("cnn<cnn", epoch=EPOCHS - 1)
    method = ready("ft", setting, p=p)
    paraphraser = wrappers.Paraphraser4FactorTransfer(0.5, 20, uses_bn=False, uses_decoder=False)
    translator = wrappers.Translator4FactorTransfer(10, 10, uses_bn=False)
    paraphraser.encoder.load_state_dict(method.paraphraser.state_dict())
    translator.load_state_dict(method.translator.state_dict())
    student = {"translator": {"output": translator(lesson.student.last)}}
    teacher = {"paraphraser": {"output": paraphraser(lesson.teacher.last)}}
    expected = 500 * peers.FTLoss(p=p)(student, teacher)
    assert method(lesson)["ft"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("p", [1, 2])
def test_is_zero_up_to_a_factor_in_each_image(p):
    student, teacher = maps()
    scale = torch.tensor([0.5, 3.0, 20.0])[:, None, None, None]
    assert factor_loss(scale * teacher, teacher, p).item() == pytest.approx(0, abs=1e-6)
    assert factor_loss(student, teacher, p).item() > 1e-2


@pytest.mark.parametrize("p", [1, 2])
def test_gradcheck(p):
    student, teacher = maps(torch.float64)
    assert torch.autograd.gradcheck(lambda s: factor_loss(s, teacher, p), (student.requires_grad_(),))


@pytest.mark.parametrize("p", [1, 2])
def test_a_factor_of_zeros_has_no_direction_and_no_gradient(p):
    _, teacher = maps()
    student = torch.zeros(3, 4, 3, 2, requires_grad=True)
    loss = factor_loss(student, teacher, p)
    loss.backward()
    assert loss.item() > 0
    assert student.grad.abs().sum() == 0
    assert factor_loss(torch.zeros_like(teacher), torch.zeros_like(teacher), p).item() == 0


def test_the_paraphraser_learns_first_to_give_the_teacher_back():
    setting, lesson = make(epoch=0)
    method = ready("ft", setting)
    terms = method(lesson)
    teacher = lesson.teacher.last
    assert set(terms) == {"ft_paraphraser"}
    expected = F.mse_loss(method.decoder(method.paraphraser(teacher)), teacher)
    assert terms["ft_paraphraser"].item() == pytest.approx(expected.item())
    terms["ft_paraphraser"].backward()
    assert all(
        parameter.grad is not None for parameter in (*method.paraphraser.parameters(), *method.decoder.parameters())
    )
    assert all(parameter.grad is None for parameter in method.translator.parameters())
    assert lesson.student.last.grad is None
    assert method.hard_weight_at(0, EPOCHS) == 1.0


def test_the_paraphraser_stands_still_afterwards():
    setting, lesson = make(epoch=EPOCHS - 1)
    method = ready("ft", setting)
    terms = method(lesson)
    assert set(terms) == {"ft"}
    terms["ft"].backward()
    assert all(parameter.grad is None for parameter in (*method.paraphraser.parameters(), *method.decoder.parameters()))
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.translator.parameters())
    assert lesson.student.last.grad.abs().sum() > 0


@pytest.mark.parametrize("pair", ["cnn<vit", "vit<cnn", "mobile<cnn"])
def test_the_paraphraser_can_be_trained(pair):
    """A few steps bring the reconstruction down: the first part is there for something."""
    setting, lesson = make(pair)
    method = ready("ft", setting)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = method(lesson)["ft_paraphraser"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize(("rate", "channels"), [(0.5, 10), (0.01, 1), (2.0, 40)])
def test_rate_is_the_factors_share_of_the_teachers_channels(rate, channels):
    setting, lesson = make()
    assert ready("ft", setting, rate=rate).paraphraser(lesson.teacher.last).shape == (6, channels, 2, 2)


def test_the_logits_term_is_there_in_both_parts():
    method = ready("ft", make()[0], kd_weight=1.0)
    assert [set(method(make(epoch=epoch)[1])) for epoch in (0, 3)] == [{"ft_paraphraser", "kd"}, {"ft", "kd"}]


def test_one_epoch_has_no_two_parts():
    with pytest.raises(TrainError, match="'ft' works in two parts, not in 1 epoch"):
        ready("ft", dataclasses.replace(make()[0], epochs=1))


def test_other_shapes_are_refused():
    with pytest.raises(ShapeMismatch, match="'last': student gives shape"):
        factor_loss(torch.zeros(3, 5, 3, 2), maps()[1])


def test_defaults_are_those_of_the_literature():
    options = build_method(MethodSpec(name="ft")).options
    assert (options.weight, options.rate, options.p, options.init_fraction) == (500.0, 0.5, 1, 30 / 240)


@pytest.mark.parametrize(
    "option", [{"weight": -1}, {"rate": 0}, {"rate": 5}, {"p": 3}, {"init_fraction": 0}, {"init_fraction": 1}]
)
def test_wrong_options_are_refused(option):
    with pytest.raises(ConfigError, match=f"option '{next(iter(option))}'"):
        build_method(MethodSpec(name="ft", options=option))
