"""The one training loop: teachers, baselines and distilled students all pass through it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kdbench.data.dataset import Dataset
from kdbench.data.views import Views
from kdbench.engine.checkpoint import load_checkpoint, save_checkpoint
from kdbench.engine.evaluate import measure, predict
from kdbench.errors import Diverged, TrainError
from kdbench.method import Method
from kdbench.seeding import derive
from kdbench.types import EpochLog, Progress, RunSpec, TrainSpec

TeacherOutputs = Callable[[int], np.ndarray]
"""Logits (N_train, K) of a teacher for the views of an epoch, in the order of the training indices."""


@dataclass(frozen=True)
class Trained:
    """The outcome of a run: the model holds the weights of the best epoch on validation."""

    model: nn.Module
    history: tuple[EpochLog, ...]
    best_epoch: int
    seconds: float


def train(
    spec: RunSpec,
    model: nn.Module,
    method: Method,
    data: Dataset,
    views: Views,
    eval_views: Views,
    *,
    teachers: Sequence[TeacherOutputs] = (),
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a model, keep the weights of the epoch with the best validation accuracy (ties: the lower loss).

    Everything random is a function of (spec.seed, epoch), so an interrupted run that goes on from its checkpoint ends
    with the weights of an undisturbed one. The caller's random state is left as it was.

    Args:
        model: initialised; changed in place.
        method: gives the distillation terms; its own parameters are trained along.
        views, eval_views: what the model sees in training, and in validation.
        teachers: one for each teacher of the spec; asked once for each epoch.
        checkpoint: where the state is kept between epochs; None keeps none.
        progress: told after each step.
    Raises: Diverged if the loss stops being finite; TrainError if the teachers do not fit the method.
    """
    settings = spec.train
    if method.needs_teacher != (len(teachers) == 1):
        raise TrainError(f"method '{method.name}' takes {int(method.needs_teacher)} teacher, {len(teachers)} given")
    device = next(model.parameters()).device
    indices = data.splits["train"]
    labels = torch.from_numpy(data.labels)
    batch_size = min(settings.batch_size, len(indices))
    steps = len(indices) // batch_size  # the last, smaller batch of an epoch is left out; each epoch leaves out others
    optimizer = _optimizer(model, method, settings)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    averaged = _averaged(model, settings)
    judged = averaged.module if averaged is not None else model

    history: list[EpochLog] = []
    best: dict[str, Tensor] = {}
    best_key, best_epoch, spent = (-1.0, -math.inf), 0, 0.0
    state = load_checkpoint(checkpoint, spec.run_id) if checkpoint else None
    if state is not None:
        model.load_state_dict(state["model"])
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(state["optimizer"])
        if averaged is not None:
            averaged.load_state_dict(state["averaged"])
        history = [EpochLog.model_validate(entry) for entry in state["history"]]
        best, best_epoch, spent = state["best"], state["best_epoch"], state["seconds"]
        best_key = tuple(state["best_key"])

    hard_weight = method.hard_weight if spec.method.ground_truth else 0.0
    total = settings.epochs * steps
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for epoch in range(len(history), settings.epochs):
            if progress:
                progress(spec.title, epoch * steps, total)
            taught = [torch.from_numpy(teacher(epoch)) for teacher in teachers]
            started = time.perf_counter()
            order = np.random.default_rng(derive("order", spec.seed, epoch)).permutation(len(indices))
            torch.manual_seed(derive("noise", spec.seed, epoch))  # dropout and its like
            model.train()
            method.train()
            loss_sum, rate = 0.0, 0.0
            for step in range(steps):
                rate = _learning_rate(settings, epoch * steps + step, steps)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                positions = np.sort(order[step * batch_size : (step + 1) * batch_size])
                batch = indices[positions]
                pixels = views(data.images(batch), batch, epoch).to(device)
                targets = labels[batch].to(device)
                teacher_logits = taught[0][positions].to(device) if taught else None
                with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                    logits = model(pixels)
                loss = _loss(method, logits.float(), teacher_logits, targets, hard_weight, settings.label_smoothing)
                value = loss.item()
                if not math.isfinite(value):
                    raise Diverged(spec.run_id, epoch * steps + step, value)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if settings.clip_norm is not None:
                    nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
                optimizer.step()
                if averaged is not None:
                    averaged.update_parameters(model)
                loss_sum += value
                if progress:
                    progress(spec.title, epoch * steps + step + 1, total)

            val = data.splits["val"]
            val_logits = predict(judged, data, val, eval_views, precision=settings.precision)
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
                        "model": model.state_dict(),
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
    model.load_state_dict(best)
    return Trained(model.eval(), tuple(history), best_epoch, spent)


def _loss(
    method: Method, student: Tensor, teacher: Tensor | None, targets: Tensor, hard_weight: float, smoothing: float
) -> Tensor:
    terms = method(student, teacher, targets)
    loss = sum(terms.values(), start=student.new_zeros(()))
    if hard_weight:
        loss = loss + hard_weight * F.cross_entropy(student, targets, label_smoothing=smoothing)
    return loss


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


def _optimizer(model: nn.Module, method: Method, settings: TrainSpec) -> torch.optim.Optimizer:
    # norms and biases are not decayed: pulling them to zero regularises nothing and costs accuracy
    groups: list[dict[str, Any]] = list(param_groups_weight_decay(model, settings.weight_decay))
    if own := list(method.parameters()):
        groups.append({"params": own, "weight_decay": settings.weight_decay})
    if settings.optimizer == "sgd":
        momentum = settings.momentum
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=momentum, nesterov=momentum > 0)
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def _averaged(model: nn.Module, settings: TrainSpec) -> AveragedModel | None:
    if settings.ema_decay is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay), use_buffers=True)
