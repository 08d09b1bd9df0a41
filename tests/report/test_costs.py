"""The page of costs, made of profiles alone, and its raw numbers.

KDBENCH_UPDATE_GOLDEN=1 pytest tests/report/test_costs.py    writes tests/golden/costs.md anew
"""

from __future__ import annotations

import io
import json
import os
import random
import re
from pathlib import Path

import pandas as pd
import pytest
from record_factory import costs, environment, isolated, latency, profile_record, tables

from kdbench.errors import RecordError
from kdbench.report import costs_csv, costs_frame, costs_json, render, render_costs
from kdbench.report.figures import images_per_s, milliseconds
from kdbench.report.networks import networks
from kdbench.report.text import escape
from kdbench.types import CrossCheck, Memory, ModelChoice, ProfileRecord

GOLDEN = Path(__file__).parent.parent / "golden" / "costs.md"
SMALL = "mobilenetv3_small_050"


def first_table(*profiles: ProfileRecord) -> list[dict[str, str]]:
    head, _, *body = tables(render_costs(profiles))[0]
    return [dict(zip(head, row, strict=True)) for row in body]


def test_golden() -> None:
    page = render_costs(costs())
    if os.environ.get("KDBENCH_UPDATE_GOLDEN"):
        GOLDEN.write_text(page, encoding="utf-8")
    assert page == GOLDEN.read_text(encoding="utf-8")


def test_a_pure_function_of_the_profiles() -> None:
    found = costs()
    shuffled = random.Random(1).sample(found, len(found))
    assert render_costs(shuffled) == render_costs([*found, *found])
    assert costs_csv(shuffled) == costs_csv(found)


def test_render_takes_profiles_for_records_that_are_not_there() -> None:
    assert render([], "md", costs()) == render_costs(costs())
    assert render([], "csv", costs()) == costs_csv(costs())
    assert json.loads(render([], "json", costs())) == costs_json(costs())
    with pytest.raises(RecordError, match="no records"):
        render([], "md", [])


def test_one_row_for_each_model_by_its_multiply_adds() -> None:
    board = profile_record(environment=environment("bbbb2222"), latencies=[isolated(20.0)])
    rows = first_table(profile_record("resnet50"), profile_record(), board)
    assert [row["model"] for row in rows] == [SMALL, "resnet50"]
    assert rows[0]["MACs"] == "**2.1 M**"
    assert rows[0]["FLOPs"] == "**4.2 M**"
    assert rows[0]["weights"] == "**2.3 MB**"
    assert rows[0]["latency on bbbb (ms)"] == "20.0 [19.6, 20.4]"  # the only one: nothing to be better than
    assert rows[1]["latency on bbbb (ms)"] == "missing"
    assert "activations" not in rows[0]


def test_image_sizes_and_classes_share_no_table() -> None:
    profiles = [profile_record(image_size=size, num_classes=n) for size, n in ((96, 2), (64, 5), (64, 2))]
    headings = [line for line in render_costs(profiles).splitlines() if line.startswith("## ")]
    assert headings == ["## 64 px, 2 classes", "## 64 px, 5 classes", "## 96 px, 2 classes", "## How it was measured"]


def test_isolated_figures_displace_the_others() -> None:
    rows = first_table(profile_record(), profile_record("resnet50", [latency(8.0), latency(5.0, threads=2)]))
    assert rows[1]["latency 1 thread (ms)"] == "missing"
    assert rows[1]["latency 2 threads (ms)"] == "5.0 ± 0.2"
    frame = costs_frame([profile_record(), profile_record("resnet50", [latency(8.0)])])
    assert frame["median_ms"].dropna().tolist() == [1.94]


