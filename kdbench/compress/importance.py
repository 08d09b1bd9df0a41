"""The contract of an importance: what a file in ``compress/importances/`` has to say. Floor 4.

An importance gives each unit of a group (a channel, a hidden unit, a head; see ``coupling``) a number; the units with
the smallest numbers leave first, over the whole network. So the numbers of two groups have to be comparable.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch_pruning.pruner.importance import GroupMagnitudeImportance

from kdbench.compress.coupling import Coupled
from kdbench.registry import Registry


class Importance(ABC):
    """One way to judge; registers an instance: ``IMPORTANCES.add(name, MyImportance())``."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """What it looks at."""
    paper: ClassVar[str]
    needs_data: ClassVar[bool] = False
    """Whether it reads gradients of the loss on training images."""

    def check(self, network: nn.Module) -> None:  # noqa: B027 # most judge every network
        """Raises: ConfigError if it cannot judge this network."""

    @abstractmethod
    def judge(self, coupled: Coupled, seed: int) -> Tensor | None:
        """(units,) float; None if nothing of this group can be judged, which is then left whole.

        Args:
            coupled: its layers hold their weights and, with ``needs_data``, their gradients.
            seed: of what is random.
        """


class FromGroup(Importance):
    """One that torch-pruning has.

    It adds up each layer's share of a unit, takes the mean over layers, and divides by the mean over units: that makes
    wide and narrow layers comparable.
    """

    normaliser: ClassVar[str] = "mean"

    @abstractmethod
    def estimator(self, normaliser: str | None) -> GroupMagnitudeImportance:
        """torch-pruning's."""

    def judge(self, coupled: Coupled, seed: int) -> Tensor | None:
        # normalised here: torch-pruning's vector is as long as the first layer, whose channels may be fewer units
        found = self.estimator(None)(coupled.group)
        if found is None:
            return None
        scores = self.estimator(self.normaliser)._normalize(found[: coupled.units], self.normaliser)
        return torch.nan_to_num(scores.double(), nan=0.0)  # 0 / 0: all weights of a group are 0


IMPORTANCES: Registry[Importance] = Registry("importance", "kdbench.compress.importances")
