"""What every file in ``methods/`` has to keep, whatever it computes."""

import pytest
import torch

from kdbench.errors import ConfigError
from kdbench.method import METHODS, Method, build_method, resolve_options
from kdbench.types import MethodSpec

ALL = METHODS.names()


def outputs(samples=6, classes=5):
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(samples, classes, generator=generator).requires_grad_()
    return student, torch.randn(samples, classes, generator=generator), torch.arange(samples) % classes


def called(name, student, teacher, targets):
    method = build_method(MethodSpec(name=name))
    return method, method(student, teacher if method.needs_teacher else None, targets)


def test_the_baseline_and_distillation_are_there():
    assert {"ce", "kd"} <= set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_says_what_it_is(name):
    method = METHODS.get(name)
    assert issubclass(method, Method)
    assert method.name == name
    assert method.paper
    assert method.summary
    assert "\n" not in method.summary


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("samples", "classes"), [(6, 5), (6, 2), (2, 5)])
def test_terms_are_named_finite_scalars(name, samples, classes):
    _, terms = called(name, *outputs(samples, classes))
    for term, value in terms.items():
        assert isinstance(term, str)
        assert term
        assert value.shape == ()
        assert value.isfinite()


@pytest.mark.parametrize("name", ALL)
def test_gradient_reaches_the_student_and_never_the_teacher(name):
    student, teacher, targets = outputs()
    method, terms = called(name, student, teacher, targets)
    if not method.needs_teacher:
        assert method.hard_weight > 0  # else nothing would be learnt
        return
    assert terms
    sum(terms.values()).backward()
    assert student.grad.isfinite().all()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("name", ALL)
def test_depends_on_its_teacher(name):
    student, teacher, targets = outputs()
    method, terms = called(name, student, teacher, targets)
    if method.needs_teacher:
        _, others = called(name, student, teacher.roll(1, dims=1), targets)
        assert any(not torch.equal(terms[term], others[term]) for term in terms)


@pytest.mark.parametrize("name", ALL)
def test_hard_weight_is_a_weight(name):
    assert 0 <= build_method(MethodSpec(name=name)).hard_weight <= 1


@pytest.mark.parametrize("name", ALL)
def test_options_resolve_with_their_defaults_and_again_to_themselves(name):
    options = resolve_options(MethodSpec(name=name))
    fields = METHODS.get(name).Options.model_fields
    assert options == {key: field.default for key, field in fields.items()}
    assert resolve_options(MethodSpec(name=name, options=options)) == options
    assert build_method(MethodSpec(name=name)).options.model_dump() == options


@pytest.mark.parametrize("name", ALL)
def test_unknown_option_is_refused_with_the_known_ones(name):
    with pytest.raises(ConfigError, match="option 'no_such': unknown") as caught:
        resolve_options(MethodSpec(name=name, options={"no_such": 1}))
    for known in METHODS.get(name).Options.model_fields:
        assert known in str(caught.value)


@pytest.mark.parametrize("name", ALL)
def test_ground_truth_may_be_off_only_with_a_teacher(name):
    spec = MethodSpec(name=name, ground_truth=False)
    if METHODS.get(name).needs_teacher:
        assert resolve_options(spec) == resolve_options(MethodSpec(name=name))
    else:
        with pytest.raises(ConfigError, match="without ground truth"):
            resolve_options(spec)
