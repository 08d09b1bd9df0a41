"""Small data sets in the layouts of the real ones, drawn from noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from kdbench.data.labels import LEUKOCYTES


def write_image(path: Path, number: int, size: tuple[int, int] = (20, 16)) -> Path:
    """A noise picture that is a function of its number, (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def pbc(root: Path, per_class: int = 12, start: int = 0) -> None:
    for c, label in enumerate(LEUKOCYTES):
        for i in range(per_class):
            name = f"{label[:2].upper()}_{i:03d}.jpg"
            write_image(root / "pbc/PBC_dataset_normal_DIB" / label / name, start + 1000 * c + i)


def bccd_crops(root: Path, per_class: int = 4) -> None:
    for c, label in enumerate(LEUKOCYTES):
        for i in range(per_class):
            folder = root / "bccd_crops/BCCD_cropped" / label.title()
            write_image(folder / f"BloodImage_{i:05d}_1.jpg", 50_000 + 100 * c + i)


def numbered(root: Path, name: str, table: str, count: int = 10) -> Path:
    lines = ["image ID,class label"]
    for i in range(1, count + 1):
        write_image(root / name / f"{i:03d}.bmp", 90_000 + i)
        lines.append(f"{i},{1 + i % 5}")
    path = root / name / table
    path.write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    return path


def jtsc(root: Path, count: int = 10) -> Path:
    return numbered(root, "jtsc", "Class Labels of Dataset 1.csv", count)


def bccd(root: Path, per_class: int = 10) -> None:
    for p, part in enumerate(("TRAIN", "TEST", "TEST_SIMPLE")):
        for c, label in enumerate(LEUKOCYTES[1:]):
            for i in range(per_class):
                folder = root / "bccd/images" / part / label.upper()
                write_image(folder / f"_{i}_{c}.jpeg", 10_000 * (p + 1) + 100 * c + i)
