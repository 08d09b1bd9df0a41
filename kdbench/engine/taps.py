"""Looking into a network while it runs: its logits, what its classifier sees, and a map of each stage. Floor 4.

Works for every model of timm (which says where its stages end) and for the user's own modules (whose stages are found
by watching one image pass through).
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kdbench.errors import TrainError
from kdbench.features import STAGES, Anatomy, Need, Outputs, to_grid

_LOOKED_AT = 2  # images that are passed through to learn the shapes
_MOST_PREFIX_TOKENS = 8  # a class, a distillation and a few register tokens


class Watched:
    """A network whose inner outputs are kept for one call at a time.

    The network itself is not changed: hooks listen during a call and are gone after it, whatever happens in it. Only a
    DeiT whose distillation token is asked for answers with both tokens in training, until `close`.

    Args:
        model: logits (N, K) of images (N, 3, S, S).
        image_size: S, pixels; two images of noise are passed through, in evaluation mode, to learn the shapes.
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
        self._call = model if call is None else call
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
        self.anatomy = self._look(image_size)
        self._distilled_before = bool(getattr(model, "distilled_training", False))
        if "token" in self.needs and hasattr(model, "set_distilled_training"):
            cast(Any, model).set_distilled_training(True)

    def __call__(self, pixels: Tensor) -> Outputs:
        """Run the network on images (N, 3, S, S)."""
        with self._listening(self.needs, len(pixels)):
            said = self._call(pixels)
            pooled, stages = self._kept.get("pooled"), self._stages()
        # a DeiT in training speaks twice, its class token, which the labels teach, first; others may have more to say
        logits, *more = said if isinstance(said, tuple | list) else (said,)
        token = more[0] if more and "token" in self.needs else None
        # flat: a classifier may be a 1x1 convolution
        return Outputs(logits, pooled.flatten(1) if pooled is not None else None, stages, token)

    def asked_for(self, needs: Iterable[Need]) -> Watched:
        """The same network watched for something else, short of a token; nothing is looked for again."""
        other = copy.copy(self)
        other.needs, other._kept = frozenset(needs) - {"token"}, {}
        return other

    def close(self) -> None:
        """Leave the network as it was."""
        if "token" in self.needs and hasattr(self.model, "set_distilled_training"):
            cast(Any, self.model).set_distilled_training(self._distilled_before)

    @contextlib.contextmanager
    def _listening(self, needs: Iterable[str], images: int) -> Iterator[None]:
        """Keep what is needed of the call inside; afterwards neither hooks nor tensors are left behind."""

        def keep(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                self._kept[name] = _map_of(output, images)

            return hook

        def keep_input(module: nn.Module, inputs: Any) -> None:
            self._kept["pooled"] = inputs[0]

        wanted = self._taps if "stages" in needs else self._taps[-1:] if "last" in needs else ()
        handles = [self.model.get_submodule(name).register_forward_hook(keep(name)) for name in wanted]
        if "pooled" in needs and self._classifier is not None:
            handles.append(self.model.get_submodule(self._classifier).register_forward_pre_hook(keep_input))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._kept.clear()  # a graph held here would live until the next call

    def _stages(self) -> tuple[Tensor, ...]:
        return tuple(self._as_grid(self._kept[name], name) for name in self._taps if name in self._kept)

    def _as_grid(self, output: Any, name: str) -> Tensor:
        dimensions = output.ndim if torch.is_tensor(output) else 0
        if dimensions == 4:
            return output if _channels_first(output, self._channels_first) else output.permute(0, 3, 1, 2)
        if dimensions == 3:
            return to_grid(output, *self._layout(output.shape[1]))
        what = f"shape {tuple(output.shape)}" if torch.is_tensor(output) else f"a {type(output).__name__}"
        raise TrainError(f"'{name}' gives {what}: neither a map nor tokens; tap another module")

    def _layout(self, tokens: int) -> tuple[int, tuple[int, int]]:
        """(prefix tokens, grid) of so many tokens: some transformers add their class token in the last blocks only."""
        if self._grid is not None and 0 <= tokens - math.prod(self._grid) <= _MOST_PREFIX_TOKENS:
            return tokens - math.prod(self._grid), self._grid
        side = math.isqrt(tokens)
        return tokens - side * side, (side, side)

    def _look(self, image_size: int) -> Anatomy:
        images = _noise(self.model, image_size)
        with _looking(self.model, image_size), self._listening({"pooled", "stages"}, len(images)):
            # with its norms shaken: one that does nothing at first would be taken for none
            said = functional_call(self.model, _shaken(self.model, self._classifier), (images,))
            logits = said[0] if isinstance(said, tuple | list) else said
            kept, stages = dict(self._kept), self._stages()
            if logits.ndim != 2:
                raise TrainError(f"the network gives shape {tuple(logits.shape)}; logits (N, K) are needed")
            pooled = kept.get("pooled")
            head = self.model.get_submodule(self._classifier) if self._classifier is not None else None
            if not isinstance(head, nn.Linear) or pooled is None or not _alike(head(pooled), logits):
                head = None  # the logits are more than that layer's: the mean of two heads, as of a DeiT
        last = self._taps[-1] if self._taps else ""
        return Anatomy(
            classes=logits.shape[1],
            pooled=pooled.flatten(1).shape[1] if pooled is not None else 0,
            stages=tuple((stage.shape[1], stage.shape[2], stage.shape[3]) for stage in stages),
            head=head,
            reads_last=head is not None and bool(stages) and _reads(head, stages[-1], kept[last], pooled),
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
    # a list is never called itself, so nothing could be heard of it
    if not entries or any(isinstance(modules[entry["module"]], nn.ModuleList) for entry in entries):
        return _found_stages(model, image_size)
    # an emptied stage (a ResNet with fewer than four) hands on the map of the one before
    names = [entry["module"] for entry in entries if any(True for _ in modules[entry["module"]].children())
             or not isinstance(modules[entry["module"]], nn.Sequential)]  # fmt: skip
    reductions = {entry.get("reduction") for entry in entries}
    if len(reductions) == 1:  # the blocks of a transformer
        chosen = _evenly(names)
        return (*chosen[:-1], "norm") if isinstance(modules.get("norm"), nn.LayerNorm) else tuple(chosen)
    return tuple(names[-STAGES:])


def _evenly(names: Sequence[str]) -> list[str]:
    count = min(STAGES, len(names))
    return [names[math.ceil((step + 1) * len(names) / count) - 1] for step in range(count)]


def _found_stages(model: nn.Module, image_size: int) -> tuple[str, ...]:
    """Of the user's own network: a map of each size, or evenly spaced outputs where all have one size.

    Of the outputs of one size it is that of the largest part, for what comes after may be a step inside the next block;
    of the smallest size it is the last that lies no deeper, as its classifier sees it.
    """
    names = {module: name for name, module in model.named_modules() if name}
    parts = {name: sum(1 for _ in module.modules()) for module, name in names.items()}
    seen: dict[str, tuple[int, int]] = {}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        size = _size_of(_map_of(output, _LOOKED_AT))
        seen.pop(names[module], None)  # of what is called again, as a ReLU for all, only the last call is kept
        if size is not None:
            seen[names[module]] = size

    _run_with_hooks(model, image_size, [module.register_forward_hook(note) for module in names])
    by_size: dict[tuple[int, int], list[str]] = {}
    for name, size in seen.items():
        by_size.setdefault(size, []).append(name)
    order = list(seen)
    largest = {max(alike, key=lambda name: (parts[name], order.index(name))): size for size, alike in by_size.items()}
    chosen: list[str] = []
    for name in sorted(largest, key=order.index):
        if not chosen or math.prod(largest[name]) < math.prod(largest[chosen[-1]]):  # none is blown up again
            chosen.append(name)
    if not chosen:
        return ()
    nesting = chosen[-1].count(".")
    last = [name for name in by_size[largest[chosen[-1]]] if name.count(".") <= nesting][-1]
    if len(chosen) > 1:
        return (*chosen[-STAGES:-1], last)
    # one size throughout: the shallowest level of nesting that has enough blocks
    for depth in range(8):
        level = [name for name in order if name.count(".") == depth and parts[name] > 1]
        if len(level) >= STAGES:
            return (*_evenly(level)[:-1], last)
    return tuple(_evenly(order))


def _map_of(output: Any, images: int) -> Any:
    """Of several outputs the first with a row for each image."""
    parts = output if isinstance(output, tuple | list) and output else (output,)
    return next((part for part in parts if torch.is_tensor(part) and part.ndim and len(part) == images), parts[0])


def _size_of(output: Any) -> tuple[int, int] | None:
    """(H, W) of a map, or of the grid of tokens; None if it is neither, not square, or a single position."""
    if not torch.is_tensor(output) or output.ndim not in (3, 4) or len(output) != _LOOKED_AT:
        return None
    if output.ndim == 3:
        side = math.isqrt(output.shape[1])
        size = (side, side)
    else:
        first = 2 if _channels_first(output, True) else 1
        size = (output.shape[first], output.shape[first + 1])
    return size if size[0] == size[1] > 1 else None


def _channels_first(grid: Tensor, otherwise: bool) -> bool:
    """Whether a map is (N, C, H, W) and not (N, H, W, C): of square images it is square, if that tells them apart."""
    first, last = grid.shape[2] == grid.shape[3], grid.shape[1] == grid.shape[2]
    return otherwise if first == last else first


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
    try:
        with _looking(model, image_size):
            return model(_noise(model, image_size))
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _looking(model: nn.Module, image_size: int) -> Iterator[None]:
    """Evaluation mode without gradient; modes and random state are as before afterwards. Raises: TrainError."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    except (RuntimeError, ValueError, TypeError, AssertionError) as problem:
        first = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise TrainError(f"the network does not take images (N, 3, {image_size}, {image_size}): {first}") from None
    finally:
        for module, mode in modes:
            module.training = mode


def _noise(model: nn.Module, image_size: int) -> Tensor:
    """Two images, always the same, where the model is: no two features of them are equal by chance."""
    parameter = next(model.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    shape = (_LOOKED_AT, 3, image_size, image_size)
    return torch.randn(shape, generator=generator).to(parameter.device, parameter.dtype)


def _shaken(model: nn.Module, classifier: str | None) -> dict[str, Tensor]:
    """The scales and biases of a network, less its classifier's, all somewhat other than they are."""
    generator = torch.Generator().manual_seed(1)

    def other(value: Tensor) -> Tensor:
        by, more = (0.2 * torch.randn(value.shape, generator=generator).to(value.device, value.dtype) for _ in range(2))
        return value * (1 + by) + more

    return {
        name: other(value.detach())
        for name, value in model.named_parameters()
        if value.ndim < 2 and value.is_floating_point() and not name.startswith(f"{classifier}.")
    }


def _alike(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and torch.allclose(left, right, rtol=1e-3, atol=1e-4)


def _reads(head: nn.Linear, grid: Tensor, raw: Tensor, pooled: Tensor | None) -> bool:
    """Whether the classifier's weights make sense at each position of a map: it sees their mean, or a token of them."""
    if pooled is None or head.in_features != grid.shape[1]:
        return False
    seen = [grid.mean((2, 3))]
    if raw.ndim == 3:
        seen += raw[:, : raw.shape[1] - grid.shape[2] * grid.shape[3]].unbind(1)
    return any(_alike(one, pooled) for one in seen)
