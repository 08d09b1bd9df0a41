"""How a network is run on this machine: memory format, precision, number of threads, compiled or not. Floor 4.

What the spec leaves open is settled by a short probe, whose outcome is kept on the disk: a later run of the same spec
on the same machine must not be run in another way only because the machine was busy with something else.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from kdbench.engine.evaluate import BATCH
from kdbench.environment import collect, has_fast_bf16, usable_cores
from kdbench.errors import TrainError, first_line
from kdbench.store import write_atomic
from kdbench.types import Precision, TrainSpec, Tuning, content_id

PROBE_VERSION = 1
"""Part of the cache's key: raised when a probe would choose differently from the same times."""

PROBE_SECONDS = 2.0
"""For the timed rounds over all settings together; spent once for each network, machine and purpose."""

MIN_ROUNDS = 3
"""However long they last: the fewest of which the median leaves out one disturbed step."""

WORTH_CHANGING = 0.03
"""Share of the time that another setting must save over a plainer one: less is within the noise of medians."""

Purpose = Literal["training", "inference"]
MemoryFormat = Literal["channels_last", "contiguous"]
Attention = Literal["fused", "plain"]

_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
_clock = time.perf_counter  # seconds


@dataclass(frozen=True)
class _Setting:
    memory_format: MemoryFormat
    precision: Precision
    threads: int
    attention: Attention = "fused"

    def __str__(self) -> str:
        plain = " plain attention" if self.attention == "plain" else ""
        return f"{self.memory_format} {self.precision} {self.threads} thread{'s' if self.threads > 1 else ''}{plain}"


def settle(
    train: TrainSpec,
    model: nn.Module,
    image_size: int,
    *,
    name: str,
    device: torch.device,
    purpose: Purpose,
    cache: Path | None = None,
    batch_size: int | None = None,
) -> Tuning:
    """Decide how a network is run: as the spec says and, where it says ``auto``, as a probe on this machine finds.

    Where the spec or the machine leaves one setting only, nothing is run. The probe works on copies: the model, the
    caller's random state and torch's number of threads stay as they are. Forward hooks are copied along and would see
    the probe's images, so hooks are better set afterwards.

    Args:
        image_size: pixels, both sides.
        name: tells the model's outcome from other models' in the cache.
        purpose: training: a step without the optimizer is timed; inference: a forward pass in eval mode.
        cache: gets ``tuning/<key>.json``; None keeps nothing.
        batch_size: images of a step; None: that of the spec in training, of `predict` in inference.
    Returns: `compiled` as the spec asks for in training; whether it works, `compiled` finds out.
    Raises: TrainError if no setting can be run.
    """
    settings = _settings(train, model, device)
    asked = train.compile and purpose == "training"
    if len(settings) == 1:
        return _tuning(settings[0], compiled=asked)
    size = batch_size or (train.batch_size if purpose == "training" else BATCH)
    path = None
    if cache is not None:
        # frozen layers make a backward pass cheaper
        learning = sum(p.numel() for p in model.parameters() if p.requires_grad) if purpose == "training" else 0
        # the names of the settings say what was left open, what was not, and what the machine allows
        fingerprint, names = collect(usable_cores()).fingerprint, [str(setting) for setting in settings]
        key = [fingerprint, name, image_size, size, purpose, device.type, names, learning, PROBE_VERSION]
        path = cache / "tuning" / f"{content_id(key)}.json"
        if (known := _read(path, settings)) is not None:
            return known.model_copy(update={"compiled": asked})
    times, notes = _probe(settings, model, image_size, size, device, purpose, choose=train.precision == "auto")
    medians = {setting: 1e3 * statistics.median(taken) for setting, taken in times.items()}
    tuning = _tuning(
        _best(medians),
        probe_ms={str(setting): round(median, 4) for setting, median in medians.items()},
        note="; ".join(notes),
    )
    if path is not None:
        with contextlib.suppress(OSError):  # a full disk costs the next run a probe, not this one its result
            write_atomic(path, (tuning.model_dump_json(indent=1) + "\n").encode(), durable=False)
    return tuning.model_copy(update={"compiled": asked})


