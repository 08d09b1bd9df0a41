"""The contract of a distillation method: what a file in ``methods/`` has to say. Floor 3."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from pydantic import ValidationError
from torch import Tensor, nn

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.registry import Registry
from kdbench.types import Frozen, MethodSpec, Scalar


class NoOptions(Frozen):
    """Of a method that has none."""


class Method(nn.Module, ABC):
    """Turns student and teacher outputs into loss terms; parameters of its own train along with the student.

    The engine adds the hard-label cross-entropy, weighted by `hard_weight`, unless the run is without ground truth; a
    method states only what it adds to it.

    Args:
        spec: with resolved options.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    summary: ClassVar[str]
    """One line for lists."""
    needs_teacher: ClassVar[bool] = True
    Options: ClassVar[type[Frozen]] = NoOptions

    def __init__(self, spec: MethodSpec) -> None:
        super().__init__()
        self.options = self.Options.model_validate(spec.options)

    @property
    def hard_weight(self) -> float:
        """The weight of the hard-label cross-entropy where there is ground truth."""
        return 1.0

    @abstractmethod
    def forward(self, student: Tensor, teacher: Tensor | None, targets: Tensor) -> dict[str, Tensor]:
        """Named scalar terms, weighted; the loss is their sum.

        Args:
            student: logits (N, K) with gradient.
            teacher: logits (N, K) without; None where needs_teacher is false.
            targets: (N,) int64.
        Raises: ShapeMismatch.
        """


METHODS: Registry[type[Method]] = Registry("method", "kdbench.methods")


def resolve_options(spec: MethodSpec) -> dict[str, Scalar]:
    """The options with their defaults filled in. Raises: UnknownName; ConfigError with every problem."""
    method = METHODS.get(spec.name)
    problems: list[str] = []
    if not spec.ground_truth and not method.needs_teacher:
        problems.append(f"method '{spec.name}' has nothing to learn from without ground truth")
    try:
        options = method.Options.model_validate(spec.options)
    except ValidationError as invalid:
        known = ", ".join(method.Options.model_fields) or "none"
        for error in invalid.errors():
            key = ".".join(str(part) for part in error["loc"])
            unknown = error["type"] == "extra_forbidden"
            message = f"unknown; known: {known}" if unknown else f"{error['msg']}, not {error['input']!r}"
            problems.append(f"method '{spec.name}', option '{key}': {message}")
        options = None
    if problems or options is None:
        raise ConfigError(problems)
    return options.model_dump()


def build_method(spec: MethodSpec) -> Method:
    """The method of a spec. Raises: UnknownName, ConfigError."""
    return METHODS.get(spec.name)(spec.model_copy(update={"options": resolve_options(spec)}))


def check_logits(student: Tensor, teacher: Tensor) -> None:
    """Raises: ShapeMismatch unless both are (N, K) with equal N and K."""
    if student.shape != teacher.shape:
        raise ShapeMismatch("logits", student.shape, teacher.shape)
