"""Every registered architecture: it builds, it answers, its facts are there."""

import re

import pytest
import torch
import yaml

from kdbench.model import MODELS, build
from kdbench.types import ModelChoice

ALL = MODELS.names()
TRANSFORMERS = tuple(spec.name for spec in MODELS if spec.kind == "vit")
TINY = ("resnet8_w16", "resnet20_w16")


@pytest.mark.parametrize("name", ALL)
def test_builds_for_five_classes_at_64_pixels(name):
    model = build(ModelChoice(name=name), 5, 64)
    assert model.training
    with torch.inference_mode():
        logits = model.eval()(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize(("size", "patch"), [(48, 4), (96, 8)])
def test_transformers_follow_the_image_size(name, size, patch):
    model = build(ModelChoice(name=name), 5, size).eval()
    assert model.patch_embed.patch_size == (patch, patch)
    with torch.inference_mode():
        assert model(torch.randn(2, 3, size, size)).shape == (2, 5)


@pytest.mark.parametrize("name", ["resnet8_w16", "resnet20_w16", "mobilenetv3_small_050", "efficientnet_lite0"])
@pytest.mark.parametrize("size", [48, 96])
def test_students_take_other_sizes(name, size):
    model = build(ModelChoice(name=name), 5, size).eval()
    with torch.inference_mode():
        assert model(torch.randn(2, 3, size, size)).shape == (2, 5)


def test_there_are_enough_of_each_role():
    assert sum("teacher" in spec.roles for spec in MODELS) >= 6
    assert sum("student" in spec.roles for spec in MODELS) >= 8
    assert {spec.kind for spec in MODELS if "teacher" in spec.roles} == {"cnn", "vit"}


@pytest.mark.parametrize("name", TINY)
def test_tiny_networks_stay_below_300_000_parameters(name):
    model = build(ModelChoice(name=name), 5, 64)
    assert sum(parameter.numel() for parameter in model.parameters()) < 300_000
    assert model.forward_features(torch.randn(2, 3, 64, 64)).shape == (2, 64, 4, 4)  # the total stride is 16
    assert model.feature_info[-1]["reduction"] == 16


def test_tiny_network_learns():
    """Which half of the image is bright: a network that passes no gradient stays at chance."""
    torch.manual_seed(0)
    images, labels = torch.randn(64, 3, 64, 64), torch.arange(64) % 2
    images[labels == 0, :, :32] += 1
    images[labels == 1, :, 32:] += 1
    model = build(ModelChoice(name="resnet8_w16"), 2, 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(15):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert (model(images).argmax(1) == labels).float().mean() > 0.95


@pytest.mark.parametrize("spec", list(MODELS), ids=lambda spec: spec.name)
def test_facts(spec):
    assert MODELS.get(spec.name) is spec
    assert re.fullmatch(r"arXiv:\d{4}\.\d{5}", spec.paper)
    assert spec.licence
    assert yaml.safe_load(yaml.safe_dump(spec.model_dump(mode="json")))["architecture"] == spec.architecture
