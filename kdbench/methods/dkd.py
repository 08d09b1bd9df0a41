"""Decoupled knowledge distillation (Zhao et al., arXiv:2203.08679)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdbench.features import in_float32
from kdbench.method import METHODS, Lesson, Method, check_logits
from kdbench.types import Frozen


def without_target(logits: Tensor, targets: Tensor) -> Tensor:
    """The logits (N, K - 1) of all classes but each row's target.

    Args:
        logits: (N, K).
        targets: (N,) int64.
    """
    places = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, places + (places >= targets[:, None]).long())


def dkd_loss(
    student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, alpha: float, beta: float, temperature: float
) -> Tensor:
    """Match the softened weight of the target class, and apart from it the distribution of all others.

    Args:
        student_logits: (N, K) float, unnormalised; computed in at least float32.
        teacher_logits: (N, K) likewise.
        targets: (N,) int64.
        alpha: weight of the divergence between (target, all others), two numbers that sum to one.
        beta: weight of the divergence among the others, renormalised; with two classes there is but one of them and
            this part is exactly 0.
        temperature: > 0, dimensionless; the loss is scaled by temperature squared.
    Returns: scalar, nats, mean over N; 0 when both agree up to a constant.
    Raises: ShapeMismatch if the shapes differ.
    """
    check_logits(student_logits, teacher_logits)
    student, teacher = in_float32(student_logits) / temperature, in_float32(teacher_logits) / temperature
    student_rest, teacher_rest = without_target(student, targets), without_target(teacher, targets)
    binary = F.kl_div(
        _target_or_not(student, student_rest, targets),
        _target_or_not(teacher, teacher_rest, targets),
        reduction="batchmean",
        log_target=True,
    )
    others = F.kl_div(
        F.log_softmax(student_rest, dim=1), F.log_softmax(teacher_rest, dim=1), reduction="batchmean", log_target=True
    )
    return (alpha * binary + beta * others) * temperature**2


def _target_or_not(logits: Tensor, rest: Tensor, targets: Tensor) -> Tensor:
    """log of (probability of the target, of all others), (N, 2). Never log(1 - p): that is -inf for a sure network."""
    parts = torch.cat([logits.gather(1, targets[:, None]), rest.logsumexp(1, keepdim=True)], dim=1)
    return F.log_softmax(parts, dim=1)


def ramp(epoch: int, epochs: int, fraction: float) -> float:
    """How far a rise over the first part of a run has come in an epoch, in (0, 1]; by whole epochs, the first counts.

    Args:
        epoch, epochs: of the run; epoch counts from 0.
        fraction: the part of the epochs it takes; 0: none.
    """
    rise = fraction * epochs
    return min((epoch + 1) / rise, 1.0) if rise else 1.0


class DKD(Method):
    """alpha * T^2 * KL(target or not) + beta * T^2 * KL(among the others), rising from little, + cross-entropy."""

    name = "dkd"
    paper = "arXiv:2203.08679"
    summary = "match the target's weight and the other classes' distribution apart"

    class Options(Frozen):
        alpha: float = Field(default=1.0, ge=0, description="weight of the target's part")
        beta: float = Field(default=8.0, ge=0, description="weight of the other classes' part")
        temperature: float = Field(default=4.0, gt=0)
        warmup: float = Field(
            default=20 / 240, ge=0, le=1, description="fraction of the epochs over which the weight rises to its full"
        )

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        options = self.options
        term = dkd_loss(
            lesson.student.logits,
            lesson.teacher.logits,
            lesson.targets,
            options.alpha,
            options.beta,
            options.temperature,
        )
        return {"dkd": ramp(lesson.epoch, lesson.epochs, options.warmup) * term}


METHODS.add("dkd", DKD)
