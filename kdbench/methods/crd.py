"""Contrastive representation distillation (arXiv:1910.10699): the same image from both networks, told from others."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.features import in_float32
from kdbench.method import METHODS, FeatureOptions, Lesson, Method, Setting
from kdbench.methods.kd import on_top
from kdbench.methods.sp import unit_rows

EPS = 1e-7


def contrastive_loss(positive: Tensor, negative: Tensor, chosen: Tensor, log_constant: Tensor, images: int) -> Tensor:
    """Noise-contrastive estimation: one positive among its negatives (the paper's equation 18).

    In logarithms throughout; p / (p + c) of a score p and the noise c is a sigmoid of their difference.

    Args:
        positive: (N,) cosine over temperature.
        negative: (N, M) likewise.
        chosen: (N, M) bool, which of them count for which image; none is allowed.
        log_constant: scalar, the logarithm of the normalisation constant Z of the scores.
        images: in the training set, among which the noise is uniform.
    Returns: scalar >= 0, nats, mean over N.
    """
    noise = chosen.sum(1).to(positive.dtype) / images
    level = (noise + EPS).log() + log_constant
    hit = F.logsigmoid(positive - level)
    missed = F.logsigmoid(level[:, None] - negative) + (noise / (noise + EPS)).log()[:, None]
    return -(hit + torch.where(chosen, missed, 0.0).sum(1)).mean()


def first_log_constant(positive: Tensor, negative: Tensor, chosen: Tensor, images: int) -> Tensor:
    """log Z, where Z is the mean score of a batch times the number of training images; arguments as above."""
    scores = torch.cat([positive, torch.where(chosen, negative, -torch.inf).flatten()])
    return scores.logsumexp(0) - (len(positive) + chosen.sum()).to(scores.dtype).log() + math.log(images)


class CRD(Method):
    """Vectors before the classifier, embedded, against memory banks of all training images.

    Negatives are images of other classes where there are labels, and all other images where there are none. They are
    drawn without replacement, in one order for the whole batch: every image takes the first that are of another class
    than its own. So the scores of a batch are one product with a part of the bank.
    """

    name = "crd"
    paper = "arXiv:1910.10699"
    summary = "tell the teacher's view of an image from its views of many others (contrastive)"
    family = "relations"
    needs = ("logits", "pooled")
    trains_classifier = False

    class Options(FeatureOptions):
        weight: float = Field(default=0.8, ge=0, description="of both directions")
        negatives: int = Field(default=16384, ge=1, description="of an image; fewer where there are no more")
        temperature: float = Field(default=0.07, gt=0)
        momentum: float = Field(default=0.5, ge=0, lt=1, description="share of the old in a memory's new entry")
        width: int = Field(default=128, ge=1, description="of the embeddings")

    groups: Tensor
    student_memory: Tensor
    teacher_memory: Tensor
    log_constants: Tensor

    def prepare(self, setting: Setting) -> None:
        width, images = self.options.width, setting.train_size
        self.student_embedding = nn.Linear(setting.student.pooled, width)
        self.teacher_embedding = nn.Linear(setting.teacher.pooled, width)
        self.register_buffer("student_memory", unit_rows(torch.randn(images, width)))
        self.register_buffer("teacher_memory", unit_rows(torch.randn(images, width)))
        self.register_buffer("log_constants", torch.full((2,), torch.inf))  # not set yet
        groups = torch.arange(images) if setting.labels is None else setting.labels.detach().clone()
        self.register_buffer("groups", groups, persistent=False)
        # of so many images in any order, enough are of another class than any given one, where there are enough at all
        self.candidates = min(images, self.options.negatives + int(groups.unique(return_counts=True)[1].max()))

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        positions = lesson.positions.to(self.groups.device)
        student = unit_rows(self.student_embedding(in_float32(lesson.student.vector)))
        teacher = unit_rows(self.teacher_embedding(in_float32(lesson.teacher.vector)))
        candidates = torch.randperm(len(self.groups), device=self.groups.device)[: self.candidates]
        other = self.groups[candidates] != self.groups[positions][:, None]
        chosen = other & (other.cumsum(1) <= self.options.negatives)
        from_student = self._direction(0, student, self.teacher_memory, positions, candidates, chosen)
        from_teacher = self._direction(1, teacher, self.student_memory, positions, candidates, chosen)
        if self.training:
            self._remember(self.student_memory, positions, student)
            self._remember(self.teacher_memory, positions, teacher)
        return {"crd": self.options.weight * (from_student + from_teacher), **on_top(lesson, self.options)}

    def _direction(
        self, which: int, anchors: Tensor, memory: Tensor, positions: Tensor, candidates: Tensor, chosen: Tensor
    ) -> Tensor:
        """The loss of anchors (N, D) against one of the memories."""
        images = len(memory)
        positive = (anchors * memory[positions]).sum(1) / self.options.temperature
        negative = anchors @ memory[candidates].T / self.options.temperature
        estimate = first_log_constant(positive.detach(), negative.detach(), chosen, images)
        constant = torch.where(self.log_constants[which].isinf(), estimate, self.log_constants[which])
        if self.training:
            self.log_constants[which] = constant
        return contrastive_loss(positive, negative, chosen, constant, images)

    @torch.no_grad()
    def _remember(self, memory: Tensor, positions: Tensor, embeddings: Tensor) -> None:
        momentum = self.options.momentum
        memory[positions] = unit_rows(momentum * memory[positions] + (1 - momentum) * embeddings)


METHODS.add("crd", CRD)
