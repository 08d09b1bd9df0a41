"""A data set out of what is in memory already: arrays, or any torch data set of images and labels."""

from __future__ import annotations

import hashlib
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from kdbench.data.cache import fit_image
from kdbench.data.dataset import Dataset
from kdbench.data.protocol import PROTOCOLS
from kdbench.data.splits import Member, merge_groups, split
from kdbench.data.stain import normalise_stain, quiet, stain_caveats
from kdbench.errors import ConfigError, DataError
from kdbench.types import DataCard, DatasetSpec, Fit, SplitName, content_id


def from_arrays(
    images: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    *,
    classes: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    splits: Sequence[SplitName] | None = None,
    name: str = "arrays",
    **settings: Any,
) -> Dataset:
    """A data set of images in memory.

    Args:
        images: (N, S, S, 3) uint8, RGB; augmentation and normalisation are kdbench's.
        labels: (N,) integers, 0 to K - 1.
        classes: names of the K labels; None: "0", "1" ...
        groups: images of one group (a patient, a slide) stay on one side of the split; equal images do in any case.
        splits: the side of each image; None: split by the settings, stratified by label.
        name: what tables call it.
        settings: of `DatasetSpec`: val_fraction, test_fraction, split_seed, train_limit, stain.
    Raises: DataError if shapes or values do not fit; SplitLeak if a group was given to two sides.
    """
    images = np.asarray(images)
    given = np.asarray(labels)
    if images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2] or images.dtype != np.uint8:
        raise DataError(
            f"images are {images.dtype} of shape {images.shape}; (N, S, S, 3) uint8 is needed: RGB, square, as decoded"
        )
    if given.shape != (len(images),) or not np.issubdtype(given.dtype, np.integer):
        raise DataError(f"labels are {given.dtype} of shape {given.shape}; {len(images)} integers are needed")
    given = given.astype(np.int64)  # unsigned ones, as of many files, know no -1
    count = int(given.max(initial=-1)) + 1 if classes is None else len(classes)
    if not len(given) or given.min() < 0 or given.max() >= count or count < 2:
        raise DataError(
            f"labels go from {given.min(initial=0)} to {given.max(initial=0)}; 0 to {max(count, 2) - 1} is needed"
        )
    names = tuple(classes) if classes is not None else tuple(str(number) for number in range(count))
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise DataError(f"the class '{twice[0]}' is named twice; give each label a name of its own")
    for what, values in (("groups", groups), ("splits", splits)):
        if values is not None and len(values) != len(images):
            raise DataError(f"{len(values)} {what} are given for {len(images)} images; one for each is needed")
    if splits is not None and (unknown := sorted(set(splits) - {"train", "val", "test"})):
        raise DataError(f"splits has '{unknown[0]}'; train, val and test are known")

    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    ids = tuple(f"{number:07d}" for number in range(len(images)))
    keys = [
        (digest, f"group {groups[number]}") if groups is not None else (digest,)
        for number, digest in enumerate(digests)
    ]
    first = merge_groups(keys)
    members = [
        Member(ids[i], names[given[i]], names[given[i]], ids[first[i]], splits[i] if splits is not None else None)
        for i in range(len(images))
    ]
    if foreign := sorted(set(settings) & set(DatasetSpec.model_fields) - _SETTINGS):
        known = ", ".join(sorted(_SETTINGS))
        raise ConfigError([f"data set '{name}': {foreign[0]} is no setting of images in memory; known: {known}"])
    spec = _spec(name, image_size=images.shape[1], **settings)
    spec = spec.model_copy(update={"content": content_id([digests, given.tolist(), list(names)])})
    sides = split(members, spec)
    counts = {
        side: {names[label]: int(n) for label, n in sorted(Counter(given[indices].tolist()).items())}
        for side, indices in sides.items()
    }
    copies = Counter(digests)
    kept: list[str] = []
    if spec.stain != "none":
        with quiet():
            brought = [normalise_stain(image, spec.stain) for image in images]
        images, kept = np.stack([image for image, _ in brought]), [why for _, why in brought if why]
    return Dataset(
        spec=spec,
        classes=names,
        labels=given,
        ids=ids,
        groups=tuple(member.group for member in members),
        splits=sides,
        card=DataCard(
            name=name,
            sources={name: len(images)},
            classes=names,
            splits=counts,
            content_hash=spec.content,
            duplicates=sum(n for n in copies.values() if n > 1),
            protocol=PROTOCOLS.get("stratified-grouped").label,
            independent={side: len({members[index].group for index in indices}) for side, indices in sides.items()},
            caveats=tuple(stain_caveats(spec.stain, {name: kept})),
        ),
        _arrays=(images,),
        _array=np.zeros(len(images), dtype=np.int64),
        _row=np.arange(len(images), dtype=np.int64),
    )


_SETTINGS = frozenset({"val_fraction", "test_fraction", "split_seed", "train_limit", "stain", "fit", "crop_fraction"})


def from_torch(dataset: Any, image_size: int, *, fit: Fit = "crop", **more: Any) -> Dataset:
    """A data set of the items of a torch data set (torchvision's ImageFolder, CIFAR ...).

    Args:
        dataset: has a length and gives (image, label): a PIL image, or uint8 of shape (H, W, 3) or (3, H, W); without
            transforms that normalise. Its attribute `classes`, where it has one, names the labels.
        image_size: pixels, both sides.
        fit: crop, stretch or pad, as in `DatasetSpec`.
        more: as in `from_arrays`.
    Raises: DataError, naming the item that does not fit.
    """
    crop = {"crop_fraction": more["crop_fraction"]} if "crop_fraction" in more else {}
    spec = _spec(more.get("name", "items"), image_size=image_size, fit=fit, **crop)
    images = np.empty((len(dataset), image_size, image_size, 3), dtype=np.uint8)
    labels = np.empty(len(dataset), dtype=np.int64)
    for number in range(len(dataset)):
        try:
            image, label = dataset[number]
            labels[number] = operator.index(label)
        except (TypeError, ValueError) as problem:
            raise DataError(f"item {number} is no (image, label) with a whole number as label: {problem}") from None
        images[number] = fit_image(_as_image(image, number), spec)
    found = more.pop("classes", None) or getattr(dataset, "classes", None)
    names = list(found) if isinstance(found, Mapping | list | tuple) else None
    return from_arrays(images, labels, classes=names, **more)


def _spec(name: str, **settings: Any) -> DatasetSpec:
    try:
        return DatasetSpec(name=name, **settings)
    except ValidationError as invalid:
        problems = [
            f"data set '{name}', {'.'.join(map(str, error['loc']))}: {error['msg']}, not {error['input']!r}"
            for error in invalid.errors()
        ]
        raise ConfigError(problems) from None


def _as_image(image: Any, number: int) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[2] != 3 and pixels.shape[0] == 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise DataError(
            f"item {number} is {pixels.dtype} of shape {pixels.shape}; give PIL images or uint8 pixels, before "
            "ToTensor and Normalize: kdbench augments and normalises itself"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))
