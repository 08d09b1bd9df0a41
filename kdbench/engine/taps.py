"""Looking into a network while it runs: its logits, what its classifier sees, and a map of each stage. Floor 4.

Works for every model of timm (which says where its stages end) and for the user's own modules (whose stages are found
by watching one image pass through).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdbench.errors import TrainError
from kdbench.features import STAGES, Anatomy, Need, Outputs, to_grid

_MOST_PREFIX_TOKENS = 8  # a class, a distillation and a few register tokens
_MIN_FOR_STEPS = 5  # so many stages of one and the same size are the blocks of a transformer


class Watched:
    """A network whose inner outputs are kept for one call at a time.

    The network itself is not changed: hooks listen, and `close` takes them away.

    Args:
        model: logits (N, K) of images (N, 3, S, S).
        image_size: S, pixels; one blank image is passed through, in evaluation mode, to learn the shapes.
        needs: what a call returns beside the logits.
        taps: dotted names of the modules whose outputs are the stages, shallow to deep; empty: found by itself.
        call: runs the network instead of `model` (a compiled form of it).
    Raises: TrainError if a tap does not exist or the network cannot be watched.
    """

    def __init__(
        self,
        model: nn.Module,
        image_size: int,
        needs: Iterable[Need] = ("logits",),
        taps: Sequence[str] = (),
        call: Callable[[Tensor], Any] | None = None,
    ) -> None:
        self.model = model
        self.needs: frozenset[Need] = frozenset(needs)
        self._call = call or model
        self._kept: dict[str, Tensor] = {}
        modules = dict(model.named_modules())
        if unknown := [name for name in taps if name not in modules]:
            raise TrainError(
                f"there is no module '{unknown[0]}' to tap; there are {', '.join(list(modules)[1:12])} ..."
            )
        self._taps = tuple(taps) or stage_names(model, image_size)
        self._channels_first = getattr(model, "output_fmt", "NCHW") != "NHWC"
        grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
        self._grid = (int(grid[0]), int(grid[1])) if isinstance(grid, tuple | list) and len(grid) == 2 else None
        self._classifier = _classifier(model, image_size)
        self._handles: list[Any] = []
        self._listen({"pooled", "stages"})
        try:
            self.anatomy = self._look(image_size)
        finally:
            self.close()
        if "token" in self.needs and hasattr(model, "set_distilled_training"):
            cast(Any, model).set_distilled_training(True)

    def __call__(self, pixels: Tensor) -> Outputs:
        """Run the network on images (N, 3, S, S)."""
        if not self._handles:  # only now: a copy of the network made before the first call carries no hooks
            self._listen(self.needs)
        self._kept.clear()
        said = self._call(pixels)
        # a DeiT in training speaks twice: its class token is what the labels teach
        logits, token = said if isinstance(said, tuple | list) else (said, None)
        pooled, stages = self._kept.get("pooled"), self._stages()
        self._kept.clear()  # a graph held here would live until the next call
        return Outputs(logits=logits, pooled=pooled, stages=stages, token_logits=token)

    def close(self) -> None:
        """Stop listening."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _listen(self, needs: Iterable[str]) -> None:
        modules = dict(self.model.named_modules())

        def keep(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                self._kept[name] = output[0] if isinstance(output, tuple | list) else output

            return hook

        def keep_input(module: nn.Module, inputs: Any) -> None:
            self._kept["pooled"] = inputs[0]

        wanted = self._taps if "stages" in needs else self._taps[-1:] if "last" in needs else ()
        self._handles += [modules[name].register_forward_hook(keep(name)) for name in wanted]
        if "pooled" in needs and self._classifier is not None:
            self._handles.append(modules[self._classifier].register_forward_pre_hook(keep_input))

    def _stages(self) -> tuple[Tensor, ...]:
        return tuple(self._as_grid(self._kept[name], name) for name in self._taps if name in self._kept)

    def _as_grid(self, output: Tensor, name: str) -> Tensor:
        if output.ndim == 4:
            return output if self._channels_first else output.permute(0, 3, 1, 2)
        if output.ndim == 3:
            return to_grid(output, *self._layout(output.shape[1]))
        raise TrainError(f"'{name}' gives shape {tuple(output.shape)}: neither a map nor tokens; tap another module")

    def _layout(self, tokens: int) -> tuple[int, tuple[int, int]]:
        """(prefix tokens, grid) of so many tokens: some transformers add their class token in the last blocks only."""
        if self._grid is not None and 0 <= tokens - math.prod(self._grid) <= _MOST_PREFIX_TOKENS:
            return tokens - math.prod(self._grid), self._grid
        side = math.isqrt(tokens)
        return tokens - side * side, (side, side)

    def _look(self, image_size: int) -> Anatomy:
        was_training = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                said = self.model(_noise(self.model, image_size))
                logits = said[0] if isinstance(said, tuple | list) else said
                kept = dict(self._kept)
                stages = self._stages()
        finally:
            for module, mode in was_training:
                module.training = mode
            self._kept.clear()
        if logits.ndim != 2:
            raise TrainError(f"the network gives shape {tuple(logits.shape)}; logits (N, K) are needed")
        head = self.model.get_submodule(self._classifier) if self._classifier is not None else None
        pooled = kept.get("pooled")
        width = pooled.flatten(1).shape[1] if pooled is not None else 0
        linear = head if isinstance(head, nn.Linear) else None
        last = self._taps[-1] if self._taps else ""
        return Anatomy(
            classes=logits.shape[1],
            pooled=width,
            stages=tuple((stage.shape[1], stage.shape[2], stage.shape[3]) for stage in stages),
            head=linear,
            reads_last=linear is not None and bool(stages) and _reads(linear, stages[-1], kept[last], pooled),
            last_module=last,
            prefix_tokens=self._layout(kept[last].shape[1])[0] if stages and kept[last].ndim == 3 else 0,
        )


def stage_names(model: nn.Module, image_size: int) -> tuple[str, ...]:
    """The modules whose outputs are the stages of a network, shallow to deep; at most four.

    timm's models name them. Of a CNN the last four are taken, for the stem's map is large and says little; of the
    blocks of a transformer four evenly spaced ones, the last after the final norm, as its classifier sees it.
    """
    modules = dict(model.named_modules())
    info = getattr(model, "feature_info", None)
    told = getattr(info, "info", info)
    entries = [entry for entry in told or () if isinstance(entry, dict) and entry.get("module") in modules]
    if not entries:
        return _found_stages(model, image_size)
    # an emptied stage (a ResNet with fewer than four) hands on the map of the one before
    names = [entry["module"] for entry in entries if any(True for _ in modules[entry["module"]].children())
             or not isinstance(modules[entry["module"]], nn.Sequential)]  # fmt: skip
    reductions = {entry.get("reduction") for entry in entries}
    if len(reductions) == 1 and len(names) >= _MIN_FOR_STEPS:
        chosen = _evenly(names)
        return (*chosen[:-1], "norm") if isinstance(modules.get("norm"), nn.LayerNorm) else tuple(chosen)
    return tuple(names[-STAGES:])


def _evenly(names: Sequence[str]) -> list[str]:
    count = min(STAGES, len(names))
    return [names[math.ceil((step + 1) * len(names) / count) - 1] for step in range(count)]


def _found_stages(model: nn.Module, image_size: int) -> tuple[str, ...]:
    """Of the user's own network: the last map of each size, or evenly spaced outputs where all have one size."""
    seen: list[tuple[str, tuple[int, ...]]] = []
    names = {module: name for name, module in model.named_modules() if name}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple | list) and output else output
        if torch.is_tensor(first) and (first.ndim == 4 or (first.ndim == 3 and first.shape[1] > 1)):
            seen.append((names[module], tuple(first.shape[2:] if first.ndim == 4 else first.shape[1:2])))

    _run_with_hooks(model, image_size, [module.register_forward_hook(note) for module in names])
    last: dict[tuple[int, ...], str] = {}
    for name, size in seen:
        if math.prod(size) > 1:
            last[size] = name
    if len(last) > 1:
        return tuple(last.values())[-STAGES:]
    # one size throughout: the shallowest level of nesting that has enough outputs tells the blocks
    for depth in range(8):
        level = list(dict.fromkeys(name for name, _ in seen if name.count(".") == depth))
        if len(level) >= STAGES:
            return tuple(_evenly(level))
    return tuple(dict.fromkeys(name for name, _ in seen))[-STAGES:]


