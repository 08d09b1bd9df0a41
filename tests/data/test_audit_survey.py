"""The whole audit, over a small folder in which everything that can be found was planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdbench.data.declared import declare
from kdbench.data.source import SOURCES, Item, Source
from kdbench.data.sources.bccd import BCCD
from kdbench.data.sources.synthetic import draw
from kdbench.data.survey import survey, write_pictures
from kdbench.errors import ConfigError, DataError, MissingData
from kdbench.findings import AuditRecord, PairKind
from kdbench.store import load_audits, write_audits
from kdbench.types import DatasetSpec, SourceDeclaration

pytestmark = pytest.mark.usefixtures("own_sources")

LABELS = ("eosinophil", "lymphocyte", "monocyte", "neutrophil")
SPEC = DatasetSpec(name="smears", image_size=64)


def cell(number: int) -> Image.Image:
    return Image.fromarray(draw(5, number, LABELS[number % 4], 0.5))


def put(image: Image.Image, path: Path, **options: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def mirrored(number: int) -> Image.Image:
    return cell(number).transpose(Image.Transpose.FLIP_LEFT_RIGHT)


@pytest.fixture
def smears(tmp_path: Path) -> Path:
    """40 cells on given sides and six files more, in their classes."""
    folder = tmp_path / "smears"
    for number in range(40):
        side = ("train", "train", "val", "test")[number // 4 % 4]
        put(cell(number), folder / side / LABELS[number % 4] / f"{number:02d}.png")
    put(cell(0), folder / "train/lymphocyte/twin.png")  # bytes of an eosinophil
    put(cell(1), folder / "train/lymphocyte/copy.png")
    put(mirrored(4), folder / "test/eosinophil/leak.png")  # what train holds
    put(mirrored(5), folder / "train/monocyte/doubt.png")  # a lymphocyte
    put(cell(6).convert("L"), folder / "train/monocyte/grey.png")
    (folder / "train/monocyte/bad.png").write_bytes(b"no image")
    declare(SourceDeclaration(name="smears", folder=str(folder)), tmp_path)
    return tmp_path


def audited(root: Path, spec: DatasetSpec = SPEC) -> AuditRecord:
    return survey(spec, root, root / "cache", command="kdbench data audit smears")


def named(record: AuditRecord, kind: PairKind) -> list[tuple[str, str]]:
    return [(Path(p.first.id).stem, Path(p.second.id).stem) for p in record.pairs if p.kind == kind]


def test_all_that_was_planted_is_found(smears: Path) -> None:
    record = audited(smears)
    assert record.images == sum(record.sources.values()) == 45
    assert (record.exact_groups, record.exact_images) == (2, 4)
    assert set(map(frozenset, named(record, "exact"))) == {frozenset({"00", "twin"}), frozenset({"01", "copy"})}
    assert set(map(frozenset, named(record, "near"))) == {
        frozenset({"04", "leak"}), frozenset({"05", "doubt"}), frozenset({"06", "grey"}),
    }  # fmt: skip
    exact, near = record.counts["exact"], record.counts["near"]
    assert (exact.pairs, exact.conflicts, exact.across_sides, exact.across_sources) == (2, 1, 0, 0)
    assert (near.pairs, near.conflicts, near.across_sides, near.by_sides) == (3, 1, 1, {"train / test": 1})
    assert [(odd.kind, odd.count) for odd in record.odd] == [("foreign", 1), ("grey", 1)]
    assert [entry.path for entry in record.left_out] == ["smears/train/monocyte/bad.png"]
    assert record.shapes[0].formats == {"PNG": 45}
    assert record.shapes[0].modes == {"RGB": 44, "L": 1}
    assert [colours.label for colours in record.colours] == ["", *LABELS]
    assert record.colours[0].images == 45
    assert record.originals is None
    assert {fact.what for fact in record.limits} >= {"hash distance at most", "correlation of detail at least"}


def test_what_matters_most_comes_first(smears: Path) -> None:
    record = audited(smears)
    assert set(named(record, "exact")[0]) == {"00", "twin"}
    assert [set(pair) for pair in named(record, "near")] == [{"05", "doubt"}, {"04", "leak"}, {"06", "grey"}]
    first = record.pairs[0]
    assert first.conflict
    assert {first.first.label, first.second.label} == {"eosinophil", "lymphocyte"}
    leak = next(pair for pair in record.pairs if "leak" in pair.first.id + pair.second.id)
    assert (leak.sides, leak.turn) == (("train", "test"), "mirrored")


def test_it_is_the_same_twice_but_for_its_time(smears: Path) -> None:
    untimed = {"seconds": 0.0, "started": "", "environment": None}
    first, second = (audited(smears).model_copy(update=untimed) for _ in range(2))
    assert first == second


def test_pairs_beyond_those_named_are_counted(smears: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.data.survey.PAIRS_NAMED", 1)
    record = audited(smears)
    assert [len(named(record, "exact")), len(named(record, "near"))] == [1, 1]
    assert (record.counts["exact"].pairs, record.counts["near"].pairs) == (2, 3)


def test_copies_of_one_original_are_counted_and_not_named(smears: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(mirrored(8), smears / "smears/val/eosinophil/again.png")
    fields = {"08": "field 8", "again": "field 8", "05": "field 5", "doubt": "field 5"}

    def origin(self: Source, item: Item, digest: str) -> str | None:
        assert len(digest) == 64
        return fields.get(Path(item.id).stem)

    assert {"08", "again"} in [set(pair) for pair in named(audited(smears), "near")]
    monkeypatch.setattr(Source, "origin", origin)
    assert audited(smears).copies == 0
    monkeypatch.setattr(Source, "augmented", True)
    record = audited(smears)
    assert record.copies == 1
    pairs = [set(pair) for pair in named(record, "near")]
    assert {"08", "again"} not in pairs
    assert {"05", "doubt"} in pairs  # a copy, but under another label


def test_images_of_one_group_are_counted_and_not_named(tmp_path: Path) -> None:
    lines = ["image,label,patient"]
    for number in range(24):
        put(cell(number), tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{LABELS[number % 2]},p{number}")
    for number in (3, 4):
        put(mirrored(number), tmp_path / f"again{number}.png")
        lines.append(f"again{number}.png,{LABELS[number % 2]},{'p3' if number == 3 else 'p99'}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    declare(SourceDeclaration(name="smears", csv="t.csv", group="patient"), tmp_path)
    record = audited(tmp_path)
    assert record.copies == 1
    assert [set(pair) for pair in named(record, "near")] == [{"4", "again4"}]


def test_images_beside_a_data_set_are_compared_and_on_no_side(tmp_path: Path) -> None:
    folder = tmp_path / "bccd" / "images"
    for number in range(64):
        part = ("TRAIN", "TEST")[number // 4 % 2]
        put(cell(number), folder / part / LABELS[number % 4].upper() / f"{number}.jpeg", quality=95)
    for name, image in (("a", cell(4)), ("b", cell(100)), ("c", cell(100))):
        put(image, folder / "TEST_SIMPLE" / "EOSINOPHIL" / f"{name}.jpeg", quality=80)
    (folder / "TEST_SIMPLE/EOSINOPHIL/bad.jpeg").write_bytes(b"")
    record = survey(DatasetSpec(name="bccd"), tmp_path, tmp_path / "cache")
    assert (record.images, record.sources, record.beside) == (67, {"bccd": 64}, {"bccd": 3})
    assert [set(pair) for pair in named(record, "exact")] == [{"b", "c"}]
    assert [set(pair) for pair in named(record, "near")] == [{"4", "a"}]
    pair = record.pairs[-1]
    assert {pair.first.side, pair.second.side} == {"test", "none"}
    assert pair.sides == ()
    assert [(odd.kind, odd.named) for odd in record.odd] == [
        ("empty", ("bccd/images/TEST_SIMPLE/EOSINOPHIL/bad.jpeg",))
    ]
    assert isinstance(SOURCES.get("bccd"), BCCD)


def test_drawn_images_have_no_files_and_no_twins(tmp_path: Path) -> None:
    spec = DatasetSpec(name="synthetic", options={"count": 60})
    record = survey(spec, tmp_path, tmp_path / "cache")
    assert (record.images, record.shapes, record.odd, record.pairs) == (60, (), (), ())


def test_larger_images_are_compared_alike(smears: Path) -> None:
    small, large = audited(smears), audited(smears, SPEC.model_copy(update={"image_size": 96}))
    assert {frozenset(pair) for pair in named(small, "near")} == {frozenset(pair) for pair in named(large, "near")}
    assert large.image_size == 96


def test_too_small_images_cannot_be_compared(smears: Path) -> None:
    with pytest.raises(ConfigError, match="image size 32 is too small to compare images; take 64 or more"):
        audited(smears, SPEC.model_copy(update={"image_size": 32}))


def test_without_data_there_is_no_audit(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="pbc: nothing at "):
        survey(DatasetSpec(name="pbc"), tmp_path, tmp_path / "cache")


def test_pictures_show_each_pair_the_first_turned_onto_the_second(smears: Path) -> None:
    record = audited(smears)
    written = write_pictures(record, smears, smears / "pictures")
    assert [path.name for path in written] == [
        "001-exact-conflict.png",
        "002-exact.png",
        "003-near-conflict.png",
        "004-near.png",
        "005-near.png",
    ]
    both = np.asarray(Image.open(written[3]))  # mirrored: the halves are the same again
    side = (both.shape[1] - 4) // 2
    assert np.array_equal(both[:, :side], both[:, side + 4 :])


def test_pictures_of_what_is_gone(smears: Path) -> None:
    record = audited(smears)
    (smears / "smears/train/lymphocyte/twin.png").unlink()
    with pytest.raises(DataError, match=r"twin\.png is not below the data root any more; make the audit anew"):
        write_pictures(record, smears, smears / "pictures")


def test_a_record_read_back_is_the_one_written(smears: Path) -> None:
    record = audited(smears)
    write_audits(smears / "audit.json", [record])
    assert load_audits(smears / "audit.json") == [record]
    write_audits(smears / "two.json", [record, record])
    assert load_audits(smears / "two.json") == [record, record]
    assert str(smears) not in (smears / "audit.json").read_text()
