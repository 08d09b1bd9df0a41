"""Pictures of costs: what is in them, that they are the same twice, and that no name breaks them."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from record_factory import DATASET, costs, environment, isolated, latency, profile, profile_record, record, spec, study

from kdbench.errors import RecordError, UnknownName
from kdbench.report import plots
from kdbench.report.drawing import Panel, Point, _front, _log_ticks, draw, own_style
from kdbench.report.plots import panels, plot_costs
from kdbench.types import RunRecord

SVG = "{http://www.w3.org/2000/svg}"
SMALL = "mobilenetv3_small_050"


def texts(path: Path) -> list[str]:
    return ["".join(text.itertext()) for text in ET.parse(path).iter(f"{SVG}text")]


def points(panel: Panel) -> dict[tuple[str, str], Point]:
    return {(name, point.name): point for name, series in panel.series.items() for point in series}


def test_costs_alone_are_multiply_adds_against_latency(tmp_path: Path) -> None:
    plot_costs(costs(), out=tmp_path / "costs.svg")
    said = texts(tmp_path / "costs.svg")
    for text in (
        "Multiply-adds against latency",
        "64 px, 2 classes · Example CPU 9000 (4 cores), machine 3f2a · batch 1 · 1 thread",
        "64 px, 2 classes · Example Board 5 (4 cores), machine b0a4 · batch 1 · 1 thread",
        "latency of one image (ms)",
        "multiply-adds of one image",
        "eager fp32",
        "onnxruntime fp32",
        "resnet50",
        "100 M",
        "Bars: the 95 % interval of the median latency.",
    ):
        assert text in said
    assert said.count(SMALL) == 2  # once in each panel
    assert "unstable" not in said


def test_a_panel_for_each_machine_and_a_series_for_each_runtime() -> None:
    server, board = panels(costs(), (), "latency", "macs")
    assert [list(server.series), list(board.series)] == [["eager fp32", "onnxruntime fp32"], ["eager fp32"]]
    found = points(server)[("eager fp32", SMALL)]
    assert (found.x, found.y, found.unstable) == (1.94, 2_100_000, False)
    assert found.x_bar == pytest.approx((1.94 * 0.98, 1.94 * 1.02))
    assert found.y_bar is None
    assert len(points(board)) == 2


def test_image_sizes_share_no_panel() -> None:
    found = panels([profile_record(), profile_record(image_size=96)], (), "latency", "macs")
    assert [panel.heading.partition(" ·")[0] for panel in found] == ["64 px, 2 classes", "96 px, 2 classes"]


def test_threads_devices_and_libraries_that_differ_are_in_the_legend() -> None:
    timed = [
        isolated(1.0),
        isolated(2.0, runtime="ort", threads=4, library="ort 1"),
        isolated(3.0, runtime="ort", threads=4, library="ort 2"),
        isolated(0.5, device="cuda"),
    ]
    (panel,) = panels([profile_record(latencies=timed)], (), "latency", "macs")
    assert set(panel.series) == {
        "eager fp32, 1 thread", "eager fp32 on cuda, 1 thread",
        "ort fp32 (ort 1), 4 threads", "ort fp32 (ort 2), 4 threads",
    }  # fmt: skip
    assert "thread" not in panel.heading


def test_records_give_accuracy_with_its_spread() -> None:
    (panel,) = panels([profile_record()], study(), "latency", "accuracy")
    assert panel.heading == "bccd, 64 px · Example CPU 9000 (4 cores), machine 3f2a · batch 1 · 1 thread"
    (series,) = panel.series.values()
    assert {point.model for point in series} == {SMALL}  # the only one with an isolated figure: no mix
    best = max(series, key=lambda point: point.y)
    assert best.name == f"{SMALL}, kd < vit_tiny"
    assert best.y == pytest.approx(0.89)
    assert best.y_bar == pytest.approx((0.89 - 0.0045826, 0.89 + 0.0045826), abs=1e-6)
    assert best.x_bar == pytest.approx((1.94 * 0.98, 1.94 * 1.02))


def test_the_runs_own_latencies_do_where_there_are_no_others(tmp_path: Path) -> None:
    (panel,) = panels([], study(), "latency", "accuracy")
    found = points(panel)
    assert ("eager fp32", "resnet50 (teacher)") in found
    assert all(point.x_bar is None for point in found.values())
    plot_costs([], study(), out=tmp_path / "a.svg")
    assert "Bars: the sample standard deviation of the accuracy over seeds." in texts(tmp_path / "a.svg")


def test_a_panel_for_each_data_set_and_machine() -> None:
    both = [
        record(spec(dataset=DATASET.model_copy(update={"image_size": size})), environment=environment(machine))
        for size, machine in ((64, "aaaa1111"), (96, "bbbb2222"))
    ]
    headings = [panel.heading for panel in panels([], both, "latency", "accuracy")]
    assert [heading[:11] for heading in headings] == ["bccd, 64 px", "bccd, 96 px"]
    assert ["machine aaaa" in headings[0], "machine bbbb" in headings[1]] == [True, True]


def test_counts_against_counts_need_no_machine() -> None:
    (panel,) = panels(costs(), (), "macs", "params")
    assert panel.heading == "64 px, 2 classes"
    assert len(points(panel)) == 4
    (panel,) = panels([], study(), "params", "accuracy")
    assert len(points(panel)) == 12


def test_the_front_is_what_nothing_beats_in_both_ways() -> None:
    def at(x: float, y: float, ranked: bool = True) -> Point:
        return Point(f"{x}", "m", x, y, ranked=ranked)

    series = [at(3, 0.9), at(1, 0.7), at(2, 0.65), at(4, 0.9), at(2, 0.8), at(0.5, 0.99, ranked=False)]
    assert [(point.x, point.y) for point in _front(series)] == [(1, 0.7), (2, 0.8), (3, 0.9)]


def test_axes_have_round_numbers_and_not_too_many() -> None:
    draws = random.Random(0)
    for _ in range(300):
        low = 10 ** draws.uniform(-3, 9)
        high = low * 10 ** draws.uniform(0.2, 5)
        ticks = _log_ticks(low, high)
        assert 3 <= len(ticks) <= 12
        assert ticks == sorted(ticks)
        assert low <= ticks[0] < ticks[-1] <= high
    assert _log_ticks(0.8, 60) == [1, 2, 5, 10, 20, 50]


@pytest.mark.parametrize("suffix", [".svg", ".png", ".PNG"])
def test_the_same_bytes_twice_whatever_the_order_and_the_users_style(tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"1{suffix}", tmp_path / f"2{suffix}"
    plot_costs(costs(), study(), out=first)
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 20, "axes.grid": False, "svg.fonttype": "path", "axes.facecolor": "red"}):
        inside = dict(matplotlib.rcParams)
        plot_costs(costs()[::-1], study()[::-1], out=second)
        assert dict(matplotlib.rcParams) == inside
    assert dict(matplotlib.rcParams) == before
    assert first.read_bytes() == second.read_bytes()
    assert b"date" not in first.read_bytes()[:2000].lower()
    assert sorted(path.name for path in tmp_path.iterdir()) == [first.name, second.name]


def test_pictures_are_wide_enough(tmp_path: Path) -> None:
    plot_costs(costs()[:1], out=tmp_path / "a.png")
    header = (tmp_path / "a.png").read_bytes()[16:24]
    assert int.from_bytes(header[:4], "big") == 1800
    plot_costs(costs()[:1], out=tmp_path / "a.svg")
    assert ET.parse(tmp_path / "a.svg").getroot().get("width") == "648pt"  # 864 pixels


def test_hostile_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    evil = "_$x^{$ <script>&\x00\x1b|\r\n" + "long" * 40
    machine = environment(cpu=evil)
    timed = [isolated(2.0, runtime=evil, library=evil, unstable=True), isolated(3.0)]
    plot_costs([profile_record(evil, timed, environment=machine)], out=tmp_path / "a.svg")
    said = texts(tmp_path / "a.svg")
    assert any(text.startswith("_$x^{$ <script>& | long") and text.endswith("…") for text in said)
    assert "unstable" in said
    assert any(evil[:10] in text and "fp32" not in text for text in said)


def test_more_names_than_can_be_read_are_counted(tmp_path: Path) -> None:
    records: list[RunRecord] = []
    for number in range(50):
        timed = profile("x", [latency(1.0 + number / 10)])
        records.append(
            record(spec(f"model_{number:02d}", "kd"), 0.5 + (number % 7) / 20 + number / 1000, profile=timed)
        )
    plot_costs([], records, out=tmp_path / "a.svg")
    said = texts(tmp_path / "a.svg")
    named = [text for text in said if text.startswith("model_")]
    assert 1 < len(named) <= 30
    assert f"{50 - len(named)} of 50 names left out for want of room." in said
    assert "Line: the models that no other one beats in both ways; teachers take no part." in said


def test_names_do_not_lie_on_one_another() -> None:
    draws = random.Random(1)
    series = [
        Point(f"model_{number:02d}, kd < teacher", f"{number}", draws.uniform(1, 9), draws.uniform(0.6, 0.7), (1, 9))
        for number in range(28)
    ]
    with own_style():
        figure = draw(
            [Panel("panel", {"eager fp32": series})], plots._AXES["latency"], plots._AXES["accuracy"], "title"
        )
        renderer: Any = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts if text.get_text()]
        edge = figure.bbox
    assert len(boxes) >= 12
    shrunk = [box.padded(-1.0) for box in boxes]
    assert not [pair for pair in ((a, b) for a in shrunk for b in shrunk if a is not b) if pair[0].overlaps(pair[1])]
    assert all(edge.x0 <= box.x0 and box.x1 <= edge.x1 for box in boxes)


def test_what_cannot_be_drawn_is_said_in_one_line(tmp_path: Path) -> None:
    for out in ("a.pdf", "a", ".svg"):
        with pytest.raises(UnknownName, match="kind of picture"):
            plot_costs(costs(), out=tmp_path / out)
    with pytest.raises(UnknownName, match="axis"):
        plot_costs(costs(), x="latencies", out=tmp_path / "a.svg")
    with pytest.raises(RecordError, match="no accuracy"):
        plot_costs(costs(), y="accuracy", out=tmp_path / "a.svg")
    for empty in ([], [profile_record(latencies=[])], [profile_record(latencies=[isolated(2.0, batch_size=8)])]):
        with pytest.raises(RecordError, match="nothing to draw"):
            plot_costs(empty, out=tmp_path / "a.svg")
    many = [profile_record(environment=environment(f"{number:016x}")) for number in range(13)]
    with pytest.raises(RecordError, match="too many for one picture"):
        plot_costs(many, out=tmp_path / "a.svg")
    assert not list(tmp_path.iterdir())


def test_a_time_that_is_zero_has_no_place_on_a_logarithmic_axis(tmp_path: Path) -> None:
    profiles = [profile_record(latencies=[latency(0.0)]), profile_record("resnet50")]
    (panel,) = panels(profiles[1:], (), "latency", "macs")
    assert len(points(panel)) == 1
    with pytest.raises(RecordError, match="nothing to draw"):
        panels(profiles[:1], (), "latency", "macs")
    touching = profile_record(latencies=[isolated(0.5, interval_ms=(0.0, 1.0))])
    plot_costs([touching], out=tmp_path / "a.svg")
