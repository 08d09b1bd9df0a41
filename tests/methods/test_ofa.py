"""One-for-all: the raised target against the formula, and the heads that every stage gets."""

import dataclasses
import math

import pytest
import torch
from lessons import PAIRS, leaves, make, ready, two_logits
from torch import nn

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.method import build_method
from kdbench.methods.kd import softened_kl
from kdbench.methods.ofa import ofa_loss, stage_head
from kdbench.types import MethodSpec


def softmax(row):
    powers = [math.exp(z) for z in row]
    return [power / sum(powers) for power in powers]


def literal(student, teacher, targets, eps):
    total = 0.0
    for zs, zt, y in zip(student.double().tolist(), teacher.double().tolist(), targets.tolist(), strict=True):
        for k, (s, t) in enumerate(zip(softmax(zs), softmax(zt), strict=True)):
            mark = 1.0 if k == y else 0.0
            total -= ((t + mark) ** eps - mark) * math.log(s)
    return total / len(student)


@pytest.mark.parametrize("eps", [1.0, 1.5, 2.0])
@pytest.mark.parametrize(("samples", "classes"), [(8, 5), (1, 5), (8, 2)])
def test_equals_the_formula(eps, samples, classes):
    student, teacher, targets = two_logits(samples, classes)
    expected = literal(student, teacher, targets, eps)
    assert ofa_loss(student, teacher, targets, eps).item() == pytest.approx(expected, rel=1e-5)
    assert ofa_loss(student.double(), teacher.double(), targets, eps).item() == pytest.approx(expected, rel=1e-10)


def test_is_cross_entropy_with_the_teacher_at_eps_1_and_least_at_equality():
    student, teacher, targets = two_logits(dtype=torch.float64)
    entropy = -(teacher.softmax(1) * teacher.log_softmax(1)).sum(1).mean()
    assert ofa_loss(teacher, teacher, targets, 1.0).item() == pytest.approx(entropy.item(), rel=1e-10)
    gap = ofa_loss(student, teacher, targets, 1.0) - entropy
    assert gap.item() == pytest.approx(softened_kl(student, teacher, 1.0).item(), rel=1e-10)


def test_a_larger_eps_pulls_more_at_the_target():
    student, teacher, targets = torch.zeros(1, 4), torch.tensor([[1.0, 0.5, 0.0, -1.0]]), torch.tensor([0])
    pulls = []
    for eps in (1.0, 1.5, 2.0):
        leaf = student.clone().requires_grad_()
        ofa_loss(leaf, teacher, targets, eps).backward()
        pulls.append(-leaf.grad[0, 0].item())
    assert pulls == sorted(pulls)
    assert pulls[0] < pulls[2]


def test_gradcheck():
    student, teacher, targets = two_logits(3, 4, dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: ofa_loss(z, teacher, targets, 1.5), (student,))


def test_sure_networks_stay_finite():
    student = (1e4 * torch.eye(4)).requires_grad_()
    loss = ofa_loss(student, 1e4 * torch.eye(4).roll(1, dims=0), torch.arange(4), 1.5)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("pair", PAIRS)
def test_every_stage_of_the_student_has_a_head_that_speaks_the_teachers_classes(pair):
    setting, lesson = make(pair)
    method = ready("ofa", setting)
    assert len(method.heads) == len(setting.student.stages)
    for head, stage in zip(method.heads, lesson.student.stages, strict=True):
        assert head(stage).shape == (6, 5)


def test_terms_are_the_logits_and_the_sum_over_the_stages():
    setting, lesson = make("cnn<vit")
    method = ready("ofa", setting, weight=2.0, stage_weight=3.0)
    terms = method(lesson)
    teacher, targets = lesson.teacher.logits, lesson.targets
    assert set(terms) == {"ofa", "ofa_stages"}
    assert terms["ofa"].item() == pytest.approx(2 * literal(lesson.student.logits, teacher, targets, 1.5), rel=1e-5)
    said = [head(stage) for head, stage in zip(method.heads, lesson.student.stages, strict=True)]
    expected = 3 * sum(literal(each.detach(), teacher, targets, 1.5) for each in said)
    assert terms["ofa_stages"].item() == pytest.approx(expected, rel=1e-5)


def test_every_stage_and_every_head_learns_from_the_stages_term():
    setting, lesson = make("cnn<vit")
    method = ready("ofa", setting)
    method(lesson)["ofa_stages"].backward()
    assert all(leaf.grad.abs().sum() > 0 for leaf in leaves(lesson))
    assert all(any(parameter.grad.abs().sum() > 0 for parameter in head.parameters()) for head in method.heads)


def test_heads_learn_what_the_teacher_says():
    """The least of the loss is not 0: it falls towards that of a student that repeats the teacher."""
    setting, lesson = make("cnn<vit")
    method = ready("ofa", setting, eps=1.0)
    still = dataclasses.replace(
        lesson,
        student=dataclasses.replace(
            lesson.student,
            logits=lesson.student.logits.detach(),
            stages=tuple(stage.detach() for stage in lesson.student.stages),
        ),
    )
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    least = 4 * ofa_loss(lesson.teacher.logits, lesson.teacher.logits, lesson.targets, 1.0).item()
    first = method(still)["ofa_stages"].item() - least
    for _ in range(60):
        optimizer.zero_grad()
        method(still)["ofa_stages"].backward()
        optimizer.step()
    assert method(still)["ofa_stages"].item() - least < 0.2 * first


def test_a_head_halves_its_grid_and_never_normalises_over_the_batch():
    head = stage_head(channels=8, halvings=3, width=16, classes=5)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in head.modules())
    assert head[:-4](torch.zeros(2, 8, 16, 16)).shape == (2, 8, 2, 2)
    one = torch.randn(1, 8, 1, 1, generator=torch.Generator().manual_seed(0))
    assert head(one).isfinite().all()


def test_the_deeper_a_stage_the_less_its_grid_is_halved():
    heads = ready("ofa", make()[0]).heads
    halvings = [sum(getattr(module, "stride", 0) == (2, 2) for module in head) for head in heads]
    assert halvings == [3, 2, 1, 0]


def test_no_heads_are_made_without_their_weight():
    setting, lesson = make()
    method = ready("ofa", setting, stage_weight=0.0)
    assert set(method(lesson)) == {"ofa"}
    assert not list(method.parameters())


def test_defaults_are_those_of_the_reference():
    method = build_method(MethodSpec(name="ofa"))
    assert method.options.model_dump() == {"eps": 1.5, "weight": 1.0, "stage_weight": 1.0}
    assert method.hard_weight == 1.0
    assert method.trains_classifier


@pytest.mark.parametrize("options", [{"eps": 0.5}, {"weight": 0}, {"stage_weight": -1}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError, match=f"option '{next(iter(options))}'"):
        build_method(MethodSpec(name="ofa", options=options))


def test_other_shapes_are_refused():
    with pytest.raises(ShapeMismatch):
        ofa_loss(torch.zeros(8, 5), torch.zeros(8, 4), torch.zeros(8, dtype=torch.int64), 1.5)
