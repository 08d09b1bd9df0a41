"""The one training loop: teachers, baselines and distilled students all pass through it."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from timm.models import group_modules, group_parameters
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kdbench.data.dataset import Dataset
from kdbench.data.views import Mix, Views
from kdbench.engine.checkpoint import load_checkpoint, save_checkpoint
from kdbench.engine.evaluate import measure, predict
from kdbench.engine.taps import Watched
from kdbench.engine.teacher import Batch, Teaching
from kdbench.engine.tuning import compiled
from kdbench.errors import Diverged, TrainError
from kdbench.features import Outputs
from kdbench.method import Lesson, Method, Setting
from kdbench.seeding import derive
from kdbench.types import EpochLog, Progress, RunSpec, TrainSpec, Tuning


@dataclass(frozen=True)
class Trained:
    """The outcome of a run: the model holds the weights of the best epoch on validation.

    The model is what is deployed: the student itself, unless its method ships parts of its own with it.
    """

    model: nn.Module
    history: tuple[EpochLog, ...]
    best_epoch: int
    seconds: float
    tuning: Tuning | None = None
    """As given, with what became of it."""


def train(
    spec: RunSpec,
    model: nn.Module,
    method: Method,
    data: Dataset,
    views: Views,
    eval_views: Views,
    *,
    teachers: Sequence[Teaching] = (),
    tuning: Tuning | None = None,
    fresh_student: Callable[[], nn.Module] | None = None,
    taps: Sequence[str] = (),
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a model, keep the weights of the epoch with the best validation accuracy (ties: the lower loss).

    Everything random is a function of (spec.seed, epoch), so an interrupted run that goes on from its checkpoint ends
    with the weights of an undisturbed one. The caller's random state is left as it was.

    Args:
        model: initialised, on its device and in its memory format; changed in place.
        method: gives the distillation terms; its own parameters are trained along.
        views, eval_views: what the model sees in training, and in validation.
        teachers: one for each teacher of the spec.
        tuning: precision, and whether to compile; None: as the spec says.
        fresh_student: makes another network like the model; None: a copy of it, drawn anew layer by layer.
        taps: of the model, as in `Watched`.
        checkpoint: where the state is kept between epochs; None keeps none.
        progress: told after each step.
    Raises: Diverged if the loss stops being finite; TrainError if the teachers do not fit the method.
    """
    settings = spec.train
    _check_count(method, len(teachers))
    precision = tuning.precision if tuning else "bf16" if settings.precision == "bf16" else "fp32"
    device = next(model.parameters()).device
    indices = data.splits["train"]
    labels = torch.from_numpy(data.labels)
    batch_size = min(settings.batch_size, len(indices))
    steps = len(indices) // batch_size  # the last, smaller batch of an epoch is left out; each epoch leaves out others
    frozen = freeze(model, settings.freeze)
    call = None
    if tuning and tuning.compiled:
        note = "not compiled: the method looks inside the network"
        if not set(method.needs) - {"logits"}:
            call, note = compiled(model, views.batch(data, indices[:batch_size], 0).to(device), precision)
        notes = "; ".join(filter(None, (tuning.note, note)))
        tuning = tuning.model_copy(update={"compiled": not note, "note": notes})
    watched = Watched(model, data.spec.image_size, method.needs, taps, call)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive("method", spec.seed))
        method.prepare(
            Setting(
                student=watched.anatomy,
                teachers=tuple(teacher.anatomy for teacher in teachers),
                train_size=len(indices),
                labels=labels[indices].to(device) if spec.method.ground_truth else None,
                epochs=settings.epochs,
                fresh_student=fresh_student or partial(reinitialised, model),
            )
        )
    method.to(device)
    learner = method.deploy(model)
    optimizer = _optimizer(learner, method, settings)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    averaged = _averaged(learner, settings)
    judged = averaged.module if averaged is not None else learner

    history: list[EpochLog] = []
    best: dict[str, Tensor] = {}
    best_key, best_epoch, spent = (-1.0, -math.inf), 0, 0.0
    state = load_checkpoint(checkpoint, spec.run_id) if checkpoint else None
    if state is not None:
        learner.load_state_dict(state["model"])
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(state["optimizer"])
        if averaged is not None:
            averaged.load_state_dict(state["averaged"])
        history = [EpochLog.model_validate(entry) for entry in state["history"]]
        best, best_epoch, spent = state["best"], state["best_epoch"], state["seconds"]
        best_key = tuple(state["best_key"])

    hard = HardLabels(data, settings, device)
    total = settings.epochs * steps
    seeded = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with contextlib.closing(watched), seeded:  # however the run ends, the network answers as it did before
        for epoch in range(len(history), settings.epochs):
            if progress:
                progress(spec.title, epoch * steps, total)
            for teacher in teachers:
                teacher.begin(epoch)
            started = time.perf_counter()
            order = epoch_order(spec, data, epoch)
            torch.manual_seed(derive("noise", spec.seed, epoch))  # dropout and its like
            model.train()
            for module in frozen:
                module.eval()  # a frozen layer keeps its statistics too
            method.train()
            hard_weight = method.hard_weight_at(epoch, settings.epochs) if spec.method.ground_truth else 0.0
            loss_sum, rate = 0.0, 0.0
            for step in range(steps):
                rate = _learning_rate(settings, epoch * steps + step, steps)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                positions = np.sort(order[step * batch_size : (step + 1) * batch_size])
                batch = Batch(positions, indices[positions], views.batch(data, indices[positions], epoch).to(device))
                targets = labels[batch.indices].to(device)
                mix = views.mix(data, batch.indices, epoch)
                said = tuple(teacher(batch, epoch) for teacher in teachers)
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                    outputs = watched(batch.pixels)
                outputs = replace(outputs, logits=outputs.logits.float())
                lesson = Lesson(
                    student=outputs,
                    teachers=said,
                    targets=_shown_targets(targets, mix, labels, said, spec.method.ground_truth),
                    positions=torch.from_numpy(positions).to(device),
                    pixels=batch.pixels,
                    epoch=epoch,
                    epochs=settings.epochs,
                )
                loss = _loss(method, lesson, hard_weight * hard(outputs.logits, targets, mix) if hard_weight else None)
                value = loss.item()
                if not math.isfinite(value):
                    raise Diverged(spec.run_id, epoch * steps + step, value)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if settings.clip_norm is not None:
                    nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
                optimizer.step()
                if averaged is not None:
                    averaged.update_parameters(learner)
                loss_sum += value
                if progress:
                    progress(spec.title, epoch * steps + step + 1, total)

            val = data.splits["val"]
            val_logits = predict(judged, data, val, eval_views, precision=precision)
            if not np.isfinite(val_logits).all():
                raise Diverged(spec.run_id, (epoch + 1) * steps, float("nan"))
            metrics = measure(val_logits, data.labels[val], data.classes)
            key = (metrics.accuracy, -metrics.loss)
            if key > best_key:
                best_key, best_epoch = key, epoch
                best = {name: tensor.detach().cpu().clone() for name, tensor in judged.state_dict().items()}
            seconds = time.perf_counter() - started
            spent += seconds
            history.append(
                EpochLog(
                    epoch=epoch,
                    train_loss=loss_sum / steps,
                    val_loss=metrics.loss,
                    val_accuracy=metrics.accuracy,
                    learning_rate=rate,
                    seconds=seconds,
                )
            )
            if checkpoint and epoch + 1 < settings.epochs:
                save_checkpoint(
                    checkpoint,
                    {
                        "run_id": spec.run_id,
                        "model": learner.state_dict(),
                        "method": method.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "averaged": averaged.state_dict() if averaged is not None else {},
                        "history": [entry.model_dump() for entry in history],
                        "best": best,
                        "best_key": list(best_key),
                        "best_epoch": best_epoch,
                        "seconds": spent,
                    },
                )
    learner.load_state_dict(best)
    return Trained(learner.eval(), tuple(history), best_epoch, spent, tuning)


