"""How a network is run: as the spec says, else as a probe finds, whose clock is a made-up one here."""

import os
import random
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from trials import make_model, make_noisy_model, same_weights, weights

from kdbench.engine import tuning
from kdbench.engine.tuning import MIN_ROUNDS, PROBE_SECONDS, compiled, place, settle
from kdbench.errors import TrainError
from kdbench.model import build
from kdbench.types import ModelChoice, TrainSpec, Tuning

SET_THREADS, GET_THREADS = torch.set_num_threads, torch.get_num_threads
CPU = torch.device("cpu")
PLAIN = "contiguous fp32 2 threads"
AUTO = {"precision": "auto", "channels_last": "auto", "threads": "auto"}
EVERY = {
    f"{layout} {precision} {threads}"
    for layout in ("contiguous", "channels_last")
    for precision in ("fp32", "bf16")
    for threads in ("1 thread", "2 threads")
}


class Machine:
    """A clock that only networks move, each by what its setting costs; and what was asked of it."""

    def __init__(self):
        self.now, self.cost, self.calls = 0.0, {}, []
        self.default = 1.0  # seconds
        self.threads = 1
        self.modes, self.not_finite, self.impossible = set(), set(), set()

    def __deepcopy__(self, memo):
        return self  # a copied network runs on the same machine

    def clock(self):
        return self.now

    def set_threads(self, count):
        self.threads = count

    def run(self, module, pixels):
        threads = torch.get_num_threads()
        layout = (
            "channels_last" if module.conv.weight.is_contiguous(memory_format=torch.channels_last) else "contiguous"
        )
        precision = "bf16" if torch.is_autocast_enabled("cpu") else "fp32"
        setting = f"{layout} {precision} {threads} thread{'s' if threads > 1 else ''}"
        self.calls.append(setting)
        self.modes.add((module.training, torch.is_inference_mode_enabled(), tuple(pixels.shape)))
        cost = self.cost.get(setting, self.default)
        self.now += cost(self.calls.count(setting)) if callable(cost) else cost
        if setting in self.impossible:
            raise RuntimeError("no kernel for this\nand a long explanation")
        return float("nan") if setting in self.not_finite else 1.0


class Clocked(nn.Module):
    """With batch statistics and dropout, so that a probe on the network itself would show."""

    def __init__(self, machine, kernel_size=3, stride=2):
        super().__init__()
        self.machine = machine
        self.conv = nn.Conv2d(3, 4, kernel_size, stride)
        self.norm, self.drop, self.head = nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Linear(4, 5)

    def forward(self, pixels):
        factor = self.machine.run(self, pixels)
        return factor * self.head(self.drop(self.norm(self.conv(pixels)).mean((2, 3))))


@pytest.fixture
def machine(monkeypatch):
    """Two cores that multiply bf16. Its threads are made up too: real ones wait long for each other on busy cores."""
    made = Machine()
    monkeypatch.setattr(torch, "set_num_threads", made.set_threads)
    monkeypatch.setattr(torch, "get_num_threads", lambda: made.threads)
    monkeypatch.setattr(tuning, "_clock", made.clock)
    monkeypatch.setattr(tuning, "usable_cores", lambda: 2)
    monkeypatch.setattr(tuning, "has_fast_bf16", lambda: True)
    monkeypatch.setattr(tuning, "collect", lambda threads: SimpleNamespace(fingerprint="this machine"))
    return made


@pytest.fixture
def network(machine):
    torch.manual_seed(0)
    return Clocked(machine)


def patches(machine):
    """What a ViT has of convolutions: the stem that cuts an image into patches."""
    return Clocked(machine, kernel_size=4, stride=4)


def settled(network, name="net", image_size=16, purpose="training", batch_size=4, cache=None, **train):
    return settle(
        TrainSpec(**train),
        network,
        image_size,
        name=name,
        device=CPU,
        purpose=purpose,
        cache=cache,
        batch_size=batch_size,
    )


