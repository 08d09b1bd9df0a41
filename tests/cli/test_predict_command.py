"""`kdbench predict`: answers for image files, and one clear line for what cannot be."""

import csv
import shutil

import numpy as np
import pytest
from deployed import one_thread
from PIL import Image

from kdbench.compress.classifier import Classifier
from kdbench.profiling.conversion import installed
from kdbench.suite.export import load_export

pytest.importorskip("onnxscript", reason="needs the extra kdbench[export]")
pytest.importorskip("onnxruntime", reason="needs the extra kdbench[export]")


@pytest.fixture(autouse=True)
def _calm(monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    with one_thread():
        yield


@pytest.fixture
def exported(deployed):
    return deployed.export("crop")


@pytest.fixture
def images(deployed, tmp_path):
    """Three images in a folder and one below it, and what is none."""
    files = deployed.test_files("crop")[:4]
    names = ("a.bmp", "b.bmp", "c.bmp", "below/d.bmp")
    for file, name in zip(files, names, strict=True):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, path)
    (tmp_path / "images" / "empty.png").touch()
    (tmp_path / "images" / "notes.txt").write_text("mine")
    return tmp_path / "images"


@pytest.fixture
def expected(exported, images):
    """(N, K) probabilities, by file name."""
    found = load_export(exported).predict(sorted(images.rglob("*.bmp")))
    return dict(zip([path.name for path in found.files], found.probabilities, strict=True))


def rows(out):
    lines = [line for line in out.splitlines() if line.startswith("│")]
    return {
        cells[0].rpartition("/")[2]: cells[1:] for cells in ([c.strip() for c in x.split("│")[1:-1]] for x in lines)
    }


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("runtime", [(), ("--runtime", "onnxruntime"), ("--runtime", "torch")])
def test_a_folder_of_images(kdbench, exported, images, expected, runtime):
    code, out, err = kdbench("predict", exported, images, "--batch", "2", *runtime)
    assert code == 0
    labels = load_export(exported).labels
    found = rows(out)
    assert set(found) == set(expected)
    for name, row in expected.items():
        order = row.argsort()[::-1]
        label, probability, others = found[name]
        assert label == labels[order[0]]
        assert float(probability) == pytest.approx(row[order[0]], abs=1e-3)
        assert [part.split()[0] for part in others.split(", ")] == [labels[index] for index in order[1:3]]
    assert f"skipped {images / 'empty.png'}: it is empty" in err
    assert f"skipped {images / 'notes.txt'}: its name is not an image's" in err
    ran = runtime[1] if runtime else "onnxruntime"
    assert f"4 images by jtsc/resnet8_w16/ce/seed0 ({ran}), 2 files skipped" in err


def test_a_run_of_a_results_folder(kdbench, deployed, images, expected):
    run = deployed.record("crop").run_id[:7]
    code, out, err = kdbench("predict", run, images / "a.bmp", "--results", deployed.results)
    assert code == 0
    assert float(rows(out)["a.bmp"][1]) == pytest.approx(expected["a.bmp"].max(), abs=1e-3)
    assert "1 images by" not in err
    assert "1 image by jtsc/resnet8_w16/ce/seed0 (torch)" in err


@pytest.mark.skipif(not installed("openvino", "openvino"), reason="needs the extra kdbench[openvino]")
def test_openvino_and_pixels(kdbench, deployed, images, expected):
    run = deployed.record("crop").run_id
    code, _, _ = kdbench(
        "export", run, "--out", "other", "--format", "openvino,onnx", "--with-preprocessing",
        "--results", deployed.results, "--data-root", deployed.root,
    )  # fmt: skip
    assert code == 0
    for runtime in ("openvino", "onnxruntime"):
        code, out, err = kdbench("predict", "other", images / "a.bmp", "--runtime", runtime)
        assert code == 0
        assert float(rows(out)["a.bmp"][1]) == pytest.approx(expected["a.bmp"].max(), abs=1e-3)
        assert f"({runtime})" in err


