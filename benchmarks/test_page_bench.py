"""The page for the browser with many rows: how long until it can be seen, and until a limit that moves has been judged.

In Chromium, where one and playwright are installed. KDBENCH_BENCH_ROWS sets how many rows there are.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from timing import Row, size

from kdbench.report import Outcomes, collect, collect_profiles, render
from kdbench.report.html import json_block

RESULTS = Path(__file__).resolve().parents[1] / "results"
PAINT_GOAL_S = 2.0
"""Seconds to the first paint with a full table."""

JUDGE_GOAL_S = 0.1
"""Seconds for one step of a slider: what is felt as at once (Miller, AFIPS 1968)."""

ROUNDS = 5
BLOCK = '<script type="application/json" id="data">'


def many_rows() -> str:
    """A page of real rows, again and again under other names and with other figures."""
    folder = RESULTS / "mixed-small"
    page = render(collect(folder), "html", collect_profiles(RESULTS / "profiles"), Outcomes.below(folder))
    head, start, rest = page.partition(BLOCK)
    block, end, tail = rest.partition("</script>")
    data = json.loads(block)
    draw = random.Random(0)
    rows = data["datasets"][0]["rows"]
    made = []
    for place in range(size("ROWS", 10_000)):
        row = json.loads(json.dumps(rows[place % len(rows)]))
        row |= {"id": f"cell{place}", "by_name": place, "model": f"{row['model']}_{place}"}
        for figure in row["judged"].values():
            figure[0] *= draw.uniform(0.9, 1.0)
            figure[1] *= draw.uniform(0.8, 1.0)
        made.append(row)
    data["datasets"][0]["rows"] = made
    return "".join([head, start, json_block(data), end, tail])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium is installed")
    with api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "many.html"
    path.write_text(many_rows(), encoding="utf-8")
    return path.as_uri()


def test_first_paint(browser: Any, address: str, benchmark: Any, note_row: Callable[[Row], None]) -> None:
    seconds: list[float] = []

    def paint() -> None:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#table tbody tr[data-id]")
        seconds.append(
            page.evaluate(
                """() => new Promise((done) => {
                    const told = () => performance.getEntriesByName('first-contentful-paint')[0];
                    const look = () => told() ? done(performance.now() / 1000) : requestAnimationFrame(look);
                    look();
                })"""
            )
        )
        page.close()

    benchmark.pedantic(paint, rounds=ROUNDS)
    note_row(Row("the page, in seconds", f"first paint, {size('ROWS', 10_000):,} rows", tuple(seconds), PAINT_GOAL_S))


def test_a_step_of_a_slider(browser: Any, address: str, benchmark: Any, note_row: Callable[[Row], None]) -> None:
    page = browser.new_page()
    page.goto(address)
    page.wait_for_selector("#table tbody tr[data-id]")
    seconds: list[float] = []
    steps = iter(range(100, 0, -7))

    def step() -> None:
        seconds.append(
            page.evaluate(
                """(place) => {
                    const slider = document.getElementById('limit-params');
                    const started = performance.now();
                    slider.value = place;
                    slider.dispatchEvent(new Event('input'));
                    document.body.getBoundingClientRect();
                    return (performance.now() - started) / 1000;
                }""",
                next(steps),
            )
        )

    benchmark.pedantic(step, rounds=ROUNDS)
    page.close()
    note_row(
        Row("the page, in seconds", f"a step of a slider, {size('ROWS', 10_000):,} rows", tuple(seconds), JUDGE_GOAL_S)
    )
