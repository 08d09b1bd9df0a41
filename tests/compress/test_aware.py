"""Networks that round in training as their int8 files will."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kdbench.compress import aware
from kdbench.compress.aware import fake_quantised, fold, plain
from kdbench.compress.quantise import open_onnx, quantise
from kdbench.engine.taps import Watched
from kdbench.errors import CompressError
from kdbench.model import build
from kdbench.types import ModelChoice, QuantiseSpec

SIZE = 32


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small wait for each other's threads more than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def noise(count, seed=0, size=SIZE):
    return np.random.default_rng(seed).standard_normal((count, 3, size, size)).astype(np.float32)


def ready(network):
    """In evaluation mode, with batch statistics of its own."""
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, 0, 0.1)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.normal_(part.bias, 0, 0.2)
    return network.eval()


def student(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ready(build(ModelChoice(name=name), 5, SIZE))


def norms(network):
    return sum(isinstance(part, nn.BatchNorm2d) for part in network.modules())


@torch.no_grad()
def say(network, images):
    return network(torch.from_numpy(images)).numpy()


@pytest.fixture(scope="module")
def resnet():
    return student("resnet8_w16")


@pytest.fixture(scope="module")
def rounded(resnet):
    return fake_quantised(resnet, SIZE, noise(24))


# ---------------------------------------------------------------- folding


@pytest.mark.parametrize("name", ["resnet8_w16", "mobilenetv3_small_050", "ghostnet_050"])
def test_folding_is_exact(name):
    network = student(name)
    folded = fold(network, SIZE)
    assert norms(folded) == 0
    images = noise(4)
    expected = say(network, images)
    assert np.abs(say(folded, images) - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


def test_folding_leaves_the_network_alone(resnet):
    before = copy.deepcopy(resnet.state_dict())
    fold(resnet, SIZE)
    assert norms(resnet) == 11
    assert all(torch.equal(value, before[name]) for name, value in resnet.state_dict().items())


def test_weights_of_a_folded_network_fit_another_of_its_kind(resnet):
    other = fold(build(ModelChoice(name="resnet8_w16"), 5, SIZE), SIZE)
    other.load_state_dict(fold(resnet, SIZE).state_dict())
    assert np.array_equal(say(other, noise(2)), say(fold(resnet, SIZE), noise(2)))


class Odd(nn.Module):
    """Convolutions whose BatchNorm cannot be folded: used elsewhere, changed between, called twice."""

    def __init__(self):
        super().__init__()
        self.first, self.shared, self.twice = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(4))

    def forward(self, image):
        changed = self.first(self.norms[0](image))
        changed += image
        changed = self.norms[1](changed)
        shared = self.shared(changed)
        changed = self.norms[2](shared) + shared.relu()
        return self.norms[3](self.twice(self.twice(changed))).mean((2, 3))


def test_what_cannot_be_folded_stays_right():
    network = ready(Odd())
    folded = fold(network, 8)
    images = noise(4, size=8)
    assert np.allclose(say(folded, images), say(network, images), atol=1e-5)
    assert norms(folded) >= 3


# ---------------------------------------------------------------- rounding


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """By name: a network that rounds, and the file of it."""
    pytest.importorskip("onnxruntime", reason="needs the extra kdbench[export]")
    folder, made = tmp_path_factory.mktemp("files"), {}

    def get(name):
        if name not in made:
            rounding = fake_quantised(student(name), SIZE, noise(24))
            file = quantise(plain(rounding), QuantiseSpec(kind="aware"), SIZE, noise(24), folder / f"{name}.onnx")
            made[name] = (rounding, file.path)
        return made[name]

    return get


@pytest.mark.parametrize("name", ["resnet8_w16", "mobilenetv3_small_050", "vit_micro"])
def test_every_step_of_the_file_is_one_of_the_network(name, pairs):
    """The same scales, zero points and int8 weights. Answers are no measure of that: a value at the edge of two steps
    falls to one side here and to the other there, and in a deep network that spreads.
    """
    onnx = pytest.importorskip("onnx")
    rounding, path = pairs(name)
    graph = onnx.load(path).graph
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    ranges = [part for part in rounding.modules() if isinstance(part, aware._Range)]
    steps = {
        (float(part.high - part.low) / 255, float(-part.low) / (float(part.high - part.low) / 255)) for part in ranges
    }
    activations = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(activations) > 10
    for node in activations:
        scale, zero = float(held[node.input[1]]), int(held[node.input[2]])
        assert any(scale == pytest.approx(own, rel=1e-4) and abs(zero - place) <= 0.51 for own, place in steps), (
            node.input[0]
        )
    weights = [
        aware._rounded_weights(part.inner.weight, True).detach().numpy()
        for part in rounding.modules()
        if isinstance(part, aware._Rounded)
    ]
    found = 0
    for node in graph.node:
        values = held.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if values is None or values.dtype != np.int8:
            continue
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        shape = [-1 if place == axis else 1 for place in range(values.ndim)]
        exact = values * held[node.input[1]].reshape(shape)
        alike = [one if axis == 0 else one.T for one in weights]
        assert any(one.shape == exact.shape and np.allclose(one, exact, atol=1e-6) for one in alike), node.input[0]
        found += 1
    assert found == len(weights)


def test_it_answers_as_the_file_does(pairs):
    rounding, path = pairs("resnet8_w16")
    images = noise(64, seed=1)
    int8, fake, exact = open_onnx(path)(images), say(rounding, images), say(student("resnet8_w16"), images)
    off = {what: float(np.sqrt(((said - int8) ** 2).mean())) for what, said in (("fake", fake), ("exact", exact))}
    assert off["fake"] < 0.75 * off["exact"], off


def test_one_range_by_hand():
    """ONNX's own definition of QuantizeLinear, in float64."""
    one = aware._Range().eval()
    one.low, one.high = torch.tensor(-1.0), torch.tensor(3.0)
    values = torch.tensor([-2.0, -1.0, -0.4, 0.0, 0.5, 1.234, 3.0, 9.0])
    scale = 4 / 255
    zero = round(1 / scale)
    expected = (np.clip(np.round(values.numpy() / scale) + zero, 0, 255) - zero) * scale
    assert np.allclose(one(values).numpy(), expected, atol=1e-6)


