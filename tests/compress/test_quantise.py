"""Int8 files: what is in them, that their arithmetic is that of integers, and what may go wrong."""

import numpy as np
import pytest
import torch
from torch import nn

from kdbench.compress import quantise as module
from kdbench.compress.quantise import open_onnx, quantise
from kdbench.errors import CompressError, RuntimeUnavailable
from kdbench.model import build
from kdbench.profiling.runtime import Availability
from kdbench.types import ModelChoice, QuantiseSpec

onnx = pytest.importorskip("onnx", reason="needs the extra kdbench[export]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra kdbench[export]")
pytest.importorskip("onnxscript", reason="needs the extra kdbench[export]")

SIZE = 32
STATIC = QuantiseSpec()


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small wait for each other's threads more than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def noise(count, size=SIZE, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 3, size, size)).astype(np.float32)


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


@pytest.fixture(scope="module")
def networks():
    return {
        name: seeded(lambda name=name: build(ModelChoice(name=name), 5, SIZE)) for name in ("resnet8_w16", "vit_micro")
    }


@pytest.fixture(scope="module")
def files(networks, tmp_path_factory):
    """Of each network, a static file of 24 images of noise."""
    folder = tmp_path_factory.mktemp("int8")
    return {
        name: quantise(network, STATIC, SIZE, noise(24), folder / f"{name}.onnx", {"labels": "a b c"})
        for name, network in networks.items()
    }


