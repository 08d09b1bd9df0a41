"""Sizes that are read off a network without running it. Floor 3."""

from __future__ import annotations

import torch
from torch import nn


def count_params(model: nn.Module) -> int:
    """Scalars in all parameters; one that two layers share counts once. Buffers (batch statistics) do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the state dict: parameters and persistent buffers in the type they are stored in.

    Shared tensors count once. The names and the header of a file come on top of it; buffers that a model makes anew at
    each start (``persistent=False``) are no part of it.
    """
    stored = {id(value): value for value in model.state_dict(keep_vars=True).values() if torch.is_tensor(value)}
    return sum(value.numel() * value.element_size() for value in stored.values())
