"""Near duplicates in real images, each pair looked at by eye once."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench.data.survey import survey
from kdbench.types import DatasetSpec

pytestmark = pytest.mark.realdata

CELLS_TAKEN_TWICE = {
    ("00037", "00038"), ("00205", "00276"), ("00226", "00261"), ("00229", "00258"), ("00230", "00257"),
    ("00231", "00256"), ("00237", "00252"), ("00243", "00250"), ("00244", "00247"), ("00382", "00395"),
    ("00384", "00393"), ("00386", "00391"),
}  # fmt: skip


def test_cells_that_bccd_holds_twice(data_root: Path, tmp_path: Path) -> None:
    record = survey(DatasetSpec(name="bccd_crops"), data_root, tmp_path)
    found = {tuple(sorted(image.id.split("_")[-2] for image in (pair.first, pair.second))) for pair in record.pairs}
    assert found == CELLS_TAKEN_TWICE
    assert (record.images, record.exact_groups, record.counts["near"].pairs) == (351, 0, len(CELLS_TAKEN_TWICE))
