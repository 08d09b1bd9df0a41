"""Choices from the committed records: they hold on any machine, as nothing but files is read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kdbench.choices import Budget, Choice
from kdbench.config import load_device, shipped_devices
from kdbench.errors import ConfigError, NoStudentFits
from kdbench.pick import judge, pick_student, render_choice
from kdbench.report import Outcomes, build_rows, collect, collect_profiles

RESULTS = Path(__file__).resolve().parents[2] / "results"
MIXED = RESULTS / "mixed-small"
SERVER = "d49a"
"""Where the committed profiles are from."""


def choose(budget: Budget, device: str | None = None, machine: str | None = None, profiles: bool = True) -> Choice:
    return judge(
        collect(MIXED),
        budget,
        device=load_device(device) if device else None,
        profiles=collect_profiles(RESULTS / "profiles") if profiles else (),
        outcomes=Outcomes.below(MIXED),
        machine=machine,
    )


def test_for_a_raspberry_pi() -> None:
    choice = choose(Budget(min_accuracy=0.9), "raspberry-pi-4")
    assert choice.chosen is not None
    assert choice.chosen.label == "resnet8_w16 taught by resnet18 with kd (no ground truth)"
    assert choice.chosen.figures["accuracy"].judged >= 0.9
    assert "latency" not in choice.chosen.figures  # nothing was measured on one
    assert any("nothing here was measured on raspberry-pi-4" in note for note in choice.notes)
    assert "as measured on machine d49a" in choice.chosen.figures["memory"].basis
    runs = {record.run_id: record for record in collect(MIXED)}
    assert runs[choice.run_id].cell_id == choice.chosen.cell_id


def test_every_small_model_has_a_verdict() -> None:
    choice = choose(Budget(min_accuracy=0.9), "raspberry-pi-4")
    small = {row.cell_id for row in build_rows(collect(MIXED)) if row.role != "teacher"}
    assert {verdict.cell_id for verdict in choice.verdicts} == small
    assert all(verdict.reason for verdict in choice.verdicts)


def test_the_first_of_all_is_that_of_the_leaderboard() -> None:
    rows = [row for row in build_rows(collect(MIXED)) if row.rank is not None]
    choice = choose(Budget(), profiles=False)
    assert [verdict.cell_id for verdict in choice.verdicts] == [row.cell_id for row in rows]


def test_two_machines_are_asked_about() -> None:
    with pytest.raises(ConfigError, match="2 machines were measured on"):
        choose(Budget())
    choice = choose(Budget(max_latency_ms="0.2ms"), machine=SERVER)  # type: ignore[arg-type]
    assert choice.chosen is not None
    assert choice.chosen.setting is not None
    assert choice.chosen.setting.runtime == "onnxruntime"


def test_nothing_fits() -> None:
    budget = Budget(min_accuracy=0.99, max_bytes="1kB")  # type: ignore[arg-type]
    choice = choose(budget, "raspberry-pi-4")
    assert choice.chosen is None
    (both,) = choice.relaxations
    assert set(both.changes) == {"accuracy", "bytes"}
    with pytest.raises(NoStudentFits, match="none of 10 candidates fits"):
        pick_student(collect(MIXED), budget, outcomes=Outcomes.below(MIXED))


@pytest.mark.parametrize("device", sorted(set(shipped_devices()) - {"this-machine"}))
def test_every_shipped_device_is_judged(device: str) -> None:
    choice = choose(Budget(), device)
    assert choice.machine == ""
    assert render_choice(choice).endswith("\n")
    if device == "esp32-s3":  # its memory is that of the tensors alone
        assert choice.chosen is not None
        assert choice.chosen.figures["memory"].value < 1e6


def test_no_torch_is_needed() -> None:
    import subprocess

    script = (
        "import sys; from kdbench.pick import judge; from kdbench.choices import Budget; from kdbench.report import "
        "collect; from kdbench.config import load_device; judge(collect(sys.argv[1]), Budget(), "
        "device=load_device('this-machine')); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(MIXED)], check=False).returncode == 0


def test_the_page_of_the_documentation_shows_real_output() -> None:
    import kdbench

    text = (Path(kdbench.__file__).parent / "docs" / "pick.md").read_text("utf-8")
    shown = text.partition("```text\n")[2].partition("```")[0]
    page = render_choice(choose(Budget(min_accuracy=0.9), "raspberry-pi-4"))
    lines = [{" ".join(line.split()) for line in one.splitlines()} for one in (shown, page)]  # columns may widen
    assert len(lines[0]) > 3
    assert lines[0] <= lines[1]
