"""How much the loss would change."""

from __future__ import annotations

from torch_pruning.pruner.importance import GroupMagnitudeImportance, GroupTaylorImportance

from kdbench.compress.importance import IMPORTANCES, FromGroup


class Taylor(FromGroup):
    """Sum of |weight x gradient| of a unit: to first order, the change of the loss without each weight (Molchanov et
    al., arXiv:1906.10771, who square it).

    The gradient is that of the mean cross-entropy over the images. The weights of convolutions, linear layers and layer
    norms count; torch-pruning leaves those of batch normalisation out.
    """

    name = "taylor"
    summary = "weight times gradient of the loss, in all layers that hold the unit"
    paper = "arXiv:1906.10771"
    needs_data = True

    def estimator(self, normaliser: str | None) -> GroupMagnitudeImportance:
        return GroupTaylorImportance(normalizer=normaliser)


IMPORTANCES.add(Taylor.name, Taylor())
