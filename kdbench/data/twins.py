"""Images that show the same without having the same bytes: found by a hash, verified by their fine detail. Floor 3.

The hash (imagehash's phash, 256 bits) is of the whole picture, and on blood smears the whole picture is much the same
everywhere: a dark cell in the middle, or the black corners of a turned image. So it only proposes pairs. What decides
is the correlation of what is left when everything smooth and all black fill is taken away, at the best shift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import imagehash
import numpy as np
from PIL import Image

from kdbench.data.cache import in_threads
from kdbench.data.colours import black_fill
from kdbench.findings import Fact
from kdbench.types import Progress

SIDE = 64
"""Pixels, both sides, of the images that are compared; 16 x 16 coefficients of their cosine transform are the hash."""

TURNS = (
    "",
    "a quarter turn left",
    "a half turn",
    "a quarter turn right",
    "mirrored",
    "mirrored, then a quarter turn left",
    "mirrored, then a half turn",
    "mirrored, then a quarter turn right",
)
"""The eight ways a picture can be laid on another: index % 4 quarter turns, after a mirror from 4 on."""

HASH_SURE = 48
"""Bits of 256. On 11,049 cell crops of four sources no pair of different cells came below 60; those that show one cell
twice lay at 8 to 42."""

HASH_LIMIT = 76
"""Bits of 256. Beyond it 11,049 images give some 100,000 pairs more, and none of them is verified; a cell that was cut
out twice, a few pixels apart, lay at 74."""

DETAIL_SURE = 0.5
"""Correlation that verifies a pair up to HASH_SURE. There pairs of one cell had 0.81 and more on cell crops; on 12,444
turned whole fields all pairs from 0.34 on showed one field, and different fields stayed below 0.25."""

DETAIL_FAR = 0.85
"""Correlation that verifies a pair from HASH_SURE to HASH_LIMIT, where round cells alone give up to 0.79."""

COARSE_SLACK = 0.3
"""How far below what verifies it a pair's correlation may be at half the size, before it is given up at once, which
saves nine tenths of the time. Of 821 verified pairs the worst was 0.20 below; of the others one in a hundred passes."""

SHIFT = 6
"""Pixels of 64 by which one image may be shifted against the other."""

SMOOTH = 3.0
"""Pixels of 64: the sigma of the blur that is taken away to leave detail."""

BLANK = 0.5
"""Grey levels, root mean square: with less detail an image is a plain area, and its detail is noise."""

_BLOCK = 128  # images whose hashes are compared with all others at once: some 20 MB


def limits() -> tuple[Fact, ...]:
    """What a pair has to keep to, for the record."""
    near = f"{DETAIL_SURE:g} up to a hash distance of {HASH_SURE} bits, {DETAIL_FAR:g} beyond"
    return (
        Fact(what="compared at", figure=f"{SIDE} px, whole images stretched to a square, in eight turns and mirrors"),
        Fact(what="hash distance at most", figure=f"{HASH_LIMIT} of 256 bits (phash, 16 x 16 coefficients)"),
        Fact(what="correlation of detail at least", figure=near),
        Fact(what="shift at most", figure=f"{SHIFT} of {SIDE} px"),
    )


@dataclass(frozen=True)
class Twins:
    """Pairs by index, the first below the second.

    Attributes:
        pairs: (P, 2) int64.
        turns: (P,) indices into TURNS: what brings the first onto the second.
        distances: (P,) bits of 256.
        details: (P,) correlations.
    """

    pairs: np.ndarray
    turns: np.ndarray
    distances: np.ndarray
    details: np.ndarray


def turned(image: np.ndarray, turn: int) -> np.ndarray:
    """An image (H, W) or (H, W, C) laid as TURNS says."""
    mirrored = image[:, ::-1] if turn >= 4 else image
    return np.rot90(mirrored, turn % 4)


def find_twins(images: np.ndarray, progress: Progress | None = None, name: str = "images") -> tuple[Twins, np.ndarray]:
    """Every pair of images that show the same: turned, mirrored, encoded anew, recoloured, a little shifted or scaled.

    Args:
        images: (N, 64, 64, 3) uint8, RGB, whole pictures brought to a square.
    Returns: the pairs; and (N,) bool, which images have no detail: they are in no pair.
    """
    details, blank = _all_details(images, f"looking for detail in {name}", progress)
    hashes = _hashes(images, f"hashing {name}", progress)
    pairs, turns, distances = _candidates(hashes, blank, f"comparing {name}", progress)
    wanted = np.where(distances <= HASH_SURE, DETAIL_SURE, DETAIL_FAR)
    found = _correlations(details, pairs, turns, wanted, f"verifying pairs of {name}", progress)
    kept = found >= wanted
    return Twins(pairs[kept], turns[kept], distances[kept], found[kept]), blank


def detail_of(image: np.ndarray) -> tuple[np.ndarray, float]:
    """What is left of an image (S, S, 3) uint8 without black fill and without all that is smooth.

    Returns: (S, S) float32 of length 1 and mean 0; and its root mean square before, in grey levels.
    """
    keep = (~black_fill(image)[0]).astype(np.float32)  # its edge is no detail either
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    weight = cv2.GaussianBlur(keep, (0, 0), SMOOTH) + 1e-3
    rest = (grey - cv2.GaussianBlur(grey * keep, (0, 0), SMOOTH) / weight) * keep
    seen = max(float(keep.sum()), 1.0)
    rest = (rest - rest.sum() / seen) * keep
    length = float(np.sqrt(np.square(rest).sum()))
    return (rest / max(length, 1e-6)).astype(np.float32), length / seen**0.5


def correlation(first: np.ndarray, second: np.ndarray, shift: int = SHIFT) -> float:
    """Of two details (S, S), at the best shift of so many pixels at most; in [-1, 1]."""
    padded = cv2.copyMakeBorder(np.ascontiguousarray(first), shift, shift, shift, shift, cv2.BORDER_CONSTANT)
    return float(np.clip(cv2.matchTemplate(padded, second, cv2.TM_CCORR).max(), -1, 1))


def _all_details(images: np.ndarray, what: str, progress: Progress | None) -> tuple[np.ndarray, np.ndarray]:
    details = np.empty(images.shape[:3], np.float16)  # half of float32, and exact enough to correlate

    def one(index: int) -> float:
        details[index], strength = detail_of(images[index])
        return strength

    strengths = in_threads(one, range(len(images)), what, progress)
    return details, np.asarray(strengths) < BLANK


def _hashes(images: np.ndarray, what: str, progress: Progress | None) -> np.ndarray:
    """(8, N, 4) uint64: of each image in each of TURNS."""
    hashes = np.empty((len(TURNS), len(images), 32), np.uint8)

    def one(index: int) -> None:
        grey = np.asarray(Image.fromarray(images[index]).convert("L"))
        for turn in range(len(TURNS)):
            bits = imagehash.phash(Image.fromarray(turned(grey, turn)), hash_size=16).hash
            hashes[turn, index] = np.packbits(bits)

    in_threads(one, range(len(images)), what, progress)
    return hashes.view(np.uint64)


def _candidates(
    hashes: np.ndarray, blank: np.ndarray, what: str, progress: Progress | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (P, 2) whose hashes are near enough in one of the turns of the first; the best turn; its distance in bits.

    A pair is looked at in one order only: turning the first one way differs by 2 bits in the mean, and by up to 10,
    from turning the second back.
    """
    count, words = hashes.shape[1:]

    def block(start: int) -> np.ndarray:
        own = hashes[:, start : start + _BLOCK]
        best = np.full((own.shape[1], count - start), 257, np.uint16)
        turn = np.zeros(best.shape, np.uint8)
        for number in range(len(TURNS)):
            distance = np.zeros(best.shape, np.uint16)
            for word in range(words):
                distance += np.bitwise_count(own[number, :, None, word] ^ hashes[0, None, start:, word])
            better = distance < best
            best[better] = distance[better]
            turn[better] = number
        first, second = np.nonzero(best <= HASH_LIMIT)
        ahead = (second > first) & ~blank[first + start] & ~blank[second + start]
        first, second = first[ahead], second[ahead]
        return np.stack([first + start, second + start, turn[first, second], best[first, second]], axis=1)

    found = np.concatenate(in_threads(block, range(0, count, _BLOCK), what, progress) or [np.zeros((0, 4), np.int64)])
    return found[:, :2], found[:, 2], found[:, 3]


