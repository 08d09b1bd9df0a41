"""How gains, confusions, reliability, training curves and probabilities are drawn. Floor 6; no torch.

Each function takes plain figures and gives a picture; `drawing.own_style` has to be in force. Colours are Okabe and
Ito's, and nothing is told by colour alone: markers, line styles and hollow marks say it as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdbench.report.drawing import COLOURS, FAINT, INK, MARKERS, clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 9.0  # inches: 800 pixels at the size of a page
_LEFT = 0.85
_LONGEST = 60  # characters of a name beside a bar
_DASHES: tuple[Any, ...] = ((0, (1, 1.2)), "solid", (0, (5, 1.8)))  # of the trainings of one student
_TIMES = 4.0  # an axis of gains reaches so many times the largest gain, whatever the intervals are


@dataclass(frozen=True)
class Gain:
    """One bar; fractions. `significant` is None where it was not tested."""

    name: str
    gain: float
    interval: tuple[float, float] | None
    significant: bool | None


@dataclass(frozen=True)
class Confusion:
    """Shares (K, K) of the images of each true class (row) that are taken for each class (column)."""

    name: str
    classes: tuple[str, ...]
    shares: np.ndarray


@dataclass(frozen=True)
class Reliability:
    """By bin of confidence, all of equal width: its images, their mean confidence, and the share that is right."""

    name: str
    counts: np.ndarray
    confidence: np.ndarray
    right: np.ndarray


@dataclass(frozen=True)
class Curves:
    """Of each seed: epochs, training loss, validation loss, validation accuracy."""

    name: str
    seeds: tuple[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], ...]


@dataclass(frozen=True)
class Spread:
    """One training of a student: the probabilities it gives to the true class, by that class, ascending.

    Attributes:
        entropy: mean over the images, nats.
    """

    name: str
    entropy: float
    of_truth: dict[str, np.ndarray]


@dataclass(frozen=True)
class Trainings:
    """One student that was trained in several ways: alone, and by teachers of two kinds."""

    name: str
    spreads: tuple[Spread, ...]


@dataclass(frozen=True)
class Stop:
    """A network on its way from trained to shipped; `parent` is the place of what it was before, None at the begin.

    `kind` is trained, pruned or int8; the accuracy is a fraction, with its 95 % interval where that is known.
    """

    kind: str
    parent: int | None
    bytes: float | None
    latency_ms: float | None
    accuracy: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Descent:
    """A trained network, and what became of it."""

    name: str
    stops: tuple[Stop, ...]


_STOP_MARKERS = {"trained": "o", "pruned": "s", "int8": "^"}


def draw_descents(title: str, found: Sequence[Descent], way: str) -> Figure:
    """Accuracy against bytes and, where it was measured, latency: an arrow for each step of a compression.

    Args: way: what the latencies were measured with; "" where there are none.
    """
    costs = [("network (MB)", lambda stop: None if stop.bytes is None else stop.bytes / 1e6)]
    costs += [(f"latency of one image in {way} (ms)", lambda stop: stop.latency_ms)] if way else []
    kinds = [kind for kind in _STOP_MARKERS if any(stop.kind == kind for one in found for stop in one.stops)]
    head, foot, height = _head([one.name for one in found] + kinds), 0.95, 5.6
    figure = _figure(height)
    room = (_WIDTH - _LEFT - 0.3) / len(costs)
    shared = None
    for number, (label, cost) in enumerate(costs):
        x = _LEFT + number * room
        box = (x / _WIDTH, foot / height, (room - 0.3) / _WIDTH, (height - head - foot) / height)
        axes = figure.add_axes(box, sharey=shared) if shared is not None else figure.add_axes(box)
        for place, one in enumerate(found):
            _descend(axes, one, COLOURS[place % len(COLOURS)], cost)
        axes.set_xscale("log")
        _round_log_ticks(axes)
        axes.set_xlabel(label)
        _plain(axes, "both")
        if shared is None:
            axes.set_ylabel("test accuracy (%)")
            _percent_ticks(axes, "y")
            shared = axes
        else:
            axes.tick_params(labelleft=False)
    _title(figure, "What compression cost and brought", title, height)
    _descent_key(figure, found, kinds, height)
    bars = (
        " Bars: the 95 % interval of the accuracy." if any(stop.interval for one in found for stop in one.stops) else ""
    )
    _note(figure, f"An arrow is one step, its fine-tuning included; further left is cheaper.{bars}", height)
    return figure


def _descend(axes: Axes, one: Descent, colour: str, cost: Callable[[Stop], float | None]) -> None:
    for stop in one.stops:
        x = cost(stop)
        if x is None:
            continue
        if stop.interval is not None:
            axes.plot([x, x], stop.interval, color=colour, linewidth=1.0, alpha=0.6, zorder=2)
        axes.plot([x], [stop.accuracy], marker=_STOP_MARKERS[stop.kind], color=colour, markersize=7,
                  markeredgecolor="white", markeredgewidth=0.8, zorder=4, linestyle="none")  # fmt: skip
        before = cost(one.stops[stop.parent]) if stop.parent is not None else None
        if before is not None and stop.parent is not None:
            start = (before, one.stops[stop.parent].accuracy)
            axes.annotate("", (x, stop.accuracy), start, zorder=3,
                          arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 1.2, "shrinkA": 5,
                                      "shrinkB": 5, "alpha": 0.8})  # fmt: skip


def _round_log_ticks(axes: Axes) -> None:
    """1, 2 and 5 of each power of ten, as numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _descent_key(figure: Figure, found: Sequence[Descent], kinds: Sequence[str], height: float) -> None:
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=COLOURS[place % len(COLOURS)], linewidth=2.5, label=clean(one.name))
        for place, one in enumerate(found)
    ]
    marks = [
        Line2D([], [], color=INK, marker=_STOP_MARKERS[kind], linestyle="none", markersize=6, label=kind)
        for kind in kinds
    ]
    labels = [str(handle.get_label()) for handle in lines + marks]
    figure.legend(handles=lines + marks, loc="upper left", bbox_to_anchor=(0.3 / _WIDTH, 1 - 0.68 / height),
                  frameon=False, ncols=_columns(labels), fontsize=8.5, borderpad=0, borderaxespad=0,
                  columnspacing=1.4)  # fmt: skip


