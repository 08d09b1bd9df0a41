"""What a runtime is: one way to run a trained network and be timed. Floor 3."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from kdbench.errors import RuntimeUnavailable
from kdbench.registry import Registry
from kdbench.types import Precision


@dataclass(frozen=True)
class Availability:
    """Whether a runtime can run here; true in a condition if it can."""

    ok: bool
    reason: str = ""
    """If not: what is missing, and the command that would bring it."""

    def __bool__(self) -> bool:
        return self.ok


class Runtime(Protocol):
    """The contract of an entry of ``RUNTIMES``."""

    @property
    def name(self) -> str:
        """As tables print it."""

    @property
    def precision(self) -> Precision:
        """Of the arithmetic it is timed with."""

    def available(self) -> Availability:
        """Whether it is installed and runs on this machine; cheap, and never raises."""

    def prepare(self, model: nn.Module, example: Tensor) -> Callable[[], object]:
        """A function that runs one forward pass of the example (B, 3, H, W) and returns once it is finished.

        The model is copied or converted, never changed; the copy runs where the example lies, in its memory format.
        Raises: ProfileError, if this model cannot run so.
        """


RUNTIMES: Registry[Runtime] = Registry("runtime", "kdbench.profiling.runtimes")


def usable(name: str) -> Runtime:
    """The runtime of that name. Raises: UnknownName; RuntimeUnavailable, with the reason."""
    runtime = RUNTIMES.get(name)
    found = runtime.available()
    if not found:
        raise RuntimeUnavailable(f"the runtime '{name}' is not available: {found.reason}")
    return runtime
