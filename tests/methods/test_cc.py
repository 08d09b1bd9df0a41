"""Correlation congruence: both losses that go by this name, against their formulas and against a peer."""

import math

import pytest
import torch
from lessons import make, ready

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.method import build_method
from kdbench.methods.cc import consecutive_loss, correlation_loss
from kdbench.methods.sp import unit_rows
from kdbench.types import MethodSpec


def literal_consecutive(student, teacher):
    """Mean over i of sum_d |s_i - t_i| |s_(i+1) - t_(i+1)|, in float64."""
    gaps = [
        [abs(s - t) for s, t in zip(ours, theirs, strict=True)]
        for ours, theirs in zip(student.double().tolist(), teacher.double().tolist(), strict=True)
    ]
    products = [sum(a * b for a, b in zip(gaps[i], gaps[i + 1], strict=True)) for i in range(len(gaps) - 1)]
    return sum(products) / len(products)


def literal_correlation(student, teacher, kernel):
    """|| C_s - C_t ||^2 / N^2 with the kernel of each pair; the Gaussian up to its second power."""

    def correlations(vectors):
        rows = vectors.double().tolist()
        units = [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in rows]
        cosines = [sum(a * b for a, b in zip(u, v, strict=True)) for u in units for v in units]
        if kernel == "bilinear":
            return cosines
        return [math.exp(-0.8) * (1 + 0.8 * c + (0.8 * c) ** 2 / 2) for c in cosines]

    pairs = zip(correlations(student), correlations(teacher), strict=True)
    return sum((s - t) ** 2 for s, t in pairs) / len(student) ** 2


def embeddings(samples=6, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(samples, 5, generator=generator, dtype=torch.float64)
    teacher = torch.randn(samples, 5, generator=generator, dtype=torch.float64)
    return student.to(dtype), teacher.to(dtype)


@pytest.mark.parametrize("samples", [2, 3, 9])
def test_consecutive_equals_the_formula(samples):
    student, teacher = embeddings(samples)
    expected = literal_consecutive(student, teacher)
    assert consecutive_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kernel", ["gaussian", "bilinear"])
@pytest.mark.parametrize("samples", [1, 2, 9])
def test_correlation_equals_the_formula(kernel, samples):
    student, teacher = embeddings(samples)
    expected = literal_correlation(student, teacher, kernel)
    assert correlation_loss(student, teacher, kernel).item() == pytest.approx(expected, rel=1e-4, abs=1e-10)


@pytest.mark.parametrize("kernel", ["gaussian", "bilinear"])
def test_correlation_equals_torchdistill(kernel):
    peers = pytest.importorskip("torchdistill.losses.mid_level")
    student, teacher = embeddings(16)
    # it takes the distance where the paper takes its square, and leaves the scaling to length 1 to others
    peer = peers.CCKDLoss("s", "t", {"type": kernel, "gamma": 0.4, "max_p": 2}, "sum")
    distance = peer({"s": {"output": unit_rows(student)}}, {"t": {"output": unit_rows(teacher)}})
    expected = distance.item() ** 2 / 16**2
    assert correlation_loss(student, teacher, kernel).item() == pytest.approx(expected, abs=1e-5)


def test_the_expansion_is_near_the_gaussian():
    """On the sphere exp(-g |x - y|^2) = exp(-2 g) exp(2 g x.y): the two powers leave less than a tenth of it."""
    cosine = torch.linspace(-1, 1, 9).double()
    expansion = math.exp(-0.8) * (1 + 0.8 * cosine + (0.8 * cosine) ** 2 / 2)
    assert (expansion - (-0.4 * (2 - 2 * cosine)).exp()).abs().max() < 0.1


@pytest.mark.parametrize(
    "loss",
    [
        consecutive_loss,
        lambda s, t: correlation_loss(s, t, "gaussian"),
        lambda s, t: correlation_loss(s, t, "bilinear"),
    ],
)
def test_gradcheck_and_zero_at_equality(loss):
    student, teacher = embeddings(4, dtype=torch.float64)
    assert loss(student, student).item() == 0
    assert loss(student, teacher).item() > 1e-3
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), (student.requires_grad_(),))


def test_a_single_image_has_no_next():
    student, teacher = embeddings(1)
    student.requires_grad_()
    loss = consecutive_loss(student, teacher)
    loss.backward()
    assert loss.item() == 0
    assert student.grad.abs().max() == 0


def test_which_images_follow_each_other_is_drawn():
    setting, lesson = make(samples=12)
    method = ready("cc", setting)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        first, second = method(lesson)["cc"], method(lesson)["cc"]
        torch.manual_seed(3)
        again = method(lesson)["cc"]
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("kernel", ["consecutive", "gaussian", "bilinear"])
def test_both_embeddings_are_trained(kernel):
    setting, lesson = make("cnn<vit")
    method = ready("cc", setting, kernel=kernel, weight=2.0, width=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        term = method(lesson)["cc"]
        torch.manual_seed(0)
        order = torch.randperm(6)
    ours = method.student_embedding(lesson.student.pooled).detach()[order]
    theirs = method.teacher_embedding(lesson.teacher.pooled).detach()[order]
    assert ours.shape == theirs.shape == (6, 16)
    expected = literal_consecutive(ours, theirs) if kernel == "consecutive" else None
    expected = literal_correlation(ours, theirs, kernel) if expected is None else expected
    assert term.item() == pytest.approx(2 * expected, rel=1e-4)
    term.backward()
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in method.named_parameters() if "weight" in name)


def test_other_shapes_are_refused():
    with pytest.raises(ShapeMismatch, match="'embedding'"):
        consecutive_loss(torch.zeros(4, 2), torch.zeros(4, 3))
    with pytest.raises(ShapeMismatch, match="'embedding'"):
        correlation_loss(torch.zeros(4, 2), torch.zeros(5, 2))


def test_defaults_are_those_of_the_literature():
    options = build_method(MethodSpec(name="cc")).options
    assert (options.weight, options.width, options.kernel) == (0.02, 128, "consecutive")


@pytest.mark.parametrize("wrong", [{"weight": -1}, {"kernel": "cubic"}, {"width": 0}, {"beta": 1}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"option '{next(iter(wrong))}'"):
        build_method(MethodSpec(name="cc", options=wrong))