def _classifier(model: nn.Module, image_size: int) -> str | None:
    """The dotted name of the module that makes the logits; None if it cannot be told."""
    names = {module: name for name, module in model.named_modules()}
    if hasattr(model, "get_classifier"):
        found = cast(Any, model).get_classifier()
        first = found[0] if isinstance(found, tuple | list) else found
        return names.get(first) if isinstance(first, nn.Module) and not isinstance(first, nn.Identity) else None
    linears: list[tuple[str, Tensor]] = []

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        linears.append((names[module], output))

    handles = [module.register_forward_hook(note) for module in names if isinstance(module, nn.Linear)]
    said = _run_with_hooks(model, image_size, handles)
    logits = said[0] if isinstance(said, tuple | list) else said
    return next((name for name, output in reversed(linears) if output.shape == logits.shape), None)


def _run_with_hooks(model: nn.Module, image_size: int, handles: Sequence[Any]) -> Any:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return model(_noise(model, image_size))
    except (RuntimeError, ValueError, TypeError) as problem:
        first = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise TrainError(f"the network does not take images (N, 3, {image_size}, {image_size}): {first}") from None
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode


def _noise(model: nn.Module, image_size: int) -> Tensor:
    """Two images, always the same, where the model is: no two features of them are equal by chance."""
    parameter = next(model.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, image_size, image_size, generator=generator).to(parameter.device, parameter.dtype)


def _reads(head: nn.Linear, grid: Tensor, raw: Tensor, pooled: Tensor | None) -> bool:
    """Whether the classifier's weights make sense at each position of a map."""
    if pooled is None or pooled.ndim != 2 or head.in_features != grid.shape[1]:
        return False
    return raw.ndim == 3 or torch.allclose(grid.mean((2, 3)), pooled, rtol=1e-3, atol=1e-4)
