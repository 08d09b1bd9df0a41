"""What teachers said takes room: it is listed, and removed by key, by age, or all of it."""

import json
import os

import numpy as np
import pytest
import yaml

KEYS = ("0a11aaaaaaaaaaaa", "0a22bbbbbbbbbbbb", "f333cccccccccccc")
SIZE = 200_128
"""Bytes of each: an array of 50,000 numbers, with its header."""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of one's own, with three entries, the first used longest ago; beside them what is no teacher's."""
    root = tmp_path / "cache"
    monkeypatch.setenv("KDBENCH_CACHE", str(root))
    (root / "tuning").mkdir(parents=True)
    (root / "tuning" / "probe.json").write_text("{}")
    for number, key in enumerate(KEYS):
        folder = root / "teachers" / key
        folder.mkdir(parents=True)
        path = folder / "0-logits.npy"
        np.save(path, np.zeros(50_000, dtype=np.float32))
        about = {"teacher": f"resnet{number}", "dataset": "tiny, 32 px, 70 training images"}
        (folder / "about.json").write_text(json.dumps(about))
        when = 1_700_000_000 + 86_400 * number
        os.utime(path, (when, when))
    return root


def kept(root):
    return sorted(path.name for path in (root / "teachers").iterdir())


def test_entries_are_listed_the_least_recently_used_first(kdbench, cache):
    code, out, err = kdbench("cache", "list")
    assert (code, err) == (0, "")
    assert str(cache) in out.replace("\n", "")
    places = [out.index(key) for key in KEYS]
    assert places == sorted(places)
    for number in range(3):
        assert f"resnet{number}" in out
    assert out.count("0.2 MB") == 3
    assert out.count("2023-11-1") == 3
    assert "3 entries, 0.6 MB" in out
    assert kept(cache) == sorted(KEYS)


def test_keys_are_listed_whole_in_a_narrow_window_too(kdbench, cache, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    _, out, _ = kdbench("cache", "list")
    assert all(key in out for key in KEYS)


def test_names_in_brackets_are_shown_as_they_are(kdbench, cache, tmp_path, monkeypatch):
    about = {"teacher": "[mine]", "dataset": "[bold]x"}
    (cache / "teachers" / KEYS[0] / "about.json").write_text(json.dumps(about))
    _, out, _ = kdbench("cache", "list")
    assert "[mine]" in out
    assert "[bold]x" in out
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "[red]"))
    assert "[red]" in kdbench("cache", "list")[1]


def test_an_entry_that_says_nothing_of_itself_is_listed(kdbench, cache):
    (cache / "teachers" / KEYS[1] / "about.json").write_text("{ half of")
    code, out, _ = kdbench("cache", "list")
    assert code == 0
    assert KEYS[1] in out
    assert "unknown" in out


def test_an_empty_cache_says_so(kdbench, tmp_path, monkeypatch):
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "nothing"))
    code, out, _ = kdbench("cache", "list")
    assert code == 0
    assert "no teacher outputs in" in out
    assert "0 entries" in out
    assert kdbench("cache", "evict", "--all")[:2] == (0, "removed 0 of 0, 0.0 MB\n")
    assert not (tmp_path / "nothing").exists()


def test_all_are_evicted_and_nothing_else(kdbench, cache):
    assert kdbench("cache", "evict", "--all") == (0, "removed 3 of 3, 0.6 MB\n", "")
    assert kept(cache) == []
    assert (cache / "tuning" / "probe.json").exists()


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        ("0B", []),
        ("200.128KB", [2]),
        ("200.127KB", []),
        (f"{2 * SIZE}B", [1, 2]),
        (f"{3 * SIZE - 1} b", [1, 2]),
        (f"{3 * SIZE}B", [0, 1, 2]),
        ("0.5MB", [1, 2]),
        ("0.5mb", [1, 2]),
        ("1e3MB", [0, 1, 2]),
        ("390.9KiB", [1, 2]),
        ("390KIB", [2]),
        ("0.0003 GiB", [2]),
        ("2GB", [0, 1, 2]),
        ("1MiB", [0, 1, 2]),
    ],
)
def test_the_least_recently_used_go_until_so_much_is_left(kdbench, cache, keep, left):
    code, out, err = kdbench("cache", "evict", "--keep", keep)
    assert (code, err) == (0, "")
    assert kept(cache) == sorted(KEYS[number] for number in left)
    assert out == f"removed {3 - len(left)} of 3, {(3 - len(left)) * SIZE / 1e6:.1f} MB\n"


@pytest.mark.parametrize(
    ("keys", "left"),
    [
        ([KEYS[1]], [0, 2]),
        (["f"], [0, 1]),
        (["0a1"], [1, 2]),
        (["0a11", "f333"], [1]),
        (["f", "f3", KEYS[2]], [0, 1]),  # the same, thrice
    ],
)
def test_entries_are_evicted_by_the_first_digits_of_their_keys(kdbench, cache, keys, left):
    code, out, err = kdbench("cache", "evict", *keys)
    assert (code, err) == (0, "")
    assert kept(cache) == sorted(KEYS[number] for number in left)
    assert out.startswith(f"removed {3 - len(left)} of 3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["abc"], "unknown teacher outputs 'abc'"),
        (["0a"], "unknown teacher outputs '0a'; known: 0a11aaaaaaaaaaaa, 0a22bbbbbbbbbbbb"),  # two of them
        (["f333", "nonsense"], "unknown teacher outputs 'nonsense'"),
        ([KEYS[0] + "a"], "did you mean 0a11aaaaaaaaaaaa"),
        ([""], "unknown teacher outputs ''"),
        ([], "name keys, or give --all, or --keep SIZE; one of them"),
        (["f333", "--all"], "one of them"),
        (["--all", "--keep", "1GB"], "one of them"),
        (["f333", "--keep", "1GB"], "one of them"),
        (["f333", "--all", "--keep", "1GB"], "one of them"),
        (["--keep", "much"], "--keep 'much' is no size; write 500MB or 2GB"),
        (["--keep", "12"], "is no size"),
        (["--keep", "GB"], "is no size"),
        (["--keep", ""], "is no size"),
        (["--keep", "2 TB"], "is no size"),
        (["--keep", "1,5GB"], "is no size"),
        (["--keep", "-1GB"], "is no size"),
        (["--keep", "nanGB"], "is no size"),
        (["--keep", "infMB"], "is no size"),
        (["--keep", "1e999GB"], "is no size"),
    ],
    ids=str,
)
def test_wrong_usage_removes_nothing(kdbench, cache, arguments, message):
    code, out, err = kdbench("cache", "evict", *arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert kept(cache) == sorted(KEYS)


def test_what_a_run_kept_is_listed_and_evicted(kdbench, tmp_path, monkeypatch):
    from kdbench.engine import tuning
    from kdbench.suite import run

    for module in (tuning, run):
        monkeypatch.setattr(module, "usable_cores", lambda: 1)
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "own"))
    suite = tmp_path / "tiny.yaml"
    raw = {
        "name": "tiny",
        "datasets": [{"name": "synthetic", "image_size": 32, "options": {"count": 100}}],
        "teachers": ["resnet20_w16"],
        "students": ["resnet8_w16"],
        "methods": ["kd"],
        "train": {"epochs": 1, "batch_size": 16},
        "profile": {"samples": 5},
    }
    suite.write_text(yaml.safe_dump(raw))
    assert kdbench("run", suite, "--only", "kd")[0] == 0
    (entry,) = kept(tmp_path / "own")
    _, out, _ = kdbench("cache", "list")
    assert "1 entry, 0.0 MB" in out
    assert entry in out
    shown = "".join(out.split())
    assert "resnet20_w16" in shown
    assert kdbench("cache", "evict", entry[:4])[1] == "removed 1 of 1, 0.0 MB\n"
    assert kept(tmp_path / "own") == []