def test_gradients_pass_straight_through():
    one = aware._Range().eval()
    one.low, one.high = torch.tensor(-1.0), torch.tensor(3.0)
    values = torch.tensor([-2.0, 0.5, 2.9, 9.0], requires_grad=True)
    one(values).sum().backward()
    assert values.grad.tolist() == [0, 1, 1, 0]
    weight = torch.randn(4, 3, requires_grad=True)
    aware._rounded_weights(weight, True).sum().backward()
    assert torch.equal(weight.grad, torch.ones(4, 3))


def test_weights_have_255_values_in_each_channel():
    weight = torch.randn(2, 5000, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [100.0]])
    found = aware._rounded_weights(weight, True)
    steps = found / (weight.abs().amax(1, keepdim=True) / 127)
    assert (steps - steps.round()).abs().max() < 1e-3
    assert (found - weight).abs().amax(1).tolist() <= (weight.abs().amax(1) / 127 * 0.501).tolist()
    assert len(found[0].unique()) > 150
    assert len(aware._rounded_weights(weight, False)[0].unique()) < 20  # the steps of the larger channel
    assert torch.equal(aware._rounded_weights(torch.zeros(2, 3), True), torch.zeros(2, 3))


def test_plain_gives_back_the_folded_network(resnet, rounded):
    folded = fold(resnet, SIZE)
    back = plain(rounded)
    assert back.state_dict().keys() == folded.state_dict().keys()
    assert np.array_equal(say(back, noise(3)), say(folded, noise(3)))
    assert not np.array_equal(say(rounded, noise(3)), say(folded, noise(3)))


def test_depthwise_convolutions_are_not_rounded():
    network = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Conv2d(6, 6, 1), nn.Flatten(), nn.Linear(216, 5))
    made = fake_quantised(network, 8, noise(4, size=8))
    assert [isinstance(part, aware._Rounded) for part in made] == [False, True, False, True]


# ---------------------------------------------------------------- training


def steps_of(network, count=3, rate=0.05):
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), rate)
    images, labels = torch.from_numpy(noise(16, seed=2)), torch.arange(16) % 5
    losses = []
    for _ in range(count):
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_it_trains(rounded):
    network = copy.deepcopy(rounded)
    losses = steps_of(network, 8)
    assert losses[-1] < 0.9 * losses[0]
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_ranges_move_in_training_and_only_there(rounded):
    network = copy.deepcopy(rounded)
    before = {name: value.clone() for name, value in network.named_buffers()}
    network.eval()
    say(network, 10 * noise(4))
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    network.train()
    say(network, 10 * noise(4))
    after = dict(network.named_buffers())
    assert any(after[name] > before[name] for name in after if name.endswith("high"))
    expected = 0.99 * before["conv1.0.input.high"] + 0.01 * 10 * noise(4).max()
    assert torch.isclose(after["conv1.0.input.high"], expected, rtol=1e-5)


def test_state_is_all_there_is(resnet, rounded):
    trained = copy.deepcopy(rounded)
    steps_of(trained)
    other = fake_quantised(resnet, SIZE, noise(4, seed=9))
    assert not np.array_equal(say(other.eval(), noise(2)), say(trained.eval(), noise(2)))
    other.load_state_dict(trained.state_dict())
    assert np.array_equal(say(other, noise(2)), say(trained, noise(2)))


def test_averaged_and_watched(rounded):
    network = copy.deepcopy(rounded)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    steps_of(network, 1)
    averaged.update_parameters(network)
    assert np.isfinite(say(averaged.module.eval(), noise(2))).all()
    network.eval()
    images = torch.from_numpy(noise(2))
    with torch.no_grad():
        assert torch.equal(Watched(network, SIZE)(images).logits, network(images))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (noise(0), r"have shape \(0, 3, 32, 32\)"),
        (noise(2, size=16), r"\(2, 3, 16, 16\)"),
        (noise(2) * np.inf, "finite"),
    ],
)
def test_wrong_images(resnet, images, message):
    with pytest.raises(CompressError, match=message):
        fake_quantised(resnet, SIZE, images)


def test_nothing_to_round():
    with pytest.raises(CompressError, match="no convolution or linear layer"):
        fake_quantised(nn.Flatten(), 8, noise(2, size=8))
