"""Residual networks (He et al. 2015) and the shallow variant of timm."""

from kdbench.model import MODELS
from kdbench.types import ModelSpec, Role

_PAPER = "arXiv:1512.03385"
_TEACHER: tuple[Role, ...] = ("teacher",)

for _name in ("resnet18", "resnet34", "resnet50"):
    MODELS.add(_name, ModelSpec(name=_name, architecture=_name, kind="cnn", roles=_TEACHER, paper=_PAPER))

MODELS.add(
    "resnet10t",
    ModelSpec(
        name="resnet10t",
        architecture="resnet10t",
        kind="cnn",
        roles=("student", "teacher"),
        paper=_PAPER,
        note="one block a stage behind a stem of three 3x3 convolutions; average pooling in the shortcuts",
    ),
)
