"""An ONNX file in the place of a network, so that what is deployed is tested by the code that tests all others.
Floor 4.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from kdbench.compress.classifier import onnx_forward


class OnnxNetwork(nn.Module):
    """Images (B, 3, S, S) on the CPU -> logits (B, K), by ONNX Runtime on all usable cores. It has nothing to learn.

    Raises: RuntimeUnavailable; ExportError, if the file cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._forward = onnx_forward(path)
        # who places a network and feeds it asks where its parameters are
        self._place = nn.Parameter(torch.zeros(0), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self._forward(images.float().contiguous().cpu().numpy()))