class HardLabels:
    """The cross-entropy with the labels: smoothed, weighted by class, shared between both labels of a mixed image."""

    def __init__(self, data: Dataset, settings: TrainSpec, device: torch.device) -> None:
        self._labels = torch.from_numpy(data.labels)
        self._smoothing = settings.label_smoothing
        self._weight: Tensor | None = None
        if settings.class_weights == "balanced":
            counts = np.bincount(data.labels[data.splits["train"]], minlength=len(data.classes))
            weight = counts.sum() / (np.maximum(counts, 1) * np.count_nonzero(counts))
            self._weight = torch.from_numpy(np.where(counts, weight, 0.0).astype(np.float32)).to(device)

    def __call__(self, logits: Tensor, targets: Tensor, mix: Mix | None) -> Tensor:
        """Scalar, nats, mean over the batch, for logits (N, K) and labels (N,)."""
        if mix is None:
            return F.cross_entropy(logits, targets, weight=self._weight, label_smoothing=self._smoothing)
        others = self._labels[mix.partners].to(logits.device)
        share = torch.from_numpy(mix.share).to(logits.device)
        own, other = (
            F.cross_entropy(logits, labels, weight=self._weight, label_smoothing=self._smoothing, reduction="none")
            for labels in (targets, others)
        )
        loss = (share * own + (1 - share) * other).sum()
        if self._weight is None:
            return loss / len(logits)
        # as of unmixed images, the mean is weighted too
        return loss / (share * self._weight[targets] + (1 - share) * self._weight[others]).sum()


