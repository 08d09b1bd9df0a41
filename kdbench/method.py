"""The contract of a distillation method: what a file in ``methods/`` has to say. Floor 3."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError
from torch import Tensor, nn

from kdbench.errors import ConfigError, ShapeMismatch
from kdbench.features import Anatomy, Need, Outputs
from kdbench.registry import Registry
from kdbench.types import Frozen, MethodSpec, RunSpec, Scalar

Family = Literal["baseline", "logits", "features", "relations", "online", "self", "chain", "several teachers"]


class NoOptions(Frozen):
    """Of a method that has none."""


class FeatureOptions(Frozen):
    """What every method has that teaches features and leaves the classifier to the hard labels.

    The logits term of Hinton et al. may be added on top, as is usual; without ground truth it is what trains the
    classifier, and has to be there.
    """

    kd_weight: float = Field(default=0.0, ge=0, description="of a softened KL term on top; needed without ground truth")
    kd_temperature: float = Field(default=4.0, gt=0)


@dataclass(frozen=True)
class Setting:
    """What a method is told once, before the first step.

    Attributes:
        student: of the network that is trained.
        teachers: of those it learns from, in the order of the spec.
        train_size: training images; `Lesson.positions` count through them.
        labels: (train_size,) int64, by position; None without ground truth.
        epochs: of the whole run.
        fresh_student: makes another network like the student, with weights of its own (for mutual learning).
    """

    student: Anatomy
    teachers: tuple[Anatomy, ...]
    train_size: int
    labels: Tensor | None
    epochs: int
    fresh_student: Callable[[], nn.Module]

    @property
    def teacher(self) -> Anatomy:
        """The only one."""
        return self.teachers[0]


@dataclass(frozen=True)
class Lesson:
    """One batch of N images, as student and teachers see it.

    Attributes:
        student: with gradient.
        teachers: without.
        targets: (N,) int64: the labels; where there is no ground truth, what the teachers' mean prediction says, so
            that no label can reach a method that reads targets. Of a mixed image the label of its larger part.
        positions: (N,) int64, the images' places among the training images.
        pixels: (N, 3, S, S) what the student was shown.
        epoch, epochs: of the run; epoch counts from 0.
    """

    student: Outputs
    teachers: tuple[Outputs, ...]
    targets: Tensor
    positions: Tensor
    pixels: Tensor
    epoch: int = 0
    epochs: int = 1

    @property
    def teacher(self) -> Outputs:
        """The only one. Raises: ShapeMismatch if there is none."""
        if not self.teachers:
            raise ShapeMismatch("logits", self.student.logits.shape, ())
        return self.teachers[0]

    @property
    def progress(self) -> float:
        """Of the run, by whole epochs, in [0, 1)."""
        return self.epoch / self.epochs


class Method(nn.Module, ABC):
    """Turns student and teacher outputs into loss terms; parameters of its own train along with the student.

    The engine adds the hard-label cross-entropy, weighted by `hard_weight_at`, unless the run is without ground truth;
    a method states only what it adds to it. Modules a method makes in `prepare` are trained with the student, saved
    with its checkpoints, and left out of its cost and its weights, unless `deploy` puts them into what is shipped.

    Args:
        spec: with resolved options.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    summary: ClassVar[str]
    """One line for lists."""
    family: ClassVar[Family] = "logits"
    teachers: ClassVar[Literal["none", "one", "many"]] = "one"
    """How many networks a run learns from; "many" is two or more."""
    needs: ClassVar[tuple[Need, ...]] = ("logits",)
    """What it reads of student and teachers."""
    teacher_needs: ClassVar[tuple[Need, ...] | None] = None
    """What it reads of teachers, where that is less; None: the same."""
    trains_classifier: ClassVar[bool] = True
    """Whether its own terms reach the student's logits; else it cannot stand without hard labels."""
    uses_labels: ClassVar[bool] = False
    """Whether it cannot work without ground truth at all."""
    Options: ClassVar[type[Frozen]] = NoOptions

    def __init__(self, spec: MethodSpec) -> None:
        super().__init__()
        self.options: Any = self.Options.model_validate(spec.options)

    @property
    def hard_weight(self) -> float:
        """The weight of the hard-label cross-entropy where there is ground truth."""
        return 1.0

    def hard_weight_at(self, epoch: int, epochs: int) -> float:
        """The same at an epoch, for methods that work in stages."""
        return self.hard_weight

    def prepare(self, setting: Setting) -> None:
        """Make the trainable modules and buffers; called once, with the random state seeded.

        Raises: ShapeMismatch, TrainError if these networks cannot be taught this way.
        """

    @abstractmethod
    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        """Named scalar terms, weighted; the loss is their sum. Raises: ShapeMismatch."""

    def deploy(self, student: nn.Module) -> nn.Module:
        """The network that is evaluated, measured and saved; shares its parameters with the student."""
        return student

    @classmethod
    def lessons(cls, options: Any, teachers: Sequence[RunSpec], student: RunSpec) -> list[tuple[RunSpec, ...]]:
        """Which networks teach: a run of the method for each tuple.

        Args:
            options: resolved, of this class's Options.
            teachers: of the suite, as runs.
            student: the run to teach, still without teachers.
        """
        if cls.teachers == "none":
            return [()]
        if cls.teachers == "many":
            return [tuple(teachers)]
        return [(teacher,) for teacher in teachers]

    @classmethod
    def reads_of_teachers(cls) -> tuple[Need, ...]:
        """What has to be known of a teacher's outputs."""
        return cls.needs if cls.teacher_needs is None else cls.teacher_needs

    @classmethod
    def suite_teachers(cls) -> int:
        """How many teachers a suite has to name for it."""
        return {"none": 0, "one": 1, "many": 2}[cls.teachers]