def setting_of(found):
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    return f"{found.memory_format} {found.precision} {threads}"


# ---------------------------------------------------------------- without a probe


@pytest.mark.parametrize(
    ("train", "make", "expected"),
    [
        ({}, Clocked, "channels_last fp32 2 threads"),
        ({"channels_last": False}, Clocked, PLAIN),
        ({}, patches, PLAIN),
        ({"precision": "bf16"}, Clocked, "channels_last bf16 2 threads"),
    ],
)
@pytest.mark.parametrize("purpose", ["training", "inference"])
def test_a_spec_that_says_all_is_followed_without_a_probe(machine, tmp_path, train, make, expected, purpose):
    found = settled(make(machine), purpose=purpose, cache=tmp_path, **train)
    assert setting_of(found) == expected
    assert found.probe_ms == {}
    assert found.note == ""
    assert machine.calls == []
    assert list(tmp_path.iterdir()) == []


def test_bf16_that_is_asked_for_is_given_where_it_is_slow(machine, network, monkeypatch):
    monkeypatch.setattr(tuning, "has_fast_bf16", lambda: False)
    assert settled(network, precision="bf16").precision == "bf16"


def test_no_probe_where_auto_leaves_one_setting(machine, monkeypatch):
    monkeypatch.setattr(tuning, "has_fast_bf16", lambda: False)
    monkeypatch.setattr(tuning, "usable_cores", lambda: 1)
    assert setting_of(settled(patches(machine), **AUTO)) == "contiguous fp32 1 thread"
    assert machine.calls == []


def test_compiling_is_passed_on_for_training_alone(machine, network, tmp_path):
    assert settled(network, compile=True).compiled
    assert not settled(network).compiled
    assert not settled(network, purpose="inference", compile=True).compiled
    # not a part of what a probe finds, so both share one
    for asked in (True, False, True):
        assert settled(network, compile=asked, cache=tmp_path, **AUTO).compiled is asked
    assert len(list(tmp_path.rglob("*.json"))) == 1


# ---------------------------------------------------------------- what takes part


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (AUTO, EVERY),
        ({"threads": "auto"}, {"channels_last fp32 2 threads", "channels_last fp32 1 thread"}),
        ({"channels_last": "auto"}, {PLAIN, "channels_last fp32 2 threads"}),
        ({"precision": "auto", "channels_last": False}, {PLAIN, "contiguous bf16 2 threads"}),
        ({**AUTO, "precision": "bf16"}, {name for name in EVERY if "bf16" in name}),
    ],
)
@pytest.mark.parametrize("purpose", ["training", "inference"])
def test_what_is_auto_takes_part(machine, network, train, expected, purpose):
    found = settled(network, purpose=purpose, **train)
    assert set(found.probe_ms) == set(machine.calls) == expected


def test_a_slow_bf16_does_not_take_part(machine, network, monkeypatch):
    monkeypatch.setattr(tuning, "has_fast_bf16", lambda: False)
    assert set(settled(network, **AUTO).probe_ms) == {name for name in EVERY if "fp32" in name}


def test_channels_last_does_not_take_part_without_convolutions_to_gain(machine):
    assert set(settled(patches(machine), **AUTO).probe_ms) == {name for name in EVERY if "contiguous" in name}


def test_on_a_gpu_bf16_takes_part_and_threads_do_not(machine, network, monkeypatch):
    monkeypatch.setattr(tuning, "has_fast_bf16", lambda: False)
    found = {str(setting) for setting in tuning._settings(TrainSpec(**AUTO), network, torch.device("cuda"))}
    assert found == {name for name in EVERY if "2 threads" in name}


@pytest.mark.parametrize(("purpose", "size", "expected"), [("training", None, 64), ("inference", None, 256)])
def test_the_batch_is_that_of_the_loop(machine, network, purpose, size, expected):
    settled(network, purpose=purpose, batch_size=size, threads="auto")
    training = purpose == "training"
    assert machine.modes == {(training, not training, (expected, 3, 16, 16))}


