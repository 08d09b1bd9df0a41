"""Born again: the loss is KL at temperature 1, the teacher is the student's own baseline."""

import math

import pytest
import torch
from lessons import lesson_of, two_logits

from kdbench.errors import ConfigError
from kdbench.method import METHODS, build_method, resolve_options
from kdbench.types import DatasetSpec, MethodSpec, ModelChoice, RunSpec, TrainSpec, ViewSpec


def run(role, model, method, **more):
    return RunSpec(role=role, dataset=DatasetSpec(name="tiny"), model=ModelChoice(name=model), method=method, **more)


def student_run(seed=3, ground_truth=True):
    spec = MethodSpec(name="born_again", ground_truth=ground_truth)
    spec = spec.model_copy(update={"options": resolve_options(spec)})
    return run("student", "resnet10t", spec, seed=seed, views=ViewSpec(seed=2), train=TrainSpec(epochs=3))


def lessons(student, teachers=()):
    return METHODS.get("born_again").lessons(build_method(student.method).options, teachers, student)


def literal(student, teacher):
    total = 0.0
    for zs, zt in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        s, t = ([math.exp(z) for z in row] for row in (zs, zt))
        total += sum(b / sum(t) * math.log(b / sum(t) / (a / sum(s))) for a, b in zip(s, t, strict=True))
    return total / len(student)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_is_plain_kl_with_the_earlier_self(alpha):
    student, teacher, _ = two_logits()
    method = build_method(MethodSpec(name="born_again", options={"alpha": alpha}))
    terms = method(lesson_of(student, teacher))
    assert len(terms) == 1
    assert next(iter(terms.values())).item() == pytest.approx(alpha * literal(student, teacher), abs=1e-5)
    assert method.hard_weight == pytest.approx(1 - alpha)
    same = method(lesson_of(teacher.clone(), teacher))
    assert next(iter(same.values())).item() == pytest.approx(0, abs=1e-6)


def test_gradcheck():
    student, teacher, _ = two_logits(3, 4, dtype=torch.float64)
    student.requires_grad_()
    method = build_method(MethodSpec(name="born_again"))
    assert torch.autograd.gradcheck(lambda z: sum(method(lesson_of(z, teacher)).values()), (student,))


@pytest.mark.parametrize("ground_truth", [True, False])
def test_the_teacher_is_the_very_run_of_the_baseline(ground_truth):
    student = student_run(ground_truth=ground_truth)
    ((teacher,),) = lessons(student)
    baseline = run(
        "student", "resnet10t", MethodSpec(name="ce"), seed=3, views=ViewSpec(seed=2), train=TrainSpec(epochs=3)
    )
    assert teacher == baseline
    assert teacher.run_id == baseline.run_id


def test_teachers_of_the_suite_are_neither_needed_nor_used():
    others = [run("teacher", name, MethodSpec(name="ce")) for name in ("resnet18", "vit_tiny")]
    assert lessons(student_run(), others) == lessons(student_run())
    assert METHODS.get("born_again").suite_teachers() == 0
    assert METHODS.get("born_again").teachers == "one"
    assert METHODS.get("born_again").family == "self"


def test_each_seed_is_born_again_from_its_own():
    seeds = [lessons(student_run(seed))[0][0].seed for seed in (0, 7)]
    assert seeds == [0, 7]


def test_defaults_are_those_of_the_paper():
    method = build_method(MethodSpec(name="born_again"))
    assert method.options.model_dump() == {"temperature": 1.0, "alpha": 1.0}
    assert method.hard_weight == 0.0


@pytest.mark.parametrize("options", [{"alpha": 0}, {"alpha": 1.1}, {"temperature": 0}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError, match=f"option '{next(iter(options))}'"):
        build_method(MethodSpec(name="born_again", options=options))
