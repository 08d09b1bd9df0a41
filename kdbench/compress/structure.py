"""A pruned network's structure, read off the shapes of its tensors. Floor 4.

So a pruned network is stored as any other one: a file of tensors beside the spec that built it, and no pickled code.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdbench.errors import ConfigError

Shape = tuple[int, ...]

_SHOWN = 3
"""Problems that a message names; the file of another architecture has hundreds."""


def fit_structure(network: nn.Module, shapes: Mapping[str, Shape]) -> nn.Module:
    """A copy of a freshly built network, as narrow as the tensors of a pruned one.

    The values are those of the first channels of the given network: the pruned ones are to be loaded over them. What
    modules remember of their sizes (channels, groups, heads) follows the shapes. Shapes of the whole network leave it
    as it is. The memory this takes is never more than the given network's, whatever the shapes are.

    Args:
        network: of the architecture that was pruned, built as it was before; it stays as it is.
        shapes: of every tensor of the pruned network's state dict.
    Raises: ConfigError if a tensor is missing or unexpected, is larger than the architecture's own, or is of a shape
        that its layer cannot have.
    """
    wanted = {name: tuple(shape) for name, shape in shapes.items()}
    problems = _misfits({name: tuple(value.shape) for name, value in network.state_dict().items()}, wanted)
    _refuse(problems)
    fitted = copy.deepcopy(network)
    outputs = classifiers(fitted)
    for name, module in fitted.named_modules():
        _fit_module(module, f"{name}." if name else "", wanted, module in outputs, problems)
    _refuse(problems)
    for name, module in fitted.named_modules():
        _fit_memory(module, name, problems)
    _refuse(problems)
    return fitted


def classifiers(network: nn.Module) -> tuple[nn.Linear | nn.Conv2d, ...]:
    """The layers that give the logits, of a network that names them as timm's do; none of any other."""
    named = getattr(network, "get_classifier", None)
    found = named() if callable(named) else ()
    layers: Iterable[object] = found if isinstance(found, tuple | list | nn.ModuleList) else (found,)
    return tuple(layer for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d))


def attention_heads(module: nn.Module) -> bool:
    """Whether heads can leave a module: attention as timm writes it, whose parts know of heads and nothing else."""
    sizes = all(isinstance(getattr(module, name, None), int) for name in ("num_heads", "head_dim", "attn_dim"))
    layers = all(isinstance(getattr(module, name, None), nn.Linear) for name in ("qkv", "proj"))
    if not (sizes and layers) or any(True for _ in module.parameters(recurse=False)):
        return False
    whole = module.qkv.out_features == 3 * module.attn_dim == 3 * module.num_heads * module.head_dim  # type: ignore[operator, union-attr]
    # a norm over all heads, or a gate for each of their channels, would have to be cut as well
    plain = isinstance(getattr(module, "norm", nn.Identity()), nn.Identity) and getattr(module, "gate", None) is None
    return bool(whole and plain)


def depthwise(module: nn.Module) -> bool:
    """Whether a convolution has one filter for each channel."""
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels


def _misfits(own: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> list[str]:
    """What is wrong with shapes before any layer is looked at."""
    problems = [f"tensor '{name}' is missing" for name in own if name not in wanted]
    problems += [f"tensor '{name}' is no part of the architecture" for name in wanted if name not in own]
    for name in own.keys() & wanted.keys():
        shape, most = wanted[name], own[name]
        fits = len(shape) == len(most) and all(
            isinstance(size, int) and 0 < size <= limit for size, limit in zip(shape, most, strict=True)
        )
        if not fits and shape != most:
            problems.append(f"'{name}' has shape {shape}; the architecture has {most}, and pruning only makes it less")
    return sorted(problems)


def _refuse(problems: list[str]) -> None:
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        where = "the weights do not fit the architecture; load them into the network that was pruned"
        raise ConfigError([*problems[:_SHOWN], *more], where)


def _fit_module(module: nn.Module, prefix: str, wanted: Mapping[str, Shape], output: bool, problems: list[str]) -> None:
    """Cut the tensors that a module holds itself, and tell it."""
    held: dict[str, Tensor] = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers("", False))}
    new = {name: wanted[prefix + name] for name in held if prefix + name in wanted}
    if all(tuple(held[name].shape) == shape for name, shape in new.items()):
        return
    reason = "the classifier has a row for each class" if output and new["weight"][0] != len(held["weight"]) else ""
    reason = reason or _fit_sizes(module, {name: tuple(held[name].shape) for name in new}, new)
    if reason:
        layer = prefix.removesuffix(".") or type(module).__name__
        problems.append(
            f"'{layer}' cannot have {', '.join(f'{name} {shape}' for name, shape in new.items())}: {reason}"
        )
        return
    for name, shape in new.items():
        _cut(module, name, shape)