def test_a_training_step_goes_backward(machine, network):
    reached = []
    network.head.weight.register_hook(reached.append)  # a copy of a parameter has no hooks, so the probe is not seen
    steps = []
    network.norm.register_forward_hook(lambda module, inputs, output: steps.append(output.requires_grad))
    network.norm.register_full_backward_hook(lambda module, into, out: steps.append("backward"))
    settled(network, threads="auto")
    assert reached == []
    assert steps == [True, "backward"] * (len(steps) // 2)
    assert len(steps) == 2 * len(machine.calls)


# ---------------------------------------------------------------- what is chosen


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        ({}, PLAIN),
        ({"channels_last bf16 1 thread": 0.5}, "channels_last bf16 1 thread"),
        ({"contiguous fp32 1 thread": 0.98}, PLAIN),  # too little to leave the plain one for
        ({"contiguous fp32 1 thread": 0.96}, "contiguous fp32 1 thread"),
        # both are worth it, and the difference between them is not
        ({"channels_last bf16 2 threads": 0.50, "channels_last fp32 2 threads": 0.51}, "channels_last fp32 2 threads"),
        ({"channels_last bf16 2 threads": 0.50, "channels_last fp32 2 threads": 0.55}, "channels_last bf16 2 threads"),
        ({"contiguous bf16 2 threads": 0.50, "channels_last fp32 2 threads": 0.50}, "channels_last fp32 2 threads"),
        ({"channels_last fp32 1 thread": 0.50, "contiguous bf16 2 threads": 0.50}, "contiguous bf16 2 threads"),
    ],
)
def test_the_quickest_wins_if_it_is_worth_it(machine, network, cost, expected):
    machine.cost = cost
    found = settled(network, **AUTO)
    assert setting_of(found) == expected
    assert found.probe_ms == pytest.approx({name: 1e3 * cost.get(name, 1.0) for name in EVERY})


def test_one_disturbed_step_decides_nothing(machine, network):
    machine.cost = {PLAIN: lambda call: 9.0 if call == 3 else 0.9}
    found = settled(network, **AUTO)
    assert setting_of(found) == PLAIN
    assert found.probe_ms[PLAIN] == pytest.approx(900)


def test_the_warm_up_is_not_timed(machine, network):
    machine.cost = {name: lambda call: 50.0 if call == 1 else 1.0 for name in EVERY}
    assert settled(network, **AUTO).probe_ms == pytest.approx(dict.fromkeys(EVERY, 1000))


def test_settings_take_turns(machine, network):
    settled(network, channels_last="auto")
    assert machine.calls == [PLAIN, "channels_last fp32 2 threads"] * (1 + MIN_ROUNDS)


def test_the_first_step_of_other_threads_is_not_timed(machine, network):
    turn = {}

    def cost(call):
        before, turn["last"] = turn.get("last"), torch.get_num_threads()
        return 1.0 if before == torch.get_num_threads() else 9.0

    machine.cost = dict.fromkeys(EVERY, cost)
    assert settled(network, **AUTO).probe_ms == pytest.approx(dict.fromkeys(EVERY, 1000))


def test_a_quick_network_is_timed_for_as_long_as_there_is_time(machine, network):
    machine.default = PROBE_SECONDS / 64
    settled(network, channels_last="auto")
    assert len(machine.calls) == 2 + 64


def test_values_that_are_not_finite_are_no_choice(machine, network):
    machine.cost = {"contiguous bf16 2 threads": 0.1, "channels_last bf16 2 threads": 0.2}
    machine.not_finite = {"contiguous bf16 2 threads"}
    found = settled(network, precision="auto", channels_last="auto")
    assert setting_of(found) == "channels_last bf16 2 threads"
    assert "contiguous bf16 2 threads" not in found.probe_ms
    assert found.note == "contiguous bf16 2 threads left out: its values are not finite"


