"""Fixtures of the engine's tests."""

from pathlib import Path

import pytest
import torch

from kdbench.data.dataset import open_dataset
from kdbench.types import DatasetSpec


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """100 drawn images at 32 px: 70 to train, 10 to validate, 20 to test."""
    spec = DatasetSpec(name="synthetic", image_size=32, options={"count": 100})
    return open_dataset(spec, Path(), tmp_path_factory.mktemp("cache"))
