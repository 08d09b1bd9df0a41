"""What every file in ``methods/`` has to keep, whatever it computes, between any two kinds of network."""

import dataclasses

import pytest
import torch
from lessons import EPOCHS, PAIRS, leaves, make, ready

from kdbench.errors import ConfigError
from kdbench.method import METHODS, Method, build_method, resolve_options
from kdbench.types import MethodSpec

ALL = METHODS.names()


def fitting(name, pair="cnn<cnn", **more):
    """(method, lesson) that fit each other."""
    many = METHODS.get(name).teachers == "many"
    setting, lesson = make(pair, teachers={"none": 0, "one": 1, "many": 2}[METHODS.get(name).teachers], **more)
    assert not many or len(lesson.teachers) == 2
    return ready(name, setting), lesson


def total(method, lesson):
    """The whole loss with hard labels, as the engine adds it up."""
    terms = method(lesson)
    hard = method.hard_weight_at(lesson.epoch, lesson.epochs)
    loss = hard * torch.nn.functional.cross_entropy(lesson.student.logits, lesson.targets)
    return sum(terms.values(), start=loss)


def test_there_are_thirty_and_more():
    assert {"ce", "kd"} <= set(ALL)
    assert len(ALL) >= 30


@pytest.mark.parametrize("name", ALL)
def test_says_what_it_is(name):
    method = METHODS.get(name)
    assert issubclass(method, Method)
    assert method.name == name
    assert method.paper
    assert method.summary
    assert "\n" not in method.summary
    assert set(method.needs) <= {"logits", "pooled", "last", "stages", "token"}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("samples", "classes"), [(6, 5), (6, 2), (2, 5), (1, 5)])
@pytest.mark.parametrize("epoch", [0, EPOCHS - 1])
def test_terms_are_named_finite_scalars(name, pair, samples, classes, epoch):
    method, lesson = fitting(name, pair, samples=samples, classes=classes, epoch=epoch)
    for term, value in method(lesson).items():
        assert isinstance(term, str)
        assert term
        assert value.shape == ()
        assert value.isfinite()
        assert value.dtype == torch.float32


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("pair", PAIRS)
def test_gradient_reaches_the_student_and_never_a_teacher(name, pair):
    method, lesson = fitting(name, pair)
    total(method, lesson).backward()
    grads = [leaf.grad for leaf in leaves(lesson) if leaf.grad is not None]
    assert grads
    assert all(grad.isfinite().all() for grad in grads)
    assert sum(grad.abs().sum() for grad in grads) > 0
    for teacher in lesson.teachers:
        for tensor in (teacher.logits, teacher.pooled, *teacher.stages):
            assert tensor.grad is None
            assert not tensor.requires_grad


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("pair", PAIRS)
def test_own_parameters_get_finite_gradients_in_some_epoch(name, pair):
    method, _ = fitting(name, pair)
    own = [parameter for parameter in method.parameters() if parameter.requires_grad]
    for epoch in range(EPOCHS):
        at = fitting(name, pair, epoch=epoch)[1]
        total(method, at).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in own)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("pair", PAIRS)
def test_depends_on_its_teachers(name, pair):
    """In some epoch: a method that works in stages may leave one of them to the hard labels."""
    if METHODS.get(name).teachers == "none":
        return
    differs = False
    for epoch in (0, EPOCHS - 1):
        method, lesson = fitting(name, pair, epoch=epoch)
        other = fitting(name, pair, seed=7)[1]
        moved = dataclasses.replace(lesson, teachers=other.teachers)
        torch.manual_seed(0)
        before = method(lesson)
        torch.manual_seed(0)
        after = ready(name, fitting_setting(name, pair))(moved)
        differs |= any(not torch.equal(before[term], after[term]) for term in before)
    assert differs


def fitting_setting(name, pair):
    return make(pair, teachers={"none": 0, "one": 1, "many": 2}[METHODS.get(name).teachers])[0]


