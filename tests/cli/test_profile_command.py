"""`kdbench profile`: tables, JSON, files, and what the user got wrong."""

import json
import shutil

import pytest
import torch
import yaml

from kdbench.suite import profile as profile_module
from kdbench.types import Latency, ProfileRecord

QUICK = ("--image-size", "32", "--rounds", "1", "--samples", "5")


@pytest.fixture
def untimed(monkeypatch):
    """Latencies out of thin air: no process is started."""

    def latency(setting):
        return Latency(
            runtime=setting.runtime, precision=setting.precision, batch_size=setting.batch_size,
            threads=setting.threads, median_ms=2.5 * setting.batch_size, iqr_ms=0.125, samples=50,
            unstable=setting.batch_size == 8, interval_ms=(2.25, 2.75), cold_ms=12.0, prepare_ms=150.0, isolated=True,
        )  # fmt: skip

    def measure(subjects, settings, sampling, progress):
        return [
            {each: "it does not fit" if each.threads == 3 else latency(each) for each in settings} for _ in subjects
        ]

    monkeypatch.setattr(profile_module, "measure", measure)


@pytest.fixture
def tiny(tmp_path):
    """A suite of one short run, in tiny.yaml."""
    suite = {
        "name": "tiny", "datasets": [{"name": "synthetic", "image_size": 32, "options": {"count": 100}}],
        "students": ["resnet8_w16"], "methods": ["ce"], "train": {"epochs": 1, "batch_size": 16},
        "profile": {"samples": 5},
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(suite))


def test_json_of_one_model(kdbench):
    code, out, _ = kdbench("profile", "resnet8_w16", *QUICK, "--json")
    cost = json.loads(out)
    assert code == 0
    assert {"model", "params", "macs", "flops", "not_counted", "latencies", "environment"} <= set(cost)
    assert cost["params"] > 0
    assert cost["flops"] == 2 * cost["macs"] > 0
    assert cost["not_counted"]
    (latency,) = cost["latencies"]
    assert latency["median_ms"] > 0
    assert latency["isolated"]


def test_json_of_several_models_is_a_list(kdbench, untimed):
    code, out, _ = kdbench("profile", "resnet8_w16", "resnet20_w16", *QUICK, "--json")
    assert code == 0
    assert [cost["model"] for cost in json.loads(out)] == ["resnet8_w16", "resnet20_w16"]


def test_counts_only_times_nothing(kdbench, monkeypatch):
    monkeypatch.setattr(profile_module, "measure", None)
    code, out, _ = kdbench("profile", "resnet8_w16", "--counts-only")
    assert code == 0
    assert "Latency" not in out
    cost = json.loads(kdbench("profile", "resnet8_w16", "--counts-only", "--json")[1])
    assert cost["latencies"] == []


def test_tables(kdbench, untimed):
    code, out, _ = kdbench("profile", "resnet8_w16", "--batch-size", "1,8", "--threads", "1,2")
    assert code == 0
    for text in ("resnet8_w16", "MACs", "one multiply-add is 1 MAC", "batch_norm x", "2.25 to 2.75", "20.0 †",
                 "unstable", "fingerprint: ", "processor: ", "Untrained weights"):  # fmt: skip
        assert text in out
    assert out.count("eager") == 4


def test_a_setting_without_a_figure_says_why(kdbench, untimed):
    code, out, _ = kdbench("profile", "resnet8_w16", "--threads", "1,3")
    assert code == 0
    assert "no figure for resnet8_w16, eager fp32, batch 1, 3 threads: it does not fit" in out


def test_layers(kdbench):
    code, out, _ = kdbench("profile", "resnet8_w16", "--counts-only", "--layers", "--image-size", "32")
    assert code == 0
    for text in ("by operator", "convolution", "by layer", "layer1.0.conv1", "Conv2d", "1x16x8x8"):
        assert text in out


def test_a_file_for_elsewhere(kdbench, tmp_path, untimed):
    code, _, err = kdbench("profile", "resnet8_w16", "--out", tmp_path / "here" / "pi.json")
    assert (code, err.splitlines()[-1]) == (0, f"wrote {tmp_path / 'here' / 'pi.json'}")
    record = ProfileRecord.model_validate_json((tmp_path / "here" / "pi.json").read_text())
    assert record.command == "kdbench profile resnet8_w16"  # where it is written is nobody's business
    assert str(tmp_path) not in record.model_dump_json()


