"""What is done, what is kept and what is tried again."""

import pytest
from small import Notes, make_suite

from kdbench.errors import Diverged, Locked
from kdbench.store import Store
from kdbench.suite import run as run_module
from kdbench.suite.executors.local import pending_runs
from kdbench.suite.plan import make_plan

TEACHER = "synthetic/resnet20_w16/ce/seed0"
BASELINE = "synthetic/resnet8_w16/ce/seed0"
DISTILLED = "synthetic/resnet8_w16/kd < resnet20_w16/seed0"


@pytest.fixture
def break_build(monkeypatch):
    """Make one model impossible to build."""

    def breaking(name):
        original = run_module.build

        def build(choice, *arguments):
            if choice.name == name:
                raise RuntimeError(f"{name} cannot be built today")
            return original(choice, *arguments)

        monkeypatch.setattr(run_module, "build", build)
        return lambda: monkeypatch.setattr(run_module, "build", original)

    return breaking


@pytest.fixture
def diverge(monkeypatch):
    """Make the training of one model diverge."""

    def diverging(name):
        original = run_module.train

        def train(spec, *arguments, **more):
            if spec.model.name == name:
                raise Diverged(spec.run_id, 3, float("nan"))
            return original(spec, *arguments, **more)

        monkeypatch.setattr(run_module, "train", train)

    return diverging


def weights_of(results, title):
    return next(Store(results).weights_path(r.run_id) for r in Store(results).records() if r.spec.title == title)


def test_listener_hears_everything_in_order(go, trainings):
    notes = Notes()
    records = go(make_suite(), listener=notes)
    assert notes.plan == (3, 0)
    assert notes.began == trainings == [TEACHER, BASELINE, DISTILLED]
    assert notes.ended == ["ok"] * 3
    assert [record.spec.title for record in records] == notes.began


def test_finished_runs_are_not_done_again(go, trainings, tmp_path):
    first = go(make_suite())
    del trainings[:]
    notes = Notes()
    assert go(make_suite(), listener=notes) == first
    assert notes.plan == (0, 3)
    assert trainings == []
    assert not (tmp_path / "results/records/superseded").exists()


def test_another_student_adds_only_its_own_runs(go, trainings):
    go(make_suite())
    del trainings[:]
    records = go(make_suite(students=["resnet8_w16", "mobilenetv3_small_050"]))
    assert [title.split("/")[1] for title in trainings] == ["mobilenetv3_small_050"] * 2
    assert len(records) == 5


def test_failed_run_is_a_record_and_the_rest_goes_on(go, trainings, break_build):
    repair = break_build("mobilenetv3_small_050")
    suite = make_suite(students=["mobilenetv3_small_050", "resnet8_w16"])
    by_title = {record.spec.title: record for record in go(suite)}
    failed = [record for record in by_title.values() if record.status == "failed"]
    assert {record.spec.model.name for record in failed} == {"mobilenetv3_small_050"}
    assert len(failed) == 2
    for record in failed:
        assert (record.failure.kind, record.failure.message) == (
            "RuntimeError",
            "mobilenetv3_small_050 cannot be built today",
        )
        assert record.test_metrics is None
        assert record.profile is None
    assert by_title[DISTILLED].status == "ok"
    repair()
    del trainings[:]
    records = go(suite)
    assert {record.status for record in records} == {"ok"}
    assert {title.split("/")[1] for title in trainings} == {"mobilenetv3_small_050"}  # the others were kept


def test_failed_record_is_kept_beside_its_successor(go, break_build, tmp_path):
    repair = break_build("resnet8_w16")
    go(make_suite())
    repair()
    go(make_suite())
    old = sorted((tmp_path / "results/records/superseded").iterdir())
    assert len(old) == 2
    assert all('"status": "failed"' in path.read_text() for path in old)


def test_students_of_a_failed_teacher_fail_by_name(go, break_build):
    break_build("resnet20_w16")
    by_title = {record.spec.title: record for record in go(make_suite())}
    assert [by_title[title].status for title in (TEACHER, BASELINE, DISTILLED)] == ["failed", "ok", "failed"]
    assert TEACHER in by_title[DISTILLED].failure.message


