"""Networks that other processes can make: functions of a module that every process of the tests finds."""

import os
import signal

import torch
from torch import nn


def small(classes=5):
    """Quick, and the same whenever it is made."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
        ).eval()


class Weighing(nn.Module):
    """Holds that many MiB of weights, and does little with them."""

    def __init__(self, mebibytes):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(mebibytes * 2**18))

    def forward(self, image):
        return image.mean((2, 3)) * self.weight[:3]


def absent():
    """A network that cannot be made."""
    raise ValueError("no such network\nand more lines about it")


class _Deadly(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, image):
        os.kill(os.getpid(), signal.SIGKILL)


def deadly():
    """Its process dies at the first pass."""
    return _Deadly()


def noisy():
    """A network whose library writes to the terminal, past Python."""
    os.write(1, b"some banner\n")
    os.write(2, b"some warning\n")
    return small()
