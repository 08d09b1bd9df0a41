"""What a network makes on the way to its answer, in one form for CNN and ViT. Floor 3.

Every map is a grid (N, C, H, W): the tokens of a transformer are laid back onto the grid of its patches, so that a
method never has to know what kind of network it looks at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.errors import ShapeMismatch

Need = Literal["logits", "pooled", "last", "stages", "token"]
"""What a method reads of a network: its logits; the vector its classifier sees; its last map; all of its stages; the
logits of a distillation token, where there is one."""

STAGES = 4
"""Maps taken of a network, from shallow to deep; a network with fewer gives fewer."""


@dataclass(frozen=True)
class Outputs:
    """What a network says of a batch of N images. Only what was asked for is there.

    Attributes:
        logits: (N, K).
        pooled: (N, D), the input of the classifier.
        stages: grids (N, C, H, W), shallow to deep; only the last one where just that was asked for.
        token_logits: (N, K) of the distillation token of a DeiT in training, None elsewhere.
    """

    logits: Tensor
    pooled: Tensor | None = None
    stages: tuple[Tensor, ...] = ()
    token_logits: Tensor | None = None

    @property
    def vector(self) -> Tensor:
        """`pooled`, which has to be there. Raises: ShapeMismatch."""
        if self.pooled is None:
            raise ShapeMismatch("pooled", self.logits.shape, ())
        return self.pooled

    @property
    def last(self) -> Tensor:
        """The deepest map. Raises: ShapeMismatch if no map is there."""
        if not self.stages:
            raise ShapeMismatch("last", self.logits.shape, ())
        return self.stages[-1]


@dataclass(frozen=True)
class Anatomy:
    """What a method may know of a network before it sees a batch.

    Attributes:
        classes: K.
        pooled: D.
        stages: (C, H, W) of each map, shallow to deep; of all of them, whatever the method needs.
        head: the classifier Linear(D, K): the student's own, or the teacher's; None where it is nothing so simple.
        reads_last: whether the classifier's weights apply to each position of the last map: its channels are the
            classifier's inputs, and the classifier sees their mean (CNN) or a token among them (ViT).
        last_module: the dotted name of the module whose output is the last map.
        prefix_tokens: class and distillation tokens before the grid, where that output is tokens.
    """

    classes: int
    pooled: int
    stages: tuple[tuple[int, int, int], ...]
    head: nn.Linear | None = None
    reads_last: bool = False
    last_module: str = ""
    prefix_tokens: int = 0


def to_grid(tokens: Tensor, prefix: int = 0, grid: tuple[int, int] | None = None) -> Tensor:
    """Tokens (N, L, C) as a map (N, C, H, W), without the first `prefix` (class and distillation tokens).

    Args:
        grid: (H, W) of the patches; None: a square.
    Raises: ShapeMismatch if the tokens do not fill the grid.
    """
    count = tokens.shape[1] - prefix
    height, width = grid or (math.isqrt(max(count, 0)),) * 2
    if height * width != count or count < 1:
        raise ShapeMismatch("token grid", (count,), (height, width))
    return tokens[:, prefix:].transpose(1, 2).unflatten(2, (height, width))


def to_tokens(grid: Tensor) -> Tensor:
    """A map (N, C, H, W) as tokens (N, H * W, C): the way back."""
    return grid.flatten(2).transpose(1, 2)


def same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps (N, C, H, W), each side brought to the smaller of the two by average pooling; channels stay."""
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return _pooled_to(student, size), _pooled_to(teacher, size)


def _pooled_to(grid: Tensor, size: tuple[int, int]) -> Tensor:
    return grid if grid.shape[2:] == size else F.adaptive_avg_pool2d(grid, size)


def pairs(student: int, teacher: int) -> list[tuple[int, int]]:
    """Which stage of a student learns from which of a teacher, by index, shallow to deep.

    As many pairs as the one with fewer stages has; both ends of the deeper one take part and the deepest always do.
    """
    count = min(student, teacher)
    return [(student - 1 - _spread(i, student, count), teacher - 1 - _spread(i, teacher, count)) for i in range(count)][
        ::-1
    ]


def _spread(step: int, length: int, count: int) -> int:
    """The step-th of `count` numbers spread evenly over 0 .. length - 1."""
    return 0 if count == 1 else round(step * (length - 1) / (count - 1))


def in_float32(tensor: Tensor) -> Tensor:
    """At least float32: losses are never computed in half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
