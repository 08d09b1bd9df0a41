"""`kdbench compress`: stages of one run, and one clear line for what cannot be."""

import pytest
import yaml
from deployed import one_thread

from kdbench.config import parse_suite
from kdbench.store import Store
from kdbench.suite import run as run_module
from kdbench.suite.api import run_suite
from kdbench.suite.plan import RegistryNames

pytest.importorskip("onnxruntime", reason="needs the extra kdbench[export]")

SUITE = {
    "name": "tiny",
    "datasets": [{"name": "synthetic", "image_size": 32, "options": {"count": 100}}],
    "students": ["resnet8_w16"],
    "train": {"epochs": 1, "batch_size": 16},
    "profile": {"samples": 5},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    with one_thread():
        suite = parse_suite(yaml.safe_dump(SUITE), "tiny", RegistryNames())
        run_suite(suite, folder / "results", root=folder / "data", cache=folder / "cache")
    return folder


@pytest.fixture
def compress(kdbench, trained):
    def call(*arguments):
        return kdbench("compress", *arguments, "--results", trained / "results", "--data-root", trained / "data")

    with one_thread():
        yield call


def test_each_stage_is_a_line_with_what_it_can_and_costs(compress, trained):
    code, out, _ = compress("ce", "--prune", "macs=0.5", "--epochs", "1", "--quantise", "int8")
    assert code == 0
    first, pruned, small = out.splitlines()
    assert "synthetic/resnet8_w16/ce/seed0: " in first
    assert "> macs 50 %/seed0: " in pruned
    assert "> macs 50 % > int8/seed0: " in small
    assert "(100%)" in first
    stages = [record for record in Store(trained / "results").records() if record.spec.parent]
    assert {record.status for record in stages} == {"ok"}
    assert all(record.run_id in out for record in stages)
    assert all("--results" not in record.command and str(trained) not in record.command for record in stages)
    again, same, _ = compress("ce", "--prune", "macs=0.5", "--epochs", "1", "--quantise", "int8")
    assert (again, same) == (0, out)


def test_a_stage_that_fails_is_an_exit_code(compress, monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("the power went out")

    monkeypatch.setattr(run_module, "train", failing)
    code, out, _ = compress("ce", "--prune", "macs=0.4")
    assert code == 1
    assert "failed: the power went out" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ce",), "error: nothing is compressed; give prune, quantise or both"),
        (("ce", "--prune", "macs"), "error: --prune is 'macs', and TARGET=SHARE is wanted, as macs=0.5"),
        (("ce", "--prune", "macs=half"), "error: --prune is 'macs=half', and a share between 0 and 1 is wanted"),
        (("ce", "--prune", "flops=0.5"), "error: --prune: there is no target 'flops'; take macs, params, bytes"),
        (("ce", "--prune", "macs=2"), "error: --prune: input should be less than 1, not 2.0"),
        (("ce", "--prune", "macs=0.5", "--importance", "beauty"), "error: --prune: unknown importance 'beauty'"),
        (("ce", "--prune", "macs=0.5", "--distil", "kdd"), "error: --distil: unknown method 'kdd'"),
        (("ce", "--prune", "macs=0.5", "--teacher", "me"), "error: --teacher: input should be 'unpruned' or"),
        (("ce", "--quantise", "int4"), "error: --quantise: input should be 'static', 'dynamic' or 'aware'"),
        (("zebra", "--quantise", "int8"), "error: there is no run 'zebra'"),
        (("ce", "--quantise", "int8", "--runtime", "tflite"), "error: unknown runtime 'tflite'"),
    ],
)
def test_what_cannot_be_is_one_line(compress, arguments, said):
    code, out, err = compress(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(said)
    assert len(err.splitlines()) <= 2
