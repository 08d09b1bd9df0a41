"""The page in a real browser: it sorts, filters, judges as `kdbench.pick` does, and no name in it runs."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from record_factory import record, spec, study

from kdbench.choices import Budget
from kdbench.pick import judge
from kdbench.report import Outcomes, build_rows, collect, collect_profiles, render, render_html
from kdbench.report.html import json_block
from kdbench.types import ModelChoice

RESULTS = Path(__file__).resolve().parents[2] / "results"
MIXED = RESULTS / "mixed-small"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    '"><b>bold</b>',
    "\u202egnp.exe\u2066",
    "\u05d0\u05d1\u05d2",
    "W" * 300,
)
ROWS = "#table tbody tr[data-id]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: `pip install playwright`")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium is installed: `apt-get install chromium`")
    with api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The addresses of some pages."""
    folder = tmp_path_factory.mktemp("pages")
    profiles = collect_profiles(RESULTS / "profiles")
    hostile = [record(spec(ModelChoice(name=name)), 0.5 + place / 50) for place, name in enumerate(HOSTILE)]
    made = {
        "mixed": render(collect(MIXED), "html", profiles, Outcomes.below(MIXED)),
        "leak": render(collect(RESULTS / "bccd-leak"), "html", profiles, Outcomes.below(RESULTS / "bccd-leak")),
        "study": render_html(study()),
        "hostile": render_html([*study(), *hostile], title=HOSTILE[0]),
        "many": many(render_html([record(spec())])),
        "costs": render([], "html", profiles),
    }
    for name, text in made.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in made}


def many(page: str) -> str:
    """The page with its one row ten thousand times, from the best to the worst: far quicker than so many records."""
    head, start, rest = page.partition('<script type="application/json" id="data">')
    block, end, tail = rest.partition("</script>")
    data = json.loads(block)
    (row,) = data["datasets"][0]["rows"]
    data["datasets"][0]["rows"] = [
        {**row, "id": f"cell{place}", "model": f"net_{place:05d}", "rank": place + 1, "by_name": place}
        for place in range(10_000)
    ]
    return "".join([head, start, json_block(data), end, tail])


@pytest.fixture(scope="module")
def context(browser: Any) -> Iterator[Any]:
    made = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    yield made
    made.close()


@pytest.fixture
def page(context: Any) -> Iterator[Any]:
    """A tab in which any error, dialog or request but that of the page itself fails the test."""
    made, wrong = context.new_page(), list[str]()
    made.on("console", lambda message: wrong.append(message.text))
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    made.on(
        "request",
        lambda request: request.is_navigation_request() or request.url == "data:," or wrong.append(request.url),
    )
    yield made
    made.close()
    assert not wrong


def show(page: Any, address: str, **state: Any) -> None:
    page.goto("about:blank")
    page.goto(f"{address}#{urlencode(state)}")


def until(page: Any, question: str, about: str) -> None:
    """Wait until the answer is yes. Playwright's own waiting makes code of a text, which the page's policy forbids."""
    for _ in range(100):
        if page.evaluate(question, about):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"{question} of {about} did not come true in 5 s")


def said(page: Any, part: str) -> None:
    """Wait until the address says so: it follows a moment after the page."""
    until(page, "part => location.hash.includes(part)", part)


def shown(page: Any) -> list[str]:
    return page.eval_on_selector_all(ROWS, "rows => rows.map(row => row.dataset.id)")


def column(page: Any, key: str) -> list[str]:
    return page.evaluate(
        """key => {
            const heads = [...document.querySelectorAll('#table thead button')].map(one => one.dataset.sort);
            return [...document.querySelectorAll('#table tbody tr[data-id]')]
                .map(row => row.children[heads.indexOf(key)].firstChild.textContent);
        }""",
        key,
    )


