"""`kdbench data audit`: a page, a record and pictures of what is doubled and odd in a data set."""

import numpy as np
import pytest
import yaml
from PIL import Image

from kdbench.data.sources.synthetic import draw
from kdbench.store import load_audits

pytestmark = pytest.mark.usefixtures("own_sources")

LABELS = ("eosinophil", "lymphocyte")


@pytest.fixture
def cells(tmp_path):
    """30 drawn cells, one of them again and mirrored under the other label, and a file that declares them."""
    folder = tmp_path / "home of cells"
    for number in range(30):
        path = folder / "images" / LABELS[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(8, number, LABELS[number % 2], 0.5)).save(path)
    Image.fromarray(np.ascontiguousarray(draw(8, 0, LABELS[0], 0.5)[:, ::-1])).save(folder / "images/lymphocyte/m.png")
    (folder / "images/lymphocyte/n.png").write_bytes(b"")
    path = folder / "cells.yaml"
    path.write_text("name: cells\nfolder: images\n")
    return path


def test_the_page_goes_to_the_terminal(kdbench, cells):
    code, out, _ = kdbench("data", "audit", cells)
    assert code == 0
    assert out.startswith("# Audit of cells\n\n**31 images**; ")
    for text in ("**1 label conflict**", "cells/eosinophil/0.png", "cells/lymphocyte/m.png", "mirrored", "zero bytes"):
        assert text in out
    assert "home of" not in out
    assert "kdbench data audit cells.yaml" in out


def test_page_record_and_pictures_go_to_files(kdbench, cells, tmp_path):
    page, json, pictures = tmp_path / "a/page.md", tmp_path / "b/audit.json", tmp_path / "pairs"
    code, out, err = kdbench("data", "audit", cells, "--out", page, "--json", json, "--pictures", pictures)
    assert (code, out) == (0, "")
    assert page.read_text().startswith("# Audit of cells\n")
    (record,) = load_audits(json)
    assert record.counts["near"].conflicts == 1
    assert record.command == "kdbench data audit cells.yaml"
    assert [path.name for path in (pictures / "cells").iterdir()] == ["001-near-conflict.png"]
    assert str(tmp_path) not in page.read_text() + json.read_text()
    for path in (page, json, "1 picture"):
        assert str(path) in err


def test_every_data_set_of_a_file_is_audited(kdbench, cells, tmp_path):
    sets = [
        {"name": "gone", "folder": "gone"},
        {"name": "one", "folder": "images"},
        {"name": "two", "folder": "images"},
    ]
    cells.write_text(yaml.safe_dump({"sources": sets}))
    code, out, err = kdbench("data", "audit", cells, "--json", tmp_path / "audits.json")
    assert code == 2
    assert "gone: nothing at" in err
    assert [line for line in out.splitlines() if line.startswith("# ")] == ["# Audit of one", "# Audit of two"]
    assert [record.name for record in load_audits(tmp_path / "audits.json")] == ["one", "two"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("syntetic",), "did you mean synthetic?"),
        (("x.yaml",), "the data file x.yaml cannot be read"),
        (("pbc", "--data-root", "nowhere"), "pbc: nothing at "),
        (("cells", "--image-size", "32"), "--image-size"),
    ],
)
def test_what_cannot_be_audited(kdbench, arguments, part):
    code, out, err = kdbench("data", "audit", *arguments)
    assert (code, out) == (2, "")
    assert part in err


def test_an_interrupt_leaves_no_file(kdbench, cells, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("kdbench.data.survey.find_twins", interrupted)
    code, out, err = kdbench("data", "audit", cells, "--out", tmp_path / "page.md")
    assert (code, out) == (130, "")
    assert "interrupted" in err
    assert not (tmp_path / "page.md").exists()


def test_check_names_odd_files_too(kdbench, cells):
    images = cells.parent / "images" / "eosinophil"
    for number in range(22):
        Image.fromarray(draw(9, number, LABELS[0], 0.5)).convert("L").save(images / f"grey{number:02d}.png")
    code, out, _ = kdbench("data", "check", cells, "--image-size", "16")
    assert code == 0
    lines = out.splitlines()
    for text in (
        "odd files, 1: zero bytes; left out",
        "  cells/lymphocyte/n.png",
        "odd files, 22: greyscale; made RGB",
        "  cells/eosinophil/grey00.png (L)",
        "  and 2 more",
    ):
        assert text in lines
