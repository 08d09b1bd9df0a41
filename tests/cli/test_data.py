"""`kdbench data` on data sets of the user's own: from a few lines of YAML to a verdict, and to a run."""

import numpy as np
import pytest
import yaml
from PIL import Image

from kdbench.data.source import SOURCES
from kdbench.store import Store

pytestmark = pytest.mark.usefixtures("own_sources")


def save(path, seed, size=(20, 24), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def pets(tmp_path):
    """120 images of two classes, and a file that declares them."""
    for number in range(120):
        save(tmp_path / "home of pets/images" / ("cat", "dog")[number % 2] / f"{number}.png", number)
    path = tmp_path / "home of pets/pets.yaml"
    path.write_text("name: pets\nfolder: images\ntitle: Pets [of ours]\nlicence: CC0-1.0\n")
    return path


def rows(out):
    """The table of classes and sides: numbers by label."""
    lines = [line.replace("│", " ").split() for line in out.splitlines() if line.startswith("│")]
    return {words[0]: [int(word) for word in words[1:]] for words in lines}


def test_check_of_a_clean_folder(kdbench, pets):
    code, out, _ = kdbench("data", "check", pets, "--image-size", "16")
    assert code == 0
    assert rows(out) == {"cat": [42, 6, 12], "dog": [42, 6, 12], "all": [84, 12, 24]}
    for text in (
        "pets: Pets [of ours]",
        "licence: CC0-1.0",
        "width: 20 to 20 pixels, median 20",
        "height: 24 to 24 pixels, median 24",
        "modes: RGB 120",
        "warning: val has fewer than 10 images of cat (6), dog (6)",
        "verdict: pets can be used: 120 images, 2 classes, 1 warning",
    ):
        assert text in out
    assert out.count("warning: ") == 1


def test_check_without_anything_to_warn_of(kdbench):
    code, out, _ = kdbench("data", "check", "synthetic", "--image-size", "16")
    assert code == 0
    assert "width:" not in out  # drawn: there are no files
    assert "warning:" not in out
    assert "verdict: synthetic can be used: 3000 images, 5 classes, nothing to warn of" in out


def test_check_names_what_is_odd(kdbench, pets):
    images = pets.parent / "images"
    save(images / "cat/large.png", 500, (64, 30), "L")
    save(images / "dog/twin.png", 0)  # the bytes of cat/0.png
    save(images / "dog/2.png", 2)  # and of cat/2.png
    save(images / "dog/again.png", 3)  # of dog/3.png
    for number in range(3):
        save(images / "bird" / f"{number}.png", 600 + number)
        (images / "cat" / f"bad{number}.png").write_bytes(b"no image")
    for number in range(25):
        (images / "dog" / f"{number:02d}.txt").write_text("x")
    code, out, _ = kdbench("data", "check", pets, "--image-size", "16")
    assert code == 0
    assert rows(out)["bird"] == [2, 0, 1]
    lines = out.splitlines()
    for text in (
        "width: 20 to 64 pixels, median 20",
        "height: 24 to 30 pixels, median 24",
        "modes: RGB 126, L 1",
        "left out, 25: not an image file by its name",
        "  pets/dog/00.txt",
        "  pets/dog/19.txt",
        "  and 5 more",
        "left out, 3: not an image",
        "  pets/cat/bad2.png",
        "label conflict: byte-identical images carry different labels: pets/cat/0.png = pets/dog/twin.png",
        "label conflict: byte-identical images carry different labels: pets/cat/2.png = pets/dog/2.png",
        "warning: val has no image of bird",
        "warning: train has fewer than 10 images of bird (2)",
        "warning: groups of byte-identical images under different labels: 2",
        "warning: 6 images share their bytes with another; each group is kept on one side",
        "warning: files or lines left out: 28",
    ):
        assert text in lines
    assert "  pets/dog/20.txt" not in lines
    assert lines[-1].startswith("verdict: pets can be used: 127 images, 3 classes, ")


@pytest.mark.parametrize(
    ("declared", "part"),
    [
        ({"folder": "nowhere"}, "pets: nothing at "),
        ({"csv": "t.csv"}, "no column 'image' (image:); its columns are 'file', 'label'"),
        ({"csv": "t.csv", "image": "file"}, "'../../out.png' leads out of "),
        ({"folder": "images/cat"}, "pets: no images found"),
    ],
)
def test_check_of_what_cannot_be_used(kdbench, pets, declared, part):
    (pets.parent / "t.csv").write_text("file,label\nimages/cat/0.png,cat\n../../out.png,dog\n")
    pets.write_text(yaml.safe_dump({"name": "pets", **declared}))
    code, out, err = kdbench("data", "check", pets)
    assert code == 2
    assert "verdict: pets cannot be used" in out
    assert err.strip().startswith("error: ")
    assert part in err
    assert err.strip().count("\n") == 0


def test_check_looks_at_every_data_set_of_a_file(kdbench, pets):
    places = ({"name": "gone", "folder": "gone"}, {"name": "pets", "folder": "images"}, {"name": "off", "csv": "t.csv"})
    pets.write_text(yaml.safe_dump({"sources": list(places)}))
    code, out, err = kdbench("data", "check", pets, "--image-size", "16")
    assert code == 2
    for text in ("verdict: gone cannot be used", "verdict: pets can be used", "verdict: off cannot be used"):
        assert text in out
    assert "gone: nothing at" in err
    assert "off: nothing at" in err


def test_mistakes_of_a_data_file_are_named(kdbench, pets):
    pets.write_text("name: pets\nfoldr: images\nlabels: [a]\n")
    code, out, err = kdbench("data", "check", pets)
    assert (code, out) == (2, "")
    for text in ("line 2: foldr: unknown key", "line 3: labels: a classifier needs at least two labels"):
        assert text in err


@pytest.mark.parametrize(
    ("name", "part"), [("syntetic", "did you mean synthetic?"), ("x.yaml", "the data file x.yaml cannot be read")]
)
def test_a_name_or_file_that_is_none(kdbench, name, part):
    code, _, err = kdbench("data", "check", name)
    assert code == 2
    assert part in err


def test_show_of_a_data_file(kdbench, pets):
    code, out, _ = kdbench("data", "show", pets, "--image-size", "16")
    assert code == 0
    assert rows(out)["all"] == [84, 12, 24]
    assert "pets: Pets [of ours]" in out


def test_a_declared_data_set_is_listed(kdbench, pets):
    kdbench("data", "show", pets, "--image-size", "16")
    assert "pets" in SOURCES
    code, out, err = kdbench("list", "datasets")
    assert (code, err) == (0, "")
    assert any(line.split()[0] == "pets" and "CC0-1.0" in line for line in out.splitlines() if line.strip())


def suite(pets, **changes):
    raw = {
        "name": "ours",
        "datasets": [{"name": "pets", "image_size": 16}],
        "students": ["resnet8_w16"],
        "train": {"epochs": 1, "batch_size": 16},
        "profile": {"samples": 5},
        "sources": [{"name": "pets", "folder": "images"}],
    }
    path = pets.with_name("suite.yaml")
    path.write_text(yaml.safe_dump({**raw, **changes}, sort_keys=False))
    return path


def test_a_suite_of_ones_own_runs_and_names_no_folder(kdbench, pets, tmp_path):
    code, out, err = kdbench("run", suite(pets), "--results", tmp_path / "results")
    assert code == 0, err
    assert "resnet8_w16" in out
    (record,) = Store(tmp_path / "results").records()
    assert record.data.sources == {"pets": 120}
    shared = [path for path in (tmp_path / "results").rglob("*") if path.suffix in (".json", ".csv", ".md")]
    assert len(shared) >= 3
    assert not any(str(tmp_path) in path.read_text() or "home of pets" in path.read_text() for path in shared)


def test_a_dry_run_says_that_the_data_is_not_there(kdbench, pets):
    code, out, _ = kdbench("run", suite(pets, sources=[{"name": "pets", "folder": "gone"}]), "--dry-run")
    assert (code, out) == (0, f"{'-' * 16}  no data  pets/resnet8_w16/ce/seed0\n")
