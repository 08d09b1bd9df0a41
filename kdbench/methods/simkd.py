"""Knowledge distillation with the reused teacher classifier: SimKD (Chen et al., arXiv:2203.14001)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.errors import ShapeMismatch, TrainError
from kdbench.features import Anatomy, in_float32, same_size, to_grid
from kdbench.method import METHODS, Lesson, Method, Setting
from kdbench.types import Frozen


def simkd_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Match the features the teacher's classifier reads (section 3.2).

    Args:
        projected: the student's, behind the projector: maps (N, C, H, W) or vectors (N, C); computed in at least
            float32.
        teacher: the teacher's, of the same shape.
    Returns: scalar, mean squared difference over all elements; 0 where both are equal.
    Raises: ShapeMismatch if the shapes differ.
    """
    if projected.shape != teacher.shape:
        raise ShapeMismatch("last", projected.shape, teacher.shape)
    return F.mse_loss(in_float32(projected), in_float32(teacher))


def bottleneck(student: int, teacher: int, factor: int, rectified: bool) -> nn.Sequential:
    """The bottleneck of the paper: 1x1, 3x3 and 1x1 convolutions, each with batch normalisation.

    Args:
        student: channels that come in.
        teacher: channels that go out.
        factor: the inner ones are so many times fewer than the teacher's.
        rectified: whether a ReLU ends it, as it ends the map of a ResNet.
    """
    inner = max(1, teacher // factor)
    layers = [
        nn.Conv2d(student, inner, 1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(inplace=True),
        nn.Conv2d(inner, inner, 3, padding=1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(inplace=True),
        nn.Conv2d(inner, teacher, 1, bias=False),
        nn.BatchNorm2d(teacher),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if rectified else []))


class ReusedClassifier(nn.Module):
    """What SimKD ships: the student up to its last map, the projector, the mean, and the teacher's classifier.

    Args:
        trunk: its `forward_features` gives the student's last map, or its tokens.
        anatomy: of the student.
        size: (H, W) the map is pooled to before the projector; None leaves it.
    """

    def __init__(
        self, trunk: nn.Module, projector: nn.Module, head: nn.Linear, anatomy: Anatomy, size: tuple[int, int] | None
    ) -> None:
        super().__init__()
        self.trunk, self.projector, self.head = trunk, projector, head
        self.prefix, self.grid, self.size = anatomy.prefix_tokens, anatomy.stages[-1][1:], size
        self.channels_first = getattr(trunk, "output_fmt", "NCHW") != "NHWC"

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, K) of images (N, 3, S, S)."""
        features = self.trunk.forward_features(pixels)  # type: ignore[operator] # its presence was checked
        if features.ndim == 3:
            features = to_grid(features, self.prefix, self.grid)
        elif not self.channels_first:
            features = features.permute(0, 3, 1, 2)
        if self.size is not None:
            features = F.adaptive_avg_pool2d(features, self.size)
        logits: Tensor = self.head(self.projector(features).mean((2, 3)))
        return logits


class SimKD(Method):
    """The student learns the features that the teacher's classifier reads, and answers through that classifier.

    Where a CNN's classifier sees the mean of its last map, the maps are matched, position by position, as in the
    paper. Of any other teacher (a ViT, whose classifier sees a token, or a CNN with a layer in between) the mean of
    the projected map has to become the vector that its classifier sees; that vector may be negative, so no ReLU ends
    the projector then. Labels are not used.
    """

    name = "simkd"
    paper = "arXiv:2203.14001"
    summary = "learn the features the teacher's classifier reads, and keep that classifier"
    family = "features"
    needs = ("last", "pooled")

    class Options(Frozen):
        weight: float = Field(default=1.0, gt=0, description="of the difference of the features")
        factor: int = Field(default=2, ge=1, description="the projector's inner channels: the teacher's over this")

    @property
    def hard_weight(self) -> float:
        return 0.0  # the student's own classifier is not shipped

    def prepare(self, setting: Setting) -> None:
        student, teacher = setting.student, setting.teacher
        if teacher.head is None:
            raise TrainError("simkd reuses the teacher's classifier, which is not a linear layer here; try kd")
        if not student.stages:
            raise TrainError("simkd reads the student's last map, and the student has none; try kd")
        self.anatomy = student
        self.matches_maps = _sees_mean(teacher)
        here, there = student.stages[-1][1:], teacher.stages[-1][1:] if self.matches_maps else student.stages[-1][1:]
        smaller = (min(here[0], there[0]), min(here[1], there[1]))
        self.size = None if smaller == here else smaller
        width = teacher.head.in_features
        self.projector = bottleneck(student.stages[-1][0], width, self.options.factor, rectified=self.matches_maps)
        # a layer of its own: a copy of the teacher's would bring along whoever listens to that one
        self.head = nn.Linear(width, teacher.head.out_features, bias=teacher.head.bias is not None)
        self.head.load_state_dict(teacher.head.state_dict())
        self.head.requires_grad_(False)

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        student = in_float32(lesson.student.last)
        if self.matches_maps:
            student, target = same_size(student, in_float32(lesson.teacher.last))
            made = self.projector(student)
        else:
            made, target = self.projector(student).mean((2, 3)), in_float32(lesson.teacher.vector)
        return {"simkd": self.options.weight * simkd_loss(made, target)}

    def deploy(self, student: nn.Module) -> nn.Module:
        """Raises: TrainError if the student cannot be cut behind its last map."""
        trunk = shortened(student, self.anatomy.last_module)
        return ReusedClassifier(trunk, self.projector, self.head, self.anatomy, self.size)


def _sees_mean(network: Anatomy) -> bool:
    """Whether a classifier sees the mean of the last map, as a CNN's may.

    A ViT's may see a token, or the mean behind one more norm: its stages are all of one shape, a CNN's are not.
    """
    return network.reads_last and not network.prefix_tokens and len(set(network.stages)) > 1


def shortened(network: nn.Module, last: str) -> nn.Module:
    """A network of the same modules that ends behind one of them: its `forward_features` gives that one's output.

    What follows that module, in the order the network lists its parts, does nothing and has no parameters; the given
    network stays as it is.

    Args:
        network: with `forward_features`, as timm's have.
        last: dotted name of the module.
    Raises: TrainError if there is no `forward_features` or no such module.
    """
    if not hasattr(network, "forward_features"):
        raise TrainError(
            f"simkd ships a network that is cut behind its last map, by forward_features, as timm's networks have; "
            f"{type(network).__name__} has none; try another method"
        )
    if not last or last not in dict(network.named_modules()):
        raise TrainError(f"simkd cannot cut {type(network).__name__} behind '{last}': no such module; name its taps")
    return _cut(network, last.split("."))


def _cut(module: nn.Module, path: Sequence[str]) -> nn.Module:
    kept = copy.copy(module)
    kept._modules = dict(module._modules)
    names = list(kept._modules)
    for name in names[names.index(path[0]) + 1 :]:
        if kept._modules[name] is not None:  # an absent part stays absent: networks ask for that
            kept._modules[name] = nn.Identity()
    if len(path) > 1:
        kept._modules[path[0]] = _cut(module.get_submodule(path[0]), path[1:])
    return kept


METHODS.add("simkd", SimKD)
