"""From a suite to its runs: how many, in which order, with which options; and what is refused."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from small import TINY, make_suite

from kdbench.errors import ConfigError, UnknownName
from kdbench.model import build
from kdbench.suite.executors.local import pending_runs
from kdbench.suite.plan import load_suite, make_plan
from kdbench.types import (
    DatasetSpec,
    Frozen,
    MethodSpec,
    ModelChoice,
    RunSpec,
    TeachingSpec,
    TrainSpec,
    ViewSpec,
)

RECORDS = Path(__file__).resolve().parents[2] / "results" / "mixed-small" / "records"


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


# ---------------------------------------------------------------- who teaches whom


def chain(**changes):
    """Two teachers, and an assistant between each of them and the student."""
    changes = {"teachers": ["resnet20_w16", "vit_micro"], "methods": ["ce", "takd"], **changes}
    return make_suite(**changes)


def test_an_assistant_is_taught_by_the_suites_teacher_and_comes_before_its_student():
    suite = chain(train={"epochs": 1, "batch_size": 16, "learning_rate": 0.01}, seeds=2)
    runs = make_plan(suite).runs
    students = [run for run in runs if run.method.name == "takd"]
    assistants = [run for run in runs if run.model.name == "resnet10t"]
    assert (len(runs), len(students), len(assistants)) == (2 + 2 + 2 * (1 + 2), 4, 2)
    # the student's seed is its own, the assistant has its teacher's
    assert [(run.title, run.teachers[0].seed) for run in students[2:]] == [
        ("synthetic/resnet8_w16/takd < resnet10t/seed1", 0)
    ] * 2
    for number, run in enumerate(runs):
        assert set(run.teachers) <= set(runs[:number])
    for assistant, teacher in zip(assistants, runs[:2], strict=True):
        assert (assistant.role, assistant.method.name, assistant.teachers) == ("teacher", "kd", (teacher,))
        assert assistant.train == teacher.train
    assert {run.teachers for run in students} == {(assistant,) for assistant in assistants}
    assert all(not teacher.teachers for assistant in assistants for teacher in assistant.teachers)


def test_an_assistant_is_of_the_named_model():
    suite = chain(methods=["ce", {"name": "takd", "options": {"assistant": "mobilenetv3_small_050"}}])
    assert {run.model.name for run in make_plan(suite).runs if run.method.name == "kd"} == {"mobilenetv3_small_050"}


@pytest.mark.parametrize(
    ("assistant", "image_size", "problem"),
    [("resnet11", 32, "unknown model 'resnet11'"), ("vit_micro", 50, "vit_micro on synthetic: no patch")],
)
def test_an_assistant_that_cannot_be_built_is_one_clear_problem(assistant, image_size, problem):
    suite = make_suite(
        datasets=[{"name": "synthetic", "image_size": image_size, "options": {"count": 100}}],
        teachers=["resnet20_w16", "resnet10t"],
        methods=["ce", {"name": "takd", "options": {"assistant": assistant}}],
        seeds=3,
    )
    with pytest.raises(ConfigError, match=problem) as caught:
        make_plan(suite)
    assert len(caught.value.problems) == 1


def test_born_again_learns_from_its_own_baseline_which_is_trained_once():
    suite = make_suite(methods=["born_again", "ce", "kd"], seeds=2, students=["resnet8_w16", "mobilenetv3_small_050"])
    runs = make_plan(suite).runs
    again = [run for run in runs if run.method.name == "born_again"]
    assert len(again) == 4
    baselines = [run for run in runs if run.role == "student" and run.method.name == "ce"]
    assert len(baselines) == 4
    for run in again:
        (teacher,) = run.teachers
        assert teacher in baselines
        assert (teacher.seed, teacher.model, teacher.role) == (run.seed, run.model, "student")
    assert len({run.run_id for run in runs}) == len(runs) == 1 + 4 * 3


def test_born_again_needs_no_teacher_and_brings_its_baseline():
    plan = make_plan(make_suite(teachers=None, methods=["born_again"]))
    assert [run.method.name for run in plan.runs] == ["ce", "born_again"]
    only = make_plan(make_suite(methods=["ce", "kd", "born_again"]), only="born_again")
    assert titles(only) == ["synthetic/resnet8_w16/ce/seed0", "synthetic/resnet8_w16/born_again < resnet8_w16/seed0"]


@pytest.mark.parametrize("name", ["multi_fixed", "multi_entropy", "multi_confidence", "multi_gated"])
def test_several_teachers_teach_in_one_run(name):
    teachers = ["resnet20_w16", "vit_micro", "resnet10t"]
    runs = make_plan(make_suite(teachers=teachers, methods=["ce", "kd", name])).runs
    (run,) = (run for run in runs if run.method.name == name)
    assert [teacher.model.name for teacher in run.teachers] == teachers  # in the order of the suite
    assert run.title == f"synthetic/resnet8_w16/{name} < resnet20_w16+vit_micro+resnet10t/seed0"
    assert len(runs) == 3 + 1 + 3 + 1
    assert make_plan(make_suite(teachers=teachers, methods=["ce", name]), only=name).runs == (*runs[:3], run)


@pytest.mark.parametrize(("teachers", "given"), [(["resnet20_w16"], "1"), (None, "none")])
def test_several_teachers_have_to_be_there(teachers, given):
    with pytest.raises(ConfigError, match=rf"'multi_fixed' needs 2 teachers, and the suite has {given}; add more"):
        make_plan(make_suite(teachers=teachers, methods=["ce", "multi_fixed"]))


@pytest.mark.parametrize("name", ["dml", "tfkd"])
def test_methods_without_a_teacher_are_one_run_whatever_teachers_there_are(name):
    for teachers in (None, ["resnet20_w16", "resnet10t"]):
        runs = make_plan(make_suite(teachers=teachers, methods=["ce", name])).runs
        students = [run for run in runs if run.role == "student"]
        assert [(run.method.name, run.teachers) for run in students] == [("ce", ()), (name, ())]


def test_only_keeps_a_whole_chain():
    runs = make_plan(chain(), only="takd < resnet10t").runs
    assert [run.model.name for run in runs] == ["resnet20_w16", "vit_micro", *["resnet10t", "resnet8_w16"] * 2]
    assert [run.method.name for run in runs] == ["ce", "ce", *["kd", "takd"] * 2]
    assert len(make_plan(chain(), only="resnet10t/kd < vit_micro").runs) == 2


class Kept:
    """A store of which it is known which runs are finished and which still have their weights."""

    def __init__(self, folder, runs, without_weights=(), status="ok"):
        self.folder, self.status = folder, {run.run_id: status for run in runs}
        for run in runs:
            if run not in without_weights:
                self.network_path(run).write_bytes(b"")

    def read_record(self, run_id):
        return SimpleNamespace(status=self.status[run_id]) if run_id in self.status else None

    def network_path(self, spec):
        return self.folder / spec.run_id


def test_a_lost_teacher_of_a_lost_assistant_is_trained_again(tmp_path):
    plan = make_plan(chain())
    teacher, other, baseline, assistant, student, *_ = plan.runs
    assert (assistant.teachers, student.teachers) == ((teacher,), (assistant,))

    def pending(lost, open_runs=(student,)):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        return pending_runs(plan, Kept(folder, [run for run in plan.runs if run not in open_runs], lost))

    assert pending([]) == [student]
    assert pending([teacher]) == [student]  # the assistant is there: nobody needs its teacher
    assert pending([assistant]) == [assistant, student]
    assert pending([teacher, assistant]) == [teacher, assistant, student]
    assert pending([teacher, other, assistant, baseline]) == [teacher, assistant, student]
    assert pending([teacher, assistant], open_runs=()) == []


# ---------------------------------------------------------------- weight files


def weight_file(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    save_file(build(ModelChoice(name="resnet8_w16"), 5, 32).state_dict(), path)
    return str(path)


@pytest.mark.parametrize("role", ["students", "teachers"])
def test_a_run_is_what_its_weight_file_holds_and_not_where_it_lies(tmp_path, role):
    def ids(path):
        entry = {"model": {"name": "resnet8_w16", "pretrained": path}}
        return [run.run_id for run in make_plan(make_suite(**{role: [entry]})).runs]

    here, there = weight_file(tmp_path / "a" / "w.safetensors", 1), weight_file(tmp_path / "b" / "v.safetensors", 1)
    other = weight_file(tmp_path / "c" / "w.safetensors", 2)
    assert ids(here) == ids(there)
    same = [ours == theirs for ours, theirs in zip(ids(here), ids(other), strict=True)]
    # teacher, baseline and distilled run: a student's weights say nothing of its teacher, nor a teacher's of a baseline
    assert same == ([False, True, False] if role == "teachers" else [True, False, False])
    before = ids(here)
    weight_file(tmp_path / "a" / "w.safetensors", 3)
    assert ids(here)[2] != before[2]
    assert make_plan(make_suite()).runs[2].run_id not in before


# ---------------------------------------------------------------- ids that must hold


@pytest.mark.parametrize(
    ("run_id", "title"),
    [
        ("56f2aafede139583", "mixed/vit_micro/ce/seed0"),
        ("ece388227c62c3c1", "mixed/resnet8_w16/kd (no ground truth) < vit_micro/seed0"),
    ],
)
def test_ids_of_committed_records_hold(run_id, title):
    """Fields that came later are not part of what was asked for then."""
    raw = json.loads((RECORDS / f"{run_id}.json").read_text("utf-8"))
    spec = RunSpec.model_validate(raw["spec"])
    assert (spec.run_id, spec.cell_id, spec.title) == (run_id, raw["cell_id"], title)
    assert "mixup" not in raw["spec"]["views"]  # written before it was there
    assert RunSpec.model_validate(spec.model_dump(mode="json")).run_id == run_id  # and when written again
    assert RunSpec.model_validate_json(spec.model_dump_json()).run_id == run_id


LATER = {
    ModelChoice: {"weights": "ab" * 32},
    DatasetSpec: {
        "protocol": "grouped",
        "protocol_version": 2,
        "fold": 1,
        "held_out": "pbc",
        "stain": "reinhard",
    },
    ViewSpec: {"mixup": 0.2, "cutmix": 1.0, "mixed_share": 0.5, "hue_degrees": 10.0, "white_balance": 0.1},
    TrainSpec: {
        "threads": "auto",
        "attention": "auto",
        "compile": True,
        "sampling": "balanced",
        "class_weights": "balanced",
        "freeze": 1,
    },
    RunSpec: {"teaching": {"outputs": "live"}},
}
"""Every field that came after the first records, with another value than its default."""


def base(**changes):
    return RunSpec(role="student", dataset="synthetic", model="resnet8_w16", method="ce", **changes)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, fields in LATER.items() for name in fields])
def test_later_fields_count_where_they_are_set(kind, name):
    key = {ViewSpec: "views", TrainSpec: "train", ModelChoice: "model", DatasetSpec: "dataset", RunSpec: name}[kind]
    named = {ModelChoice: {"name": "resnet8_w16"}, DatasetSpec: {"name": "synthetic"}}.get(kind, {})

    def with_value(value):
        given = value if kind is RunSpec else {**named, name: value}
        raw = {**base().model_dump(mode="json"), key: given}
        return RunSpec.model_validate(raw)

    default = kind.model_fields[name].default
    default = default.model_dump(mode="json") if isinstance(default, Frozen) else default
    assert with_value(default).run_id == base().run_id
    changed = with_value(LATER[kind][name])
    assert changed.run_id != base().run_id
    assert changed.cell_id != base().cell_id
    # in a teacher too
    assert base(teachers=(changed,)).run_id != base(teachers=(base(),)).run_id


def test_every_later_field_is_tried_above():
    def later(kind):
        extra = {name: field.json_schema_extra for name, field in kind.model_fields.items()}
        return {name for name, facts in extra.items() if isinstance(facts, dict) and facts.get("later")}

    kinds = (ModelChoice, DatasetSpec, ViewSpec, TrainSpec, MethodSpec, TeachingSpec, RunSpec)
    tried = {kind: set(names) for kind, names in LATER.items()}
    tried[RunSpec] |= {"parent", "prune", "quantise"}  # come together: see below
    assert {kind: later(kind) for kind in kinds if later(kind)} == tried


def test_a_stage_of_compression_is_another_run_than_its_parent():
    parent = base()
    by_chance = {"macs": 0.5, "importance": "random"}
    asked = [{"prune": {"macs": 0.5}}, {"prune": {"macs": 0.25}}, {"prune": by_chance}, {"quantise": {}}]
    stages = [base(parent=parent, **stage) for stage in asked]
    assert len({run.run_id for run in (parent, *stages)}) == 5
    assert len({run.cell_id for run in (parent, *stages)}) == 5
    assert all(RunSpec.model_validate(run.model_dump(mode="json")) == run for run in stages)


def test_the_seeds_of_one_lineage_are_one_cell():
    """The parent, and the parent as the teacher of its pruned self, have the seed of the run, and no other."""

    def pruned(seed, teacher_seed=0):
        teacher = RunSpec(role="teacher", dataset="synthetic", model="resnet10t", method="ce", seed=teacher_seed)
        parent = base(seed=seed, teachers=(teacher,))
        return base(seed=seed, parent=parent, teachers=(parent,), prune={"macs": 0.5})

    assert pruned(0).run_id != pruned(1).run_id
    assert pruned(0).cell_id == pruned(1).cell_id
    assert pruned(0).cell_id != pruned(0, teacher_seed=1).cell_id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prune": {"macs": 0.5}}, "a run without is neither"),
        ({"parent": {"seed": 0}}, "pruned or quantised"),
        ({"parent": {"seed": 0}, "prune": {"macs": 0.5}, "quantise": {}}, "one of them"),
        ({"parent": {"seed": 1}, "quantise": {}}, "have to be equal"),
        ({"parent": {"seed": 0}, "prune": {}}, "exactly one of macs, params, bytes, latency"),
        ({"parent": {"seed": 0}, "prune": {"macs": 0.5, "params": 0.5}}, "macs and params are given"),
    ],
)
def test_a_stage_that_makes_no_sense_is_refused(changes, message):
    if "parent" in changes:
        changes = {**changes, "parent": base(**changes["parent"])}
    with pytest.raises(ValueError, match=message):
        base(**changes)


def test_a_title_names_what_was_done_to_the_network():
    teacher = RunSpec(role="teacher", dataset="synthetic", model="resnet10t", method="ce")
    parent = RunSpec(role="student", dataset="synthetic", model="resnet8_w16", method="kd", teachers=(teacher,))
    pruned = base(parent=parent, teachers=(parent,), prune={"macs": 0.5, "importance": "taylor"})
    small = base(parent=pruned, quantise={"kind": "aware"})
    assert small.title == "synthetic/resnet8_w16/kd < resnet10t > macs 50 % by taylor > int8 aware/seed0"
    assert small.lineage == (parent, pruned, small)


def test_how_teachers_are_heard_is_part_of_what_they_teach_alone():
    """Of a run without a teacher nothing is to be said, so its id stays what it is."""
    plain = make_plan(make_suite(methods=["ce", "kd", "dml"])).runs
    live = make_plan(make_suite(methods=["ce", "kd", "dml"], teaching={"outputs": "live"})).runs
    assert [ours.run_id == theirs.run_id for ours, theirs in zip(plain, live, strict=True)] == [True, True, False, True]
