"""Vision transformers. They take any image size: kdbench adapts the patch to it (``kdbench.model.patch_size_for``)."""

from kdbench.model import MODELS
from kdbench.types import ModelSpec, Role

_MICRO = {"embed_dim": 128, "depth": 6, "num_heads": 4}
_TEACHER: tuple[Role, ...] = ("teacher",)
_SAME = "untrained it equals the vit of its size; only the published weights and their normalisation differ"

for _name, _architecture, _paper, _note in (
    ("vit_tiny", "vit_tiny_patch16_224", "arXiv:2010.11929", "the size is DeiT's, the recipe arXiv:2106.10270"),
    ("vit_small", "vit_small_patch16_224", "arXiv:2010.11929", "the recipe of its weights is arXiv:2106.10270"),
    ("deit_tiny", "deit_tiny_patch16_224", "arXiv:2012.12877", _SAME),
    ("deit_small", "deit_small_patch16_224", "arXiv:2012.12877", _SAME),
):
    MODELS.add(
        _name,
        ModelSpec(name=_name, architecture=_architecture, kind="vit", roles=_TEACHER, paper=_paper, note=_note),
    )

_BOTH: tuple[Role, ...] = ("teacher", "student")

MODELS.add(
    "vit_micro",
    ModelSpec(
        name="vit_micro",
        architecture="vit_tiny_patch16_224",
        kind="vit",
        roles=_BOTH,
        paper="arXiv:2010.11929",
        arguments=_MICRO,
        note="6 blocks of width 128: a transformer that trains on a processor with small images",
    ),
)
MODELS.add(
    "deit_micro_distilled",
    ModelSpec(
        name="deit_micro_distilled",
        architecture="deit_tiny_distilled_patch16_224",
        kind="vit",
        roles=("student",),
        paper="arXiv:2012.12877",
        arguments=_MICRO,
        note="vit_micro with a distillation token: the method deit teaches it through that token",
    ),
)
