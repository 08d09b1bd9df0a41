"""The house stands: imports only go down, and what must not be in the code is not in it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "kdbench"

FLOORS = {
    "_version": 0, "errors": 0,
    "types": 1, "registry": 1,
    "config": 2, "store": 2, "environment": 2, "seeding": 2, "paths": 2,
    "model": 3, "models": 3, "data": 3, "method": 3, "methods": 3, "profiling": 3,
    "engine": 4,
    "suite": 5,
    "report": 6,
    "cli": 7, "__main__": 7,
}  # fmt: skip
REPORT_SEES = 2
"""A leaderboard builds anywhere: report stands high, but uses nothing above this floor."""
HEAVY = {"torch", "torchvision", "timm", "fvcore", "torch_pruning"}


def imports(tree: ast.AST) -> list[str]:
    """Every module imported anywhere in a file, dotted; ``from a import b`` counts as a.b too."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def violations(room: str, source: str) -> list[str]:
    """What is wrong with a file that stands in a room (the first part of its name below kdbench)."""
    tree = ast.parse(source)
    floor, found = FLOORS[room], []
    for name in imports(tree):
        top, *below = name.split(".")
        if top == "kdbench" and below and below[0] in FLOORS:
            limit = REPORT_SEES if room == "report" and below[0] != "report" else floor
            if FLOORS[below[0]] > limit:
                found.append(f"{room} (floor {floor}) imports {name}")
        if top in HEAVY and (floor <= 2 or room == "report"):
            found.append(f"{room} imports {top}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            found.append(f"line {node.lineno}: assert")
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called == "print" and room not in ("cli", "__main__"):
                found.append(f"line {node.lineno}: print")
            if called == "torch.load" and keywords.get("weights_only") != "True":
                found.append(f"line {node.lineno}: torch.load without weights_only=True")
            if called in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False":
                found.append(f"line {node.lineno}: numpy.load of pickles")
            if called in ("yaml.load", "pickle.load", "pickle.loads", "eval", "exec"):
                found.append(f"line {node.lineno}: {called}")
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_down(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert room in FLOORS, f"{room} has no floor yet; give it one"
    assert violations(room, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("types", "from kdbench.store import Store"),
        ("data", "def f():\n    import kdbench.engine.train"),
        ("report", "from kdbench.suite.plan import Plan"),
        ("report", "import torch.nn"),
        ("store", "from torch import nn"),
        ("engine", "assert True"),
        ("engine", "print('loud')"),
        ("engine", "import torch\ntorch.load('x')"),
        ("data", "import numpy as np\nnp.load('x', allow_pickle=True)"),
        ("config", "import yaml\nyaml.load('x')"),
    ],
)
def test_the_checker_sees_a_planted_violation(room: str, source: str) -> None:
    assert violations(room, source)


def test_what_is_allowed_is_not_reported() -> None:
    assert violations("cli", "from kdbench.suite.api import run_suite\nprint('fine')") == []
    assert violations("report", "from kdbench.store import Store\nfrom kdbench.report.rows import Row") == []
