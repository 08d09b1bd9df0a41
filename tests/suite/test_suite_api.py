"""A suite in one call."""

import pytest
import yaml
from small import TINY, Notes, make_suite

import kdbench
from kdbench.activity import trainers
from kdbench.errors import ConfigError, MissingData, UnknownName
from kdbench.suite.api import plan_suite


def test_suite_file_runs_and_renders(go, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(TINY))
    records = go(str(path))
    assert [record.status for record in records] == ["ok"] * 3
    assert kdbench.collect(tmp_path / "results")
    text = kdbench.render(records)
    assert "resnet8_w16" in text
    assert "synthetic images" in text  # what the source wants said


def test_results_go_into_a_folder_named_as_the_suite(tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    kdbench.run_suite(make_suite(methods=["ce"], teachers=None), cache=cache)
    assert len(list((tmp_path / "results/tiny/records").glob("*.json"))) == 1


def test_command_is_recorded(go):
    assert go(make_suite(methods=["ce"], teachers=None), command="kdbench run tiny")[0].command == "kdbench run tiny"


def test_other_processes_can_see_that_it_trains(go):
    seen, listener = [], Notes()
    listener.started = lambda _: seen.extend(each.what for each in trainers(others=False))
    go(make_suite(methods=["ce"], teachers=None), listener=listener)
    assert seen == ["tiny"]
    assert trainers(others=False) == []


def test_plan_has_final_ids(tmp_path, cache, go):
    plan = plan_suite(make_suite(), root=tmp_path, cache=cache)
    assert all(run.dataset.content for run in plan.runs)
    assert [record.run_id for record in go(make_suite())] == [run.run_id for run in plan.runs]


def test_missing_data_is_said_before_anything_is_trained(tmp_path, cache, trainings, go):
    suite = make_suite(datasets=[*TINY["datasets"], "pbc"])
    with pytest.raises(MissingData, match=r"pbc: nothing at .*get it from https://.*--data-root"):
        go(suite, root=tmp_path / "none")
    assert trainings == []


def test_missing_data_can_be_planned_over(tmp_path, cache):
    plan = plan_suite(make_suite(datasets=["pbc"]), root=tmp_path / "none", cache=cache, missing_ok=True)
    assert len(plan.runs) == 3
    assert not any(run.dataset.content for run in plan.runs)


def test_mistakes_are_said_before_data_are_opened(tmp_path, cache):
    suite = make_suite(datasets=[{"name": "pbc", "image_size": 50}], students=["vit_micro"])
    with pytest.raises(ConfigError, match="vit_micro on pbc"):
        plan_suite(suite, root=tmp_path / "none", cache=cache)


def test_unknown_suite(tmp_path):
    with pytest.raises(UnknownName, match="nonsense"):
        kdbench.run_suite("nonsense", tmp_path)
