"""Softmax regression representation learning (Yang et al., ICLR 2021): features good enough for the teacher's head."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdbench.errors import ShapeMismatch, TrainError
from kdbench.features import in_float32
from kdbench.method import METHODS, FeatureOptions, Lesson, Method, Setting, check_logits
from kdbench.methods.ab import connector
from kdbench.methods.kd import on_top


def srrl_loss(connected: Tensor, teacher: Tensor, answer: Tensor, teacher_logits: Tensor) -> Tensor:
    """Squared error of the features, plus that of what the teacher's classifier makes of them.

    Args:
        connected: (N, D) features of the student, brought to the teacher's width.
        teacher: (N, D) features.
        answer: (N, K) logits of the teacher's classifier for `connected`.
        teacher_logits: (N, K).
    Returns: scalar, sum of two means over all elements; 0 at equality.
    Raises: ShapeMismatch if the shapes differ.
    """
    if connected.shape != teacher.shape:
        raise ShapeMismatch("pooled", connected.shape, teacher.shape)
    check_logits(answer, teacher_logits)
    features = F.mse_loss(in_float32(connected), in_float32(teacher))
    return features + F.mse_loss(in_float32(answer), in_float32(teacher_logits))


class SRRL(Method):
    """The student's vector before the classifier, through a connector and the teacher's frozen classifier.

    The connector has no ReLU at its end, unlike that of the original: teachers there were ResNets, whose features are
    never negative; those of a ViT or behind a SiLU are, and a ReLU could not reach them.
    """

    name = "srrl"
    paper = "ICLR 2021, openreview ZzwDy_wiWv"
    summary = "give the teacher's classifier features it reads as the teacher's own"
    family = "features"
    needs = ("logits", "pooled")
    trains_classifier = False

    class Options(FeatureOptions):
        weight: float = Field(default=1.0, ge=0, description="of both squared errors")

    head_weight: Tensor
    head_bias: Tensor | None

    def prepare(self, setting: Setting) -> None:
        head = setting.teacher.head
        if head is None:
            raise TrainError(
                "method 'srrl' puts the student's features through the teacher's classifier, and this teacher's is not "
                "a single linear layer; try another teacher, or the method 'fitnets'"
            )
        self.connector = connector(setting.student.pooled, head.in_features)
        # copies: neither trained nor changed from outside
        self.register_buffer("head_weight", in_float32(head.weight.detach()).clone())
        self.register_buffer("head_bias", None if head.bias is None else in_float32(head.bias.detach()).clone())

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        connected = self.connector(in_float32(lesson.student.vector)[:, :, None, None]).flatten(1)
        answer = F.linear(connected, self.head_weight, self.head_bias)
        term = srrl_loss(connected, lesson.teacher.vector, answer, lesson.teacher.logits)
        return {"srrl": self.options.weight * term, **on_top(lesson, self.options)}


METHODS.add("srrl", SRRL)
