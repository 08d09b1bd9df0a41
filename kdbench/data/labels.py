"""The five leukocyte types every source is harmonised to."""

from __future__ import annotations

LEUKOCYTES = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
"""In the order of their class numbers."""

JIANGXI_CODES = {"1": "neutrophil", "2": "lymphocyte", "3": "monocyte", "4": "eosinophil", "5": "basophil"}
"""Label codes of the two sets published by Zheng et al. (Micron 107, 2018), from their description."""