def test_values_that_are_not_finite_stay_where_the_precision_is_given(machine, network):
    machine.not_finite = EVERY  # the network's own fault: training it will say so
    found = settled(network, precision="bf16", channels_last="auto")
    assert setting_of(found) == "contiguous bf16 2 threads"
    assert found.note == ""


def test_a_setting_that_cannot_be_run_is_left_out(machine, network):
    machine.impossible = {PLAIN}
    found = settled(network, channels_last="auto")
    assert setting_of(found) == "channels_last fp32 2 threads"
    assert found.note == f"{PLAIN} left out: no kernel for this"
    assert set(found.probe_ms) == {"channels_last fp32 2 threads"}


def test_a_network_that_cannot_be_run_at_all_is_an_error(machine, network):
    machine.impossible = EVERY
    with pytest.raises(TrainError, match=r"cannot be run on this machine: .* no kernel for this"):
        settled(network, **AUTO)
    assert torch.get_num_threads() == 1


# ---------------------------------------------------------------- what is kept


def test_what_was_found_is_used_again(machine, network, tmp_path):
    machine.cost = {"contiguous bf16 1 thread": 0.5}
    first = settled(network, cache=tmp_path, **AUTO)
    calls = len(machine.calls)
    machine.cost = {}
    assert settled(network, cache=tmp_path, **AUTO) == first
    assert len(machine.calls) == calls
    assert [path.parent.name for path in tmp_path.rglob("*.*")] == ["tuning"]


@pytest.mark.parametrize(
    "other",
    [
        {"batch_size": 8},
        {"image_size": 24},
        {"name": "another"},
        {"purpose": "inference"},
        {"precision": "fp32"},
        {"precision": "bf16"},
        {"channels_last": False},
    ],
    ids=str,
)
def test_another_question_is_probed(machine, network, tmp_path, other):
    settled(network, cache=tmp_path, **AUTO)
    calls = len(machine.calls)
    settled(network, cache=tmp_path, **{**AUTO, **other})
    assert len(machine.calls) > calls
    assert len(list(tmp_path.rglob("*.json"))) == 2


def test_what_is_given_tells_questions_apart(machine, network, tmp_path):
    for precision in ("fp32", "bf16"):
        assert settled(network, cache=tmp_path, channels_last="auto", precision=precision).precision == precision


def test_frozen_layers_are_another_question_in_training_alone(machine, network, tmp_path):
    for purpose, files in (("training", 2), ("inference", 3)):
        for frozen in (True, False):
            network.conv.weight.requires_grad_(not frozen)
            settled(network, cache=tmp_path, purpose=purpose, threads="auto")
        assert len(list(tmp_path.rglob("*.json"))) == files


def test_another_machine_is_probed(machine, network, tmp_path, monkeypatch):
    settled(network, cache=tmp_path, threads="auto")
    calls = len(machine.calls)
    monkeypatch.setattr(tuning, "collect", lambda threads: SimpleNamespace(fingerprint="another machine"))
    settled(network, cache=tmp_path, threads="auto")
    assert len(machine.calls) == 2 * calls


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"memory_format": "conti',
        b"\xff\xfe",
        b"[]",
        b'{"memory_format": "contiguous", "precision": "fp32"}',
        b'{"memory_format": "contiguous", "precision": "fp32", "threads": 64}',  # none that was asked about
    ],
)
def test_a_damaged_file_is_probed_again_and_replaced(machine, network, tmp_path, content):
    first = settled(network, cache=tmp_path, threads="auto")
    (path,) = tmp_path.rglob("*.json")
    path.write_bytes(content)
    calls = len(machine.calls)
    assert settled(network, cache=tmp_path, threads="auto") == first
    assert len(machine.calls) == 2 * calls
    assert Tuning.model_validate_json(path.read_bytes()) == first


