"""The house has floors: imports only go down, and some things are not done anywhere. Read from the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kdbench

PACKAGE = Path(kdbench.__file__).parent
FLOORS = (
    ("errors", "_version"),
    ("types", "registry", "calibration", "findings", "units", "choices"),
    ("config", "store", "environment", "activity", "seeding", "paths"),
    ("model", "models", "data", "features", "method", "methods", "profiling"),
    ("engine", "compress"),
    ("suite",),
    ("report", "pick"),
    ("cli", "__main__"),
)
FLOOR = {unit: number for number, units in enumerate(FLOORS) for unit in units}
# on floor 3 these pairs are one thing; nothing else there knows its neighbours
TOGETHER = {"models": "model", "methods": "method", "features": "method"}
ONLY_RECORDS = ("report", "pick")  # pick chooses among report's rows; report knows nothing of it
HEAVY = ("torch", "torchvision", "timm", "fvcore", "torch_pruning", "safetensors.torch")
PICKLERS = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Path]:
    return {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything a module imports, wherever in it the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if is_package else module.split(".")[:-1]
                package = package[: len(package) - (node.level - 1)]
                base = ".".join([*package, *([node.module] if node.module else [])])
            # `from kdbench import store` means kdbench.store; of a module, the name itself does not matter
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield node.lineno, first.value


def below(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def floor_problems(source: str, module: str, is_package: bool = False) -> list[str]:
    if module == "kdbench":  # looks everything up late
        return []
    unit = module.split(".")[1]
    if unit not in FLOOR:
        return [f"{module}: '{unit}' stands on no floor"]
    found = []
    for line, name in imported(ast.parse(source), module, is_package):
        where = f"{module}:{line} imports {name}"
        if below(name, HEAVY) and (FLOOR[unit] <= 2 or unit in ONLY_RECORDS):
            found.append(f"{where}: must work without")
        if not below(name, ("kdbench",)):
            continue
        other = name.split(".")[1] if "." in name else ""
        if other not in FLOOR:
            found.append(f"{where}: not a unit on a floor")
        elif other == unit:
            continue
        elif FLOOR[other] > FLOOR[unit]:
            found.append(f"{where}: upwards, floor {FLOOR[unit]} to {FLOOR[other]}")
        elif unit in ONLY_RECORDS and FLOOR[other] > 2 and (unit, other) != ("pick", "report"):
            found.append(f"{where}: tables are made from records alone")
        elif FLOOR[unit] == FLOOR[other] == 3 and TOGETHER.get(unit, unit) != TOGETHER.get(other, other):
            found.append(f"{where}: a neighbour on floor 3")
    return found


def habit_problems(source: str, module: str) -> list[str]:
    tree = ast.parse(source)
    found = [
        f"{module}:{line} imports {name}: unpickling runs code"
        for line, name in imported(tree, module, False)
        if below(name, PICKLERS)
    ]
    may_print = below(module, ("kdbench.cli", "kdbench.__main__"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            found.append(f"{module}:{node.lineno} assert: goes away with -O; raise an error")
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        loader = given.get("Loader") or (ast.unparse(node.args[1]) if len(node.args) > 1 else "")
        if called == "print" and not may_print:
            found.append(f"{module}:{node.lineno} print: only the command line speaks")
        if given.get("weights_only", "True") != "True" or (called == "torch.load" and "weights_only" not in given):
            found.append(f"{module}:{node.lineno} {called}: without weights_only=True")
        if given.get("allow_pickle", "False") != "False":
            found.append(f"{module}:{node.lineno} {called}: allow_pickle")
        if called in ("yaml.load", "yaml.load_all") and not loader.endswith("SafeLoader"):
            found.append(f"{module}:{node.lineno} {called}: without a safe loader")
        if called.startswith(("yaml.unsafe_load", "yaml.full_load")):
            found.append(f"{module}:{node.lineno} {called}: not safe")
    return found


@pytest.mark.parametrize("module", modules())
def test_imports_go_down(module: str) -> None:
    path = modules()[module]
    assert floor_problems(path.read_text("utf-8"), module, path.name == "__init__.py") == []


@pytest.mark.parametrize("module", modules())
def test_no_bad_habits(module: str) -> None:
    assert habit_problems(modules()[module].read_text("utf-8"), module) == []


def test_the_whole_package_is_looked_at() -> None:
    units = {name.split(".")[1] for name in modules() if "." in name}
    assert set(FLOOR) == units
    assert {"kdbench.data.sources.pbc", "kdbench.report.columns.gain", "kdbench.cli.app"} <= set(modules())


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kdbench.types", "from kdbench.store import Store"),
        ("kdbench.types", "import kdbench.engine.train"),
        ("kdbench.store", "def late():\n    from kdbench.model import build"),
        ("kdbench.store", "from kdbench import model"),
        ("kdbench.store", "from . import engine"),
        ("kdbench.data.views", "from ..engine import train"),
        ("kdbench.data.views", "from kdbench.model import build"),
        ("kdbench.engine.train", "import importlib\nimportlib.import_module('kdbench.suite.run')"),
        ("kdbench.report.rows", "from kdbench.suite.plan import Plan"),
        ("kdbench.report.rows", "from kdbench.model import MODELS"),
        ("kdbench.report.rows", "import torch.nn as nn"),
        ("kdbench.report.rows", "from kdbench.pick import judge"),
        ("kdbench.pick", "from timm import create_model"),
        ("kdbench.pick.scope", "from kdbench.suite.plan import Plan"),
        ("kdbench.environment", "import torch"),
        ("kdbench.store", "from safetensors.torch import save"),
        ("kdbench.suite.run", "import kdbench"),
        ("kdbench.attic", "x = 1"),
    ],
)
def test_a_planted_import_is_caught(module: str, source: str) -> None:
    assert len(floor_problems(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kdbench.data.views", "import torch\nfrom kdbench.types import ViewSpec\nfrom . import labels"),
        ("kdbench.models.vit", "from kdbench.model import MODELS"),
        ("kdbench.report.rows", "from kdbench.report.column import Column\nimport pandas"),
        ("kdbench.pick.scope", "from kdbench.report.rows import Row\nfrom kdbench.environment import collect"),
        ("kdbench.cli.run", "from kdbench.suite.api import run_suite\nfrom kdbench.report import render"),
        ("kdbench", "from kdbench.suite.api import run_suite"),
        ("kdbench.store", "import torchlight\nfrom safetensors.numpy import save"),
    ],
)
def test_an_honest_import_passes(module: str, source: str) -> None:
    assert floor_problems(source, module) == []


@pytest.mark.parametrize(
    "source",
    [
        "print('done')",
        "def f(x):\n    assert x",
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.FullLoader)",
        "yaml.unsafe_load(text)",
    ],
)
def test_a_planted_habit_is_caught(source: str) -> None:
    assert len(habit_problems(source, "kdbench.store")) == 1


def test_honest_habits_pass() -> None:
    source = """
torch.load(path, weights_only=True)
np.load(path, allow_pickle=False)
yaml.load(text, Loader=yaml.SafeLoader)
yaml.load(text, yaml.CSafeLoader)
console.print('x')
"""
    assert habit_problems(source, "kdbench.store") == []
    assert habit_problems("print('x')", "kdbench.cli.run") == []
