"""A contact sheet: some images of each class, as a network gets them, on one picture. Floor 3."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kdbench.data.dataset import Dataset
from kdbench.data.splits import order_of
from kdbench.errors import DataError
from kdbench.types import SplitName

if TYPE_CHECKING:
    from kdbench.data.views import Views

# pixels
_MARGIN, _GAP, _ROW_GAP = 28, 4, 22
_TITLE, _NAME, _SMALL = 24, 17, 13
_LABEL_AT_MOST = 240
_LINE = 1.4  # a line of text, of the size of its letters
_SEEN = "as seen in training"
_INK, _GREY, _RULE, _PAPER = (28, 30, 34), (112, 116, 124), (222, 224, 228), (255, 255, 255)

PIXELS_AT_MOST = 200_000_000
"""Of one sheet: 0.6 GB while it is drawn; viewers refuse more."""


@dataclass(frozen=True)
class SheetRow:
    """One class.

    Attributes:
        label: its name.
        count: its images on the chosen side.
        tiles: (n, S, S, 3) uint8, what is shown of it.
        seen: the same images as a network in training sees them; None: not shown.
    """

    label: str
    count: int
    tiles: np.ndarray
    seen: np.ndarray | None = None


def chosen(ids: Sequence[str], indices: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Up to count of the indices, in the order of a hash of (seed, id): more images change few of the choices.

    Of a union its sources take turns, for most of its images may come from one.
    """
    turn: Counter[str] = Counter()
    order: list[tuple[int, str, int]] = []
    for key, index in sorted((order_of(seed, ids[i]), i) for i in indices.tolist()):
        source = ids[index].partition("/")[0]
        order.append((turn[source], key, index))
        turn[source] += 1
    return np.asarray([index for *_, index in sorted(order)[:count]], dtype=np.int64)


def sheet_rows(
    data: Dataset, *, per_class: int = 8, side: SplitName | None = None, seed: int = 0, views: Views | None = None
) -> list[SheetRow]:
    """A row for each class, in the order of the classes; one without images too.

    Args:
        per_class: images of each class, at most.
        side: None: all sides together.
        seed: of the choice.
        views: makes values in [0, 1] of images; each is then also shown as it is seen in epoch 0.
    """
    within = np.sort(np.concatenate(list(data.splits.values()))) if side is None else data.splits[side]
    rows: list[SheetRow] = []
    for number, label in enumerate(data.classes):
        own = within[data.labels[within] == number]
        picked = chosen(data.ids, own, per_class, seed)
        tiles = data.images(picked)
        seen = None
        if views is not None:
            values = views(tiles, picked, 0).clamp(0, 1).mul(255).round()
            seen = values.permute(0, 2, 3, 1).numpy().astype(np.uint8)
        rows.append(SheetRow(label, len(own), tiles, seen))
    return rows


def draw_sheet(rows: Sequence[SheetRow], title: str, subtitle: str = "") -> Image.Image:
    """Draw the rows below each other, under a title; the same rows give the same pixels.

    Raises: DataError if the picture would be larger than PIXELS_AT_MOST.
    """
    # Pillow's own letters: the same on every machine, whatever fonts it has
    large, middle, small = (ImageFont.load_default(size) for size in (_TITLE, _NAME, _SMALL))
    size = max((row.tiles.shape[1] for row in rows), default=0)
    columns = max((len(row.tiles) for row in rows), default=0)
    names = [_shortened(row.label, middle) for row in rows]
    counts = [f"{row.count:,} {'image' if row.count == 1 else 'images'}" for row in rows]
    beside = [*counts, *(_SEEN for row in rows if row.seen is not None)]
    label = max([0.0, *(middle.getlength(name) for name in names), *(small.getlength(text) for text in beside)])
    left = _MARGIN + round(label) + _MARGIN
    top = _MARGIN + round(_LINE * _TITLE) + (round(_LINE * _SMALL) if subtitle else 0) + _ROW_GAP
    first = max(size, round(_LINE * (_NAME + _SMALL)))  # tiny images must leave room for the name and the count
    second = max(size, round(_LINE * _SMALL)) + _GAP
    heights = [first + (second if row.seen is not None else 0) for row in rows]
    text = max(large.getlength(title), small.getlength(subtitle))
    width = max(left + columns * (size + _GAP) - _GAP, _MARGIN + round(text)) + _MARGIN
    height = top + sum(heights) + _ROW_GAP * max(0, len(rows) - 1) + _MARGIN
    if width * height > PIXELS_AT_MOST:
        raise DataError(
            f"the sheet would be {width:,} x {height:,} pixels; show fewer images of each class, or smaller ones"
        )
    picture = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, _MARGIN), title, _INK, large)
    draw.text((_MARGIN, _MARGIN + round(_LINE * _TITLE)), subtitle, _GREY, small)
    for row, name, count, row_height in zip(rows, names, counts, heights, strict=True):
        rule = top - _ROW_GAP // 2
        draw.line((_MARGIN, rule, width - _MARGIN, rule), _RULE)
        draw.text((_MARGIN, top), name, _INK, middle)
        draw.text((_MARGIN, top + round(_LINE * _NAME)), count, _GREY, small)
        for line, tiles in enumerate((row.tiles, row.seen)):
            below = top + line * (first + _GAP)
            for column, tile in enumerate(tiles if tiles is not None else ()):
                at = left + column * (size + _GAP)
                draw.rectangle((at - 1, below - 1, at + size, below + size), outline=_RULE)  # of an image on white too
                picture.paste(Image.fromarray(tile), (at, below))
            if line and tiles is not None and len(tiles):
                draw.text((_MARGIN, below + (size - _SMALL) // 2), _SEEN, _GREY, small)
        top += row_height + _ROW_GAP
    return picture


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """A name that fits beside the images."""
    if font.getlength(text) <= _LABEL_AT_MOST:
        return text
    while text and font.getlength(f"{text}...") > _LABEL_AT_MOST:
        text = text[:-1]
    return f"{text}..."
