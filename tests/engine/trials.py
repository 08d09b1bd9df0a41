"""What the tests of the engine share: a data set of 100 drawn images, a tiny network, specs."""

import copy

import numpy as np
import torch
from torch import nn

from kdbench.data.views import Views
from kdbench.engine.teacher import Teaching
from kdbench.engine.train import train
from kdbench.features import Anatomy, Outputs
from kdbench.method import build_method
from kdbench.model import IMAGENET_MEAN, IMAGENET_STD, build
from kdbench.types import MethodSpec, ModelChoice, RunSpec, TrainSpec, ViewSpec

BATCH = 16
PLAIN = Views(None, IMAGENET_MEAN, IMAGENET_STD)


def make_spec(data, method="ce", seed=0, views=None, **settings):
    settings = {"epochs": 3, "batch_size": BATCH, "learning_rate": 1e-2, **settings}
    return RunSpec(
        role="student",
        dataset=data.spec,
        model=ModelChoice(name="resnet8_w16"),
        method=MethodSpec.model_validate(method),
        views=views or ViewSpec(),
        train=TrainSpec(**settings),
        seed=seed,
    )


def make_model(seed=0):
    torch.manual_seed(seed)
    return build(ModelChoice(name="resnet8_w16"), 5, 32)


def make_noisy_model(seed=0):
    """With dropout, so that a run draws random numbers in every step."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(512, 5)
    )


class Scripted(Teaching):
    """A teacher without a network: its logits depend on the epoch, as on fresh views they do."""

    mode = "cached"

    def __init__(self, data):
        self.data, self.needs, self.bytes, self.seconds = data, ("logits",), 0, 0.0

    anatomy = Anatomy(classes=5, pooled=8, stages=())
    identity = "scripted"

    def rows(self, epoch):
        rng = np.random.default_rng(epoch)
        noise = rng.normal(size=(len(self.data.splits["train"]), 5))
        return (noise + 4 * np.eye(5)[self.data.labels[self.data.splits["train"]]]).astype(np.float32)

    def begin(self, epoch):
        self.now = self.rows(epoch)

    def __call__(self, batch, epoch):
        return Outputs(torch.from_numpy(self.now[batch.positions]))


def go(data, spec, model, method=None, **more):
    """Train as a suite would, with a teacher where the method needs one."""
    method = method or build_method(spec.method)
    if method.teachers == "one":
        more.setdefault("teachers", [Scripted(data)])
    return train(spec, model, method, data, Views(spec.views, IMAGENET_MEAN, IMAGENET_STD), PLAIN, **more)


def weights(model):
    return copy.deepcopy(model.state_dict())


def same_weights(left, right):
    left, right = (part if isinstance(part, dict) else part.state_dict() for part in (left, right))
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def curve(trained):
    """The history without the times."""
    return [entry.model_dump(exclude={"seconds"}) for entry in trained.history]