def test_the_quickest_comes_first_with_what_cannot_be_told_apart_from_it() -> None:
    timed = {"a": (5.0, 0.1), "b": (2.0, 0.1), "c": (2.15, 0.1), "d": (5.1, 0.1), "e": (9.0, 0.1)}
    profiles = [profile_record(name, [isolated(ms, half_ms=half)]) for name, (ms, half) in timed.items()]
    page = render_costs(profiles)
    assert "**Quickest:** b, 2.0 [1.9, 2.1] ms; not told apart from it: c." in page
    assert "Neighbours whose intervals overlap do not rank: b ≈ c, a ≈ d." in page
    assert page.index("**Quickest") < page.index("| ")
    apart = render_costs(profiles[1:2] + profiles[4:])
    assert "**Quickest:** b, 2.0 [1.9, 2.1] ms." in apart
    assert "do not rank" not in apart
    assert "**Quickest:** b, 2.0 [1.9, 2.1] ms, the only one measured." in render_costs(profiles[1:2])


def test_images_a_second() -> None:
    timed = [isolated(2.0), isolated(8.0, batch_size=8, unstable=True), isolated(1.0, threads=2)]
    page = render_costs([profile_record(latencies=timed), profile_record("resnet50", [isolated(10.0)])])
    head, _, *body = tables(page)[1]
    assert head == ["model", "batch 1", "batch 8"]
    assert body == [[SMALL, "**500**", "1,000 †"], ["resnet50", "100", "missing"]]
    assert "Timed with eager fp32 (torch 2.14.1), 1 thread, on machine 3f2a." in page
    assert "### Images a second" not in render_costs([profile_record()])
    assert images_per_s(latency(0.0)) is None


def test_start_memory_and_energy() -> None:
    held = Memory(peak_rss_bytes=3 * 2**20)
    page = render_costs([profile_record(latencies=[isolated(2.0, memory=held, energy_j=0.0125, cold_ms=41.26)])])
    head, _, row = tables(page)[1]
    assert dict(zip(head, row, strict=True)) == {
        "model": SMALL, "loading (ms)": "90.0", "first call (ms)": "41.3", "memory (MiB)": "3.0", "energy (mJ)": "12.5",
    }  # fmt: skip
    bare = render_costs([profile_record(latencies=[latency(2.0)])])
    assert "### Start and memory" not in bare


def test_what_is_said_of_a_figure_is_on_the_page() -> None:
    said = [isolated(2.0, note="the machine|was busy", unstable=True, disturbed_ms=(8.0, 9.0))]
    page = render_costs([profile_record(latencies=said), profile_record("resnet50", said)])
    where = "eager fp32, batch 1, 1 thread, on machine 3f2a"
    assert f"- the machine\\|was busy: {SMALL}, {where}; resnet50, {where}\n" in page
    assert "4 calls are left out, as the system gave the processor to somebody else meanwhile." in page
    assert "### Remarks" not in render_costs([profile_record()])


def test_what_is_missing_or_failed_is_said() -> None:
    failed = profile_record(latencies=[], failures={"ort fp32, batch 1, 1 thread": "a|b\nis not there " * 50})
    page = render_costs([failed])
    assert "No latency at batch 1 was measured." in page
    assert f"- {SMALL}, ort fp32, batch 1, 1 thread, on machine 3f2a: a\\|b is not there" in page
    assert "…" in page
    assert "### Without a figure" not in render_costs([profile_record()])
    assert "- resnet50: nothing was left out" in render_costs([profile_record("resnet50")])


def test_a_second_count_is_shown_where_it_differs() -> None:
    def checked(name: str, difference: float, *reasons: str) -> ProfileRecord:
        macs = round(10_000_000 * (1 + difference))
        check = CrossCheck(counter="fvcore 0.1.5", macs=macs, difference=difference, reasons=reasons)
        return profile_record(name, macs=10_000_000, cross_check=check)

    page = render_costs([checked("a", 0.01), checked("b", -0.2, "attention is left out", "and more"), profile_record()])
    assert "A second counter, fvcore 0.1.5, agrees within 1 % on 1 of 2 models; 1 had none." in page
    assert ["b", "fvcore 0.1.5", "10.0 M", "8.0 M", "-20.0", "attention is left out; and more"] in tables(page)[2]
    assert "### A second count" not in render_costs([profile_record()])