def draw_gains(title: str, gains: Sequence[Gain]) -> Figure:
    """Horizontal bars, the largest gain on top, each with its interval; what reaches beyond the axis has an arrow."""
    ordered = sorted(gains, key=lambda gain: (gain.gain, gain.name))
    row, head, foot = 0.24, 0.95, 0.85
    height = head + foot + row * max(len(ordered), 3)
    figure = _figure(height)
    longest = max(len(clean(gain.name, _LONGEST)) for gain in ordered)
    left = min(4.5, max(1.2, 0.35 + 0.068 * longest))
    axes = figure.add_axes((left / _WIDTH, foot / height, (_WIDTH - left - 0.55) / _WIDTH, 1 - (head + foot) / height))
    largest = max(0.01, *(abs(gain.gain) for gain in ordered))
    ends = [end for gain in ordered for end in (*(gain.interval or ()), gain.gain, 0.0)]
    low, high = max(min(ends), -_TIMES * largest), min(max(ends), _TIMES * largest)
    room = 0.04 * (high - low)
    low, high = low - room, high + room
    for place, gain in enumerate(ordered):
        colour = {True: COLOURS[0], False: "white", None: "#C9C9C9"}[gain.significant]
        axes.barh(place, gain.gain, height=0.62, color=colour, edgecolor=COLOURS[0] if gain.significant is not None else
                  "#9A9A9A", linewidth=1.0, zorder=2)  # fmt: skip
        if gain.interval is not None:
            _whisker(axes, place, gain.interval, (low, high))
    axes.axvline(0, color=INK, linewidth=1.0, zorder=3)
    axes.set_yticks(range(len(ordered)), [clean(gain.name, _LONGEST) for gain in ordered], fontsize=8)
    axes.set_ylim(-0.6, len(ordered) - 0.4)
    axes.set_xlim(low, high)
    axes.set_xlabel("gain over training alone (points)")
    axes.tick_params(axis="y", length=0, labelcolor=INK, pad=8)
    _percent_ticks(axes, "x")
    _plain(axes, "x")
    _title(figure, "What distillation bought", title, height)
    known = {gain.significant for gain in ordered}
    _key(
        figure,
        [
            *([("significant (p < 0.05, Holm)", COLOURS[0], COLOURS[0])] if True in known else []),
            *([("not significant", "white", COLOURS[0])] if False in known else []),
            *([("not tested", "#C9C9C9", "#9A9A9A")] if None in known else []),
        ],
        height,
    )
    if any(gain.interval for gain in ordered):
        _note(
            figure,
            "Lines: 95 % interval of the gain, not adjusted for their number; an arrow: it reaches further.",
            height,
        )
    return figure


