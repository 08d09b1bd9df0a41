"""The page as a reader gets it.

KDBENCH_UPDATE_GOLDEN=1 pytest tests/report/test_markdown.py    writes tests/golden/leaderboard.md anew
"""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest
from record_factory import DATASET, card, environment, latency, profile, record, spec, study, tables, teacher

from kdbench.report.markdown import escape, render_markdown
from kdbench.types import DatasetSpec, Failure, LeftOut, RunRecord, TrainSpec

GOLDEN = Path(__file__).parent.parent / "golden" / "leaderboard.md"


def leaderboard(records: list[RunRecord]) -> list[dict[str, str]]:
    head, _, *body = tables(render_markdown(records))[0]
    return [dict(zip(head, row, strict=True)) for row in body]


def test_golden() -> None:
    page = render_markdown(study())
    if os.environ.get("KDBENCH_UPDATE_GOLDEN"):
        GOLDEN.write_text(page, encoding="utf-8")
    assert page == GOLDEN.read_text(encoding="utf-8")


def test_a_pure_function_of_the_records() -> None:
    records = study()
    shuffled = random.Random(1).sample(records, len(records))
    assert render_markdown(shuffled) == render_markdown([*records, *records])


def test_best_first_failed_last_best_bold() -> None:
    rows = leaderboard(study())
    ranked = [row for row in rows if row["#"] != "–"]
    means = [float(row["accuracy (%)"].strip("*").split()[0]) for row in ranked]
    assert means == sorted(means, reverse=True)
    assert ranked[0]["accuracy (%)"] == "**93.3 ± 0.5**"
    assert not any(row["accuracy (%)"].startswith("**") for row in rows if row["role"] == "teacher")
    assert {row["model"] for row in rows if row["params"].startswith("**")} == {"mobilenetv3_small_050"}
    assert rows[-1]["accuracy (%)"] == "failed (OutOfMemory)"
    assert rows[-1]["seeds"] == "0 of 3"


def sized(model: str, params: int, accuracy: float, seed: int = 0, **changes: object) -> RunRecord:
    made = record(spec(model, seed=seed, **changes), accuracy)
    assert made.profile is not None
    return made.model_copy(update={"profile": made.profile.model_copy(update={"params": params, "macs": 10 * params})})


def by_size(records: list[RunRecord]) -> list[list[str]]:
    _, _, after = render_markdown(records).partition("### Most accurate by size")
    return tables(after)[0][2:] if after else []


def test_the_most_accurate_of_each_class_of_sizes() -> None:
    alone, large = sized("resnet8_w16", 100_000, 0.8), sized("resnet20_w16", 100_001, 0.7)
    taught = sized("resnet8_w16", 100_000, 0.85, method="kd", teachers=[teacher()])
    huge = [sized("resnet10t", 5_000_001, 0.6), sized("mobilenetv3_small_100", 6_000_000, 0.5)]
    of_teacher = record(teacher(), 0.99)
    assert by_size([alone, large, taught, *huge, of_teacher]) == [
        ["up to 0.10 M", "resnet8_w16", "kd", "resnet50", "85.0", "+5.0", "1.0 M", "1", "2 rows, 1 model"],
        ["up to 0.50 M", "resnet20_w16", "ce", "–", "70.0", "–", "1.0 M", "3", "1 row, 1 model"],
        ["above 5.0 M", "resnet10t", "ce", "–", "60.0", "–", "50.0 M", "4", "2 rows, 2 models"],
    ]


def test_one_class_of_sizes_needs_no_table() -> None:
    assert by_size([sized("resnet8_w16", 79_000, 0.8), sized("resnet20_w16", 90_000, 0.7), record(teacher())]) == []
    failed = record(spec("resnet10t"), status="failed")
    assert by_size([sized("resnet8_w16", 79_000, 0.8), failed]) == []
    assert by_size([sized("resnet8_w16", 79_000, 0.8), record(spec("resnet10t"), profile=None)]) == []


