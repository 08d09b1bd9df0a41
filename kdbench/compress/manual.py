"""The README of an exported folder: what it is, and a program that uses it without kdbench. Floor 4."""

from __future__ import annotations

from kdbench.compress.artefact import LABELS, ONNX, WEIGHTS, ExportRecord, Preprocessing

_RESIZE = {
    "crop": """side = max(1, round(min(image.size){part}))
left, top = (image.width - side) // 2, (image.height - side) // 2
image = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))""",
    "stretch": "image = image.resize((size, size), Image.Resampling.BICUBIC)",
    "pad": """edge = np.asarray(image)
edge = np.concatenate([edge[0], edge[-1], edge[:, 0], edge[:, -1]]).mean(axis=0).round()
image = ImageOps.pad(image, (size, size), Image.Resampling.BICUBIC, color=tuple(int(value) for value in edge))""",
}

_PROGRAM = """import json, sys
import numpy as np, onnxruntime
from PIL import Image, ImageOps

image, size = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB"), {size}
{resize}
pixels = np.asarray(image, np.float32) / 255
pixels = ((pixels - {mean}) / {std}).astype(np.float32).transpose(2, 0, 1)[None]
logits = onnxruntime.InferenceSession("{onnx}").run(["logits"], {{"image": pixels}})[0][0]
probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
print(dict(zip(json.load(open("{labels}")), probabilities.astype(float).round(4).tolist())))
"""

_WITH_KDBENCH = """import sys
import kdbench

found = kdbench.load_export(".").predict([sys.argv[1]])
print(dict(zip(found.labels, found.probabilities[0].round(4).tolist())))
"""


def program(preprocessing: Preprocessing) -> str:
    """Python that asks the network of one image file, with onnxruntime, numpy and Pillow alone; run in the folder."""
    part = "" if preprocessing.crop_fraction == 1 else f" * {preprocessing.crop_fraction}"
    resize = _RESIZE[preprocessing.fit].format(part=part)
    return _PROGRAM.format(
        size=preprocessing.image_size,
        resize=resize,
        mean=list(preprocessing.mean),
        std=list(preprocessing.std),
        onnx=ONNX,
        labels=LABELS,
    )


def manual(about: ExportRecord, labels: tuple[str, ...], preprocessing: Preprocessing, has_onnx: bool) -> str:
    """The page, as Markdown. Where stain is normalised, or there is no ONNX file, the program needs kdbench."""
    plain = has_onnx and preprocessing.stain == "none"
    taught = f", taught by {' and '.join(about.teachers)}" if about.teachers else ""
    needs = "numpy, Pillow and onnxruntime" if plain else f"kdbench {about.kdbench}"
    lines = [
        f"# {about.title}",
        "",
        f"{about.model.name}, trained with {about.method}{taught} on {about.dataset}: "
        f"{about.test_accuracy:.2%} of {about.test_images} test images right.",
        *([f"Some of these may have been known to it: {about.leak}."] if about.leak else []),
        "",
        f"It tells {', '.join(labels)} apart, and calls everything one of these. It was made to compare networks, not "
        "to decide about patients.",
        "",
        f"Run in this folder, with {needs}, as `python ask.py image.png`:",
        "",
        "```python",
        (program(preprocessing) if plain else _WITH_KDBENCH).rstrip(),
        "```",
        "",
        f"Or with kdbench: `kdbench predict . image.png`. Files of 16 bits a channel kdbench brings to 8 first"
        f"{', and every image to one stain' if preprocessing.stain != 'none' else ''}.",
        "",
        "How an image becomes what the network sees (`preprocessing.json`):",
        "",
        *(f"{number}. {step}" for number, step in enumerate(preprocessing.steps, start=1)),
        "",
        f"- {'Network, in int8' if about.quantised else 'Weights'}: `{ONNX if about.quantised else WEIGHTS}`; run "
        f"{about.run_id}, kdbench {about.kdbench}.",
        f"- Architecture: {about.citation}; licence {about.licence}.",
        *(
            f"- Images: {source}, licence {licence}; {about.data_citations.get(source, '')}".rstrip("; ")
            for source, licence in about.data_licences.items()
        ),
        *([f"- {ONNX} against {about.compared_with}: probabilities differ by "
           f"{about.parity.max_abs_difference:.1g} at most, {about.parity.top1_agreement:.1%} of the answers agree "
           f"({about.parity.images} {about.parity.of})."]
          if about.parity else []),
        *(f"- Note: {note}." for note in about.notes),
        "- SHA-256 of every file, and the whole recipe: `export.json`.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
