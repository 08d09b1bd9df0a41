"""From a suite to its runs: how many, in which order, with which options; and what is refused."""

import pytest
from small import TINY, make_suite

from kdbench.errors import ConfigError, UnknownName
from kdbench.suite.plan import load_suite, make_plan
from kdbench.types import DatasetSpec


def wide(**changes):
    return make_suite(
        **{
            "teachers": ["resnet20_w16", "resnet10t"],
            "students": ["resnet8_w16", "mobilenetv3_small_050"],
            "methods": ["ce", "kd", {"name": "kd", "ground_truth": False}],
            "seeds": 3,
            **changes,
        }
    )


def titles(plan):
    return [run.title for run in plan.runs]


def test_every_combination_once():
    plan = make_plan(wide())
    # 2 teachers; 3 seeds x 2 students x (baseline + 2 methods x 2 teachers)
    assert len(plan.runs) == 2 + 3 * 2 * (1 + 2 * 2)
    assert len({run.run_id for run in plan.runs}) == len(plan.runs)
    assert sum(run.role == "teacher" for run in plan.runs) == 2


def test_teachers_come_first_and_seeds_are_outermost():
    runs = make_plan(wide()).runs
    assert [run.role for run in runs[:2]] == ["teacher", "teacher"]
    assert [run.seed for run in runs[2:]] == [0] * 10 + [1] * 10 + [2] * 10
    assert [run.model.name for run in runs[2:12]] == ["resnet8_w16"] * 5 + ["mobilenetv3_small_050"] * 5
    for number, run in enumerate(runs):
        assert set(run.teachers) <= set(runs[:number])


def test_baseline_has_no_teacher_and_a_distilled_run_exactly_one():
    for run in make_plan(wide()).runs:
        assert len(run.teachers) == (run.method.name == "kd")


def test_teacher_is_trained_once_with_its_own_seed_and_settings():
    suite = wide(teachers=[{"model": "resnet10t", "seed": 7, "train": {"epochs": 9}}])
    teachers = [run for run in make_plan(suite).runs if run.role == "teacher"]
    assert len(teachers) == 1
    assert (teachers[0].seed, teachers[0].train.epochs, teachers[0].train.batch_size) == (7, 9, 16)
    assert all(run.train.epochs == 1 for run in make_plan(suite).runs if run.role == "student")


def test_the_same_asked_twice_is_one_run():
    once = make_suite()
    twice = make_suite(students=["resnet8_w16", {"model": "resnet8_w16"}], methods=["ce", "kd", "kd"])
    assert make_plan(twice).runs == make_plan(once).runs
    spelt_out = make_suite(methods=["ce", "kd", {"name": "kd", "options": {"temperature": 4}}])
    assert [run.run_id for run in make_plan(spelt_out).runs] == [run.run_id for run in make_plan(once).runs]


def test_options_of_methods_are_filled_in():
    runs = make_plan(make_suite()).runs
    assert runs[-1].method.options == {"temperature": 4.0, "alpha": 0.9}


def test_data_sets_one_after_the_other():
    sizes = [{"name": "synthetic", "image_size": size, "options": {"count": 100}} for size in (32, 48)]
    runs = make_plan(make_suite(datasets=sizes)).runs
    assert [run.dataset.image_size for run in runs] == [32] * 3 + [48] * 3
    assert runs[5].teachers == (runs[3],)  # taught on its own data set


def test_resolved_data_sets_stand_in_every_run():
    suite = make_suite()
    asked = suite.datasets[0]
    resolved = asked.model_copy(update={"content": "abc"})
    for run in make_plan(suite, {asked: resolved}).runs:
        assert run.dataset == resolved
        assert all(teacher.dataset == resolved for teacher in run.teachers)


def test_seeds_instead_of_the_suites_own():
    runs = make_plan(wide(), seeds=range(5, 7)).runs
    assert {run.seed for run in runs if run.role == "student"} == {5, 6}
    assert {run.seed for run in runs if run.role == "teacher"} == {0}
    assert len(runs) == 2 + 2 * 10


@pytest.mark.parametrize(
    ("only", "students", "teachers"),
    [
        ("resnet8_w16/kd", 12, {"resnet20_w16", "resnet10t"}),
        ("*/resnet8_w16/kd < resnet10t/seed1", 1, {"resnet10t"}),
        ("seed1", 10, {"resnet20_w16", "resnet10t"}),
        ("resnet8_w16/ce", 3, set()),
        ("*no ground truth*resnet20_w16*", 6, {"resnet20_w16"}),
    ],
)
def test_only_keeps_what_matches_and_its_teachers(only, students, teachers):
    runs = make_plan(wide(), only=only).runs
    assert sum(run.role == "student" for run in runs) == students
    assert {run.model.name for run in runs if run.role == "teacher"} == teachers
    for number, run in enumerate(runs):
        assert set(run.teachers) <= set(runs[:number])


