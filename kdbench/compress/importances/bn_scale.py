"""The scale of batch normalisation."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch_pruning.pruner.importance import BNScaleImportance, GroupMagnitudeImportance

from kdbench.compress.importance import IMPORTANCES, FromGroup
from kdbench.errors import ConfigError


class BatchNormScale(FromGroup):
    """Absolute scale of the unit's batch normalisation (network slimming: Liu et al., arXiv:1708.06519, who train with
    an L1 penalty on it first; no such penalty is added here).

    Layers without batch normalisation behind them stay whole.
    """

    name = "bn_scale"
    summary = "scale of the batch normalisation behind the unit"
    paper = "arXiv:1708.06519"

    def check(self, network: nn.Module) -> None:
        if not any(isinstance(module, _BatchNorm) and module.affine for module in network.modules()):
            raise ConfigError(
                [
                    f"importance 'bn_scale' reads the scales of batch normalisation, and a {type(network).__name__} "
                    "has none; try magnitude"
                ]
            )

    def estimator(self, normaliser: str | None) -> GroupMagnitudeImportance:
        return BNScaleImportance(normalizer=normaliser)


IMPORTANCES.add(BatchNormScale.name, BatchNormScale())
