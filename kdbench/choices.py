"""What a student may cost and has to be able to do, and what was chosen. Floor 1; no torch.

Beside `kdbench.types`, and under its rules: frozen, no unknown keys, units in names, fractions in [0, 1].
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from kdbench.types import Frozen
from kdbench.units import Kind, parse_quantity

CHOICE_SCHEMA_VERSION = 1
"""Of Choice: raised when a field changes its meaning or goes away."""

LimitKey = Literal["accuracy", "recall", "drop", "latency", "params", "macs", "bytes", "memory"]
ObjectiveKey = Literal["accuracy", "latency", "params", "macs", "bytes", "memory"]
MemoryKind = Literal["process", "activations"]
State = Literal["chosen", "passes", "rejected", "no result"]

KINDS: dict[LimitKey, Kind] = {
    "accuracy": "fraction", "recall": "fraction", "drop": "fraction", "latency": "ms",
    "params": "count", "macs": "count", "bytes": "bytes", "memory": "bytes",
}  # fmt: skip
"""Of each limit, what it is measured in."""

FLOORS: frozenset[LimitKey] = frozenset({"accuracy", "recall"})
"""Limits that a figure has to reach; of all others it may not be above."""

OPTIONS: dict[LimitKey, str] = {
    "accuracy": "min_accuracy", "recall": "min_recall", "drop": "max_drop", "latency": "max_latency_ms",
    "params": "max_params", "macs": "max_macs", "bytes": "max_bytes", "memory": "max_memory_bytes",
}  # fmt: skip
"""Of each limit, the field of a Budget."""


def _quantity(kind: Kind) -> Any:
    def parse(value: Any) -> Any:
        return parse_quantity(value, kind) if isinstance(value, str | int | float) else value

    return BeforeValidator(parse)


Count = Annotated[float, _quantity("count")]
Bytes = Annotated[float, _quantity("bytes")]
Milliseconds = Annotated[float, _quantity("ms")]
Fraction = Annotated[float, _quantity("fraction")]


class Budget(Frozen):
    """What is asked for. Every limit may be a number, or a text with a unit: ``max_bytes="4MB"``."""

    max_params: Count | None = None
    max_macs: Count | None = Field(default=None, description="multiply-adds of one image")
    max_latency_ms: Milliseconds | None = Field(default=None, description="of one image")
    max_bytes: Bytes | None = Field(default=None, description="of the stored weights")
    max_memory_bytes: Bytes | None = Field(default=None, description="what one forward pass needs besides the runtime")
    min_accuracy: Fraction | None = None
    min_recall: Fraction | None = Field(default=None, description="of every class")
    max_drop: Fraction | None = Field(default=None, description="of accuracy, against the best teacher of the data set")
    objective: tuple[ObjectiveKey, ...] = Field(
        default=("accuracy", "latency"), min_length=1, description="the first counts; of equals the next"
    )
    runtimes: tuple[str, ...] = Field(default=(), description="that may run it; empty: every one")
    teachers: bool = Field(default=False, description="whether teachers may be chosen, too")

    @field_validator("objective")
    @classmethod
    def _distinct(cls, objective: tuple[ObjectiveKey, ...]) -> tuple[ObjectiveKey, ...]:
        if twice := sorted({key for key in objective if objective.count(key) > 1}):
            raise ValueError(f"'{twice[0]}' stands twice; keep one")
        return objective

    def limit(self, key: LimitKey) -> float | None:
        """The value that is asked for, None where nothing is."""
        value: float | None = getattr(self, OPTIONS[key])
        return value


# ---------------------------------------------------------------- devices


class _Stated(Frozen):
    source: str = Field(min_length=1, description="the data sheet's title and what it says; or how it was estimated")
    rule_of_thumb: bool = Field(default=False, description="whether no data sheet says it")


class CountLimit(_Stated):
    value: Count


class BytesLimit(_Stated):
    value: Bytes


class TimeLimit(_Stated):
    value: Milliseconds


class DeviceLimits(Frozen):
    """What the device has room for; each number with where it is from."""

    bytes: BytesLimit | None = Field(default=None, description="of the stored weights")
    memory: BytesLimit | None = Field(default=None, description="of one forward pass")
    latency: TimeLimit | None = Field(default=None, description="of one image; judged where it was measured there")
    params: CountLimit | None = None
    macs: CountLimit | None = None


class DeviceProfile(Frozen):
    """A device that a student is for."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str = ""
    note: str = ""
    this_machine: bool = Field(default=False, description="it is the machine that asks")
    cpu: tuple[str, ...] = Field(
        default=(), description="its measurements are known by these words in the name of the processor or board"
    )
    fingerprints: tuple[str, ...] = Field(default=(), description="or by the fingerprint of its machine")
    runtimes: tuple[str, ...] | None = Field(default=None, description="that exist there; null: any, []: none")
    memory_is: MemoryKind = Field(
        default="process",
        description="process: the memory of a process while it runs the network, as on an operating system; "
        "activations: the network's tensors alone, as on a microcontroller that reads its weights from flash",
    )
    limits: DeviceLimits = DeviceLimits()

    @field_validator("cpu", "fingerprints")
    @classmethod
    def _words(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if any(not value.strip() for value in values):
            raise ValueError("an empty text would fit every machine; leave it out")
        return values


# ---------------------------------------------------------------- what was chosen


class Limit(Frozen):
    """One limit that is judged."""

    key: LimitKey
    value: float
    by: Literal["budget", "device"] = "budget"
    source: str = Field(default="", description="of a device's limit")
    rule_of_thumb: bool = False


class Figure(Frozen):
    """One figure of a candidate."""

    value: float = Field(description="as tables show it; what candidates are ranked by")
    judged: float = Field(description="what limits are held against: the worse end of its interval, where it has one")
    basis: str = Field(description="what `judged` is")
    interval: tuple[float, float] | None = None
    detail: str = Field(
        default="", description="of a recall the class, of a drop the teacher, of a latency whether it is unstable"
    )


class DeviceSetting(Frozen):
    """What runs the network, and how."""

    runtime: str
    precision: str
    threads: int
    device: str
    library: str
    machine: str = Field(description="fingerprint of where it was measured")


class Check(Frozen):
    """A candidate against one limit."""

    limit: Limit
    judged: float | None = Field(default=None, description="None: missing, and that is no pass")
    passed: bool
    margin: float | None = Field(default=None, description="how far inside; below 0: how far outside")
    relative: float | None = Field(default=None, description="the margin over the limit; None where that is 0")
    text: str = Field(description="for people, in one line")


class Verdict(Frozen):
    """What became of one candidate."""

    state: State
    label: str = Field(description="model, teacher and method, as tables call them")
    model: str
    role: str
    method: str
    teacher: str = ""
    cell_id: str
    run_id: str = Field(default="", description="of its seeds the one that validation says is best")
    seeds: tuple[int, ...] = Field(default=(), description="of its runs with a result")
    failed_runs: int = Field(default=0, ge=0, description="of its runs those without")
    setting: DeviceSetting | None = Field(default=None, description="of its settings the best one that passes")
    figures: dict[LimitKey, Figure] = Field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    on_front: bool = Field(default=False, description="no other candidate that passes is better in all that counts")
    dominated_by: str = Field(default="", description="label of one that is")
    tied_with: str = Field(default="", description="label of the choice, where their intervals overlap")
    reason: str = Field(description="why it was chosen or was not, in one line")

    @property
    def failed(self) -> tuple[Check, ...]:
        """The limits it does not keep."""
        return tuple(check for check in self.checks if not check.passed)


class Relaxation(Frozen):
    """A change of the budget that lets a candidate pass."""

    changes: dict[LimitKey, float] = Field(description="the new value of each limit that has to change")
    relative: float | None = Field(description="the largest change over its limit; None where that is 0")
    label: str = Field(description="of the candidate that passes then")
    text: str = Field(description="for people, in one line")


class Choice(Frozen):
    """The student for a budget, and why not another one."""

    kind: Literal["kdbench-choice"] = "kdbench-choice"
    schema_version: int = CHOICE_SCHEMA_VERSION
    dataset: str = Field(description="title of the data set")
    budget: Budget
    device: DeviceProfile | None = None
    machine: str = Field(default="", description='fingerprint of the machine whose latencies count; "": none')
    machine_title: str = ""
    limits: tuple[Limit, ...] = Field(default=(), description="of the budget and of the device, the tighter of each")
    run_id: str = Field(default="", description='of the run that was chosen; "": no student fits')
    verdicts: tuple[Verdict, ...] = Field(
        description="of every candidate: the choice, those that pass too in their order, the others nearest first"
    )
    relaxations: tuple[Relaxation, ...] = Field(default=(), description="where nothing fits: the smallest first")
    notes: tuple[str, ...] = ()

    @property
    def chosen(self) -> Verdict | None:
        """The choice itself."""
        return next((verdict for verdict in self.verdicts if verdict.state == "chosen"), None)
