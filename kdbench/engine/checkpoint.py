"""The state of an unfinished run: written after every epoch, read back to go on exactly there.

Batches, views and dropout are functions of (seed, epoch), so weights, optimiser state and the epoch's number are the
whole state: no random stream has to be saved.
"""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import torch

from kdbench.store import write_atomic

log = logging.getLogger(__name__)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values in one step; not forced to the disk, for a lost one costs an epoch only."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(path, buffer.getvalue(), durable=False)


def load_checkpoint(path: Path, run_id: str) -> dict[str, Any] | None:
    """The saved state, None if there is none or it cannot be used: the run then starts over."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["run_id"] != run_id:
            raise ValueError(f"it belongs to run {state['run_id']}")
    except Exception as problem:
        log.warning("%s cannot be used (%s); the run starts over", path, problem)
        return None
    return state
