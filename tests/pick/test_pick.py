"""A budget and records to a choice: what is held against a limit, what a missing figure is, and what is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contenders import contender, taught
from record_factory import answered, card, environment, isolated, latency, profile_record, record, spec, teacher

from kdbench.choices import Budget, BytesLimit, Choice, DeviceLimits, DeviceProfile, TimeLimit, Verdict
from kdbench.errors import ConfigError, NoStudentFits, RecordError, UnknownName
from kdbench.pick import judge, pick_student, render_choice
from kdbench.report import Outcomes, build_rows
from kdbench.store import Store
from kdbench.types import DatasetSpec, Memory, Metrics

HERE, THERE = "aaaa000000000000", "bbbb000000000000"


def verdict(choice: Choice, model: str) -> Verdict:
    (found,) = [one for one in choice.verdicts if one.model == model]
    return found


def states(choice: Choice) -> dict[str, str]:
    return {one.model: one.state for one in choice.verdicts}


# ---------------------------------------------------------------- the order


def test_the_most_accurate_wins_and_of_equals_the_quickest() -> None:
    records = [contender("a", 0.9, latencies=9.0), contender("b", 0.95, latencies=7.0), contender("c", 0.95)]
    choice = judge(records, Budget())
    assert [one.model for one in choice.verdicts] == ["c", "b", "a"]
    assert choice.run_id == records[2].run_id
    assert choice.chosen is not None
    assert "the most accurate of 3 that pass; 1 equal to it in that, decided by latency" in choice.chosen.reason


@pytest.mark.parametrize(
    ("key", "cheap"),
    [("params", {"params": 9}), ("macs", {"macs": 9}), ("bytes", {"weight_bytes": 9}), ("latency", {"latencies": 1.0}),
     ("memory", {"memory": 9})],
)  # fmt: skip
def test_every_objective(key: str, cheap: dict[str, Any]) -> None:
    records = [contender("a", 0.99, memory=99), contender("b", 0.5, **({"memory": 99} | cheap))]
    assert judge(records, Budget(objective=(key, "accuracy"))).verdicts[0].model == "b"  # type: ignore[arg-type]


def test_equals_are_told_apart_by_name_and_it_is_said() -> None:
    choice = judge([contender("b"), contender("a")], Budget())
    assert [one.model for one in choice.verdicts] == ["a", "b"]
    assert "equal to b trained alone (ce) in all that was asked for" in choice.verdicts[0].reason
    assert (
        "ranks lower: equal to a trained alone (ce), and later by name; not distinguishable from it"
        in choice.verdicts[1].reason
    )


def test_a_dominated_one_and_one_that_only_ranks_lower() -> None:
    records = [
        contender("best", 0.95, latencies=5.0),
        contender("quick", 0.90, latencies=2.0),
        contender("poor", 0.85, latencies=9.0),
    ]
    choice = judge(records, Budget())
    assert {one.model for one in choice.verdicts if one.on_front} == {"best", "quick"}
    poor, quick = verdict(choice, "poor"), verdict(choice, "quick")
    assert poor.reason == "dominated by best trained alone (ce): more accurate by 10.0 points and quicker by 4.00 ms"
    assert poor.dominated_by == "best trained alone (ce)"
    assert (
        quick.reason
        == "ranks lower: less accurate by 5.0 points than best trained alone (ce), though quicker by 3.00 ms"
    )


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("limits", "passes"),
    [
        ({"max_params": "1M"}, True),
        ({"max_params": "999999"}, False),
        ({"max_macs": "10M"}, True),
        ({"max_macs": "9.9M"}, False),
        ({"max_bytes": "4MB"}, True),
        ({"max_bytes": "3.9MB"}, False),
        ({"max_latency_ms": "5ms"}, True),
        ({"max_latency_ms": "4.99"}, False),
        ({"max_memory_bytes": "20MB"}, True),
        ({"max_memory_bytes": "19MB"}, False),
        ({"min_accuracy": "90%"}, True),
        ({"min_accuracy": 0.91}, False),
        ({"min_recall": 0.9}, True),
        ({"min_recall": 0.91}, False),
        ({"max_drop": 0.07}, True),
        ({"max_drop": 0.06}, False),
    ],
)
def test_each_limit_is_kept_to_the_letter(limits: dict[str, Any], passes: bool) -> None:
    choice = judge([contender("a", 0.9, memory=20_000_000), taught(0.97)], Budget(**limits))
    assert (choice.chosen is not None) == passes
    (check,) = choice.verdicts[0].checks
    assert check.passed == passes


def test_a_rejection_has_value_limit_and_margin() -> None:
    choice = judge([contender("a", 0.9, latencies=6.0), contender("b", 0.8)], Budget(max_latency_ms=5))
    reason = verdict(choice, "a").reason
    assert "latency: 6.00 ms (median + half the interquartile range" in reason
    assert "at most 5.00 ms wanted: misses it by 1.00 ms, 20.0 %" in reason
    (check,) = verdict(choice, "a").failed
    assert (check.judged, check.margin, check.relative) == (6.0, -1.0, -0.2)


def test_a_near_miss_does_not_look_like_a_pass() -> None:
    reason = judge([contender("a", 0.89996)], Budget(min_accuracy=0.9)).verdicts[0].reason
    assert "accuracy: 89.996 %" in reason
    assert "at least 90.000 % wanted" in reason


def test_latency_is_judged_by_the_end_of_its_interval() -> None:
    near = contender("a", latencies=[isolated(5.0, half_ms=0.3)])
    assert judge([near], Budget(max_latency_ms=5.3)).chosen is not None
    choice = judge([near], Budget(max_latency_ms=5.2))
    assert choice.chosen is None
    assert "upper end of the 95 % interval; the figure is 5.00 ms" in choice.verdicts[0].reason


def test_without_an_interval_half_the_range_is_added() -> None:
    wide = contender("a", latencies=[latency(5.0, iqr_ms=1.0)])
    assert judge([wide], Budget(max_latency_ms=5.5)).chosen is not None
    assert judge([wide], Budget(max_latency_ms=5.4)).chosen is None


def test_accuracy_and_recall_are_judged_by_the_lower_end(tmp_path: Path) -> None:
    right = [True] * 180 + [False] * 20
    made = answered(Store(tmp_path), spec("a"), right, [str(number) for number in range(200)])
    choice = judge([made], Budget(min_accuracy=0.85, min_recall=0.8), outcomes=Outcomes.below(tmp_path))
    (row,) = build_rows([made], outcomes=Outcomes.below(tmp_path))
    assert row.interval is not None
    accuracy = choice.verdicts[0].figures["accuracy"]
    assert (accuracy.value, accuracy.judged) == (0.9, pytest.approx(row.interval[0]))
    recall = choice.verdicts[0].figures["recall"]
    assert recall.judged < accuracy.judged < accuracy.value  # half as many images
    assert recall.detail in ("eosinophil", "lymphocyte")
    assert choice.chosen is not None
    assert judge([made], Budget(min_accuracy=0.89), outcomes=Outcomes.below(tmp_path)).chosen is None


def test_without_answers_the_spread_is_taken_off() -> None:
    records = [contender("a", accuracy, of={"seed": seed}) for seed, accuracy in enumerate((0.88, 0.92))]
    figure = judge(records, Budget()).verdicts[0].figures["accuracy"]
    assert figure.value == 0.9
    assert figure.judged == pytest.approx(0.9 - np.std([0.88, 0.92], ddof=1))
    assert "standard deviation" in figure.basis


def test_recall_is_that_of_the_worst_class() -> None:
    metrics = Metrics(accuracy=0.9, macro_f1=0.9, loss=0.1, recall={"eosinophil": 0.99, "lymphocyte": 0.7}, count=200)
    choice = judge([contender("a", test_metrics=metrics)], Budget(min_recall=0.8))
    assert "recall of the worst class: 70.0 % (lymphocyte; mean over the seeds" in choice.verdicts[0].reason


def test_a_drop_is_counted_from_the_best_teacher() -> None:
    teachers = [record(teacher("resnet50"), 0.9), record(teacher("vit_tiny"), 0.95)]
    choice = judge([contender("a", 0.92), *teachers], Budget(max_drop=0.02))
    assert choice.chosen is None
    assert "drop to the best teacher: 3.0 points (vit_tiny; means over the seeds" in choice.verdicts[0].reason
    assert judge([contender("a", 0.92), *teachers], Budget(max_drop="3%")).chosen is not None


def test_a_drop_with_answers_is_paired(tmp_path: Path) -> None:
    """Both are wrong on the same images, so the interval is far narrower than those of both accuracies."""
    store, groups = Store(tmp_path), [str(number) for number in range(400)]
    right = [number % 10 != 0 for number in range(400)]
    best = answered(store, teacher(), right, groups)
    worse = [*right]
    worse[1] = worse[3] = False
    student = answered(store, spec("a"), worse, groups)
    figure = judge([best, student], Budget(), outcomes=Outcomes.below(tmp_path)).verdicts[0].figures["drop"]
    assert figure.value == pytest.approx(0.005)
    assert 0.005 < figure.judged < 0.015
    assert figure.interval is not None
    gaps = np.array(right, float) - np.array(worse, float)
    assert figure.judged - 0.005 == pytest.approx(1.966 * gaps.std(ddof=1) / 20, rel=1e-3)


def test_what_is_missing_does_not_pass() -> None:
    records = [contender("a"), contender("bare", 0.99, counted=False)]
    for limits, name in (
        ({"max_params": "1G"}, "parameters: missing (not counted); count it with `kdbench profile"),
        ({"max_bytes": "1GB"}, "weights: missing (not counted)"),
        ({"max_latency_ms": 1000}, "latency: missing (not measured with eager on machine 3f2a); measure it with"),
    ):
        choice = judge(records, Budget(**limits))  # type: ignore[arg-type]
        assert states(choice) == {"a": "chosen", "bare": "rejected"}
        assert name in verdict(choice, "bare").reason
    choice = judge(records, Budget(max_memory_bytes="1GB"))
    assert choice.chosen is None
    assert all("memory: missing (not measured" in one.reason for one in choice.verdicts)
    assert choice.relaxations == ()  # no number helps: it has to be measured
    choice = judge(records, Budget(max_drop=0.5))
    assert "no teacher of this data set has a result" in choice.verdicts[0].reason


def test_a_failed_run_is_listed_with_its_reason() -> None:
    choice = judge([contender("a"), record(spec("broken"), status="diverged")], Budget())
    assert states(choice) == {"a": "chosen", "broken": "no result"}
    assert verdict(choice, "broken").reason == "no result: Diverged: loss nan at step 17"


def test_seeds_without_a_result_are_counted() -> None:
    records = [contender("a"), record(spec("a", seed=1), status="diverged")]
    choice = judge(records, Budget())
    assert (choice.verdicts[0].seeds, choice.verdicts[0].failed_runs) == ((0,), 1)
    assert "; 1 more run without a result" in render_choice(choice)


def test_a_leaky_protocol_is_said() -> None:
    leaky = contender("a", data=card(leak="copies of one original are on both sides."))
    assert judge([leaky], Budget()).notes == ("Leaky protocol: copies of one original are on both sides.",)


def test_an_unstable_latency_is_said() -> None:
    choice = judge([contender("a", latencies=[latency(5.0, unstable=True)])], Budget(max_latency_ms=1))
    assert "latency: 5.12 ms (unstable; median + half" in choice.verdicts[0].reason


def test_teachers_only_where_asked() -> None:
    records = [contender("a", 0.9), taught(0.97)]
    assert [one.model for one in judge(records, Budget()).verdicts] == ["a"]
    assert judge(records, Budget(teachers=True)).verdicts[0].model == "resnet50"


def test_the_run_is_the_one_that_validation_prefers() -> None:
    """And not the one that the test images prefer."""

    def seen(accuracy: float) -> Metrics:
        return Metrics(accuracy=accuracy, macro_f1=accuracy, loss=0.1, recall={}, count=10)

    records = [
        contender("a", test, of={"seed": seed}, val_metrics=seen(val))
        for seed, (test, val) in enumerate([(0.95, 0.8), (0.9, 0.85), (0.99, 0.7)])
    ]
    assert judge(records, Budget()).run_id == records[1].run_id


# ---------------------------------------------------------------- settings and machines


def test_the_best_setting_that_passes_is_taken_and_named() -> None:
    held = {"eager": 30, "onnxruntime": 50, "openvino": 90}
    timed = [
        isolated(median, runtime=runtime, memory=Memory(peak_rss_bytes=held[runtime]))
        for runtime, median in (("eager", 5.0), ("onnxruntime", 2.0), ("openvino", 1.0))
    ]
    found = {
        limit: judge([contender("a", latencies=timed)], Budget(max_memory_bytes=limit)).verdicts[0].setting
        for limit in (100, 60, 40)
    }
    assert [setting.runtime if setting else None for setting in found.values()] == ["openvino", "onnxruntime", "eager"]
    only = judge([contender("a", latencies=timed)], Budget(runtimes=("eager",)))
    assert only.verdicts[0].setting is not None
    assert only.verdicts[0].setting.runtime == "eager"


def test_a_runtime_that_nothing_was_measured_with() -> None:
    with pytest.raises(RecordError, match="runtime 'openvino', but with eager; measure it with"):
        judge([contender("a")], Budget(runtimes=("openvino",)))


def test_batches_do_not_count() -> None:
    choice = judge([contender("a", latencies=[latency(1.0, batch_size=8)])], Budget(max_latency_ms=5))
    assert "latency: missing" in choice.verdicts[0].reason


def test_two_machines_are_asked_about_and_never_mixed() -> None:
    records = [
        contender("a", 0.9, latencies=1.0, fingerprint=HERE),
        contender("b", 0.8, latencies=1.0, fingerprint=THERE),
    ]
    with pytest.raises(ConfigError, match=r"2 machines .* give one of them to --machine: aaaa, CPU of aaaa .* or bbbb"):
        judge(records, Budget())
    choice = judge(records, Budget(max_latency_ms=5), machine="bb")
    assert (choice.machine, states(choice)) == (THERE, {"b": "chosen", "a": "rejected"})
    assert "on machine bbbb" in verdict(choice, "a").reason
    # where no figure of a machine is asked for, none is needed
    assert judge(records, Budget(objective=("accuracy", "macs"))).verdicts[0].model == "a"
    with pytest.raises(RecordError, match="nothing here was measured on a machine 'cc'; there is aaaa"):
        judge(records, Budget(), machine="cc")


def test_two_machines_of_like_digits() -> None:
    records = [contender("a", fingerprint="abcd000000000000"), contender("b", fingerprint="abce000000000000")]
    with pytest.raises(ConfigError, match="may be abcd000000000000 or abce000000000000; give more digits"):
        judge(records, Budget(), machine="abc")


def board(**facts: Any) -> DeviceProfile:
    said: dict[str, Any] = {"name": "board", "cpu": ("Example Board",), "runtimes": ("eager",)}
    return DeviceProfile(**(said | facts))


ROOM = DeviceLimits(
    memory=BytesLimit(value=30_000_000, source="its data sheet"), latency=TimeLimit(value=4.0, source="thumb")
)


def test_a_device_that_nothing_was_measured_on() -> None:
    """Counts and memory are judged all the same, latency is not; who asks for it gets a missing value."""
    records = [contender("a", 0.9, memory=20_000_000), contender("b", 0.95, memory=40_000_000)]
    choice = judge(records, Budget(), device=board(limits=ROOM))
    assert (choice.machine, states(choice)) == ("", {"a": "chosen", "b": "rejected"})
    assert "as measured on machine 3f2a" in verdict(choice, "b").reason
    assert choice.notes == (
        "The latency limit of board is not judged: nothing here was measured on board.",
        "Not in the order: latency; nothing here was measured on board.",
    )
    choice = judge(records, Budget(max_latency_ms=100), device=board(limits=ROOM))
    assert choice.chosen is None
    assert "latency: missing (nothing here was measured on board); measure it there" in choice.verdicts[0].reason


def test_memory_from_elsewhere_is_the_largest_of_each_setting() -> None:
    records = [contender("a", memory=20, fingerprint=HERE), contender("b", 0.5, memory=5, fingerprint=THERE)]
    profiles = [
        profile_record("a", [isolated(1.0, memory=Memory(peak_rss_bytes=held))], environment=environment(where),
                       params=1_000_000, macs=10_000_000)
        for where, held in ((THERE, 70), ("cccc000000000000", 60))
    ]  # fmt: skip
    choice = judge(records, Budget(), device=board(), profiles=profiles)
    figure = verdict(choice, "a").figures["memory"]
    assert figure.value == 70
    assert "machine bbbb" in figure.basis


def test_a_device_is_recognised_by_its_processor() -> None:
    records = [contender("mobilenetv3_small_050", params=570_000, macs=2_100_000, latencies=1.0)]
    there = environment(THERE, cpu="Example Board 5 Rev 1.2")
    profiles = [profile_record(latencies=[isolated(9.0, half_ms=0.1)], environment=there)]
    choice = judge(records, Budget(max_latency_ms=10), device=board(), profiles=profiles)
    assert choice.machine == THERE
    assert choice.verdicts[0].figures["latency"].value == 9.0
    choice = judge(records, Budget(), device=board(limits=ROOM), profiles=profiles)
    assert [check.limit.by for check in choice.verdicts[0].failed] == ["device", "device"]  # latency, missing memory
    with pytest.raises(ConfigError, match=r"machine 3f2a, Example CPU 9000 .* is no board"):
        judge(records, Budget(), device=board(), profiles=profiles, machine="3f2a")


def test_a_device_that_no_one_recognises_may_be_named() -> None:
    choice = judge([contender("a")], Budget(max_latency_ms=10), device=DeviceProfile(name="phone"), machine="3f")
    assert choice.machine.startswith("3f2a")
    assert choice.chosen is not None


def test_this_machine_is_the_one_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.pick.scope.collect", lambda threads: environment(HERE))
    device = DeviceProfile(name="this-machine", this_machine=True)
    records = [contender("a", 0.9, fingerprint=HERE), contender("b", 0.95, fingerprint=THERE)]
    choice = judge(records, Budget(max_latency_ms=10), device=device)
    assert (choice.machine, states(choice)) == (HERE, {"a": "chosen", "b": "rejected"})
    choice = judge(records[1:], Budget(), device=device)
    assert choice.notes == ("Not in the order: latency; nothing here was measured on this machine (aaaa).",)


def test_the_tighter_limit_counts_and_says_whose_it_is() -> None:
    room = DeviceLimits(bytes=BytesLimit(value="8MB", source="flash"))  # type: ignore[arg-type]
    for asked, by, value in (("9MB", "device", 8e6), ("7MB", "budget", 7e6), (None, "device", 8e6)):
        (limit,) = judge([contender("a")], Budget(max_bytes=asked), device=board(limits=room)).limits
        assert (limit.by, limit.value) == (by, value)


def test_a_runtime_that_is_not_on_the_device() -> None:
    with pytest.raises(ConfigError, match="the runtime 'openvino' is not on board; there are eager"):
        judge([contender("a")], Budget(runtimes=("openvino",)), device=board())
    with pytest.raises(ConfigError, match="no runtime of kdbench is there"):
        judge([contender("a")], Budget(runtimes=("eager",)), device=board(runtimes=()))


def test_a_microcontroller_is_judged_by_activations() -> None:
    room = DeviceLimits(memory=BytesLimit(value=1000, source="RAM"))
    device = board(runtimes=(), memory_is="activations", limits=room)
    records = [contender("mobilenetv3_small_050", params=570_000, macs=2_100_000, memory=10**9)]
    choice = judge(records, Budget(), device=device)
    assert "memory: missing (not counted); count it with" in choice.verdicts[0].reason
    for held, state in ((1000, "chosen"), (1001, "rejected")):
        choice = judge(records, Budget(), device=device, profiles=[profile_record(activation_bytes=held)])
        assert choice.verdicts[0].state == state


# ---------------------------------------------------------------- data sets


def test_data_sets_are_never_mixed() -> None:
    other = {"dataset": DatasetSpec(name="mixed", content="beef")}
    large = {"dataset": DatasetSpec(name="bccd", content="c0ffee", image_size=128)}
    records = [contender("a", 0.8), contender("b", 0.99, of=other)]
    with pytest.raises(ConfigError, match=r"2 data sets, .* --dataset: bccd, mixed"):
        judge(records, Budget())
    assert [one.model for one in judge(records, Budget(), dataset="bccd").verdicts] == ["a"]
    records.append(contender("c", 0.9, of=large))
    with pytest.raises(ConfigError, match=r'2 data sets are called bccd; .*: "bccd, 64 px", "bccd, 128 px"'):
        judge(records, Budget(), dataset="bccd")
    assert judge(records, Budget(), dataset="bccd, 128 px").dataset == "bccd, 128 px"
    with pytest.raises(UnknownName, match="unknown data set 'bcd'; did you mean bccd"):
        judge(records, Budget(), dataset="bcd")


def test_without_a_student_there_is_nothing_to_choose() -> None:
    with pytest.raises(RecordError, match="no record of bccd, 64 px has a student"):
        judge([taught()], Budget())
    with pytest.raises(RecordError, match="has a result"):
        judge([record(spec("a"), status="failed")], Budget())


# ---------------------------------------------------------------- nothing fits


def test_each_single_limit_that_would_do() -> None:
    records = [contender("a", 0.9, latencies=7.123), contender("b", 0.85, latencies=4.0)]
    choice = judge(records, Budget(min_accuracy=0.88, max_latency_ms=5))
    assert choice.chosen is None
    assert [relaxation.changes for relaxation in choice.relaxations] == [{"accuracy": 0.85}, {"latency": 7.13}]
    assert choice.relaxations[1].text == (
        "--max-latency-ms 7.13 (higher by 2.13 ms, 42.6 %) lets a trained alone (ce) pass"
    )
    with pytest.raises(NoStudentFits) as none:
        pick_student(records, Budget(min_accuracy=0.88, max_latency_ms=5))
    said = str(none.value)
    assert "none of 2 candidates fits accuracy of at least 88.0 %, latency of at most 5.00 ms; nearest: b " in said
    assert "the smallest change: --min-accuracy 0.85 (lower by 3.0 points, 3.4 %)" in said
    assert "\n" not in said


def test_where_no_single_limit_does_the_fewest_do() -> None:
    choice = judge([contender("a", 0.8, latencies=9.0)], Budget(min_accuracy=0.9, max_latency_ms=5, max_params="2M"))
    (relaxation,) = choice.relaxations
    assert relaxation.changes == {"accuracy": 0.8, "latency": 9.0}
    assert relaxation.relative == pytest.approx(0.8)
    assert "--min-accuracy 0.8 " in relaxation.text
    assert "together let a trained alone (ce) pass" in relaxation.text


def test_what_a_device_would_need() -> None:
    room = DeviceLimits(bytes=BytesLimit(value="1MB", source="flash"))  # type: ignore[arg-type]
    (relaxation,) = judge([contender("a")], Budget(), device=board(limits=room)).relaxations
    assert relaxation.text.startswith("a device with weights of 4.0 MB (higher by 3.0 MB, 300.0 %) lets a ")


# ---------------------------------------------------------------- the page and the JSON


def test_the_page_has_the_choice_first_and_every_candidate() -> None:
    records = [
        contender("best", 0.95),
        contender("small|one", 0.9, params=1000, latencies=3.0),
        contender("slow", 0.99, latencies=50.0),
        record(spec("broken"), status="failed"),
    ]
    page = render_choice(judge(records, Budget(max_latency_ms=10)))
    assert page.startswith("# best trained alone (ce)\n")
    places = [page.index(text) for text in ("## What passes", r"small\|one trained", "## Rejected", "| slow trained",
                                            "| broken trained", "## How it was judged")]  # fmt: skip
    assert places == sorted(places)
    page = render_choice(judge(records, Budget(max_latency_ms=1)))
    assert page.startswith("# No student fits: bccd, 64 px\n")
    assert "## What would do" in page


def test_the_json_reads_back() -> None:
    choice = judge([contender("a"), contender("b", 0.8)], Budget(max_params="1M", min_accuracy=0.85))
    text = choice.model_dump_json()
    assert Choice.model_validate_json(text) == choice
    plain = json.loads(text)
    assert (plain["kind"], plain["schema_version"], plain["run_id"]) == ("kdbench-choice", 1, choice.run_id)


def test_a_budget_takes_units() -> None:
    budget = Budget(max_params="1M", max_bytes="4MiB", max_latency_ms="0.005s", min_accuracy="95%")  # type: ignore[arg-type]
    assert (budget.max_params, budget.max_bytes, budget.max_latency_ms, budget.min_accuracy) == (1e6, 2**22, 5, 0.95)
    with pytest.raises(ValueError, match="did you mean 95%"):
        Budget(min_accuracy=95)
    with pytest.raises(ValueError, match="'macs' stands twice"):
        Budget(objective=("macs", "macs"))
