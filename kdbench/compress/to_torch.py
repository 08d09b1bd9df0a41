"""A trained network as a program of torch.export. Floor 4."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from kdbench.compress.classifier import Forward, torch_forward
from kdbench.errors import ExportError
from kdbench.profiling.conversion import complaint, quiet, reference_images


def write_program(network: nn.Module, image_size: int, path: Path) -> None:
    """Write the file: images (batch, 3, image_size, image_size) float32 -> logits (batch, K), for any batch.

    Args:
        network: in evaluation mode, fp32, on the CPU.
    Raises: ExportError, if torch.export cannot express the network.
    """
    try:
        with quiet():
            # two images: torch.export takes a size of 1 for a constant
            program = torch.export.export(
                network, (reference_images(image_size),), dynamic_shapes=({0: torch.export.Dim("batch")},)
            )
            for module in program.graph_module.modules():
                for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
                    node.meta.pop("stack_trace", None)  # in whose folder the code stands that made it
            torch.export.save(program, path)
    except Exception as problem:  # it runs the network's own code, which may raise anything
        raise ExportError(
            f"torch.export cannot express the network: {complaint(problem)}; leave torch out"
        ) from problem


def written_program(path: Path) -> Forward:
    """A program that this process has just written, to compare it with its network.

    For no other: ``torch.export.load`` unpickles what the file holds, and with that runs whatever it says. A digest
    beside the file is no help against that, for who makes the one makes the other.
    """
    with quiet():
        module = torch.export.load(path).module()
    return torch_forward(module)