def place(model: nn.Module, tuning: Tuning, device: torch.device) -> nn.Module:
    """The model itself, moved to the device and into the memory format and attention it was settled to run in."""
    if tuning.attention == "plain":
        for module in _attentions(model):
            module.fused_attn = False
    return model.to(device).to(memory_format=_FORMATS[tuning.memory_format])


def compiled(model: nn.Module, example: Tensor, precision: Precision = "fp32") -> tuple[Callable[[Tensor], Any], str]:
    """The model compiled, or itself with the reason, where compiling does not work; it is tried at once.

    The trial is a forward and a backward pass in training mode. It leaves parameters, buffers, gradients, modes and the
    random state as they were. What is returned shares the model's parameters; another shape than the example's, another
    mode or number of threads is compiled anew when it first comes. Hooks set later are not called.

    Args:
        example: images as the training loop gives them, on the model's device.
        precision: that of the training loop.
    Returns: what to call instead of the model, and a note, empty if that is the compiled form.
    """
    try:
        run = torch.compile(model, dynamic=False)
        with _restored(model, example.device), torch.enable_grad():
            model.train()
            with torch.autocast(example.device.type, torch.bfloat16, enabled=precision == "bf16"):
                said = run(example)
            torch.stack([part.float().sum() for part in _tensors(said)]).sum().backward()
    except Exception as problem:  # no compiler, an operator it does not know, a bug of it: eager works all the same
        return model, f"torch.compile failed: {first_line(problem)}; eager instead"
    return lambda images: run(images), ""  # of the compiled module itself even the truth value is an error


# ---------------------------------------------------------------- what there is to choose between


def _settings(train: TrainSpec, model: nn.Module, device: torch.device) -> list[_Setting]:
    """All that the spec leaves open and that makes sense here, the plainest first."""
    cores = usable_cores()
    formats: tuple[MemoryFormat, ...] = ("contiguous",)
    if train.channels_last and _gains_by_channels_last(model):
        formats = ("contiguous", "channels_last") if train.channels_last == "auto" else ("channels_last",)
    precisions: tuple[Precision, ...] = ("fp32", "bf16") if device.type == "cuda" or has_fast_bf16() else ("fp32",)
    if train.precision != "auto":
        precisions = (train.precision,)
    # on a GPU the host's threads have no part in a step
    one_too = train.threads == "auto" and cores > 1 and device.type != "cuda"
    threads = (cores, 1) if one_too else (cores,)
    # on processors the backward pass of the fused form can take three times as long as that of the plain one
    attentions: tuple[Attention, ...] = (
        ("fused", "plain") if train.attention == "auto" and _attentions(model) else ("fused",)
    )

    def unlike_plain(setting: _Setting) -> int:
        return (
            (setting.memory_format != "contiguous")
            + (setting.precision != "fp32")
            + (setting.threads != cores)
            + (setting.attention != "fused")
        )

    every = [
        _Setting(memory_format, precision, count, attention)
        for precision, count, memory_format, attention in itertools.product(precisions, threads, formats, attentions)
    ]
    return sorted(every, key=unlike_plain)  # stable: of two equally plain ones the one in fp32 comes first


def _gains_by_channels_last(model: nn.Module) -> bool:
    # depthwise and dense convolutions run up to twice as fast in channels_last; a ViT has only one, at its stem
    return any(isinstance(module, nn.Conv2d) and module.kernel_size != module.stride for module in model.modules())


def _attentions(model: nn.Module) -> list[Any]:
    """timm's attention modules, where they run torch's fused form."""
    return [module for module in model.modules() if getattr(module, "fused_attn", False)]


def _best(medians: dict[_Setting, float]) -> _Setting:
    """The first, that is the plainest, of those that the quickest does not beat by enough."""
    least = min(medians.values())
    return next(
        setting for setting, median in medians.items() if median == least or median * (1 - WORTH_CHANGING) < least
    )


