"""EfficientNet-Lite: EfficientNet (Tan and Le 2019) without squeeze-and-excite, with ReLU6, for int8 devices."""

from kdbench.model import MODELS
from kdbench.types import ModelSpec

_PAPER = "arXiv:1905.11946"

MODELS.add(
    "efficientnet_lite0",
    ModelSpec(
        name="efficientnet_lite0",
        architecture="tf_efficientnet_lite0",
        kind="cnn",
        roles=("student", "teacher"),
        paper=_PAPER,
        note="TensorFlow's 'same' padding; its ImageNet weights come with the extra kdbench[pretrained], no download",
    ),
)
MODELS.add(
    "efficientnet_lite2",
    ModelSpec(
        name="efficientnet_lite2",
        architecture="tf_efficientnet_lite2",
        kind="cnn",
        roles=("teacher",),
        paper=_PAPER,
        note="TensorFlow's 'same' padding",
    ),
)