def test_a_cache_that_cannot_be_written_costs_nothing(machine, network, tmp_path):
    (tmp_path / "tuning").write_text("a file where the folder should be")
    assert settled(network, cache=tmp_path, threads="auto").probe_ms


# ---------------------------------------------------------------- what stays as it was


def states():
    numbers = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), (numbers[1].tolist(), *numbers[2:])


def formats(network):
    return [tensor.stride() for tensor in network.state_dict().values()]


@pytest.fixture
def used(network):
    """In a mixed mode, with gradients."""
    network.train()
    network.norm.eval()
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    return network


def observed(network):
    gradients = [parameter.grad for parameter in network.parameters()]
    return {
        "modes": [module.training for module in network.modules()],
        "gradients": [(id(gradient), gradient.tolist()) for gradient in gradients],
        "strides": formats(network),
        "tensors": [id(tensor) for tensor in (*network.parameters(), *network.buffers())],
        "random": states(),
        "threads": torch.get_num_threads(),
    }


@pytest.mark.parametrize("purpose", ["training", "inference"])
def test_a_probe_changes_nothing(machine, used, purpose):
    before, state = observed(used), weights(used)
    settled(used, purpose=purpose, **AUTO)
    assert len(machine.calls) > len(EVERY)
    assert observed(used) == before
    assert same_weights(used, state)


