"""Quantities as people write them; what is not one is refused in a line that says what to write."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdbench.units import UNITS, Kind, parse_quantity, quantity_text


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("1M", "count", 1e6),
        ("500k", "count", 5e5),
        ("1_000", "count", 1000),
        ("2.5e6", "count", 2.5e6),
        (" 60 M ", "count", 6e7),
        ("4MB", "bytes", 4e6),
        ("4MiB", "bytes", 4 * 2**20),
        ("512KiB", "bytes", 2**19),
        ("512", "bytes", 512),
        ("5ms", "ms", 5),
        ("0.005s", "ms", 5),
        ("5", "ms", 5),
        ("250us", "ms", 0.25),
        (".5", "ms", 0.5),
        ("95%", "fraction", 0.95),
        ("4.9 %", "fraction", 0.049),
        ("0.95", "fraction", 0.95),
        (0.95, "fraction", 0.95),
        (7, "count", 7),
        ("100%", "fraction", 1),
    ],
)
def test_what_is_read(text: str | float, kind: Kind, value: float) -> None:
    assert parse_quantity(text, kind) == value


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("4Mb", "bytes", "unknown unit 'Mb'; did you mean 4MB?"),
        ("4M", "bytes", "did you mean 4MB or 4MiB?"),
        ("4mib", "bytes", "did you mean 4MiB?"),
        ("1m", "count", "did you mean 1M?"),
        ("1MB", "count", "unknown unit 'MB'"),
        ("5sec", "ms", "did you mean 5s?"),
        ("5 minutes", "ms", "write 5ms or 0.005s"),
        ("95", "fraction", "more than 1; did you mean 95%?"),
        ("950", "fraction", "more than 1; write 0.95 or 95%"),
        ("120%", "fraction", "more than 1"),
        ("-1", "ms", "from 0 on"),
        ("-5%", "fraction", "from 0 on"),
        ("1e999", "count", "from 0 on"),
        ("nan", "ms", "no number with a unit"),
        ("inf", "ms", "no number with a unit"),
        ("", "count", "no number with a unit"),
        ("1,000", "count", "unknown unit ',000'"),
        ("many", "count", "write 500k or 1M"),
        (True, "count", "not true"),
        (math.inf, "ms", "no number"),
    ],
)
def test_what_is_refused(text: str | float, kind: Kind, said: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        parse_quantity(text, kind)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@given(st.sampled_from(sorted(UNITS)), st.floats(0, 1, allow_subnormal=False))
def test_a_text_reads_back(kind: Kind, share: float) -> None:
    value = share if kind == "fraction" else share * 1e9
    assert parse_quantity(quantity_text(value, kind), kind) == pytest.approx(value, rel=1e-5)
