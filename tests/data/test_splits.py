"""Splits: whole groups, right proportions, and the same whatever order files are listed in."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbench.data.splits import Member, merge_groups, split
from kdbench.errors import DataError, SplitLeak
from kdbench.types import DatasetSpec

SPEC = DatasetSpec(name="x")


def members(count: int, *, labels: int = 3, group_size: int = 1) -> list[Member]:
    return [
        Member(f"{i:05d}", f"l{i % labels}", f"s/l{i % labels}", f"g{i // (labels * group_size)}-{i % labels}")
        for i in range(count)
    ]


def sides(found: dict, of: list[Member]) -> dict[str, str]:
    return {of[index].id: side for side, indices in found.items() for index in indices}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), size=st.integers(1, 4), shuffle=st.randoms(use_true_random=False))
def test_order_does_not_matter_groups_stay_whole_and_all_are_placed_once(seed: int, size: int, shuffle) -> None:  # type: ignore[no-untyped-def]
    straight = members(180, group_size=size)
    mixed = list(straight)
    shuffle.shuffle(mixed)
    spec = SPEC.model_copy(update={"split_seed": seed})
    first, second = split(straight, spec), split(mixed, spec)
    assert sides(first, straight) == sides(second, mixed)
    assert sorted(np.concatenate(list(first.values()))) == list(range(180))
    placed: dict[str, set[str]] = {}
    for member in straight:
        placed.setdefault(member.group, set()).add(sides(first, straight)[member.id])
    assert all(len(where) == 1 for where in placed.values())


@pytest.mark.parametrize("group_size", [1, 3])
def test_each_stratum_is_shared_out_by_the_fractions(group_size: int) -> None:
    of = members(900, group_size=group_size)
    found = split(of, SPEC)
    for side, fraction in (("test", 0.2), ("val", 0.1), ("train", 0.7)):
        counts = Counter(of[index].stratum for index in found[side])
        assert len(counts) == 3
        for count in counts.values():
            assert count == pytest.approx(300 * fraction, abs=group_size)


def test_another_seed_gives_another_split_and_a_new_image_moves_few() -> None:
    of = members(600)
    base = sides(split(of, SPEC), of)
    other = sides(split(of, SPEC.model_copy(update={"split_seed": 1})), of)
    assert sum(base[name] != other[name] for name in base) > 100
    more = [*of, Member("new", "l0", "s/l0", "new")]
    grown = sides(split(more, SPEC), more)
    assert sum(base[name] != grown[name] for name in base) <= 3


def test_given_sides_are_kept_and_validation_is_cut_from_training() -> None:
    of = [
        Member(m.id, m.label, m.stratum, m.group, "test" if int(m.id) >= 200 else "train") for m in members(300)
    ]
    found = split(of, SPEC)
    assert set(found["test"]) == set(range(200, 300))
    assert len(found["val"]) == pytest.approx(20, abs=3)
    assert len(found["train"]) + len(found["val"]) == 200


def test_a_group_given_to_two_sides_is_a_leak() -> None:
    of = [Member("a", "l", "s", "g", "train"), Member("b", "l", "s", "g", "test")]
    with pytest.raises(SplitLeak, match="a and b belong together"):
        split(of, SPEC)


def test_a_limit_keeps_proportions_and_a_smaller_one_is_a_subset() -> None:
    of = members(900) + [Member(f"rare{i}", "r", "s/r", f"rare{i}") for i in range(90)]
    large = split(of, SPEC.model_copy(update={"train_limit": 300}))
    small = split(of, SPEC.model_copy(update={"train_limit": 100}))
    assert len(large["train"]) == 300
    assert set(small["train"]) < set(large["train"])
    assert set(large["test"]) == set(split(of, SPEC)["test"])
    counts = Counter(of[index].stratum for index in large["train"])
    assert counts["s/r"] == pytest.approx(300 * 90 / 990, abs=2)


def test_too_few_images_are_an_error_with_what_to_do() -> None:
    with pytest.raises(DataError, match=r"the (val|test) split is empty with 3 images; use more"):
        split(members(3), SPEC)


def test_groups_merge_over_any_shared_key() -> None:
    assert merge_groups([("a",), ("b",), ("b", "c"), ("d",), ("c", "a"), ("e",)]) == [0, 0, 0, 3, 0, 5]
    assert merge_groups([]) == []
