"""Synthetic leukocytes: a generator of stained-smear fields with one of five cell types, for use without any download.

An image is built in three steps. A morphology function says what the cell is made of (`Cell`: sizes in pixels, dye
densities). `_paint` turns that, with red cells and platelets around it, into three planes of dye density. `_develop`
looks at the planes through a microscope: absorption, uneven light, focus blur and sensor noise.

Every pixel comes from additions, multiplications, divisions and square roots, which IEEE 754 rounds alike everywhere;
sin, exp, normal deviates and matrix products do not, so their places are taken by rational stand-ins. That keeps the
bytes of an image, and so the content of a data set, equal from machine to machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdbench.data.labels import LEUKOCYTES
from kdbench.data.source import SOURCES, Item, Listing, Source
from kdbench.errors import BadImage, ConfigError
from kdbench.seeding import derive
from kdbench.types import Scalar

Plane = NDArray[np.float32]
Segment = tuple[float, float, float, float, float]
"""A thick line of a nucleus: x0, y0, x1, y1 and its half width, in pixels from the middle of the cell."""
Dyes = tuple[float, float, float]
"""Densities of (azure, eosin, blue): 1 is the full strength of `DYES`."""

SIZE = 96
"""Side of an image in pixels; about 4 pixels are 1 micrometre, so a red cell of 7.5 micrometres is 30 pixels wide."""

DYES = (
    (0.80, 1.30, 0.42),  # azure on DNA and on basophil granules: purple
    (0.12, 0.62, 0.58),  # eosin on haemoglobin and on eosinophil granules: red
    (0.75, 0.52, 0.14),  # azure on RNA, in the cytoplasm of lymphocytes and monocytes: blue
)
"""Optical density (natural logarithm) of each dye at density 1 in red, green and blue light."""

MIN_COUNT, MAX_COUNT = 50, 1_000_000
"""Of images: fewer cannot be split into five classes, more would not fit the six digits of an id."""

_MARGIN = 24
"""Pixels around the image in which red cells and platelets may lie, so that some are cut by its border."""


@dataclass(frozen=True)
class Granules:
    """Grains in the cytoplasm.

    Attributes:
        count: how many are thrown at the cell; those outside its outline do not show.
        radius: mean, in pixels.
        dyes: what one grain adds.
        over_nucleus: part of it that shows in front of the nucleus, in [0, 1].
    """

    count: int
    radius: float
    dyes: Dyes
    over_nucleus: float


@dataclass(frozen=True)
class Cell:
    """What a leukocyte is made of, before rotation and stain.

    Attributes:
        radius: of the outline, in pixels.
        nucleus: its parts; they merge where they overlap.
        chromatin: azure density of the nucleus.
        clumping: relative contrast of the chromatin's texture, in [0, 1].
        cytoplasm: dye densities.
        granules: of one or more kinds.
        vacuoles: number of clear bubbles in the cytoplasm.
    """

    radius: float
    nucleus: tuple[Segment, ...]
    chromatin: float
    clumping: float
    cytoplasm: Dyes
    granules: tuple[Granules, ...] = ()
    vacuoles: int = 0


@dataclass(frozen=True)
class Options:
    """The options of the source, checked."""

    count: int
    seed: int
    difficulty: float


# ---------------------------------------------------------------- chance and angles


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Uniform in [low, high). Not rng.uniform, whose multiply-add may be fused on some machines."""
    return low + (high - low) * float(rng.random())


def _below(rng: np.random.Generator, bound: int) -> int:
    """Uniform in 0 .. bound - 1."""
    return int(rng.random() * bound)


def _mix(typical: float, odd: float, share: float) -> float:
    """The value at share (0: typical, 1: odd)."""
    return typical + (odd - typical) * share


def _direction(turns: float) -> tuple[float, float]:
    """A unit vector at about this angle, in turns: parabolas in place of sine and cosine, then set to length 1."""

    def wave(phase: float) -> float:
        phase -= math.floor(phase)
        return 16 * phase * (0.5 - phase) if phase < 0.5 else -16 * (phase - 0.5) * (1 - phase)

    x, y = wave(turns + 0.25), wave(turns)
    length = math.sqrt(x * x + y * y)
    return x / length, y / length


# ---------------------------------------------------------------- the five morphologies


