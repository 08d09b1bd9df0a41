"""FitNets: hints from a middle stage, as Romero et al. have it (arXiv:1412.6550).

What other methods over maps have in common with it stands here as well: pairing the maps, and a run in two parts.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.errors import ShapeMismatch, TrainError
from kdbench.features import in_float32, pairs, same_size
from kdbench.method import METHODS, FeatureOptions, Lesson, Method, Setting
from kdbench.methods.kd import on_top


def check_maps(student: Tensor, teacher: Tensor, tap: str = "stages") -> None:
    """Raises: ShapeMismatch, which names the tap, unless both maps have one shape."""
    if student.shape != teacher.shape:
        raise ShapeMismatch(tap, student.shape, teacher.shape)


def paired_stages(lesson: Lesson) -> list[tuple[Tensor, Tensor]]:
    """(student, teacher) of every pair of stages, shallow to deep: at least float32, shapes as they are.

    Raises: ShapeMismatch if one side shows no stages.
    """
    student, teacher = lesson.student.stages, lesson.teacher.stages
    if not student or not teacher:
        raise ShapeMismatch("stages", (len(student),), (len(teacher),))
    return [(in_float32(student[s]), in_float32(teacher[t])) for s, t in pairs(len(student), len(teacher))]


def paired_maps(lesson: Lesson) -> list[tuple[Tensor, Tensor]]:
    """The same, each pair brought to the smaller of its two spatial sizes; channels stay. Raises: ShapeMismatch."""
    return [same_size(student, teacher) for student, teacher in paired_stages(lesson)]


def paired_channels(setting: Setting) -> list[tuple[int, int]]:
    """(student, teacher) channels of the same pairs."""
    student, teacher = setting.student.stages, setting.teacher.stages
    return [(student[s][0], teacher[t][0]) for s, t in pairs(len(student), len(teacher))]


def in_first_part(epoch: int, epochs: int, fraction: float) -> bool:
    """Whether an epoch belongs to the first part of a run in two parts; the last epoch never does.

    Args:
        epoch: from 0.
        epochs: of the run.
        fraction: of the epochs that belong to the first part, rounded up to whole ones.
    """
    return epoch / epochs < fraction and epoch < epochs - 1


def check_two_parts(method: Method, epochs: int) -> None:
    """Raises: TrainError if a run is too short to have two parts: one of them would silently be left out."""
    if epochs < 2:
        raise TrainError(f"method '{method.name}' works in two parts, not in {epochs} epoch; give it at least 2")


def hint_loss(regressed: Tensor, teacher: Tensor) -> Tensor:
    """How far the student's regressed map is from the teacher's (arXiv:1412.6550, equation 3).

    Args:
        regressed: (N, C, H, W) float; computed in at least float32.
        teacher: (N, C, H, W) likewise.
    Returns: scalar, mean of the squared differences over all elements; 0 where the maps agree.
    Raises: ShapeMismatch if the shapes differ.
    """
    check_maps(regressed, teacher, "hint")
    return F.mse_loss(in_float32(regressed), in_float32(teacher))


class FitNets(Method):
    """weight * MSE(regressor(student's stage), teacher's stage), beside the hard labels or before them.

    The regressor is a 1x1 convolution, on the smaller of the two spatial sizes. In one part, as is usual today, hint
    and hard labels are learnt together; in two parts, as in the paper, first the hint alone and then the logits alone.
    """

    name = "fitnets"
    paper = "arXiv:1412.6550"
    summary = "regress a middle stage of the teacher's from the student's"
    family = "features"
    needs = ("logits", "stages")
    trains_classifier = False

    class Options(FeatureOptions):
        weight: float = Field(default=100.0, ge=0, description="of the hint")
        hint: int = Field(default=2, ge=1, description="the stage, counted from 1 at the shallow end")
        two_stage: bool = Field(default=False, description="the hint alone first, then hard labels and kd_weight alone")
        hint_fraction: float = Field(default=0.25, gt=0, lt=1, description="of the epochs, for the hint in two stages")

    regressor: nn.Conv2d

    def prepare(self, setting: Setting) -> None:
        channels = paired_channels(setting)
        if self.options.hint > len(channels):
            raise TrainError(
                f"method 'fitnets', option 'hint': there is no stage {self.options.hint}; "
                f"student and teacher share the stages 1 to {len(channels)}"
            )
        if self.options.two_stage:
            check_two_parts(self, setting.epochs)
        student, teacher = channels[self.options.hint - 1]
        self.regressor = nn.Conv2d(student, teacher, 1)

    def hard_weight_at(self, epoch: int, epochs: int) -> float:
        return 0.0 if self._hint_alone(epoch, epochs) else self.hard_weight

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        alone = self._hint_alone(lesson.epoch, lesson.epochs)
        if self.options.two_stage and not alone:
            return on_top(lesson, self.options)
        student, teacher = paired_maps(lesson)[self.options.hint - 1]
        hint = {"fitnets": self.options.weight * hint_loss(self.regressor(student), teacher)}
        return hint if alone else {**hint, **on_top(lesson, self.options)}

    def _hint_alone(self, epoch: int, epochs: int) -> bool:
        return self.options.two_stage and in_first_part(epoch, epochs, self.options.hint_fraction)


METHODS.add("fitnets", FitNets)
