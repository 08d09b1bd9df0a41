"""What a teacher says of the views a student is shown: replayed from the disk, or asked for batch by batch.

A view is a pure function of (view seed, epoch, index), so what a teacher makes of a pass over the training images
holds for every student, method and seed that sees the same views. It is computed in one order of images and in
the same batches whoever asks first; whether a pass is computed now or read back therefore changes no bit of a student.

    CACHE/teachers/<key>/about.json        whose outputs these are, of which images under which views, for people
    CACHE/teachers/<key>/<n>-<tap>.npy     one array (N_train, ...) float32 of the n-th view: logits, pooled, stage1 ...

The key is a hash of the teacher's weights, the images and their split, the view schedule and the precision. Files are
written beside their place and moved there; readers map them into memory and need no lock.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from kdbench.data.dataset import Dataset
from kdbench.data.views import Views, view_epoch
from kdbench.engine.evaluate import BATCH
from kdbench.engine.taps import Watched
from kdbench.errors import TrainError
from kdbench.features import Anatomy, Need, Outputs
from kdbench.method import Method
from kdbench.store import write_atomic
from kdbench.types import Precision, Progress, RunSpec, TeacherMode, TeachingSpec, ViewSpec, content_id, identity

log = logging.getLogger(__name__)

FOLDER = "teachers"
"""Below the cache root."""


@dataclass(frozen=True)
class Batch:
    """One training batch, as a teacher has to know it.

    Attributes:
        positions: (B,) places among the training images, ascending.
        indices: (B,) the images' numbers in the data set.
        pixels: (B, 3, S, S) what the student is shown, normalised for the student.
    """

    positions: np.ndarray
    indices: np.ndarray
    pixels: Tensor


class TeacherNetwork:
    """A trained network that only answers: in evaluation mode, without gradient.

    Args:
        model: trained, on its device.
        identity: hash of its weights.
        views: turns images into its own input (its normalisation may differ from the student's).
        title: what to call it in messages.
        taps: as in `Watched`.
    """

    def __init__(
        self,
        model: nn.Module,
        identity: str,
        data: Dataset,
        views: Views,
        *,
        precision: Precision = "fp32",
        title: str = "the teacher",
        taps: Sequence[str] = (),
    ) -> None:
        if views.spec is None:
            raise TrainError("a teacher needs the views its students are shown")
        self.model = model.eval().requires_grad_(False)
        self.identity, self.data, self.views, self.precision, self.title = identity, data, views, precision, title
        self.taps = tuple(taps)
        self.view_spec: ViewSpec = views.spec
        self._watched = Watched(model, data.spec.image_size, taps=taps)

    @property
    def anatomy(self) -> Anatomy:
        return self._watched.anatomy

    def watched(self, needs: Iterable[Need]) -> Watched:
        """The network, to be called for these needs."""
        return self._watched.asked_for(needs)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


class Teaching(ABC):
    """A teacher as a training run meets it.

    Attributes:
        network: who teaches.
        mode: how its outputs come about; the record says it.
        bytes: the room its outputs take on the disk; 0 where none are kept.
        seconds: spent on computing outputs ahead of the steps.
    """

    mode: TeacherMode

    def __init__(self, network: TeacherNetwork, needs: Iterable[Need]) -> None:
        self.network = network
        self.needs = tuple(sorted(set(needs) - {"token"}))
        self.bytes = 0
        self.seconds = 0.0

    @property
    def anatomy(self) -> Anatomy:
        return self.network.anatomy

    @property
    def identity(self) -> str:
        return self.network.identity

    @abstractmethod
    def begin(self, epoch: int) -> None:
        """Get ready for an epoch."""

    @abstractmethod
    def __call__(self, batch: Batch, epoch: int) -> Outputs:
        """What the teacher makes of a batch; without gradient, on the device of the pixels."""


class LiveTeacher(Teaching):
    """Runs beside the student, on the student's own batches."""

    mode = "live"

    def __init__(self, network: TeacherNetwork, needs: Iterable[Need], shown: Views) -> None:
        """Args: shown: the student's views; where they are normalised alike, its pixels serve the teacher too."""
        super().__init__(network, needs)
        self._same_input = network.views.same_input(shown)
        self._watched = network.watched(self.needs)

    def begin(self, epoch: int) -> None:
        pass

    def __call__(self, batch: Batch, epoch: int) -> Outputs:
        network = self.network
        device = batch.pixels.device
        pixels = batch.pixels
        if not self._same_input:
            pixels = network.views.batch(network.data, batch.indices, epoch).to(device)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=network.precision == "bf16"):
            said = self._watched(pixels)
        # a copy made outside of inference mode may take part in a graph
        return Outputs(
            logits=said.logits.float().clone(),
            pooled=None if said.pooled is None else said.pooled.float().clone(),
            stages=tuple(stage.float().clone() for stage in said.stages),
        )