def _lobes(rng: np.random.Generator, count: int, reach: float, size: float, neck: float) -> tuple[Segment, ...]:
    """Nuclear lobes strung on an arc around the middle of the cell.

    Args:
        count: of lobes.
        reach: distance of the lobes from the middle, in pixels.
        size: mean radius of a lobe, in pixels.
        neck: half width of the strands between neighbours, in pixels.
    """
    step = _between(rng, 0.20, 0.27) if count > 2 else _between(rng, 0.30, 0.46)  # turns from one lobe to the next
    parts: list[Segment] = []
    previous: tuple[float, float] | None = None
    for number in range(count):
        along_x, along_y = _direction(step * number + _between(rng, -0.04, 0.04))
        distance = reach * _between(rng, 0.75, 1.2)
        x, y = distance * along_x, distance * along_y
        tilt_x, tilt_y = _direction(step * number + 0.25 + _between(rng, -0.12, 0.12))  # lobes lie along the arc
        half = size * _between(rng, 0.1, 0.7)
        width = size * _between(rng, 0.8, 1.1)
        parts.append((x - half * tilt_x, y - half * tilt_y, x + half * tilt_x, y + half * tilt_y, width))
        if previous is not None:
            parts.append((*previous, x, y, neck))
        previous = (x, y)
    return tuple(parts)


def _band(span: float, bend: float, width: float, shift: float = 0.0) -> tuple[Segment, ...]:
    """A bent band: kidney, horseshoe, or, with little span, almost a disc.

    Args:
        span: length of the arc, in turns.
        bend: radius of the arc, in pixels.
        width: half width of the band, in pixels.
        shift: moves the band towards its back, in pixels.
    """
    nodes = [_direction(span * (number / 4 - 0.5)) for number in range(5)]
    points = [(bend * x - shift, bend * y) for x, y in nodes]
    return tuple((*start, *end, width) for start, end in pairwise(points))


def _snake(rng: np.random.Generator, reach: float, width: float) -> tuple[Segment, ...]:
    """An S-shaped nucleus; reach is half its length and width half its thickness, in pixels."""
    swing = reach * _between(rng, 0.3, 0.75)
    points = [(-reach, swing), (-reach * 0.25, swing), (reach * 0.25, -swing), (reach, -swing)]
    return tuple((*start, *end, width * _between(rng, 0.8, 1.15)) for start, end in pairwise(points))


def _neutrophil(rng: np.random.Generator, oddity: float) -> Cell:
    """Segmented nucleus, pale pink cytoplasm with fine grains. Odd: two lobes or a band, coarse reddish grains."""
    radius = _between(rng, 24, 30)
    if oddity > 0.55 and rng.random() < 0.35:
        nucleus = _band(_between(rng, 0.45, 0.65), radius * 0.42, radius * _between(rng, 0.18, 0.25))
    else:
        count = 2 if oddity > 0.35 and rng.random() < 0.5 else 3 + _below(rng, 3)
        size = radius * (0.36 if count == 2 else 0.33 - 0.025 * count + 0.04)
        nucleus = _lobes(rng, count, radius * 0.45, size, _mix(1.1, 3.6, oddity * float(rng.random())))
    toxic = oddity * float(rng.random())
    grains = Granules(
        count=int(_between(rng, 90, 150)),
        radius=_mix(0.8, 1.5, toxic),
        dyes=(_mix(0.08, 0.3, toxic * float(rng.random())), _mix(0.12, 0.5, toxic * float(rng.random())), 0.0),
        over_nucleus=0.2,
    )
    return Cell(radius, nucleus, _between(rng, 1.0, 1.3), 0.28, (0.08, _between(rng, 0.14, 0.26), 0.06), (grains,))


def _eosinophil(rng: np.random.Generator, oddity: float) -> Cell:
    """Two lobes, cytoplasm full of coarse orange-red grains. Odd: few, small and pale grains, or three lobes."""
    radius = _between(rng, 25, 31)
    count = 3 if rng.random() < 0.08 + 0.3 * oddity else 2
    size = radius * (0.38 if count == 2 else 0.29)
    nucleus = _lobes(rng, count, radius * 0.47, size, _mix(1.8, 4.0, float(rng.random())))
    weak = oddity * math.sqrt(rng.random())
    grains = Granules(
        count=int(_mix(_between(rng, 130, 190), 80, weak)),
        radius=_mix(_between(rng, 1.7, 2.2), 1.3, weak),
        dyes=(0.03, _mix(_between(rng, 0.95, 1.2), 0.22, weak), 0.0),
        over_nucleus=0.25,
    )
    return Cell(radius, nucleus, _between(rng, 0.9, 1.2), 0.25, (0.06, _between(rng, 0.16, 0.32), 0.05), (grains,))


