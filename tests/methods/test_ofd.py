"""The overhaul: against a literal reading of the formula, and margins against their closed form."""

import math

import pytest
import torch
from lessons import make, ready

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.method import build_method
from kdbench.methods.fitnets import paired_maps
from kdbench.methods.ofd import Margins, partial_l2
from kdbench.types import MethodSpec


def literal(student, teacher, margins):
    total = 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        for channel, margin in enumerate(margins.tolist()):
            for lines in zip(ours[channel], theirs[channel], strict=True):
                for s, t in zip(*lines, strict=True):
                    t = max(t, margin)
                    total += 0.0 if s <= t <= 0 else (s - t) ** 2
    return total / len(student)


def maps(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 3, 2, generator=generator, dtype=torch.float64)
    return student.to(dtype), teacher.to(dtype), torch.tensor([-0.8, -0.1, 0.0, -5.0], dtype=dtype)


def test_equals_the_formula():
    student, teacher, margins = maps()
    expected = literal(student, teacher, margins)
    assert expected > 1
    assert partial_l2(student, teacher, margins).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("pair", ["cnn<cnn", "vit<cnn"])
def test_is_the_sum_over_stages_halving_towards_the_shallow_end(pair):
    setting, lesson = make(pair)
    method = ready("ofd", setting)
    expected = 0.0
    for i, ((student, teacher), connect) in enumerate(zip(paired_maps(lesson), method.connectors, strict=True)):
        margins = torch.stack([channel[channel < 0].mean() for channel in teacher.transpose(0, 1)])
        expected += 0.5 ** (3 - i) * literal(connect(student), teacher, margins)
    assert method(lesson)["ofd"].item() == pytest.approx(1e-3 * expected, rel=1e-4)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (2.0, 2.0, 0.0),
        (1.0, 2.0, 1.0),  # a positive response has to be met
        (-1.0, 2.0, 9.0),
        (-0.5, -0.4, 0.0),  # low enough
        (-9.0, -9.0, 0.0),
        (0.5, -0.4, 0.81),  # too high: down to the teacher's
        (0.5, -9.0, 2.25),  # or to the margin, where the teacher's is below it
        (-0.5, -9.0, 0.25),
        (-1.0, -9.0, 0.0),
    ],
)
def test_what_a_response_costs(student, teacher, expected):
    said = partial_l2(torch.full((1, 1, 1, 1), student), torch.full((1, 1, 1, 1), teacher), torch.tensor([-1.0]))
    assert said.item() == pytest.approx(expected)


def test_gradcheck():
    student, teacher, margins = maps(torch.float64)
    assert torch.autograd.gradcheck(lambda s: partial_l2(s, teacher, margins), (student.requires_grad_(),))


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.7, 1.5), (-1.0, 0.5)])
def test_margins_are_those_the_paper_reads_off_batch_normalisation(mean, deviation):
    """E[x | x < 0] of a normal distribution, which is what such a layer's output is taken for."""
    below = 0.5 * math.erfc(mean / deviation / math.sqrt(2))
    expected = mean - deviation * math.exp(-((mean / deviation) ** 2) / 2) / math.sqrt(2 * math.pi) / below
    responses = mean + deviation * torch.randn(64, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    assert Margins(1).train()(responses).item() == pytest.approx(expected, rel=1e-2)


def test_margins_are_means_over_all_batches_and_stand_still_otherwise():
    margins = Margins(3).train()
    batches = [torch.randn(4, 3, 2, 2), 5 * torch.randn(2, 3, 3, 3), torch.rand(4, 3, 2, 2)]
    for batch in batches:
        batch[:, 2].abs_()
        said = margins(batch)
    channels = [torch.cat([batch[:, c].flatten() for batch in batches]) for c in (0, 1)]
    expected = torch.stack([channel[channel < 0].mean() for channel in channels] + [torch.tensor(0.0)])
    torch.testing.assert_close(said, expected)
    margins.eval()
    assert torch.equal(margins(-torch.ones(4, 3, 2, 2)), said)


def test_margins_are_saved():
    setting, lesson = make()
    method, twin = ready("ofd", setting), ready("ofd", setting)
    method(lesson)
    assert not torch.equal(method.margins[0].mean, twin.margins[0].mean)
    twin.load_state_dict(method.state_dict())
    assert torch.equal(method.margins[0].mean, twin.margins[0].mean)
    assert torch.equal(method.margins[0].count, twin.margins[0].count)


def test_other_shapes_are_refused():
    student, teacher, margins = maps()
    with pytest.raises(ShapeMismatch, match="'stages'"):
        partial_l2(student[:, :3], teacher, margins)
    with pytest.raises(ShapeMismatch, match="'margins'"):
        partial_l2(student, teacher, margins[:1])


def test_defaults_are_those_of_the_literature():
    assert build_method(MethodSpec(name="ofd")).options.weight == 1e-3


@pytest.mark.parametrize("option", [{"weight": -1}, {"weight": "much"}, {"kd_weight": -1}])
def test_wrong_options_are_refused(option):
    with pytest.raises(ConfigError, match=f"option '{next(iter(option))}'"):
        build_method(MethodSpec(name="ofd", options=option))