METHODS: Registry[type[Method]] = Registry("method", "kdbench.methods")


def resolve_options(spec: MethodSpec) -> dict[str, Scalar]:
    """The options with their defaults filled in. Raises: UnknownName; ConfigError with every problem."""
    method = METHODS.get(spec.name)
    problems: list[str] = []
    try:
        options = method.Options.model_validate(spec.options)
    except ValidationError as invalid:
        known = ", ".join(method.Options.model_fields) or "none"
        for error in invalid.errors():
            key = ".".join(str(part) for part in error["loc"])
            unknown = error["type"] == "extra_forbidden"
            message = f"unknown; known: {known}" if unknown else f"{error['msg']}, not {error['input']!r}"
            problems.append(
                f"method '{spec.name}', option '{key}': {message}" if key else f"method '{spec.name}': {message}"
            )
        options = None
    if not spec.ground_truth and (problem := _without_ground_truth(method, options)):
        problems.insert(0, f"method '{spec.name}' {problem}")
    if problems or options is None:
        raise ConfigError(problems)
    return options.model_dump()


def _without_ground_truth(method: type[Method], options: Any) -> str:
    if method.uses_labels:
        return "cannot work without ground truth: it weighs its teachers by the labels"
    if method.teachers == "none":
        return "has nothing to learn from without ground truth"
    if not method.trains_classifier and not getattr(options, "kd_weight", 0.0):
        return "trains no classifier without ground truth; set kd_weight (as 1.0) to add a logits term"
    return ""


def build_method(spec: MethodSpec) -> Method:
    """The method of a spec. Raises: UnknownName, ConfigError."""
    return METHODS.get(spec.name)(spec.model_copy(update={"options": resolve_options(spec)}))


def check_logits(student: Tensor, teacher: Tensor) -> None:
    """Raises: ShapeMismatch unless both are (N, K) with equal N and K."""
    if student.shape != teacher.shape:
        raise ShapeMismatch("logits", student.shape, teacher.shape)
