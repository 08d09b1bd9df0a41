"""The size of the weights."""

from __future__ import annotations

from torch_pruning.pruner.importance import GroupMagnitudeImportance

from kdbench.compress.importance import IMPORTANCES, FromGroup


class Magnitude(FromGroup):
    """Sum of the squared weights of a unit, in every layer that writes or reads it (Li et al., arXiv:1608.08710, who
    take the sum of absolute values of the writing layer; over groups Fang et al., arXiv:2301.12900).
    """

    name = "magnitude"
    summary = "squared weights of all layers that hold the unit"
    paper = "arXiv:1608.08710, arXiv:2301.12900"

    def estimator(self, normaliser: str | None) -> GroupMagnitudeImportance:
        return GroupMagnitudeImportance(p=2, normalizer=normaliser)


IMPORTANCES.add(Magnitude.name, Magnitude())
