"""All costs together. No threshold on any time: only what is reported, and what is left alone."""

import pytest
import torch
from torch import nn

from kdbench.profiling import profile as profile_module
from kdbench.profiling.latency import Samples, WarmUp
from kdbench.profiling.profile import profile_model, to_latency
from kdbench.profiling.runtime import Setting
from kdbench.types import Profile, ProfileSpec


@pytest.fixture
def model():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 256, 5))


def test_counts(model):
    profile = profile_model(model, 16, counts_only=True)
    assert profile.latencies == ()
    assert profile.params == 4 * 27 + 4 + 8 + 1024 * 5 + 5
    assert profile.macs == 256 * 4 * 27 + 1024 * 5
    assert profile.flops == 2 * profile.macs
    assert profile.weight_bytes == 4 * (profile.params + 8) + 8
    assert profile.not_counted == {"batch_norm": 1}
    assert profile.image_size == 16


def test_one_latency_for_each_setting(model):
    profile = profile_model(model, 16, ProfileSpec(batch_sizes=(1, 3), threads=(1, 2), samples=6))
    settings = [(entry.batch_size, entry.threads) for entry in profile.latencies]
    assert settings == [(1, 1), (1, 2), (3, 1), (3, 2)]
    for entry in profile.latencies:
        assert (entry.runtime, entry.precision, entry.samples) == ("eager", "fp32", 6)
        assert entry.median_ms > 0
        assert entry.iqr_ms >= 0
    assert Profile.model_validate_json(profile.model_dump_json()) == profile


def test_threads_are_set_while_it_runs_and_restored(model):
    seen = []
    model.append(nn.Identity())
    model[-1].register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    profile_model(model, 16, ProfileSpec(threads=(before + 1,), samples=5))
    assert seen[-1] == before + 1
    assert torch.get_num_threads() == before


def test_threads_are_restored_after_a_failure(model, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("stopped")

    monkeypatch.setattr(profile_module, "warm_up", fail)
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="stopped"):
        profile_model(model, 16, ProfileSpec(threads=(before + 1,)))
    assert torch.get_num_threads() == before


def test_the_network_and_the_generator_are_left_alone(model):
    model = model.to(memory_format=torch.channels_last).train()
    model[1].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    strides, random_state = model[0].weight.stride(), torch.get_rng_state()
    profile_model(model, 16, ProfileSpec(samples=5))
    assert [module.training for module in model] == [True, False, True, True]
    assert model[0].weight.stride() == strides
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_layers_and_the_second_counter_are_asked_for(model):
    plain = profile_model(model, 16, counts_only=True)
    assert (plain.layers, plain.cross_check) == ((), None)
    asked = profile_model(model, 16, counts_only=True, layers=True, check=True)
    assert sum(layer.macs for layer in asked.layers) == sum(asked.by_operator.values()) == asked.macs
    assert asked.cross_check.counter.startswith("fvcore ")


def test_what_training_left_behind_is_counted(model):
    assert profile_model(model, 16, counts_only=True).denormals == 0
    with torch.no_grad():
        model[0].weight[0, 0, 0, :2] = 1e-40
    model[0].bias.requires_grad_(False)
    profile = profile_model(model, 16, counts_only=True)
    assert profile.denormals == 2
    assert profile.trainable_params == profile.params - 4


# ---------------------------------------------------------------- what is kept of samples


def latency(rounds, **more):
    return to_latency(Setting(), rounds, library="torch 0", prepare_ms=1.0, warm=WarmUp(9.0, 10, True), **more)


def test_disturbed_passes_are_kept_and_left_out():
    found = latency([Samples((2.0,) * 5, (50.0,)), Samples((2.0,) * 5, ())])
    assert (found.median_ms, found.samples, found.unstable, found.note) == (2.0, 10, False, "")
    assert (found.rounds_ms, found.disturbed_ms) == (((2.0,) * 5,) * 2, (50.0,))


@pytest.mark.parametrize(
    ("undisturbed", "disturbed"), [(4, 1), (0, 10), (9, 100)], ids=["fewer than five", "none", "fewer than a tenth"]
)
def test_where_hardly_any_pass_was_undisturbed_all_of_them_count(undisturbed, disturbed):
    found = latency([Samples((2.0,) * undisturbed, (4.0,) * disturbed)])
    assert found.samples == undisturbed + disturbed
    assert found.disturbed_ms == ()
    assert found.unstable
    assert "busy" in found.note


def test_few_passes_are_not_taken_for_a_busy_machine():
    found = latency([Samples((2.0, 2.0))])
    assert (found.samples, found.note, found.unstable) == (2, "", False)


def test_a_note_marks_the_figure():
    found = latency([Samples((2.0,) * 10)], note="something else was at work")
    assert (found.iqr_ms, found.unstable, found.note) == (0.0, True, "something else was at work")
