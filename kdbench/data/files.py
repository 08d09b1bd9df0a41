"""What is odd about an image file, from its head and its name; whether it can be decoded is told elsewhere. Floor 3."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from kdbench.errors import first_line
from kdbench.findings import OddKind

FORMATS: dict[str, frozenset[str]] = {
    ".jpg": frozenset({"JPEG", "MPO"}),  # a phone's JPEG with a second picture in it calls itself MPO
    ".jpeg": frozenset({"JPEG", "MPO"}),
    ".png": frozenset({"PNG"}),
    ".bmp": frozenset({"BMP", "DIB"}),
    ".tif": frozenset({"TIFF"}),
    ".tiff": frozenset({"TIFF"}),
    ".webp": frozenset({"WEBP"}),
}
"""What PIL may call a file of that suffix; others are not judged."""

_DEEP = ("I", "F")  # how PIL's modes of more than 8 bits begin
_UPRIGHT = 1  # of EXIF's orientations


@dataclass(frozen=True)
class StoredFile:
    """An image as it is stored.

    Attributes:
        width, height: in pixels; 0 if its head cannot be read.
        mode, format: PIL's names; empty if its head cannot be read.
        odd: what is not as in a plain 8-bit RGB file, with what was seen where the kind does not say it.
    """

    width: int
    height: int
    mode: str
    format: str
    odd: tuple[tuple[OddKind, str], ...] = ()


def look_at(path: Path) -> StoredFile:
    """Look at the head of a file. Raises: OSError if it may not be read; never for what is in it."""
    if path.stat().st_size == 0:
        return StoredFile(0, 0, "", "", (("empty", ""),))
    try:
        with Image.open(path) as image:
            return StoredFile(image.width, image.height, image.mode, image.format or "", _oddities(image, path))
    except UnidentifiedImageError:
        return StoredFile(0, 0, "", "", (("foreign", ""),))
    except PermissionError:
        raise
    except Exception as problem:  # decoders raise what they like on a damaged head
        return StoredFile(0, 0, "", "", (("damaged", first_line(problem)),))


def _oddities(image: Image.Image, path: Path) -> tuple[tuple[OddKind, str], ...]:
    mode = image.mode
    found: list[tuple[OddKind, str]] = []
    expected = FORMATS.get(path.suffix.lower())
    if expected is not None and image.format not in expected:
        found.append(("suffix", str(image.format)))
    if mode == "CMYK":
        found.append(("cmyk", ""))
    # of 16 bits a channel PIL reads the upper 8 and says RGB; how the file holds them stands in its tiles
    if mode.startswith(_DEEP) or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        found.append(("deep", mode))
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        found.append(("alpha", mode))
    if mode in ("P", "PA"):
        found.append(("palette", mode))
    if mode in ("1", "L", "LA", "La") or mode.startswith(_DEEP):
        found.append(("grey", mode))
    try:  # a PNG may have them at its end, behind all pixels
        turned, frames = image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT), getattr(image, "n_frames", 1)
    except Exception as problem:
        found.append(("damaged", first_line(problem)))
        return tuple(found)
    if turned != _UPRIGHT:
        found.append(("rotated", f"orientation {turned}"))
    if frames > 1:
        found.append(("frames", f"{frames} frames"))
    return tuple(found)
