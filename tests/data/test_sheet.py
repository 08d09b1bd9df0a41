"""A contact sheet shows what a network gets, the same each time, with a row for each class."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from kdbench.data import sheet
from kdbench.data.dataset import Dataset
from kdbench.data.memory import from_arrays
from kdbench.data.sheet import SheetRow, chosen, draw_sheet, sheet_rows
from kdbench.data.views import Views
from kdbench.errors import DataError
from kdbench.types import SplitName, ViewSpec

SIDES: tuple[SplitName, ...] = ("train", "train", "val", "test")


@pytest.fixture
def data() -> Dataset:
    images = np.random.default_rng(1).integers(0, 256, (40, 20, 20, 3), dtype=np.uint8)
    labels = [number // 4 % 2 for number in range(40)]
    return from_arrays(images, labels, classes=["one", "two", "none"], splits=[SIDES[n % 4] for n in range(40)])


def test_a_row_for_each_class_with_images_of_it(data: Dataset) -> None:
    rows = sheet_rows(data, per_class=6)
    assert [(row.label, row.count, len(row.tiles)) for row in rows] == [("one", 20, 6), ("two", 20, 6), ("none", 0, 0)]
    for number, row in enumerate(rows):
        own = data.images(np.flatnonzero(data.labels == number))
        assert all(any(np.array_equal(tile, image) for image in own) for tile in row.tiles)
        assert len({tile.tobytes() for tile in row.tiles}) == len(row.tiles)


def test_the_choice_is_the_same_each_time_and_another_for_another_seed(data: Dataset) -> None:
    first, again, other = (sheet_rows(data, per_class=6, seed=seed)[0].tiles for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_larger_sheet_begins_with_the_smaller_one_and_no_sheet_has_more_than_there_is(data: Dataset) -> None:
    few, many = sheet_rows(data, per_class=3)[0].tiles, sheet_rows(data, per_class=99)[0].tiles
    assert len(many) == 20
    np.testing.assert_array_equal(many[:3], few)


@pytest.mark.parametrize(("side", "count"), [("train", 10), ("val", 5), ("test", 5)])
def test_one_side(data: Dataset, side: SplitName, count: int) -> None:
    rows = sheet_rows(data, per_class=99, side=side)
    assert [row.count for row in rows] == [count, count, 0]
    there = {image.tobytes() for image in data.images(data.splits[side])}
    assert {tile.tobytes() for row in rows for tile in row.tiles} == there


def test_sources_of_a_union_take_turns() -> None:
    ids = [*(f"large/{number}.png" for number in range(90)), *(f"small/{number}.png" for number in range(3))]
    picked = [ids[index].split("/")[0] for index in chosen(ids, np.arange(93), 8, 0)]
    assert sorted(picked[:2]) == sorted(picked[2:4]) == sorted(picked[4:6]) == ["large", "small"]
    assert picked[6:] == ["large", "large"]


def test_more_images_change_few_of_the_choices() -> None:
    ids = [f"{number}.png" for number in range(200)]
    before, after = (set(chosen(ids, np.arange(count), 20, 0).tolist()) for count in (190, 200))
    assert len(before & after) >= 17


def test_as_seen_is_the_view_of_the_first_epoch(data: Dataset) -> None:
    views = Views(ViewSpec(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    row = sheet_rows(data, per_class=4, views=views)[1]
    indices = chosen(data.ids, np.flatnonzero(data.labels == 1), 4, 0)
    expected = views(data.images(indices), indices, 0).permute(0, 2, 3, 1).numpy() * 255
    assert row.seen is not None
    assert row.seen.dtype == np.uint8
    assert np.abs(row.seen - expected.clip(0, 255)).max() <= 0.5
    assert not np.array_equal(row.seen, row.tiles)
    plain = Views(None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    same = sheet_rows(data, per_class=4, views=plain)[1]
    assert same.seen is not None
    np.testing.assert_array_equal(same.seen, same.tiles)


def at(picture: np.ndarray, tile: np.ndarray) -> list[tuple[int, int]]:
    """Where a tile stands in a picture: (row, column)."""
    side = len(tile)
    starts = np.argwhere((picture == tile[0, 0]).all(axis=2))
    return [(r, c) for r, c in starts.tolist() if np.array_equal(picture[r : r + side, c : c + side], tile)]


def test_tiles_stand_in_rows_unchanged(data: Dataset) -> None:
    rows = sheet_rows(data, per_class=5, views=Views(ViewSpec(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    picture = np.asarray(draw_sheet(rows, "cells", "40 images"))
    heights: list[int] = []
    for row in rows[:2]:
        for tiles in (row.tiles, row.seen):
            assert tiles is not None
            places = [at(picture, tile) for tile in tiles]
            assert all(len(place) == 1 for place in places)
            assert len({place[0][0] for place in places}) == 1
            columns = [place[0][1] for place in places]
            assert np.diff(columns).tolist() == [24] * 4
            heights.append(places[0][0][0])
    assert heights == sorted(heights)
    assert np.array_equal(picture, np.asarray(draw_sheet(rows, "cells", "40 images")))


def test_long_names_and_wide_titles_do_not_run_into_the_images() -> None:
    tile = np.zeros((1, 16, 16, 3), dtype=np.uint8)
    picture = draw_sheet([SheetRow("a very long name of a class " * 9, 1, tile)], "title " * 40, "subtitle")
    pixels = np.asarray(picture)
    ((row, column),) = at(pixels, tile[0])
    assert column < 350
    assert (pixels[row + 1 : row + 15, column - 20 : column - 1] == 255).all()  # the gap between name and image
    assert (pixels[:, -20:] == 255).all()


def test_nothing_to_show_is_a_picture_too() -> None:
    assert isinstance(draw_sheet([], "empty"), Image.Image)
    assert isinstance(draw_sheet([SheetRow("none", 0, np.empty((0, 16, 16, 3), np.uint8))], "empty"), Image.Image)


def test_a_picture_nobody_could_open_is_refused(monkeypatch: pytest.MonkeyPatch, data: Dataset) -> None:
    monkeypatch.setattr(sheet, "PIXELS_AT_MOST", 10_000)
    with pytest.raises(DataError, match=r"the sheet would be \d+ x \d+ pixels; show fewer images"):
        draw_sheet(sheet_rows(data), "cells")
