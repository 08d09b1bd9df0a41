"""The picture of what an answer rests on."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from kdbench.errors import UnknownName
from kdbench.report.heat import check_picture, draw_heat

ANSWERS = [("neutrophil", 0.9), ("mono$cyte$", 0.1)]


def draw(out, heat=None):
    pixels = np.full((16, 16, 3), 200, np.uint8)
    if heat is None:
        heat = np.zeros((16, 16))
        heat[4:8, 8:12] = 0.5
        heat[12:, :4] = -0.5
    draw_heat(pixels, heat, "cell.png", ANSWERS, "who said so", out)


def reddish(picture, x, y):
    red, _, blue = picture.getpixel((round(x * picture.width), round(y * picture.height)))
    return red - blue


def test_what_counts_is_red_and_what_speaks_against_it_is_blue(tmp_path):
    draw(tmp_path / "heat.png")
    picture = Image.open(tmp_path / "heat.png").convert("RGB")
    assert picture.width > 1000
    # the map is 0.385 of the width, from 0.435 on; of the height 0.7, from 0.19 on; its axes are square in the middle
    side = 0.385 * picture.width / picture.height
    top = 0.19 + (0.7 - side) / 2
    at = [(0.435 + 0.385 * column / 16, top + side * row / 16) for row, column in ((6, 10), (14, 2), (2, 2))]
    hot, cold, neither = (reddish(picture, *place) for place in at)
    assert hot > 50
    assert cold < -50
    assert neither == 0


def test_a_map_of_nothing_is_not_blown_up(tmp_path):
    draw(tmp_path / "heat.png", np.full((16, 16), 1e-5))
    picture = np.asarray(Image.open(tmp_path / "heat.png").convert("RGB")).astype(int)
    inside = picture[330:430, 750:1000]
    assert np.abs(inside[..., 0] - inside[..., 2]).max() < 12


def test_text_stays_text_in_an_svg_and_two_drawings_are_alike(tmp_path):
    for name in ("one.svg", "two.svg"):
        draw(tmp_path / name)
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    for part in ("cell.png", "neutrophil 90.0%", "mono$cyte$ 10.0%", "probability lost when covered", "who said so"):
        assert part in text


@pytest.mark.parametrize("name", ["heat.gif", "heat"])
def test_no_other_kind_of_picture(tmp_path, name):
    with pytest.raises(UnknownName, match="unknown kind of picture"):
        draw(tmp_path / name)
    with pytest.raises(UnknownName):
        check_picture(tmp_path / name)