def test_below_the_threshold_there_is_no_answer(kdbench, exported, images, expected, tmp_path):
    middle = float(np.median([row.max() for row in expected.values()]))
    code, out, err = kdbench("predict", exported, images, "--abstain", f"{middle:.6f}", "--csv", "answers.csv")
    assert code == 0
    silent = {name for name, row in expected.items() if row.max() < round(middle, 6)}
    assert silent
    assert {name for name, cells in rows(out).items() if cells[0] == "abstained"} == silent
    assert f"{len(silent)} abstained (below" in err
    labels = load_export(exported).labels
    with (tmp_path / "answers.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["file", "label", "best", "probability", *(f"p_{label}" for label in labels)]
    for row in table:
        name = row["file"].rpartition("/")[2]
        found = [float(row[f"p_{label}"]) for label in labels]
        assert found == pytest.approx(expected[name], abs=1e-5)
        assert row["best"] == labels[int(np.argmax(found))]
        assert row["label"] == ("abstained" if name in silent else row["best"])
        assert float(row["probability"]) == max(found)
    assert "wrote answers.csv" in err


@pytest.mark.parametrize(("top", "cells"), [(1, 2), (2, 3), (99, 3)])
def test_as_many_classes_as_asked_for(kdbench, exported, images, top, cells):
    code, out, _ = kdbench("predict", exported, images / "a.bmp", "--top", top)
    assert code == 0
    found = rows(out)["a.bmp"]
    assert len(found) == cells
    if top > 1:
        assert len(found[2].split(", ")) == min(top, 5) - 1


def test_many_skipped_files_are_counted(kdbench, exported, images):
    for number in range(30):
        (images / f"{number}.txt").touch()
    code, _, err = kdbench("predict", exported, images)
    assert code == 0
    assert err.count("skipped ") == 21
    assert "skipped 12 more" in err
    assert "32 files skipped" in err


def test_the_picture_of_an_answer(kdbench, exported, images, tmp_path):
    code, _, err = kdbench("predict", exported, images / "a.bmp", "--explain", "heat.png")
    assert code == 0
    assert "wrote heat.png" in err
    assert Image.open(tmp_path / "heat.png").width > 1000


# ---------------------------------------------------------------- what cannot be


def test_no_file_that_can_be_read(kdbench, exported, images, tmp_path):
    code, out, err = kdbench("predict", exported, images / "empty.png", images / "notes.txt", "--csv", "x.csv")
    assert (code, out) == (2, "")
    assert f"skipped {images / 'notes.txt'}: not an image" in err
    assert "error: none of 2 files could be read at" in err
    assert not (tmp_path / "x.csv").exists()
    (tmp_path / "nothing").mkdir()
    code, _, err = kdbench("predict", exported, "nothing")
    assert code == 2
    assert err == "error: there are no files at nothing; name images, or a folder that holds some\n"


@pytest.mark.parametrize("value", ["1.01", "-0.1", "nan", "80"])
def test_a_threshold_that_is_no_probability(kdbench, exported, images, value):
    code, _, err = kdbench("predict", exported, images, f"--abstain={value}")
    assert code == 2
    assert "is no probability; give a number from 0 to 1" in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize("options", [("--top", "0"), ("--batch", "0"), ("--runtime", "tvm"), ("--abstain", "many")])
def test_wrong_options(kdbench, exported, images, options):
    code, _, err = kdbench("predict", exported, images, *options)
    assert code == 2
    assert "Usage: " in err


def test_files_that_are_not_there(kdbench, exported, images):
    code, out, err = kdbench("predict", exported, images, "gone.png")
    assert (code, out) == (2, "")
    assert err == "error: there is no file or folder gone.png; check the path\n"


def test_no_exported_folder(kdbench, images, deployed):
    code, _, err = kdbench("predict", images, images)
    assert code == 2
    assert "is no exported folder: it holds no export.json" in err
    code, _, err = kdbench("predict", deployed.record("crop").run_id, images)
    assert code == 2
    assert "is no folder; name an exported one" in err
    assert "--results" in err


def test_no_such_run(kdbench, images, deployed):
    code, _, err = kdbench("predict", "zebra", images, "--results", deployed.results)
    assert code == 2
    assert "error: there is no run 'zebra' among the 7 of" in err
    for runtime in ("onnxruntime", "openvino"):
        code, _, err = kdbench("predict", "simkd", images, "--results", deployed.results, "--runtime", runtime)
        assert code == 2
        assert "kdbench export" in err


def test_a_changed_file(kdbench, exported, images, tmp_path):
    shutil.copytree(exported, tmp_path / "copy")
    (tmp_path / "copy" / "model.onnx").write_bytes(b"other")
    code, _, err = kdbench("predict", "copy", images)
    assert code == 2
    assert err.startswith("error: copy/model.onnx is not the file that was exported: its SHA-256 is ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--explain", "heat.gif"), "unknown kind of picture '.gif'"),
        (("--explain", "heat.png"), "--explain draws one image, not 5; name one file"),
        (("--csv", "."), "cannot be written"),
        (("--csv", "gone/answers.csv"), "cannot be written"),
        (("--explain", "gone/heat.png"), "cannot be written"),
    ],
)
def test_what_cannot_be_written(kdbench, exported, images, options, said):
    code, out, err = kdbench("predict", exported, images, *options)
    assert (code, out) == (2, "")
    assert said in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize("place", ["predict", "logits"])
def test_an_interrupt_is_told(kdbench, exported, images, tmp_path, monkeypatch, place):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, place, interrupted)
    code, out, err = kdbench("predict", exported, images, "--csv", "x.csv")
    assert (code, out) == (130, "")
    assert err.endswith("interrupted; nothing was written\n")
    assert not (tmp_path / "x.csv").exists()
