"""Attention transfer: against a literal reading of the formula, against a peer, and at the edges."""

import math

import pytest
import torch
import torch.nn.functional as F
from lessons import make, ready

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.method import build_method
from kdbench.methods.at import attention_loss
from kdbench.methods.fitnets import paired_maps
from kdbench.types import MethodSpec


def literal(student, teacher):
    def rows(grid):
        for image in grid.double():
            row = [sum(v * v for v in image[:, h, w].tolist()) / len(image)
                   for h in range(image.shape[1]) for w in range(image.shape[2])]  # fmt: skip
            length = math.sqrt(sum(v * v for v in row))
            yield [v / length for v in row]

    gaps = [(s - t) ** 2 for ours, theirs in zip(rows(student), rows(teacher), strict=True)
            for s, t in zip(ours, theirs, strict=True)]  # fmt: skip
    return sum(gaps) / len(gaps)


def maps(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(3, 4, 3, 2, generator=generator, dtype=torch.float64)
    return student.to(dtype), torch.randn(3, 5, 3, 2, generator=generator, dtype=torch.float64).to(dtype)


def test_equals_the_formula():
    student, teacher = maps()
    assert attention_loss(student, teacher).item() == pytest.approx(literal(student, teacher), rel=1e-5)


@pytest.mark.parametrize("pair", ["cnn<cnn", "cnn<vit", "vit<cnn"])
def test_equals_torchdistill(pair):
    peers = pytest.importorskip("torchdistill.losses.mid_level")
    setting, lesson = make(pair)
    taken = paired_maps(lesson)  # it pools nothing itself
    named = {f"p{i}": {side: {"path": str(i), "io": "output"} for side in ("student", "teacher")} for i in range(4)}
    student, teacher = ({str(i): {"output": pair[side]} for i, pair in enumerate(taken)} for side in (0, 1))
    expected = 1000 * peers.ATLoss(named, mode="code")(student, teacher)
    assert ready("at", setting)(lesson)["at"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_sizes_are_matched_by_pooling():
    _, lesson = make("cnn<vit")
    pooled = F.adaptive_avg_pool2d(lesson.student.stages[0], 7)
    torch.testing.assert_close(paired_maps(lesson)[0][0], pooled)


def test_is_zero_up_to_a_factor_in_each_image():
    student, teacher = maps()
    scale = torch.tensor([0.5, 3.0, -20.0])[:, None, None, None]
    assert attention_loss(scale * teacher, teacher).item() == pytest.approx(0, abs=1e-10)
    assert attention_loss(student, teacher).item() > 1e-3


def test_gradcheck():
    student, teacher = maps(torch.float64)
    assert torch.autograd.gradcheck(lambda s: attention_loss(s, teacher), (student.requires_grad_(),))


def test_a_map_of_zeros_has_no_attention_and_no_gradient():
    _, teacher = maps()
    student = torch.zeros(3, 4, 3, 2, requires_grad=True)
    loss = attention_loss(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(1 / 6, rel=1e-5)  # that of a unit vector of six numbers
    assert student.grad.abs().sum() == 0


@pytest.mark.parametrize("shape", [(3, 4, 2, 3), (2, 4, 3, 2), (3, 4, 1, 1)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ShapeMismatch, match="'stages': student gives shape"):
        attention_loss(torch.zeros(shape), maps()[1])


def test_defaults_are_those_of_the_literature():
    assert build_method(MethodSpec(name="at")).options.weight == 1000.0


@pytest.mark.parametrize("option", [{"weight": -1}, {"weight": "much"}, {"kd_weight": -1}, {"kd_temperature": 0}])
def test_wrong_options_are_refused(option):
    with pytest.raises(ConfigError, match=f"option '{next(iter(option))}'"):
        build_method(MethodSpec(name="at", options=option))
