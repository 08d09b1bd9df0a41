"""Where images are found and where decoded ones are kept. Floor 2."""

from __future__ import annotations

import os
import re
from pathlib import Path

import platformdirs


def data_root(given: Path | str | None = None) -> Path:
    """The folder that holds a folder for each source: as given, else KDBENCH_DATA, else the user's data folder."""
    if given is not None:
        return Path(given).expanduser()
    if named := os.environ.get("KDBENCH_DATA"):
        return Path(named).expanduser()
    return Path(platformdirs.user_data_dir("kdbench", appauthor=False))


def cache_root(given: Path | str | None = None) -> Path:
    """The folder of decoded images: as given, else KDBENCH_CACHE, else the user's cache folder."""
    if given is not None:
        return Path(given).expanduser()
    if named := os.environ.get("KDBENCH_CACHE"):
        return Path(named).expanduser()
    return Path(platformdirs.user_cache_dir("kdbench", appauthor=False))


def without_folders(message: str) -> str:
    """A message without the folders of this machine, for a record is made to be shared: only file names stay."""
    return re.sub(r"(?<![\w.:/])/(?:[^\s/:'\",;()]+/)+", "", message)
