"""CellaVision: leukocyte crops from the CellaVision blog ("Dataset 2" of Zheng et al.)."""

from __future__ import annotations

from types import MappingProxyType

from kdbench.data.source import SOURCES
from kdbench.data.zheng import ZhengSource

SOURCES.add(
    "cellavision",
    ZhengSource(
        "cellavision",
        number=2,
        title="CellaVision blog leukocytes (Zheng et al. 2018, dataset 2)",
        counts=MappingProxyType({"basophil": 3, "eosinophil": 12, "lymphocyte": 37, "monocyte": 15, "neutrophil": 33}),
    ),
)
