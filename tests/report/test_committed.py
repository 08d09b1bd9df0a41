"""The committed leaderboards are what the committed records say, to the letter."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench.model import MODELS
from kdbench.report import Outcomes, build_rows, collect, collect_profiles, profiles_of, render
from kdbench.report.audits import render_audit
from kdbench.report.lineage import ways_of
from kdbench.store import load_audits

RESULTS = Path(__file__).resolve().parents[2] / "results"
COMMITTED = ("bccd-leak", "bccd-small", "compress-small", "methods-small", "mixed-loso", "mixed-small")
AUDITED = ("bccd", "mixed", "pbc")


@pytest.mark.parametrize("name", COMMITTED)
def test_leaderboard_follows_from_the_records(name: str) -> None:
    folder = RESULTS / name
    text = (folder / "leaderboard.md").read_text(encoding="utf-8")
    assert render(collect(folder), "md", profiles_of(folder, ()), Outcomes.below(folder)) == text


@pytest.mark.parametrize("name", COMMITTED)
def test_every_run_has_its_predictions_and_no_weights_or_cells_are_committed(name: str) -> None:
    runs = {path.stem for path in (RESULTS / name / "records").glob("*.json")}
    assert runs
    assert {path.stem for path in (RESULTS / name / "predictions").glob("*.safetensors")} == runs
    pictures = [path for path in (RESULTS / name).rglob("*") if path.suffix in (".jpg", ".jpeg", ".png", ".bmp")]
    assert {path.parent.name for path in pictures} <= {"plots"}
    # a picture is of figures if `kdbench report --plots` drew it as SVG as well
    assert all(path.with_suffix(".svg").is_file() for path in pictures)


def test_the_page_for_the_browser_follows_from_the_records() -> None:
    page = (RESULTS / "leaderboard.html").read_text(encoding="utf-8")
    assert (
        render(collect(RESULTS), "html", profiles_of(RESULTS, [RESULTS / "profiles"]), Outcomes.below(RESULTS)) == page
    )
    assert len(page) < 2_000_000
    assert not [word for word in ("/home/", "/work", "/tmp") if word in page]


def test_the_page_of_costs_follows_from_its_profiles() -> None:
    profiles = collect_profiles(RESULTS / "profiles")
    assert render([], "md", profiles) == (RESULTS / "profiles" / "leaderboard.md").read_text(encoding="utf-8")
    assert {profile.model for profile in profiles} == set(MODELS.names())


def test_committed_profiles_name_no_place() -> None:
    for path in (RESULTS / "profiles").glob("*.json"):
        text = path.read_text("utf-8")
        assert "/home/" not in text
        assert "/work" not in text
        assert "/tmp" not in text


@pytest.mark.parametrize("name", AUDITED)
def test_the_page_of_an_audit_follows_from_its_record(name: str) -> None:
    (record,) = load_audits(RESULTS / "audits" / f"{name}.json")
    assert record.name == name
    page = (RESULTS / "audits" / f"{name}.md").read_text(encoding="utf-8")
    assert render_audit(record) == page
    assert not [word for word in ("/home/", "/work", "/tmp") if word in page + record.model_dump_json()]


def test_the_audit_of_bccd_says_what_was_promised() -> None:
    (record,) = load_audits(RESULTS / "audits" / "bccd.json")
    assert record.originals is not None
    assert record.originals.share >= 0.97
    assert record.seconds < 600
    assert len(record.originals.overlapping_across) == 8
    (mixed,) = load_audits(RESULTS / "audits" / "mixed.json")
    assert mixed.seconds < 180
    assert mixed.counts["near"].across_sides == 0  # what is known to belong together stays together


def test_what_a_leak_is_worth_stands_first() -> None:
    page = (RESULTS / "bccd-leak" / "leaderboard.md").read_text(encoding="utf-8")
    assert page.index("## What the protocol is worth") < page.index("## bccd, 64 px")
    assert "pooled-random (leaky) (%)" in page
    assert page.count("**Leaky protocol") >= 1


def test_a_student_that_was_distilled_pruned_and_quantised_is_as_good_small_and_quick() -> None:
    """What the documentation says of compress-small."""
    folder = RESULTS / "compress-small"
    rows = build_rows(collect(folder), profiles_of(folder, ()), Outcomes.below(folder))
    trained = next(row for row in rows if row.model == "resnet10t" and row.role == "student")
    small = next(row for row in rows if row.model == "resnet10t > macs 50 % > int8")
    assert trained.accuracy is not None
    assert small.accuracy is not None
    assert small.accuracy >= trained.accuracy - 0.005
    assert (small.weight_bytes or 0) <= (trained.weight_bytes or 0) / 4
    for way in ways_of(rows):
        before, after = way.of(trained), way.of(small)
        if before is not None and after is not None:
            assert after.interval_ms is not None
            assert before.interval_ms is not None
            assert after.interval_ms[1] <= before.interval_ms[0] / 2
