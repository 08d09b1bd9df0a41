"""While a record is being written, and after a kill in the middle of it, readers see whole records only."""

from pathlib import Path

import pytest
import yaml

import kdbench
from kdbench.config import parse_suite
from kdbench.store import Store

SUITE = {
    "name": "written",
    "datasets": [{"name": "synthetic", "image_size": 32, "options": {"count": 100}}],
    "students": ["resnet8_w16"],
    "train": {"epochs": 1, "batch_size": 16},
    "profile": {"samples": 5},
}


class Killed(BaseException):
    """Stands for the end of the process."""


def test_readers_do_not_see_half_a_record(tmp_path, monkeypatch):
    suite = parse_suite(yaml.safe_dump(SUITE), "written")
    results, cache = tmp_path / "results", tmp_path / "cache"
    first = kdbench.run_suite(suite, results, cache=cache)
    replace, unlink = Path.replace, Path.unlink

    def killed_before_replace(self, target):
        if Path(target).suffix == ".json":
            self.write_bytes(self.read_bytes()[:100])  # not all of it had reached the disk
            raise Killed
        return replace(self, target)

    def killed_unlink(self, missing_ok=False):
        if not self.name.startswith(".partial-"):  # a killed process tidies nothing up
            unlink(self, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed_before_replace)
        patch.setattr(Path, "unlink", killed_unlink)
        with pytest.raises(Killed):
            kdbench.run_suite(suite, results, cache=cache, seeds=[1])
    assert len(list((results / "records").iterdir())) == 2  # the half one lies there
    assert kdbench.collect(results) == Store(results).records() == first

    records = kdbench.run_suite(suite, results, cache=cache, seeds=[0, 1])
    assert [record.status for record in records] == ["ok", "ok"]
    assert records[0] == first[0]
    assert len(list((results / "records").iterdir())) == 2
    assert not list(results.rglob(".partial-*"))