def epoch_order(spec: RunSpec, data: Dataset, epoch: int) -> np.ndarray:
    """The positions of the training images in the order of an epoch, a function of (seed, epoch).

    Balanced sampling draws with replacement, so that every class comes equally often in expectation.
    """
    train = data.splits["train"]
    rng = np.random.default_rng(derive("order", spec.seed, epoch))
    if spec.train.sampling == "uniform":
        return rng.permutation(len(train))
    labels = data.labels[train]
    counts = np.bincount(labels, minlength=len(data.classes))
    chances = 1.0 / counts[labels]
    return rng.choice(len(train), size=len(train), p=chances / chances.sum())


def freeze(model: nn.Module, groups: int) -> list[nn.Module]:
    """Stop the first layer groups of a network from learning; -1: all but the classifier.

    The groups are timm's (the stem is the first, then each stage or block); of other networks, the children.

    Returns: the frozen modules, whose statistics have to stay too. Raises: TrainError if there are not so many groups.
    """
    if not groups:
        return []
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    if hasattr(model, "group_matcher"):
        matcher = cast(Any, model).group_matcher(coarse=True)
        layers = [names for _, names in sorted(group_modules(model, matcher).items())]
        weights = [names for _, names in sorted(group_parameters(model, matcher).items())]
    else:
        children = [child for child, module in model.named_children() if any(True for _ in module.parameters())]
        layers = [[name for name in modules if name.split(".")[0] == child] for child in children]
        weights = [[name for name in parameters if name.split(".")[0] == child] for child in children]
    if groups >= len(weights):
        raise TrainError(
            f"freeze {groups}: the network has {len(weights)} layer groups; freeze at most {len(weights) - 1}"
        )
    count = len(weights) - 1 if groups == -1 else groups
    for name in (name for names in weights[:count] for name in names):
        parameters[name].requires_grad_(False)
    return [modules[name] for names in layers[:count] for name in names]


def reinitialised(model: nn.Module) -> nn.Module:
    """A copy with weights drawn anew, layer by layer, as each layer's own initialisation draws them.

    Raises: TrainError if a layer with parameters cannot be drawn anew.
    """
    twin = copy.deepcopy(model)
    again: Any = getattr(twin, "init_weights", None)
    for name, module in twin.named_modules():
        reset: Any = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
        elif again is None and any(True for _ in module.parameters(recurse=False)):
            raise TrainError(
                f"'{name or type(module).__name__}' has parameters and no reset_parameters(): a second network like "
                "the student cannot be made; add that function, or choose a method that needs none"
            )
    if again is not None:
        again()
    return twin


def _loss(method: Method, lesson: Lesson, hard: Tensor | None) -> Tensor:
    loss = sum(method(lesson).values(), start=lesson.student.logits.new_zeros(()))
    return loss if hard is None else loss + hard


def _check_count(method: Method, given: int) -> None:
    fits = {"none": given == 0, "one": given == 1, "many": given >= 2}[method.teachers]
    if not fits:
        wanted = {"none": "no teacher", "one": "1 teacher", "many": "2 or more teachers"}[method.teachers]
        raise TrainError(f"method '{method.name}' takes {wanted}, {given} given")


def _shown_targets(
    targets: Tensor, mix: Mix | None, labels: Tensor, teachers: Sequence[Outputs], ground_truth: bool
) -> Tensor:
    """What a method may know of the labels."""
    if not ground_truth:
        votes = sum(teacher.logits.float().softmax(1) for teacher in teachers)
        return votes.argmax(1) if isinstance(votes, Tensor) else targets
    if mix is None:
        return targets
    larger = torch.from_numpy(mix.share >= 0.5).to(targets.device)
    return torch.where(larger, targets, labels[mix.partners].to(targets.device))


def _learning_rate(settings: TrainSpec, step: int, steps: int) -> float:
    """The rate of a step, counted from 0 over the whole run: linear warm-up, then constant or a half cosine towards 0.

    The schedule of Loshchilov and Hutter, arXiv:1608.03983, without restarts.
    """
    warmup = settings.warmup_epochs * steps
    if step + 1 < warmup:
        return settings.learning_rate * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    left = max(0.0, settings.epochs * steps - warmup)
    done = max(0.0, step + 1 - warmup) / (left + 1)  # 0 would come one step after the last: a step at 0 teaches nothing
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def _optimizer(learner: nn.Module, method: Method, settings: TrainSpec) -> torch.optim.Optimizer:
    # norms and biases are not decayed: pulling them to zero regularises nothing and costs accuracy
    groups: list[dict[str, Any]] = list(param_groups_weight_decay(learner, settings.weight_decay))
    known = {id(parameter) for group in groups for parameter in group["params"]}
    for group in param_groups_weight_decay(method, settings.weight_decay):
        own = [parameter for parameter in group["params"] if id(parameter) not in known]
        if own:
            groups.append({**group, "params": own})
    if settings.optimizer == "sgd":
        momentum = settings.momentum
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=momentum, nesterov=momentum > 0)
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def _averaged(learner: nn.Module, settings: TrainSpec) -> AveragedModel | None:
    if settings.ema_decay is None:
        return None
    return AveragedModel(learner, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay), use_buffers=True)