def test_networks_of_one_name_are_told_apart() -> None:
    choices = [ModelChoice(name="vit"), ModelChoice(name="vit", pretrained=True), ModelChoice(name="vit", patch_size=8)]
    profiles = [profile_record("vit", choice=choice) for choice in choices]
    profiles += [profile_record("vit", run_id=f"{number}" * 16, title="bccd/vit/kd/seed0") for number in range(2)]
    profiles.append(profile_record("vit", run_id="2" * 16, title="bccd/vit/ce/seed0"))
    assert {network.label for network in networks(profiles)} == {
        "vit (untrained)", "vit (pretrained)", "vit (patch 8)", "bccd/vit/ce/seed0",
        "bccd/vit/kd/seed0 #000000", "bccd/vit/kd/seed0 #111111",
    }  # fmt: skip
    assert [network.label for network in networks(profiles[:1])] == ["vit"]


def test_how_it_was_measured() -> None:
    told = environment(
        affinity=2, quota_cores=1.5, governor="performance", clock_mhz=(800.0, 3400.0), load=(0.5, 2.25),
        thread_settings={"OMP_NUM_THREADS": "1"}, flush_denormal=True, gpu="GPU 1", gpu_driver="570.1",
        gpu_clock_mhz=(1200, 1980), gpu_throttle=("power cap",), dirty=True,
    )  # fmt: skip
    page = render_costs([profile_record(environment=told), profile_record("resnet50", environment=told)])
    facts = {row[0]: row[1] for row in tables(page)[-1]}
    assert facts["machine"] == "3f2a"
    assert facts["cores"] == "4 (2 processors allowed, quota 1.5)"
    assert facts["clock"] == "governor performance, 800 to 3,400 MHz"
    assert facts["load average"] == "0.50 at the start, 2.25 at the end"
    assert facts["thread settings"] == "OMP_NUM_THREADS=1"
    assert facts["denormal numbers"] == "taken for 0"
    assert facts["GPU"] == "GPU 1, driver 570.1, 1,200 of 1,980 MHz, held down: power cap"
    assert facts["kdbench"] == "0.1.0 (commit 0123456789ab, modified)"
    assert facts["instruction sets"] == "avx2"
    assert "in 5 rounds that took turns with those of the others: 100 calls a figure." in page
    quiet = render_costs([profile_record(latencies=[latency(2.0)])])
    assert "clock" not in {row[0] for row in tables(quiet)[-1]}
    assert "1 of 1 figures were taken in one process, one model after the other" in quiet


def test_loads_of_several_files_are_a_span() -> None:
    loads = ((0.1, 0.2), (0.4, 1.0))
    profiles = [
        profile_record(name, environment=environment(load=load)) for name, load in zip("ab", loads, strict=True)
    ]
    facts = {row[0]: row[1] for row in tables(render_costs(profiles))[-1]}
    assert facts["load average"] == "0.10 to 0.40 at the start, 0.20 to 1.00 at the end"


def test_hostile_names_stay_in_their_cell() -> None:
    evil = "a|b\n| x |\r\n<script>alert(1)</script> **bold** `code` [link](http://x) _em_ ~s~ \\| &amp;"
    machine = environment(
        cpu=evil, system=evil, commit=evil, gpu=evil, governor=evil, versions={evil: evil}, cpu_flags=(evil,),
        thread_settings={evil: evil}, gpu_driver=evil, gpu_throttle=(evil,),
    )  # fmt: skip
    check = CrossCheck(counter=evil, macs=1, difference=-0.5, reasons=(evil,))
    timed = [isolated(2.0, runtime=evil, library=evil), isolated(9.0, runtime=evil, library=evil, batch_size=8)]
    profiles = [
        profile_record(
            name, timed, environment=machine, cross_check=check, not_counted={evil: 2}, failures={evil: evil},
            denormals=3, command=f"{evil} ```",
        )
        for name in (evil, "other")
    ]  # fmt: skip
    page = render_costs(profiles, title=evil)
    prose = re.split(r"^````.*$", page, flags=re.MULTILINE)[0]
    assert "<" not in prose
    assert not re.search(r"(?<!\\)`", prose.replace("\\\\", ""))
    for table in tables(page):
        assert len({len(row) for row in table}) == 1
    assert "\n# " not in page[1:]