def test_failures_are_listed_with_their_messages() -> None:
    page = render_markdown(study())
    assert "## Runs without a result" in page
    assert page.count("OutOfMemory: 12 GB asked, 8 GB there") == 2
    assert "Diverged: loss nan at step 17" in page
    assert "35 runs (2 failed, 1 diverged)" in page
    assert "## Runs without a result" not in render_markdown([record(spec())])


def test_only_failures() -> None:
    page = render_markdown([record(spec(), status="failed", data=None)])
    assert "No small model has a result yet" in page
    assert "failed (OutOfMemory)" in page
    assert "no record says which images it saw" in page


def test_the_answer_comes_first() -> None:
    records = [
        record(spec("mobilenetv3_small_100"), 0.900),
        record(spec("mobilenetv3_small_050"), 0.895),
        record(spec("mobilenetv3_small_050", "kd", teachers=[teacher()]), 0.893),
    ]
    page = render_markdown(records)
    assert (
        "**Most accurate small model:** mobilenetv3_small_100 trained alone (ce): 90.0 %, 1.5 M parameters, 2.6 ms."
        in page
    )
    assert "**Smallest within one point of it:** mobilenetv3_small_050 trained alone (ce): 89.5 %," in page
    far = render_markdown([records[0], record(spec("mobilenetv3_small_050"), 0.85)])
    assert "**Smallest, more than one point behind:** mobilenetv3_small_050" in far
    assert page.index("**Most accurate") < page.index("| ")


@pytest.mark.parametrize(
    ("seeds", "line"),
    [
        (1, "1 seed: no spread can be given"),
        (2, "2 seeds: the spread is a rough guess"),
        (5, "5 seeds: mean ± sample standard deviation"),
    ],
)
def test_honest_about_seeds(seeds: int, line: str) -> None:
    assert line in render_markdown([record(spec(seed=seed)) for seed in range(seeds)])


def test_what_is_missing_is_said() -> None:
    distilled = record(spec(method="kd", teachers=[teacher()]), profile=None)
    page = render_markdown([distilled])
    assert (
        "Missing in every row: 95 % interval (%), gain (points), params, MACs, weights, latency (ms), "
        "teacher's accuracy (%)."
    ) in page
    assert tables(page)[1][2] == [
        "mobilenetv3_small_050", "missing", "kd", "resnet50", "missing", "missing", "–"
    ]  # fmt: skip


def test_what_distillation_bought() -> None:
    head, _, *body = tables(render_markdown(study()).partition("### What distillation bought")[2])[0]
    assert head[-2:] == ["gain with ground truth (points)", "gain without (points)"]
    assert body[1] == ["mobilenetv3_small_050", "83.0", "kd", "vit_tiny", "95.9", "+6.0 ± 0.5", "+5.2 ± 0.5"]
    assert "What distillation bought" not in render_markdown([record(spec())])


def test_two_machines_have_a_column_each() -> None:
    records = [
        record(spec(), environment=environment("aaaa1111"), profile=profile("x", [latency(2.0)])),
        record(spec("other"), 0.8, environment=environment("bbbb2222", cpu="Slow"), profile=profile("x", [latency(8)])),
    ]
    first, second = leaderboard(records)
    assert (first["latency on aaaa (ms)"], first["latency on bbbb (ms)"]) == ("2.0 ± 0.1", "missing")
    assert (second["latency on aaaa (ms)"], second["latency on bbbb (ms)"]) == ("missing", "8.0 ± 0.4")
    page = render_markdown(records)
    assert "on 2 machines" in page
    assert [row[0] for row in tables(page)[-1][2:]] == ["aaaa", "bbbb"]