def test_only_may_choose_a_teacher():
    assert titles(make_plan(wide(), only="resnet10t/ce")) == ["synthetic/resnet10t/ce/seed0"]


def test_only_that_matches_nothing_says_what_a_title_is_like():
    with pytest.raises(ConfigError, match=r"'nothing' matches none of 32 runs; .*like 'synthetic/"):
        make_plan(wide(), only="nothing")


def test_method_that_needs_a_teacher_needs_one():
    with pytest.raises(ConfigError, match=r"'kd' needs a teacher, .*teachers:"):
        make_plan(make_suite(teachers=None))
    assert len(make_plan(make_suite(teachers=None, methods=["ce"])).runs) == 1


def test_models_that_do_not_fit_are_all_named():
    sizes = [{"name": "synthetic", "image_size": size, "options": {"count": 100}} for size in (50, 64)]
    suite = make_suite(
        datasets=sizes,
        teachers=[{"model": {"name": "vit_micro", "patch_size": 7}}, "vit_tiny"],
        students=["resnet8_w16", {"model": {"name": "resnet8_w16", "patch_size": 4}}],
    )
    with pytest.raises(ConfigError) as caught:
        make_plan(suite)
    problems = caught.value.problems
    assert sum("vit_micro on synthetic" in problem for problem in problems) == 2  # 7 divides neither size
    assert sum("vit_tiny on synthetic" in problem for problem in problems) == 1  # only 50 has no patch
    assert sum("resnet8_w16 on synthetic" in problem for problem in problems) == 1  # no transformer at all
    assert len(problems) == 4


def test_shipped_suites_can_be_planned():
    from kdbench.config import shipped_suites

    for name in shipped_suites():
        suite = load_suite(name)
        assert suite.description
        assert make_plan(suite).runs


def test_names_of_a_suite_are_checked():
    with pytest.raises(ConfigError) as caught:
        make_suite(students=["resnet8_w17"], methods=["kdd"], datasets=["syntetic"])
    assert len(caught.value.problems) == 3
    for near in ("resnet8_w16", "kd", "synthetic"):
        assert near in str(caught.value)


def test_options_of_a_data_set_are_checked():
    with pytest.raises(ConfigError, match="count = 3"):
        make_suite(datasets=[{"name": "synthetic", "options": {"count": 3}}])
    with pytest.raises(ConfigError, match="zebra"):
        make_suite(datasets=[{"name": "pbc", "options": {"zebra": 3}}])


def test_unknown_suite_has_near_matches():
    with pytest.raises(UnknownName, match="quickstart"):
        load_suite("quickstat")


def test_planning_does_not_change_what_was_asked():
    suite = make_suite()
    before = suite.model_dump_json()
    make_plan(suite, {suite.datasets[0]: DatasetSpec(name="synthetic", content="x")}, seeds=[1], only="kd")
    assert suite.model_dump_json() == before
    assert suite.name == TINY["name"]


def test_a_suite_without_a_baseline_gets_one():
    plan = make_plan(make_suite(methods=["kd"]))
    assert [run.method.name for run in plan.runs if run.role == "student"] == ["ce", "kd"]


def test_a_suite_made_in_python_gives_the_runs_of_the_same_suite_in_yaml():
    from kdbench.config import StudentEntry, Suite, TeacherEntry
    from kdbench.types import DatasetSpec, MethodSpec, ModelChoice

    written = make_suite(methods=["ce", "kd"])
    built = Suite(
        name="tiny",
        datasets=(DatasetSpec(name="synthetic", image_size=32, options={"count": 100}),),
        teachers=(TeacherEntry(model=ModelChoice(name="resnet20_w16")),),
        students=(StudentEntry(model=ModelChoice(name="resnet8_w16")),),
        methods=(MethodSpec(name="ce"), MethodSpec(name="kd")),
        train=written.train,
    )
    assert [run.run_id for run in make_plan(built).runs] == [run.run_id for run in make_plan(written).runs]


def test_weights_that_are_not_there_are_a_problem_of_the_plan():
    suite = make_suite(students=[{"model": {"name": "resnet8_w16", "pretrained": "nowhere.safetensors"}}])
    with pytest.raises(ConfigError, match="no file at 'nowhere"):
        make_plan(suite)


@pytest.mark.usefixtures("own_sources")
def test_a_declared_data_set_is_planned_by_its_name(tmp_path):
    source = {"name": "mine", "folder": str(tmp_path / "images")}
    suite = make_suite(datasets=["mine"], sources=[source])
    runs = make_plan(suite).runs
    assert titles(make_plan(suite))[0] == "mine/resnet20_w16/ce/seed0"
    assert not any(str(tmp_path) in run.model_dump_json() for run in runs)
