"""Variational information: against a literal reading of the formula, against a peer, and as it is trained."""

import math

import pytest
import torch
from lessons import make, ready

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.method import build_method
from kdbench.methods.fitnets import paired_maps
from kdbench.methods.vid import information_loss
from kdbench.types import MethodSpec


def literal(mean, variance, teacher):
    total, count = 0.0, 0
    for ours, theirs in zip(mean.tolist(), teacher.tolist(), strict=True):
        for channel, s2 in enumerate(variance.tolist()):
            for lines in zip(ours[channel], theirs[channel], strict=True):
                for m, t in zip(*lines, strict=True):
                    total, count = total + 0.5 * ((m - t) ** 2 / s2 + math.log(s2)), count + 1
    return total / count


def maps(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    mean, teacher = torch.randn(2, 3, 4, 3, 2, generator=generator, dtype=torch.float64)
    return mean.to(dtype), torch.tensor([0.1, 0.9, 2.0, 7.0], dtype=dtype), teacher.to(dtype)


def test_equals_the_formula():
    assert information_loss(*maps()).item() == pytest.approx(literal(*maps()), rel=1e-5)


@pytest.mark.parametrize("pair", ["cnn<cnn", "cnn<vit", "vit<cnn"])
def test_equals_torchdistill(pair):
    """Its regressors with our weights, its loss on what they say."""
    peers = pytest.importorskip("torchdistill.losses.mid_level")
    wrappers = pytest.importorskip("torchdistill.models.wrapper")
    setting, lesson = make(pair)
    method = ready("vid", setting)
    with torch.no_grad():
        for predict in method.predictors:
            predict.spread += torch.randn_like(predict.spread)
    student, teacher, named = {}, {}, {}
    for i, ((ours, theirs), predict) in enumerate(zip(paired_maps(lesson), method.predictors, strict=True)):
        channels = theirs.shape[1]
        peer = wrappers.Regressor4VID(ours.shape[1], channels, channels, eps=1e-5, init_pred_var=5.0)
        torch.testing.assert_close(
            torch.nn.functional.softplus(peer.soft_plus_param) + 1e-5, torch.full((channels,), 5.0)
        )
        peer.regressor.load_state_dict(predict.mean.state_dict())
        peer.soft_plus_param.data.copy_(predict.spread)
        student[str(i)], teacher[str(i)] = {"output": peer(ours)}, {"output": theirs}
        named[f"p{i}"] = {side: {"path": str(i), "io": "output"} for side in ("student", "teacher")}
    expected = peers.VIDLoss(named)(student, teacher)
    assert method(lesson)["vid"].item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_variance_begins_where_it_is_asked_to():
    setting, lesson = make()
    for initial in (5.0, 0.01, 50.0):
        predictor = ready("vid", setting, initial_variance=initial).predictors[0]
        torch.testing.assert_close(predictor(lesson.student.stages[0])[1], torch.full((8,), initial), rtol=1e-5, atol=0)


def test_the_variance_is_trained():
    """Each channel's goes to the mean squared error there, where the loss is least."""
    setting, lesson = make()
    method = ready("vid", setting)
    predictor = method.predictors[3]
    for parameter in predictor.mean.parameters():
        parameter.requires_grad_(False)
    optimizer = torch.optim.Adam([predictor.spread], lr=0.1)
    for _ in range(400):
        optimizer.zero_grad()
        method(lesson)["vid"].backward()
        optimizer.step()
    mean, variance = predictor(lesson.student.stages[3])
    error = (mean - lesson.teacher.stages[3]).square().mean((0, 2, 3))
    torch.testing.assert_close(variance, error, rtol=2e-2, atol=1e-3)


def test_is_least_where_the_prediction_is_the_teachers():
    mean, variance, teacher = maps()
    least = 0.5 * variance.log().mean().item()
    assert information_loss(teacher.clone(), variance, teacher).item() == pytest.approx(least, rel=1e-5)
    assert information_loss(mean, variance, teacher).item() > least + 0.1


def test_gradcheck():
    mean, variance, teacher = maps(torch.float64)
    inputs = mean.requires_grad_(), variance.requires_grad_()
    assert torch.autograd.gradcheck(lambda m, v: information_loss(m, v, teacher), inputs)


def test_other_shapes_are_refused():
    mean, variance, teacher = maps()
    with pytest.raises(ShapeMismatch, match="'stages'"):
        information_loss(mean[:, :3], variance, teacher)
    with pytest.raises(ShapeMismatch, match="'variance'"):
        information_loss(mean, variance[:1], teacher)


def test_defaults_are_those_of_the_literature():
    options = build_method(MethodSpec(name="vid")).options
    assert (options.weight, options.initial_variance) == (1.0, 5.0)


@pytest.mark.parametrize("option", [{"weight": -1}, {"initial_variance": 0}, {"initial_variance": 100}])
def test_wrong_options_are_refused(option):
    with pytest.raises(ConfigError, match=f"option '{next(iter(option))}'"):
        build_method(MethodSpec(name="vid", options=option))