def test_hostile_names_stay_in_their_cell() -> None:
    evil = "a|b\n| x |\r\n<script>alert(1)</script> **bold** `code` [link](http://x) _em_ ~s~ \\| &amp;"
    records = [
        record(
            spec(evil, evil, dataset=DatasetSpec(name=evil)),
            environment=environment(cpu=evil, system=evil, versions={"torch": evil}, commit=evil, gpu=evil),
            data=card(
                sources={evil: 1, "b": 2},
                classes=(evil,),
                caveats=(evil, "# no heading", "- no list"),
                left_out=(LeftOut(path=evil, reason=evil),),
            ),
            command=f"{evil} ```\n# heading",
        ),
        record(spec(evil, "kd", seed=1, dataset=DatasetSpec(name=evil), teachers=[teacher(evil)]), 0.8, data=None),
        record(spec("broken"), status="failed", failure=Failure(kind=evil, message=evil * 50)),
    ]
    page = render_markdown(records, title=evil)
    prose, command, _ = re.split(r"^````.*$", page, flags=re.MULTILINE)
    assert "<" not in prose
    assert not re.search(r"(?<!\\)`", prose.replace("\\\\", ""))
    assert "</script>" in command
    assert "```" in command
    assert command.count("\n") == 3  # two commands, each verbatim and in one line
    for table in tables(page):
        assert len({len(row) for row in table}) == 1
    assert "\n# " not in page[1:]
    assert "> \\# no heading" in page
    assert "> \\- no list" in page


def test_escape() -> None:
    assert escape("mobilenetv3_small_100") == "mobilenetv3_small_100"
    assert escape("a|b\nc") == "a\\|b c"
    assert escape("<b>&") == "&lt;b&gt;&amp;"
    assert escape("_a_ __b__") == "\\_a\\_ \\_\\_b\\_\\_"
    assert (escape("-0.2"), escape("+4.2"), escape("1. x"), escape("## x")) == ("-0.2", "+4.2", "\\1. x", "\\## x")


def test_data_line() -> None:
    page = render_markdown(
        [record(spec(), data=card(sources={"pbc": 10298, "jtsc": 300}, classes=("eosinophil", "lymphocyte", "rare")))]
    )
    assert "- 1,000 images from 2 sources: jtsc 300, pbc 10,298\n" in page
    assert "- train 700, val 100, test 200\n" in page
    assert "- 3 classes (test images): eosinophil 120, lymphocyte 80, rare (none)\n" in page
    assert "- 3 files left out: not an image (3)\n" in page
    assert "> the test images are copies of 71 originals" in page


def test_different_images_under_one_name_are_called_out() -> None:
    records = [record(spec(seed=seed), data=card(content_hash=str(seed))) for seed in range(2)]
    assert "did not all see the same images" in render_markdown(records)


def test_a_section_for_each_data_set() -> None:
    changes: list[dict[str, object]] = [{}, {"image_size": 96}, {"train_limit": 50}, {"name": "aaa"}]
    records = [record(spec(dataset=DATASET.model_copy(update=change))) for change in changes]
    headings = [line for line in render_markdown(records).splitlines() if line.startswith("## ")]
    assert headings[:4] == [
        "## aaa, 64 px",
        "## bccd, 64 px, train_limit=50",
        "## bccd, 64 px, train_limit=none",
        "## bccd, 96 px",
    ]


def test_training_line() -> None:
    records = [record(teacher(train=TrainSpec(epochs=20)), 0.95), record(spec(train=TrainSpec(epochs=5)), 0.9)]
    records.append(record(spec("other", train=TrainSpec(epochs=10, learning_rate=0.01)), 0.9))
    assert (
        "Students were trained for 5 or 10 epochs with adamw, learning rate 0.001 or 0.01, batches of 64, fp32. "
        "Teachers were trained for 20 epochs with adamw" in render_markdown(records)
    )


def test_provenance() -> None:
    page = render_markdown([record(spec(), environment=environment(dirty=True), train_seconds=7620)])
    assert "kdbench 0.1.0 (commit 0123456789ab, modified)" in page
    assert "Training took 2 h 07 min in all." in page
    assert "```sh\nkdbench run bccd\n```" in page
    assert "```sh\nmake it\n```" in render_markdown([record(spec())], command="make it")
    assert "Made with" not in render_markdown([record(spec(), command="")])
