"""A results folder of runs on image files of many shapes, and what becomes of them: made once for all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import yaml

from kdbench.config import parse_suite
from kdbench.data.source import SOURCES
from kdbench.store import Store
from kdbench.suite.api import run_suite
from kdbench.suite.export import export_run
from kdbench.suite.plan import RegistryNames
from kdbench.types import RunRecord

IMAGES = 60
TRAIN = {"epochs": 1, "batch_size": 16, "channels_last": False}
FILES = {
    "name": "files",
    "datasets": [
        {"name": "jtsc", "image_size": 32, "fit": "crop", "crop_fraction": 0.8},
        {"name": "jtsc", "image_size": 32, "fit": "stretch"},
        {"name": "jtsc", "image_size": 32, "fit": "pad"},
        {"name": "jtsc", "image_size": 32, "fit": "pad", "stain": "reinhard"},
    ],
    "students": ["resnet8_w16"],
    "train": TRAIN,
    "profile": {"samples": 5},
}
TAUGHT = {
    "name": "taught",
    "datasets": [{"name": "synthetic", "image_size": 32, "options": {"count": 100}}],
    "teachers": ["resnet20_w16"],
    "students": ["resnet8_w16"],
    "methods": ["simkd"],
    "train": TRAIN,
    "profile": {"samples": 5},
}

CASES: dict[str, Callable[[RunRecord], bool]] = {
    "crop": lambda record: record.spec.dataset.crop_fraction == 0.8,
    "stretch": lambda record: record.spec.dataset.fit == "stretch",
    "pad": lambda record: record.spec.dataset.fit == "pad" and record.spec.dataset.stain == "none",
    "stain": lambda record: record.spec.dataset.stain == "reinhard",
    "simkd": lambda record: record.spec.method.name == "simkd",
}
ON_FILES = ("crop", "stretch", "pad", "stain")


@dataclass
class Deployed:
    """Data root, cache, results folder, and the exported folders that were asked for so far."""

    folder: Path
    exported: dict[str, Path] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.folder / "data"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def record(self, case: str) -> RunRecord:
        (found,) = [record for record in Store(self.results).records() if CASES[case](record)]
        return found

    def export(self, case: str) -> Path:
        """An exported folder of that run; not to be written into."""
        if case not in self.exported:
            out = self.folder / f"exported-{case}"
            with one_thread():
                export_run(self.results, self.record(case).run_id, out, root=self.root, cache=self.cache)
            self.exported[case] = out
        return self.exported[case]

    def test_files(self, case: str) -> list[Path]:
        """The test images of a run on files, in the order of its stored predictions."""
        items = Store(self.results).read_items_of(self.record(case).spec.dataset)
        return [self.root / name for name, _, _ in items]


@contextmanager
def one_thread() -> Iterator[None]:
    """Networks this small wait for each other's threads more than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("kdbench.suite.run", "kdbench.engine.tuning", "kdbench.compress.classifier"):
            patch.setattr(f"{module}.usable_cores", lambda: 1)
        yield
    torch.set_num_threads(before)


def make_deployed(folder: Path) -> Deployed:
    made = Deployed(folder)
    source, options = SOURCES.get("synthetic"), {"count": IMAGES}
    place = made.root / "jtsc"
    place.mkdir(parents=True)
    lines = ["image ID,class"]
    for number, item in enumerate(source.scan(made.root, options).items, start=1):
        image = source.read(item, options)
        width, height = 96 - number % 5 * 7, 96 - number % 3 * 11  # of many shapes, upright and across
        image.crop((0, 0, width, height)).save(place / f"{number:03d}.bmp")
        lines.append(f"{number},{1 + source.labels.index(item.label)}")
    (place / "Class Labels of Dataset 1.csv").write_text("\n".join(lines))
    with one_thread():
        for suite in (FILES, TAUGHT):
            records = run_suite(
                parse_suite(yaml.safe_dump(suite), suite["name"], RegistryNames()),
                made.results,
                root=made.root,
                cache=made.cache,
            )
            assert [record.failure for record in records if record.failure] == []
    return made
