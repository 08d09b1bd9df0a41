"""What an audit of a data set leaves: duplicates, label conflicts, odd files, colours. Floor 1; no torch.

Beside `kdbench.types`, and under its rules: frozen, no unknown keys, units in names, fractions in [0, 1].
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from kdbench.types import Environment, Frozen, LeftOut, SplitName

AUDIT_SCHEMA_VERSION = 1
"""Of AuditRecord: raised when a field changes its meaning or goes away."""

PairKind = Literal["exact", "near"]
OddKind = Literal[
    "empty", "foreign", "damaged", "suffix", "cmyk", "deep", "alpha", "palette", "grey", "rotated", "frames"
]

ODD_KINDS: dict[OddKind, tuple[str, str]] = {
    "empty": ("zero bytes", "left out"),
    "foreign": ("not an image by its content", "left out"),
    "damaged": ("truncated or damaged", "left out"),
    "suffix": ("another format than the name says", "read by its content"),
    "cmyk": ("CMYK", "made RGB"),
    "deep": ("more than 8 bits a channel", "the upper 8 bits are taken"),
    "alpha": ("with an alpha channel", "alpha is dropped"),
    "palette": ("with a palette", "made RGB"),
    "grey": ("greyscale", "made RGB"),
    "rotated": ("turned by EXIF", "set upright"),
    "frames": ("several frames", "the first is taken"),
}
"""Of each kind of odd file: what it is, and what the decoder does with it."""


class PairedImage(Frozen):
    """One side of a pair."""

    id: str
    source: str
    label: str
    side: SplitName | Literal["none"] = Field(description="none: on no side of the usual split")


class ImagePair(Frozen):
    """Two images that show the same."""

    kind: PairKind
    first: PairedImage
    second: PairedImage
    turn: str = Field(default="", description='what brings the first onto the second; "": nothing')
    hash_distance: int = Field(default=0, ge=0, description="bits of 256 that differ, after the turn")
    detail: float = Field(default=1.0, ge=-1, le=1, description="correlation of fine detail, after turn and shift")

    @property
    def conflict(self) -> bool:
        """Whether the labels differ."""
        return self.first.label != self.second.label

    @property
    def sides(self) -> tuple[str, ...]:
        """The two sides of the split they stand on, in the order train, val, test; () if they do not."""
        sides = {self.first.side, self.second.side}
        return tuple(sorted(sides, key=get_args(SplitName).index)) if len(sides) == 2 and "none" not in sides else ()

    @property
    def across_sources(self) -> bool:
        """Whether they are of two sources."""
        return self.first.source != self.second.source


class PairCounts(Frozen):
    """Pairs of one kind, all of them; the record names the first ones only."""

    pairs: int = 0
    conflicts: int = Field(default=0, description="pairs with two labels")
    across_sides: int = Field(default=0, description="pairs on two sides of the split")
    by_sides: dict[str, int] = Field(default_factory=dict, description='those by their two sides, as "train / test"')
    across_sources: int = 0


class OddFiles(Frozen):
    """Files of one kind that are not plain 8-bit RGB images under their own name."""

    kind: OddKind
    count: int
    named: tuple[str, ...] = Field(description="the first ones, with what was seen where the kind does not say it")


class Colours(Frozen):
    """Colour and stain of a group of images, over their pixels without black fill; mean and deviation over images."""

    source: str
    label: str = Field(default="", description='"": all classes of the source')
    images: int
    rgb_mean: tuple[float, float, float] = Field(description="0 to 255, mean over all pixels")
    rgb_std: tuple[float, float, float] = Field(description="0 to 255, over all pixels")
    lab_mean: tuple[float, float, float] = Field(description="CIE L*a*b*, L* 0 to 100, mean over all pixels")
    lab_std: tuple[float, float, float] = Field(description="CIE L*a*b*, over all pixels")
    background: float = Field(description="L* of the brightest tenth of an image, mean over images")
    background_std: float = Field(description="the same, deviation between images")
    density: float = Field(
        description="optical density, -log10(value / 255), of stained pixels above their image's background; mean of "
        "the three channels and over images"
    )
    density_std: float = Field(description="the same, deviation between images")
    stained: float = Field(ge=0, le=1, description="share of pixels whose density is 0.15 above the background's")
    hue_degrees: float = Field(description="circular mean hue of stained pixels in L*a*b*; 0 is red, 270 blue")
    fill: float = Field(ge=0, le=1, description="share of pixels that are black fill, as of a turned image's corners")


class StoredShapes(Frozen):
    """Of one source's files as they are stored."""

    source: str
    width: tuple[int, float, int] = Field(description="pixels: smallest, median, largest")
    height: tuple[int, float, int] = Field(description="pixels: smallest, median, largest")
    formats: dict[str, int]
    modes: dict[str, int] = Field(description="by PIL's name")


