"""A teacher's outputs: teacher untouched, replayed to the bit, computed again where a file is no good, or live."""

import json
import os

import numpy as np
import pytest
import torch
from trials import PLAIN, curve, go, make_model, make_noisy_model, make_spec, same_weights, weights

from kdbench.data.dataset import open_dataset
from kdbench.data.views import Views
from kdbench.engine import teacher as module
from kdbench.engine.teacher import (
    Batch,
    CachedTeacher,
    LiveTeacher,
    TeacherNetwork,
    cache_key,
    entries,
    evict,
    mode_for,
    needed_bytes,
    passes_of,
)
from kdbench.errors import TrainError
from kdbench.model import IMAGENET_MEAN, IMAGENET_STD, build
from kdbench.types import DatasetSpec, ModelChoice, TeachingSpec, ViewSpec

HALF = (0.5, 0.5, 0.5)
EVERYTHING = ("logits", "pooled", "stages")


def shown(spec=None):
    return Views(spec or ViewSpec(), IMAGENET_MEAN, IMAGENET_STD)


def network_of(data, model=None, spec=None, identity="teacher", precision="fp32", views=None):
    model = make_model(5) if model is None else model
    return TeacherNetwork(model, identity, data, views or shown(spec), precision=precision, title="resnet8_w16")


def cached(data, folder, needs=("logits",), passes=3, **more):
    notes = []
    teacher = CachedTeacher(network_of(data, **more), needs, folder, passes=passes, notice=notes.append)
    teacher.notes = notes
    return teacher


def batch_of(data, positions, epoch, spec=None):
    positions = np.asarray(positions)
    indices = data.splits["train"][positions]
    return Batch(positions, indices, shown(spec).batch(data, indices, epoch))


def all_of(data, epoch):
    return batch_of(data, np.arange(len(data.splits["train"])), epoch)


def said(teacher, data, epoch):
    teacher.begin(epoch)
    return teacher(all_of(data, epoch), epoch)


@pytest.fixture
def computed(monkeypatch):
    """How many passes were computed."""
    passes, original = [], CachedTeacher._fill

    def spy(self, number, missing):
        passes.append((number, tuple(missing)))
        return original(self, number, missing)

    monkeypatch.setattr(CachedTeacher, "_fill", spy)
    return passes


# ---------------------------------------------------------------- the teacher


