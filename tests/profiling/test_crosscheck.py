"""The second counter, and whether the reasons account for what it says."""

import itertools
import logging
import random
import re
import threading
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from kdbench.errors import ProfileError
from kdbench.profiling.crosscheck import cross_check
from kdbench.profiling.macs import MacCount, count_macs


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, image):
        return self.function(image)


def check(model, image_size, channels=3):
    ours = count_macs(model, image_size, channels)
    return ours, cross_check(model, image_size, ours, channels)


def amount(reason):
    """The multiply-adds of a reason, signed, and by how much they may be rounded."""
    number, unit = re.search(r"(\d[\d.,]*)( [MG]\b)?", reason.rsplit("(", 1)[0].partition(":")[2]).groups()
    scale = {" G": 1e9, " M": 1e6}.get(unit, 1)
    value = float(number.rstrip(",.").replace(",", "")) * scale
    rounding = {" G": 0.005e9, " M": 0.05e6}.get(unit, 0)
    return (-value if "missing" in reason or "less" in reason else value), rounding


def assert_accounted_for(ours, checked):
    amounts = [amount(reason) for reason in checked.reasons]
    rounding = sum(tolerance for _, tolerance in amounts)
    assert sum(value for value, _ in amounts) == pytest.approx(checked.macs - ours.macs, abs=rounding + 1)
    sizes = [abs(value) for value, _ in amounts]
    assert all(a >= b - rounding for a, b in itertools.pairwise(sizes))


def test_convolutions_and_products_agree():
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 2, stride=2),
        nn.Flatten(),
        nn.Linear(4 * 144, 5),
    )
    ours, checked = check(model, 8)
    assert checked.counter.startswith("fvcore 0.")
    assert (checked.macs, checked.difference, checked.reasons) == (ours.macs, 0.0, ())


def test_what_fvcore_counts_besides():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(2))
    ours, checked = check(model, 8)
    assert checked.macs == 64 * 4 * 27 + 2 * 4 * 64 + 4 * 64
    assert checked.difference == pytest.approx(3 * 256 / ours.macs)
    assert checked.reasons == ("batch_norm: fvcore counts it, 512", "adaptive_avg_pool2d: fvcore counts it, 256")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            Function(lambda x: F.scaled_dot_product_attention(x, x, x)),
            "attention: fvcore has no rule for scaled_dot_product_attention, 3,072 missing (1 call)",
        ),
        (
            nn.Conv2d(3, 4, 3, padding="same"),
            "convolution: fvcore has no rule for _convolution_mode, 6,912 missing (1 call)",
        ),
        (
            Function(lambda x: torch.baddbmm(x[0], x[0], x[0]).baddbmm(x[0], x[0])),
            "matmul: fvcore has no rule for baddbmm, 3,072 missing (2 calls)",
        ),
        (
            nn.Sequential(Function(lambda x: x[0]), nn.LSTM(8, 4)),
            "recurrent: fvcore has no rule for lstm, 4,608 missing (1 call)",
        ),
        # the smaller factor stands left: fvcore takes its size for the product's
        (Function(lambda x: x[0, 0] @ x), "unexplained: matmul, 1,024 less"),
    ],
    ids=["attention", "same", "baddbmm", "lstm", "broadcast"],
)
def test_what_fvcore_leaves_out(model, reason):
    ours, checked = check(model, 8)
    assert checked.reasons == (reason,)
    assert_accounted_for(ours, checked)


@pytest.mark.parametrize(
    ("architecture", "image_size"),
    [("resnet18", 64), ("mobilenetv3_small_100", 64), ("test_vit", 160), ("mobilevit_xxs", 64), ("mvitv2_tiny", 224)],
)
def test_reasons_account_for_the_difference(architecture, image_size):
    with torch.device("meta"):
        model = timm.create_model(architecture)
    ours, checked = check(model, image_size)
    assert checked.macs != ours.macs
    assert checked.difference == (checked.macs - ours.macs) / ours.macs
    assert_accounted_for(ours, checked)
    assert not any("unexplained" in reason for reason in checked.reasons)
    assert next(model.parameters()).is_meta


def test_what_nothing_explains_is_said():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    checked = cross_check(model, 8, MacCount(macs=1000, by_operator={"convolution": 100, "linear": 900}))
    assert checked.reasons == ("unexplained: convolution, 100 less", "unexplained: matmul, 60 more")
    assert checked.difference == pytest.approx(-0.04)


def test_a_network_without_multiply_adds():
    assert check(nn.ReLU(), 8)[1].difference == 0
    only_theirs = check(nn.BatchNorm2d(3), 8)[1]
    assert (only_theirs.macs, only_theirs.difference) == (384, 1.0)


def test_other_channels():
    ours, checked = check(nn.Conv2d(1, 4, 3), 8, channels=1)
    assert checked.macs == ours.macs == 36 * 4 * 9


def test_model_is_left_as_it_was():
    class Counting(nn.BatchNorm2d):
        def forward(self, image):
            self.calls = getattr(self, "calls", 0) + 1
            return super().forward(image) + torch.rand(1) + random.random()

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Counting(4), nn.Dropout(0.5)).train()
    model[1].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generators = torch.get_rng_state(), random.getstate()
    check(model, 8)
    assert [module.training for module in model] == [True, False, True]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not hasattr(model[1], "calls")
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]


def test_a_network_that_cannot_be_copied():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.lock = threading.Lock()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert check(model, 8)[1].macs == 36 * 4 * 27 + 2 * 36 * 4
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with pytest.raises(ProfileError, match="on the meta device and cannot be copied"):
        cross_check(model.to("meta"), 8, MacCount(1))


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(5, 2)), "mat1 and mat2 shapes"),
        (Function(lambda x: x @ x[0, 0, 0]), "list index out of range"),  # a rule of fvcore's wants two axes
    ],
    ids=["network", "rule"],
)
def test_what_fvcore_cannot_count(model, why):
    with pytest.raises(ProfileError, match=f"^fvcore cannot count the network at 8 px: .*{why}") as caught:
        cross_check(model, 8, MacCount(1))
    assert "\n" not in str(caught.value)


def test_nothing_is_printed(caplog, capfd):
    model = timm.create_model("test_vit")
    ours = count_macs(model, 160)
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        cross_check(model, 160, ours)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
