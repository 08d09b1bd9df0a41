"""The page of an audit, made of a record alone."""

from __future__ import annotations

from typing import Any

from record_factory import environment, tables

from kdbench.findings import (
    ODD_KINDS,
    AuditRecord,
    Colours,
    Fact,
    ImagePair,
    OddFiles,
    OriginalsFound,
    PairCounts,
    PairedImage,
    StoredShapes,
)
from kdbench.report.audits import PAIRS_SHOWN, render_audit
from kdbench.types import LeftOut


def image(name: str, label: str = "cat", side: str = "train", source: str = "pets") -> PairedImage:
    return PairedImage.model_validate({"id": name, "source": source, "label": label, "side": side})


def near(number: int, **changes: Any) -> ImagePair:
    facts: dict[str, Any] = {"kind": "near", "first": image(f"{number}.png"), "second": image(f"{number}b.png"),
                             "turn": "a half turn", "hash_distance": 14, "detail": 0.912}  # fmt: skip
    return ImagePair(**(facts | changes))


def colours(source: str, label: str = "") -> Colours:
    return Colours(source=source, label=label, images=10, rgb_mean=(200, 180, 190), rgb_std=(30, 40, 20),
                   lab_mean=(77, 9, -4), lab_std=(12, 9, 8), background=88.25, background_std=2, density=0.31,
                   density_std=0.05, stained=0.256, hue_degrees=311.4, fill=0.021)  # fmt: skip


def record(**changes: Any) -> AuditRecord:
    facts: dict[str, Any] = {
        "name": "pets",
        "sources": {"pets": 1200},
        "classes": ("cat", "dog"),
        "splits": {"train": {"cat": 900}, "val": {"cat": 50, "dog": 50}, "test": {"cat": 100, "dog": 100}},
        "content_hash": "c0ffee",
        "images": 1200,
        "exact_groups": 0,
        "exact_images": 0,
        "counts": {"exact": PairCounts(), "near": PairCounts()},
        "pairs": (),
        "colours": (colours("pets"), colours("pets", "cat"), colours("pets", "dog")),
        "image_size": 64,
        "seconds": 12.3,
        "environment": environment(),
        "command": "kdbench data audit pets",
        "started": "2026-11-24T12:00:00+00:00",
    }
    return AuditRecord(**(facts | changes))


def test_of_a_clean_data_set() -> None:
    page = render_audit(record())
    lines = page.splitlines()
    assert lines[0] == "# Audit of pets"
    assert lines[2] == (
        "**1,200 images**; **0 exact duplicates** in 0 groups; **0 pairs of near duplicates**; **0 label conflicts**; "
        "**0 pairs across the sides** of the split. Odd files: none. Left out: 0."
    )
    for heading in ("## Exact duplicates", "## Near duplicates"):
        assert lines[lines.index(heading) + 2] == "None."
    for absent in ("## Label conflicts", "## Odd files", "## Left out", "## Originals", "## Files as they are stored"):
        assert absent not in lines
    assert "kdbench data audit pets" in page
    assert page.endswith(("|\n", "```\n"))


def test_the_short_answer_says_it_all() -> None:
    page = render_audit(
        record(
            sources={"pets": 1100, "zoo": 100},
            images=1203,
            beside={"pets": 3},
            exact_groups=2,
            exact_images=5,
            counts={
                "exact": PairCounts(pairs=3, conflicts=1),
                "near": PairCounts(pairs=9, across_sides=2, by_sides={"train / val": 2}, across_sources=4),
            },
            copies=7,
            blank=1,
            odd=(OddFiles(kind="grey", count=12, named=("a.png (L)",)),),
            left_out=(LeftOut(path="x/", reason="y", count=4),),
        )
    )
    assert page.splitlines()[2] == (
        "**1,203 images** (3 of them beside the data set); **3 exact duplicates** in 2 groups; **9 pairs of near "
        "duplicates**; **1 label conflict**; **2 pairs across the sides** of the split (train / val 2); 4 pairs across "
        "sources. 7 more pairs are copies of one original or of one group, which the source says; they are not listed. "
        "1 image without any detail: compared by their bytes alone. Odd files: 12 greyscale. Left out: 4."
    )
    assert "Beside the data set, on no side: pets 3." in page


