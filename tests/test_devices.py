"""Device profiles: those of the package, those of users, and what is said of a wrong one."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import kdbench
from kdbench.config import load_device, parse_device, shipped_devices
from kdbench.errors import ConfigError, MissingData, UnknownName

OWN = """\
name: my-board
title: a board
cpu: [Example Board 5]
runtimes: [onnxruntime]
limits:
  memory: {value: 512MiB, source: "half of 1 GB (its data sheet)", rule_of_thumb: true}
  bytes: {value: 32MB, source: "flash (its data sheet)"}
  latency: {value: 20ms, source: "30 images a second, with room to spare", rule_of_thumb: true}
"""


def test_what_is_shipped() -> None:
    assert set(shipped_devices()) == {
        "raspberry-pi-4", "raspberry-pi-zero-2w", "jetson-nano", "esp32-s3", "phone", "laptop-cpu", "this-machine",
    }  # fmt: skip


def test_devices_come_with_the_package() -> None:
    project = tomllib.loads((Path(kdbench.__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    assert "devices/*.yaml" in project["tool"]["setuptools"]["package-data"]["kdbench"]


@pytest.mark.parametrize("name", shipped_devices())
def test_a_shipped_device_says_where_its_numbers_are_from(name: str) -> None:
    device = load_device(name)
    assert device.name == name
    assert device.title
    stated = [limit for limit in vars(device.limits).values() if limit is not None]
    assert stated or device.this_machine
    for limit in stated:
        assert limit.value > 0
        assert len(limit.source) > 20
        assert limit.rule_of_thumb or "data sheet" in limit.source or "product brief" in limit.source


@pytest.mark.parametrize("name", shipped_devices())
def test_its_runtimes_exist(name: str) -> None:
    from kdbench.profiling.runtime import RUNTIMES

    assert set(load_device(name).runtimes or ()) <= set(RUNTIMES.names())


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "board.yaml"
    path.write_text(OWN, encoding="utf-8")
    device = load_device(str(path))
    limits = device.limits
    assert limits.memory is not None
    assert limits.bytes is not None
    assert limits.latency is not None
    assert (limits.memory.value, limits.bytes.value, limits.latency.value) == (2**29, 32e6, 20)
    assert (device.runtimes, device.cpu, device.memory_is) == (("onnxruntime",), ("Example Board 5",), "process")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("32MB", "32Mb", "line 7: limits.bytes.value: '32Mb' has an unknown unit 'Mb'; did you mean 32MB?"),
        ("20ms", "20 min", "line 8: limits.latency.value: '20 min' has an unknown unit"),
        ("32MB", "-1", "line 7: limits.bytes.value: '-1' is no limit"),
        ("32MB", "yes", "line 7: limits.bytes.value: a number is wanted"),
        ("32MB", "[1]", "line 7: limits.bytes.value: "),
        (', source: "flash (its data sheet)"', "", "line 7: limits.bytes.source: missing"),
        ("flash (its data sheet)", "", "line 7: limits.bytes.source: "),
        ("  bytes:", "  flash:", "line 7: limits.flash: unknown key"),
        ("title: a board", "titel: a board", "line 2: titel: unknown key"),
        ("name: my-board\n", "", "line 1: name: missing"),
        ("name: my-board", "name: my board!", "line 1: name: "),
        ("[Example Board 5]", '[""]', "line 3: cpu: an empty text would fit every machine"),
        ("limits:", "memory_is: weights\nlimits:", "line 5: memory_is: "),
        ("title: a board", "name: twice", "line 2: name: the key stands twice"),
        ("limits:", "limits: [", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_told_by_line(before: str, after: str, said: str) -> None:
    assert before in OWN
    with pytest.raises(ConfigError) as refused:
        parse_device(OWN.replace(before, after, 1), "board.yaml")
    assert str(refused.value).startswith("board.yaml: ")
    assert said in str(refused.value)


def test_a_list_is_no_device() -> None:
    with pytest.raises(ConfigError, match="a device is a mapping of keys, not list"):
        parse_device("[1, 2]", "board.yaml")


def test_an_unknown_name_has_near_ones() -> None:
    with pytest.raises(UnknownName, match="unknown device 'raspbery-pi-4'; did you mean raspberry-pi-4"):
        load_device("raspbery-pi-4")


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(MissingData, match=r"no-such\.yaml cannot be read"):
        load_device("no-such.yaml")
