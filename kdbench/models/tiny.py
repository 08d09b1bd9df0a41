"""Networks of fewer than 0.3 million parameters, for microcontroller-class budgets.

Both take the three stages of 16, 32 and 64 channels of the CIFAR-10 networks of He et al. 2015 (section 4.2) and put
them behind timm's deep stem (three 3x3 convolutions and a max-pool, stride 4). The first stage then works at 16x16
pixels on a 64-pixel image, and the total stride is 16, so that 48 to 64 pixels still leave 3x3 to 4x4 positions before
the mean; the ImageNet networks end at 2x2 there. ``layer4`` is empty: timm's ResNet calls four stages.
"""

from typing import Any

from kdbench.model import MODELS
from kdbench.types import ModelSpec, Role

_STUDENT: tuple[Role, ...] = ("student",)


def _arguments(blocks: int) -> dict[str, Any]:
    return {
        "layers": (blocks, blocks, blocks, 0),
        "channels": (16, 32, 64, 64),
        "stem_width": 8,  # the stem ends at twice this
        "stem_type": "deep",
        "avg_down": False,
        "output_stride": 16,  # the empty stage adds no stride; keeps timm's feature_info true
    }


MODELS.add(
    "resnet8_w16",
    ModelSpec(
        name="resnet8_w16",
        architecture="resnet10t",
        kind="cnn",
        roles=_STUDENT,
        paper="arXiv:1512.03385",
        arguments=_arguments(1),
        note="one block a stage, as the image-classification network of MLPerf Tiny (arXiv:2106.07597)",
    ),
)
MODELS.add(
    "resnet20_w16",
    ModelSpec(
        name="resnet20_w16",
        architecture="resnet10t",
        kind="cnn",
        roles=_STUDENT,
        paper="arXiv:1512.03385",
        arguments=_arguments(3),
        note="three blocks a stage, as ResNet-20",
    ),
)
