"""The page for the browser, without one: what is written into it, and that nothing in it can run or break out."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from record_factory import answered, costs, environment, isolated, latency, profile, profile_record, record, spec, study
from record_factory import teacher as taught_by

from kdbench.choices import Budget
from kdbench.errors import UnknownName
from kdbench.pick import judge
from kdbench.report import Outcomes, build_rows, collect, collect_profiles, render, render_html
from kdbench.report.payload import LONGEST_TEXT, clean, page_data
from kdbench.store import Store
from kdbench.types import DatasetSpec, ModelChoice

RESULTS = Path(__file__).resolve().parents[2] / "results"
MIXED = RESULTS / "mixed-small"
HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    '"><b>',
    "\u202egnp.exe",
    "a\x00\x1b[31m\u2028b",
    "{{script}}",
    "x" * 900,
)


class Parsed(HTMLParser):
    """The elements of a page as a browser's parser would cut them, and the text of those that hold text alone."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[dict[str, str | None], str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.texts.append(({"tag": tag, **dict(attrs)}, ""))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style") and self.texts:
            attributes, text = self.texts[-1]
            self.texts[-1] = attributes, text + data

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}", {}))

    def data(self, id: str = "data") -> dict[str, Any]:
        (found,) = [text for attributes, text in self.texts if attributes.get("id") == id]
        return json.loads(found)


def one_set(page: str) -> dict[str, Any]:
    (found,) = Parsed(page).data()["datasets"]
    return found


def named(model: str) -> list[Any]:
    """A study in which one student has that name."""
    return [*study(), record(spec(ModelChoice(name=model)), 0.5)]


def test_the_order_of_records_and_profiles_does_not_matter() -> None:
    records, profiles = study(), costs()
    page = render_html(records, profiles)
    for seed in range(3):
        random.Random(seed).shuffle(records)
        random.Random(seed).shuffle(profiles)
        assert render_html(records, profiles) == page
    assert render(records, "html", profiles) == page
    assert page.endswith("</html>\n")


def test_the_policy_names_style_and_script_and_nothing_else() -> None:
    parsed = Parsed(render_html(study()))
    (policy,) = [a["content"] for tag, a in parsed.tags if tag == "meta" and "http-equiv" in a]
    assert policy is not None
    inline = {
        ("script" if attributes["tag"] == "script" else "style"): text
        for attributes, text in parsed.texts
        if attributes.get("type") != "application/json"
    }
    assert set(inline) == {"script", "style"}
    for kind, text in inline.items():
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http:" not in policy


def test_nothing_is_fetched() -> None:
    page = render_html(study(), costs())
    for tag, attributes in Parsed(page).tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "action", "srcset"):
                assert value is not None
                assert value.startswith(("#", "data:")), (tag, value)
    assert "innerHTML" not in page
    assert not re.search(r"\beval\(|new Function|document\.write|url\(|@import", page)


@pytest.mark.parametrize("model", HOSTILE)
def test_no_name_ends_its_block_or_adds_an_element(model: str) -> None:
    plain, hostile = Parsed(render_html(named("plain"))), Parsed(render_html(named(model)))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    (found,) = hostile.data()["datasets"]
    assert clean(model) in {row["model"] for row in found["rows"]}


def test_titles_are_escaped() -> None:
    page = render_html(study(), title="</title><script>alert(1)</script>")
    assert "<script>alert" not in page
    assert html.escape("</title><script>alert(1)</script>") in page


def test_what_cannot_be_seen_is_shown_and_long_texts_end() -> None:
    assert clean("a\u202eb\x07c") == "a\ufffdb\ufffdc"
    assert clean(" a\n b\t") == "a b"
    assert len(clean("x" * 5000)) == LONGEST_TEXT + 1
    assert clean("Größe 血 ± –") == "Größe 血 ± –"


def test_figures_are_those_of_the_rows() -> None:
    rows = build_rows(study(), costs())
    found = one_set(render_html(study(), costs()))
    assert [row["id"] for row in found["rows"]] == [row.cell_id for row in rows]
    place = [column["key"] for column in found["columns"]].index("accuracy")
    for shown, row in zip(found["rows"], rows, strict=True):
        assert shown["rank"] == row.rank
        if row.accuracy is None:
            assert shown["cells"][place] is None
            assert shown["failure"]
        else:
            assert shown["cells"][place][0] == pytest.approx(row.accuracy, rel=1e-5)
            assert shown["cells"][place][1] == f"{100 * row.accuracy:.1f}"
    assert sum(cell[3:] == [1] for cell in (row["cells"][place] for row in found["rows"]) if cell) == 1


