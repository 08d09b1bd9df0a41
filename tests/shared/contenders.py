"""Records of small models to choose from, made by hand: only what they can and cost has to be said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from record_factory import environment, latency, record, spec, teacher

from kdbench.types import Latency, Memory, Profile, RunRecord


def contender(
    model: str,
    accuracy: float = 0.9,
    *,
    params: int = 1_000_000,
    macs: int = 10_000_000,
    weight_bytes: int = 4_000_000,
    latencies: Sequence[Latency] | float = 5.0,
    memory: int | None = None,
    fingerprint: str = "",
    counted: bool = True,
    **changes: Any,
) -> RunRecord:
    """A finished run of a model trained alone; a number for `latencies` is the median of one, with an IQR of 0."""
    if isinstance(latencies, int | float):
        held = None if memory is None else Memory(peak_rss_bytes=memory)
        latencies = [latency(float(latencies), iqr_ms=0.0, memory=held)]
    profile = Profile(
        image_size=64, params=params, macs=macs, flops=2 * macs, weight_bytes=weight_bytes, latencies=tuple(latencies)
    )
    if fingerprint:
        changes["environment"] = environment(fingerprint, cpu=f"CPU of {fingerprint[:4]}")
    return record(spec(model, **changes.pop("of", {})), accuracy, profile=profile if counted else None, **changes)


def taught(accuracy: float = 0.97) -> RunRecord:
    """The record of a teacher."""
    return record(teacher(), accuracy)
