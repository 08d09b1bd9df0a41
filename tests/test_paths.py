"""Where images are looked for: as given, else the variable, else the user's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench.paths import cache_root, data_root


@pytest.mark.parametrize(("function", "variable"), [(data_root, "KDBENCH_DATA"), (cache_root, "KDBENCH_CACHE")])
def test_the_order(function, variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv(variable, str(tmp_path / "named"))
    assert function(tmp_path / "given") == tmp_path / "given"
    assert function() == tmp_path / "named"
    monkeypatch.delenv(variable)
    assert function().name == "kdbench"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert function("~/images") == tmp_path / "images"