def _basophil(rng: np.random.Generator, oddity: float) -> Cell:
    """Coarse blue-purple grains in front of a pale S-shaped nucleus. Odd: few and paler grains, a lobed nucleus."""
    radius = _between(rng, 22, 28)
    if rng.random() < 0.25 + 0.3 * oddity:
        nucleus = _lobes(rng, 2 + _below(rng, 2), radius * 0.4, radius * 0.33, radius * 0.2)
    else:
        nucleus = _snake(rng, radius * 0.48, radius * 0.3)
    washed_out = oddity * math.sqrt(rng.random())
    grains = Granules(
        count=int(_mix(_between(rng, 55, 110), 8, washed_out)),
        radius=_mix(_between(rng, 2.0, 2.7), 1.5, washed_out),
        dyes=(_mix(_between(rng, 0.8, 1.1), 0.3, washed_out), 0.0, _mix(0.5, 0.2, washed_out)),
        over_nucleus=0.75,
    )
    cytoplasm = (0.16, _between(rng, 0.08, 0.2), _between(rng, 0.08, 0.2))
    return Cell(radius, nucleus, _mix(_between(rng, 0.6, 0.85), 1.1, oddity), 0.25, cytoplasm, (grains,))


def _lymphocyte(rng: np.random.Generator, oddity: float) -> Cell:
    """Small, a dense round nucleus with a thin pale-blue rim. Odd: large, wide rim, indented or looser nucleus."""
    large = oddity * math.sqrt(rng.random())
    radius = _mix(_between(rng, 16, 21), 31, large)
    width = radius * _mix(_between(rng, 0.8, 0.9), 0.62, large * _between(rng, 0.5, 1.0))
    dent = _mix(_between(rng, 0.0, 0.12), 0.45, oddity * float(rng.random()))
    bend = width * dent
    nucleus = _band(0.5, bend, width - 0.8 * bend, _between(rng, -0.3, 1.0) * (radius - width))
    grains = Granules(_below(rng, 9), 1.1, (0.3, 0.25, 0.0), 0.1)  # azurophilic
    return Cell(
        radius,
        nucleus,
        chromatin=_mix(_between(rng, 1.1, 1.4), 0.9, large),
        clumping=_mix(0.25, 0.4, large),
        cytoplasm=(_mix(0.05, 0.12, large), _mix(0.02, 0.06, large), _mix(_between(rng, 0.35, 0.6), 0.3, large)),
        granules=(grains,),
    )


def _monocyte(rng: np.random.Generator, oddity: float) -> Cell:
    """Large, a loose kidney or horseshoe nucleus, grey-blue cytoplasm. Odd: small, a round and denser nucleus."""
    small = oddity * math.sqrt(rng.random())
    radius = _mix(_between(rng, 30, 36), 23, small)
    compact = _mix(_between(rng, 0.0, 0.6), 1.0, oddity * float(rng.random()))  # horseshoe .. kidney .. disc
    bend = radius * _mix(0.42, 0.16, compact)
    width = radius * _mix(0.27, 0.52, compact)
    nucleus = _band(_between(rng, 0.45, 0.62), bend, width, _mix(0.1, -0.1, compact) * radius)
    grains = Granules(int(_between(rng, 30, 90)), 0.9, (0.1, 0.12, 0.0), 0.2)
    return Cell(
        radius,
        nucleus,
        chromatin=_mix(_between(rng, 0.65, 0.9), 1.15, small),
        clumping=_mix(0.5, 0.3, small),
        cytoplasm=(_between(rng, 0.08, 0.16), _between(rng, 0.02, 0.1), _between(rng, 0.2, 0.4)),
        granules=(grains,),
        vacuoles=_below(rng, 6) if rng.random() < 0.5 else 0,
    )