def test_pairs_and_conflicts() -> None:
    conflict = near(1, second=image("1b.png", "dog", "test"))
    page = render_audit(
        record(
            counts={"exact": PairCounts(), "near": PairCounts(pairs=2, conflicts=1, across_sides=1)},
            pairs=(conflict, near(2)),
        )
    )
    first = ["1.png", "1b.png", "**cat / dog**", "**train / test**", "a half turn", "14", "0.91"]
    second = ["2.png", "2b.png", "cat", "train", "a half turn", "14", "0.91"]
    found = [table for table in tables(page) if table[0][0] == "first"]
    assert [table[2:] for table in found] == [[first], [first, second]]
    assert page.index("## Label conflicts") < page.index("## Exact duplicates") < page.index("## Near duplicates")


def test_a_long_list_is_cut_and_counted() -> None:
    pairs = tuple(near(number) for number in range(PAIRS_SHOWN + 5))
    page = render_audit(record(counts={"exact": PairCounts(), "near": PairCounts(pairs=99)}, pairs=pairs))
    (table,) = [table for table in tables(page) if table[0][0] == "first"]
    assert len(table) == 2 + PAIRS_SHOWN
    assert f"And {99 - PAIRS_SHOWN} more." in page


def test_odd_files_left_out_and_shapes() -> None:
    odd = tuple(OddFiles(kind=kind, count=1, named=(f"{kind}.png",)) for kind in ODD_KINDS)
    odd += (OddFiles(kind="frames", count=4, named=("a", "b", "c", "d")),)
    page = render_audit(
        record(
            odd=odd,
            left_out=(LeftOut(path="a|b.png", reason="not an image"),),
            differences=("pets does not hold what is published: cat 1 instead of 2",),
            shapes=(StoredShapes(source="pets", width=(64, 64, 64), height=(50, 55.5, 70), formats={"PNG": 10},
                                 modes={"RGB": 9, "L": 1}),),
        )
    )  # fmt: skip
    for what, becomes in ODD_KINDS.values():
        assert f"| {what} " in page
        assert becomes in page
    assert "a, b, c, …" in page
    assert "a\\|b.png" in page
    assert "- pets does not hold what is published: cat 1 instead of 2" in page
    assert "50 to 70, median 55.5" in page


def test_colours() -> None:
    whole, by_class = (table for table in tables(render_audit(record())) if "background" in table[0])
    figures = ["10", "200 ± 30", "180 ± 40", "190 ± 20", "77 ± 12", "9 ± 9", "-4 ± 8", "88.2 ± 2.0", "0.31 ± 0.05",
               "26 %", "311°", "2.1 %"]  # fmt: skip
    assert whole[2:] == [["pets", *figures]]
    assert by_class[2:] == [["pets", "cat", *figures], ["pets", "dog", *figures]]


def test_originals_and_limits() -> None:
    found = OriginalsFound(source="bccd", images=12_515, originals=367, found=12_500, share=0.9988,
                           validation=(Fact(what="label agrees", figure="12,500 of 12,500"),),
                           by_split={"train": 277, "test": 71}, inliers_median=50, inliers_p5=31,
                           runner_up_median=6, runner_up_p95=8)  # fmt: skip
    page = render_audit(record(originals=found, limits=(Fact(what="shift at most", figure="6 of 64 px"),)))
    assert "## Originals of bccd" in page
    rows = {row[0]: row[1] for table in tables(page) for row in table if len(row) == 2}
    assert rows["images whose original is known"] == "12,500 (99.88 %)"
    assert rows["distinct originals by side"] == "train 277, test 71"
    assert rows["label agrees"] == "12,500 of 12,500"
    assert rows["shift at most"] == "6 of 64 px"


def test_names_cannot_break_out_of_the_page() -> None:
    page = render_audit(record(name="a|b\n# c", pairs=(near(1, first=image("x|<b>](y).png")),),
                               counts={"exact": PairCounts(), "near": PairCounts(pairs=1)}))  # fmt: skip
    assert "<b>" not in page
    assert "\n# c" not in page
    (table,) = [table for table in tables(page) if table[0][0] == "first"]
    assert {len(row) for row in table} == {7}
