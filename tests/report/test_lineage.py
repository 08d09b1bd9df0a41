"""What a page says of compression, of records made by hand."""

import numpy as np
import pytest
from record_factory import answered, isolated, latency, profile_record, record, spec, tables, teacher

from kdbench.report import Outcomes, build_rows, render, to_json
from kdbench.report.lineage import lineages, ways_of
from kdbench.store import Store
from kdbench.types import Compression, Profile


def costs(params, macs, weight_bytes):
    return Profile(image_size=64, params=params, macs=macs, flops=2 * macs, weight_bytes=weight_bytes)


STUDENT = spec("mobilenetv3_small_050", "kd", teachers=[teacher()])
PRUNED = spec("mobilenetv3_small_050", "kd", teachers=[STUDENT], parent=STUDENT, prune={"macs": 0.5})
INT8 = spec("mobilenetv3_small_050", "kd", teachers=[STUDENT], parent=PRUNED, quantise={})
STRAIGHT = spec("mobilenetv3_small_050", "kd", teachers=[teacher()], parent=STUDENT, quantise={"kind": "dynamic"})


def family():
    return [
        record(teacher(), 0.97),
        record(spec(), 0.88),
        record(STUDENT, 0.93, profile=costs(600_000, 4_000_000, 2_400_000)),
        record(
            PRUNED, 0.925, profile=costs(300_000, 2_000_000, 1_200_000), compression=Compression(parent_weights="a")
        ),
        record(INT8, 0.91, profile=costs(300_000, 2_000_000, 330_000), compression=Compression(parent_weights="b")),
        record(STRAIGHT, 0.92, profile=costs(600_000, 4_000_000, 660_000)),
    ]


def timed(of, median_ms, precision="fp32", half_ms=0.001):
    return profile_record(
        "mobilenetv3_small_050",
        run_id=of.run_id,
        latencies=[isolated(median_ms, half_ms=half_ms, runtime="onnxruntime", precision=precision, library="ort 1")],
    )


def times():
    return [timed(STUDENT, 0.4), timed(PRUNED, 0.25), timed(INT8, 0.2, "int8"), timed(STRAIGHT, 0.41, "int8")]


def section(page):
    return page.split("### What compression cost")[1].split("\n#")[0]


def test_rows_are_named_by_how_they_were_trained_and_what_became_of_them():
    rows = {row.model: row for row in build_rows(family()) if row.role == "compressed"}
    assert set(rows) == {
        "mobilenetv3_small_050 > macs 50 %",
        "mobilenetv3_small_050 > macs 50 % > int8",
        "mobilenetv3_small_050 > int8 dynamic",
    }
    small = rows["mobilenetv3_small_050 > macs 50 % > int8"]
    assert (small.method, small.teacher, small.stages) == ("kd", "resnet50", ("macs 50 %", "int8"))
    assert small.teacher_accuracy == pytest.approx(0.97)  # of the teacher of the student, not of its own fine-tuning
    assert small.rank is not None
    assert small.gain is None  # of distillation: that belongs to the student


def test_a_lineage_is_read_from_the_trained_network_down():
    (steps,) = lineages(build_rows(family()))
    assert [(step.depth, step.row.stages) for step in steps] == [
        (0, ()),
        (1, ("macs 50 %",)),
        (2, ("macs 50 %", "int8")),
        (1, ("int8 dynamic",)),
    ]


def test_the_table_compares_every_step_with_the_trained_network():
    (table,) = tables(section(render(family(), "md", times())))
    assert table[0][:6] == ["network", "accuracy (%)", "since trained (points)", "params", "MACs", "bytes"]
    by_name = {row[0]: row[1:] for row in table[1:]}
    assert by_name["→ macs 50 %"][:5] == ["92.5", "-0.5", "0.30 M (50 %)", "2.0 M (50 %)", "1.2 MB (50 %)"]
    nested = next(row for name, row in by_name.items() if name.endswith("→ int8"))
    assert nested[1] == "-2.0"
    assert nested[4] == "0.33 MB (14 %)"
    assert nested[5].endswith("(2.0x)")
    # int8 is compared with fp32 of the same runtime, and stands in one column with it
    assert len(table[0]) == 7


def test_it_says_where_int8_brings_nothing():
    page = section(render(family(), "md", times()))
    assert (
        "**Int8 is not faster, or not beyond the intervals:** mobilenetv3_small_050 &gt; int8 dynamic in onnxruntime "
        "(0.98x)." in page
    )


