"""Randomness that is a function of names and numbers, never of history. Floor 2.

Every stream is derived from what it is for, so that a run resumed at epoch 7 draws what an undisturbed one draws.
"""

from __future__ import annotations

import hashlib


def derive(*parts: str | int) -> int:
    """A seed in [0, 2**63) that depends on every part and on their order; equal on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
