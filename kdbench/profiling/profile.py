"""All costs of one network. Floor 3."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from kdbench.profiling.crosscheck import cross_check
from kdbench.profiling.latency import MIN_SAMPLES, Samples, WarmUp, sample, summarise, warm_up
from kdbench.profiling.macs import count_macs
from kdbench.profiling.params import count_denormals, count_params, count_trainable, weight_bytes
from kdbench.profiling.runtime import Setting, Source, convert, prepare, usable
from kdbench.profiling.timers import preemptions, timer_for
from kdbench.types import Latency, Memory, Profile, ProfileSpec

BUDGET_S = 3.0
"""Of one latency that is taken within this process; a third of it may go into warming up."""

FEWEST_UNDISTURBED = 0.1
"""Of all passes: with fewer, those that were disturbed count as well, and the figure is marked."""

_DEFAULT = ProfileSpec()
_DECIMALS = 4  # of a millisecond: the clock's own grain is coarser


def profile_model(
    model: nn.Module,
    image_size: int,
    spec: ProfileSpec = _DEFAULT,
    counts_only: bool = False,
    *,
    layers: bool = False,
    check: bool = False,
) -> Profile:
    """Counts of any network, and its latency on this machine's processor, for (B, 3, image_size, image_size).

    The latency is eager PyTorch's, taken in this process. For other runtimes, and for a ranking of several models, see
    ``kdbench.profile``: it gives each a process of its own and lets them take turns.

    The network is left as it is: weights, mode, memory format and device. So are the number of torch's threads and
    the random generators.

    Pass the trained network, not a fresh one: weights that training drove below 1e-38 are denormal numbers, on which
    some processors are many times slower, and that belongs to the figure. ``denormals`` says how many there are, and
    ``torch.set_flush_denormal`` is left alone: it is off unless the caller turns it on.

    Args:
        model: with the weights it would be shipped with.
        image_size: pixels, both sides.
        spec: one latency for each batch size and thread count of it; at most ``spec.samples`` passes each, fewer once
            3 seconds are spent, never fewer than 5.
        counts_only: leave the latencies out; then nothing depends on the machine.
        layers: list what every module of the network costs, too.
        check: count with a second counter, and say what makes the difference.

    Raises: ProfileError.
    """
    counted = count_macs(model, image_size)
    settings = [
        Setting(batch_size=batch_size, threads=threads) for batch_size in spec.batch_sizes for threads in spec.threads
    ]
    return Profile(
        image_size=image_size,
        params=count_params(model),
        trainable_params=count_trainable(model),
        macs=counted.macs,
        flops=2 * counted.macs,
        weight_bytes=weight_bytes(model),
        not_counted=counted.not_counted,
        activations=counted.activations,
        activation_bytes=counted.activation_bytes,
        denormals=count_denormals(model),
        by_operator=counted.by_operator,
        layers=counted.layers if layers else (),
        cross_check=cross_check(model, image_size, counted) if check else None,
        latencies=() if counts_only else tuple(time_model(model, image_size, each, spec.samples) for each in settings),
    )


def noise_images(batch_size: int, image_size: int) -> Tensor:
    """Normal noise (B, 3, image_size, image_size), always the same: an image of zeros could run faster."""
    generator = torch.Generator().manual_seed(0)  # its own: measuring must not change what is drawn afterwards
    return torch.randn(batch_size, 3, image_size, image_size, generator=generator)


def to_latency(
    setting: Setting,
    rounds: Sequence[Samples],
    *,
    library: str,
    prepare_ms: float,
    warm: WarmUp,
    isolated: bool = False,
    memory: Memory | None = None,
    energy_j: float | None = None,
    among: int | None = None,
    note: str = "",
) -> Latency:
    """What a record keeps of the samples taken under a setting.

    Args:
        rounds: the samples. Those of disturbed calls are kept and left out, unless hardly any other is there.
        library: what ran it, with its version.
        among: how many networks took turns in this setting.
        note: what disturbed it, if anything did; the figure is then marked as unstable.

    Raises: ProfileError, if there is no sample.
    """
    kept = [taken.times_ms for taken in rounds]
    disturbed = [value for taken in rounds for value in taken.disturbed_ms]
    if disturbed and sum(map(len, kept)) < max(MIN_SAMPLES, FEWEST_UNDISTURBED * sum(map(len, [*kept, disturbed]))):
        kept = [taken.times_ms + taken.disturbed_ms for taken in rounds]
        disturbed, note = [], note or "the machine was so busy that hardly any pass went undisturbed"
    summary = summarise(kept)
    return Latency(
        runtime=setting.runtime,
        precision=setting.precision,
        batch_size=setting.batch_size,
        threads=setting.threads,
        device=setting.device,
        median_ms=summary.median_ms,
        iqr_ms=summary.iqr_ms,
        interval_ms=summary.interval_ms,
        p90_ms=summary.p90_ms,
        p99_ms=summary.p99_ms,
        samples=summary.samples,
        unstable=summary.unstable or bool(note),
        library=library,
        prepare_ms=round(prepare_ms, 1),
        cold_ms=round(warm.cold_ms, _DECIMALS),
        steady=warm.steady,
        isolated=isolated,
        among=among,
        rounds_ms=tuple(tuple(round(value, _DECIMALS) for value in taken) for taken in kept),
        disturbed_ms=tuple(round(value, _DECIMALS) for value in disturbed),
        memory=memory,
        energy_j=energy_j,
        note=note,
    )


def time_model(model: nn.Module, image_size: int, setting: Setting, samples: int) -> Latency:
    """The latency of a network in this process, beside whatever else it does: for a first look and for a search.

    Raises: ProfileError, RuntimeUnavailable.
    """
    runtime, timer = usable(setting), timer_for(setting.device)
    example = noise_images(setting.batch_size, image_size)
    # around prepare as well: a runtime may choose its kernels there
    with tempfile.TemporaryDirectory() as folder, threads(setting.threads):
        source = Source(lambda: copy.deepcopy(model).to("cpu", torch.float32).eval(), image_size, Path(folder))
        convert(runtime, source, setting.precision)
        started = time.perf_counter()
        run = prepare(runtime, source, setting, example)
        prepared = 1e3 * (time.perf_counter() - started)
        started = time.perf_counter()
        warm = warm_up(run, timer, budget_s=BUDGET_S / 3)
        left = BUDGET_S - (time.perf_counter() - started)
        taken = sample(run, timer, samples=samples, min_samples=MIN_SAMPLES, budget_s=left, preemptions=preemptions)
    return to_latency(setting, (taken,), library=runtime.library(), prepare_ms=prepared, warm=warm)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many of torch's threads on the CPU within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
