"""Profiles of architectures and of trained students, to records."""

from functools import partial

import pytest
import torch
from small import make_suite

from kdbench.errors import ConfigError, ProfileError, RecordError, RuntimeUnavailable, UnknownName
from kdbench.profiling.profile import profile_model
from kdbench.profiling.runtime import Setting
from kdbench.profiling.session import Sampling
from kdbench.store import Store
from kdbench.suite import profile as profile_module
from kdbench.suite.profile import Measures, profile, profile_results, trained, untrained
from kdbench.types import ModelChoice, ProfileRecord

COUNTS = Measures(counts_only=True, check=False)
QUICK = Measures(sampling=Sampling(rounds=2, samples=10), check=False)


@pytest.fixture
def timed(monkeypatch):
    """What was asked to be timed; nothing is."""
    asked = []

    def measure(subjects, settings, sampling, progress):
        asked.append((subjects, settings))
        return [dict.fromkeys(settings, "not timed") for _ in subjects]

    monkeypatch.setattr(profile_module, "measure", measure)
    return asked


def test_counts_of_architectures(timed):
    records = profile(["resnet8_w16", "resnet20_w16"], image_size=32, num_classes=4, measures=COUNTS)
    assert timed == []
    assert [record.model for record in records] == ["resnet8_w16", "resnet20_w16"]
    for record in records:
        expected = profile_model(untrained(record.choice, 4, 32), 32, counts_only=True)
        assert (record.params, record.macs, record.flops) == (expected.params, expected.macs, expected.flops)
        assert (record.image_size, record.num_classes, record.run_id, record.latencies) == (32, 4, "", ())
        assert record.layers == ()
        assert record.environment.fingerprint
        assert ProfileRecord.model_validate_json(record.model_dump_json()) == record


def test_layers_and_the_second_counter_on_request():
    (record,) = profile(["resnet8_w16"], image_size=32, measures=Measures(counts_only=True, layers=True))
    assert sum(layer.macs for layer in record.layers) == record.macs
    assert record.cross_check is not None


def test_counts_stand_without_the_second_counter(monkeypatch):
    original = profile_module.profile_model

    def refusing(*arguments, check=False, **more):
        if check:
            raise ProfileError("fvcore cannot count it: see '/home/somebody/it.py'")
        return original(*arguments, **more)

    monkeypatch.setattr(profile_module, "profile_model", refusing)
    (record,) = profile(["resnet8_w16"], image_size=32, measures=Measures(counts_only=True))
    assert record.macs > 0
    assert record.cross_check is None
    assert record.failures == {"second counter": "fvcore cannot count it: see 'it.py'"}


def test_really_timed():
    (record,) = profile(["resnet8_w16"], image_size=32, measures=QUICK)
    (latency,) = record.latencies
    assert latency.isolated
    assert latency.samples == sum(map(len, latency.rounds_ms)) == 10
    assert latency.interval_ms[0] <= latency.median_ms <= latency.interval_ms[1]
    assert latency.memory.peak_rss_bytes is None or latency.memory.peak_rss_bytes > 0
    assert record.failures == {}
    assert record.environment.load is not None


def test_timms_own_names_need_no_prefix(timed):
    records = profile(["timm/resnet10t", "mobilenetv4_conv_small_035", "resnet8_w16"], image_size=32, measures=COUNTS)
    assert [record.model for record in records] == ["timm/resnet10t", "timm/mobilenetv4_conv_small_035", "resnet8_w16"]


def test_every_combination_is_timed(timed):
    measures = Measures(precisions=("fp32", "bf16"), batch_sizes=(1, 8), threads=(1, 2), check=False)
    (record,) = profile(["resnet8_w16"], image_size=32, measures=measures)
    assert len(set(timed[0][1])) == 8
    assert len(record.failures) == 8
    assert "eager bf16, batch 8, 2 threads" in record.failures


def test_a_precision_that_a_runtime_does_not_have_is_left_out_for_it_alone(timed):
    pytest.importorskip("onnxruntime")
    profile(["resnet8_w16"], image_size=32, measures=Measures(("eager", "onnxruntime"), ("fp32", "bf16"), check=False))
    assert timed[0][1] == [Setting(), Setting(precision="bf16"), Setting("onnxruntime")]


@pytest.mark.parametrize(
    ("models", "measures", "error"),
    [
        (["no such model"], Measures(), UnknownName),
        (["resnet8_w16", "resnet8_w16"], Measures(), ConfigError),
        (["vit_micro"], Measures(runtimes=("no such",)), UnknownName),
        (["vit_micro"], Measures(runtimes=("cudagraph",)), RuntimeUnavailable),
        ([ModelChoice(name="resnet8_w16", pretrained="no-such-file.pt")], Measures(), ConfigError),
    ],
    ids=["unknown model", "twice", "unknown runtime", "wrong device", "no weights"],
)
def test_wrong_input_is_said_first(models, measures, error, timed):
    with pytest.raises(error):
        profile(models, measures=measures)
    assert timed == []


def test_a_weight_file_is_named_by_its_content(tmp_path, timed):
    path = tmp_path / "mine.pt"
    torch.save(untrained(ModelChoice(name="resnet8_w16"), 5, 32).state_dict(), path)
    (record,) = profile([ModelChoice(name="resnet8_w16", pretrained=str(path))], image_size=32, measures=COUNTS)
    assert record.choice.pretrained == "mine.pt"
    assert len(record.choice.weights) == 64
    assert str(tmp_path) not in record.model_dump_json()


def test_denormal_weights_are_reported(tmp_path):
    state = untrained(ModelChoice(name="resnet8_w16"), 5, 32).state_dict()
    state["conv1.0.weight"][0] = 1e-40
    torch.save(state, tmp_path / "sick.pt")
    choice = ModelChoice(name="resnet8_w16", pretrained=str(tmp_path / "sick.pt"))
    (record,) = profile([choice], image_size=32, measures=COUNTS)
    assert record.denormals == state["conv1.0.weight"][0].numel()


def test_the_weights_and_the_generator(timed):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (untrained(ModelChoice(name="resnet8_w16"), 5, 32).state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------- a results folder


@pytest.fixture
def finished(go, tmp_path):
    go(make_suite(seeds=2))
    return Store(tmp_path / "results")


def test_trained_students_are_profiled_once_a_cell(finished, timed):
    records = profile_results(finished, measures=QUICK)
    cells = {record.cell_id for record in finished.records() if record.spec.role == "student"}
    assert len(records) == len(cells) == 2  # baseline and kd; the teacher is no student
    for record in records:
        run = finished.read_record(record.run_id)
        assert (run.spec.seed, run.spec.title) == (0, record.title)
        assert (record.params, record.macs) == (run.profile.params, run.profile.macs)
    subjects, _ = timed[0]
    assert isinstance(subjects[0].load, partial)
    loaded = subjects[0].load()
    assert not loaded.training


def test_what_is_timed_is_the_trained_network(finished):
    run = next(record for record in finished.records() if record.spec.role == "student")
    weights = trained(str(finished.root), run.run_id).state_dict()
    fresh = untrained(run.spec.model, 5, 32).state_dict()
    assert any(not torch.equal(value, fresh[name]) for name, value in weights.items())


def test_without_weights(finished):
    for path in (finished.root / "weights").iterdir():
        path.unlink()
    with pytest.raises(RecordError, match="4 trained students, but not their weights"):
        profile_results(finished, measures=COUNTS)


def test_without_students(tmp_path):
    with pytest.raises(RecordError, match="no trained student"):
        profile_results(Store(tmp_path), measures=COUNTS)