def test_outputs_are_those_of_the_eval_mode_on_the_same_views(tiny_data, tmp_path):
    model = make_noisy_model()  # dropout and batch statistics would both show
    model.train()
    teacher = cached(tiny_data, tmp_path, ("logits", "pooled"), model=model)
    with torch.no_grad():
        expected = model.eval()(all_of(tiny_data, 2).pixels)
    outputs = said(teacher, tiny_data, 2)
    assert outputs.logits.dtype == torch.float32
    torch.testing.assert_close(outputs.logits, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(outputs.vector @ model[-1].weight.T + model[-1].bias, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(said(teacher, tiny_data, 1).logits, expected, rtol=1e-2)  # another epoch, other views


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("method", ["kd", "at"])
def test_nothing_of_the_teacher_changes(tiny_data, tmp_path, live, method):
    model = make_model(5)
    before = weights(model)
    modes = []
    model.register_forward_hook(lambda module, inputs, output: modes.append((module.training, output.requires_grad)))
    spec = make_spec(tiny_data, method, epochs=2)
    needs = ("logits", "stages")
    network = network_of(tiny_data, model)
    teacher = LiveTeacher(network, needs, shown()) if live else CachedTeacher(network, needs, tmp_path, passes=2)
    go(tiny_data, spec, make_model(1), teachers=[teacher])
    assert modes
    assert set(modes) == {(False, False)}
    # running_mean, running_var and num_batches_tracked are part of the state
    assert any("num_batches_tracked" in key for key in before)
    assert same_weights(model, before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_views_without_a_schedule_are_refused(tiny_data):
    with pytest.raises(TrainError, match="views"):
        network_of(tiny_data, views=PLAIN)


# ---------------------------------------------------------------- replay


@pytest.mark.parametrize("needs", [("logits",), ("logits", "pooled"), ("logits", "last"), EVERYTHING])
def test_replayed_is_computed_to_the_bit(tiny_data, tmp_path, needs, computed):
    first = cached(tiny_data, tmp_path, needs)
    fresh = [said(first, tiny_data, epoch) for epoch in range(3)]
    assert len(computed) == 3
    again = cached(tiny_data, tmp_path, needs)
    for epoch in (2, 0, 1):
        outputs = said(again, tiny_data, epoch)
        assert torch.equal(outputs.logits, fresh[epoch].logits)
        assert (outputs.pooled is None) == (fresh[epoch].pooled is None)
        assert all(torch.equal(*pair) for pair in zip(outputs.stages, fresh[epoch].stages, strict=True))
    assert len(outputs.stages) == {"last": 1, "stages": 4}.get(needs[-1], 0)
    assert len(computed) == 3
    assert again.seconds == 0.0
    assert first.seconds > 0
    assert again.notes == []


def test_student_is_the_same_with_a_cold_and_a_warm_cache(tiny_data, tmp_path, computed):
    spec = make_spec(tiny_data, "kd")
    cold = go(tiny_data, spec, make_noisy_model(1), teachers=[cached(tiny_data, tmp_path)])
    assert len(computed) == 3
    warm = go(tiny_data, spec, make_noisy_model(1), teachers=[cached(tiny_data, tmp_path)])
    assert len(computed) == 3
    assert same_weights(cold.model, warm.model)
    assert curve(cold) == curve(warm)


@pytest.mark.parametrize("method", ["kd", {"name": "kd", "ground_truth": False}, "dkd", "dist"], ids=str)
def test_replay_equals_a_live_teacher_over_the_same_batches_to_the_bit(tiny_data, tmp_path, method):
    """With one batch an epoch both compute on the same images in the same order."""
    spec = make_spec(tiny_data, method, batch_size=70, epochs=3)
    replayed = go(tiny_data, spec, make_noisy_model(1), teachers=[cached(tiny_data, tmp_path)])
    live = LiveTeacher(network_of(tiny_data), ("logits",), shown())
    lived = go(tiny_data, spec, make_noisy_model(1), teachers=[live])
    assert same_weights(replayed.model, lived.model)
    assert curve(replayed) == curve(lived)


@pytest.mark.parametrize("mixing", [{}, {"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}], ids=str)
def test_live_and_replayed_agree_where_batches_differ(tiny_data, tmp_path, mixing):
    spec = ViewSpec(**mixing)
    replayed = cached(tiny_data, tmp_path, EVERYTHING, spec=spec)
    live = LiveTeacher(network_of(tiny_data, spec=spec), EVERYTHING, shown(spec))
    replayed.begin(1)
    batch = batch_of(tiny_data, [3, 17, 18, 40, 69], 1, spec)
    ours, theirs = replayed(batch, 1), live(batch, 1)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.vector, theirs.vector, rtol=1e-4, atol=1e-5)
    for left, right in zip(ours.stages, theirs.stages, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_a_live_teacher_is_fed_in_its_own_normalisation(tiny_data):
    views = Views(ViewSpec(), HALF, HALF)
    live = LiveTeacher(network_of(tiny_data, views=views), ("logits",), shown())
    batch = batch_of(tiny_data, range(20), 1)
    with torch.no_grad():
        expected = live.network.model(views.batch(tiny_data, batch.indices, 1))
        unlike = live.network.model(batch.pixels)
    torch.testing.assert_close(live(batch, 1).logits, expected)
    assert not torch.allclose(expected, unlike, rtol=1e-2)


def test_outputs_of_a_live_teacher_may_take_part_in_a_graph(tiny_data):
    live = LiveTeacher(network_of(tiny_data), EVERYTHING, shown())
    outputs = live(batch_of(tiny_data, range(4), 0), 0)
    scale = torch.ones((), requires_grad=True)
    sum((scale * part).pow(2).sum() for part in (outputs.logits, outputs.vector, *outputs.stages)).backward()
    assert scale.grad > 0


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "short", "pickle", "double"])
def test_damaged_file_is_computed_again(tiny_data, tmp_path, damage, computed):
    teacher = cached(tiny_data, tmp_path)
    good = said(teacher, tiny_data, 0).logits
    path = teacher.folder / "0-logits.npy"
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "noise":
        path.write_bytes(b"no array at all" * 50)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "short":
        np.save(path, good.numpy()[:-1])
    elif damage == "double":
        np.save(path, good.numpy().astype(np.float64))
    else:
        np.save(path, np.asarray([{"a": 1}], dtype=object), allow_pickle=True)
    assert torch.equal(said(cached(tiny_data, tmp_path), tiny_data, 0).logits, good)
    assert len(computed) == 2
    assert path.read_bytes() == content


def test_an_interrupted_pass_leaves_nothing_behind(tiny_data, tmp_path, monkeypatch):
    teacher = cached(tiny_data, tmp_path, EVERYTHING)
    calls = []

    def break_off(what, done, total):
        calls.append(done)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "BATCH", 32)
    teacher._progress = break_off
    with pytest.raises(KeyboardInterrupt):
        teacher.begin(0)
    assert not list(teacher.folder.glob("*.npy"))
    assert not list(teacher.folder.glob(".partial*"))
    teacher._progress = None
    assert said(teacher, tiny_data, 0).logits.shape == (70, 5)


def test_what_another_method_left_is_used_and_the_rest_is_added(tiny_data, tmp_path, computed):
    logits = said(cached(tiny_data, tmp_path), tiny_data, 0).logits
    maps = said(cached(tiny_data, tmp_path, EVERYTHING), tiny_data, 0)
    assert [missing for _, missing in computed] == [("logits",), ("pooled", "stage1", "stage2", "stage3", "stage4")]
    assert torch.equal(maps.logits, logits)
    last = said(cached(tiny_data, tmp_path, ("logits", "last")), tiny_data, 0)
    assert len(computed) == 2
    assert torch.equal(last.last, maps.last)


def test_pool_uses_its_files_again(tiny_data, tmp_path, computed):
    teacher = cached(tiny_data, tmp_path, spec=ViewSpec(pool=2))
    passes = [said(teacher, tiny_data, epoch).logits for epoch in range(5)]
    assert [number for number, _ in computed] == [0, 1]
    assert torch.equal(passes[0], passes[2])
    assert torch.equal(passes[0], passes[4])
    assert not torch.equal(passes[0], passes[1])
    # the views of a pool are the first ones of the endless schedule
    assert torch.equal(said(cached(tiny_data, tmp_path), tiny_data, 1).logits, passes[1])
    assert len(computed) == 2


def test_whatever_changes_the_outputs_has_a_folder_of_its_own(tiny_data, tmp_path):
    other_data = open_dataset(
        DatasetSpec(name="synthetic", image_size=32, split_seed=1, options={"count": 100}), tmp_path, tmp_path / "cache"
    )
    keys = [
        cache_key(network_of(tiny_data)),
        cache_key(network_of(tiny_data, identity="another")),
        cache_key(network_of(tiny_data, spec=ViewSpec(seed=1))),
        cache_key(network_of(tiny_data, spec=ViewSpec(rotation_degrees=3))),
        cache_key(network_of(tiny_data, spec=ViewSpec(mixup=0.2))),
        cache_key(network_of(tiny_data, precision="bf16")),
        cache_key(network_of(tiny_data, views=Views(ViewSpec(), HALF, HALF))),
        cache_key(network_of(other_data)),
    ]
    assert len(set(keys)) == len(keys)
    assert cache_key(network_of(tiny_data)) == keys[0]
    assert cache_key(network_of(tiny_data, spec=ViewSpec(pool=3))) == keys[0]


# ---------------------------------------------------------------- room


def test_size_is_told_before_it_is_taken_and_is_what_is_taken(tiny_data, tmp_path):
    teacher = cached(tiny_data, tmp_path, EVERYTHING, passes=2)
    assert teacher.notes == []
    teacher.begin(0)
    teacher.begin(1)
    assert len(teacher.notes) == 1
    assert "resnet8_w16" in teacher.notes[0]
    assert "2 views of 70 images" in teacher.notes[0]
    assert f"{teacher.bytes / 1e6:,.1f} MB" in teacher.notes[0]
    row = 5 + 64 + 16 * 16 * 16 + 16 * 8 * 8 + 32 * 4 * 4 + 64 * 2 * 2
    assert teacher.bytes == 4 * 2 * 70 * row
    taken = sum(path.stat().st_size for path in teacher.folder.glob("*.npy"))
    assert teacher.bytes <= taken <= teacher.bytes + 2 * 6 * 128  # the headers
    about = json.loads((teacher.folder / "about.json").read_text())
    assert about["weights"] == "teacher"
    assert str(tmp_path) not in json.dumps(about)


def test_a_full_disk_is_said_before_anything_is_written(tiny_data, tmp_path, monkeypatch):
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=100))
    teacher = cached(tiny_data, tmp_path)
    with pytest.raises(TrainError, match=r"only 0\.0 MB are free .*kdbench cache evict"):
        teacher.begin(0)
    assert not list(teacher.folder.glob("*.npy"))


@pytest.mark.parametrize(
    ("outputs", "needs", "limit", "mode"),
    [
        ("auto", ("logits", "pooled"), 0, "cached"),
        ("auto", EVERYTHING, 10**9, "cached"),
        ("auto", EVERYTHING, 10**6, "live"),
        ("auto", ("logits", "last"), 10**6, "cached"),
        ("live", ("logits",), 10**9, "live"),
        ("cached", EVERYTHING, 0, "cached"),
    ],
)
def test_mode_follows_from_the_spec(tiny_data, outputs, needs, limit, mode):
    teaching = TeachingSpec(outputs=outputs, maps_limit_bytes=limit)
    assert mode_for(teaching, network_of(tiny_data), needs, epochs=3) == mode


def test_a_pool_bounds_the_room(tiny_data):
    assert passes_of(ViewSpec(), 300) == 300
    assert passes_of(ViewSpec(pool=4), 300) == 4
    assert passes_of(ViewSpec(pool=4), 2) == 2
    network = network_of(tiny_data)
    assert needed_bytes(network, ("logits",), 4) == 4 * 4 * 70 * 5


def test_entries_are_listed_by_last_use_and_evicted(tiny_data, tmp_path):
    first, second = cached(tiny_data, tmp_path), cached(tiny_data, tmp_path, identity="other")
    for age, teacher in ((200, first), (100, second)):
        teacher.begin(0)
        for path in teacher.folder.glob("*.npy"):
            stamp = path.stat().st_mtime - age
            os.utime(path, (stamp, stamp))
    found = entries(tmp_path)
    assert [entry.path for entry in found] == [first.folder, second.folder]
    assert found[0].about["teacher"] == "resnet8_w16"
    assert found[0].bytes == sum(path.stat().st_size for path in first.folder.glob("*.npy"))
    evict(found[0])
    assert [entry.path for entry in entries(tmp_path)] == [second.folder]
    assert said(first, tiny_data, 0).logits.shape == (70, 5)  # nothing is lost
    assert entries(tmp_path / "nowhere") == []


# ---------------------------------------------------------------- any two kinds of network


@pytest.mark.parametrize("name", ["vit_micro", "mobilenetv3_small_050", "resnet20_w16"])
def test_maps_of_every_kind_come_back_as_grids(tiny_data, tmp_path, name):
    torch.manual_seed(0)
    model = build(ModelChoice(name=name), 5, 32)
    teacher = cached(tiny_data, tmp_path, EVERYTHING, model=model)
    outputs = said(teacher, tiny_data, 0)
    assert [tuple(stage.shape[1:]) for stage in outputs.stages] == list(teacher.anatomy.stages)
    assert outputs.vector.shape == (70, teacher.anatomy.pooled)
