"""How a picture of points is drawn: panels, legend, names that do not lie on one another. Floor 6; no torch.

matplotlib is imported late, and without pyplot: nothing of it is left behind in the caller's process.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis as MatplotlibAxis
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.transforms import Bbox

# Okabe and Ito's colours, which colour-blind readers tell apart; without yellow, which is too pale on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")  # another number than the colours: pairs repeat late
INK, FAINT = "#222222", "#6B6B6B"
_MOST_NAMES = 30  # in a panel; more of them cannot be read
_LONGEST_NAME = 60  # characters

_LEGEND_COLUMNS = 4

# inches
_WIDTH, _PANEL, _HEADER, _LEGEND_ROW, _FOOTER = 9.0, 5.0, 0.55, 0.2, 0.5
_LEFT, _RIGHT, _BELOW, _ABOVE = 0.85, 0.3, 0.6, 0.35


@dataclass(frozen=True)
class Point:
    """One model under one setting.

    Attributes:
        model: what it is one of; several rows may be trainings of one model.
        x_bar, y_bar: the ends of the bars: a latency's 95 % interval; an accuracy's, or ± its standard deviation.
        ranked: whether it may stand on the front; teachers do not.
        interval: whether the bar of the accuracy is its 95 % interval.
    """

    name: str
    model: str
    x: float
    y: float
    x_bar: tuple[float, float] | None = None
    y_bar: tuple[float, float] | None = None
    unstable: bool = False
    ranked: bool = True
    interval: bool = False


@dataclass(frozen=True)
class Panel:
    """One data set, or image size, on one machine: its points by how they were run."""

    heading: str
    series: Mapping[str, Sequence[Point]]


@dataclass(frozen=True)
class Axis:
    """One of the two quantities of a picture.

    Attributes:
        tick: a round number as its tick shows it.
        least, most: limits that the axis does not pass, for one that is not logarithmic.
        front: whether more of it is better, so that a front over the other axis says something.
    """

    title: str
    log: bool
    tick: Callable[[float], str]
    least: float = -math.inf
    most: float = math.inf
    front: bool = False


@contextmanager
def own_style() -> Iterator[None]:
    """Our own settings of matplotlib and none of the user's; put back afterwards."""
    import matplotlib

    own: dict[Any, Any] = {
        key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")
    }
    own |= {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "kdbench",  # ids do not change from one drawing to the next
        "text.parse_math": False,  # a $ in a name is a $
        "font.size": 9,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
    }
    with matplotlib.rc_context(own):
        yield


