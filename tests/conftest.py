"""What all tests share. No test writes outside its temporary folder or reads the user's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _no_user_folders(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    if "KDBENCH_CACHE" not in os.environ:
        monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "kdbench-cache"))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The real images; a test that needs them skips, visibly, where KDBENCH_DATA names none."""
    root = os.environ.get("KDBENCH_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("KDBENCH_DATA names no folder with real images")
    return Path(root)
