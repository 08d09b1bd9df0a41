"""Weights in half precision: half the bytes on disk, fp32 in the arithmetic. Floor 4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from kdbench.errors import ExportError


def is_weight(values: np.ndarray) -> bool:
    """Whether it is stored in half precision: in fp32, and more than one value.

    A single one is a part of the arithmetic, as the 1e-12 that keeps a division from 0, which fp16 does not have.
    """
    return values.dtype == np.float32 and values.size > 1


def halved(values: np.ndarray, name: str, file: str) -> np.ndarray:
    """The values in fp16, each off by 2^-11 of itself at most, or by 2^-25 where it is below 2^-14.

    Raises: ExportError, if one is too large.
    """
    with np.errstate(over="ignore"):  # what overflows is said below
        found = values.astype(np.float16)
    if not np.isfinite(found).all():
        raise ExportError(
            f"fp16 cannot hold {name} of {file}: its largest value is {np.abs(values).max():.3g}, "
            f"{np.finfo(np.float16).max:.0f} is the most; leave --half out"
        )
    return found


def write_half(weights: Path, out: Path) -> None:
    """A safetensors file again, with its weights in half precision. Raises: ExportError, if one is too large."""
    with safe_open(weights, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # names that share a tensor stand there
        facts = file.metadata()
    for name, tensor in tensors.items():
        if tensor.dtype == torch.float32 and is_weight(tensor.numpy()):
            tensors[name] = torch.from_numpy(halved(tensor.numpy(), name, out.name))
    save_file(tensors, out, facts)