MORPHOLOGIES: Mapping[str, Callable[[np.random.Generator, float], Cell]] = {
    "basophil": _basophil,
    "eosinophil": _eosinophil,
    "lymphocyte": _lymphocyte,
    "monocyte": _monocyte,
    "neutrophil": _neutrophil,
}
"""By label: (rng, oddity) to a cell. Oddity 0 is the textbook, 1 the most confusable cell of the type."""


# ---------------------------------------------------------------- drawing


@lru_cache(maxsize=16)
def _knots(cells: int) -> tuple[NDArray[np.intp], Plane]:
    """For each pixel of a row, the knot to its left in a grid of that many cells, and its smoothed way to the next."""
    position = (np.arange(SIZE, dtype=np.float32) + np.float32(0.5)) * np.float32(cells / SIZE)
    left = position.astype(np.intp)
    way = position - left.astype(np.float32)
    return left, way * way * (3 - 2 * way)


def _cloud(rng: np.random.Generator, cells: int) -> Plane:
    """A smooth random plane, uniform in [-1, 1) at its knots; cells: of its grid along a side."""
    grid = rng.random((cells + 1, cells + 1), dtype=np.float32) * 2 - 1
    left, way = _knots(cells)
    rows = grid[left] + (grid[left + 1] - grid[left]) * way[:, None]
    start = rows[:, left]
    return start + (rows[:, left + 1] - start) * way[None, :]


def _grid(x: float, y: float) -> tuple[Plane, Plane]:
    """Pixel centres as seen from (x, y): a row of x offsets and a column of y offsets, in pixels."""
    line = np.arange(SIZE, dtype=np.float32) + np.float32(0.5)
    return (line - np.float32(x))[None, :], (line - np.float32(y))[:, None]


def _coverage(distance: Plane, softness: float = 1.0) -> Plane:
    """How much of each pixel lies inside an outline, from the signed distance to it (pixels, negative inside)."""
    return np.clip(np.float32(0.5) - distance / np.float32(softness), 0, 1)


def _segment_distance(x: Plane, y: Plane, segment: Segment) -> Plane:
    """Signed distance of every pixel to a thick line, in pixels."""
    x0, y0, x1, y1, width = segment
    run, rise = x1 - x0, y1 - y0
    length2 = run * run + rise * rise + 1e-6  # a line of no length is a disc
    from_x, from_y = x - np.float32(x0), y - np.float32(y0)
    way = np.clip(from_x * np.float32(run / length2) + from_y * np.float32(rise / length2), 0, 1)
    off_x, off_y = from_x - way * np.float32(run), from_y - way * np.float32(rise)
    return np.sqrt(off_x * off_x + off_y * off_y) - np.float32(width)


