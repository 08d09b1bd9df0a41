"""Parameters, multiply-adds and activations of timm's architectures against the figures that timm publishes.

published_counts.csv holds the newest of timm's tables of inference benchmarks (torch 2.9.1), rounded to two decimals
there. They were counted by fvcore as it comes, with attention not fused. Where one deviates from ours by more than 1 %,
the column ``reason`` says what the published figure does, and the reason has to account for it.
"""

import csv
from pathlib import Path

import pytest
import timm
import torch

from kdbench.model import MODELS
from kdbench.profiling.crosscheck import cross_check
from kdbench.profiling.macs import count_macs
from kdbench.profiling.params import count_params

FIELDS = ("params_m", "gmacs", "mactivations")
HALF_A_PLACE = 0.005

with (Path(__file__).parent / "published_counts.csv").open(newline="") as _file:
    ROWS = {row["architecture"]: row for row in csv.DictReader(_file)}


@pytest.fixture
def not_fused():
    """Networks made meanwhile multiply for their attention themselves."""
    timm.layers.set_fused_attn(False)
    yield
    timm.layers.set_fused_attn(True)


def in_units(model, counted):
    return count_params(model) / 1e6, counted.macs / 1e9, counted.activations / 1e6


def agrees(own, published):
    return abs(own - published) <= 0.01 * published + HALF_A_PLACE


def test_enough_is_compared():
    registered = {MODELS.get(name).architecture for name in MODELS.names() if not MODELS.get(name).arguments}
    assert registered <= set(ROWS)
    assert len(set(ROWS) - registered) >= 100


@pytest.mark.parametrize("architecture", ROWS)
def test_published_figures(architecture, not_fused):
    if architecture not in timm.list_models():
        pytest.skip(f"timm {timm.__version__} does not have it")
    row, image_size = ROWS[architecture], int(ROWS[architecture]["image_size"])
    published = tuple(float(row[name]) for name in FIELDS)
    with torch.device("meta"):
        model = timm.create_model(architecture)
    counted = count_macs(model, image_size)
    own = in_units(model, counted)
    agreeing = list(map(agrees, own, published))
    if not row["reason"]:
        assert all(agreeing), own
        return
    assert not all(agreeing)  # a reason that nothing needs any more has to go
    what, _, operator = row["reason"].partition(" ")
    if what == "fuses":  # parallel branches into one convolution, which works with values only
        fused = timm.utils.reparameterize_model(timm.create_model(architecture))
        assert all(map(agrees, in_units(fused, count_macs(fused, image_size)), published))
        return
    checked = cross_check(model, image_size, counted)
    assert agrees(checked.macs / 1e9, published[1])
    wanted = {"counts": f"{operator}: fvcore counts it", "passes": f"no rule for {operator.removeprefix('over ')},"}
    assert wanted[what] in checked.reasons[0]
    assert not any("unexplained" in reason for reason in checked.reasons)
