"""One RunSpec to one RunRecord. Floor 5."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime

import torch
from safetensors.torch import load_model, save
from torch import nn

from kdbench.data.dataset import Dataset
from kdbench.data.views import Views
from kdbench.engine.evaluate import measure, predict
from kdbench.engine.teacher import TeacherLogits
from kdbench.engine.train import train
from kdbench.environment import collect, usable_cores
from kdbench.errors import Diverged, RecordError
from kdbench.method import build_method
from kdbench.model import build, normalisation
from kdbench.profiling.profile import profile_model
from kdbench.seeding import derive
from kdbench.store import Store, write_atomic
from kdbench.types import (
    Failure,
    ProfileSpec,
    Progress,
    RunRecord,
    RunSpec,
    SplitName,
    Status,
    content_id,
)

log = logging.getLogger(__name__)


def run(
    spec: RunSpec,
    open_data: Callable[[], Dataset],
    store: Store,
    *,
    profile: ProfileSpec | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> RunRecord:
    """Train, select on validation, read the test once, profile, and write the record last.

    A run that diverges or fails becomes a record too; only an interrupt gets out, and leaves a checkpoint behind.

    Args:
        open_data: opens the data set of the spec.
        store: holds the weights of the spec's teachers; gets everything this run leaves.
    """
    threads, threads_before = usable_cores(), torch.get_num_threads()
    started = datetime.now(UTC).isoformat(timespec="seconds")

    def record(status: Status, **more: object) -> RunRecord:
        return RunRecord.model_validate(
            {
                "run_id": spec.run_id,
                "cell_id": spec.cell_id,
                "status": status,
                "spec": spec,
                "started": started,
                "train_seconds": 0.0,
                "environment": collect(threads),
                "command": command,
                **more,
            }
        )

    def without_result(status: Status, problem: Exception) -> RunRecord:
        failure = Failure(kind=type(problem).__name__, message=_without_folders(str(problem) or repr(problem)))
        return record(status, failure=failure, data=data.card if data else None)

    data: Dataset | None = None
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.set_num_threads(threads)  # the sum of floats depends on how they are shared out: always the same here
    try:
        data = open_data()
        finished = _train_and_measure(spec, data, store, profile or ProfileSpec(), record, progress)
    except Diverged as problem:
        finished = without_result("diverged", problem)
    except Exception as problem:  # whatever went wrong here must not take the other runs down
        log.debug("run %s failed", spec.run_id, exc_info=problem)
        finished = without_result("failed", problem)
    finally:
        torch.set_num_threads(threads_before)
    store.write_record(finished)
    if finished.status != "failed":
        store.checkpoint_path(spec.run_id).unlink(missing_ok=True)
    return finished


def load_trained(spec: RunSpec, num_classes: int, store: Store) -> nn.Module:
    """The trained model of a finished run, in eval mode. Raises: RecordError if its weights are missing or damaged."""
    path = store.weights_path(spec.run_id)
    model = build(spec.model.model_copy(update={"pretrained": False}), num_classes, spec.dataset.image_size)
    try:
        load_model(model, path)
    except Exception as problem:
        raise RecordError(f"the weights {path.name} of {spec.title} cannot be used: {problem}") from None
    return model.eval()


def _train_and_measure(
    spec: RunSpec,
    data: Dataset,
    store: Store,
    profile: ProfileSpec,
    record: Callable[..., RunRecord],
    progress: Progress | None,
) -> RunRecord:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    method = build_method(spec.method)
    teachers = [_teacher(teacher, spec, data, store, device) for teacher in spec.teachers]
    with torch.random.fork_rng(devices=[]):
        # the same seed gives the same first weights under every method: gains are paired
        torch.manual_seed(derive("init", spec.seed))
        model = build(spec.model, len(data.classes), spec.dataset.image_size)
    model = _placed(model, spec, device)
    method.to(device)
    norm = normalisation(spec.model)
    eval_views = Views(None, *norm)
    trained = train(
        spec,
        model,
        method,
        data,
        Views(spec.views, *norm),
        eval_views,
        teachers=teachers,
        checkpoint=store.checkpoint_path(spec.run_id),
        progress=progress,
    )
    precision = spec.train.precision
    read: tuple[SplitName, ...] = ("val", "test")
    sides = {side: predict(trained.model, data, data.splits[side], eval_views, precision=precision) for side in read}
    metrics = {side: measure(logits, data.labels[data.splits[side]], data.classes) for side, logits in sides.items()}
    final = trained.model.to("cpu")
    write_atomic(store.weights_path(spec.run_id), save(_storable(final)))
    store.write_items(content_id(spec.dataset.model_dump(mode="json")), data.items("test"))
    store.write_predictions(spec.run_id, sides["test"])
    cost = profile_model(final, spec.dataset.image_size, profile)
    return record(
        "ok",
        train_seconds=round(trained.seconds, 3),
        teacher_seconds=round(sum(teacher.seconds for teacher in teachers), 3),
        teacher_outputs="cached" if teachers else "none",
        teacher_weights=tuple(teacher.identity for teacher in teachers),
        best_epoch=trained.best_epoch,
        history=trained.history,
        val_metrics=metrics["val"],
        test_metrics=metrics["test"],
        profile=cost,
        data=data.card,
    )


def _teacher(teacher: RunSpec, spec: RunSpec, data: Dataset, store: Store, device: torch.device) -> TeacherLogits:
    weights = store.weights_path(teacher.run_id)
    try:
        identity = hashlib.sha256(weights.read_bytes()).hexdigest()
    except OSError:
        known = store.read_record(teacher.run_id)
        if known is not None and known.status == "diverged":
            raise RecordError(f"its teacher {teacher.title} diverged; lower that teacher's learning rate") from None
        raise RecordError(f"its teacher {teacher.title} has no weights; run the suite again") from None
    return TeacherLogits(
        lambda: _placed(load_trained(teacher, len(data.classes), store), teacher, device),
        identity,
        data,
        Views(spec.views, *normalisation(teacher.model)),
        store.root / "teacher_views",
        teacher.train.precision,
    )


def _placed(model: nn.Module, spec: RunSpec, device: torch.device) -> nn.Module:
    # depthwise and dense convolutions run up to twice as fast in channels_last; a ViT has only one, at its stem
    channels_last = spec.train.channels_last and any(
        isinstance(module, nn.Conv2d) and module.kernel_size != module.stride for module in model.modules()
    )
    return model.to(device).to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _without_folders(message: str) -> str:
    """A message without the folders of this machine, for a record is made to be shared: only file names stay."""
    return re.sub(r"(?<![\w.:/])/(?:[^\s/:'\",;()]+/)+", "", message)


def _storable(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
