"""`kdbench pick`: what it prints, its exit codes, and one clear line for whatever the user got wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdbench.choices import Choice

RESULTS = Path(__file__).resolve().parents[2] / "results"
MIXED = RESULTS / "mixed-small"


def test_a_choice_in_markdown(kdbench):
    code, out, err = kdbench("pick", "--results", MIXED, "--profiles", RESULTS / "profiles", "--device",
                             "raspberry-pi-4", "--min-accuracy", "0.9")  # fmt: skip
    assert (code, err) == (0, "")
    assert out.startswith("# resnet8_w16 taught by resnet18 with kd (no ground truth)\n")
    assert "misses it by" in out


def test_nothing_fits_is_code_3_with_the_page_and_one_line(kdbench):
    code, out, err = kdbench("pick", "--results", MIXED, "--min-accuracy", "99%", "--max-latency-ms", "50")
    assert code == 3
    assert out.startswith("# No student fits: mixed, 64 px")
    assert "## What would do" in out
    assert err.startswith("error: none of 10 candidates fits accuracy of at least 99.0 %")
    assert err.count("\n") == 1


def test_json_is_the_whole_choice(kdbench):
    code, out, _ = kdbench("pick", "--results", MIXED, "--max-params", "100k", "--json")
    assert code == 0
    choice = Choice.model_validate_json(out)
    assert choice.budget.max_params == 100_000
    assert choice.run_id
    code, out, err = kdbench("pick", "--results", MIXED, "--max-params", "1k", "--json")
    assert code == 3
    assert json.loads(out)["run_id"] == ""
    assert "--max-params 79.3k" in err


def test_in_a_terminal_it_is_a_table(kdbench, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = kdbench("pick", "--results", MIXED, "--min-recall", "0.3", "--objective", "macs,accuracy")
    assert code == 0
    assert "mobilenetv3_small_050" in out
    assert "| " not in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max-bytes", "4Mb"), "--max-bytes '4Mb' has an unknown unit 'Mb'; did you mean 4MB?"),
        (("--max-params", "1m"), "did you mean 1M?"),
        (("--max-latency-ms", "5 min"), "--max-latency-ms '5 min' has an unknown unit"),
        (("--min-accuracy", "95"), "--min-accuracy '95' is more than 1; did you mean 95%?"),
        (("--max-drop", "-0.1"), "--max-drop '-0.1' is no limit"),
        (("--min-recall", "high"), "--min-recall 'high' is no number"),
        (("--objective", "acuracy"), "unknown objective 'acuracy'; did you mean accuracy"),
        (("--objective", "macs,macs"), "--objective names 'macs' twice"),
        (("--objective", ""), "unknown objective ''"),
        (("--runtime", "eager,"), "has an empty name"),
        (("--runtime", "openvino"), "nothing here was measured with the runtime 'openvino'"),
        (("--device", "raspbery-pi-4"), "did you mean raspberry-pi-4"),
        (("--device", "none.yaml"), "none.yaml cannot be read"),
        (("--dataset", "mixd"), "unknown data set 'mixd'; did you mean mixed"),
        (("--machine", "zz"), "nothing here was measured on a machine 'zz'"),
        (("--profiles", "none.json"), "none.json is no file or folder"),
        (("--profiles", RESULTS / "mixed-small" / "records"), "holds no profiles"),
        (("--device", "phone", "--runtime", "eager"), "the runtime 'eager' is not on phone; there are onnxruntime"),
    ],
)
def test_wrong_input_is_code_2(kdbench, options, said):
    code, out, err = kdbench("pick", "--results", MIXED, *options)
    assert (code, out) == (2, "")
    assert said in err


def test_every_wrong_option_is_told_at_once(kdbench):
    code, _, err = kdbench("pick", "--results", MIXED, "--max-bytes", "4Mb", "--min-accuracy", "95")
    assert code == 2
    assert "2 problems" in err
    assert "--max-bytes" in err
    assert "--min-accuracy" in err


def test_results_that_are_not_there(kdbench, tmp_path):
    code, _, err = kdbench("pick", "--results", tmp_path / "none")
    assert code == 2
    assert "none is no folder" in err


def test_a_device_file_is_told_by_line(kdbench, tmp_path):
    path = tmp_path / "board.yaml"
    path.write_text("name: board\nlimits:\n  bytes: {value: 4Mb, source: flash}\n")
    code, _, err = kdbench("pick", "--results", MIXED, "--device", path)
    assert code == 2
    assert "line 3: limits.bytes.value: '4Mb' has an unknown unit" in err


def test_several_data_sets_are_asked_about(kdbench):
    code, _, err = kdbench("pick", "--results", RESULTS)
    assert code == 2
    assert "figures of two are never compared; give one of them to --dataset: " in err
    assert "bccd, 64 px" in err
    assert "mixed, 64 px" in err


def test_list_devices(kdbench):
    code, out, err = kdbench("list", "devices")
    assert (code, err) == (0, "")
    for text in ("raspberry-pi-4", "memory 1GB", "rule of thumb", "esp32-s3", "product brief"):
        assert text in out


# ---------------------------------------------------------------- the chosen one, to take along


def test_the_chosen_network_is_exported_with_the_choice(kdbench, deployed, tmp_path):
    results = deployed.results
    ask = ("pick", "--results", results, "--dataset", "synthetic", "--data-root", deployed.folder)
    code, _, err = kdbench(*ask, "--export", tmp_path / "out")
    assert code == 0, err
    choice = json.loads((tmp_path / "out" / "pick.json").read_text())
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert choice["run_id"] == about["run_id"]
    assert (tmp_path / "out" / "pick.md").read_text().startswith("# ")
    code, _, err = kdbench(*ask, "--export", tmp_path / "out")
    assert code == 2  # never over something


def test_without_weights_nothing_is_exported(kdbench, tmp_path):
    code, _, err = kdbench("pick", "--results", MIXED, "--export", tmp_path / "out")
    assert code == 2
    assert "its weights are not below" in err
    assert not (tmp_path / "out").exists()
