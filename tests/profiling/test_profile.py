"""All costs together. No threshold on any time: only what is reported, and what is left alone."""

import pytest
import torch
from torch import nn

from kdbench.errors import UnknownName
from kdbench.profiling import profile as profile_module
from kdbench.profiling.profile import profile_model
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

    monkeypatch.setattr(profile_module, "measure_latency", fail)
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


def test_unknown_runtime(model, monkeypatch):
    monkeypatch.setattr(profile_module, "_RUNTIMES", ("nothing",))
    with pytest.raises(UnknownName):
        profile_model(model, 16)