def draw(found: Sequence[Panel], x: Axis, y: Axis, title: str) -> Figure:
    """One below the other, with one legend; `own_style` has to be in force."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    styles = _styles(found)
    entries = _legend_entries(found, styles)
    legend_rows = -(-len(entries) // _LEGEND_COLUMNS)
    height = _HEADER + _LEGEND_ROW * legend_rows + _PANEL * len(found) + _FOOTER
    figure = Figure(figsize=(_WIDTH, height), dpi=100, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    figure.text(_LEFT / _WIDTH, 1 - 0.2 / height, title, fontsize=13, fontweight="bold", va="top")
    if entries:
        figure.legend(
            *zip(*entries, strict=True), loc="upper left", bbox_to_anchor=(_LEFT / _WIDTH, 1 - 0.48 / height),
            bbox_transform=figure.transFigure, ncols=_LEGEND_COLUMNS, frameon=False, borderpad=0, borderaxespad=0,
            handletextpad=0.2, columnspacing=1.4, handlelength=1.2,
        )  # fmt: skip
    left_out = 0
    for number, panel in enumerate(found):
        bottom = _FOOTER + _PANEL * (len(found) - 1 - number) + _BELOW
        inner = (_WIDTH - _LEFT - _RIGHT, _PANEL - _BELOW - _ABOVE)
        axes = figure.add_axes((_LEFT / _WIDTH, bottom / height, inner[0] / _WIDTH, inner[1] / height))
        left_out += _draw_panel(axes, panel, x, y, styles, canvas.get_renderer())
    notes = _notes(found, y, left_out)
    figure.text(_LEFT / _WIDTH, _FOOTER / height, notes, fontsize=7.5, color=FAINT, va="top", linespacing=1.4)
    return figure


def _styles(found: Sequence[Panel]) -> dict[str, tuple[str, str]]:
    """Colour and marker by series: the same in every panel."""
    names = sorted({name for panel in found for name in panel.series})
    return {name: (COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]) for number, name in enumerate(names)}


def _legend_entries(found: Sequence[Panel], styles: Mapping[str, tuple[str, str]]) -> list[tuple[Line2D, str]]:
    from matplotlib.lines import Line2D

    def handle(colour: str, marker: str, filled: bool = True) -> Line2D:
        face = colour if filled else "white"
        return Line2D([], [], linestyle="", marker=marker, markersize=6.5, color=colour, markerfacecolor=face)

    entries = [(handle(*style), clean(name)) for name, style in styles.items() if name]
    if any(point.unstable for panel in found for points in panel.series.values() for point in points):
        entries.append((handle(FAINT, "o", filled=False), "unstable"))
    return entries


def _notes(found: Sequence[Panel], y: Axis, left_out: int) -> str:
    points = [point for panel in found for series in panel.series.values() for point in series]
    notes = []
    bars = [
        *(["the 95 % interval of the median latency"] if any(point.x_bar for point in points) else []),
        *(["the 95 % interval of the accuracy"] if any(point.y_bar and point.interval for point in points) else []),
        *(
            ["the sample standard deviation of the accuracy over seeds"]
            if any(point.y_bar and not point.interval for point in points)
            else []
        ),
    ]
    if bars:
        notes.append(f"Bars: {' and '.join(bars)}.")
    fronts = [_front(series) for panel in found for series in panel.series.values()] if y.front else []
    if any(len(front) > 1 for front in fronts):
        notes.append("Line: the models that no other one beats in both ways; teachers take no part.")
    if left_out:
        every = sum(len({point.name for series in panel.series.values() for point in series}) for panel in found)
        notes.append(f"{left_out} of {every} names left out for want of room.")
    return "\n".join(notes)


def _draw_panel(
    axes: Axes, panel: Panel, x: Axis, y: Axis, styles: Mapping[str, tuple[str, str]], renderer: RendererAgg
) -> int:
    """Returns: how many names found no room, or are too many to be read."""
    heading = axes.set_title(clean(panel.heading, 124), loc="left", fontsize=8.5, color=FAINT, pad=8)
    heading.set_in_layout(False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(color="#E6E6E6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel(x.title)
    axes.set_ylabel(y.title)
    points = [point for series in panel.series.values() for point in series]
    across, up = [point.x for point in points], [point.y for point in points]
    _scale(axes.set_xscale, axes.set_xlim, axes.xaxis, x, _ends(across, [p.x_bar for p in points]), 0.06, 0.16)
    _scale(axes.set_yscale, axes.set_ylim, axes.yaxis, y, _ends(up, [p.y_bar for p in points]), 0.08, 0.08)

    crowded = len({point.name for point in points}) > _MOST_NAMES
    if len(panel.series) > 1 and not crowded:
        _join_same(axes, points)
    on_front: set[str] = set()
    for name, series in panel.series.items():
        colour, marker = styles[name]
        if y.front:
            front = _front(series)
            on_front |= {point.name for point in front}
            axes.plot(
                [point.x for point in front], [point.y for point in front], drawstyle="steps-post", color=colour,
                linewidth=1.3, alpha=0.6, zorder=1.5,
            )  # fmt: skip
        for hollow in (False, True):
            if drawn := [point for point in series if point.unstable == hollow]:
                _, caps, bars = axes.errorbar(
                    [point.x for point in drawn], [point.y for point in drawn],
                    xerr=_errors([(point.x, point.x_bar) for point in drawn]),
                    yerr=_errors([(point.y, point.y_bar) for point in drawn]),
                    fmt=marker, color=colour, markersize=4.5 if crowded else 6, markeredgewidth=1.2,
                    markerfacecolor="white" if hollow else colour, elinewidth=0.7 if crowded else 1.1,
                    capsize=0 if crowded else 2.5, zorder=3,
                )  # fmt: skip
                for part in (*caps, *bars):
                    part.set_alpha(0.3 if crowded else 0.8)
    return _name_points(axes, points, on_front, renderer)


def _join_same(axes: Axes, points: Sequence[Point]) -> None:
    """A line between the points of one model that was run in several ways."""
    by_name: defaultdict[str, list[Point]] = defaultdict(list)
    for point in points:
        by_name[point.name].append(point)
    for same in by_name.values():
        same.sort(key=lambda point: point.x)
        axes.plot([p.x for p in same], [p.y for p in same], color="#C9C9C9", linewidth=0.8, zorder=1)


def _errors(found: Sequence[tuple[float, tuple[float, float] | None]]) -> list[list[float]]:
    """How far each bar reaches below and above its point; NaN, which draws nothing, where there is no bar."""
    # over several trainings the medians of the ends need not lie around the median
    below = [math.nan if bar is None else max(0.0, value - bar[0]) for value, bar in found]
    above = [math.nan if bar is None else max(0.0, bar[1] - value) for value, bar in found]
    return [below, above]


def _ends(values: Sequence[float], bars: Sequence[tuple[float, float] | None]) -> tuple[float, float]:
    every = [*values, *(end for bar in bars if bar is not None for end in bar)]
    return min(every), max(every)


def _front(series: Sequence[Point]) -> list[Point]:
    """The ranked points that no other one beats in both ways, the lowest x first."""
    front: list[Point] = []
    for point in sorted(series, key=lambda point: (point.x, -point.y, point.name)):
        if point.ranked and (not front or point.y > front[-1].y):
            front.append(point)
    return front


def _scale(
    set_scale: Callable[[str], None],
    set_limits: Callable[[float, float], Any],
    ticks: MatplotlibAxis,
    axis: Axis,
    ends: tuple[float, float],
    before: float,
    after: float,
) -> None:
    """Limits with some room around the ends (in parts of their distance), and ticks at round numbers."""
    from matplotlib.ticker import AutoLocator, FixedLocator, FuncFormatter, NullLocator

    low, high = ends
    if axis.log:
        set_scale("log")
        low, high = math.log10(max(low, 1e-12)), math.log10(max(high, 1e-12))
        low, high = (low - 0.1, high + 0.1) if high - low < 0.2 else (low, high)
    elif high - low < 0.01:
        low, high = low - 0.005, high + 0.005
    room = high - low
    low, high = max(low - before * room, axis.least), min(high + after * room, axis.most)
    if axis.log:
        low, high = 10**low, 10**high
        ticks.set_major_locator(FixedLocator(_log_ticks(low, high)))
        ticks.set_minor_locator(NullLocator())
    else:
        ticks.set_major_locator(AutoLocator())
    ticks.set_major_formatter(FuncFormatter(lambda value, _: axis.tick(value)))
    set_limits(low, high)


def _log_ticks(low: float, high: float) -> list[float]:
    """Five to ten round numbers within the limits."""
    from matplotlib.ticker import MaxNLocator

    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)):
        ticks = [float(f"{step * 10.0**decade:.3g}") for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 5:
            return ticks
    every = [float(f"{tick:.6g}") for tick in MaxNLocator(7).tick_values(low, high)]  # less than a factor of three
    return [tick for tick in every if low <= tick <= high]


# ---------------------------------------------------------------- names


@dataclass(frozen=True)
class _Place:
    """Where a name may stand beside its point: an offset and its length, in typographic points."""

    dx: float
    dy: float
    reach: float

    @property
    def ha(self) -> Literal["left", "center", "right"]:
        return "left" if self.dx > 0 else "right" if self.dx < 0 else "center"

    @property
    def va(self) -> Literal["bottom", "center", "top"]:
        return "bottom" if self.dy > 0 else "top" if self.dy < 0 else "center"

    def corner(self, mark: Bbox, pixel: float) -> tuple[float, float]:
        """In pixels; beside the ends of the bars where it stands in line with them."""
        middle = ((mark.x0 + mark.x1) / 2, (mark.y0 + mark.y1) / 2)
        x = middle[0] if self.dy else mark.x1 if self.dx > 0 else mark.x0
        y = middle[1] if self.dx else mark.y1 if self.dy > 0 else mark.y0
        return x + self.dx * pixel, y + self.dy * pixel

    def box(self, mark: Bbox, width: float, height: float, pixel: float) -> Bbox:
        """Of a name of that size, in pixels."""
        from matplotlib.transforms import Bbox

        x, y = self.corner(mark, pixel)
        left = x - {"left": 0.0, "center": 0.5, "right": 1.0}[self.ha] * width
        low = y - {"bottom": 0.0, "center": 0.5, "top": 1.0}[self.va] * height
        return Bbox.from_bounds(left, low, width, height)


# the best place first; a line leads to all but the nearest ones
_PLACES = tuple(
    _Place(dx * reach * (0.7 if dy else 1.0), dy * reach * (0.7 if dx else 1.0), reach=reach)
    for reach in (6.5, 18.0, 32.0, 48.0, 66.0)
    for dx, dy in ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1))
)
_FAR = 40.0


def _name_points(axes: Axes, points: Sequence[Point], on_front: set[str], renderer: RendererAgg) -> int:
    """A name for each model beside its rightmost point; where there are too many, for the front and the best trainings.

    Each takes the first of a number of places where it covers no other name, point or bar, else no name or point.

    Returns: how many of the names are not there.
    """
    from matplotlib.transforms import Bbox

    pixel = axes.figure.dpi / 72  # of a typographic point
    within = axes.get_window_extent(renderer)
    inside = Bbox.from_extents(within.x0, within.y0, within.x1 + 12 * pixel, within.y1)  # and a bit of the margin
    to_pixels = axes.transData.transform

    def extent(point: Point) -> Bbox:
        """Of a point with its bars, in pixels."""
        (x0, x1), (y0, y1) = point.x_bar or (point.x, point.x), point.y_bar or (point.y, point.y)
        (left, low), (right, high) = to_pixels((min(x0, point.x), min(y0, point.y))), to_pixels((x1, y1))
        return Bbox.from_extents(left, low, max(right, left), max(high, low))

    bars, marks = [], []
    for point in points:
        x, y = to_pixels((point.x, point.y))
        whole = extent(point)
        marks.append(Bbox.from_extents(x - 4 * pixel, y - 4 * pixel, x + 4 * pixel, y + 4 * pixel))
        bars.append(Bbox.from_extents(whole.x0, y - pixel, whole.x1, y + pixel))
        bars.append(Bbox.from_extents(x - pixel, whole.y0, x + pixel, whole.y1))
    names: list[Bbox] = []
    named = _named(points, on_front)
    for point in named:
        text = axes.annotate(
            clean(point.name), (point.x, point.y), (0, 0), textcoords="offset points", fontsize=7.5, zorder=2.5,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
        )  # fmt: skip
        size, mark = text.get_window_extent(renderer), extent(point)
        width = 1.03 * size.width  # letters are not equally wide at every resolution
        boxes = [(place, place.box(mark, width, size.height, pixel)) for place in _PLACES]
        boxes = [(place, box) for place, box in boxes if _within(box, inside)]
        free = (
            (place, box)
            for places, obstacles in (
                ([found for found in boxes if found[0].reach < _FAR], [*names, *marks, *bars]),
                (boxes, [*names, *marks]),
            )
            for place, box in places
            if not any(box.overlaps(obstacle) for obstacle in obstacles)
        )
        place, box = next(free, (None, None))
        if place is None or box is None:
            text.remove()
            continue
        corner, (x, y) = place.corner(mark, pixel), to_pixels((point.x, point.y))
        offset = ((corner[0] - x) / pixel, (corner[1] - y) / pixel)
        text.set(position=offset, ha=place.ha, va=place.va)
        names.append(box)
        if place.reach > _PLACES[0].reach:
            axes.annotate(
                "", (point.x, point.y), offset, textcoords="offset points", zorder=2,
                arrowprops={"arrowstyle": "-", "color": "#A0A0A0", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4},
            )  # fmt: skip
    return len({point.name for point in points}) - len(names)


def _named(points: Sequence[Point], on_front: set[str]) -> list[Point]:
    """The points that get a name, the front first: the rightmost of each model."""
    rightmost: dict[str, Point] = {}
    best: dict[str, Point] = {}
    for point in points:
        if point.name not in rightmost or point.x > rightmost[point.name].x:
            rightmost[point.name] = point
        if point.model not in best or point.y > best[point.model].y:
            best[point.model] = point
    ordered = sorted(rightmost.values(), key=lambda point: (point.name not in on_front, -point.y, point.name))
    if len(ordered) <= _MOST_NAMES:
        return ordered
    telling = on_front | {point.name for point in best.values()}
    few = [point for point in ordered if point.name in telling]
    return (few if len(few) <= _MOST_NAMES else [point for point in few if point.name in on_front])[:_MOST_NAMES]


def _within(box: Bbox, outer: Bbox) -> bool:
    return bool(outer.x0 <= box.x0 and box.x1 <= outer.x1 and outer.y0 <= box.y0 and box.y1 <= outer.y1)


def clean(text: str, longest: int = _LONGEST_NAME) -> str:
    """One line of what can be printed, not too long; XML takes no control characters."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