def _cut(module: nn.Module, name: str, shape: Shape) -> None:
    old = getattr(module, name)
    value = old.detach()[tuple(slice(size) for size in shape)].clone()
    if name in module._parameters:
        module._parameters[name] = nn.Parameter(value, requires_grad=old.requires_grad)
    else:
        module._buffers[name] = value


def _fit_sizes(module: nn.Module, own: Mapping[str, Shape], new: Mapping[str, Shape]) -> str:
    """Set what a module remembers of its sizes; what is wrong with them, or nothing."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        weight = new["weight"]
        if "bias" in new and new["bias"] != weight[:1]:
            return "weight and bias disagree"
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight
            return ""
        if weight[2:] != own["weight"][2:]:
            return "pruning leaves the kernel as it is"
        if depthwise(module):
            module.groups = module.in_channels = module.out_channels = weight[0]
        elif module.groups != 1:
            return f"its {module.groups} groups stay as they are"
        else:
            module.out_channels, module.in_channels = weight[:2]
        return ""
    if isinstance(module, _BatchNorm | nn.LayerNorm | nn.GroupNorm | nn.PReLU):
        sizes = {shape for shape in new.values() if shape}
        if len(sizes) != 1 or len(next(iter(sizes))) != 1:
            return "its tensors disagree"
        return _fit_norm(module, next(iter(sizes))[0])
    for name, shape in own.items():
        # a position embedding, a class token, a scale for each channel: the channels stand last
        if name in dict(module.named_buffers("", False)) or new[name][:-1] != shape[:-1]:
            return f"nothing is known of how a {type(module).__name__} can be pruned"
    return ""


def _fit_norm(module: nn.Module, size: int) -> str:
    if isinstance(module, _BatchNorm):
        module.num_features = size
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = (size,)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = size
    elif isinstance(module, nn.GroupNorm):
        if module.num_groups != 1:
            return f"its {module.num_groups} groups stay as they are"
        module.num_channels = size
    return ""


def _fit_memory(module: Any, name: str, problems: list[str]) -> None:
    """Tell the modules that remember a size of the layers inside them."""
    if type(module).__name__ == "GhostModule":  # timm's cuts its output to this size
        primary, cheap = module.primary_conv[0], module.cheap_operation[0]
        module.out_chs = min(module.out_chs, primary.out_channels + cheap.out_channels)
    heads, head_dim = getattr(module, "num_heads", None), getattr(module, "head_dim", None)
    layers: Any = getattr(module, "qkv", None), getattr(module, "proj", None)
    if not (isinstance(heads, int) and isinstance(head_dim, int) and all(isinstance(one, nn.Linear) for one in layers)):
        return
    rows, columns = layers[0].out_features, layers[1].in_features
    if rows == 3 * heads * head_dim and columns == heads * head_dim:
        return
    if rows % (3 * head_dim) or rows != 3 * columns:
        problems.append(f"'{name}' cannot have {rows} rows of qkv and {columns} columns of proj: heads of {head_dim}")
        return
    module.num_heads, module.attn_dim = columns // head_dim, columns
