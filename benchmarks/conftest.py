"""What the timings share: images in memory, threads fixed, real images where KDBENCH_DATA has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from kdbench.data.dataset import Dataset, open_dataset
from kdbench.environment import usable_cores
from kdbench.types import DatasetSpec


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(usable_cores())


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """1,000 drawn images at 64 px; timings do not depend on what is in a picture."""
    spec = DatasetSpec(name="synthetic", image_size=64, options={"count": 1000})
    return open_dataset(spec, Path(), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def real_root() -> Path:
    """The data root with real images; skips without."""
    root = os.environ.get("KDBENCH_DATA")
    if not root:
        pytest.skip("KDBENCH_DATA names no folder with real images")
    return Path(root)
