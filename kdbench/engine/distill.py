"""Distillation in one call, for networks and images of one's own."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdbench.activity import training
from kdbench.data.dataset import Dataset
from kdbench.data.memory import from_arrays, from_torch
from kdbench.data.views import Views
from kdbench.engine.evaluate import measure, predict
from kdbench.engine.taps import Watched
from kdbench.engine.teacher import TeacherNetwork, Teaching, teaching_for
from kdbench.engine.train import train
from kdbench.engine.tuning import place, settle
from kdbench.errors import ConfigError, TrainError
from kdbench.method import build_method, resolve_options
from kdbench.model import IMAGENET_MEAN, IMAGENET_STD, Triple
from kdbench.types import (
    EpochLog,
    MethodSpec,
    Metrics,
    ModelChoice,
    Progress,
    RunSpec,
    Scalar,
    TeacherMode,
    TeachingSpec,
    TrainSpec,
    Tuning,
    ViewSpec,
)


@dataclass(frozen=True)
class Distilled:
    """What came out.

    Attributes:
        model: what is deployed, in eval mode, with the weights of the epoch that was best on the validation images.
            Nearly always the student itself; a method that ships parts of its own (simkd) wraps it.
        spec: the run, whole; its method's options are resolved.
        val, test: metrics; the test images were read once, at the end.
        history: one entry an epoch.
        teacher_outputs: how each teacher's outputs came about.
    """

    model: nn.Module
    spec: RunSpec
    val: Metrics
    test: Metrics
    history: tuple[EpochLog, ...]
    best_epoch: int
    seconds: float
    teacher_outputs: tuple[TeacherMode, ...]
    tuning: Tuning | None


def distill(
    student: nn.Module,
    teacher: nn.Module | Sequence[nn.Module] | None,
    data: Dataset | tuple[np.ndarray, Sequence[int]] | Any,
    method: str = "kd",
    *,
    options: Mapping[str, Scalar] | None = None,
    ground_truth: bool = True,
    train_spec: TrainSpec | None = None,
    views: ViewSpec | None = None,
    image_size: int = 64,
    seed: int = 0,
    normalisation: tuple[Triple, Triple] = (IMAGENET_MEAN, IMAGENET_STD),
    teacher_normalisation: tuple[Triple, Triple] | None = None,
    student_taps: Sequence[str] = (),
    teacher_taps: Sequence[str] = (),
    teacher_outputs: TeacherMode | None = None,
    cache: Path | str | None = None,
    checkpoint: Path | str | None = None,
    progress: Progress | None = None,
) -> Distilled:
    """Train a student on images, taught by one teacher, several or none.

    >>> result = kdbench.distill(student, teacher, (images, labels), "dkd", ground_truth=True)  # doctest: +SKIP
    >>> result.test.accuracy  # doctest: +SKIP

    Args:
        student: any network (N, 3, S, S) -> logits (N, K); trained in place.
        teacher: trained networks with as many logits; left as they are. None for methods without a teacher ("ce").
        data: a `Dataset`; or (images (N, S, S, 3) uint8, labels (N,)); or a torch data set of (PIL image, label).
        method: a name of `kdbench list methods`.
        options: of the method; the rest is at its defaults.
        ground_truth: whether the labels teach too.
        train_spec: epochs, learning rate, batch size and the like; None: `TrainSpec()`.
        views: the augmentation, seen by student and teachers alike; None: `ViewSpec()`.
        image_size: pixels, where data is a torch data set.
        seed: of the order of batches, dropout and the method's own weights; the student comes initialised.
        normalisation, teacher_normalisation: (mean, std) by channel of what each is fed; the teacher's is the student's
            unless given.
        student_taps, teacher_taps: dotted names of the modules whose outputs are the stages, for methods that read
            maps; empty: found by themselves.
        teacher_outputs: "cached" or "live"; None: as `TeachingSpec` decides.
        cache: where teacher outputs are kept for other calls; None: only during this one.
        checkpoint: a file; the same call goes on from it after an interrupt.
    Raises: UnknownName, ConfigError, DataError, TrainError, Diverged.
    """
    images = _as_dataset(data, image_size)
    teachers = [] if teacher is None else [teacher] if isinstance(teacher, nn.Module) else list(teacher)
    chosen = MethodSpec(name=method, ground_truth=ground_truth, options=dict(options or {}))
    chosen = chosen.model_copy(update={"options": resolve_options(chosen)})
    _check_views(views)
    _check_networks(student, teachers, images)

    def run_of(role: Any, network: nn.Module, method_spec: MethodSpec, taught_by: tuple[RunSpec, ...] = ()) -> RunSpec:
        return RunSpec(
            role=role,
            dataset=images.spec,
            # its name is not enough to tell two networks apart: the hash of its weights is in the id
            model=ModelChoice(name=type(network).__name__, weights=weights_identity(network)),
            method=method_spec,
            teachers=taught_by,
            views=views or ViewSpec(),
            train=train_spec or TrainSpec(),
            seed=seed,
            teaching=TeachingSpec(outputs=teacher_outputs or "auto"),
        )

    ce = MethodSpec(name="ce")
    spec = run_of("student", student, chosen, tuple(run_of("teacher", network, ce) for network in teachers))
    built = build_method(chosen)
    device = next(student.parameters()).device
    shown = Views(spec.views, *normalisation)
    tuning = settle(
        spec.train, student, images.spec.image_size, name=spec.model.weights, device=device, purpose="training",
        cache=Path(cache) if cache is not None else None,
        batch_size=min(spec.train.batch_size, len(images.splits["train"])),
    )  # fmt: skip
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="kdbench-") as temporary, _lent(teachers), training("distill"):
        torch.set_num_threads(tuning.threads)
        try:
            teachings: list[Teaching] = []
            for network, taught_by in zip(teachers, spec.teachers, strict=True):
                known = TeacherNetwork(
                    network.to(device),
                    taught_by.model.weights,
                    images,
                    Views(spec.views, *(teacher_normalisation or normalisation)),
                    title=type(network).__name__,
                    taps=teacher_taps,
                )
                kept = Path(cache) if cache is not None else Path(temporary)
                teachings.append(teaching_for(spec, built, known, shown, kept, progress=progress))
            trained = train(
                spec,
                place(student, tuning, device),
                built,
                images,
                shown,
                Views(None, *normalisation),
                teachers=teachings,
                tuning=tuning,
                taps=student_taps,
                checkpoint=Path(checkpoint) if checkpoint is not None else None,
                progress=progress,
            )
            sides = {}
            for side in ("val", "test"):
                indices = images.splits[side]
                logits = predict(
                    trained.model, images, indices, Views(None, *normalisation), precision=tuning.precision
                )
                sides[side] = measure(logits, images.labels[indices], images.classes)
        finally:
            torch.set_num_threads(threads)
    return Distilled(
        model=trained.model,
        spec=spec,
        val=sides["val"],
        test=sides["test"],
        history=trained.history,
        best_epoch=trained.best_epoch,
        seconds=trained.seconds,
        teacher_outputs=tuple(teaching.mode for teaching in teachings),
        tuning=trained.tuning,
    )


def weights_identity(model: nn.Module) -> str:
    """SHA-256 over the structure of a network and all its parameters and buffers."""
    digest = hashlib.sha256(repr(model).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _as_dataset(data: Any, image_size: int) -> Dataset:
    if isinstance(data, Dataset):
        return data
    if isinstance(data, tuple) and len(data) == 2:
        return from_arrays(data[0], data[1])
    listed = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    if listed and not isinstance(data, str | bytes | Mapping | np.ndarray):
        return from_torch(data, image_size)
    raise ConfigError(
        [f"data is a {type(data).__name__}; give a kdbench Dataset, (images, labels), or a torch data set with a len()"]
    )


@contextlib.contextmanager
def _lent(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Whatever becomes of the modes and devices of networks inside, and of whether they learn, is undone."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    learning = [(parameter, parameter.requires_grad) for network in networks for parameter in network.parameters()]
    places = [(network, parameter.device) for network in networks for parameter in list(network.parameters())[:1]]
    try:
        yield
    finally:
        for network, device in places:
            network.to(device)
        for module, mode in modes:
            module.training = mode
        for parameter, learns in learning:
            parameter.requires_grad_(learns)


def _check_networks(student: nn.Module, teachers: Sequence[nn.Module], images: Dataset) -> None:
    """Raises: ConfigError, TrainError."""
    own = {id(parameter) for parameter in student.parameters()}
    if any(id(parameter) in own for teacher in teachers for parameter in teacher.parameters()):
        raise ConfigError(["student and teacher are one network, or share layers; give the teacher as a deep copy"])
    given, wanted = Watched(student, images.spec.image_size).anatomy.classes, len(images.classes)
    if given != wanted:
        raise TrainError(
            f"the student gives {given} logits, and the data set has {wanted} classes; build the student for {wanted}, "
            "or name all classes: from_arrays(images, labels, classes=...)"
        )


def _check_views(views: ViewSpec | None) -> None:
    if views is not None and not isinstance(views, ViewSpec):
        raise ConfigError([f"views is a {type(views).__name__}; give a ViewSpec, as ViewSpec(pool=4)"])
