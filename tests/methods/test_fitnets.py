"""Hints: against a literal reading of the formula, and a run in two parts."""

import dataclasses

import pytest
import torch
from lessons import EPOCHS, make, ready

from kdbench.errors import ConfigError, ShapeMismatch, TrainError
from kdbench.method import build_method
from kdbench.methods.fitnets import hint_loss, in_first_part, paired_maps
from kdbench.methods.kd import softened_kl
from kdbench.types import MethodSpec


def maps(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]


def literal(student, teacher, weight, bias):
    """A 1x1 convolution and the mean squared difference, number by number."""
    total, count = 0.0, 0
    for image, target in zip(student.tolist(), teacher.tolist(), strict=True):
        for channel, row in enumerate(weight.tolist()):
            for h, line in enumerate(target[channel]):
                for w, wanted in enumerate(line):
                    said = bias[channel].item() + sum(k * image[c][h][w] for c, k in enumerate(row))
                    total, count = total + (said - wanted) ** 2, count + 1
    return total / count


@pytest.mark.parametrize("hint", [1, 2, 4])
def test_equals_the_formula(hint):
    setting, lesson = make(samples=3)
    method = ready("fitnets", setting, hint=hint, weight=7.0)
    student, teacher = lesson.student.stages[hint - 1], lesson.teacher.stages[hint - 1]
    expected = literal(student, teacher, method.regressor.weight.flatten(1), method.regressor.bias)
    terms = method(lesson)
    assert set(terms) == {"fitnets"}
    assert terms["fitnets"].item() == pytest.approx(7 * expected, rel=1e-5)


@pytest.mark.parametrize(("pair", "sizes"), [("cnn<vit", [7, 7, 4, 2]), ("vit<cnn", [7, 7, 4, 2])])
def test_maps_are_compared_at_the_smaller_size(pair, sizes):
    _, lesson = make(pair)
    assert [student.shape[2] for student, _ in paired_maps(lesson)] == sizes
    assert [teacher.shape[2] for _, teacher in paired_maps(lesson)] == sizes


def test_gradcheck():
    student, teacher = maps(2, 3, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: hint_loss(s, teacher), (student.requires_grad_(),))


def test_is_zero_where_the_maps_agree_and_there_alone():
    student, teacher = maps(2, 3, 2, 2)
    assert hint_loss(teacher.clone(), teacher).item() == 0
    assert hint_loss(student, teacher).item() > 0.1


def test_other_shapes_are_refused():
    with pytest.raises(
        ShapeMismatch, match=r"'hint': student gives shape \(2, 3, 2, 2\), teacher gives \(2, 4, 2, 2\)"
    ):
        hint_loss(torch.zeros(2, 3, 2, 2), torch.zeros(2, 4, 2, 2))


def test_missing_stages_are_refused():
    setting, lesson = make()
    bare = dataclasses.replace(lesson, student=dataclasses.replace(lesson.student, stages=()))
    with pytest.raises(ShapeMismatch, match="'stages'"):
        ready("fitnets", setting)(bare)


def test_a_stage_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(TrainError, match="'hint': there is no stage 5; student and teacher share the stages 1 to 4"):
        ready("fitnets", make()[0], hint=5)


def test_one_part_learns_hint_and_labels_together():
    setting, lesson = make(epoch=EPOCHS - 1)
    method = ready("fitnets", setting, kd_weight=0.5)
    assert set(method(lesson)) == {"fitnets", "kd"}
    assert [method.hard_weight_at(epoch, EPOCHS) for epoch in range(EPOCHS)] == [1.0] * EPOCHS


def test_two_parts_learn_the_hint_alone_and_then_the_logits_alone():
    setting, _ = make()
    method = ready("fitnets", setting, two_stage=True, hint_fraction=0.5, kd_weight=0.5)
    said = [method(make(epoch=epoch)[1]) for epoch in range(4)]
    assert [set(terms) for terms in said] == [{"fitnets"}, {"fitnets"}, {"kd"}, {"kd"}]
    assert [method.hard_weight_at(epoch, 4) for epoch in range(4)] == [0.0, 0.0, 1.0, 1.0]
    lesson = make(epoch=3)[1]
    expected = 0.5 * softened_kl(lesson.student.logits, lesson.teacher.logits, 4.0)
    assert said[3]["kd"].item() == pytest.approx(expected.item())
    assert ready("fitnets", setting, two_stage=True)(lesson) == {}


def test_the_hint_moves_nothing_above_its_stage():
    setting, lesson = make(epoch=0)
    ready("fitnets", setting, two_stage=True, kd_weight=1.0)(lesson)["fitnets"].backward()
    assert [stage.grad is not None for stage in lesson.student.stages] == [False, True, False, False]


@pytest.mark.parametrize(
    ("fraction", "epochs", "first"),
    [(0.25, 4, 1), (0.25, 5, 2), (0.125, 240, 30), (0.07, 100, 7), (0.99, 4, 3), (0.5, 1, 0), (0.0, 8, 0)],
)
def test_the_first_part_is_rounded_up_and_never_takes_the_last_epoch(fraction, epochs, first):
    expected = [True] * first + [False] * (epochs - first)
    assert [in_first_part(epoch, epochs, fraction) for epoch in range(epochs)] == expected


def test_one_epoch_has_no_two_parts():
    setting = dataclasses.replace(make()[0], epochs=1)
    with pytest.raises(TrainError, match="'fitnets' works in two parts, not in 1 epoch"):
        ready("fitnets", setting, two_stage=True)
    ready("fitnets", setting)


def test_defaults_are_those_of_the_literature():
    options = build_method(MethodSpec(name="fitnets")).options
    assert (options.weight, options.hint, options.two_stage, options.hint_fraction) == (100.0, 2, False, 0.25)


@pytest.mark.parametrize(
    "option", [{"weight": -1}, {"hint": 0}, {"hint": 1.5}, {"hint_fraction": 0}, {"hint_fraction": 1}]
)
def test_wrong_options_are_refused(option):
    with pytest.raises(ConfigError, match=f"option '{next(iter(option))}'"):
        build_method(MethodSpec(name="fitnets", options=option))
