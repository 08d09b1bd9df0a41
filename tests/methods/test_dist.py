"""Correlations of rows and columns: against another library, against the formula, and where nothing varies."""

import math

import pytest
import torch
from lessons import lesson_of, two_logits

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.method import build_method
from kdbench.methods.dist import correlation, dist_loss
from kdbench.types import MethodSpec


def pearson(x, y):
    mx, my = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return covariance / math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))


def literal(student, teacher, beta, gamma, temperature):
    s = [[math.exp(z / temperature) for z in row] for row in student.double().tolist()]
    t = [[math.exp(z / temperature) for z in row] for row in teacher.double().tolist()]
    s, t = ([[value / sum(row) for value in row] for row in rows] for rows in (s, t))
    rows = sum(pearson(a, b) for a, b in zip(s, t, strict=True)) / len(s)
    columns = [pearson([r[k] for r in s], [r[k] for r in t]) for k in range(len(s[0]))]
    return temperature**2 * (beta * (1 - rows) + gamma * (1 - sum(columns) / len(columns)))


@pytest.mark.parametrize(("beta", "gamma", "temperature"), [(1, 1, 1), (2, 0, 4), (0, 0.5, 4)])
@pytest.mark.parametrize(("samples", "classes"), [(8, 5), (2, 5), (8, 2)])
def test_equals_the_formula(beta, gamma, temperature, samples, classes):
    student, teacher, _ = two_logits(samples, classes)
    expected = literal(student, teacher, beta, gamma, temperature)
    assert dist_loss(student, teacher, beta, gamma, temperature).item() == pytest.approx(
        expected, abs=1e-5 * temperature**2
    )
    exact = dist_loss(student.double(), teacher.double(), beta, gamma, temperature)
    assert exact.item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("beta", "gamma", "temperature"), [(1.0, 1.0, 1.0), (2.0, 0.5, 4.0)])
def test_equals_torchdistill(beta, gamma, temperature):
    peers = pytest.importorskip("torchdistill.losses.mid_level")
    student, teacher, _ = two_logits(16, 5)
    peer = peers.DISTLoss("s", "output", "t", "output", beta=beta, gamma=gamma, tau=temperature)
    expected = peer({"s": {"output": student}}, {"t": {"output": teacher}})
    options = {"beta": beta, "gamma": gamma, "temperature": temperature}
    terms = build_method(MethodSpec(name="dist", options=options))(lesson_of(student, teacher))
    assert set(terms) == {"dist"}
    assert terms["dist"].item() == pytest.approx(expected.item(), abs=1e-5)


def test_correlation_ignores_scale_and_offset():
    rows = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    assert correlation(rows, 3 * rows + 2).tolist() == pytest.approx([1.0] * 4, abs=1e-5)
    assert correlation(rows, 1 - rows).tolist() == pytest.approx([-1.0] * 4, abs=1e-5)


def test_is_zero_at_equality_and_only_there():
    student, teacher, _ = two_logits()
    assert dist_loss(teacher, teacher, 1.0, 1.0, 1.0).item() == pytest.approx(0, abs=1e-5)
    assert dist_loss(student, teacher, 1.0, 1.0, 1.0).item() > 0.1


def test_gradcheck():
    student, teacher, _ = two_logits(3, 4, dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: dist_loss(z, teacher, 1.0, 1.0, 2.0), (student,))


@pytest.mark.parametrize("value", [0.0, 1 / 3, 1e4])
def test_a_constant_row_correlates_with_nothing_and_keeps_a_gradient_of_ordinary_size(value):
    constant = torch.full((2, 5), value).requires_grad_()
    other = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    result = correlation(constant, other)
    assert result.tolist() == pytest.approx([0.0, 0.0], abs=1e-2)
    result.sum().backward()
    assert 0.1 < constant.grad.norm() < 10


def test_a_dead_student_gets_a_gradient_of_ordinary_size():
    _, teacher, _ = two_logits()
    student = torch.zeros(8, 5, requires_grad=True)
    loss = dist_loss(student, teacher, 1.0, 1.0, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(2.0, abs=1e-5)
    assert 1e-3 < student.grad.norm() < 10


def test_one_image_relates_to_no_other():
    student, teacher, _ = two_logits(1)
    assert dist_loss(student, teacher, 0.0, 1.0, 1.0).item() == 0.0
    assert dist_loss(student, teacher, 1.0, 1.0, 1.0).item() == dist_loss(student, teacher, 1.0, 0.0, 1.0).item()


def test_sure_networks_stay_finite():
    student, teacher, _ = (1000 * part for part in two_logits())
    student.requires_grad_()
    loss = dist_loss(student, teacher, 1.0, 1.0, 1.0)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_defaults_are_those_of_the_literature():
    method = build_method(MethodSpec(name="dist"))
    assert method.options.model_dump() == {"beta": 1.0, "gamma": 1.0, "temperature": 1.0}
    assert method.hard_weight == 1.0


@pytest.mark.parametrize("options", [{"beta": -1}, {"gamma": -1}, {"temperature": 0}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError, match=f"option '{next(iter(options))}'"):
        build_method(MethodSpec(name="dist", options=options))


def test_other_shapes_are_refused():
    with pytest.raises(ShapeMismatch):
        dist_loss(torch.zeros(8, 5), torch.zeros(7, 5), 1.0, 1.0, 1.0)
