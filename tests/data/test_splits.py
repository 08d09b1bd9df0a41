"""Splits: nothing leaks, order changes nothing, and every stratum is shared out as asked."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbench.data.splits import Member, merge_groups, split
from kdbench.errors import DataError, SplitLeak
from kdbench.types import DatasetSpec

SIDES = ("train", "val", "test")


def spec(**changes: Any) -> DatasetSpec:
    return DatasetSpec(name="x", **changes)


@st.composite
def grouped(draw: st.DrawFn, largest: int = 4) -> list[Member]:
    """Images of 1 to 3 strata in groups of up to `largest`; enough that no side is empty."""
    members = []
    for stratum in "abc"[: draw(st.integers(1, 3))]:
        sizes = draw(st.lists(st.integers(1, largest), min_size=30, max_size=50))
        for number, size in enumerate(sizes):
            group = f"{stratum}{number}"
            members += [Member(f"{group}-{copy}", stratum, f"s/{stratum}", group) for copy in range(size)]
    return members


def ids(members: list[Member], chosen: dict[str, np.ndarray]) -> dict[str, set[str]]:
    return {side: {members[index].id for index in indices} for side, indices in chosen.items()}


SPECS = st.builds(
    spec,
    split_seed=st.integers(0, 5),
    test_fraction=st.sampled_from([0.1, 0.2, 0.3, 0.45]),
    val_fraction=st.sampled_from([0.1, 0.2, 0.3]),
    train_limit=st.one_of(st.none(), st.integers(1, 60)),
)


@settings(max_examples=60)
@given(members=grouped(), asked=SPECS, order=st.randoms(use_true_random=False))
def test_order_of_members_changes_nothing(members: list[Member], asked: DatasetSpec, order: Any) -> None:
    shuffled = list(members)
    order.shuffle(shuffled)
    assert ids(shuffled, split(shuffled, asked)) == ids(members, split(members, asked))


@settings(max_examples=60)
@given(members=grouped(), asked=SPECS)
def test_sides_are_disjoint_ascending_and_keep_groups_whole(members: list[Member], asked: DatasetSpec) -> None:
    chosen = split(members, asked)
    assert tuple(chosen) == SIDES
    everyone = np.concatenate([chosen[side] for side in SIDES])
    assert len(set(everyone.tolist())) == len(everyone)
    for indices in chosen.values():
        assert indices.dtype == np.int64
        assert (np.diff(indices) > 0).all()
    if asked.train_limit is None:
        assert len(everyone) == len(members)
    sides: dict[str, set[str]] = {}
    for side in SIDES:
        for index in chosen[side]:
            sides.setdefault(members[index].group, set()).add(side)
    assert all(len(found) == 1 for found in sides.values())


@settings(max_examples=60)
@given(members=grouped(), asked=SPECS)
def test_every_stratum_is_shared_out_by_the_fractions(members: list[Member], asked: DatasetSpec) -> None:
    chosen = split(members, asked.model_copy(update={"train_limit": None}))
    total = Counter(member.stratum for member in members)
    largest = max(Counter(member.group for member in members).values())
    for side, fraction in (("test", asked.test_fraction), ("val", asked.val_fraction)):
        got = Counter(members[index].stratum for index in chosen[side])
        for stratum, count in total.items():
            # half a group over or under, and half an image of rounding
            assert abs(got[stratum] - fraction * count) <= largest / 2 + 0.5


@settings(max_examples=30)
@given(members=grouped(largest=1), first=st.integers(1, 40), more=st.integers(0, 40))
def test_a_smaller_limit_is_a_stratified_part_of_a_larger_one(members: list[Member], first: int, more: int) -> None:
    whole = ids(members, split(members, spec()))
    small = ids(members, split(members, spec(train_limit=first)))
    large = ids(members, split(members, spec(train_limit=first + more)))
    assert small["train"] <= large["train"] <= whole["train"]
    assert len(small["train"]) == min(first, len(whole["train"]))
    assert small["test"] == large["test"] == whole["test"]
    assert small["val"] == large["val"] == whole["val"]
    limited, all_of = (Counter(name[0] for name in side["train"]) for side in (small, whole))
    for label, count in all_of.items():
        assert abs(limited[label] - len(small["train"]) * count / len(whole["train"])) <= 2


def test_a_group_that_fits_by_half_is_taken() -> None:
    # 12 groups of 4; wanted for test: round(0.3 * 48) = 14, and 16 is as near as 12; for val: 5, so 4 and not 8
    members = [Member(f"{n}-{copy}", "a", "a", str(n)) for n in range(12) for copy in range(4)]
    chosen = split(members, spec(test_fraction=0.3, val_fraction=0.1))
    assert {side: len(indices) for side, indices in chosen.items()} == {"train": 28, "val": 4, "test": 16}


def test_a_limit_above_the_training_side_changes_nothing() -> None:
    members = [Member(str(n), "a", "a", str(n)) for n in range(50)]
    assert ids(members, split(members, spec(train_limit=10_000))) == ids(members, split(members, spec()))


def test_a_limit_that_cuts_a_group_does_so_by_name() -> None:
    members = [Member(f"{n}-{copy}", "a", "a", str(n)) for n in range(20) for copy in range(5)]
    for limit in range(1, 30):
        forwards = split(members, spec(train_limit=limit))
        backwards = split(members[::-1], spec(train_limit=limit))
        assert ids(members, forwards) == ids(members[::-1], backwards)


def test_another_seed_gives_another_split() -> None:
    members = [Member(str(n), "a", "a", str(n)) for n in range(100)]
    assert ids(members, split(members, spec(split_seed=0))) != ids(members, split(members, spec(split_seed=1)))


def test_a_new_image_moves_few_others() -> None:
    members = [Member(str(n), "a", "a", str(n)) for n in range(200)]
    before = ids(members, split(members, spec()))
    longer = [*members, Member("new", "a", "a", "new")]
    after = ids(longer, split(longer, spec()))
    assert sum(len(before[side] - after[side]) for side in SIDES) <= 2


@settings(max_examples=30)
@given(members=grouped(), sides=st.randoms(use_true_random=False))
def test_given_folds_are_kept(members: list[Member], sides: Any) -> None:
    folds = {member.group: sides.choice(("train", "test")) for member in members}
    folds[members[0].group], folds[members[-1].group] = "train", "test"
    members = [Member(m.id, m.label, m.stratum, m.group, folds[m.group]) for m in members]
    chosen = split(members, spec(val_fraction=0.2))
    assert ids(members, chosen)["test"] == {m.id for m in members if m.fold == "test"}
    assert ids(members, chosen)["train"] | ids(members, chosen)["val"] == {m.id for m in members if m.fold == "train"}
    given_train = Counter(m.stratum for m in members if m.fold == "train")
    cut = Counter(members[index].stratum for index in chosen["val"])
    for stratum, count in given_train.items():
        assert abs(cut[stratum] - 0.2 * count) <= 2.5


def test_given_validation_is_kept_too() -> None:
    folds = ["train"] * 50 + ["val"] * 7 + ["test"] * 9
    members = [Member(str(n), "a", "a", str(n), fold) for n, fold in enumerate(folds)]
    chosen = ids(members, split(members, spec(val_fraction=0.1)))
    assert chosen == {side: {m.id for m in members if m.fold == side} for side in SIDES}


@pytest.mark.parametrize("given", [("train",), ("train", "val"), ("train", "test")])
def test_a_side_that_is_not_given_is_cut_from_the_given_training_side(given: tuple[Any, ...]) -> None:
    members = [Member(f"{fold}{n}", "a", "a", f"{fold}{n}", fold) for fold in given for n in range(100)]
    chosen = ids(members, split(members, spec(val_fraction=0.1, test_fraction=0.2)))
    for side, cut in (("val", 10), ("test", 20)):
        assert len(chosen[side]) == (100 if side in given else cut)
        assert all(name.startswith(side if side in given else "train") for name in chosen[side])
    assert set().union(*chosen.values()) == {m.id for m in members}


@pytest.mark.parametrize("other", ["test", None])
def test_a_group_on_two_given_sides_is_a_leak(other: str | None) -> None:
    members = [Member(str(n), "a", "a", str(n), "train" if n % 2 else "test") for n in range(40)]
    members += [Member("one", "a", "a", "twins", "train"), Member("two", "a", "a", "twins", other)]
    with pytest.raises(SplitLeak, match=f"one and two belong .* given to 'train' and '{other}'; [^(]+$"):
        split(members, spec())
    members += [Member(f"{name}{side}", "a", "a", name, side) for name in "xy" for side in ("train", "test", "val")]
    with pytest.raises(
        SplitLeak, match=r"one and two .*; remove one of them, or take .* \(2 more groups stand on two sides\)"
    ):
        split(members, spec())


@pytest.mark.parametrize(
    ("members", "side"),
    [
        ([Member("0", "a", "a", "0")], "val"),
        ([Member(str(n), "a", "a", str(n)) for n in range(4)], "val"),
        ([Member(str(n), "a", "a", "one group") for n in range(100)], "val"),
        ([Member(str(n), "a", "a", str(n), "test") for n in range(100)], "train"),
    ],
)
def test_an_empty_side_is_an_error(members: list[Member], side: str) -> None:
    with pytest.raises(DataError, match=f"x: the {side} split is empty with {len(members)} images"):
        split(members, spec())


def test_a_group_of_several_strata_goes_by_its_majority() -> None:
    members = [Member(f"{s}{n}", s, s, f"{s}{n}") for s in "ab" for n in range(40)]
    mixed = [Member(f"m{n}", "b" if n else "a", "b" if n else "a", "m") for n in range(3)]
    chosen = split([*members, *mixed], spec())
    found = [side for side in SIDES for index in chosen[side] if index >= len(members)]
    assert len(set(found)) == 1
    assert len(found) == 3


# ---------------------------------------------------------------- groups


@given(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=3), max_size=20))
def test_merged_groups_are_the_connected_components(keys: list[list[int]]) -> None:
    # the plain way: spread the smallest number until nothing changes
    expected = list(range(len(keys)))
    for _ in keys:
        for a in range(len(keys)):
            for b in range(len(keys)):
                if set(keys[a]) & set(keys[b]):
                    expected[a] = expected[b] = min(expected[a], expected[b])
    assert merge_groups(keys) == expected
