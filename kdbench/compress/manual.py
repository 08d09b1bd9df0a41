"""The README of an exported folder: what it is, and a program that uses it without kdbench. Floor 4."""

from __future__ import annotations

from collections.abc import Collection

from kdbench.compress.artefact import FILES, IR, LABELS, ONNX, PROGRAM, ExportRecord, Format, Preprocessing

_RESIZE = {
    "crop": """side = max(1, round(min(image.size){part}))
left, top = (image.width - side) // 2, (image.height - side) // 2
image = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))""",
    "stretch": "image = image.resize((size, size), Image.Resampling.BICUBIC)",
    "pad": """edge = np.asarray(image)
edge = np.concatenate([edge[0], edge[-1], edge[:, 0], edge[:, -1]]).mean(axis=0).round()
image = ImageOps.pad(image, (size, size), Image.Resampling.BICUBIC, color=tuple(int(value) for value in edge))""",
}

_PROGRAM_OF_ALL = """import json, sys
import numpy as np, {library}
from PIL import Image, ImageOps

image, size = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB"), {size}
{resize}
{prepare}
logits = {ask}
probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
print(dict(zip(json.load(open("{labels}")), probabilities.astype(float).round(4).tolist())))
"""

_PREPARE = {
    "image": """pixels = np.asarray(image, np.float32) / 255
pixels = ((pixels - {mean}) / {std}).astype(np.float32).transpose(2, 0, 1)[None]""",
    "pixels": "pixels = np.asarray(image)[None]",
}

_ASK: dict[Format, tuple[str, str]] = {
    "onnx": (
        "onnxruntime",
        f'onnxruntime.InferenceSession("{ONNX}").run(["logits"], {{{{"{{takes}}": pixels}}}})[0][0]',
    ),
    "openvino": (
        "openvino",
        f'openvino.Core().compile_model("{IR}", "CPU", {{{{"INFERENCE_PRECISION_HINT": "f32"}}}})(pixels)[0][0]',
    ),
    "torch": ("torch", f'torch.export.load("{PROGRAM}").module()(torch.from_numpy(pixels))[0].detach().numpy()'),
}
"""By format: the library that runs it, and how it is asked."""

_WITH_KDBENCH = """import sys
import kdbench

found = kdbench.load_export(".").predict([sys.argv[1]])
print(dict(zip(found.labels, found.probabilities[0].round(4).tolist())))
"""

_STAINED_PROGRAM = f"""import sys, torch
from kdbench.compress.artefact import read_export
from kdbench.data.source import read_image

export = read_export(".")
pixels = export.preprocessing.pixels(read_image(sys.argv[1]))
images = torch.from_numpy(export.preprocessing.normalised(pixels[None]))
probabilities = torch.export.load("{PROGRAM}").module()(images)[0].softmax(0)
print(dict(zip(export.labels, probabilities.tolist())))
"""


def program(preprocessing: Preprocessing, form: Format = "onnx") -> str:
    """Python that asks the network of one image file, with numpy, Pillow and a runtime alone; run in the folder."""
    takes = "image" if form == "torch" else preprocessing.onnx_input
    library, ask = _ASK[form]
    part = "" if preprocessing.crop_fraction == 1 else f" * {preprocessing.crop_fraction}"
    return _PROGRAM_OF_ALL.format(
        library=library,
        size=preprocessing.image_size,
        resize=_RESIZE[preprocessing.fit].format(part=part),
        prepare=_PREPARE[takes].format(mean=list(preprocessing.mean), std=list(preprocessing.std)),
        ask=ask.format(takes=takes),
        labels=LABELS,
    )


def manual(
    about: ExportRecord, labels: tuple[str, ...], preprocessing: Preprocessing, networks: Collection[str]
) -> str:
    """The page, as Markdown. Where stain is normalised, or there are weights alone, the program needs kdbench.

    Args:
        networks: the files with the network.
    """
    able: list[Format] = [form for form, file in _RUNNABLE.items() if file in networks]
    plain = able[0] if able and preprocessing.stain == "none" else None
    taught = f", taught by {' and '.join(about.teachers)}" if about.teachers else ""
    taught += f", then compressed ({', '.join(about.stages)})" if about.stages else ""
    needs = f"numpy, Pillow and {_ASK[plain][0]}" if plain else f"kdbench {about.kdbench}"
    alone = set(networks) == {PROGRAM}
    asking = program(preprocessing, plain) if plain else _STAINED_PROGRAM if alone else _WITH_KDBENCH
    with_kdbench = "" if alone else "Or with kdbench: `kdbench predict . image.png`. "
    kind = "int8" if about.quantised else about.weights
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
        asking.rstrip(),
        "```",
        "",
        f"{with_kdbench}Files of 16 bits a channel kdbench brings to 8 first"
        f"{', and every image to one stain' if preprocessing.stain != 'none' else ''}.",
        "",
        "How an image becomes what the network sees (`preprocessing.json`):",
        "",
        *(f"{number}. {step}" for number, step in enumerate(preprocessing.steps, start=1)),
        "",
        f"- Network, its weights in {kind}: {', '.join(f'`{name}`' for name in sorted(networks))}; run {about.run_id}, "
        f"kdbench {about.kdbench}.",
        *([_UNPICKLES] if PROGRAM in networks else []),
        f"- Architecture: {about.citation}; licence {about.licence}.",
        *(
            f"- Images: {source}, licence {licence}; {about.data_citations.get(source, '')}".rstrip("; ")
            for source, licence in about.data_licences.items()
        ),
        *(
            f"- {FILES[form][0]} against {parity.against}: probabilities differ by {parity.max_abs_difference:.1g} at "
            f"most, {parity.top1_agreement:.1%} of the answers agree ({parity.images} {parity.of})."
            for form, parity in about.parities.items()
        ),
        *(f"- Note: {note}." for note in about.notes),
        "- SHA-256 of every file, and the whole recipe: `export.json`.",
    ]
    return "\n".join(lines) + "\n"


_RUNNABLE: dict[Format, str] = {"onnx": ONNX, "openvino": IR, "torch": PROGRAM}
"""In the order in which the program takes them."""

_UNPICKLES = (
    f"- `{PROGRAM}` is opened by `torch.export.load`, which unpickles, and so can run anything: open it only if it "
    "comes from someone you trust. kdbench does not open it."
)