def _tuning(setting: _Setting, **more: Any) -> Tuning:
    return Tuning(
        memory_format=setting.memory_format,
        precision=setting.precision,
        threads=setting.threads,
        attention=setting.attention,
        **more,
    )


def _read(path: Path, settings: Sequence[_Setting]) -> Tuning | None:
    """What was settled before; None if nothing was or the file is damaged."""
    try:
        known = Tuning.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    setting = _Setting(known.memory_format, known.precision, known.threads, known.attention)
    return known if setting in settings else None


# ---------------------------------------------------------------- the probe


def _probe(
    settings: Sequence[_Setting],
    model: nn.Module,
    image_size: int,
    batch_size: int,
    device: torch.device,
    purpose: Purpose,
    *,
    choose: bool,
) -> tuple[dict[_Setting, list[float]], list[str]]:
    """Seconds of the steps of each setting that can be run, in the order of settings, and why others cannot.

    The settings take turns, so that whatever else the machine does at the time slows all of them alike.

    Args:
        choose: a precision that gives values that are not finite is left out, for there is another one.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, image_size, image_size, generator=generator).to(device)
    copies: dict[tuple[MemoryFormat, Attention], nn.Module] = {}
    times: dict[_Setting, list[float]] = {}
    notes: list[str] = []
    threads_before = torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            for setting in settings:
                form = (setting.memory_format, setting.attention)
                if form not in copies:
                    own = place(copy.deepcopy(model), _tuning(setting), device)
                    copies[form] = own.train(purpose == "training")
                torch.set_num_threads(setting.threads)
                try:
                    said = _step(copies[form], images, setting.precision, purpose)
                except RuntimeError as problem:  # out of memory, or an operator without a kernel for it
                    notes.append(f"{setting} left out: {first_line(problem)}")
                    continue
                if choose and setting.precision != "fp32" and not said.isfinite().all():
                    notes.append(f"{setting} left out: its values are not finite")
                    continue
                times[setting] = []
            if not times:
                raise TrainError(f"the network cannot be run on this machine: {'; '.join(notes)}")
            turns = sorted(times, key=lambda setting: setting.threads)
            started, rounds = _clock(), 0
            while rounds < MIN_ROUNDS or (len(times) > 1 and _clock() - started < PROBE_SECONDS):
                for setting in turns:
                    form = (setting.memory_format, setting.attention)
                    run = functools.partial(_step, copies[form], images, setting.precision, purpose)
                    if torch.get_num_threads() != setting.threads:
                        torch.set_num_threads(setting.threads)
                        run()  # the first step of other threads is some 8 % slower: their caches are cold
                    times[setting].append(_seconds(run, device))
                rounds += 1
    finally:
        torch.set_num_threads(threads_before)
    return times, notes


def _step(model: nn.Module, images: Tensor, precision: Precision, purpose: Purpose) -> Tensor:
    """What the loop does with a batch: forward, loss and backward, or in inference forward. Returns: loss or logits."""

    def logits() -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            return _tensors(model(images))[0].float()

    if purpose == "inference":
        with torch.inference_mode():
            return logits()
    model.zero_grad(set_to_none=True)
    with torch.enable_grad():
        said = logits()
        loss = F.cross_entropy(said, torch.zeros(len(said), dtype=torch.long, device=said.device))
        loss.backward()
    return loss.detach()


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    before = _clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return _clock() - before


# ---------------------------------------------------------------- leaving things as they were


@contextlib.contextmanager
def _restored(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Whatever is done to the model inside is undone: by value, for a compiled form holds the tensors themselves."""

    def tensors() -> Iterator[tuple[str, Tensor]]:
        yield from model.named_parameters()
        yield from model.named_buffers()

    values = {name: tensor.detach().clone() for name, tensor in tensors()}
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    for parameter, _ in gradients:
        parameter.grad = None  # else the trial's would be added to it
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for name, tensor in tensors():
                tensor.copy_(values[name])
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode


def _tensors(said: Any) -> list[Tensor]:
    """The tensors of a network's answer in their order: a DeiT gives two in training."""
    return [part for part in said if torch.is_tensor(part)] if isinstance(said, tuple | list) else [said]