class CachedTeacher(Teaching):
    """Computes each pass once and replays it.

    Args:
        cache: the cache root.
        passes: how many views of each image the run sees.
        notice: told, before the first pass is written, how much room it all will take.
        progress: told while a pass is computed.
    """

    mode = "cached"

    def __init__(
        self,
        network: TeacherNetwork,
        needs: Iterable[Need],
        cache: Path,
        *,
        passes: int,
        notice: Callable[[str], None] | None = None,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(network, needs)
        self.folder = cache / FOLDER / cache_key(network)
        self._shapes = tap_shapes(network.anatomy, self.needs)
        self._count = len(network.data.splits["train"])
        self._passes, self._notice, self._progress = passes, notice, progress
        self._announced = False
        self._arrays: dict[str, np.ndarray] = {}
        self.bytes = needed_bytes(network, self.needs, passes)

    def begin(self, epoch: int) -> None:
        number = view_epoch(self.network.view_spec, epoch)
        started = time.perf_counter()
        if self._missing(number):
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock"):  # another process may be at it: its pass is ours too
                if missing := self._missing(number):
                    self._fill(number, missing)
            self.seconds += time.perf_counter() - started
        self._arrays = {tap: self._open(number, tap) for tap in self._shapes}  # type: ignore[misc]

    def __call__(self, batch: Batch, epoch: int) -> Outputs:
        rows = {
            tap: torch.from_numpy(array[batch.positions]).to(batch.pixels.device) for tap, array in self._arrays.items()
        }
        return Outputs(
            logits=rows["logits"],
            pooled=rows.get("pooled"),
            stages=tuple(rows[tap] for tap in self._shapes if tap.startswith("stage")),
        )

    def _path(self, number: int, tap: str) -> Path:
        return self.folder / f"{number}-{tap}.npy"

    def _open(self, number: int, tap: str) -> np.ndarray | None:
        """The array of one pass, None if it is not there or damaged."""
        try:
            array: np.ndarray = np.load(self._path(number, tap), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return array if array.shape == (self._count, *self._shapes[tap]) and array.dtype == np.float32 else None

    def _missing(self, number: int) -> list[str]:
        return [tap for tap in self._shapes if self._open(number, tap) is None]

    def _fill(self, number: int, missing: Sequence[str]) -> None:
        """Compute one pass over the training images, in their order and in batches of `BATCH`."""
        self._announce()
        for left_behind in self.folder.glob(".partial-*"):  # of a killed process: whoever fills holds the lock
            left_behind.unlink(missing_ok=True)
        needs: set[Need] = {"stages" if tap.startswith("stage") else tap for tap in missing}  # type: ignore[misc]
        if "stages" not in self.needs:  # only the last map is kept
            needs = {"last" if need == "stages" else need for need in needs}
        watched = self.network.watched(needs)
        partial = {tap: self._path(number, tap).with_name(f".partial-{number}-{tap}.npy") for tap in missing}
        try:
            self._write(number, watched, partial)
            for tap, path in partial.items():
                path.replace(self._path(number, tap))
        finally:
            for path in partial.values():
                path.unlink(missing_ok=True)

    def _write(self, number: int, watched: Watched, paths: Mapping[str, Path]) -> None:
        """Append the rows of a pass to array files as they come: quicker than through a mapping, page by page."""
        network, train = self.network, self.network.data.splits["train"]
        device = network.device
        with contextlib.ExitStack() as stack:
            files = {tap: stack.enter_context(path.open("wb")) for tap, path in paths.items()}
            for tap, file in files.items():
                shape = (self._count, *self._shapes[tap])
                np.lib.format.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
            for start in range(0, self._count, BATCH):
                part = train[start : start + BATCH]
                if self._progress:
                    self._progress(f"outputs of {network.title}", start, self._count)
                pixels = network.views.batch(network.data, part, number).to(device)
                with (
                    torch.inference_mode(),
                    torch.autocast(device.type, torch.bfloat16, enabled=network.precision == "bf16"),
                ):
                    said = watched(pixels)
                for tap, file in files.items():
                    rows = _tap(said, tap).float().contiguous().cpu().numpy()
                    file.write(rows.astype("<f4", copy=False).data)

    def _announce(self) -> None:
        """Say how much room is needed, before it is taken; once for each run."""
        if self._announced:
            return
        self._announced = True
        network, spec = self.network, self.network.data.spec
        what = ", ".join(self._shapes)
        size = f"{self.bytes / 1e6:,.1f} MB"
        there = sum(path.stat().st_size for tap in self._shapes for path in self.folder.glob(f"*-{tap}.npy"))
        free = shutil.disk_usage(self.folder).free
        if self.bytes - there > free:
            raise TrainError(
                f"the outputs of {network.title} take {size}, only {free / 1e6:,.1f} MB are free at "
                f"{self.folder.parent}; make room with `kdbench cache evict`, set views: {{pool: 4}}, or "
                "teaching: {outputs: live}"
            )
        if self._notice:
            self._notice(
                f"outputs of {network.title} ({what}; {self._passes} views of {self._count:,} images) are computed "
                f"once: {size}"
            )
        facts = {
            "teacher": network.title,
            "weights": network.identity,
            "dataset": f"{spec.name}, {spec.image_size} px, {self._count} training images",
            "views": network.view_spec.model_dump(mode="json"),
            "precision": network.precision,
        }
        write_atomic(self.folder / "about.json", json.dumps(facts, indent=1).encode(), durable=False)


def teaching_for(
    spec: RunSpec,
    method: Method,
    network: TeacherNetwork,
    shown: Views,
    cache: Path,
    *,
    notice: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Teaching:
    """A teacher as a run meets it: replayed from the cache or live, as its spec decides.

    Args:
        shown: the student's views.
        cache, notice, progress: as in `CachedTeacher`.
    """
    needs = method.reads_of_teachers()
    if mode_for(spec.teaching, network, needs, spec.train.epochs) == "live":
        return LiveTeacher(network, needs, shown)
    passes = passes_of(spec.views, spec.train.epochs)
    return CachedTeacher(network, needs, cache, passes=passes, notice=notice, progress=progress)


def cache_key(network: TeacherNetwork) -> str:
    """Hash of all that the outputs follow from."""
    # the pool says which views occur, not how they look
    seen = identity(network.view_spec.model_copy(update={"pool": None}))
    normalised = [network.views.mean, network.views.std]
    data = identity(network.data.spec)  # so that a setting that comes later does not make what is kept worthless
    return content_id([network.identity, data, seen, normalised, network.precision, list(network.taps)])


def tap_shapes(anatomy: Anatomy, needs: Iterable[Need]) -> dict[str, tuple[int, ...]]:
    """The arrays that are kept for these needs, by name, each with the shape of one image's row."""
    needs = set(needs)
    shapes: dict[str, tuple[int, ...]] = {"logits": (anatomy.classes,)}
    if "pooled" in needs:
        shapes["pooled"] = (anatomy.pooled,)
    first = 0 if "stages" in needs else len(anatomy.stages) - 1 if "last" in needs else len(anatomy.stages)
    shapes |= {f"stage{number + 1}": anatomy.stages[number] for number in range(first, len(anatomy.stages))}
    return shapes


def needed_bytes(network: TeacherNetwork, needs: Iterable[Need], passes: int) -> int:
    """The room the outputs of all passes take."""
    row = sum(int(np.prod(shape)) for shape in tap_shapes(network.anatomy, needs).values())
    return 4 * row * len(network.data.splits["train"]) * passes


def passes_of(views: ViewSpec, epochs: int) -> int:
    """How many views of each image a run of so many epochs sees."""
    return epochs if views.pool is None else min(views.pool, epochs)


def mode_for(teaching: TeachingSpec, network: TeacherNetwork, needs: Iterable[Need], epochs: int) -> TeacherMode:
    """How a teacher's outputs are to come about: a function of the spec alone, never of the room on this disk."""
    if teaching.outputs != "auto":
        return teaching.outputs
    maps: list[Need] = [need for need in needs if need in ("last", "stages")]
    if not maps:
        return "cached"
    fits = needed_bytes(network, maps, passes_of(network.view_spec, epochs)) <= teaching.maps_limit_bytes
    return "cached" if fits else "live"


def _tap(said: Outputs, tap: str) -> Tensor:
    if tap == "logits":
        return said.logits
    if tap == "pooled":
        return said.vector
    return said.stages[int(tap.removeprefix("stage")) - 1] if len(said.stages) > 1 else said.last


# ---------------------------------------------------------------- what is kept


@dataclass(frozen=True)
class Entry:
    """The outputs of one teacher for one data set and view schedule."""

    key: str
    path: Path
    about: dict[str, Any]
    bytes: int
    used: float
    """When it was last written to or opened, seconds since 1970."""


def entries(cache: Path) -> list[Entry]:
    """All that is kept, the least recently used first."""
    found = []
    for folder in (cache / FOLDER).glob("*/"):
        files = [file.stat() for file in folder.glob("*.npy")]
        try:
            about = json.loads((folder / "about.json").read_text("utf-8"))
        except (OSError, ValueError):
            about = {}
        used = max((max(file.st_mtime, file.st_atime) for file in files), default=folder.stat().st_mtime)
        found.append(Entry(folder.name, folder, about, sum(file.st_size for file in files), used))
    return sorted(found, key=lambda entry: (entry.used, entry.key))


def evict(entry: Entry) -> None:
    """Remove it; a run that needs it computes it again. Waits for a process that is writing it."""
    with FileLock(entry.path / ".lock"):
        shutil.rmtree(entry.path, ignore_errors=True)