def _correlations(
    details: np.ndarray, pairs: np.ndarray, turns: np.ndarray, wanted: np.ndarray, what: str, progress: Progress | None
) -> np.ndarray:
    """Of each pair; that at half the size, which is below what is wanted, where that settles it."""
    halves = np.empty((len(details), SIDE // 2, SIDE // 2), np.float32)
    for half, detail in zip(halves, details, strict=True):
        small = cv2.resize(detail.astype(np.float32), half.shape, interpolation=cv2.INTER_AREA)
        half[:] = small / max(float(np.sqrt(np.square(small).sum())), 1e-6)

    def part(span: slice) -> np.ndarray:
        found = np.empty(span.stop - span.start)
        for place, number in enumerate(range(span.start, span.stop)):
            (first, second), turn = pairs[number], int(turns[number])
            found[place] = correlation(turned(halves[first], turn), halves[second], SHIFT // 2)
            if found[place] >= wanted[number] - COARSE_SLACK:
                own, other = (details[index].astype(np.float32) for index in (first, second))
                found[place] = correlation(turned(own, turn), other)
        return found

    spans: Sequence[slice] = [slice(start, min(start + 256, len(pairs))) for start in range(0, len(pairs), 256)]
    return np.concatenate(in_threads(part, spans, what, progress) or [np.zeros(0)])
