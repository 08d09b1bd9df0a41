"""The profiler itself."""

from __future__ import annotations

from typing import Any

import pytest

from kdbench.model import build
from kdbench.profiling.profile import profile_model
from kdbench.types import ModelChoice


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "vit_tiny", "resnet50"])
def test_counting(name: str, benchmark: Any) -> None:
    model = build(ModelChoice(name=name), 5, 64)
    benchmark.pedantic(profile_model, args=(model, 64), kwargs={"counts_only": True}, rounds=3, warmup_rounds=1)