def _discs(
    x: Plane,
    y: Plane,
    radius: Plane,
    squeeze: Plane,
    strength: Plane,
    pallor: float = 0.0,
    add: bool = False,
) -> Plane:
    """Many small round things at once, each drawn in a patch of its own.

    Args:
        x, y: middles in pixels; those beyond the margin around the image are cut off.
        radius: in pixels.
        squeeze: in (-1, 1); makes an ellipse, its axes along the diagonals.
        strength: value of each at its rim.
        pallor: in [0, 1]; part of the strength that is missing in the middle.
        add: overlapping ones add up; else the strongest shows.
    """
    side = SIZE + 2 * _MARGIN
    plane = np.zeros(side * side, dtype=np.float32)
    if not len(x):
        return plane.reshape(side, side)[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    half = math.ceil(float(radius.max()) * 1.35) + 1
    steps = np.arange(-half, half + 1)
    column, row = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    off_x = (steps + column[:, None] + np.float32(0.5) - x[:, None]).astype(np.float32)[:, None, :]
    off_y = (steps + row[:, None] + np.float32(0.5) - y[:, None]).astype(np.float32)[:, :, None]
    squared = off_x * off_x + off_y * off_y + (squeeze[:, None, None] * off_x) * off_y
    rim = radius[:, None, None]
    value = np.clip(rim + np.float32(0.5) - np.sqrt(squared), 0, 1) * strength[:, None, None]
    if pallor:
        hollow = np.clip(1 - squared / (rim * rim * np.float32(0.5)), 0, 1)
        value = value * (1 - np.float32(pallor) * hollow)
    columns = np.clip(column[:, None] + steps + _MARGIN, 0, side - 1)
    rows = np.clip(row[:, None] + steps + _MARGIN, 0, side - 1)
    where = rows[:, :, None] * side + columns[:, None, :]
    (np.add if add else np.maximum).at(plane, where.ravel(), value.ravel())
    return plane.reshape(side, side)[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]


def _scatter(rng: np.random.Generator, count: int) -> tuple[Plane, Plane]:
    """Points spread evenly over the image and half of its margin."""
    spread = np.float32(SIZE + _MARGIN)
    points = rng.random((2, count), dtype=np.float32) * spread - np.float32(_MARGIN / 2)
    return points[0], points[1]


def _spread(rng: np.random.Generator, count: int, low: float, high: float) -> Plane:
    """Uniform values in [low, high)."""
    return rng.random(count, dtype=np.float32) * np.float32(high - low) + np.float32(low)


def _red_cells(rng: np.random.Generator, x: float, y: float, keep_off: float) -> Plane:
    """Eosin density of the red cells around a leukocyte at (x, y) whose radius is keep_off, in pixels."""
    at_x, at_y = _scatter(rng, 3 + _below(rng, 12))
    radius = _between(rng, 12.5, 16) * _spread(rng, len(at_x), 0.88, 1.1)
    squeeze = _spread(rng, len(at_x), -0.4, 0.4)
    strength = _between(rng, 0.45, 0.7) * _spread(rng, len(at_x), 0.85, 1.15)
    pallor = _between(rng, 0.3, 0.75)
    room = np.float32(keep_off) + radius * np.float32(0.8)  # neighbours may touch and overlap a little
    free = (at_x - np.float32(x)) ** 2 + (at_y - np.float32(y)) ** 2 > room * room
    return _discs(at_x[free], at_y[free], radius[free], squeeze[free], strength[free], pallor, add=True)


def _grains(rng: np.random.Generator, kind: Granules, x: float, y: float, radius: float) -> Plane:
    """Density of one kind of granules, spread over a cell at (x, y), as a part of their dyes."""
    at = (rng.random((2, kind.count), dtype=np.float32) * 2 - 1) * np.float32(radius)
    sizes = np.float32(kind.radius) * _spread(rng, kind.count, 0.6, 1.3)
    strength = _spread(rng, kind.count, 0.5, 1.0)
    level = np.zeros(kind.count, dtype=np.float32)
    return _discs(at[0] + np.float32(x), at[1] + np.float32(y), sizes, level, strength)


def _turned(nucleus: tuple[Segment, ...], turns: float) -> list[Segment]:
    """The nucleus rotated by this angle, in turns."""
    c, s = _direction(turns)
    return [
        (c * x0 - s * y0, s * x0 + c * y0, c * x1 - s * y1, s * x1 + c * y1, width) for x0, y0, x1, y1, width in nucleus
    ]


def _paint(rng: np.random.Generator, cell: Cell) -> list[Plane]:
    """The field of view as one plane of density for each dye."""
    x, y = SIZE / 2 + _between(rng, -7, 7), SIZE / 2 + _between(rng, -7, 7)
    grid_x, grid_y = _grid(x, y)
    wobble = _cloud(rng, 7)

    squeeze = np.float32(_between(rng, -0.3, 0.3))
    distance = np.sqrt(grid_x * grid_x + grid_y * grid_y + squeeze * grid_x * grid_y) - np.float32(cell.radius)
    body = _coverage(distance + wobble * np.float32(_between(rng, 0.5, 2.5)), 1.5)

    outline = np.full((SIZE, SIZE), np.float32(SIZE))
    for segment in _turned(cell.nucleus, float(rng.random())):
        np.minimum(outline, _segment_distance(grid_x, grid_y, segment), out=outline)
    nucleus = _coverage(outline - wobble * np.float32(1.2), 1.6) * body
    texture = _cloud(rng, 25) + np.float32(0.8) * _cloud(rng, 17)  # of two lattices, so that neither is seen
    chromatin = nucleus * (1 + np.float32(0.8 * cell.clumping) * texture) * np.float32(cell.chromatin)

    plasma = (body - nucleus) * (1 + np.float32(0.25) * _cloud(rng, 16))
    if cell.vacuoles:
        at = (rng.random((2, cell.vacuoles), dtype=np.float32) * 2 - 1) * np.float32(cell.radius * 0.75)
        sizes = _spread(rng, cell.vacuoles, 1.5, 3.2)
        depth = np.full(cell.vacuoles, np.float32(0.75))
        plasma = plasma * (1 - _discs(at[0] + np.float32(x), at[1] + np.float32(y), sizes, 0 * sizes, depth))

    red_cells = _red_cells(rng, x, y, cell.radius) * (1 - body)
    at_x, at_y = _scatter(rng, _below(rng, 5) if rng.random() < 0.6 else 0)
    sizes = _spread(rng, len(at_x), 2.5, 5.0)
    platelets = _discs(at_x, at_y, sizes, 0 * sizes, _spread(rng, len(at_x), 0.25, 0.5)) * (1 - body)
    platelets = platelets * (1 + np.float32(0.5) * _cloud(rng, 32))

    azure, eosin, blue = (plasma * np.float32(dye) for dye in cell.cytoplasm)
    azure = azure + chromatin + platelets
    eosin = eosin + red_cells
    for kind in cell.granules:
        shown = _grains(rng, kind, x, y, cell.radius) * (body - nucleus * np.float32(1 - kind.over_nucleus))
        azure = azure + shown * np.float32(kind.dyes[0])
        eosin = eosin + shown * np.float32(kind.dyes[1])
        blue = blue + shown * np.float32(kind.dyes[2])
    return [azure, eosin, blue]


def _transmitted(density: Plane) -> Plane:
    """The part of the light that passes, from the optical density: 1 / exp, by a series that is the same anywhere."""
    half = density * np.float32(0.5)
    root = 1 + half * (1 + half * (np.float32(0.5) + half * (np.float32(1 / 6) + half * np.float32(1 / 24))))
    return np.reciprocal(root * root)


def _blurred(light: Plane, weight: float) -> Plane:
    """Two passes of the kernel (weight, 1 - 2 weight, weight) along both sides; variance 4 weight in pixels squared."""
    w = np.float32(weight)
    for _ in range(2):
        light[:, 1:-1] += w * (light[:, :-2] + light[:, 2:] - 2 * light[:, 1:-1])
        light[:, :, 1:-1] += w * (light[:, :, :-2] + light[:, :, 2:] - 2 * light[:, :, 1:-1])
    return light


def _develop(rng: np.random.Generator, planes: list[Plane], difficulty: float) -> NDArray[np.uint8]:
    """Dye densities to the picture a camera takes: stain strength and hue, light, focus and noise differ by image."""
    gain = 0.08 + 0.22 * difficulty  # relative range of a dye's strength
    hue = 0.03 + 0.10 * difficulty  # relative range of a dye's density in one colour
    dyes = []
    for dye in DYES:
        strength = _between(rng, 1 - gain, 1 + gain)
        dyes.append([strength * _between(rng, 1 - hue, 1 + hue) * colour for colour in dye])
    dirt = _cloud(rng, 5) * np.float32(0.02) + np.float32(0.05)
    density = np.empty((3, SIZE, SIZE), dtype=np.float32)
    for colour in range(3):
        density[colour] = dirt
        for plane, values in zip(planes, dyes, strict=True):
            density[colour] += plane * np.float32(values[colour])
    light = _transmitted(density)

    tilt_x, tilt_y = _direction(float(rng.random()))
    tilt = _between(rng, 0, 0.05 + 0.10 * difficulty) / SIZE  # relative change of the light per pixel
    grid_x, grid_y = _grid(SIZE / 2, SIZE / 2)
    lamp = 1 + grid_x * np.float32(tilt * tilt_x) + grid_y * np.float32(tilt * tilt_y)
    level = _between(rng, 0.97 - 0.10 * difficulty, 1.02)
    for colour in range(3):
        light[colour] *= lamp * np.float32(level * _between(rng, 1 - 0.07 * difficulty, 1 + 0.03 * difficulty))

    light = _blurred(light, _between(rng, 0.02, 0.06 + 0.12 * difficulty))
    noise = _between(rng, 0.004, 0.008 + 0.020 * difficulty)  # standard deviation, as a part of full scale
    raw = np.frombuffer(rng.bytes(light.size * 4), dtype=np.uint8).reshape(4, 3, SIZE, SIZE)
    # four bytes add up to a near-normal deviate of mean 510 and standard deviation 147.8
    dice = raw[0].astype(np.int16) + raw[1] + raw[2] + raw[3] - 510
    light += dice.astype(np.float32) * np.float32(noise / 147.8)
    return (np.clip(light, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8).transpose(1, 2, 0)


def draw(seed: int, index: int, label: str, difficulty: float) -> NDArray[np.uint8]:
    """One image, (96, 96, 3) uint8 RGB: a pure function of its arguments.

    Args:
        seed: of the data set.
        index: of the image; two indices share no randomness.
        label: one of `MORPHOLOGIES`.
        difficulty: in [0, 1]; how far cells stray from the textbook, and how much stain, focus and noise vary.
    """
    rng = np.random.default_rng(derive("synthetic", seed, index))
    chance = float(rng.random())
    oddity = min(1.0, 1.6 * difficulty * chance * chance * chance)  # cubed: most cells of a smear are typical
    return _develop(rng, _paint(rng, MORPHOLOGIES[label](rng, oddity)), difficulty)


# ---------------------------------------------------------------- the source


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _resolve(options: Mapping[str, Scalar]) -> Options:
    """The options over their defaults. Raises: ConfigError naming every wrong one."""
    known = SyntheticSource.options
    problems = [
        f"unknown option '{name}' = {options[name]!r}; known: {', '.join(sorted(known))}"
        for name in sorted(set(options) - set(known))
    ]
    values: dict[str, Any] = {**known, **options}
    count, seed, difficulty = values["count"], values["seed"], values["difficulty"]
    if not (_whole(count) and MIN_COUNT <= count <= MAX_COUNT):
        problems.append(f"count = {count!r}; try a whole number from {MIN_COUNT} to {MAX_COUNT}, such as 3000")
    if not (_whole(seed) and seed >= 0):
        problems.append(f"seed = {seed!r}; try a whole number from 0 on, such as 0")
    if isinstance(difficulty, bool) or not isinstance(difficulty, int | float) or not 0 <= difficulty <= 1:
        problems.append(f"difficulty = {difficulty!r}; try a number from 0 (textbook cells) to 1, such as 0.5")
    if problems:
        raise ConfigError(problems, where="dataset 'synthetic'")
    return Options(count, seed, float(difficulty))


class SyntheticSource(Source):
    """Drawn leukocytes in equal numbers. Image i is the same whatever the count.

    Options:
        count: of images, in all.
        seed: another seed gives other images.
        difficulty: in [0, 1]; 0 gives textbook cells in even stain, 1 many that an expert would argue about.
    """

    name = "synthetic"
    title = "Synthetic leukocytes drawn by kdbench"
    url = "generated by kdbench, no download"
    licence = "CC0-1.0"
    citation = ""
    labels = LEUKOCYTES
    layout = "nothing: drawn on demand"
    caveats = ("synthetic images: for trying the tool out, not for conclusions about blood cells",)
    options: ClassVar[Mapping[str, Scalar]] = {"count": 3000, "seed": 0, "difficulty": 0.5}

    def check_options(self, options: Mapping[str, Scalar]) -> None:
        """Raises: ConfigError naming every wrong one."""
        _resolve(options)

    def scan(self, root: Path, options: Mapping[str, Scalar]) -> Listing:
        """List the images; root is not looked at. Raises: ConfigError."""
        count = _resolve(options).count
        return Listing(tuple(Item(f"synthetic/{i:06d}", self.labels[i % len(self.labels)]) for i in range(count)))

    def read(self, item: Item, options: Mapping[str, Scalar]) -> Image.Image:
        """Draw one image, 96 x 96 RGB. Raises: ConfigError; BadImage if the item is not one of this source."""
        resolved = _resolve(options)
        number = item.id.rpartition("/")[2]
        if not number.isdecimal() or item.label not in MORPHOLOGIES:
            raise BadImage(f"{item.id} ({item.label}): not an image of the source 'synthetic'")
        return Image.fromarray(draw(resolved.seed, int(number), item.label, resolved.difficulty))


SOURCES.add("synthetic", SyntheticSource())
