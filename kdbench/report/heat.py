"""A picture of what an answer rests on: the image as the network sees it, and a map over it. Floor 6; no torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdbench.errors import UnknownName
from kdbench.report.drawing import own_style
from kdbench.report.plots import SUFFIXES
from kdbench.store import write_atomic

_LEAST_SCALE = 0.01
"""Of probability: a map that stays below it is drawn pale, not blown up to full colour."""


def check_picture(out: Path) -> None:
    """Raises: UnknownName, if no picture can be called that."""
    if out.suffix.lower() not in SUFFIXES:
        raise UnknownName("kind of picture", out.suffix or out.name, SUFFIXES)


def draw_heat(
    pixels: np.ndarray, heat: np.ndarray, name: str, answers: Sequence[tuple[str, float]], below: str, out: Path
) -> None:
    """Write the picture.

    Args:
        pixels: (S, S, 3) uint8.
        heat: (S, S), the probability that the first answer loses where the image is covered.
        name: of the image.
        answers: classes with their probabilities, the most probable one first.
        below: a line for the bottom, as of which network it is.
        out: an .svg or .png file.
    Raises: UnknownName, if it is no such file.
    """
    check_picture(out)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    most = max(float(np.abs(heat).max()), _LEAST_SCALE)
    with own_style():
        figure = Figure(figsize=(9.0, 4.9), dpi=100, facecolor="white")
        FigureCanvasAgg(figure)
        figure.text(0.03, 0.965, name, fontsize=13, fontweight="bold", va="top")
        figure.text(0.03, 0.905, "   ".join(f"{label} {share:.1%}" for label, share in answers), fontsize=9, va="top")
        left = figure.add_axes((0.03, 0.11, 0.385, 0.7))
        right = figure.add_axes((0.435, 0.11, 0.385, 0.7))
        left.set_title("what the network sees", loc="left", fontsize=9)
        right.set_title(f"what '{answers[0][0]}' rests on", loc="left", fontsize=9)
        for axes in (left, right):
            axes.set_xticks([])
            axes.set_yticks([])
        left.imshow(pixels, interpolation="nearest")
        # grey below: the colours of the map must not mix with those of the stain
        right.imshow(pixels @ np.asarray([0.299, 0.587, 0.114]), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        alpha = 0.75 * (np.abs(heat) / most) ** 0.7
        right.imshow(heat, cmap="RdBu_r", vmin=-most, vmax=most, alpha=alpha, interpolation="bilinear")
        scale = figure.add_axes((0.845, 0.11, 0.022, 0.7))
        scale.imshow(
            np.linspace(most, -most, 256)[:, None], cmap="RdBu_r", aspect="auto", extent=(0, 1, -most, most)
        )  # fmt: skip
        scale.set_xticks([])
        scale.yaxis.tick_right()
        scale.yaxis.set_label_position("right")
        scale.set_ylabel("probability lost when covered\n(below 0: gained)")
        figure.text(0.03, 0.06, below, fontsize=7.5, va="top", color="#6B6B6B")
        content = io.BytesIO()
        if out.suffix.lower() == ".svg":
            figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
        else:
            figure.savefig(content, format="png", dpi=150, metadata={"Software": None})
    write_atomic(out, content.getvalue())
