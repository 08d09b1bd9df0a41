"""Two small networks, and the files that runtimes make of them: once for all tests."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from kdbench.model import build
from kdbench.profiling.runtime import RUNTIMES, Source, convert
from kdbench.types import ModelChoice

SIZE = 32


@pytest.fixture(scope="session")
def networks():
    """A CNN and a ViT for 5 classes of images of 32 px, untrained, but with batch statistics of their own."""
    made = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for kind, name in (("cnn", "resnet8_w16"), ("vit", "vit_micro")):
            made[kind] = build(ModelChoice(name=name), 5, SIZE).eval()
            for part in made[kind].modules():
                if isinstance(part, nn.BatchNorm2d):
                    part.running_mean.normal_(0, 0.1)
                    part.running_var.uniform_(0.5, 2)
    return made


@pytest.fixture(scope="session")
def source(networks, tmp_path_factory):
    """The source of a network, in a folder that all tests share and none may change."""
    sources = {
        kind: Source(lambda network=network: copy.deepcopy(network), SIZE, Path(tmp_path_factory.mktemp(kind)))
        for kind, network in networks.items()
    }

    def of(kind, runtime):
        convert(RUNTIMES.get(runtime), sources[kind], "fp32")
        return sources[kind]

    return of


@pytest.fixture
def images():
    """Noise by batch size."""
    return lambda batch: torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def with_cuda(monkeypatch):
    """torch says that there is a CUDA device."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.fixture
def without_cuda(monkeypatch):
    """torch says that there is no CUDA device."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