class Fact(Frozen):
    """One figure with what it is a figure of."""

    what: str
    figure: str


class OriginalsFound(Frozen):
    """Which original each augmented image was made from, by matching; and what speaks for the matching."""

    source: str
    images: int = Field(description="that were looked at")
    originals: int = Field(description="that there are to choose from")
    found: int = Field(description="images whose original is known")
    share: float = Field(ge=0, le=1, description="found / images")
    validation: tuple[Fact, ...] = ()
    by_split: dict[str, int] = Field(default_factory=dict, description="distinct originals by side")
    in_several_splits: int = Field(default=0, description="originals with images on more than one side")
    overlapping: int = Field(default=0, description="pairs of originals that show one place")
    overlapping_across: tuple[str, ...] = Field(default=(), description="those with images on two sides")
    inliers_median: float = Field(description="of the original that was found")
    inliers_p5: float = Field(description="of the original that was found, 5th percentile")
    runner_up_median: float = Field(description="inliers of the second best")
    runner_up_p95: float = Field(description="inliers of the second best, 95th percentile")


class AuditRecord(Frozen):
    """One audit, one JSON file; the page is made of it alone."""

    kind: Literal["kdbench-audit"] = "kdbench-audit"
    schema_version: int = AUDIT_SCHEMA_VERSION
    name: str
    sources: dict[str, int] = Field(description="images taken from each source")
    classes: tuple[str, ...]
    splits: dict[SplitName, dict[str, int]] = Field(description="images by class on each side of the usual split")
    protocol: str = Field(default="", description="how the sides were made")
    content_hash: str
    images: int = Field(description="that were compared: those of the data set, and those beside it")
    beside: dict[str, int] = Field(
        default_factory=dict, description="images by source that lie beside the data set, on no side"
    )
    exact_groups: int = Field(description="groups of byte-identical images")
    exact_images: int = Field(description="images in them")
    counts: dict[PairKind, PairCounts] = Field(
        description="exact: each image of a group with the first of it; near: of each exact group the first counts"
    )
    copies: int = Field(default=0, description="near pairs the source knows to be of one original or group; not named")
    blank: int = Field(default=0, description="images without any detail, which are compared by their bytes alone")
    pairs: tuple[ImagePair, ...] = Field(description="the first of each kind; conflicts and split sides come first")
    odd: tuple[OddFiles, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    differences: tuple[str, ...] = Field(default=(), description="from the published counts, by source")
    shapes: tuple[StoredShapes, ...] = ()
    colours: tuple[Colours, ...] = Field(description="each source as a whole, then its classes")
    originals: OriginalsFound | None = Field(default=None, description="of the one source that can be matched to them")
    limits: tuple[Fact, ...] = Field(default=(), description="what near duplicates had to keep to")
    image_size: int = Field(description="pixels that images were compared and coloured at")
    seconds: float = Field(ge=0)
    environment: Environment
    command: str = ""
    started: str = Field(description="ISO 8601, UTC")