def test_of_seeds_that_were_pruned_differently_the_largest_counts():
    other = spec("mobilenetv3_small_050", "kd", 1, teachers=[teacher()])
    wider = spec("mobilenetv3_small_050", "kd", 1, teachers=[other], parent=other, prune={"macs": 0.5})
    records = [*family(), record(wider, 0.9, profile=costs(350_000, 1_900_000, 1_400_000))]
    row = next(row for row in build_rows(records) if row.stages == ("macs 50 %",))
    assert len(row.records) == 2
    assert (row.params, row.macs, row.weight_bytes) == (350_000, 2_000_000, 1_400_000)


def test_without_latencies_it_says_how_to_measure_them():
    page = section(render(family(), "md"))
    assert "`kdbench profile --results DIR` measures them" in page
    assert "not faster" not in page


def test_pages_without_compression_say_nothing_of_it():
    assert "compression" not in render([record(teacher(), 0.97), record(spec(), 0.88)], "md")


def test_an_untrained_float_network_does_not_stand_for_an_int8_file():
    """The counts of a file that was quantised without pruning are those of its architecture."""
    profile = profile_record(
        "mobilenetv3_small_050", latencies=[isolated(0.4, runtime="onnxruntime")],
        params=600_000, macs=4_000_000, num_classes=2,
    )  # fmt: skip
    rows = {row.model: row for row in build_rows(family(), [profile])}
    assert rows["mobilenetv3_small_050 > int8 dynamic"].profiles == ()
    trained = next(row for row in build_rows(family(), [profile]) if row.role == "student")
    assert trained.profiles == (profile,)


def test_a_lineage_whose_trained_network_is_not_there_begins_with_what_is_left():
    left = [one for one in family() if one.spec != STUDENT]
    found = lineages(build_rows(left))
    assert sorted(steps[0].row.stages for steps in found) == [("int8 dynamic",), ("macs 50 %",)]


def test_changes_are_tested_on_the_same_images_at_equal_seeds(tmp_path):
    store = Store(tmp_path)
    generator = np.random.default_rng(0)
    right = generator.random(400) < 0.9
    groups = [str(place) for place in range(400)]
    worse = right.copy()
    worse[:40] = False
    records = [answered(store, STUDENT, right, groups), answered(store, PRUNED, worse, groups)]
    rows = build_rows(records, outcomes=Outcomes.below(tmp_path))
    pruned = next(row for row in rows if row.role == "compressed")
    test = pruned.stage_test
    assert test.gain == pytest.approx(worse.mean() - right.mean())
    assert test.high < 0
    assert test == pruned.lineage_test
    assert "**Steps that cost more than 0.5 points:**" in render(records, "md", outcomes=Outcomes.below(tmp_path))


def test_two_fine_tunings_of_one_pruning_are_told_apart():
    other = spec("mobilenetv3_small_050", "dkd", teachers=[STUDENT], parent=STUDENT, prune={"macs": 0.5})
    rows = [row for row in build_rows([*family(), record(other, 0.9)]) if row.stages == ("macs 50 %",)]
    assert len({(row.model, row.method, row.teacher) for row in rows}) == 2


def test_two_ways_to_run_are_two_columns():
    eager = record(STUDENT, 0.93, profile=costs(600_000, 4_000_000, 2_400_000).model_copy(
        update={"latencies": (latency(2.0),)}
    ))  # fmt: skip
    rows = build_rows([*[one for one in family() if one.spec != STUDENT], eager], times())
    assert [way.title for way in ways_of(rows)] == ["onnxruntime"]  # nothing compressed was timed in eager


def test_json_names_the_stages():
    rows = to_json(family())["rows"]
    assert {row["stages"] for row in rows} == {None, "macs 50 %", "macs 50 % > int8", "int8 dynamic"}


def test_the_picture_has_an_arrow_for_each_step(tmp_path):
    from kdbench.report.charts import draw_descents
    from kdbench.report.pictures import descents_of, plot_all

    (found,) = descents_of(build_rows(family(), times()))
    assert [(stop.kind, stop.parent) for stop in found.stops] == [
        ("trained", None),
        ("pruned", 0),
        ("int8", 1),
        ("int8", 0),
    ]
    assert [stop.latency_ms for stop in found.stops] == [0.4, 0.25, 0.2, 0.41]
    figure = draw_descents("bccd", [found], "onnxruntime")
    bytes_axes, latency_axes = figure.axes
    arrows = [note for note in latency_axes.texts if note.get_text() == ""]
    assert len(arrows) == 3
    assert [line.get_xdata()[0] for line in bytes_axes.lines] == [2.4, 1.2, 0.33, 0.66]
    assert len(draw_descents("bccd", [found], "").axes) == 1
    written = plot_all(family(), times(), None, tmp_path)
    assert tmp_path / "compression-bccd-64-px.svg" in written
