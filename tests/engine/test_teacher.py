"""A teacher's logits: untouched teacher, replayed to the bit, recomputed where the file is no good."""

import numpy as np
import pytest
import torch
from trials import PLAIN, curve, go, make_model, make_noisy_model, make_spec, same_weights, weights

from kdbench.data.dataset import open_dataset
from kdbench.data.views import Views
from kdbench.engine.teacher import TeacherLogits
from kdbench.errors import TrainError
from kdbench.model import IMAGENET_MEAN, IMAGENET_STD
from kdbench.types import DatasetSpec, ViewSpec


class Loader:
    """Counts how often a teacher is built."""

    def __init__(self, model):
        self.model, self.calls = model, 0

    def __call__(self):
        self.calls += 1
        return self.model


def teacher_of(data, folder, model=None, spec=None, identity="teacher", precision="fp32"):
    load = Loader(model if model is not None else make_noisy_model())
    views = Views(spec or ViewSpec(), IMAGENET_MEAN, IMAGENET_STD)
    return TeacherLogits(load, identity, data, views, folder, precision), load


def test_logits_are_those_of_the_eval_mode_on_the_same_views(tiny_data, tmp_path):
    model = make_noisy_model()  # dropout and batch statistics would both show
    teacher, _ = teacher_of(tiny_data, tmp_path, model)
    train = tiny_data.splits["train"]
    pixels = Views(ViewSpec(), IMAGENET_MEAN, IMAGENET_STD)(tiny_data.images(train), train, 2)
    with torch.no_grad():
        expected = model.eval()(pixels).numpy()
    model.train()
    logits = teacher(2)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(teacher(1), expected, rtol=1e-2)  # another epoch, other views


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_teacher_changes(tiny_data, tmp_path, training):
    model = make_model().train(training)
    before = weights(model)
    modes = []
    model.register_forward_hook(lambda module, inputs, output: modes.append((module.training, output.requires_grad)))
    teacher, _ = teacher_of(tiny_data, tmp_path, model)
    go(tiny_data, make_spec(tiny_data, "kd", epochs=2), make_noisy_model(), teachers=[teacher])
    assert modes
    assert set(modes) == {(False, False)}
    # running_mean, running_var and num_batches_tracked are part of the state
    assert any("num_batches_tracked" in key for key in before)
    assert same_weights(model, before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training is training


def test_replayed_is_computed(tiny_data, tmp_path):
    first, _ = teacher_of(tiny_data, tmp_path)
    computed = [first(epoch) for epoch in range(3)]
    second, load = teacher_of(tiny_data, tmp_path)
    for epoch in (2, 0, 1):
        assert second(epoch).tobytes() == computed[epoch].tobytes()
    assert load.calls == 0
    assert second.seconds == 0.0
    assert first.seconds > 0


def test_student_is_the_same_with_a_cold_and_a_warm_cache(tiny_data, tmp_path):
    spec = make_spec(tiny_data, "kd")
    outcomes = []
    for _ in range(2):
        teacher, load = teacher_of(tiny_data, tmp_path)
        outcomes.append((go(tiny_data, spec, make_noisy_model(1), teachers=[teacher]), load.calls))
    (cold, loads_cold), (warm, loads_warm) = outcomes
    assert (loads_cold, loads_warm) == (1, 0)
    assert same_weights(cold.model, warm.model)
    assert curve(cold) == curve(warm)


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "short", "pickle"])
def test_damaged_file_is_computed_again(tiny_data, tmp_path, damage):
    teacher, _ = teacher_of(tiny_data, tmp_path)
    good = teacher(0)
    path = teacher.folder / "0.npy"
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "noise":
        path.write_bytes(b"no array at all" * 50)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "short":
        np.save(path, good[:-1])
    else:
        np.save(path, np.asarray([{"a": 1}], dtype=object), allow_pickle=True)
    again, load = teacher_of(tiny_data, tmp_path)
    assert again(0).tobytes() == good.tobytes()
    assert load.calls == 1
    assert path.read_bytes() == content


def test_model_is_loaded_once_and_only_for_a_missing_pass(tiny_data, tmp_path):
    teacher, load = teacher_of(tiny_data, tmp_path)
    assert load.calls == 0
    teacher(0), teacher(1), teacher(0)
    assert load.calls == 1
    (teacher.folder / "1.npy").unlink()
    again, load = teacher_of(tiny_data, tmp_path)
    again(0)
    assert load.calls == 0
    again(1)
    assert load.calls == 1


def test_pool_uses_its_files_again(tiny_data, tmp_path):
    teacher, _ = teacher_of(tiny_data, tmp_path, spec=ViewSpec(pool=2))
    passes = [teacher(epoch) for epoch in range(5)]
    assert sorted(path.name for path in teacher.folder.iterdir()) == ["0.npy", "1.npy"]
    assert passes[0].tobytes() == passes[2].tobytes() == passes[4].tobytes()
    assert passes[0].tobytes() != passes[1].tobytes()
    # the views of a pool are the first ones of the endless schedule
    endless, load = teacher_of(tiny_data, tmp_path)
    assert endless(1).tobytes() == passes[1].tobytes()
    assert load.calls == 0


def test_whatever_changes_the_logits_has_a_folder_of_its_own(tiny_data, tmp_path):
    other_data = open_dataset(
        DatasetSpec(name="synthetic", image_size=32, split_seed=1, options={"count": 100}), tmp_path, tmp_path / "cache"
    )
    made = [
        teacher_of(tiny_data, tmp_path),
        teacher_of(tiny_data, tmp_path, identity="another"),
        teacher_of(tiny_data, tmp_path, spec=ViewSpec(seed=1)),
        teacher_of(tiny_data, tmp_path, spec=ViewSpec(rotation_degrees=3)),
        teacher_of(tiny_data, tmp_path, precision="bf16"),
        teacher_of(other_data, tmp_path),
    ]
    assert len({teacher.folder for teacher, _ in made}) == len(made)
    same, _ = teacher_of(tiny_data, tmp_path)
    assert same.folder == made[0][0].folder


def test_views_without_a_schedule_are_refused(tiny_data, tmp_path):
    with pytest.raises(TrainError, match="views"):
        TeacherLogits(make_model, "teacher", tiny_data, PLAIN, tmp_path)
