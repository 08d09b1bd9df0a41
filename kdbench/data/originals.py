"""Which original an augmented image was made from: local features, then a transform that has to explain them. Floor 3.

Augmentation turns, shifts, zooms and mirrors an image; SIFT features (Lowe, IJCV 60, 2004) survive all but the mirror,
and a mirrored image has the same descriptors with their bins in another order, so one detection serves both. The
strongest features of an image vote for originals; for those with the most votes a similarity transform is fitted by
RANSAC, and the features it explains (inliers) are the confidence. An unrelated image reaches 4 to 9 by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from kdbench.data.cache import in_threads
from kdbench.types import Progress

FEATURES = 200
"""Of an image, the strongest kept for the transform."""


@dataclass(frozen=True)
class Effort:
    """How hard an original is looked for.

    Attributes:
        voters: features of an image, the strongest first, that vote.
        electorate: features of each original that can be voted for.
        candidates: originals, or mirror images of them, with the most votes that a transform is fitted for.
    """

    voters: int
    electorate: int
    candidates: int


QUICK = Effort(40, 40, 3)
"""Finds 95 in 100; the rest is looked for again."""

THOROUGH = Effort(FEATURES, 120, 8)

ROUNDS = 500
"""Of RANSAC at most; with a third of the pairs right, 200 find it in all but one of 10^10 cases."""

NEAR = 0.8
"""Least cosine of two square-rooted descriptors that are held to show the same spot."""

TOLERANCE_PIXELS = 4.0
"""Distance at which a feature still agrees with the transform, on images of 320 x 240."""

ENOUGH = 12
"""Inliers of a found original; on augmented BCCD the wrong ones with the most votes reach 4 to 9."""

AT_ONCE = 4 * 10**7
"""Similarities held at once, 160 MB of them: it says for how many images together votes are counted."""


@dataclass(frozen=True)
class Match:
    """The original that explains an image best.

    Attributes:
        image: name of the image.
        original: name of the original; None if no transform explains `ENOUGH` features.
        inliers: features the transform explains.
        runner_up: inliers of the second-best original.
        second: its name; None if only one original had votes.
        mirrored: whether the image shows the original's mirror image.
        scale: of the transform, image to original, both at one size.
    """

    image: str
    original: str | None
    inliers: int
    runner_up: int
    second: str | None
    mirrored: bool
    scale: float


@dataclass(frozen=True)
class Features:
    """Spots (N, 2) in pixels and descriptors (N, 128) float32 of unit length, the strongest first."""

    spots: np.ndarray
    descriptors: np.ndarray

    def mirrored(self, width: int) -> Features:
        """Of the left-right mirror image: the local frame is reflected, so one axis and all angles turn round."""
        bins = self.descriptors.reshape(-1, 4, 4, 8)
        turned = bins[:, ::-1, :, (-np.arange(8)) % 8]
        spots = self.spots * np.array([-1, 1], np.float32) + np.array([width - 1, 0], np.float32)
        return Features(spots, turned.reshape(-1, 128))


def describe(grey: np.ndarray) -> Features:
    """The strongest SIFT features of an image (H, W) uint8, descriptors square-rooted (Arandjelovic, CVPR 2012)."""
    # a detector of its own: one is not safe to share between threads
    points, found = cv2.SIFT.create(nfeatures=FEATURES, contrastThreshold=0.02).detectAndCompute(grey, None)
    if found is None:
        return Features(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32))
    order = np.argsort([-point.response for point in points], kind="stable")
    spots = np.array([points[index].pt for index in order], np.float32)
    found = found[order]
    return Features(spots, np.sqrt(found / np.maximum(found.sum(axis=1, keepdims=True), 1e-9)).astype(np.float32))


def match_originals(
    images: Sequence[str],
    originals: Sequence[str],
    read: Callable[[str], np.ndarray],
    progress: Progress | None = None,
) -> list[Match]:
    """Find the original of each image.

    Args:
        images, originals: names.
        read: the image of a name, (H, W) uint8, grey; all of one size.
    Returns: a match for each image, in their order.
    """
    gallery = in_threads(lambda name: describe(read(name)), originals, "describing originals", progress)

    def features_of(name: str) -> tuple[Features, Features]:
        grey = read(name)
        features = describe(grey)
        return features, features.mirrored(grey.shape[1])

    def fit(task: tuple[str, tuple[Features, Features], np.ndarray, int]) -> Match:
        name, both, votes, candidates = task
        fits: dict[int, tuple[int, bool, float]] = {}
        for index in np.argsort(-votes, axis=None, kind="stable")[:candidates]:
            mirrored, number = divmod(int(index), len(originals))
            if votes[mirrored, number]:
                inliers, scale = _explained(both[mirrored], gallery[number])
                fits[number] = max(fits.get(number, (0, False, 0.0)), (inliers, bool(mirrored), scale))
        ranking = sorted(fits.items(), key=lambda entry: (-entry[1][0], entry[0]))
        if not ranking:
            return Match(name, None, 0, 0, None, False, 0.0)
        best, (inliers, mirrored, scale) = ranking[0]
        second = originals[ranking[1][0]] if len(ranking) > 1 else None
        runner_up = ranking[1][1][0] if len(ranking) > 1 else 0
        found = originals[best] if inliers >= ENOUGH else None
        return Match(name, found, inliers, runner_up, second, mirrored, scale)

    def look_for(names: Sequence[str], effort: Effort, what: str) -> list[Match]:
        held = [features.descriptors[: effort.electorate] for features in gallery]
        owner = np.repeat(np.arange(len(held)), [len(part) for part in held])
        ballot = np.ascontiguousarray(np.concatenate(held).T)
        chunk = max(1, AT_ONCE // (2 * effort.voters * max(1, len(owner))))
        matches: list[Match] = []
        for start in range(0, len(names), chunk):
            part = names[start : start + chunk]
            described = in_threads(features_of, part, "", None)
            voters = [features.descriptors[: effort.voters] for both in described for features in both]
            votes = _votes(voters, ballot, owner, len(originals), [None] * len(voters)).reshape(len(part), 2, -1)
            tasks = [(*task, effort.candidates) for task in zip(part, described, votes, strict=True)]
            matches += in_threads(fit, tasks, "", None)
            if progress:
                progress(what, len(matches), len(names))
        return matches

    found = {match.image: match for match in look_for(images, QUICK, "finding originals")}
    unsure = [name for name in images if found[name].original is None]
    found |= {match.image: match for match in look_for(unsure, THOROUGH, "looking again for originals")}
    return [found[name] for name in images]


def _votes(
    voters: Sequence[np.ndarray], ballot: np.ndarray, owner: np.ndarray, originals: int, barred: Sequence[int | None]
) -> np.ndarray:
    """Votes (len(voters), originals): each descriptor's is for the owner of the one nearest to it.

    Args:
        voters: descriptors (N, 128) of each image.
        ballot: (128, all descriptors) of the originals, and to which of them each belongs in `owner`.
        barred: for each image the original it must not vote for.
    """
    near = np.concatenate(voters) @ ballot
    if not near.size:  # images, or originals, without a feature
        return np.zeros((len(voters), originals), dtype=np.int64)
    whose = np.repeat(np.arange(len(voters)), [len(part) for part in voters])
    for number, original in enumerate(barred):
        if original is not None:
            near[np.ix_(whose == number, owner == original)] = -1
    nearest = near.argmax(axis=1)
    valid = near[np.arange(len(near)), nearest] > NEAR
    votes = np.zeros((len(voters), originals), dtype=np.int64)
    np.add.at(votes, (whose[valid], owner[nearest[valid]]), 1)
    return votes


@dataclass(frozen=True)
class Overlap:
    """Two originals that show one place.

    Attributes:
        inliers: features that one similarity transform brings onto each other.
        share: of the second image's area that the first one shows too, in [0, 1].
        correlation: of the pixels of that area (Pearson), in [-1, 1]: what no feature had a part in.
    """

    first: str
    second: str
    inliers: int
    share: float
    correlation: float


def overlaps(
    originals: Sequence[str], read: Callable[[str], np.ndarray], progress: Progress | None = None
) -> list[Overlap]:
    """The pairs of originals that show the same place, verified by their pixels; arguments as of `match_originals`.

    One original may overlap several others at its several sides, so every one with votes is looked at.
    """
    greys = dict(zip(originals, in_threads(read, originals, "reading originals", progress), strict=True))
    gallery = in_threads(lambda name: describe(greys[name]), originals, "describing originals", progress)
    held = [features.descriptors[: THOROUGH.electorate] for features in gallery]
    owner = np.repeat(np.arange(len(held)), [len(part) for part in held])
    ballot = np.ascontiguousarray(np.concatenate(held).T)

    def rivals(number: int) -> list[tuple[int, int]]:
        (votes,) = _votes([gallery[number].descriptors], ballot, owner, len(originals), [number])
        most = np.argsort(-votes, kind="stable")[:RIVALS]
        return [(min(number, int(other)), max(number, int(other))) for other in most if votes[other]]

    found = in_threads(rivals, range(len(originals)), "comparing originals", progress)
    pairs = sorted({pair for each in found for pair in each})

    def verify(pair: tuple[int, int]) -> Overlap:
        one, other = (originals[number] for number in pair)
        transform, inliers = _transform(gallery[pair[0]], gallery[pair[1]])
        return _overlap(one, other, greys[one], greys[other], transform, inliers)

    verified = in_threads(verify, pairs, "verifying overlaps", progress)
    return [
        pair
        for pair in verified
        if pair.inliers >= ENOUGH_TO_LOOK and pair.share >= LEAST_SHARE and pair.correlation >= CORRELATED
    ]


RIVALS = 25
"""Other originals with the most votes that an original is compared with."""

ENOUGH_TO_LOOK = 6
"""Inliers from which pixels decide: chance gives 4 to 9, an overlap of a sixth of the frame as few as 6."""

LEAST_SHARE = 0.1
"""Of the frame: on less, pixels correlate by chance."""

CORRELATED = 0.8
"""Least correlation of two views of one place. Augmented BCCD's originals reach 0.89 to 0.99 there, other pairs with
6 inliers and more 0.53 at most.
"""


def _overlap(
    first: str, second: str, one: np.ndarray, other: np.ndarray, transform: np.ndarray | None, inliers: int
) -> Overlap:
    if transform is None:
        return Overlap(first, second, 0, 0.0, 0.0)
    size = other.shape[::-1]
    moved = cv2.warpAffine(one.astype(np.float32), transform, size)
    covered = cv2.warpAffine(np.ones_like(one, np.float32), transform, size) > 0.99
    seen, shown = moved[covered], other[covered].astype(np.float32)
    if len(seen) < 2 or seen.std() == 0 or shown.std() == 0:
        return Overlap(first, second, inliers, float(covered.mean()), 0.0)
    return Overlap(first, second, inliers, float(covered.mean()), float(np.corrcoef(seen, shown)[0, 1]))


def _explained(features: Features, original: Features) -> tuple[int, float]:
    """Features that one similarity transform brings onto the original's, and its scale; (0, 0) if there is none."""
    transform, inliers = _transform(features, original)
    return (0, 0.0) if transform is None else (inliers, float(np.sqrt(abs(np.linalg.det(transform[:, :2])))))


def _transform(features: Features, original: Features) -> tuple[np.ndarray | None, int]:
    """The similarity transform (2, 3) that explains most features, and how many."""
    if not len(features.spots) or not len(original.spots):
        return None, 0
    near = features.descriptors @ original.descriptors.T
    nearest = near.argmax(axis=1)
    own = np.arange(len(near))
    mutual = (near.argmax(axis=0)[nearest] == own) & (near[own, nearest] > NEAR)
    if mutual.sum() < 4:
        return None, 0
    transform, inliers = cv2.estimateAffinePartial2D(
        features.spots[mutual],
        original.spots[nearest[mutual]],
        ransacReprojThreshold=TOLERANCE_PIXELS,
        maxIters=ROUNDS,
    )
    return transform, 0 if transform is None else int(inliers.sum())
