"""Reading, decoding and augmenting images."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from kdbench.data.dataset import Dataset, open_dataset
from kdbench.data.views import Views
from kdbench.model import IMAGENET_MEAN, IMAGENET_STD
from kdbench.types import DatasetSpec, ViewSpec


def test_a_batch_of_views(data: Dataset, benchmark: Any) -> None:
    views = Views(ViewSpec(), IMAGENET_MEAN, IMAGENET_STD)
    batch = data.splits["train"][:64]
    benchmark(lambda: views(data.images(batch), batch, 3))


@pytest.mark.realdata
def test_mixed_is_decoded_once(
    real_root: Path, tmp_path: Path, benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = DatasetSpec(name="mixed", image_size=64)
    started = time.perf_counter()
    count = sum(open_dataset(spec, real_root, tmp_path).card.sources.values())
    first = time.perf_counter() - started
    benchmark.pedantic(open_dataset, args=(spec, real_root, tmp_path), rounds=5)
    memory = psutil.Process().memory_info().rss / 2**30
    with capsys.disabled():
        print(
            f"\nmixed: {count} images decoded in {first:.1f} s, opened again in {benchmark.stats['median']:.2f} s, "
            f"resident memory {memory:.2f} GiB"
        )
