"""Teacher assistant: the loss is KD, the chain is in the runs."""

import pytest
import torch
from lessons import lesson_of, two_logits

from kdbench.errors import ConfigError
from kdbench.method import METHODS, build_method, resolve_options
from kdbench.types import DatasetSpec, MethodSpec, ModelChoice, RunSpec, TrainSpec, ViewSpec


def run(role, model, method="ce", **more):
    spec = MethodSpec(name=method) if isinstance(method, str) else method
    return RunSpec(role=role, dataset=DatasetSpec(name="tiny"), model=ModelChoice(name=model), method=spec, **more)


def lessons(teachers, **options):
    spec = MethodSpec(name="takd", options=options)
    student = run("student", "mobilenetv3_small_050", spec, train=TrainSpec(epochs=9), seed=8)
    return METHODS.get("takd").lessons(build_method(spec).options, teachers, student)


TEACHERS = [
    run("teacher", "resnet50", train=TrainSpec(epochs=3), views=ViewSpec(seed=5), seed=1),
    run("teacher", "vit_tiny", train=TrainSpec(epochs=4), seed=2),
]


@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "alpha": 0.5}])
def test_the_loss_is_kd(options):
    student, teacher, targets = two_logits()
    takd, kd = (build_method(MethodSpec(name=name, options=options)) for name in ("takd", "kd"))
    lesson = lesson_of(student, teacher, targets)
    ours, theirs = takd(lesson), kd(lesson)
    assert [value.item() for value in ours.values()] == [value.item() for value in theirs.values()]
    assert takd.hard_weight == kd.hard_weight


def test_gradcheck():
    student, teacher, _ = two_logits(3, 4, dtype=torch.float64)
    student.requires_grad_()
    method = build_method(MethodSpec(name="takd"))
    assert torch.autograd.gradcheck(lambda z: sum(method(lesson_of(z, teacher)).values()), (student,))


def test_every_teacher_has_an_assistant_and_it_alone_teaches_the_student():
    chains = lessons(TEACHERS, assistant="resnet18", temperature=2, alpha=0.5)
    assert len(chains) == 2
    for (assistant,), teacher in zip(chains, TEACHERS, strict=True):
        assert assistant.role == "teacher"
        assert assistant.model == ModelChoice(name="resnet18")
        assert assistant.teachers == (teacher,)
        assert (assistant.dataset, assistant.views, assistant.train, assistant.seed) == (
            teacher.dataset,
            teacher.views,
            teacher.train,
            teacher.seed,
        )


def test_the_assistant_is_the_very_run_of_plain_kd():
    """Resolved as a suite resolves it, so one that a suite asks for itself is trained once."""
    ((assistant,), _) = lessons(TEACHERS)
    spec = MethodSpec(name="kd")
    spec = spec.model_copy(update={"options": resolve_options(spec)})
    asked_for = run(
        "teacher",
        "resnet10t",
        spec,
        teachers=(TEACHERS[0],),
        train=TrainSpec(epochs=3),
        views=ViewSpec(seed=5),
        seed=1,
    )
    assert assistant.run_id == asked_for.run_id


def test_the_assistant_learns_at_the_same_temperature_and_alpha():
    ((assistant,),) = lessons(TEACHERS[:1], temperature=2, alpha=0.5)
    assert assistant.method == MethodSpec(name="kd", options={"temperature": 2.0, "alpha": 0.5})


def test_defaults_are_those_of_kd():
    method = build_method(MethodSpec(name="takd"))
    assert method.options.model_dump() == {"temperature": 4.0, "alpha": 0.9, "assistant": "resnet10t"}
    assert (method.family, method.teachers, METHODS.get("takd").suite_teachers()) == ("chain", "one", 1)


@pytest.mark.parametrize("options", [{"alpha": 0}, {"temperature": 0}, {"assistant": ""}, {"assistant": 3}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError, match=f"option '{next(iter(options))}'"):
        build_method(MethodSpec(name="takd", options=options))