def test_an_interval_needs_no_backslashes_and_a_link_still_does() -> None:
    assert escape("2.9 [2.8, 3.0]") == "2.9 [2.8, 3.0]"
    assert escape("x [2.8, 3.0](http://x)") == "x \\[2.8, 3.0\\](http://x)"
    assert escape("[2.8, 3.0]: http://x") == "\\[2.8, 3.0\\]: http://x"
    assert escape("[2.8, 3.0][a]") == "[2.8, 3.0]\\[a\\]"
    assert escape("[a, b]") == "\\[a, b\\]"


def test_milliseconds() -> None:
    assert milliseconds(2.94) == "2.9"
    assert milliseconds(2.94, iqr=0.21) == "2.9 ± 0.2"
    assert milliseconds(0.5, iqr=0.05) == "0.50 ± 0.05"
    assert milliseconds(2.94, (2.8, 3.04)) == "2.9 [2.8, 3.0]"
    assert milliseconds(2.94, (2.93, 2.95)) == "2.94 [2.93, 2.95]"
    assert milliseconds(2.94, (2.94, 2.94)) == "2.9 [2.9, 2.9]"
    assert milliseconds(0.5, (0.4995, 0.5001)) == "0.500 [0.499, 0.500]"
    assert milliseconds(123.4, (120.0, 130.0)) == "123.4 [120.0, 130.0]"


# ---------------------------------------------------------------- raw numbers


def test_a_row_for_each_model_and_setting() -> None:
    frame = costs_frame(costs())
    assert len(frame) == 4 * 8 + 2 + 1  # two runtimes in four settings, the board's two, one that failed
    row = frame[(frame["model"] == SMALL) & (frame["machine"] == "b0a4d00000000000")].iloc[0]
    assert (row["median_ms"], row["interval_low_ms"], row["interval_high_ms"]) == pytest.approx((11.64, 8.64, 14.64))
    assert (row["params"], row["macs"], row["flops"]) == (570_000, 2_100_000, 4_200_000)
    assert row["images_per_s"] == pytest.approx(1000 / 11.64)
    assert (row["threads"], row["isolated"], row["library"]) == (1, True, "torch 2.14.1")
    failed = frame[frame["failure"].notna()]
    assert failed["setting"].tolist() == ["openvino fp32, batch 1, 1 thread"]
    assert failed["median_ms"].isna().all()
    assert str(frame["params"].dtype) == str(frame["batch_size"].dtype) == "Int64"


def test_csv_reads_back() -> None:
    back = pd.read_csv(io.StringIO(costs_csv(costs())))
    assert list(back) == list(costs_frame(costs()))
    assert back["median_ms"].notna().sum() == 34


def test_a_model_of_counts_alone_has_a_row() -> None:
    frame = costs_frame([profile_record(latencies=[])])
    assert frame["macs"].tolist() == [2_100_000]
    assert frame["median_ms"].isna().all()


def test_json_is_versioned_and_plain() -> None:
    page = json.loads(json.dumps(costs_json(costs()), allow_nan=False))
    assert page["schema_version"] == 1
    assert sorted(page["machines"]) == ["3f2a9c0b1d4e5f60", "b0a4d00000000000"]
    assert page["machines"]["b0a4d00000000000"]["cpu"] == "Example Board 5"
    assert len(page["rows"]) == 35
    assert set(page["rows"][0]) == set(costs_frame(costs()))