@pytest.mark.parametrize("name", ALL)
def test_large_outputs_stay_finite(name):
    """log_softmax forms: logits a hundred times too large, maps too."""
    method, lesson = fitting(name)

    def scaled(outputs):
        return dataclasses.replace(
            outputs,
            logits=100 * outputs.logits,
            pooled=100 * outputs.pooled,
            stages=tuple(100 * stage for stage in outputs.stages),
        )

    large = dataclasses.replace(
        lesson, student=scaled(lesson.student), teachers=tuple(scaled(teacher) for teacher in lesson.teachers)
    )
    loss = total(method, large)
    loss.backward()
    assert loss.isfinite()
    assert all(leaf.grad.isfinite().all() for leaf in leaves(lesson) if leaf.grad is not None)


def repeated(outputs, rows):
    return dataclasses.replace(
        outputs,
        logits=outputs.logits[rows],
        pooled=outputs.pooled[rows],
        stages=tuple(stage[rows] for stage in outputs.stages),
    )


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("rows", [[0, 0, 1, 1, 2, 2], [0] * 6])
def test_duplicate_rows_stay_finite(name, rows):
    """The same image twice in a batch: distances of zero, standard deviations of zero."""
    method, lesson = fitting(name)
    again = dataclasses.replace(
        lesson,
        student=repeated(lesson.student, rows),
        teachers=tuple(repeated(teacher, rows) for teacher in lesson.teachers),
        targets=lesson.targets[rows],
        positions=lesson.positions[rows],
        pixels=lesson.pixels[rows],
    )
    loss = total(method, again)
    loss.backward()
    assert loss.isfinite()
    assert all(leaf.grad.isfinite().all() for leaf in leaves(lesson) if leaf.grad is not None)


@pytest.mark.parametrize("name", ALL)
def test_constant_outputs_stay_finite(name):
    """A dead network: every logit and every feature the same."""
    method, lesson = fitting(name)

    def dead(outputs):
        return dataclasses.replace(
            outputs,
            logits=outputs.logits * 0,
            pooled=outputs.pooled * 0,
            stages=tuple(stage * 0 for stage in outputs.stages),
        )

    loss = total(method, dataclasses.replace(lesson, student=dead(lesson.student),
                                             teachers=tuple(dead(teacher) for teacher in lesson.teachers)))  # fmt: skip
    loss.backward()
    assert loss.isfinite()
    assert all(leaf.grad.isfinite().all() for leaf in leaves(lesson) if leaf.grad is not None)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("pair", PAIRS)
def test_half_precision_outputs_give_float32_terms(name, pair):
    method, lesson = fitting(name, pair, dtype=torch.bfloat16)
    for value in method(lesson).values():
        assert value.dtype == torch.float32
        assert value.isfinite()


@pytest.mark.parametrize("name", ALL)
def test_without_ground_truth_no_label_reaches_it(name):
    method = METHODS.get(name)
    if method.teachers == "none" or method.uses_labels:
        return
    options = {} if method.trains_classifier else {"kd_weight": 1.0}
    many = {"none": 0, "one": 1, "many": 2}[method.teachers]
    setting, lesson = make(teachers=many, ground_truth=False)
    terms = ready(name, setting, **options)(lesson)
    assert terms
    assert all(value.isfinite() for value in terms.values())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("epoch", [0, EPOCHS - 1])
def test_hard_weight_is_a_weight(name, epoch):
    assert 0 <= build_method(MethodSpec(name=name)).hard_weight_at(epoch, EPOCHS) <= 1


@pytest.mark.parametrize("name", ALL)
def test_state_is_saved_and_loaded(name):
    """A run goes on from its checkpoint: whatever a method learns or remembers is in its state."""
    method, lesson = fitting(name)
    total(method, lesson)
    twin = ready(name, fitting_setting(name, "cnn<cnn"), seed=5)
    twin.load_state_dict(method.state_dict())
    torch.manual_seed(1)
    ours = method(lesson)
    torch.manual_seed(1)
    theirs = twin(lesson)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[term], theirs[term]) for term in ours)


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
def test_ground_truth_may_be_off_only_where_something_else_teaches(name):
    method, spec = METHODS.get(name), MethodSpec(name=name, ground_truth=False)
    if method.teachers == "none" or method.uses_labels or not method.trains_classifier:
        with pytest.raises(ConfigError, match="without ground truth"):
            resolve_options(spec)
    else:
        assert resolve_options(spec) == resolve_options(MethodSpec(name=name))
    if not method.trains_classifier:
        assert resolve_options(MethodSpec(name=name, ground_truth=False, options={"kd_weight": 1.0}))
