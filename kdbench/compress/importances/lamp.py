"""Squared weights as a share of what is left."""

from __future__ import annotations

from torch_pruning.pruner.importance import GroupMagnitudeImportance

from kdbench.compress.importance import IMPORTANCES, FromGroup


class Lamp(FromGroup):
    """Squared weights of a unit over those of all units of its group that are no smaller (Lee et al., arXiv:2010.07611,
    for single weights; here for units).

    The largest unit of every group gets 1, so no layer is emptied before the others.
    """

    name = "lamp"
    summary = "squared weights as a share of those of the units that are no smaller"
    paper = "arXiv:2010.07611"
    normaliser = "lamp"

    def estimator(self, normaliser: str | None) -> GroupMagnitudeImportance:
        return GroupMagnitudeImportance(p=2, normalizer=normaliser)


IMPORTANCES.add(Lamp.name, Lamp())