def test_diverged_run_is_not_tried_again(go, trainings, diverge):
    diverge("resnet8_w16")
    records = go(make_suite())
    assert [record.status for record in records] == ["ok", "diverged", "diverged"]
    assert "step 3" in records[1].failure.message
    del trainings[:]
    notes = Notes()
    assert go(make_suite(), listener=notes) == records
    assert notes.plan == (0, 3)
    assert trainings == []


def test_far_too_high_a_learning_rate_is_a_diverged_record(go):
    suite = make_suite(methods=["ce"], train={"epochs": 20, "learning_rate": 1.0e6, "warmup_epochs": 0})
    record = go(suite, only="resnet8_w16/ce")[0]
    assert (record.status, record.failure.kind) == ("diverged", "Diverged")
    assert "lower learning rate" in record.failure.message


def test_diverged_teacher_is_not_trained_again_for_its_students(go, diverge, tmp_path):
    diverge("resnet20_w16")
    records = go(make_suite())
    assert [record.status for record in records] == ["diverged", "ok", "failed"]
    assert f"its teacher {TEACHER} diverged" in records[2].failure.message
    notes = Notes()
    go(make_suite(), listener=notes)
    assert notes.began == [DISTILLED]  # the same spec would only diverge again
    assert not list((tmp_path / "results/records").glob(f"superseded/{records[0].run_id}*"))


def test_teacher_without_weights_is_trained_again_when_a_student_needs_it(go, trainings, tmp_path):
    first = go(make_suite())
    path = weights_of(tmp_path / "results", TEACHER)
    content = path.read_bytes()
    path.unlink()
    del trainings[:]
    assert go(make_suite()) == first  # nothing is to be done, so nobody needs it
    assert trainings == []
    assert not path.exists()
    go(make_suite(), seeds=[1])
    assert trainings == [TEACHER, BASELINE.replace("seed0", "seed1"), DISTILLED.replace("seed0", "seed1")]
    assert path.read_bytes() == content  # the same spec, the same weights


def test_teacher_without_weights_is_not_needed_by_a_baseline(go, trainings, tmp_path):
    go(make_suite())
    weights_of(tmp_path / "results", TEACHER).unlink()
    del trainings[:]
    go(make_suite(), seeds=[1], only="resnet8_w16/ce")
    assert trainings == [BASELINE.replace("seed0", "seed1")]


def test_damaged_teacher_weights_are_a_failed_student(go, tmp_path):
    go(make_suite(), only="resnet20_w16/ce")
    path = weights_of(tmp_path / "results", TEACHER)
    path.write_bytes(path.read_bytes()[:100])
    records = go(make_suite())
    assert [record.status for record in records] == ["ok", "ok", "failed"]
    assert "cannot be used" in records[2].failure.message


def test_pending_runs_of_an_empty_folder_are_all(tmp_path):
    plan = make_plan(make_suite())
    assert pending_runs(plan, Store(tmp_path)) == list(plan.runs)


def test_locked_folder_is_refused(go, tmp_path):
    with Store(tmp_path / "results").lock(), pytest.raises(Locked, match="another kdbench run"):
        go(make_suite())


def test_interrupt_gets_out_and_the_run_goes_on_at_its_checkpoint(go, tmp_path):
    suite = make_suite(train={"epochs": 3, "batch_size": 16})

    def stop(what, done, total):
        if what == BASELINE and done == 6:  # of 4 steps an epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(suite, progress=stop)
    assert len(list((tmp_path / "results/checkpoints").iterdir())) == 1
    seen = []
    records = go(suite, progress=lambda what, done, total: seen.append((what, done)))
    assert next(done for what, done in seen if what == BASELINE) == 4
    assert [record.status for record in records] == ["ok"] * 3
    assert not list((tmp_path / "results/checkpoints").iterdir())
    whole = go(suite, folder="undisturbed")
    for one, other in zip(records, whole, strict=True):
        assert one.test_metrics == other.test_metrics
        assert [e.train_loss for e in one.history] == [e.train_loss for e in other.history]
