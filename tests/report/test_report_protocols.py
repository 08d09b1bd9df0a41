"""The same models under other splits: what is pooled, what is compared, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from record_factory import CLASSES, DATASET, answered, card, record, spec, tables, teacher

from kdbench.report import Outcomes, render
from kdbench.report.column import NOT_APPLICABLE
from kdbench.report.protocols import across_protocols, pool
from kdbench.report.rows import Row, build_rows, dataset_titles
from kdbench.report.stats import Grouped, clustered, difference
from kdbench.store import Store
from kdbench.types import DatasetSpec, RunRecord, TrainSpec

LEAK = "copies of one original are on both sides"


def split(protocol: str, **changes: Any) -> DatasetSpec:
    return DATASET.model_copy(update={"protocol": protocol, **changes})


def run(
    store: Store, dataset: DatasetSpec, rate: float, seed: int = 0, leak: str = "", model: str = "m", images: int = 300,
    prefix: str = "", **changes: Any,
) -> RunRecord:  # fmt: skip
    """Of one fold: groups of 6 copies, of which a share is right as one."""
    draw = np.random.default_rng([seed, images, int(1000 * rate)])
    groups = [f"{prefix}{number // 6}" for number in range(images)]
    right = np.repeat(draw.random(images // 6) < rate, 6)
    ids = [f"{prefix}{number}.jpg" for number in range(images)]
    data = card(classes=CLASSES, protocol=f"{dataset.protocol} v1", leak=leak)
    return answered(store, spec(model, seed=seed, dataset=dataset, **changes), right, groups, ids, data=data)


def rows_of(store: Store, records: list[RunRecord]) -> list[Row]:
    return build_rows(records, outcomes=Outcomes.below(store.root))


def text(store: Store, records: list[RunRecord]) -> str:
    return "\n\n".join(across_protocols(rows_of(store, records)))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_what_a_leaky_protocol_adds(store: Store) -> None:
    records = [
        *(run(store, split("pooled-random"), 0.97, seed, LEAK) for seed in range(2)),
        *(run(store, split("official"), 0.7, seed) for seed in range(2)),
    ]
    page = text(store, records)
    assert page.startswith("## What the protocol is worth: bccd, 64 px\n")
    head, _, row = tables(page)[0]
    assert head == [
        "model", "method", "teacher", "official (%)", "pooled-random (leaky) (%)",
        "inflation, pooled-random against official (points)",
    ]  # fmt: skip
    rows = {row.dataset.protocol: row for row in rows_of(store, records)}
    clean, leaky = pool([rows["official"]]), pool([rows["pooled-random"]])
    assert clean is not None
    assert leaky is not None
    low, high = clustered(clean)
    assert row[3] == f"{100 * rows['official'].accuracy:.1f} ({100 * low:.1f} to {100 * high:.1f})"  # type: ignore[operator]
    low, high = difference(leaky, clean)
    assert row[5] == f"{100 * (leaky.rate - clean.rate):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    assert low > 0
    assert "the spread over the seeds" in page
    assert "One seed tells nothing" not in page


def test_one_seed_is_said(store: Store) -> None:
    records = [run(store, split("pooled-random"), 0.97, leak=LEAK), run(store, split("official"), 0.7)]
    assert "One seed tells nothing of the spread over trainings" in text(store, records)


def test_folds_are_taken_together_and_a_group_of_several_folds_is_one(store: Store) -> None:
    folds = [run(store, split("five-fold", fold=fold), 0.8, seed=1, prefix=f"f{fold}-") for fold in range(3)]
    again = [run(store, split("pooled-random", fold=fold), 0.9, leak=LEAK, seed=1) for fold in range(2)]
    rows = rows_of(store, [*folds, *again])
    clean = pool([row for row in rows if row.dataset.protocol == "five-fold"])
    leaky = pool([row for row in rows if row.dataset.protocol == "pooled-random"])
    assert clean is not None
    assert leaky is not None
    assert (clean.count, len(clean.sizes)) == (900, 150)
    assert (leaky.count, len(leaky.sizes)) == (600, 50)  # the same originals in both folds
    assert clean.rate == pytest.approx(
        np.mean([record.test_metrics.accuracy for record in folds if record.test_metrics])
    )
    head = tables(text(store, [*folds, *again]))[0][0]
    assert head[3:5] == ["five-fold, 3 folds (%)", "pooled-random (leaky), 2 folds (%)"]


def test_of_folds_the_seeds_count_that_all_have(store: Store) -> None:
    folds = [
        run(store, split("k", fold=0), 0.8, 0),
        run(store, split("k", fold=0), 0.8, 1),
        run(store, split("k", fold=1), 0.8, 0, prefix="o"),
        run(store, split("k", fold=2), 0.8, 2, prefix="p"),
    ]
    accuracies = [record.test_metrics.accuracy for record in folds if record.test_metrics is not None]
    pooled = pool(rows_of(store, folds[:3]))
    assert pooled is not None
    assert pooled.hits.shape == (1, 100)
    assert pooled.rate == pytest.approx((accuracies[0] + accuracies[2]) / 2)
    # without a shared one, the mean of each fold's own
    pooled = pool(rows_of(store, folds))
    assert pooled is not None
    assert pooled.rate == pytest.approx(((accuracies[0] + accuracies[1]) / 2 + accuracies[2] + accuracies[3]) / 3)


def test_only_what_differs_in_the_split_alone_is_compared(store: Store) -> None:
    records = [
        run(store, split("official"), 0.7),
        run(store, split("pooled-random"), 0.9, leak=LEAK, train=TrainSpec(epochs=3)),
        run(store, split("pooled-random"), 0.9, leak=LEAK, model="other"),
    ]
    assert across_protocols(rows_of(store, records)) == []
    taught = [
        run(store, each, 0.8, leak=leak, method="kd", teachers=[teacher(dataset=each)])
        for each, leak in ((split("official"), ""), (split("pooled-random"), LEAK))
    ]
    (row,) = tables(text(store, [*records, *taught]))[0][2:]
    assert row[:3] == ["m", "kd", "resnet50"]


def test_the_content_may_differ_as_groups_are_part_of_it(store: Store) -> None:
    records = [
        run(store, split("official", content="a"), 0.7),
        run(store, split("pooled-random", content="b"), 0.9, leak=LEAK),
    ]
    assert len(across_protocols(rows_of(store, records))) == 4


def test_without_answers_the_records_figures_stand_without_intervals() -> None:
    records = [
        record(spec(dataset=split("official")), 0.7),
        record(spec(dataset=split("pooled-random")), 0.95, data=card(leak=LEAK)),
    ]
    assert tables(render(records))[0][2][3:] == ["70.0", "95.0", "+25.0"]


def test_the_usual_protocol_is_called_what_the_card_notes() -> None:
    records = [
        record(spec(dataset=split("")), data=card(protocol="by original v1")),
        record(spec(dataset=split("official"))),
    ]
    assert tables("\n\n".join(across_protocols(build_rows(records))))[0][0][3:] == [
        "by original (%)", "official (%)"
    ]  # fmt: skip


def test_two_clean_protocols_have_no_inflation(store: Store) -> None:
    page = text(store, [run(store, split("official"), 0.7), run(store, split("five-fold"), 0.72)])
    assert tables(page)[0][0][3:] == ["five-fold (%)", "official (%)"]
    assert "inflation" not in page


def test_nothing_without_a_counterpart(store: Store) -> None:
    assert across_protocols(build_rows([])) == []
    assert across_protocols(rows_of(store, [run(store, split("official"), 0.7)])) == []
    other = DATASET.model_copy(update={"name": "pbc", "protocol": "pooled-random"})
    assert across_protocols(rows_of(store, [run(store, split("official"), 0.7), run(store, other, 0.9)])) == []


def test_a_model_without_all_folds_is_not_measured_against_those_with_them(store: Store) -> None:
    whole = [run(store, split("grouped", fold=fold), 0.7, fold, prefix=f"f{fold}-") for fold in range(3)]
    part = [run(store, split("grouped", fold=fold), 0.9, fold, model="part", prefix=f"f{fold}-") for fold in range(2)]
    leaky = [run(store, split("pooled-random"), 0.97, 0, LEAK, model=model) for model in ("m", "part")]
    head, _, *body = tables(text(store, [*whole, *part, *leaky]))[0]
    assert head[3] == "grouped, 3 folds (%)"
    by_model = {row[0]: row for row in body}
    assert by_model["part"][3].endswith(" of 2 of 3 folds")
    assert by_model["part"][5] == NOT_APPLICABLE
    assert "of 3 folds" not in by_model["m"][3]
    assert by_model["m"][5].startswith("+")


def test_of_one_split_made_twice_the_newer_counts(store: Store) -> None:
    old = run(store, split("official", content="old"), 0.6)
    new = run(store, split("official", content="new"), 0.8)
    new = new.model_copy(update={"started": "2027-01-01T00:00:00+00:00"})
    leaky = run(store, split("pooled-random", content="new"), 0.97, 0, LEAK)
    head, _, row = tables(text(store, [old, new, leaky]))[0]
    assert head[3] == "official (%)"
    assert new.test_metrics is not None
    assert row[3].startswith(f"{100 * new.test_metrics.accuracy:.1f} (")


# ---------------------------------------------------------------- by source


def sources(store: Store, seeds: int = 2) -> list[RunRecord]:
    """Trained on pbc and jtsc, and without each."""
    records = []
    for seed in range(seeds):
        draw = np.random.default_rng(seed)
        places = [("pbc", number) for number in range(200)] + [("jtsc", number) for number in range(60)]
        ids = [f"{source}/{number}.jpg" for source, number in places]
        right = [draw.random() < (0.95 if source == "pbc" else 0.85) for source, _ in places]
        mixed = spec("m", seed=seed, dataset=split("stratified-grouped"))
        records.append(answered(store, mixed, right, ids, ids))
        for source, rate in (("pbc", 0.8), ("jtsc", 0.5)):
            ids = [f"{source}/{number}.jpg" for number in range(150)]
            without = spec("m", seed=seed, dataset=split("leave-one-source-out", held_out=source))
            records.append(answered(store, without, draw.random(150) < rate, ids, ids))
    return records


def test_by_source(store: Store) -> None:
    records = sources(store)
    page = text(store, records)
    head, _, *body = tables(page)[-1]
    assert head == ["model", "method", "teacher", "source is", "jtsc", "pbc"]
    assert [row[3] for row in body] == ["in training", "held out", "drop (points)"]
    rows = rows_of(store, records)
    mixed = next(row for row in rows if not row.dataset.held_out)
    alone = next(row for row in rows if row.dataset.held_out == "jtsc")
    seen, unseen = pool([mixed], lambda name: name.startswith("jtsc/")), pool([alone])
    assert seen is not None
    assert unseen is not None
    assert seen.count == 60
    low, high = difference(unseen, seen)
    assert body[2][4] == f"{100 * (unseen.rate - seen.rate):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    assert body[1][4].startswith(f"{100 * unseen.rate:.1f} (")
    assert "## By source: bccd, 64 px" in page
    head = tables(page)[0][0]
    assert head[3:] == ["leave-one-source-out, 2 sources left out (%)", "stratified-grouped (%)"]


def test_what_was_held_out_is_no_measure_of_a_leak(store: Store) -> None:
    head = tables(text(store, [*sources(store), run(store, split("pooled-random"), 0.97, leak=LEAK)]))[0][0]
    assert [heading for heading in head if "inflation" in heading] == [
        "inflation, pooled-random against stratified-grouped (points)"
    ]


def test_a_source_that_was_never_held_out_has_no_column_and_one_without_a_counterpart_a_dash(store: Store) -> None:
    records = [record for record in sources(store) if record.spec.dataset.held_out != "pbc"]
    assert tables(text(store, records))[-1][0][4:] == ["jtsc"]
    alone = [record for record in records if record.spec.dataset.held_out]
    assert across_protocols(rows_of(store, alone)) == []
    both = [record for record in sources(store) if record.spec.dataset.held_out]
    _, _, seen, _, drop = tables(text(store, both))[-1]
    assert (seen[4:], drop[4:]) == (["–", "–"], ["–", "–"])


def test_pooling_nothing_is_none(store: Store) -> None:
    rows = rows_of(store, [run(store, split("official"), 0.7)])
    assert pool([]) is None
    assert pool(rows, lambda name: False) is None
    assert pool(build_rows([record(spec())])) is None
    assert isinstance(pool(rows), Grouped)


# ---------------------------------------------------------------- names and first lines


def test_titles_stay_readable() -> None:
    assert dataset_titles([split("pooled-random", content="a"), DATASET]) == [
        "bccd, 64 px, protocol=pooled-random", "bccd, 64 px, protocol=usual"
    ]  # fmt: skip
    folds = [split("five-fold", fold=fold) for fold in range(2)]
    assert dataset_titles([*folds, split("official")]) == [
        "bccd, 64 px, protocol=five-fold, fold=0", "bccd, 64 px, protocol=five-fold, fold=1",
        "bccd, 64 px, protocol=official",
    ]  # fmt: skip
    assert dataset_titles(folds) == ["bccd, 64 px, fold=0", "bccd, 64 px, fold=1"]
    sources = [split("leave-one-source-out", held_out=source) for source in ("jtsc", "pbc")]
    assert dataset_titles([*sources, split("official")]) == [
        "bccd, 64 px, protocol=leave-one-source-out, held_out=jtsc",
        "bccd, 64 px, protocol=leave-one-source-out, held_out=pbc",
        "bccd, 64 px, protocol=official",
    ]  # fmt: skip
    assert dataset_titles([split("official")]) == ["bccd, 64 px"]
    assert dataset_titles([split("", content="a"), split("", content="b")]) == [
        "bccd, 64 px, content=a", "bccd, 64 px, content=b"
    ]  # fmt: skip


def first_lines(page: str) -> list[str]:
    return [block.split("\n\n")[1] for block in page.split("\n## ")[1:] if block.startswith("bccd")]


def test_protocol_leak_and_effective_number_come_first(store: Store) -> None:
    records = [
        run(store, split("pooled-random"), 0.9, leak=f"{LEAK}."),
        run(store, split("official"), 0.7),
        record(spec("old", dataset=DATASET)),
    ]
    old, official, leaky = first_lines(render(records, "md", outcomes=Outcomes.below(store.root)))
    count = "300 test images in 50 independent groups: intervals count groups."
    assert old == "Protocol: not noted."
    assert official == f"Protocol: official v1.\\\n{count}"
    assert leaky == f"Protocol: pooled-random v1.\\\n**Leaky protocol:** {LEAK}.\\\n{count}"


def test_old_records_claim_nothing(store: Store) -> None:
    page = render([record(spec())])
    assert "rotocol" not in page
    groups = [str(number) for number in range(40)]
    made = answered(store, spec(), [True] * 39 + [False], groups)
    page = render([made], "md", outcomes=Outcomes.below(store.root))
    assert "40 test images. Which of them belong together was not noted when these runs were made" in page
    assert "One of the 40 test images is 2.5 points." in page


def test_one_original_is_worth_many_images(store: Store) -> None:
    page = render([run(store, split("official"), 0.7)], "md", outcomes=Outcomes.below(store.root))
    assert "One of the 50 independent groups of test images is 2.0 points, one of all 300 images is 0.3." in page
