"""JTSC: Jiangxi Tecom leukocyte crops ("Dataset 1" of Zheng et al.)."""

from __future__ import annotations

from types import MappingProxyType

from kdbench.data.source import SOURCES
from kdbench.data.zheng import ZhengSource

SOURCES.add(
    "jtsc",
    ZhengSource(
        "jtsc",
        number=1,
        title="Jiangxi Tecom Science Corporation leukocytes (Zheng et al. 2018, dataset 1)",
        counts=MappingProxyType({"basophil": 1, "eosinophil": 22, "lymphocyte": 53, "monocyte": 48, "neutrophil": 176}),
        caveats=("some labels of jtsc were not checked by experts, as its publisher says",),
    ),
)
