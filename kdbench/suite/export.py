"""A finished run as a folder for others, and both as a classifier of image files. Floor 5."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from torch import nn

from kdbench._version import __version__
from kdbench.compress.artefact import (
    FILES,
    IR,
    IR_WEIGHTS,
    ONNX,
    PROGRAM,
    WEIGHTS,
    Artefact,
    ExportRecord,
    Format,
    Preprocessing,
    read_export,
)
from kdbench.compress.classifier import Classifier, Opened, open_ir, open_onnx_file, torch_forward
from kdbench.compress.export import Material, write_export
from kdbench.data.dataset import open_dataset
from kdbench.data.source import SOURCES
from kdbench.errors import ConfigError, DataError, ExportError, RecordError, UnknownName, first_line
from kdbench.model import resolve
from kdbench.paths import cache_root, data_root
from kdbench.profiling.conversion import installed
from kdbench.profiling.runtime import RUNTIMES, Setting, usable
from kdbench.store import Store, refuse_used
from kdbench.suite.trained import find_run, load_trained, load_weights
from kdbench.types import DataCard, Metrics, Progress, RunRecord

FORMATS: tuple[Format, ...] = tuple(FILES)
DEFAULT_FORMATS: tuple[Format, ...] = ("safetensors", "onnx")

Runtime = Literal["onnxruntime", "openvino", "torch"]
CLASSIFIER_RUNTIMES: tuple[Runtime, ...] = ("onnxruntime", "openvino", "torch")

_PARITY_IMAGES = 256
"""At most: enough to meet every class, few enough for a large teacher on a small machine."""
_DRAWN = 60


def export_run(
    results: Path | str,
    run: str,
    out: Path | str,
    *,
    formats: Sequence[Format] | None = None,
    half: bool = False,
    with_preprocessing: bool = False,
    root: Path | str | None = None,
    cache: Path | str | None = None,
    progress: Progress | None = None,
) -> Artefact:
    """Write a trained run as a folder that works without its records and data sets.

    Args:
        results: the results folder, with the weights of the run.
        run: the first digits of its id, six at least, or a part or a pattern of its title that fits no other run.
        out: a new or an empty folder.
        formats: None: safetensors, and onnx where it is installed and the network can be expressed so.
        half: store weights in fp16; the arithmetic stays fp32. Not of format torch, nor of a quantised run.
        with_preprocessing: the ONNX file, and that of OpenVINO, take "pixels" (batch, S, S, 3) uint8, RGB, as decoded
            and resized, and normalise them.
        root: the data root; None is KDBENCH_DATA, else the user's data folder. If the run's test images are there, the
            files are compared with the network on them, else on drawn cells.
        cache: where decoded images are kept; None is KDBENCH_CACHE, else the user's cache folder.
    Raises: RecordError, if there is no such run, or not its weights; RuntimeUnavailable; ExportError. Nothing is left
        behind then.
    """
    folder = Path(os.path.abspath(Path(out).expanduser()))  # noqa: PTH100 (a link at its place has to be seen)
    _check_wishes(formats, half, with_preprocessing)
    refuse_used(folder, ExportError)
    store = Store(results)
    record = find_run(store, run)
    card, metrics = _result(record)
    may_lack_onnx = formats is None and not with_preprocessing
    wanted, notes = _formats(record, formats, half, may_lack_onnx)
    network = _compared(record, card, store)
    preprocessing = Preprocessing.of(
        record.spec.dataset, record.spec.model, "pixels" if with_preprocessing else "image"
    )
    images, images_of = np.zeros((0,), np.uint8), ""
    if half or set(wanted) != {"safetensors"}:
        images, images_of = _comparison_images(record, preprocessing, data_root(root), cache_root(cache), progress)
    material = Material(
        network,
        store.network_path(record),
        _about(record, card, metrics, notes),
        card.classes,
        preprocessing,
        images,
        images_of,
    )
    return write_export(material, folder, formats=wanted, half=half, may_lack_onnx=may_lack_onnx, progress=progress)


def load_export(folder: Path | str, runtime: Runtime | None = None) -> Classifier:
    """An exported folder as a classifier of image files; nothing else is needed.

    Args:
        runtime: None: onnxruntime, if the folder has the file and it is installed; else torch, else openvino.
    Raises: ExportError, if it is no such folder, or something in it is damaged or changed; RuntimeUnavailable;
        UnknownName.
    """
    artefact = read_export(folder)
    runtime = _able(artefact) if runtime is None else runtime
    if runtime not in CLASSIFIER_RUNTIMES:
        raise UnknownName("runtime", runtime, CLASSIFIER_RUNTIMES)
    opened = _OPENERS[runtime](artefact)
    return Classifier(
        artefact.about.title, artefact.labels, artefact.preprocessing, runtime, opened.forward, opened.takes
    )


def load_run(results: Path | str, run: str) -> Classifier:
    """A trained run of a results folder as a classifier of image files, by torch.

    Args: as those of `export_run`.
    Raises: RecordError, if there is no such run, or not its weights.
    """
    store = Store(results)
    record = find_run(store, run)
    card, _ = _result(record)
    forward = torch_forward(_network(record, card, store))
    preprocessing = Preprocessing.of(record.spec.dataset, record.spec.model)
    runtime: Runtime = "torch" if record.spec.quantise is None else "onnxruntime"
    return Classifier(record.spec.title, card.classes, preprocessing, runtime, forward)


# ---------------------------------------------------------------- what is asked for


def _check_wishes(formats: Sequence[Format] | None, half: bool, with_preprocessing: bool) -> None:
    """Raises: UnknownName, ConfigError."""
    if formats is None:
        return
    if unknown := [name for name in formats if name not in FORMATS]:
        raise UnknownName("format", unknown[0], FORMATS)
    if not formats:
        raise ConfigError([f"no format is named; take {', '.join(FORMATS)}, or several"])
    if half and "torch" in formats:
        raise ConfigError([f"a program of torch.export ({PROGRAM}) stays in fp32; leave --half or torch out"])
    if with_preprocessing and not {"onnx", "openvino"} & set(formats):
        raise ConfigError(
            [f"--with-preprocessing is for ONNX files, and {' and '.join(formats)} has none; add onnx or openvino"]
        )


def _formats(
    record: RunRecord, formats: Sequence[Format] | None, half: bool, may_lack_onnx: bool
) -> tuple[Sequence[Format], tuple[str, ...]]:
    """Those to be written, and notes on others. Raises: RuntimeUnavailable; ExportError, if the run has none such."""
    wanted: Sequence[Format] = DEFAULT_FORMATS if formats is None else formats
    notes: tuple[str, ...] = ()
    if {"onnx", "openvino"} & set(wanted):  # the one is made of the other
        found = RUNTIMES.get("onnxruntime").available()
        if not found and may_lack_onnx:
            wanted, notes = ("safetensors",), (f"there is no ONNX file: {found.reason}",)
        elif not found:
            usable(Setting("onnxruntime"))  # raises, with the reason
    if "openvino" in wanted:
        usable(Setting("openvino"))
    if record.spec.quantise is None:
        return wanted, notes
    if half:
        raise ExportError(f"{record.spec.title} is quantised: its weights are int8 already; leave --half out")
    if formats is not None and {"safetensors", "torch"} & set(formats):
        raise ExportError(f"{record.spec.title} is quantised, and is an ONNX file; take --format onnx or openvino")
    return ("onnx",) if formats is None else formats, notes


# ---------------------------------------------------------------- opening a folder


def _able(artefact: Artefact) -> Runtime:
    """What runs the folder best of what is here. Raises: ExportError, if it holds nothing that kdbench runs."""
    # to run a file takes its runtime alone, not what made it
    if artefact.has_onnx and installed("export", "onnxruntime"):
        return "onnxruntime"
    if artefact.has_weights:
        return "torch"
    if artefact.has_openvino and (installed("openvino", "openvino") or not artefact.has_onnx):
        return "openvino"
    if artefact.has_onnx:
        return "onnxruntime"
    raise ExportError(
        f"{artefact.folder} has no file that kdbench runs; {PROGRAM} is for torch.export.load, which unpickles what it "
        "reads: export the run with onnx or safetensors as well"
    )


def _open_onnx(artefact: Artefact) -> Opened:
    if not artefact.has_onnx:
        raise ExportError(f"{artefact.folder} has no {ONNX}; take --runtime torch, or export it with --format onnx")
    return open_onnx_file(artefact.file(ONNX))


def _open_openvino(artefact: Artefact) -> Opened:
    if not artefact.has_openvino:
        raise ExportError(
            f"{artefact.folder} has no {IR}; take --runtime onnxruntime, or export it with --format openvino"
        )
    return open_ir(artefact.file(IR), artefact.file(IR_WEIGHTS))


def _open_weights(artefact: Artefact) -> Opened:
    folder, about = artefact.folder, artefact.about
    if not artefact.has_weights:
        raise ExportError(f"{folder} has no {WEIGHTS}; take --runtime onnxruntime, or export it with safetensors")
    try:
        network = load_weights(about.spec, about.num_classes, artefact.file(WEIGHTS))
    except RecordError as problem:
        raise ExportError(f"{folder}: {first_line(problem)}; copy the folder again, or export again") from problem
    return Opened("image", torch_forward(network))


_OPENERS: dict[Runtime, Callable[[Artefact], Opened]] = {
    "onnxruntime": _open_onnx,
    "openvino": _open_openvino,
    "torch": _open_weights,
}


# ---------------------------------------------------------------- parts


def _result(record: RunRecord) -> tuple[DataCard, Metrics]:
    """Raises: RecordError, if the run has no result."""
    if record.status != "ok" or record.data is None or record.test_metrics is None:
        why = f": {record.failure.message}" if record.failure else ""
        raise RecordError(f"{record.spec.title} has no result ({record.status}{why}); run its suite again")
    return record.data, record.test_metrics


def _network(record: RunRecord, card: DataCard, store: Store) -> nn.Module:
    """Raises: RecordError, if the weights are not there or damaged."""
    if not store.network_path(record).is_file():
        raise RecordError(
            f"{store.root} holds the record of {record.spec.title}, but not its weights, which are not shared with "
            "records; run its suite here first"
        )
    return load_trained(record.spec, len(card.classes), store)


def _compared(record: RunRecord, card: DataCard, store: Store) -> nn.Module | None:
    """The network that files are held against: that of the run, of a quantised one what it was before, if that is
    still there.

    Raises: RecordError, if the run's own is not there or damaged.
    """
    network = _network(record, card, store)
    before = record.spec.parent
    if record.spec.quantise is None or before is None:
        return network
    return load_trained(before, len(card.classes), store) if store.network_path(before).is_file() else None


def _about(record: RunRecord, card: DataCard, metrics: Metrics, notes: tuple[str, ...]) -> ExportRecord:
    spec, origin = record.spec, record.spec.lineage[0]
    facts = resolve(spec.model.name)
    sources = {name: SOURCES.get(name) if name in SOURCES else None for name in card.sources}
    if record.tuning is not None and record.tuning.precision == "bf16":
        notes = (*notes, "its test accuracy was measured in bf16, as it was trained; the files here answer in fp32")
    return ExportRecord(
        run_id=record.run_id,
        title=spec.title,
        model=spec.model,
        num_classes=len(card.classes),
        method=origin.method.label,
        teachers=tuple(teacher.model.name for teacher in origin.teachers),
        stages=tuple(stage.stage for stage in spec.lineage[1:]),
        dataset=spec.dataset.name,
        protocol=card.protocol,
        content=card.content_hash,
        leak=card.leak,
        test_accuracy=metrics.accuracy,
        test_images=metrics.count,
        licence=facts.licence,
        citation=facts.paper,
        data_licences={name: (source and source.licence) or "not stated" for name, source in sources.items()},
        data_citations={name: (source and source.citation) or "" for name, source in sources.items()},
        notes=notes,
        spec=spec,
        kdbench=__version__,
    )


def _comparison_images(
    record: RunRecord, preprocessing: Preprocessing, root: Path, cache: Path, progress: Progress | None
) -> tuple[np.ndarray, str]:
    """Images (N, S, S, 3) uint8 to compare networks on, and what they are: test images of the run where they are."""
    try:
        data = open_dataset(record.spec.dataset, root, cache, progress)
    except (DataError, ConfigError, UnknownName):
        source, options = SOURCES.get("synthetic"), {"count": _DRAWN}
        items = source.scan(root, options).items
        drawn = np.stack([preprocessing.pixels(source.read(item, options)) for item in items])
        return drawn, "drawn cells (the test images are not on this disk)"
    test = data.splits["test"]
    chosen = test[np.linspace(0, len(test) - 1, min(len(test), _PARITY_IMAGES)).round().astype(np.int64)]
    return data.images(chosen), "test images"