class OneConvolution(nn.Module):
    """Its logits are all values of one convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image):
        return self.conv(image).flatten(1)


def by_hand(conv, images, calibration):
    """Integer arithmetic in int64: uint8 inputs, int8 weights of each channel, and the outputs in uint8 steps.

    Returns: the outputs, and the size of a step.
    """

    def scale_and_zero(values):
        low, high = min(values.min(), 0), max(values.max(), 0)
        return (high - low) / 255, round(-low / ((high - low) / 255))

    weight, bias = (value.detach().numpy().astype(np.float64) for value in (conv.weight, conv.bias))
    with torch.no_grad():
        seen = conv(torch.from_numpy(calibration)).numpy()
    (in_scale, in_zero), (out_scale, out_zero) = scale_and_zero(calibration), scale_and_zero(seen)
    weight_scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
    integers = np.round(weight / weight_scale[:, None, None, None]).astype(np.int64)
    pixels = np.clip(np.round(images / in_scale) + in_zero, 0, 255).astype(np.int64) - in_zero
    size = images.shape[-1] - 2
    sums = np.zeros((len(images), 4, size, size), np.int64)
    for row in range(3):
        for column in range(3):
            part = pixels[:, :, row : row + size, column : column + size]
            sums += np.einsum("nchw,oc->nohw", part, integers[:, :, row, column])
    sums += np.round(bias / (in_scale * weight_scale)).astype(np.int64)[:, None, None]
    steps = np.round(sums * (in_scale * weight_scale)[:, None, None] / out_scale) + out_zero
    return (np.clip(steps, 0, 255) - out_zero) * out_scale, out_scale


def test_one_convolution_by_hand(tmp_path):
    network, calibration, images = seeded(OneConvolution), noise(8, 8), noise(16, 8, seed=1)
    found = quantise(network, STATIC, 8, calibration, tmp_path / "one.onnx")
    expected, step = by_hand(network.conv, images, calibration)
    given = open_onnx(found.path)(images).reshape(expected.shape)
    assert np.abs(given - expected).max() <= 1.01 * step
    assert (np.abs(given - expected) < 0.01 * step).mean() > 0.99  # a step off only where a sum lies between two
    with torch.no_grad():
        exact = network(torch.from_numpy(images)).numpy().reshape(expected.shape)
    assert np.abs(given - exact).max() > 0.4 * step  # it does round


def test_what_the_file_is(files):
    for name, classes in (
        ("resnet8_w16", {"Conv": 11, "Gemm": 1}),
        ("vit_micro", {"Conv": 1, "Gemm": 1, "MatMul": 24}),
    ):
        found = files[name]
        model = onnx.load(found.path)
        onnx.checker.check_model(model)
        assert found.quantised == classes
        assert found.bytes == found.path.stat().st_size
        assert {"onnxruntime", "torch"} <= found.versions.keys()
        assert {entry.key: entry.value for entry in model.metadata_props} == {"labels": "a b c", "quantised": "int8"}
        assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["image", "logits"]
        assert not any(node.metadata_props for node in model.graph.node)  # names of folders stood there
    assert files["vit_micro"].left == {"MatMul": 12}  # products of two activations, two for each of six blocks
    assert files["resnet8_w16"].left == {}


def test_weights_are_int8(files, networks):
    model = onnx.load(files["resnet8_w16"].path)
    integers = sum(
        int(np.prod(tensor.dims)) for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8
    )
    weights = sum(
        each.weight.numel() for each in networks["resnet8_w16"].modules() if isinstance(each, nn.Conv2d | nn.Linear)
    )
    assert weights <= integers <= 1.02 * weights  # zero points, one for each channel
    assert files["resnet8_w16"].bytes < 2 * weights


@pytest.mark.parametrize("name", ["resnet8_w16", "vit_micro"])
def test_close_to_the_network_for_any_batch(files, networks, name):
    forward = open_onnx(files[name].path)
    for count in (1, 5):
        images = noise(count, seed=3)
        with torch.no_grad():
            expected = networks[name](torch.from_numpy(images)).numpy()
        found = forward(images)
        assert found.shape == expected.shape
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() < 0.2 * np.abs(expected).max()


def test_the_same_bytes_again(files, networks, tmp_path):
    again = quantise(networks["resnet8_w16"], STATIC, SIZE, noise(24), tmp_path / "x.onnx", {"labels": "a b c"})
    assert again.path.read_bytes() == files["resnet8_w16"].path.read_bytes()


def test_other_images_give_other_ranges(files, networks, tmp_path):
    other = quantise(networks["resnet8_w16"], STATIC, SIZE, 2 * noise(24), tmp_path / "x.onnx", {"labels": "a b c"})
    assert other.path.read_bytes() != files["resnet8_w16"].path.read_bytes()


def test_ranges_from_histograms(tmp_path):
    """One outlier in 230,000 sets the range of minmax, and a percentile cuts it off: its steps are finer."""
    network, calibration = seeded(OneConvolution), noise(1200, 8)
    calibration[3, 0, 0, 0] = 300
    steps = {}
    for each in ("minmax", "percentile"):
        found = quantise(network, QuantiseSpec(ranges=each), 8, calibration, tmp_path / f"{each}.onnx")
        graph = onnx.load(found.path).graph
        held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        node = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "image")
        steps[each] = float(held[node.input[1]])
    assert steps["minmax"] == pytest.approx((300 - calibration.min()) / 255, rel=1e-5)
    assert steps["percentile"] < steps["minmax"] / 2


def test_dynamic(networks, tmp_path):
    network = networks["vit_micro"]
    found = quantise(network, QuantiseSpec(kind="dynamic"), SIZE, noise(0), tmp_path / "new" / "vit.onnx")
    assert found.quantised == {"MatMul": 25}  # 24 in the blocks, and the head
    assert found.left == {"Conv": 1, "MatMul": 12}
    images = noise(4, seed=3)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    assert np.abs(open_onnx(found.path)(images) - expected).max() < 0.05 * np.abs(expected).max()
    assert [entry.name for entry in found.path.parent.iterdir()] == ["vit.onnx"]


def test_depthwise_convolutions_stay(tmp_path):
    network = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=2),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
        )
    )  # fmt: skip
    found = quantise(network, STATIC, 16, noise(4, 16), tmp_path / "x.onnx")
    assert (found.quantised, found.left) == ({"Conv": 2, "Gemm": 1}, {"Conv": 1})


def test_progress(tmp_path):
    told = []
    quantise(
        seeded(OneConvolution), STATIC, 8, noise(2, 8), tmp_path / "x.onnx", progress=lambda *news: told.append(news)
    )
    assert told == [("quantising x.onnx", done, 3) for done in (1, 2, 3)]


# ---------------------------------------------------------------- what may go wrong


class NoSuchOperator(nn.Module):
    def forward(self, image):
        return torch.linalg.svdvals(image.flatten(1)[:, :16].unflatten(1, (4, 4)))


class Mean(nn.Module):
    """Nothing to quantise."""

    def forward(self, image):
        return image.mean((2, 3))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (noise(0), "there are no images"),
        (noise(2, 16), r"have shape \(2, 3, 16, 16\); they have to be \(N, 3, 32, 32\)"),
        (noise(2)[0], r"have shape \(3, 32, 32\)"),
        (noise(2).astype(np.float64), "are float64"),
        (np.where(np.arange(3)[:, None, None, None] == 1, np.nan, noise(3)).astype(np.float32), "1 of 3 images"),
    ],
)
def test_wrong_images(networks, tmp_path, images, message):
    with pytest.raises(CompressError, match=message):
        quantise(networks["resnet8_w16"], STATIC, SIZE, images, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "spec", "message"),
    [
        (NoSuchOperator, STATIC, "linalg_svd"),
        (Mean, STATIC, r"would leave 100% of the weights in fp32 \(all\)"),
        (OneConvolution, QuantiseSpec(kind="dynamic"), r"int8 dynamic .* \(1 Conv\); take kind: static"),
    ],
    ids=["operator", "no weights", "dynamic"],
)
def test_networks_that_cannot_be_quantised(tmp_path, make, spec, message, capfd):
    with pytest.raises(CompressError, match=message) as problem:
        quantise(make().eval(), spec, 8, noise(2, 8), tmp_path / "x.onnx")
    assert "\n" not in str(problem.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_toolkit_that_fails(tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("no idea\nand a traceback")

    monkeypatch.setitem(module._TOOLS, ("onnxruntime", False), broken)
    with pytest.raises(CompressError, match=r"^onnxruntime cannot quantise the network: no idea; try"):
        quantise(seeded(OneConvolution), STATIC, 8, noise(2, 8), tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "x.onnx", tmp_path):
        with pytest.raises(CompressError, match="cannot be written"):
            quantise(seeded(OneConvolution), STATIC, 8, noise(2, 8), out)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nncf_is_an_extra(tmp_path, monkeypatch):
    missing = Availability(False, "pip install 'kdbench[nncf]'")
    monkeypatch.setattr(module, "installed", lambda extra, *_: missing if extra == "nncf" else Availability(True))
    with pytest.raises(RuntimeUnavailable, match=r"nncf is not available: .*kdbench\[nncf\]"):
        quantise(seeded(OneConvolution), QuantiseSpec(toolkit="nncf"), 8, noise(2, 8), tmp_path / "x.onnx")


@pytest.mark.parametrize("change", [{"kind": "dynamic"}, {"ranges": "percentile"}])
def test_what_nncf_does_not_have(tmp_path, monkeypatch, change):
    monkeypatch.setattr(module, "installed", lambda *_: True)
    with pytest.raises(CompressError, match=r"^nncf "):
        quantise(seeded(OneConvolution), QuantiseSpec(toolkit="nncf", **change), 8, noise(2, 8), tmp_path / "x.onnx")


def test_nncf(networks, tmp_path):
    pytest.importorskip("nncf", reason="needs the extra kdbench[nncf]")
    network = networks["resnet8_w16"]
    found = quantise(network, QuantiseSpec(toolkit="nncf"), SIZE, noise(16), tmp_path / "x.onnx")
    assert found.quantised["Conv"] >= 9
    assert "nncf" in found.versions
    images = noise(4, seed=3)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    assert np.abs(open_onnx(found.path)(images) - expected).max() < 0.2 * np.abs(expected).max()


def test_files_that_cannot_be_opened(tmp_path, files):
    damaged, cut, missing = (tmp_path / name for name in ("damaged.onnx", "cut.onnx", "missing.onnx"))
    damaged.write_bytes(b"no network at all")
    cut.write_bytes(files["resnet8_w16"].path.read_bytes()[:5000])
    for path in (damaged, cut, missing):
        with pytest.raises(CompressError, match=f"{path.name} cannot be loaded .*; quantise the run again") as problem:
            open_onnx(path)
        assert "\n" not in str(problem.value)


def test_a_file_of_another_kind(tmp_path):
    program = torch.onnx.export(
        nn.Identity().eval(), (torch.zeros(2, 3),), dynamo=True, input_names=["x"], output_names=["y"], verbose=False
    )
    program.save(tmp_path / "other.onnx")
    with pytest.raises(CompressError, match="takes x and gives y, not an image"):
        open_onnx(tmp_path / "other.onnx")


def test_without_onnxruntime(files, monkeypatch):
    missing = Availability(False, "pip install 'kdbench[export]'")
    monkeypatch.setattr("kdbench.compress.classifier.installed", lambda *_: missing)
    with pytest.raises(RuntimeUnavailable, match=r"kdbench\[export\]"):
        open_onnx(files["resnet8_w16"].path)
