"""MobileNets: depthwise-separable convolutions. The number behind the name is the width in per cent."""

from kdbench.model import MODELS
from kdbench.types import ModelSpec, Role

_STUDENT: tuple[Role, ...] = ("student",)

for _name, _paper in (
    ("mobilenetv2_050", "arXiv:1801.04381"),
    ("mobilenetv3_small_050", "arXiv:1905.02244"),
    ("mobilenetv3_small_100", "arXiv:1905.02244"),
    ("mobilenetv4_conv_small_050", "arXiv:2404.10518"),
):
    MODELS.add(_name, ModelSpec(name=_name, architecture=_name, kind="cnn", roles=_STUDENT, paper=_paper))