def test_judged_figures_are_those_of_pick() -> None:
    records, profiles, outcomes = collect(MIXED), collect_profiles(RESULTS / "profiles"), Outcomes.below(MIXED)
    data, _ = page_data(records, profiles, outcomes, None)
    shown = {row["id"]: row for dataset in data["datasets"] for row in dataset["rows"]}
    settings = data["datasets"][0]["settings"]
    machine = max(
        {setting["machine"] for setting in settings}, key=lambda one: sum(s["machine"] == one for s in settings)
    )
    choice = judge(records, Budget(), profiles=profiles, outcomes=outcomes, machine=machine)
    assert choice.verdicts
    for verdict in choice.verdicts:
        row = shown[verdict.cell_id]
        for key in ("accuracy", "recall", "params", "macs", "bytes"):
            figure = verdict.figures[key]  # type: ignore[index]
            assert row["judged"][key][:2] == [figure.value, figure.judged]
        assert verdict.setting is not None
        own = {
            (settings[way["setting"]]["runtime"], way["latency"][1]) for way in row["ways"]
            if settings[way["setting"]]["machine"] == machine and settings[way["setting"]]["counts"][0]
        }  # fmt: skip
        assert (verdict.setting.runtime, verdict.figures["latency"].judged) in own


def test_figures_beside_other_work_count_as_long_as_no_candidate_has_better_ones() -> None:
    """A teacher that was measured by itself displaces the students' figures only where it is a candidate."""
    board = environment("b0a4d00000000000")
    records = [
        record(taught_by("resnet50"), 0.97, environment=board, profile=profile("resnet50", [isolated(9.0)])),
        record(spec(), 0.9, environment=board,
               profile=profile("mobilenetv3_small_050", [latency(2.0, library="torch 2.14.1")])),
    ]  # fmt: skip
    found = one_set(render_html(records))
    flags = {setting["isolated"]: setting["counts"] for setting in found["settings"]}
    assert flags == {False: [True, False], True: [False, True]}
    for teachers in (False, True):
        budget = Budget(max_latency_ms=50.0, teachers=teachers)
        passing = {v.cell_id for v in judge(records, budget).verdicts if v.state in ("chosen", "passes")}
        kept = {
            row["id"] for row in found["rows"] if (teachers or row["role"] != "teacher")
            and any(found["settings"][way["setting"]]["counts"][int(teachers)] for way in row["ways"])
        }  # fmt: skip
        assert kept == passing


def test_confusions_are_those_of_the_answers(tmp_path: Path) -> None:
    store = Store(tmp_path)
    right = [True] * 14 + [False] * 6
    answered(store, spec(), right, [str(number) for number in range(20)])
    details = Parsed(render(collect(tmp_path), "html", outcomes=Outcomes.below(tmp_path))).data("more")
    (row,) = details.values()
    # labels take turns, so of the six wrong ones (14 to 19) three are of each class
    assert row["confusion"] == {"classes": ["eosinophil", "lymphocyte"], "seeds": 1, "counts": [[7, 3], [3, 7]]}
    assert sum(count for count, _, _ in row["reliability"]) == 20
    assert row["reliability"][0][2] == pytest.approx(0.7)


def test_data_sets_are_apart_and_a_leak_is_said() -> None:
    pages = Parsed(render_html(collect(RESULTS / "bccd-leak"))).data()["datasets"]
    assert len({page["title"] for page in pages}) == len(pages) > 1
    assert [[text for leaky, text in page["notes"] if leaky] for page in pages].count([]) == len(pages) - 1


def test_columns_may_be_chosen() -> None:
    page = one_set(render(study(), "html", costs(), columns=["params", "accuracy"]))
    assert [column["key"] for column in page["columns"]] == ["params", "accuracy"]
    with pytest.raises(UnknownName, match="accuracy"):
        render(study(), "html", columns=["acuracy"])


def test_columns_of_another_data_set_are_left_out() -> None:
    other = DatasetSpec(name="other", content="beef")
    board = environment("b0a4d00000000000")
    far = record(spec(dataset=other), 0.8, environment=board, profile=profile("mobilenetv3_small_050", [isolated(3.0)]))
    pages = Parsed(render_html([*study(), far])).data()["datasets"]
    for page in pages:
        machines = {setting["machine"] for setting in page["settings"]}
        assert len(machines) == 1


def test_without_records_the_page_is_of_costs() -> None:
    page = one_set(render([], "html", costs()))
    assert {row["model"] for row in page["rows"]} == {one.model for one in costs()}
    assert all("accuracy" not in row["judged"] for row in page["rows"])
    assert all(len(row["cells"]) == len(page["columns"]) for row in page["rows"])
    (lone,) = one_set(render([], "html", [profile_record(latencies=[])]))["rows"]
    assert lone["ways"] == []