def test_a_plot(kdbench, tmp_path, untimed):
    code, _, _ = kdbench("profile", "resnet8_w16", "resnet20_w16", "--plot", tmp_path / "costs.svg")
    assert code == 0
    assert "resnet20_w16" in (tmp_path / "costs.svg").read_text()


def test_trained_students_of_a_folder(kdbench, tmp_path, tiny, untimed):
    assert kdbench("run", "tiny.yaml", "--results", "kept")[0] == 0
    code, out, err = kdbench("profile", "--results", "kept")
    assert code == 0
    assert "synthetic/resnet8_w16/ce/seed0" in out.replace("\n", "")
    assert "Untrained" not in out
    (path,) = (tmp_path / "kept" / "profiles").iterdir()
    assert path.name in err
    code, page, _ = kdbench("report", "--results", "kept")
    assert code == 0
    assert "2.5 [2.2, 2.8]" in page.replace("\\", "")
    assert kdbench("run", "tiny.yaml", "--results", "kept")[1] == page  # nothing to do, and nothing of it is lost


def test_weights_from_a_file(kdbench, tmp_path, untimed):
    from kdbench.suite.profile import untrained
    from kdbench.types import ModelChoice

    torch.save(untrained(ModelChoice(name="resnet8_w16"), 5, 64).state_dict(), tmp_path / "mine.pt")
    code, out, _ = kdbench("profile", "resnet8_w16", "--weights", tmp_path / "mine.pt")
    assert code == 0
    assert "Untrained" not in out


def test_a_folder_without_weights_does_not_hide_the_others(kdbench, tiny, untimed):
    assert kdbench("run", "tiny.yaml", "--results", "all/one")[0] == 0
    shutil.copytree("all/one/records", "all/a-copy/records")
    code, out, err = kdbench("profile", "--results", "all")
    assert code == 0
    assert "synthetic/resnet8_w16/ce/seed0" in out.replace("\n", "")
    assert "left out: " in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "one of the two"),
        (("resnet8_w16", "--results", "somewhere"), "one of the two"),
        (("resnet8_w16", "--batch-size", "1,x"), "'1,x' is no list of whole numbers"),
        (("resnet8_w16", "--batch-size", "0"), "'0' is no list of whole numbers"),
        (("resnet8_w16", "--threads", ","), "',' is no list of whole numbers"),
        (("resnet8_w16", "--precision", "int3"), "'int3' is not of fp32, bf16"),
        (("resnet8_w16", "--device", "tpu"), "'tpu' is not of cpu, cuda"),
        (("resnet8_w16", "resnet20_w16", "--weights", "x.pt"), "exactly one model"),
        (("resnet8_w16", "--image-size", "8"), "--image-size"),
        (("resnet8_w16", "--plot", "costs.gif"), "'costs.gif' ends in neither .svg nor .png"),
        (("resnet8_w16", "--plot", "costs.svg", "--counts-only"), "needs latencies"),
        (("resnet8_w16", "--out", "."), "'.' cannot be written"),
    ],
)
def test_wrong_usage(kdbench, words, told):
    code, _, err = kdbench("profile", *words)
    assert code == 2
    assert told in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("resnet8_w16", "--runtime", "onnxrutime"), "unknown runtime 'onnxrutime'; did you mean onnxruntime?"),
        (("resnet8_w16", "--runtime", "cudagraph"), "the runtime 'cudagraph' does not run on cpu"),
        (("resnet8_w16", "--weights", "no-such.pt"), "no-such.pt"),
        (("resnet8_w16", "resnet8_w16"), "asked for twice"),
        (("--results", "nowhere"), "no trained student"),
        (("resnet8_w16", "--out", "taken/pi.json"), "taken"),
    ],
)
def test_wrong_input_is_one_line(kdbench, tmp_path, untimed, words, told):
    (tmp_path / "taken").write_text("a file where a folder is wanted")
    code, out, err = kdbench("profile", *words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert told in err


def test_an_interrupt_leaves_quietly(kdbench, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(profile_module, "measure", interrupted)
    code, out, err = kdbench("profile", "resnet8_w16")
    assert (code, out) == (130, "")
    assert "interrupted" in err


def test_the_figures_come_before_a_file_that_cannot_be_written(kdbench, monkeypatch, untimed):
    def full(*_):
        raise OSError(28, "No space left on device", "pi.json")

    monkeypatch.setattr("kdbench.store.write_atomic", full)
    code, out, err = kdbench("profile", "resnet8_w16", "--out", "pi.json")
    assert (code, err.splitlines()[-1]) == (2, "error: No space left on device: pi.json")
    assert "2.25 to 2.75" in out
