"""Normalised knowledge distillation (Yang et al., From knowledge distillation to self-KD, arXiv:2303.13005)."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdbench.features import in_float32
from kdbench.method import METHODS, Lesson, Method, check_logits
from kdbench.methods.dkd import without_target
from kdbench.types import Frozen


def nkd_loss(
    student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, gamma: float, temperature: float
) -> Tensor:
    """Weigh the target by the teacher's trust in it; renormalise the other classes before they are matched.

    Args:
        student_logits: (N, K) float, unnormalised; computed in at least float32.
        teacher_logits: (N, K) likewise.
        targets: (N,) int64.
        gamma: weight of the other classes' cross-entropy; with two classes that is exactly 0.
        temperature: > 0, dimensionless, of the other classes alone; their part is scaled by temperature squared.
    Returns: scalar, nats, mean over N. A cross-entropy: where the other classes agree it is their entropy, and the
        target's part ends only at probability 1.
    Raises: ShapeMismatch if the shapes differ.
    """
    check_logits(student_logits, teacher_logits)
    student, teacher = in_float32(student_logits), in_float32(teacher_logits)
    trust = teacher.softmax(1).gather(1, targets[:, None])
    target = -(trust * F.log_softmax(student, dim=1).gather(1, targets[:, None])).mean()
    student_rest = F.log_softmax(without_target(student, targets) / temperature, dim=1)
    teacher_rest = (without_target(teacher, targets) / temperature).softmax(1)
    others = -(teacher_rest * student_rest).sum(1).mean()
    return target + gamma * temperature**2 * others


class NKD(Method):
    """Trust-weighted cross-entropy of the target + gamma * T^2 * cross-entropy of the others + cross-entropy."""

    name = "nkd"
    paper = "arXiv:2303.13005"
    summary = "trust-weighted target and renormalised other classes"

    class Options(Frozen):
        gamma: float = Field(default=1.5, ge=0, description="weight of the other classes' part")
        temperature: float = Field(default=1.0, gt=0, description="of the other classes' part")

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        logits = lesson.student.logits, lesson.teacher.logits
        return {"nkd": nkd_loss(*logits, lesson.targets, self.options.gamma, self.options.temperature)}


METHODS.add("nkd", NKD)
