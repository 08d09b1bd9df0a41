"""Knowledge distillation as Hinton, Vinyals and Dean have it (arXiv:1503.02531)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdbench.errors import ShapeMismatch
from kdbench.method import METHODS, Method, check_logits
from kdbench.types import Frozen


def softened_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Match softened class probabilities (arXiv:1503.02531, section 2).

    Args:
        student_logits: (N, K) float, unnormalised; computed in at least float32.
        teacher_logits: (N, K) likewise.
        temperature: > 0, dimensionless; the loss is scaled by temperature squared.
    Returns: scalar, nats, mean over N; 0 when both agree up to a constant.
    Raises: ShapeMismatch if the shapes differ.
    """
    check_logits(student_logits, teacher_logits)
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    student = F.log_softmax(student_logits.to(dtype) / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.to(dtype) / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


class KD(Method):
    """alpha * T^2 * KL(teacher || student) + (1 - alpha) * cross-entropy."""

    name = "kd"
    paper = "arXiv:1503.02531"
    summary = "match the teacher's softened class probabilities"

    class Options(Frozen):
        temperature: float = Field(default=4.0, gt=0)
        alpha: float = Field(default=0.9, gt=0, le=1, description="weight of the teacher's term")

    @property
    def hard_weight(self) -> float:
        return 1.0 - cast(KD.Options, self.options).alpha

    def forward(self, student: Tensor, teacher: Tensor | None, targets: Tensor) -> dict[str, Tensor]:
        if teacher is None:
            raise ShapeMismatch("logits", student.shape, ())
        options = cast(KD.Options, self.options)
        return {"kd": options.alpha * softened_kl(student, teacher, options.temperature)}


METHODS.add("kd", KD)