def test_torchs_own_threads_are_set_and_put_back(machine, network, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", SET_THREADS)
    monkeypatch.setattr(torch, "get_num_threads", GET_THREADS)
    settled(network, threads="auto", batch_size=2)
    assert {name.split()[-2] for name in machine.calls} == {"1", "2"}
    assert torch.get_num_threads() == 1


def test_probes_do_not_depend_on_the_random_state(machine, network):
    seen = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    for seed in (1, 2):
        torch.manual_seed(seed)
        settled(network, threads="auto")
    assert all(torch.equal(images, seen[0]) for images in seen)


# ---------------------------------------------------------------- in place


@pytest.mark.parametrize(
    ("memory_format", "expected"),
    [("channels_last", torch.channels_last), ("contiguous", torch.contiguous_format)],
)
@pytest.mark.parametrize("before", [torch.channels_last, torch.contiguous_format])
def test_place_gives_the_memory_format(memory_format, expected, before):
    model = make_model().to(memory_format=before)
    state = weights(model)
    found = place(model, Tuning(memory_format=memory_format, precision="fp32", threads=1), CPU)
    assert found is model
    assert model.layer1[0].conv1.weight.is_contiguous(memory_format=expected)
    assert same_weights(model, state)


# ---------------------------------------------------------------- compiled


EXAMPLE = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Wrapped:
    """What torch.compile gives asks the network for its length when it is asked for its truth value."""

    def __init__(self, model):
        self.model = model

    def __call__(self, images):
        return self.model(images)

    def __len__(self):
        raise TypeError("the network has no length")


def test_a_compiled_form_is_tried_in_training_and_leaves_no_trace(machine, used, monkeypatch):
    given = []
    monkeypatch.setattr(torch, "compile", lambda model, **settings: given.append(settings) or Wrapped(model))
    used.eval()
    before, state = observed(used), weights(used)
    run, note = compiled(used, EXAMPLE)
    assert note == ""
    assert given == [{"dynamic": False}]
    assert machine.modes == {(True, False, (4, 3, 16, 16))}
    assert machine.calls == ["contiguous fp32 1 thread"]
    assert observed(used) == before
    assert same_weights(used, state)
    assert run(EXAMPLE).shape == (4, 5)
    assert bool(run)


def test_a_compiled_form_is_tried_in_the_precision_of_the_loop(machine, network, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **settings: model)
    compiled(network, EXAMPLE, "bf16")
    assert machine.calls == ["contiguous bf16 1 thread"]


def test_where_compiling_raises_the_model_stays_eager(used, monkeypatch):
    def refuse(model, **settings):
        raise RuntimeError("no such thing here\nwith details")

    monkeypatch.setattr(torch, "compile", refuse)
    before, state = observed(used), weights(used)
    run, note = compiled(used, EXAMPLE)
    assert run is used
    assert note == "torch.compile failed: no such thing here; eager instead"
    assert observed(used) == before
    assert same_weights(used, state)


class NoWayBack(torch.autograd.Function):
    """A kernel that fails in the backward pass alone."""

    @staticmethod
    def forward(context, logits):
        return logits.clone()

    @staticmethod
    def backward(context, gradient):
        raise NotImplementedError


def test_where_the_trial_fails_half_way_nothing_is_left_of_it(used, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **settings: lambda images: NoWayBack.apply(model(images)))
    before, state = observed(used), weights(used)
    run, note = compiled(used, EXAMPLE)
    assert run is used
    assert note == "torch.compile failed: NotImplementedError; eager instead"
    assert observed(used) == before
    assert same_weights(used, state)


def test_both_answers_of_a_network_are_tried(used, monkeypatch):
    calls = []

    def twice(images):
        logits = used(images)
        logits.register_hook(calls.append)
        other = 2 * logits.detach().requires_grad_()
        other.register_hook(calls.append)
        return logits, other

    monkeypatch.setattr(torch, "compile", lambda model, **settings: twice)
    assert compiled(used, EXAMPLE)[1] == ""
    assert len(calls) == 2


@pytest.mark.slow
def test_a_really_compiled_model_gives_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = make_noisy_model().train()  # its dropout draws, its batch statistics move
    state, random_before = weights(model), states()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    run, note = compiled(model, images)
    if "C++ compiler" in note:
        pytest.skip(note)
    assert note == ""
    assert same_weights(model, state)
    assert states() == random_before
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    run(images).sum().backward()
    moved, gradients = weights(model), [parameter.grad for parameter in model.parameters()]
    assert not same_weights(moved, state)  # it is the model itself that is run
    assert all(gradient is not None for gradient in gradients)
    model.load_state_dict(state)
    model(images)
    torch.testing.assert_close(moved, weights(model), rtol=1e-4, atol=1e-5)
    model.eval()
    torch.testing.assert_close(run(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_without_a_compiler_the_model_stays_eager(tmp_path):
    script = """
import torch
from kdbench.engine.tuning import compiled
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
run, note = compiled(model, torch.ones(2, 3, 2, 2))
print(run is model, note)
"""
    settings = {"CXX": str(tmp_path / "missing"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kernels")}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **settings}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True torch.compile failed: InvalidCxxCompiler: ")
    assert len(done.stdout.splitlines()) == 1


def test_plain_attention_is_a_choice_of_transformers_alone():
    cpu = torch.device("cpu")
    vit = build(ModelChoice(name="vit_micro"), 5, 32)
    assert {s.attention for s in tuning._settings(TrainSpec(attention="auto"), vit, cpu)} == {"fused", "plain"}
    assert {s.attention for s in tuning._settings(TrainSpec(), vit, cpu)} == {"fused"}
    cnn = build(ModelChoice(name="resnet8_w16"), 5, 32)
    assert {s.attention for s in tuning._settings(TrainSpec(attention="auto"), cnn, cpu)} == {"fused"}


def test_plain_attention_computes_the_same():
    vit = build(ModelChoice(name="vit_micro"), 5, 32).eval()
    images = torch.randn(2, 3, 32, 32)
    plain = Tuning(memory_format="contiguous", precision="fp32", threads=1, attention="plain")
    with torch.inference_mode():
        fused = vit(images)
        placed = place(vit, plain, torch.device("cpu"))
        torch.testing.assert_close(placed(images), fused, rtol=1e-4, atol=1e-5)
    assert not any(block.attn.fused_attn for block in placed.blocks)
