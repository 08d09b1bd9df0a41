"""One-for-all distillation between unlike architectures (Hao et al., arXiv:2310.19444).

Every stage of the student gets a small head of its own that turns its map into logits, where CNN and ViT can be
compared; the teacher's part is its logits throughout. The heads here are depthwise-separable for any student, with
group normalisation: they have to work on grids of one position and batches of one image. (The reference builds
transformer blocks for ViT students and normalises by batch.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.features import in_float32
from kdbench.method import METHODS, Lesson, Method, Setting, check_logits
from kdbench.types import Frozen


def ofa_loss(student_logits: Tensor, teacher_logits: Tensor, targets: Tensor, eps: float) -> Tensor:
    """Cross-entropy with the teacher's probabilities, the target's raised.

    Args:
        student_logits: (N, K) float, unnormalised; computed in at least float32.
        teacher_logits: (N, K) likewise.
        targets: (N,) int64.
        eps: >= 1, dimensionless, the paper's gamma: the target weighs (1 + p)^eps - 1, any other class p^eps; at 1
            this is the plain cross-entropy with the teacher.
    Returns: scalar, nats, mean over N; not scaled by a temperature. Never 0, as the weights do not vanish; at eps 1 it
        is least where both agree, and there it is the teacher's entropy.
    Raises: ShapeMismatch if the shapes differ.
    """
    check_logits(student_logits, teacher_logits)
    believed = in_float32(teacher_logits).softmax(1)
    target = F.one_hot(targets, believed.shape[1]).to(believed.dtype)
    weights = (believed + target) ** eps - target
    return -(weights * F.log_softmax(in_float32(student_logits), dim=1)).sum(1).mean()


def stage_head(channels: int, halvings: int, width: int, classes: int) -> nn.Sequential:
    """From a map to logits: halve the grid a few times, widen the channels, take the mean, classify.

    Args:
        channels: C of the map (N, C, H, W).
        halvings: of height and width; the deeper the stage, the fewer.
        width: of the vector that is classified.
        classes: K.
    Returns: a network from (N, C, H, W) of any size to (N, K).
    """
    layers: list[nn.Module] = []
    for _ in range(halvings):
        layers += [
            nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.GroupNorm(1, channels),
            nn.ReLU(),
        ]
    layers += [nn.Conv2d(channels, width, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]
    return nn.Sequential(*layers)


class OFA(Method):
    """weight * target-enhanced cross-entropy of the logits + stage_weight * the same of each stage + cross-entropy."""

    name = "ofa"
    paper = "arXiv:2310.19444"
    summary = "compare every stage's own logits with an unlike teacher's"
    needs = ("logits", "stages")
    teacher_needs = ("logits",)

    heads: nn.ModuleList

    class Options(Frozen):
        eps: float = Field(default=1.5, ge=1, description="how far the target is raised above the other classes")
        weight: float = Field(default=1.0, gt=0, description="of the student's own logits")
        stage_weight: float = Field(default=1.0, ge=0, description="of each stage's; 0 makes no heads")

    def prepare(self, setting: Setting) -> None:
        stages = setting.student.stages if self.options.stage_weight else ()
        width = max(setting.student.pooled, setting.teacher.pooled)
        self.heads = nn.ModuleList(
            stage_head(channels, len(stages) - 1 - place, width, setting.student.classes)
            for place, (channels, _, _) in enumerate(stages)
        )

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        options, teacher, targets = self.options, lesson.teacher.logits, lesson.targets
        terms = {"ofa": options.weight * ofa_loss(lesson.student.logits, teacher, targets, options.eps)}
        if self.heads:
            stages = [
                ofa_loss(head(in_float32(stage)), teacher, targets, options.eps)
                for head, stage in zip(self.heads, lesson.student.stages, strict=True)
            ]
            terms["ofa_stages"] = options.stage_weight * torch.stack(stages).sum()
        return terms


METHODS.add("ofa", OFA)
