"""``import kdbench`` is cheap and gives what it promises."""

from __future__ import annotations

import subprocess
import sys

import pytest

import kdbench


def test_everything_promised_is_there() -> None:
    for name in kdbench.__all__:
        assert getattr(kdbench, name) is not None
    assert set(kdbench.__all__) <= set(dir(kdbench))


def test_compare_is_the_function_and_not_a_module() -> None:
    from kdbench.report.compare import compare

    assert kdbench.compare is compare


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        kdbench.nonsense  # noqa: B018


def test_importing_kdbench_does_not_import_torch() -> None:
    script = (
        "import sys, kdbench; kdbench.RunRecord; kdbench.collect; kdbench.compare; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