def draw_confusions(title: str, found: Sequence[Confusion]) -> Figure:
    """A matrix for each network, two in a row; figures in percent of the true class."""
    columns = min(2, len(found))
    rows = -(-len(found) // columns)
    most = max(len(one.classes) for one in found)
    cell, head, foot = 3.1, 0.6, 0.3
    above, below = 0.4, 1.05
    height = head + foot + rows * (cell + above + below)
    figure = _figure(height)
    for number, one in enumerate(found):
        across, down = number % columns, number // columns
        x = 1.25 + across * (_WIDTH - 0.3) / 2
        y = height - head - (down + 1) * (cell + above + below) + below
        axes = figure.add_axes((x / _WIDTH, y / height, cell / _WIDTH, cell / height))
        axes.imshow(one.shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
        size = 8.5 if most <= 6 else 6.5 if most <= 9 else 5
        for true in range(len(one.classes)):
            for said in range(len(one.classes)):
                share = one.shares[true, said]
                if np.isfinite(share) and (share >= 0.0005 or true == said) and most <= 12:
                    axes.text(said, true, f"{100 * share:.{1 if share < 0.9995 else 0}f}", ha="center", va="center",
                              fontsize=size, color="white" if share > 0.55 else INK)  # fmt: skip
        names = [clean(name, 16) for name in one.classes]
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.tick_params(length=0, labelcolor=INK)
        axes.set_xlabel("taken for", fontsize=8.5)
        axes.set_ylabel("is", fontsize=8.5)
        axes.set_title(clean(one.name, 54), fontsize=8, loc="left", color=INK, pad=6)
        for side in axes.spines.values():
            side.set_visible(False)
    _title(figure, "What each class is taken for", title, height)
    _note(
        figure, "Percent of the test images of the true class, over all seeds; below 0.05 nothing is written.", height
    )
    return figure


def draw_reliability(title: str, found: Sequence[Reliability], least: int) -> Figure:
    """Share that is right against confidence, and how often each confidence is given, below.

    Args: least: images that a bin needs for a point.
    """
    head, foot, height = _head([one.name for one in found] + ["as it should be"]), 0.85, 7.9
    figure = _figure(height)
    inner = _WIDTH - _LEFT - 0.35
    strip, gap = 1.15, 0.15
    upper = figure.add_axes(
        (_LEFT / _WIDTH, (foot + strip + gap) / height, inner / _WIDTH, (height - head - foot - strip - gap) / height)
    )
    lower = figure.add_axes((_LEFT / _WIDTH, foot / height, inner / _WIDTH, strip / height), sharex=upper)
    first = 1.0
    for number, one in enumerate(found):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        shown = one.counts >= least
        upper.plot(one.confidence[shown], one.right[shown], color=colour, marker=marker, markersize=5.5, linewidth=1.4,
                   label=clean(one.name))  # fmt: skip
        edges = np.linspace(0, 1, len(one.counts) + 1)
        lower.stairs(one.counts / one.counts.sum(), edges, color=colour, linewidth=1.4)
        first = min(first, float(edges[:-1][one.counts > 0].min()))
    upper.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=1, label="as it should be")
    upper.set_ylim(0, 1.02)
    upper.set_xlim(max(0.0, first - 0.02), 1.01)
    lower.set_ylim(0, None)
    upper.set_ylabel("right (%)")
    lower.set_ylabel("images (%)")
    lower.set_xlabel("confidence (%)")
    upper.tick_params(labelbottom=False)
    for axes in (upper, lower):
        _percent_ticks(axes, "y")
        _plain(axes, "both")
    _percent_ticks(lower, "x")
    _title(figure, "Does 90 % confidence mean 90 % right?", title, height)
    _legend(figure, upper, height)
    _note(figure, f"Bins of equal width, over all seeds; bins of fewer than {least} images have no point.", height)
    return figure


def draw_curves(title: str, found: Sequence[Curves]) -> Figure:
    """Validation accuracy, and losses, by epoch: a thin line for each seed."""
    head, foot, height = _head([one.name for one in found]), 0.85, 5.4
    figure = _figure(height)
    width = (_WIDTH - 2 * _LEFT - 0.3) / 2
    boxes = [(_LEFT + side * (width + _LEFT), foot, width, height - head - foot) for side in (0, 1)]
    accuracy, loss = (
        figure.add_axes((x / _WIDTH, y / height, wide / _WIDTH, high / height)) for x, y, wide, high in boxes
    )
    for number, one in enumerate(found):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        for seed, (epochs, train_loss, val_loss, val_accuracy) in enumerate(one.seeds):
            every = max(1, len(epochs) // 8)
            accuracy.plot(epochs, val_accuracy, color=colour, linewidth=1.2, alpha=0.9, marker=marker, markersize=4,
                          markevery=(number % every, every), label=clean(one.name) if seed == 0 else None)  # fmt: skip
            loss.plot(epochs, val_loss, color=colour, linewidth=1.2, alpha=0.9, marker=marker, markersize=4,
                      markevery=(number % every, every))  # fmt: skip
            loss.plot(epochs, train_loss, color=colour, linewidth=1.0, alpha=0.7, linestyle=(0, (4, 2)))
    accuracy.set_ylabel("validation accuracy (%)")
    loss.set_ylabel("loss (nats)")
    _percent_ticks(accuracy, "y")
    losses = [value for one in found for _, *pair, _ in one.seeds for line in pair for value in line]
    loss.set_ylim(0, 1.05 * float(np.quantile(losses, 0.98)))  # the first epochs may be far above all others
    for axes in (accuracy, loss):
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        _plain(axes, "both")
    _title(figure, "Training", title, height)
    _legend(figure, accuracy, height)
    _note(
        figure,
        "A line for each seed. Losses: dashed of the training, its teacher's terms included; solid: cross-entropy of "
        "the validation images.",
        height,
    )
    return figure


def draw_spreads(title: str, found: Sequence[Trainings], across: int) -> Figure:
    """For each student a panel for each true class: the share of its images that get no more than a probability.

    Args: across: panels in a row.
    """
    cell, gap, head, foot = 1.55, 0.68, 0.75, 0.45
    above = 0.66  # of each student: its name and its legend
    lines = [-(-len(one.spreads[0].of_truth) // across) for one in found]
    height = head + foot + sum(above + many * (cell + gap) for many in lines)
    figure = _figure(height)
    width = (_WIDTH - _LEFT - 0.3 + 0.15) / across - 0.15
    top = height - head
    for one, many in zip(found, lines, strict=True):
        figure.text(_LEFT / _WIDTH, top / height, clean(one.name, 90), fontsize=9.5, fontweight="bold", va="top")
        for place, label in enumerate(one.spreads[0].of_truth):
            down, right = divmod(place, across)
            y = top - above - (down + 1) * cell - down * gap
            x = _LEFT + right * (width + 0.15)
            axes = figure.add_axes((x / _WIDTH, y / height, width / _WIDTH, cell / height))
            _steps(axes, label, one.spreads)
            axes.tick_params(labelleft=right == 0)
            if right == 0:
                axes.set_ylabel("images (%)")
            if place + across >= len(one.spreads[0].of_truth):
                axes.set_xlabel("probability of the truth", fontsize=8)
            if place == 0:
                figure.legend(*axes.get_legend_handles_labels(), loc="upper left", frameon=False, ncols=3, fontsize=8.5,
                              bbox_to_anchor=(_LEFT / _WIDTH, (top - 0.2) / height), borderpad=0, borderaxespad=0,
                              handlelength=2.6, columnspacing=1.6)  # fmt: skip
        top -= above + many * (cell + gap)
    _title(figure, "How sure of the truth: alone, from a CNN, from a ViT", title, height)
    _note(
        figure,
        "Share of each class's test images, over all seeds, that get at most that probability of the true class: the "
        "lower the line, the better. In nats: the mean entropy.",
        height,
    )
    return figure


# ---------------------------------------------------------------- parts


def _steps(axes: Axes, label: str, spreads: Sequence[Spread]) -> None:
    """The distribution function of each training, on [0, 1]."""
    places = np.linspace(0, 1, 201)  # finer than a pixel, and far less to write than a step for each image
    for number, spread in enumerate(spreads):
        values = spread.of_truth[label]
        axes.plot(places, np.searchsorted(values, places, side="right") / len(values), color=COLOURS[number],
                  linestyle=_DASHES[number % len(_DASHES)], linewidth=1.6,
                  label=f"{clean(spread.name, 40)}: {spread.entropy:.2f} nats")  # fmt: skip
    axes.set_title(clean(label, 20), fontsize=8.5, loc="left", pad=3)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xticks((0.0, 0.5, 1.0), ("0", "0.5", "1"))
    axes.set_yticks((0.0, 0.5, 1.0))
    _percent_ticks(axes, "y")
    _plain(axes, "both")


def _figure(height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _title(figure: Figure, what: str, of: str, height: float) -> None:
    figure.text(0.3 / _WIDTH, 1 - 0.18 / height, what, fontsize=13, fontweight="bold", va="top")
    figure.text(0.3 / _WIDTH, 1 - 0.44 / height, clean(of, 110), fontsize=9, color=FAINT, va="top")


def _note(figure: Figure, text: str, height: float) -> None:
    figure.text(0.3 / _WIDTH, 0.12 / height, text, fontsize=7.5, color=FAINT, va="bottom")


def _key(figure: Figure, entries: Sequence[tuple[str, str, str]], height: float) -> None:
    """What the fill of a bar says."""
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=face, edgecolor=edge, label=text) for text, face, edge in entries]
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.3 / _WIDTH, 1 - 0.66 / height), frameon=False,
                  ncols=3, fontsize=8.5, borderpad=0, borderaxespad=0, handlelength=1.4, columnspacing=1.4)  # fmt: skip


def _columns(labels: Sequence[str]) -> int:
    """Of a legend that is no wider than the picture."""
    return 2 if max(map(len, labels), default=0) > 34 else 3


def _head(labels: Sequence[str]) -> float:
    """Inches above a panel: title, legend, some air."""
    return 0.95 + 0.185 * -(-len(labels) // _columns([clean(label) for label in labels]))


def _legend(figure: Figure, axes: Axes, height: float) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = _columns(labels)
    figure.legend(handles, labels, loc="upper left", bbox_to_anchor=(0.3 / _WIDTH, 1 - 0.68 / height), frameon=False,
                  ncols=columns, fontsize=8.5, borderpad=0, borderaxespad=0, columnspacing=1.4)  # fmt: skip


def _plain(axes: Axes, lines: str) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis=lines, color="#E6E6E6", linewidth=0.7)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def _percent_ticks(axes: Axes, which: str) -> None:
    from matplotlib.ticker import FuncFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}"))


def _whisker(axes: Axes, place: float, ends: tuple[float, float], limits: tuple[float, float]) -> None:
    """A line with caps; an arrow where it reaches beyond the axis."""
    low, high = max(ends[0], limits[0]), min(ends[1], limits[1])
    axes.plot([low, high], [place, place], color=INK, linewidth=1.2, zorder=4, solid_capstyle="butt")
    for end, cut, arrow in ((low, ends[0] < limits[0], "<"), (high, ends[1] > limits[1], ">")):
        axes.plot([end], [place], marker=arrow if cut else "|", color=INK, markersize=5, zorder=4, clip_on=False)
