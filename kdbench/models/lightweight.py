"""Other published networks for phones and processors without an accelerator."""

from kdbench.model import MODELS
from kdbench.types import ModelSpec, Role

_STUDENT: tuple[Role, ...] = ("student",)

for _name, _paper, _note in (
    ("ghostnet_050", "arXiv:1911.11907", "half of the feature maps come from cheap linear operations"),
    ("lcnet_050", "arXiv:2109.15099", "PP-LCNet, designed on the latency of Intel processors"),
    ("tinynet_e", "arXiv:2010.14819", "EfficientNet shrunk in depth and resolution before width"),
):
    MODELS.add(_name, ModelSpec(name=_name, architecture=_name, kind="cnn", roles=_STUDENT, paper=_paper, note=_note))
