"""Chance: what every other importance has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from kdbench.compress.coupling import Coupled
from kdbench.compress.importance import IMPORTANCES, Importance
from kdbench.seeding import derive


class Random(Importance):
    """Uniform in [0, 1), a function of the seed and of the layer's name (the baseline of Mittal et al.,
    arXiv:1801.10447).
    """

    name = "random"
    summary = "chance, by the seed: a baseline"
    paper = "arXiv:1801.10447"

    def judge(self, coupled: Coupled, seed: int) -> Tensor | None:
        generator = torch.Generator().manual_seed(derive("importance", seed, coupled.name))
        return torch.rand(coupled.units, generator=generator, dtype=torch.float64)


IMPORTANCES.add(Random.name, Random())
