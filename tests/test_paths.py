"""Where images are looked for: as given, else as the environment says, else in the user's folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench import paths

BOTH = [(paths.data_root, "KDBENCH_DATA"), (paths.cache_root, "KDBENCH_CACHE")]


@pytest.mark.parametrize(("root", "variable"), BOTH)
def test_given_goes_before_the_environment(root, variable, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "named"))
    assert root(tmp_path / "given") == tmp_path / "given"
    assert root(str(tmp_path / "given")) == tmp_path / "given"
    assert root() == tmp_path / "named"


@pytest.mark.parametrize(("root", "variable"), BOTH)
def test_tilde_is_the_home(root, variable, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, "~/named")
    assert root() == tmp_path / "named"
    assert root("~/given") == tmp_path / "given"


@pytest.mark.parametrize(("root", "variable"), BOTH)
@pytest.mark.parametrize("empty", [True, False])
def test_else_it_is_a_folder_of_the_user(root, variable, empty, monkeypatch, tmp_path) -> None:
    for place in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(place, str(tmp_path))
    monkeypatch.setenv(variable, "") if empty else monkeypatch.delenv(variable, raising=False)
    found = root()
    assert found.is_relative_to(tmp_path)
    assert "kdbench" in found.parts
    assert not found.exists()  # asking makes nothing


def test_the_two_are_not_the_same(monkeypatch) -> None:
    monkeypatch.delenv("KDBENCH_DATA", raising=False)
    monkeypatch.delenv("KDBENCH_CACHE", raising=False)
    assert paths.data_root() != paths.cache_root()
    assert paths.data_root(Path("a")) == Path("a")
