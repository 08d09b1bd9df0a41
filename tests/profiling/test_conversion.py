"""What the converting runtimes share: silence, whole files, and proof of parity."""

import logging
import sys
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from kdbench.errors import ProfileError
from kdbench.profiling.conversion import (
    REFERENCE,
    check_parity,
    complaint,
    installed,
    quiet,
    reference_images,
    whole_files,
    write_reference,
)

SIZE = 8


class Mean(nn.Module):
    def forward(self, image):
        return image.mean((2, 3))


class Pair(Mean):
    def forward(self, image):
        return super().forward(image), image


@pytest.fixture
def folder(tmp_path):
    write_reference(Mean(), SIZE, tmp_path)
    return tmp_path


def change(folder, **tensors):
    kept = {name: value.clone() for name, value in load_file(folder / REFERENCE).items()}
    save_file(kept | tensors, folder / REFERENCE)


def test_quiet(capfd, recwarn, caplog):
    before = logging.root.manager.disable
    with quiet():
        sys.stdout.write("printed")
        sys.stderr.write("printed")
        warnings.warn("warned", stacklevel=1)
        logging.getLogger("torch.onnx").critical("logged")
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert not caplog.records
    assert logging.root.manager.disable == before


def test_quiet_ends_with_an_error():
    with pytest.raises(KeyError), quiet():
        raise KeyError
    assert not logging.root.manager.disable


def test_whole_files(tmp_path):
    folder = tmp_path / "new"
    with whole_files(folder, "a", "b") as made:
        for name in ("a", "b", "not asked for"):
            (made / name).write_text(name)
        assert not (folder / "a").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_of_unfinished_work(tmp_path, problem):
    def work():
        with whole_files(tmp_path, "a", "b") as made:
            (made / "a").write_text("half")
            raise problem

    with pytest.raises(problem):
        work()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_parity_at_any_batch_size(folder, batch):
    def forward(images):
        assert images.shape == (batch, 3, SIZE, SIZE)
        return Mean()(images).numpy()

    check_parity(folder, batch, forward, 1e-6, "it")


def test_the_images_are_always_the_same_and_all_different():
    images = reference_images(SIZE)
    assert torch.equal(images, reference_images(SIZE))
    assert not torch.equal(images[0], images[1])


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e3])
def test_the_tolerance_is_of_the_largest_logit(folder, scale):
    logits = load_file(folder / REFERENCE)["logits"] * scale
    change(folder, logits=logits)
    largest = logits.abs().max()
    check_parity(folder, 2, lambda images: logits + 0.9e-3 * largest, 1e-3, "it")
    with pytest.raises(ProfileError, match="it gives other logits than torch: they differ by"):
        check_parity(folder, 2, lambda images: logits + 1.1e-3 * largest, 1e-3, "it")


def test_logits_of_zero(folder):
    change(folder, logits=torch.zeros(2, 3))
    check_parity(folder, 2, lambda images: torch.zeros(2, 3), 1e-3, "it")


def test_the_order_of_images_matters(folder):
    with pytest.raises(ProfileError, match="other logits"):
        check_parity(folder, 2, lambda images: Mean()(images).flip(0), 1e-3, "it")


def test_no_number_is_no_parity(folder):
    with pytest.raises(ProfileError, match="differ by nan"):
        check_parity(folder, 2, lambda images: Mean()(images) * float("nan"), 1e-3, "it")


def test_logits_of_another_shape(folder):
    with pytest.raises(ProfileError, match=r"it gives logits \(1, 4\), torch gives \(1, 3\)"):
        check_parity(folder, 1, lambda images: torch.zeros(1, 4), 1e-3, "it")


@pytest.mark.parametrize("content", [None, b"", b"no such format"])
def test_a_damaged_reference(folder, content):
    (folder / REFERENCE).unlink()
    if content is not None:
        (folder / REFERENCE).write_bytes(content)
    with pytest.raises(ProfileError, match=r"cannot be read .*; convert the network again"):
        check_parity(folder, 1, Mean(), 1e-3, "it")


@pytest.mark.parametrize(
    ("network", "what"), [(Pair(), "a tuple"), (nn.Identity(), r"a tensor \(2, 3, 8, 8\)")], ids=["pair", "image"]
)
def test_logits_are_wanted(tmp_path, network, what):
    with pytest.raises(ProfileError, match=f"gives {what} for 2 images, not logits"):
        write_reference(network, SIZE, tmp_path)


def test_installed():
    assert installed("export", "torch", "numpy")
    found = installed("export", "torch", "no_such_package", "nor_this_one")
    assert found.reason == "no_such_package and nor_this_one are not installed; pip install 'kdbench[export]'"
    assert "no_such_package is not installed" in installed("export", "no_such_package").reason


def test_a_complaint_is_the_first_telling_line_of_the_cause():
    error = RuntimeError("a page of advice")
    error.__cause__ = ValueError("\nException from somewhere:\n  what is wrong\nand more\n")
    assert complaint(error) == "Exception from somewhere:"
    assert complaint(error, ("Exception from",)) == "what is wrong"
    assert complaint(KeyError()) == "KeyError"
