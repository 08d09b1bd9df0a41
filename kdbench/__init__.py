"""Which small image classifier, what did distillation buy, and what does it cost on the device: measured.

>>> import kdbench
>>> records = kdbench.run_suite("quickstart")  # doctest: +SKIP
>>> print(kdbench.render(records, outcomes=kdbench.Outcomes.below("results/quickstart")))  # doctest: +SKIP

Names are imported when they are first used, so that reading records and making tables never waits for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kdbench._version import __version__

if TYPE_CHECKING:
    from kdbench.choices import Budget, Choice
    from kdbench.compress.artefact import Artefact
    from kdbench.compress.classifier import Classifier, Predictions
    from kdbench.config import CompressEntry, Suite, load_device
    from kdbench.data.dataset import Dataset, open_dataset
    from kdbench.data.memory import from_arrays, from_torch
    from kdbench.engine.distill import Distilled, distill
    from kdbench.errors import KdbenchError
    from kdbench.model import build as build_model
    from kdbench.pick import pick_student
    from kdbench.profiling.profile import profile_model
    from kdbench.profiling.session import Sampling
    from kdbench.report import Outcomes, collect, collect_profiles, render
    from kdbench.report.compare import Comparison, compare
    from kdbench.store import Store
    from kdbench.suite.api import compress_run, plan_suite, run_suite
    from kdbench.suite.evaluate import evaluate_results
    from kdbench.suite.export import export_run, load_export, load_run
    from kdbench.suite.plan import load_suite
    from kdbench.suite.profile import Measures, profile, profile_results
    from kdbench.types import (
        DatasetSpec,
        EvaluateSpec,
        EvaluationRecord,
        MethodSpec,
        ModelChoice,
        PruneSpec,
        QuantiseSpec,
        RunRecord,
        RunSpec,
        TrainSpec,
        ViewSpec,
    )

__all__ = [
    "Artefact",
    "Budget",
    "Choice",
    "Classifier",
    "Comparison",
    "CompressEntry",
    "Dataset",
    "DatasetSpec",
    "Distilled",
    "EvaluateSpec",
    "EvaluationRecord",
    "KdbenchError",
    "Measures",
    "MethodSpec",
    "ModelChoice",
    "Outcomes",
    "Predictions",
    "PruneSpec",
    "QuantiseSpec",
    "RunRecord",
    "RunSpec",
    "Sampling",
    "Store",
    "Suite",
    "TrainSpec",
    "ViewSpec",
    "__version__",
    "build_model",
    "collect",
    "collect_profiles",
    "compare",
    "compress_run",
    "distill",
    "evaluate_results",
    "export_run",
    "from_arrays",
    "from_torch",
    "load_device",
    "load_export",
    "load_run",
    "load_suite",
    "open_dataset",
    "pick_student",
    "plan_suite",
    "profile",
    "profile_model",
    "profile_results",
    "render",
    "run_suite",
]

_HOMES = {
    "Budget": "kdbench.choices",
    "Choice": "kdbench.choices",
    "Artefact": "kdbench.compress.artefact",
    "Classifier": "kdbench.compress.classifier",
    "Comparison": "kdbench.report.compare",
    "CompressEntry": "kdbench.config",
    "Dataset": "kdbench.data.dataset",
    "Distilled": "kdbench.engine.distill",
    "KdbenchError": "kdbench.errors",
    "Measures": "kdbench.suite.profile",
    "Outcomes": "kdbench.report",
    "Predictions": "kdbench.compress.classifier",
    "Sampling": "kdbench.profiling.session",
    "Store": "kdbench.store",
    "Suite": "kdbench.config",
    "build_model": "kdbench.model:build",
    "collect": "kdbench.report",
    "collect_profiles": "kdbench.report",
    "compare": "kdbench.report.compare",
    "compress_run": "kdbench.suite.api",
    "distill": "kdbench.engine.distill",
    "evaluate_results": "kdbench.suite.evaluate",
    "export_run": "kdbench.suite.export",
    "from_arrays": "kdbench.data.memory",
    "from_torch": "kdbench.data.memory",
    "load_device": "kdbench.config",
    "load_export": "kdbench.suite.export",
    "load_run": "kdbench.suite.export",
    "load_suite": "kdbench.suite.plan",
    "open_dataset": "kdbench.data.dataset",
    "pick_student": "kdbench.pick",
    "plan_suite": "kdbench.suite.api",
    "profile": "kdbench.suite.profile",
    "profile_model": "kdbench.profiling.profile",
    "profile_results": "kdbench.suite.profile",
    "render": "kdbench.report",
    "run_suite": "kdbench.suite.api",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'kdbench' has no attribute '{name}'")
    module, _, own_name = _HOMES.get(name, "kdbench.types").partition(":")
    return getattr(importlib.import_module(module), own_name or name)


def __dir__() -> list[str]:
    return sorted(__all__)
