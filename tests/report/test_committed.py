"""The committed leaderboards are what the committed records say, to the letter."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench.model import MODELS
from kdbench.report import Outcomes, collect, collect_profiles, render

RESULTS = Path(__file__).resolve().parents[2] / "results"
COMMITTED = ("bccd-small", "methods-small", "mixed-small")


@pytest.mark.parametrize("name", COMMITTED)
def test_leaderboard_follows_from_the_records(name: str) -> None:
    text = (RESULTS / name / "leaderboard.md").read_text(encoding="utf-8")
    assert render(collect(RESULTS / name), "md", outcomes=Outcomes.below(RESULTS / name)) == text


@pytest.mark.parametrize("name", COMMITTED)
def test_every_run_has_its_predictions_and_no_weights_or_images_are_committed(name: str) -> None:
    runs = {path.stem for path in (RESULTS / name / "records").glob("*.json")}
    assert runs
    assert {path.stem for path in (RESULTS / name / "predictions").glob("*.safetensors")} == runs
    assert not [path for path in (RESULTS / name).rglob("*") if path.suffix in (".jpg", ".jpeg", ".png", ".bmp")]


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
