"""torch as it is, with the channels last in memory: what convolutions of many processors and GPUs are made for."""

from __future__ import annotations

import torch

from kdbench.profiling.runtime import RUNTIMES
from kdbench.profiling.runtimes.eager import Eager

RUNTIMES.add("channels_last", Eager("channels_last", torch.channels_last))
