"""Fixtures of the command line's tests."""

import sys

import pytest

from kdbench.cli.app import main


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch, tmp_path, cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDBENCH_CACHE", str(cache))
    monkeypatch.delenv("KDBENCH_DATA", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))


@pytest.fixture
def kdbench(monkeypatch, capsys):
    """Call the command line: (exit code, stdout, stderr). No traceback may show, whatever happens."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["kdbench", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return left.value.code or 0, out, err

    return call
