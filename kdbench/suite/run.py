"""One RunSpec to one RunRecord. Floor 5."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from kdbench.data.dataset import Dataset
from kdbench.data.views import Views
from kdbench.engine.evaluate import BATCH, measure, predict
from kdbench.engine.teacher import TeacherNetwork, teaching_for
from kdbench.engine.train import Trained, train
from kdbench.engine.tuning import place, settle
from kdbench.environment import collect, usable_cores
from kdbench.errors import Diverged
from kdbench.method import build_method
from kdbench.model import build, normalisation
from kdbench.paths import without_folders
from kdbench.profiling.profile import profile_model
from kdbench.seeding import derive
from kdbench.store import Store, images_key, write_atomic
from kdbench.suite.compress import Stage, begin, costs_of, quantised, storable
from kdbench.suite.trained import load_trained, network_hash, structure_name
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
        store.start_path(spec.run_id).unlink(missing_ok=True)
    return finished


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
    stage = begin(spec, data, store, progress) if spec.parent is not None else None
    learned: dict[str, object] = {}
    if stage is None or stage.tuned:
        trained, learned = _train(spec, stage, data, store, cache, notice, progress)
        model, precision = trained.model, trained.tuning.precision if trained.tuning else "fp32"
    else:
        model, precision = stage.network, "fp32"
    facts = stage.facts if stage is not None else None
    if stage is not None and spec.quantise is not None:  # what is tested is what is deployed: the file, in its runtime
        model, facts = quantised(stage, spec.quantise, model.to("cpu").eval(), data, store, progress)
        precision = "fp32"
    eval_views = Views(None, *normalisation(spec.model))
    read: tuple[SplitName, ...] = ("val", "test")
    sides = {side: predict(model, data, data.splits[side], eval_views, precision=precision) for side in read}
    metrics = {side: measure(logits, data.labels[data.splits[side]], data.classes) for side, logits in sides.items()}
    store.write_items(images_key(spec.dataset), data.items("test"))
    store.write_predictions(spec.run_id, sides["test"])
    if spec.quantise is not None:
        cost = costs_of(spec, store, len(data.classes))
    else:
        final = model.to("cpu")
        write_atomic(store.weights_path(spec.run_id), save(storable(final)))
        cost = profile_model(final, spec.dataset.image_size, profile)
    return record(
        "ok",
        **learned,
        val_metrics=metrics["val"],
        test_metrics=metrics["test"],
        profile=cost,
        compression=facts,
        data=data.card,
    )


def _train(
    spec: RunSpec,
    stage: Stage | None,
    data: Dataset,
    store: Store,
    cache: Path,
    notice: Callable[[str], None] | None,
    progress: Progress | None,
) -> tuple[Trained, dict[str, object]]:
    """Train a network, or fine-tune that of a stage; returned with it, what the record says of how it learned."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    method = build_method(spec.method)

    def fresh(purpose: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            # the same seed gives the same first weights under every method: gains are paired
            torch.manual_seed(derive(purpose, spec.seed))
            return build(spec.model, len(data.classes), spec.dataset.image_size)

    norm = normalisation(spec.model)
    shown = Views(spec.views, *norm)
    model = fresh("init") if stage is None else stage.network
    tuning = settle(
        spec.train, model, spec.dataset.image_size, name=structure_name(spec), device=device, purpose="training",
        cache=cache, batch_size=min(spec.train.batch_size, len(data.splits["train"])),
    )  # fmt: skip
    tuning = tuning.model_copy(update={"note": without_folders(tuning.note)})
    torch.set_num_threads(tuning.threads)
    teachers = [
        teaching_for(
            spec, method, _teacher(teacher, spec, data, store, cache, device), shown, cache,
            notice=notice, progress=progress,
        )
        for teacher in spec.teachers
    ]  # fmt: skip
    trained = train(
        spec,
        place(model, tuning, device),
        method,
        data,
        shown,
        Views(None, *norm),
        teachers=teachers,
        tuning=tuning,
        fresh_student=(lambda: place(fresh("peer"), tuning, device)) if stage is None else None,
        checkpoint=store.checkpoint_path(spec.run_id),
        progress=progress,
    )
    modes = {teacher.mode for teacher in teachers}
    return trained, {
        "train_seconds": round(trained.seconds, 3),
        "teacher_seconds": round(sum(teacher.seconds for teacher in teachers), 3),
        "teacher_outputs": "none" if not modes else modes.pop() if len(modes) == 1 else "both",
        "teacher_bytes": sum(teacher.bytes for teacher in teachers),
        "teacher_weights": tuple(teacher.identity for teacher in teachers),
        "tuning": trained.tuning,
        "best_epoch": trained.best_epoch,
        "history": trained.history,
    }


def _teacher(
    teacher: RunSpec, spec: RunSpec, data: Dataset, store: Store, cache: Path, device: torch.device
) -> TeacherNetwork:
    identity = network_hash(teacher, store, "teacher")
    model = load_trained(teacher, len(data.classes), store)
    tuning = settle(
        teacher.train, model, teacher.dataset.image_size, name=structure_name(teacher), device=device,
        purpose="inference", cache=cache, batch_size=BATCH,
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
    if spec.parent is not None:
        changes["parent"] = _shareable(spec.parent)
    if isinstance(spec.model.pretrained, str) and spec.model.weights:
        changes["model"] = spec.model.model_copy(update={"pretrained": Path(spec.model.pretrained).name})
    return spec.model_copy(update=changes)