def test_ranks_come_first_and_a_click_sorts(page: Any, pages: dict[str, str]) -> None:
    show(page, pages["study"])
    assert shown(page) == [row.cell_id for row in build_rows(study())]
    head = page.locator("th:has([data-sort=params])")
    page.click("[data-sort=params]")
    assert head.get_attribute("aria-sort") == "ascending"
    sizes = [text for text in column(page, "params") if text != "–"]
    assert sizes == sorted(sizes, key=lambda text: float(text.split()[0]))
    assert column(page, "params")[-1] == "–"
    page.keyboard.press("Enter")  # the head is a button, and it keeps the focus
    assert head.get_attribute("aria-sort") == "descending"
    assert [text for text in column(page, "params") if text != "–"] == sizes[::-1]
    assert column(page, "params")[-1] == "–"  # what is missing is last either way


def test_filter_and_roles(page: Any, pages: dict[str, str]) -> None:
    show(page, pages["study"])
    every = len(shown(page))
    page.fill("#filter", "small_100 vit")
    assert set(column(page, "teacher")) == {"vit_tiny"}
    assert len(shown(page)) == 2
    page.fill("#filter", "")
    page.click("[data-role=teacher]")
    assert sorted(column(page, "model")) == ["resnet50, teacher", "vit_tiny, teacher"]
    page.click("[data-role=baseline]")
    assert len(shown(page)) == 4
    page.click("[data-role=teacher]")
    page.click("[data-role=baseline]")
    assert len(shown(page)) == every
    page.fill("#filter", "nothing like it")
    assert shown(page) == []


def test_a_slider_is_moved_by_keys_and_says_what_rejects(page: Any, pages: dict[str, str]) -> None:
    show(page, pages["study"])
    assert page.inner_text("#count") == "10 of 10 fit"
    page.focus("#limit-latency")
    assert page.get_attribute("#limit-latency", "aria-valuetext") == "no limit"
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    assert page.inner_text("#count") == "5 of 10 fit"
    assert page.inner_text("#rejects-latency") == "alone rejects 5"
    # the upper end counts: 2.61 ms and half of its interquartile range
    assert any(text.startswith("latency 2.68 ms > ") for text in column(page, "fits"))
    assert column(page, "fits").count("✓ fits") == 5
    limit = float(page.input_value("#typed-latency").split()[0])
    said(page, f"latency={limit:g}")
    page.reload()
    assert page.inner_text("#count") == "5 of 10 fit"
    page.click("[data-role=fits]")
    assert column(page, "fits") == ["✓ fits"] * 5
    page.click("[data-role=fits]")
    page.click("#reset")
    assert page.inner_text("#count") == "10 of 10 fit"


def test_a_limit_can_be_typed(page: Any, pages: dict[str, str]) -> None:
    show(page, pages["study"])
    for text, limit in (("1M", 1e6), ("0.57 m", 570_000), ("1,000,000", 1e6)):
        page.fill("#typed-params", text)
        page.press("#typed-params", "Enter")
        said(page, f"params={limit:.0f}")
    page.fill("#typed-params", "many")
    page.press("#typed-params", "Enter")
    assert page.get_attribute("#typed-params", "aria-invalid") == "true"
    said(page, "params=1000000")


