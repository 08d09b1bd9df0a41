"""Knowledge review: against a literal reading of the formula, against a peer, and over the epochs."""

import dataclasses

import pytest
import torch
from lessons import make, ready

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.method import build_method
from kdbench.methods.reviewkd import Fusion, hierarchical_context
from kdbench.types import MethodSpec


def maps(size=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, size, size, generator=generator, dtype=torch.float64)
    return student.to(dtype), teacher.to(dtype)


def literal(student, teacher):
    """The difference of block means is the block mean of differences; sizes are powers of two."""
    gap = (student - teacher).double()
    size = gap.shape[2]
    levels = [size] + [level for level in (4, 2, 1) if level < size]
    total = 0.0
    for rank, level in enumerate(levels):
        step = size // level
        means = [gap[n, c, h * step : (h + 1) * step, w * step : (w + 1) * step].mean().item()
                 for n in range(2) for c in range(3) for h in range(level) for w in range(level)]  # fmt: skip
        total += 0.5**rank * sum(mean**2 for mean in means) / len(means)
    return total / sum(0.5**rank for rank in range(len(levels)))


@pytest.mark.parametrize("size", [8, 4, 2, 1])
def test_loss_equals_the_formula(size):
    student, teacher = maps(size)
    assert hierarchical_context(student, teacher).item() == pytest.approx(literal(student, teacher), rel=1e-5)


@pytest.mark.parametrize("size", [8, 7, 4, 3, 1])
def test_loss_equals_torchdistill(size):
    peers = pytest.importorskip("torchdistill.losses.mid_level")
    student, teacher = maps(size)
    peer = peers.HierarchicalContextLoss("s", "output", "t", "output", output_sizes=[4, 2, 1])
    expected = peer({"s": {"output": (student, None)}}, {"t": {"output": teacher}})
    assert hierarchical_context(student, teacher).item() == pytest.approx(expected.item(), rel=1e-5)


def test_review_equals_torchdistill():
    """Its modules with our weights, on stages of like sizes, where both mean the same."""
    peers = pytest.importorskip("torchdistill.losses.mid_level")
    wrappers = pytest.importorskip("torchdistill.models.wrapper")
    setting, lesson = make("cnn<cnn")
    method = ready("reviewkd", setting)
    peer_loss = peers.HierarchicalContextLoss("s", "output", "t", "output")
    expected, handed = 0.0, None
    for i in reversed(range(4)):
        student, teacher = lesson.student.stages[i], lesson.teacher.stages[i]
        peer = wrappers.AttentionBasedFusion(student.shape[1], 10, teacher.shape[1], uses_attention=i < 3).train()
        renamed = {"conv1": "enter", "conv2": "leave", "attention_conv": "attend"}
        state = method.fusions[i].state_dict()
        peer.load_state_dict({key: state[key.replace(key.split(".")[0], renamed[key.split(".")[0]])]
                              for key in peer.state_dict()})  # fmt: skip
        answer, handed = peer(student, handed, student.shape[2])
        expected += peer_loss({"s": {"output": (answer, None)}}, {"t": {"output": teacher}})
    assert method(lesson)["reviewkd"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_every_stage_of_the_teacher_reaches_all_deeper_stages_of_the_student():
    setting, lesson = make("cnn<cnn")
    method = ready("reviewkd", setting)
    handed, answers = None, []
    for i in reversed(range(4)):
        handed, answer, target = method.fusions[i](lesson.student.stages[i], handed, lesson.teacher.stages[i])
        answers.insert(0, hierarchical_context(answer, target))
    for i, answer in enumerate(answers):
        grads = torch.autograd.grad(answer, lesson.student.stages, retain_graph=True, allow_unused=True)
        assert [grad is not None and grad.abs().sum().item() > 0 for grad in grads] == [j >= i for j in range(4)]


@pytest.mark.parametrize("pair", ["vit<cnn", "cnn<vit"])
def test_equal_sizes_over_stages_will_do(pair):
    setting, lesson = make(pair)
    method = ready("reviewkd", setting)
    handed = None
    for i, size in zip(reversed(range(4)), (2, 4, 7, 7), strict=True):
        handed, answer, target = method.fusions[i](lesson.student.stages[i], handed, lesson.teacher.stages[i])
        assert handed.shape[2:] == lesson.student.stages[i].shape[2:]
        assert answer.shape == target.shape == (6, lesson.teacher.stages[i].shape[1], size, size)


def test_attention_mixes_position_by_position():
    fusion = Fusion(3, 2, 5, fuses=True).eval()
    stage, deeper, target = torch.randn(2, 3, 4, 4), torch.randn(2, 2, 2, 2), torch.randn(2, 5, 4, 4)
    with torch.no_grad():
        fusion.attend[0].weight.zero_()
        fusion.attend[0].bias.copy_(torch.tensor([0.0, 50.0]))  # shares of a half and of all
    spread = deeper.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(fusion(stage, deeper, target)[0], 0.5 * fusion.enter(stage) + spread)


def test_gradcheck():
    student, teacher = maps(4, torch.float64)
    assert torch.autograd.gradcheck(lambda s: hierarchical_context(s, teacher), (student.requires_grad_(),))


def test_is_zero_where_the_maps_agree():
    student, teacher = maps()
    assert hierarchical_context(teacher.clone(), teacher).item() == 0
    assert hierarchical_context(student, teacher).item() > 0.1


@pytest.mark.parametrize(
    ("warmup", "epochs", "expected"),
    [
        (1 / 12, 240, {0: 0.0, 10: 0.5, 20: 1.0, 239: 1.0}),
        (0.5, 4, {0: 0.0, 1: 0.5, 2: 1.0, 3: 1.0}),
        (1 / 12, 4, {0: 1.0, 3: 1.0}),  # less than an epoch is none
        (1 / 12, 1, {0: 1.0}),
        (0.0, 4, {0: 1.0, 3: 1.0}),
    ],
)
def test_warm_up(warmup, epochs, expected):
    setting, lesson = make()
    method = ready("reviewkd", setting, warmup=warmup, weight=3.0).eval()
    full = ready("reviewkd", setting, warmup=0.0).eval()(lesson)["reviewkd"].item()
    for epoch, part in expected.items():
        at = dataclasses.replace(lesson, epoch=epoch, epochs=epochs)
        assert method(at)["reviewkd"].item() == pytest.approx(3 * part * full, rel=1e-5)


def test_missing_stages_are_refused():
    setting, lesson = make()
    bare = dataclasses.replace(lesson, teachers=(dataclasses.replace(lesson.teacher, stages=()),))
    with pytest.raises(ShapeMismatch, match="'stages'"):
        ready("reviewkd", setting)(bare)


def test_other_shapes_are_refused():
    with pytest.raises(ShapeMismatch, match="'stages': student gives shape"):
        hierarchical_context(maps(4)[0], maps(8)[1])


def test_defaults_are_those_of_the_literature():
    options = build_method(MethodSpec(name="reviewkd")).options
    assert (options.weight, options.warmup) == (1.0, 20 / 240)


@pytest.mark.parametrize("option", [{"weight": -1}, {"warmup": -0.1}, {"warmup": 1.5}])
def test_wrong_options_are_refused(option):
    with pytest.raises(ConfigError, match=f"option '{next(iter(option))}'"):
        build_method(MethodSpec(name="reviewkd", options=option))
