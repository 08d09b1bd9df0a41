"""The engine against torchdistill's own loop: the same networks, batches and optimizer give the same loss step by step.

Their loop is the one of their examples: a distillation box is asked for a loss and told to step. It is fed our batches;
its teacher is put into evaluation mode by hand, for the box leaves a teacher in the mode it comes in.
"""

import copy

import numpy as np
import pytest
import torch
from trials import go, make_model, make_spec

from kdbench.data.views import Views
from kdbench.engine import train as module
from kdbench.engine.teacher import CachedTeacher, LiveTeacher, TeacherNetwork
from kdbench.engine.train import epoch_order
from kdbench.model import IMAGENET_MEAN, IMAGENET_STD
from kdbench.types import ViewSpec

distillation = pytest.importorskip("torchdistill.core.distillation")

BATCH, EPOCHS, STEPS = 14, 2, 10  # of 70 images, five batches an epoch
SHOWN = Views(ViewSpec(), IMAGENET_MEAN, IMAGENET_STD)

# ours decays no norm and no bias, theirs does: no decay on either side
OPTIMIZERS = {
    "adamw": (1e-3, "AdamW", {"weight_decay": 0.0}),
    "sgd": (3e-3, "SGD", {"weight_decay": 0.0, "momentum": 0.9, "nesterov": True}),
}

_LOGITS = {
    "student_module_path": ".",
    "student_module_io": "output",
    "teacher_module_path": ".",
    "teacher_module_io": "output",
}
_HARD = {
    "criterion": {"key": "CrossEntropyLoss", "kwargs": {"reduction": "mean"}},
    "criterion_wrapper": {
        "key": "SimpleLossWrapper",
        "kwargs": {
            "input": {"is_from_teacher": False, "module_path": ".", "io": "output"},
            "target": {"uses_label": True},
        },
    },
    "weight": 1.0,
}


def term(key, weight=1.0, **kwargs):
    return {"criterion": {"key": key, "kwargs": {**_LOGITS, **kwargs}}, "weight": weight}


# our method, their terms; the alpha of their KD weighs the hard labels, ours the teacher
PEERS = {
    "kd": (
        {"name": "kd", "options": {"temperature": 4.0, "alpha": 0.9}},
        {"kd": term("KDLoss", temperature=4.0, alpha=0.1)},
    ),
    "kd, T 2, half": (
        {"name": "kd", "options": {"temperature": 2.0, "alpha": 0.5}},
        {"kd": term("KDLoss", temperature=2.0, alpha=0.5)},
    ),
    "dist": ("dist", {"dist": term("DISTLoss", beta=1.0, gamma=1.0, tau=1.0), "hard": _HARD}),
    "lskd": (
        {"name": "lskd", "options": {"temperature": 2.0, "weight": 9.0}},
        {"lskd": term("LogitStdKDLoss", temperature=2.0, alpha=0.1, beta=9.0)},
    ),
}


def make_teacher():
    """As sure of itself as a trained one: where all classes are nearly alike, a divergence is mostly rounding."""
    teacher = make_model(5).eval()
    with torch.no_grad():
        teacher.get_classifier().weight.mul_(20)
    return teacher


def our_losses(spec, data, student, teacher, folder, monkeypatch, *, live):
    """The loss of each step of a run of the engine."""
    losses, original = [], module._loss

    def spy(*arguments):
        losses.append(original(*arguments))
        return losses[-1]

    monkeypatch.setattr(module, "_loss", spy)
    network = TeacherNetwork(teacher, "teacher", data, SHOWN)
    taught_by = (
        LiveTeacher(network, ("logits",), SHOWN) if live else CachedTeacher(network, ("logits",), folder, passes=EPOCHS)
    )
    go(data, spec, student, teachers=[taught_by])
    return [loss.item() for loss in losses]


def their_losses(spec, data, student, teacher, terms, optimizer):
    """The loss of each step of torchdistill's loop over the batches of the same run."""
    key, kwargs = optimizer
    box = distillation.get_distillation_box(
        teacher,
        student,
        {},
        {
            "num_epochs": EPOCHS,
            "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
            "student": {"forward_proc": "forward_batch_only"},
            "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
            "optimizer": {"key": key, "kwargs": {"lr": spec.train.learning_rate, **kwargs}},
        },
        torch.device("cpu"),
        None,
        False,
        1,
    )
    losses = []
    for epoch in range(EPOCHS):
        box.pre_epoch_process(epoch=epoch)
        order = epoch_order(spec, data, epoch)
        for start in range(0, len(order) - BATCH + 1, BATCH):
            indices = data.splits["train"][np.sort(order[start : start + BATCH])]
            targets = torch.from_numpy(data.labels[indices])
            loss = box.forward_process(SHOWN.batch(data, indices, epoch), targets, {})
            box.post_forward_process(loss=loss)
            losses.append(loss.item())
        box.post_epoch_process()
    return losses


def spec_of(data, method, optimizer):
    rate = OPTIMIZERS[optimizer][0]
    return make_spec(
        data, method, epochs=EPOCHS, batch_size=BATCH, optimizer=optimizer, learning_rate=rate,
        weight_decay=0.0, warmup_epochs=0, schedule="constant",
    )  # fmt: skip


@pytest.mark.parametrize("live", [True, False], ids=["live", "cached"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("peer", PEERS)
def test_losses_equal_torchdistills_step_by_step(tiny_data, tmp_path, monkeypatch, peer, optimizer, live):
    method, terms = PEERS[peer]
    spec = spec_of(tiny_data, method, optimizer)
    student, teacher = make_model(1), make_teacher()
    theirs = their_losses(
        spec, tiny_data, copy.deepcopy(student), copy.deepcopy(teacher), terms, OPTIMIZERS[optimizer][1:]
    )
    ours = our_losses(spec, tiny_data, student, teacher, tmp_path, monkeypatch, live=live)
    assert len(ours) == STEPS
    assert len(set(ours)) == STEPS  # it learns
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_teacher_left_in_training_mode_is_another_teacher(tiny_data, tmp_path, monkeypatch):
    """So the equality above depends on every step, and on the mode that torchdistill does not set."""
    method, terms = PEERS["kd"]
    spec = spec_of(tiny_data, method, "sgd")
    student, teacher = make_model(1), make_teacher()
    left, statistics = copy.deepcopy(teacher).train(), dict(teacher.named_buffers())
    theirs = their_losses(spec, tiny_data, copy.deepcopy(student), left, terms, OPTIMIZERS["sgd"][1:])
    ours = our_losses(spec, tiny_data, student, teacher, tmp_path, monkeypatch, live=True)
    assert all(abs(our - their) > 1e-3 * abs(their) for our, their in zip(ours, theirs, strict=True))
    assert any(not torch.equal(value, statistics[name]) for name, value in left.named_buffers())