@pytest.mark.parametrize("teachers", [False, True])
def test_what_fits_is_what_pick_says(page: Any, pages: dict[str, str], teachers: bool) -> None:
    records, profiles, outcomes = collect(MIXED), collect_profiles(RESULTS / "profiles"), Outcomes.below(MIXED)
    plain = judge(records, Budget(teachers=True), profiles=profiles, outcomes=outcomes, machine="d49a")
    values: dict[str, list[float]] = {}
    for verdict in plain.verdicts:
        for key, figure in verdict.figures.items():
            values.setdefault(key, []).append(figure.judged)
    chance, answers = random.Random(7), set()
    show(page, pages["mixed"])
    for _ in range(12):
        keys = chance.sample(
            ["accuracy", "recall", "latency", "params", "macs", "bytes", "memory"], chance.randint(1, 3)
        )
        # at a figure itself, where a rule of its own would differ first, and a little beside it
        limits = {key: chance.choice(values[key]) * chance.choice([1.0, 1.0, 0.9, 1.1]) for key in keys}
        runtime = chance.choice(["", "eager", "onnxruntime"])
        names = {
            "accuracy": "min_accuracy",
            "recall": "min_recall",
            "latency": "max_latency_ms",
            "memory": "max_memory_bytes",
        }
        limits = {key: min(value, 1.0) if key in ("accuracy", "recall") else value for key, value in limits.items()}
        asked = {names.get(key, f"max_{key}"): value for key, value in limits.items()}
        budget = Budget(**asked, runtimes=(runtime,) if runtime else (), teachers=teachers)
        choice = judge(records, budget, profiles=profiles, outcomes=outcomes, machine="d49a")
        on = "/".join(filter(None, [choice.machine, runtime]))
        asked_for = {**limits, "on": on} | ({"teachers": "1"} if teachers else {})
        page.evaluate(
            """hash => new Promise((done) => {
                addEventListener('hashchange', () => done(), { once: true });
                location.hash = hash;
            })""",
            urlencode(asked_for),
        )
        assert page.input_value("#setting") == on
        passing = sorted(verdict.cell_id for verdict in choice.verdicts if verdict.state in ("chosen", "passes"))
        assert page.evaluate("kdbenchPage.fitting()") == passing, budget
        assert page.evaluate("kdbenchPage.best()") == (choice.chosen.cell_id if choice.chosen else None), budget
        answers.add(len(passing))
    assert len(answers) > 3


def test_another_data_set(page: Any, pages: dict[str, str]) -> None:
    show(page, pages["leak"])
    titles = page.eval_on_selector_all("#dataset option", "all => all.map(one => one.textContent)")
    before = shown(page)
    leaky = next(title for title in titles if "pooled-random" in title)
    page.select_option("#dataset", label=leaky)
    assert shown(page) != before
    assert "Leaky protocol" in page.inner_text("#notes .leak")
    said(page, "pooled-random")
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    assert "Leaky protocol" in page.inner_text("#notes .leak")


def test_details_open_and_close_by_keys(page: Any, pages: dict[str, str]) -> None:
    show(page, pages["mixed"])
    first, second = page.locator(".name").nth(0), page.locator(".name").nth(1)
    first.focus()
    page.keyboard.press("ArrowDown")
    assert second.evaluate("node => node === document.activeElement")
    row = second.get_attribute("data-row")
    page.keyboard.press("Enter")
    assert page.is_visible("#details")
    assert page.evaluate("document.activeElement.id") == "details-title"
    said(page, f"row={row}")
    page.keyboard.press("Escape")
    assert not page.is_visible("#details")
    assert page.evaluate("document.activeElement.dataset.row") == row


def test_marks_of_the_chart_are_reached_by_keys(page: Any, pages: dict[str, str]) -> None:
    show(page, pages["mixed"])
    assert page.locator(".mark[tabindex='0']").count() == 1
    page.focus(".mark[tabindex='0']")
    tip = page.inner_text("#tip").splitlines()
    assert len(tip) in (3, 4)
    assert tip[1].startswith("accuracy ")
    assert "null" not in tip
    page.keyboard.press("ArrowRight")
    mark = page.evaluate("document.activeElement.dataset.row")
    page.keyboard.press("Enter")
    assert page.is_visible("#details")
    page.click("#close")
    assert page.evaluate("document.activeElement.dataset.row") == mark


