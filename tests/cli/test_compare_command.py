"""`kdbench compare` as a user calls it, on the committed results."""

import json
from pathlib import Path

import pytest

RESULTS = Path(__file__).resolve().parents[2] / "results" / "bccd-small"


def test_two_recipes(kdbench):
    code, out, err = kdbench("compare", "resnet8_w16/ce", "resnet8_w16/kd < resnet10t", "--results", RESULTS)
    assert (code, err) == (0, "")
    assert out.startswith("# Comparison\n")
    assert "not significant" in out
    assert "## Images that were right and are wrong" in out


def test_json(kdbench):
    code, out, _ = kdbench("compare", "resnet8_w16/ce/seed0", "resnet8_w16/ce/seed1", "--results", RESULTS, "--json")
    assert code == 0
    # other seeds of one recipe: no pair has the same seed
    assert json.loads(out)["changes"][0]["how"] == "independent"


def test_a_leaderboard_with_itself(kdbench):
    code, out, _ = kdbench("compare", RESULTS, RESULTS)
    assert code == 0
    assert "12 rows are on both sides, 12 of them unchanged; 0 are only in A, 0 only in B." in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing-like-it", "resnet8_w16/ce"), "unknown run"),
        (("resnet8_w16", "resnet8_w16/ce"), "fits several recipes"),
        ((RESULTS, "resnet8_w16/ce"), "name two leaderboards, or two runs"),
        (("a.json", "b.json"), "a.json"),
    ],
)
def test_what_is_wrong_is_one_message_and_code_2(kdbench, words, said):
    code, out, err = kdbench("compare", *words, "--results", RESULTS)
    assert (code, out) == (2, "")
    assert said in err
