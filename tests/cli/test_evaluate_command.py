"""`kdbench evaluate`: its table, what it leaves, and what the user got wrong."""

import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from kdbench.store import Store, find_evaluations
from kdbench.suite import evaluate as evaluate_module
from kdbench.suite.api import run_suite

TITLE = "synthetic/resnet8_w16/ce/seed0"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache):
    """The results of a suite of one short run, made once."""
    folder = tmp_path_factory.mktemp("trained")
    suite = {
        "name": "tiny", "datasets": [{"name": "synthetic", "image_size": 32, "options": {"count": 100}}],
        "students": ["resnet8_w16"], "train": {"epochs": 1, "batch_size": 16}, "profile": {"samples": 5},
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(yaml.safe_dump(suite))
    run_suite(str(folder / "tiny.yaml"), folder / "results", root=folder, cache=cache)
    return folder / "results"


@pytest.fixture
def results(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def clinic(tmp_path):
    """A YAML file that declares a data set with a class the model does not have."""
    draw = np.random.default_rng(0)
    for name in ("basophil", "monocyte", "artefact"):
        (tmp_path / "clinic" / name).mkdir(parents=True)
        for number in range(10):
            image = Image.fromarray(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8))
            image.save(tmp_path / "clinic" / name / f"{number}.png")
    path = tmp_path / "clinic.yaml"
    path.write_text("name: clinic\nfolder: clinic\n")
    return path


def row(out):
    """The cells of the run's line, by column."""
    lines = [[cell.strip() for cell in line.replace("┃", "│").split("│")[1:-1]] for line in out.splitlines()]
    (head,) = [cells for cells in lines if cells[:1] == ["run"]]
    (cells,) = [cells for cells in lines if cells[:1] == [TITLE]]
    return dict(zip(head, cells, strict=True))


@pytest.mark.usefixtures("own_sources")
def test_corruptions_and_a_data_set_of_ones_own(kdbench, results, clinic):
    code, out, err = kdbench(
        "evaluate", "--results", results, "--corruptions", "jpeg, brightness", "--levels", "1,4-5", "--on", "clinic",
        "--sources", clinic,
    )  # fmt: skip
    assert code == 0
    assert list(row(out)) == ["run", "clean", "brightness", "jpeg", "on clinic"]
    own, further = sorted(find_evaluations(results), key=lambda one: one.side, reverse=True)
    jpeg = [figure.accuracy for figure in own.corrupted if figure.corruption == "jpeg"]
    assert len(jpeg) == 3
    assert row(out)["jpeg"] == f"{100 * sum(jpeg) / 3:.1f}"
    assert row(out)["clean"] == f"{100 * own.metrics.accuracy:.1f}"
    assert row(out)["on clinic"] == f"{100 * further.metrics.accuracy:.1f}"
    assert "mean over the levels 1, 4, 5" in out
    assert "left out of clinic: 10 images, the model has no class 'artefact'" in out
    assert "ok synthetic/resnet8_w16/ce/seed0 on corrupted test images: accuracy" in err
    assert own.command == "kdbench evaluate --corruptions 'jpeg, brightness' --levels 1,4-5 --on clinic"
    assert str(results.parent) not in json.dumps([one.model_dump(mode="json") for one in (own, further)])
    again = kdbench("evaluate", "--results", results, "--corruptions", "jpeg", "--levels", 1, "--only", "resnet8")
    assert again[0] == 0
    assert row(again[1])["jpeg"] == f"{100 * jpeg[0]:.1f}"  # of the level that was asked for
    assert "on corrupted" not in again[2]


def test_a_failure_is_told_and_the_code_is_1(kdbench, results):
    code, out, err = kdbench("evaluate", "--results", results, "--on", "jtsc", "--data-root", "nowhere")
    assert code == 1
    assert row(out)["on jtsc"] == "–"
    assert f"failed: {TITLE} on jtsc: jtsc: nothing at" in out
    assert "1 of 1 evaluations failed; the same command tries them again" in err


@pytest.mark.usefixtures("own_sources")
def test_a_model_of_a_data_set_that_is_not_declared(kdbench, results, tmp_path):
    (path,) = (results / "records").glob("*.json")
    path.write_text(path.read_text().replace('"name": "synthetic"', '"name": "clinic"'))
    code, out, _ = kdbench("evaluate", "--results", results, "--corruptions", "jpeg")
    assert code == 1
    assert "unknown dataset 'clinic'" in out
    assert "declared with --sources FILE" in out


def test_an_interrupt(kdbench, results, monkeypatch):
    def stop(*arguments, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate_module, "predict", stop)
    code, _, err = kdbench("evaluate", "--results", results, "--corruptions", "jpeg")
    assert code == 130
    assert "the same command goes on where it stopped" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say what to try"),
        (("--corruptions", "jpg"), "unknown corruption 'jpg'; did you mean jpeg?"),
        (("--corruptions", "jpeg", "--levels", "0-5"), "'0-5' is no list of levels from 1 to 5"),
        (("--corruptions", "jpeg", "--levels", "some"), "'some' is no list of levels"),
        (("--corruptions", "jpeg", "--levels", "5-1"), "'5-1' is no list of levels"),
        (("--on", "jtcs"), "unknown dataset 'jtcs'; did you mean jtsc"),
        (("--corruptions", "jpeg", "--only", "zebra"), "'zebra' matches none of 1 runs"),
        (("--on", "jtsc", "--sources", "none.yaml"), "the data file none.yaml cannot be read"),
    ],
)
def test_wrong_input(kdbench, results, arguments, said):
    code, out, err = kdbench("evaluate", "--results", results, *arguments)
    assert (code, out) == (2, "")
    assert said in " ".join(err.replace("│", " ").split())
    assert not (results / "evaluations").exists()


def test_a_folder_without_runs_or_weights_or_with_a_writer(kdbench, results, tmp_path):
    asked = ("--corruptions", "jpeg")
    code, _, err = kdbench("evaluate", "--results", tmp_path / "empty", *asked)
    assert (code, err.count("\n")) == (2, 1)
    assert "holds no finished run" in err
    with Store(results).lock():
        code, _, err = kdbench("evaluate", "--results", results, *asked)
    assert code == 2
    assert "another kdbench run is writing" in err
    shutil.rmtree(results / "weights")
    code, _, err = kdbench("evaluate", "--results", results, *asked)
    assert code == 2
    assert "but not their weights" in err
