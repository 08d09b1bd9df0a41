"""Protocols: what each puts where, that leaks are refused or said, and wrong requests."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdbench.data.audit import audit
from kdbench.data.dataset import Dataset, open_dataset
from kdbench.data.protocol import PROTOCOLS, Arrangement, Protocol, protocol_of, usual_protocol
from kdbench.data.protocols.grouped import fold_of_groups
from kdbench.data.source import SOURCES, Item
from kdbench.data.splits import Member
from kdbench.errors import ConfigError, DataError, MissingData, SplitLeak, UnknownName
from kdbench.types import DatasetSpec, RunSpec

CLASSES = ("eosinophil", "lymphocyte", "monocyte", "neutrophil")
CELLS = ("basophil", *CLASSES)
ORIGINALS, COPIES = 10, 4


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (18, 18, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bccd with 4 copies of each of 10 originals a class and side, and pbc, jtsc with 12 images a class."""
    root, seed = tmp_path_factory.mktemp("data"), 0
    for part in ("TRAIN", "TEST"):
        for label in CLASSES:
            for original in range(ORIGINALS):
                for copy in range(COPIES):
                    seed += 1
                    save(root / "bccd" / "images" / part / label.upper() / f"{part}-{original}-{copy}.jpeg", seed)
    for label in CELLS:
        for number in range(12):
            save(root / "pbc" / "PBC_dataset_normal_DIB" / label / f"{number}.jpg", seed := seed + 1)
    lines = ["image ID,class"]
    for number in range(60):
        save(root / "jtsc" / f"{number + 1:03d}.bmp", seed := seed + 1)
        lines.append(f"{number + 1},{number % 5 + 1}")
    (root / "jtsc" / "Class Labels of Dataset 1.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def origins(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the made-up bccd the file names tell the original; original 0 of either side shows the same place."""
    if request.node.get_closest_marker("realdata"):
        return

    def origin(item: Item, digest: str) -> str | None:
        part, original, _ = Path(item.id).name.split("-")
        return f"{item.label}-both" if original == "0" else f"{item.label}-{part}-{original}"

    monkeypatch.setattr(SOURCES.get("bccd"), "origin", origin)


def opened(root: Path, cache: Path, name: str = "bccd", **asked: Any) -> Dataset:
    return open_dataset(DatasetSpec(name=name, image_size=18, **asked), root, cache)


def groups(data: Dataset, side: str) -> set[str]:
    return {data.groups[index] for index in data.splits[side]}  # type: ignore[index]


def test_usual_protocols() -> None:
    usual = {source.name: usual_protocol(source.name) for source in SOURCES}
    assert {name for name, protocol in usual.items() if protocol == "official"} == {"bccd", "bloodmnist"}
    assert set(usual.values()) == {"official", "stratified-grouped"}
    assert usual_protocol("mixed") == "stratified-grouped"


@pytest.mark.parametrize("name", PROTOCOLS.names())
def test_every_protocol_says_what_it_is(name: str) -> None:
    protocol = PROTOCOLS.get(name)
    assert protocol.name == name
    assert protocol.title
    assert protocol.version >= 1
    assert protocol.label == f"{name} v{protocol.version}"
    assert bool(protocol.leak) == (name == "pooled-random")


def test_official_keeps_the_test_images_and_drops_what_training_would_know_of_them(root: Path, cache: Path) -> None:
    data = opened(root, cache)
    assert data.card.protocol == "official v1"
    assert data.card.leak == ""
    test = [data.ids[index] for index in data.splits["test"]]
    assert len(test) == 4 * ORIGINALS * COPIES
    assert all("/TEST/" in name for name in test)
    assert data.card.independent["test"] == 4 * ORIGINALS
    why = "belongs together with images of the test side"
    assert sum(entry.reason == why for entry in data.card.left_out) == 4 * COPIES
    assert sum(map(len, data.splits.values())) == len(data.ids) - 4 * COPIES
    assert not groups(data, "train") & groups(data, "val")


def test_pooled_random_leaks_and_says_so(root: Path, cache: Path) -> None:
    data = opened(root, cache, protocol="pooled-random")
    assert data.card.protocol == "pooled-random v1"
    assert "copies of one original" in data.card.leak
    shared = groups(data, "train") & groups(data, "test")
    assert len(shared) > 30  # of 76: nearly every place has a copy on both sides
    test = [data.ids[index] for index in data.splits["test"]]
    assert {"/TEST/" in name for name in test} == {True, False}
    assert data.card.independent["test"] == len(groups(data, "test")) < len(test)


def test_grouped_tests_every_image_once(root: Path, cache: Path) -> None:
    folds = [opened(root, cache, protocol="grouped", fold=fold) for fold in range(5)]
    tested = Counter(data.ids[index] for data in folds for index in data.splits["test"])
    assert set(tested) == set(folds[0].ids)
    assert set(tested.values()) == {1}
    for data in folds:
        assert not groups(data, "test") & (groups(data, "train") | groups(data, "val"))
        assert not groups(data, "val") & groups(data, "train")
        classes = Counter(data.labels[data.splits["test"]].tolist())
        assert max(classes.values()) - min(classes.values()) <= 2 * COPIES
    assert len({data.spec.model_dump_json() for data in folds}) == 5


def test_no_fold_is_empty_where_every_class_is_small() -> None:
    members = [
        Member(f"{label}-{n}", f"{label}", f"s/{label}", f"{label}-{n}") for label in range(20) for n in range(4)
    ]
    held = Counter(fold_of_groups(members, 5, 0).values())
    assert [held[fold] for fold in range(5)] == [16] * 5


def test_folds_do_not_depend_on_the_order_of_images() -> None:
    members = [Member(f"{n}-{c}", "a", f"s/{n % 3}", f"g{n}") for n in range(60) for c in range(1 + n % 4)]
    forwards, backwards = fold_of_groups(members, 5, 0), fold_of_groups(members[::-1], 5, 0)
    assert forwards == backwards
    held = Counter(forwards[member.group] for member in members)
    assert max(held.values()) - min(held.values()) <= 4 * 3
    assert fold_of_groups(members, 5, 1) != forwards


def test_one_source_is_left_out(root: Path, cache: Path) -> None:
    data = opened(root, cache, "mixed", protocol="leave-one-source-out", held_out="jtsc")
    by_side = {side: Counter(data.ids[i].split("/")[0] for i in indices) for side, indices in data.splits.items()}
    assert by_side["test"] == {"jtsc": 60}
    assert set(by_side["train"]) == set(by_side["val"]) == {"pbc"}
    assert data.spec.held_out == "jtsc"


def test_a_source_that_is_not_there_cannot_be_tested_on(root: Path, cache: Path) -> None:
    with pytest.raises(MissingData, match=r"'cellavision' to be tested on is not below .*there: jtsc, pbc"):
        opened(root, cache, "mixed", protocol="leave-one-source-out", held_out="cellavision")
    with pytest.raises(MissingData, match="jtsc is the only source"):
        opened(root, cache, "mixed", sources=("jtsc",), protocol="leave-one-source-out", held_out="jtsc")


@pytest.mark.parametrize(
    ("name", "asked", "said"),
    [
        ("bccd", {"protocol": "wbcatt"}, "protocol 'wbcatt' is for pbc, not for 'bccd'"),
        ("bccd", {"protocol": "grouped", "fold": 5}, "protocol 'grouped' has no fold 5; it has 0 to 4"),
        ("bccd", {"fold": 1}, "protocol 'official' has no fold 1; it has 0 alone"),
        ("bccd", {"protocol": "leave-one-source-out", "held_out": "pbc"}, "is for a union of sources, not for 'bccd'"),
        ("mixed", {"protocol": "leave-one-source-out"}, "tests on one of pbc, jtsc, .*held_out names it"),
        ("mixed", {"protocol": "leave-one-source-out", "held_out": "lisc"}, "'lisc' is none of them"),
        ("mixed", {"held_out": "pbc"}, "held_out goes with protocol 'leave-one-source-out', not with 'stratified-"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        protocol_of(DatasetSpec(name=name, **asked))


def test_unknown_protocols_are_named() -> None:
    with pytest.raises(UnknownName, match="unknown protocol 'groupd'; did you mean grouped"):
        protocol_of(DatasetSpec(name="bccd", protocol="groupd"))


def test_no_published_sides_no_official_split(root: Path, cache: Path) -> None:
    with pytest.raises(DataError, match="its publisher gives no test side"):
        opened(root, cache, "jtsc", protocol="official")


def test_the_usual_protocol_is_the_same_run_whether_it_is_named_or_not(root: Path, cache: Path) -> None:
    def run_id(data: Dataset) -> str:
        return RunSpec.model_validate(
            {"role": "teacher", "dataset": data.spec.model_dump(), "model": "resnet18", "method": "ce"}
        ).run_id

    assert run_id(opened(root, cache)) == run_id(opened(root, cache, protocol="official"))
    others = [opened(root, cache, protocol=name) for name in ("official", "pooled-random", "grouped")]
    assert len({run_id(data) for data in others}) == 3


def test_another_version_is_another_run(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = opened(root, cache, "jtsc").spec
    monkeypatch.setattr(type(PROTOCOLS.get("stratified-grouped")), "version", 2)
    after = opened(root, cache, "jtsc").spec
    assert (before.protocol_version, after.protocol_version) == (1, 2)
    assert hash(before) != hash(after)


class _Careless(Protocol):
    name = "careless"
    title = "forgets what belongs together and does not say so"

    def arrange(self, members: Sequence[Member], spec: DatasetSpec, root: Path) -> Arrangement:
        return Arrangement(tuple(replace(member, group=member.id, fold=None) for member in members))


def test_a_leak_that_is_not_declared_is_refused(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {name: PROTOCOLS.get(name) for name in PROTOCOLS.names()}
    monkeypatch.setattr(PROTOCOLS, "_entries", {**entries, "careless": _Careless()})
    with pytest.raises(SplitLeak, match=r"protocol 'careless' puts .* and does not say that it leaks"):
        opened(root, cache, protocol="careless")


def test_copies_of_unknown_originals_are_said(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [text for text in opened(root, cache).card.caveats if "the original is not known" in text]
    monkeypatch.setattr(SOURCES.get("bccd"), "origin", lambda item, digest: None)
    (said,) = (text for text in opened(root, cache).card.caveats if "the original is not known" in text)
    assert said.startswith("bccd: of 320 of 320 images the original is not known")


def test_images_a_protocol_leaves_out_are_not_damaged(root: Path, cache: Path) -> None:
    found = audit(DatasetSpec(name="bccd", image_size=18), root, cache)
    assert found.odd == () or {odd.kind for odd in found.odd} == {"suffix"}  # PNGs under the names of JPEGs
    assert sum(found.sizes.modes.values()) == 320 if found.sizes else False


# ---------------------------------------------------------------- the split of WBCAtt


SPLIT = Path("pbc", "wbcatt_split.csv")


@pytest.fixture
def split_file(root: Path) -> Any:
    path = root / SPLIT
    yield path
    path.unlink(missing_ok=True)


def lines(last: str = "test") -> list[str]:
    sides = ["train"] * 8 + ["val"] * 2 + ["test", last]
    return ["path,split", *(f"PBC_dataset_normal_DIB/{label}/{n}.jpg,{sides[n]}" for label in CELLS for n in range(12))]


def test_wbcatt_takes_the_sides_of_its_table(root: Path, cache: Path, split_file: Path) -> None:
    split_file.write_text("\n".join(lines()[:-1]))  # the last image is in no line
    data = opened(root, cache, "pbc", protocol="wbcatt")
    assert {side: len(found) for side, found in data.splits.items()} == {"train": 40, "val": 10, "test": 9}
    why = [(entry.path, entry.reason) for entry in data.card.left_out]
    assert why == [("pbc/PBC_dataset_normal_DIB/neutrophil/11.jpg", "not in wbcatt_split.csv")]
    split_file.write_text("\n".join(lines("train")))
    assert opened(root, cache, "pbc", protocol="wbcatt").spec.content != data.spec.content


def test_wbcatt_drops_the_copy_that_is_trained_on(root: Path, cache: Path, split_file: Path) -> None:
    folder = root / "pbc" / "PBC_dataset_normal_DIB" / "monocyte"
    before = (folder / "0.jpg").read_bytes()
    try:
        (folder / "0.jpg").write_bytes((folder / "11.jpg").read_bytes())
        split_file.write_text("\n".join(lines()))
        data = opened(root, cache, "pbc", protocol="wbcatt")
    finally:
        (folder / "0.jpg").write_bytes(before)
    assert [entry.path.rpartition("/")[2] for entry in data.card.left_out] == ["0.jpg"]
    assert len(data.splits["test"]) == 10


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (None, MissingData, "take the split from https://github.com/apple2373/wbcatt"),
        (b"path,split\na/1.jpg,learn\n", DataError, "line 2: expected a path and train, val or test, found 'a/1.jpg'"),
        (b"file,side\na/1.jpg,train\n", DataError, "line 2: expected a path and"),
        (b"path,split\na/1.jpg,train\na/1.jpg,test\n", DataError, "line 3: a/1.jpg stands on two sides"),
        (b"path,split\na/1.jpg,train\n", DataError, "names no image of a side that is on this disk"),
        (b"path,split\n\xff\xfe\n", DataError, "the split cannot be read"),
        (b"path,split\n" + b"a" * 140_000 + b",train\n", DataError, "the split cannot be read"),
        (b"path,split\n", DataError, "names no image of a side that is on this disk"),
    ],
)
def test_wrong_tables_of_wbcatt(
    root: Path, cache: Path, split_file: Path, content: bytes | None, error: type[Exception], said: str
) -> None:
    if content is not None:
        split_file.write_bytes(content)
    with pytest.raises(error, match=said):
        opened(root, cache, "pbc", protocol="wbcatt")


# ---------------------------------------------------------------- the real images


@pytest.mark.realdata
def test_real_wbcatt_has_six_pairs_on_two_sides(data_root: Path, tmp_path: Path) -> None:
    data = open_dataset(DatasetSpec(name="pbc", image_size=16, protocol="wbcatt"), data_root, tmp_path)
    dropped = [entry for entry in data.card.left_out if entry.reason.startswith("belongs together")]
    sides = {side: len(found) for side, found in data.splits.items()}
    assert sides["test"] == 3099
    assert sides["train"] + sides["val"] + len(dropped) == 6169 + 1030
    assert 0 < len(dropped) <= 6


@pytest.mark.realdata
def test_real_bccd_splits_by_place(data_root: Path, tmp_path: Path) -> None:
    def by_side(**asked: Any) -> tuple[Dataset, dict[str, set[str]]]:
        data = open_dataset(DatasetSpec(name="bccd", image_size=16, fit="stretch", **asked), data_root, tmp_path)
        found: dict[str, set[str]] = defaultdict(set)
        for side, indices in data.splits.items():
            found[side] |= {data.groups[index] for index in indices}
        return data, found

    official, sides = by_side()
    assert len(official.splits["test"]) == 2487
    assert len(sides["test"]) <= 71
    assert not sides["test"] & (sides["train"] | sides["val"])
    _, pooled = by_side(protocol="pooled-random")
    assert len(pooled["test"] & pooled["train"]) > 250
