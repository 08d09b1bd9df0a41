"""All costs of one network. Floor 3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdbench.profiling.latency import measure_latency, summarise
from kdbench.profiling.macs import count_macs
from kdbench.profiling.params import count_params, weight_bytes
from kdbench.profiling.runtime import Runtime, usable
from kdbench.types import Latency, Profile, ProfileSpec

_RUNTIMES = ("eager",)
_DEFAULT = ProfileSpec()


def profile_model(
    model: nn.Module, image_size: int, spec: ProfileSpec = _DEFAULT, counts_only: bool = False
) -> Profile:
    """Counts of the network, and its latency on this machine's processor, for (B, 3, image_size, image_size).

    The network is left as it is: weights, mode, memory format and device. So are the number of torch's threads and
    the random generators.

    Pass the trained network, not a fresh one: weights that training drove below 1e-38 are denormal numbers, on which
    some processors are many times slower, and that belongs to the figure. For the same reason
    ``torch.set_flush_denormal`` is left alone: it is off unless the caller turns it on.

    Args:
        model: with the weights it would be shipped with.
        image_size: pixels, both sides.
        spec: one latency for each batch size and thread count of it; at most ``spec.samples`` passes each, fewer once
            3 seconds are spent, never fewer than 5.
        counts_only: leave the latencies out; then nothing depends on the machine.

    Raises: ProfileError.
    """
    counted = count_macs(model, image_size)
    latencies: list[Latency] = []
    if not counts_only:
        for runtime in map(usable, _RUNTIMES):
            for batch_size in spec.batch_sizes:
                example = _example(batch_size, image_size)
                latencies += [_latency(runtime, model, example, threads, spec.samples) for threads in spec.threads]
    return Profile(
        image_size=image_size,
        params=count_params(model),
        macs=counted.macs,
        flops=2 * counted.macs,
        weight_bytes=weight_bytes(model),
        not_counted=counted.not_counted,
        latencies=tuple(latencies),
    )


def _latency(runtime: Runtime, model: nn.Module, example: Tensor, threads: int, samples: int) -> Latency:
    with _threads(threads):  # around prepare as well: a runtime may choose its kernels there
        taken = measure_latency(runtime.prepare(model, example), samples)
    summary = summarise(taken)
    return Latency(
        runtime=runtime.name,
        precision=runtime.precision,
        batch_size=example.shape[0],
        threads=threads,
        median_ms=summary.median_ms,
        iqr_ms=summary.iqr_ms,
        samples=len(taken),
        unstable=summary.unstable,
    )


def _example(batch_size: int, image_size: int) -> Tensor:
    """Normal noise (B, 3, image_size, image_size), always the same: no image is all zeros, which could run faster."""
    generator = torch.Generator().manual_seed(0)  # its own: measuring must not change what is drawn afterwards
    return torch.randn(batch_size, 3, image_size, image_size, generator=generator)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