def test_the_confusion_of_a_row_is_that_of_its_answers(page: Any, pages: dict[str, str]) -> None:
    row = next(row for row in build_rows(collect(MIXED), (), Outcomes.below(MIXED)) if row.n_ok > 1 and row.answers)
    classes = next(iter(row.answers.values())).classes
    wanted = [
        [sum(int(((a.labels == true) & (a.predicted == said)).sum()) for a in row.answers.values()) / row.n_ok
         for said in range(len(classes))] for true in range(len(classes))
    ]  # fmt: skip
    show(page, pages["mixed"], row=row.cell_id)
    cells = page.eval_on_selector_all(
        ".confusion tbody tr",
        "rows => rows.map(row => [...row.querySelectorAll('td')].map(cell => cell.firstChild.data))",
    )
    assert [[float(text) for text in line] for line in cells] == [pytest.approx(line, abs=0.051) for line in wanted]
    bars = page.eval_on_selector_all(".recall b", "all => all.map(one => parseFloat(one.textContent))")
    assert bars == pytest.approx([100 * row.recalls[name] for name in sorted(row.recalls)], abs=0.051)


def test_light_and_dark(page: Any, pages: dict[str, str]) -> None:
    show(page, pages["study"])
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(paper)
    page.click("#theme")
    dark = page.evaluate(paper)
    assert dark != light
    page.reload()
    assert page.evaluate(paper) == dark
    page.click("#theme")
    assert page.evaluate(paper) == light


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read(page: Any, pages: dict[str, str], theme: str) -> None:
    """Contrast of the colours of text on what they stand on: 4.5 to 1 (WCAG 2.2, 1.4.3)."""
    show(page, pages["study"])
    page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
    for ink in ("ink", "soft", "accent", "good", "bad"):
        for paper in ("paper", "sheet", "sunk", "wash"):
            ratio = page.evaluate(
                """([ink, paper]) => {
                    const probe = document.createElement('span');
                    document.body.append(probe);
                    const light = (name) => {
                        probe.style.color = `var(--${name})`;
                        const [r, g, b] = getComputedStyle(probe).color.match(/[\\d.]+/g).map(Number)
                            .map((one) => one / 255)
                            .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
                        return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
                    };
                    const [one, other] = [light(ink), light(paper)];
                    probe.remove();
                    return Math.max(one, other) / Math.min(one, other);
                }""",
                [ink, paper],
            )
            assert ratio >= 4.5, (theme, ink, paper)


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["mixed", "hostile", "costs", "leak"])
def test_nothing_sticks_out_and_no_name_runs(page: Any, pages: dict[str, str], name: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    show(page, pages[name], **({"accuracy": 0.9} if name == "hostile" else {}))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".name").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("(body => body.scrollWidth - body.clientWidth)(document.getElementById('details-body'))") == 0
    assert page.locator("img, body b > *").count() == 0


def test_hostile_names_are_text(page: Any, pages: dict[str, str]) -> None:
    show(page, pages["hostile"])
    names = column(page, "model")
    assert any(HOSTILE[0] in text for text in names)
    assert any(HOSTILE[1] in text for text in names)
    assert page.inner_text("h1") == HOSTILE[0]
    heights = page.eval_on_selector_all(ROWS, "rows => rows.map(row => row.offsetHeight)")
    assert len(set(heights)) == 1


def test_ten_thousand_rows_scroll(page: Any, pages: dict[str, str]) -> None:
    show(page, pages["many"])
    assert page.inner_text("#count") == "10,000 of 10,000 fit"
    assert len(shown(page)) < 100
    page.evaluate("document.getElementById('scroller').scrollTop = 1e9")
    until(page, "name => document.querySelector('#table tbody').textContent.includes(name)", "net_09999")
    assert len(shown(page)) < 100
    assert column(page, "model")[-1] == "net_09999, baseline"


def test_costs_alone(page: Any, pages: dict[str, str]) -> None:
    show(page, pages["costs"])
    assert len(shown(page)) == len({profile.model for profile in collect_profiles(RESULTS / "profiles")})
    assert not page.is_visible("#chart")
    assert not page.is_visible("#limit-accuracy")
    assert page.is_visible("#limit-params")
    assert "Quickest that fits" in page.inner_text("#best")
