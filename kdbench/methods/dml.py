"""Deep mutual learning (Zhang, Xiang, Hospedales and Lu, arXiv:1706.00384): two students teach each other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.features import in_float32
from kdbench.method import METHODS, Lesson, Method, Setting
from kdbench.methods.kd import softened_kl
from kdbench.types import Frozen


def mutual_loss(
    student_logits: Tensor, peer_logits: Tensor, targets: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """What each network learns from the other (section 2.2), each taking the other's answer as given.

    Args:
        student_logits: (N, K), unnormalised; computed in at least float32.
        peer_logits: (N, K) likewise.
        targets: (N,) int64, for the peer's own cross-entropy.
        temperature: > 0; the paper has 1.
    Returns: two scalars in nats, means over N: KL(peer || student), with gradient to the student alone, 0 where both
        agree; and the peer's cross-entropy + KL(student || peer), with gradient to the peer alone.
    Raises: ShapeMismatch if the shapes of the logits differ.
    """
    for_student = softened_kl(student_logits, peer_logits.detach(), temperature)
    for_peer = softened_kl(peer_logits, student_logits.detach(), temperature)
    return for_student, F.cross_entropy(in_float32(peer_logits), targets) + for_peer


class MutualLearning(Method):
    """A peer of the student's architecture learns beside it from the same batches; only the student is kept."""

    name = "dml"
    paper = "arXiv:1706.00384"
    summary = "a second, equal student learns alongside, and each matches the other's probabilities"
    family = "online"
    teachers = "none"

    class Options(Frozen):
        weight: float = Field(default=1.0, gt=0, description="of the peer's answer against the labels, in the student")
        temperature: float = Field(default=1.0, gt=0)

    def prepare(self, setting: Setting) -> None:
        self.peer: nn.Module = setting.fresh_student()

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        said = self.peer(lesson.pixels)
        if isinstance(said, tuple | list):  # a DeiT in training answers with both of its tokens
            said = torch.stack(tuple(said)).mean(0)
        student, peer = mutual_loss(lesson.student.logits, said, lesson.targets, self.options.temperature)
        return {"mutual": self.options.weight * student, "peer": peer}


METHODS.add("dml", MutualLearning)
