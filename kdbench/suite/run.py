"""One RunSpec to one RunRecord. Floor 5."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import load_model, save
from torch import nn

from kdbench.data.dataset import Dataset
from kdbench.data.views import Views
from kdbench.engine.evaluate import BATCH, measure, predict
from kdbench.engine.taps import Watched
from kdbench.engine.teacher import TeacherNetwork, teaching_for
from kdbench.engine.train import train
from kdbench.engine.tuning import place, settle
from kdbench.environment import collect, usable_cores
from kdbench.errors import Diverged, RecordError
from kdbench.method import Method, Setting, build_method
from kdbench.model import build, normalisation
from kdbench.paths import without_folders
from kdbench.profiling.profile import profile_model
from kdbench.seeding import derive
from kdbench.store import Store, images_key, write_atomic
from kdbench.types import (
    Failure,
    ProfileSpec,
    Progress,
    RunRecord,
    RunSpec,
    SplitName,
    Status,
)

log = logging.getLogger(__name__)


def run(
    spec: RunSpec,
    open_data: Callable[[], Dataset],
    store: Store,
    cache: Path,
    *,
    profile: ProfileSpec | None = None,
    command: str = "",
    notice: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> RunRecord:
    """Train, select on validation, read the test once, profile, and write the record last.

    A run that diverges or fails becomes a record too; only an interrupt gets out, and leaves a checkpoint behind.

    Args:
        open_data: opens the data set of the spec.
        store: holds the weights of the spec's teachers; gets everything this run leaves.
        cache: keeps what teachers say, and what was found out about this machine.
        notice: told what a person should know beforehand, as the room teacher outputs will take.
    """
    threads, threads_before = usable_cores(), torch.get_num_threads()
    started = datetime.now(UTC).isoformat(timespec="seconds")

    def record(status: Status, **more: object) -> RunRecord:
        return RunRecord.model_validate(
            {
                "run_id": spec.run_id,
                "cell_id": spec.cell_id,
                "status": status,
                "spec": _shareable(spec),
                "started": started,
                "train_seconds": 0.0,
                "environment": collect(threads),
                "command": command,
                **more,
            }
        )

    def without_result(status: Status, problem: Exception) -> RunRecord:
        failure = Failure(kind=type(problem).__name__, message=without_folders(str(problem) or repr(problem)))
        return record(status, failure=failure, data=data.card if data else None)

    data: Dataset | None = None
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.set_num_threads(threads)  # the sum of floats depends on how they are shared out: always the same here
    try:
        data = open_data()
        finished = _train_and_measure(spec, data, store, cache, profile or ProfileSpec(), record, notice, progress)
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
    return load_weights(spec, num_classes, store.weights_path(spec.run_id))


def load_weights(spec: RunSpec, num_classes: int, path: Path) -> nn.Module:
    """What that run deploys, in eval mode, with weights of a file. Raises: RecordError if it is missing or damaged."""
    model = _untrained(spec, num_classes)
    try:
        load_model(model, path)
    except Exception as problem:
        raise RecordError(f"the weights {path.name} of {spec.title} cannot be used: {problem}") from None
    return model.eval()


def _untrained(spec: RunSpec, num_classes: int) -> nn.Module:
    """What a run deploys, before its weights are loaded: its network, with what its method adds to it."""
    model = build(spec.model.model_copy(update={"pretrained": False}), num_classes, spec.dataset.image_size)
    method = build_method(spec.method)
    if type(method).deploy is Method.deploy:
        return model
    networks = [model, *(_untrained(teacher, num_classes) for teacher in spec.teachers)]
    student, *teachers = (Watched(network, spec.dataset.image_size).anatomy for network in networks)
    method.prepare(Setting(student, tuple(teachers), 1, None, spec.train.epochs, lambda: model))
    return method.deploy(model)


def _train_and_measure(
    spec: RunSpec,
    data: Dataset,
    store: Store,
    cache: Path,
    profile: ProfileSpec,
    record: Callable[..., RunRecord],
    notice: Callable[[str], None] | None,
    progress: Progress | None,
) -> RunRecord:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    method = build_method(spec.method)

    def fresh(purpose: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            # the same seed gives the same first weights under every method: gains are paired
            torch.manual_seed(derive(purpose, spec.seed))
            return build(spec.model, len(data.classes), spec.dataset.image_size)

    norm = normalisation(spec.model)
    shown, eval_views = Views(spec.views, *norm), Views(None, *norm)
    model = fresh("init")
    tuning = settle(
        spec.train, model, spec.dataset.image_size, name=spec.model.name, device=device, purpose="training",
        cache=cache, batch_size=min(spec.train.batch_size, len(data.splits["train"])),
    )  # fmt: skip
    tuning = tuning.model_copy(update={"note": without_folders(tuning.note)})
    torch.set_num_threads(tuning.threads)
    model = place(model, tuning, device)
    teachers = [
        teaching_for(
            spec, method, _teacher(teacher, spec, data, store, cache, device), shown, cache,
            notice=notice, progress=progress,
        )
        for teacher in spec.teachers
    ]  # fmt: skip
    trained = train(
        spec,
        model,
        method,
        data,
        shown,
        eval_views,
        teachers=teachers,
        tuning=tuning,
        fresh_student=lambda: place(fresh("peer"), tuning, device),
        checkpoint=store.checkpoint_path(spec.run_id),
        progress=progress,
    )
    read: tuple[SplitName, ...] = ("val", "test")
    sides = {
        side: predict(trained.model, data, data.splits[side], eval_views, precision=tuning.precision) for side in read
    }
    metrics = {side: measure(logits, data.labels[data.splits[side]], data.classes) for side, logits in sides.items()}
    final = trained.model.to("cpu")
    write_atomic(store.weights_path(spec.run_id), save(_storable(final)))
    store.write_items(images_key(spec.dataset), data.items("test"))
    store.write_predictions(spec.run_id, sides["test"])
    cost = profile_model(final, spec.dataset.image_size, profile)
    modes = {teacher.mode for teacher in teachers}
    return record(
        "ok",
        train_seconds=round(trained.seconds, 3),
        teacher_seconds=round(sum(teacher.seconds for teacher in teachers), 3),
        teacher_outputs="none" if not modes else modes.pop() if len(modes) == 1 else "both",
        teacher_bytes=sum(teacher.bytes for teacher in teachers),
        teacher_weights=tuple(teacher.identity for teacher in teachers),
        tuning=trained.tuning,
        best_epoch=trained.best_epoch,
        history=trained.history,
        val_metrics=metrics["val"],
        test_metrics=metrics["test"],
        profile=cost,
        data=data.card,
    )


def _teacher(
    teacher: RunSpec, spec: RunSpec, data: Dataset, store: Store, cache: Path, device: torch.device
) -> TeacherNetwork:
    weights = store.weights_path(teacher.run_id)
    try:
        identity = hashlib.sha256(weights.read_bytes()).hexdigest()
    except OSError:
        known = store.read_record(teacher.run_id)
        if known is not None and known.status == "diverged":
            raise RecordError(f"its teacher {teacher.title} diverged; lower that teacher's learning rate") from None
        raise RecordError(f"its teacher {teacher.title} has no weights; run the suite again") from None
    model = load_trained(teacher, len(data.classes), store)
    tuning = settle(
        teacher.train, model, teacher.dataset.image_size, name=teacher.model.name, device=device, purpose="inference",
        cache=cache, batch_size=BATCH,
    )  # fmt: skip
    return TeacherNetwork(
        place(model, tuning, device),
        identity,
        data,
        Views(spec.views, *normalisation(teacher.model)),
        precision=tuning.precision,
        title=teacher.model.name,
    )


def _shareable(spec: RunSpec) -> RunSpec:
    """A spec as a record shows it: of a weight file its name and content, not the folder; its id is the same."""
    changes: dict[str, object] = {"teachers": tuple(_shareable(teacher) for teacher in spec.teachers)}
    if isinstance(spec.model.pretrained, str) and spec.model.weights:
        changes["model"] = spec.model.model_copy(update={"pretrained": Path(spec.model.pretrained).name})
    return spec.model_copy(update=changes)


def _storable(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
