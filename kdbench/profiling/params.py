"""Sizes that are read off a network without running it. Floor 3."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdbench.errors import ProfileError

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By the bytes of a value."""


def count_params(model: nn.Module) -> int:
    """Scalars in all parameters; one that two layers share counts once. Buffers (batch statistics) do not count."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_trainable(model: nn.Module) -> int:
    """Those of ``count_params`` that a training changes: the ones that require a gradient."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_denormals(model: nn.Module) -> int:
    """Stored weights other than 0 that are below their type's smallest normal number (1.2e-38 in fp32 and bf16, 6.1e-5
    in fp16), on which some processors are many times slower. Parameters and floating buffers of the state dict; shared
    tensors count once.

    Read off the bits: where denormals are flushed, arithmetic takes them for 0 and would find none.

    Raises: ProfileError, if the weights have no values (meta device).
    """
    return sum(_denormals(value) for value in _stored(model) if value.is_floating_point() or value.is_complex())


def flushes_denormals() -> bool:
    """Whether torch takes denormal numbers for 0 on the processor, in the calling thread: ``set_flush_denormal``, which
    torch does not tell. Half of the smallest normal number says it; its bits, as a comparison would flush it again.
    """
    half = torch.full((1,), torch.finfo(torch.float32).smallest_normal, device="cpu").mul(0.5)
    return int(half.view(torch.int32)) == 0


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the state dict: parameters and persistent buffers in the type they are stored in.

    Shared tensors count once. The names and the header of a file come on top of it; buffers that a model makes anew at
    each start (``persistent=False``) are no part of it.
    """
    return sum(value.numel() * value.element_size() for value in _stored(model))


def _stored(model: nn.Module) -> list[Tensor]:
    """The tensors of the state dict, each once."""
    tensors = (value for value in model.state_dict(keep_vars=True).values() if torch.is_tensor(value))
    return list({id(value): value for value in tensors}.values())


def _denormals(tensor: Tensor) -> int:
    """How many values have a zero exponent and a mantissa that is not zero."""
    if tensor.is_meta:
        raise ProfileError("the network is on the meta device, where weights have no values; load its weights first")
    values = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    kind = _INTEGERS[values.element_size()]
    smallest_normal = torch.tensor(torch.finfo(values.dtype).smallest_normal, dtype=values.dtype).view(kind)
    magnitude = values.view(kind) & torch.iinfo(kind).max  # without the sign; grows with the value it stands for
    return int(((magnitude > 0) & (magnitude < int(smallest_normal))).sum())
