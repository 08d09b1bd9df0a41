"""Looking into a network: grids of every family, the classifier's own input, and a network left as it was."""

import copy
import dataclasses
import gc
import itertools
import random
import weakref

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from trials import make_model, make_noisy_model, same_weights, weights

from kdbench.engine.taps import Watched
from kdbench.errors import ShapeMismatch, TrainError
from kdbench.features import STAGES, Outputs, in_float32, pairs, same_size, to_grid, to_tokens
from kdbench.model import MODELS, build
from kdbench.types import ModelChoice

EVERYTHING = ("logits", "pooled", "stages")
SIZES = (32, 48, 64)

# by family: maps as NCHW and NHWC, tokens with and without a class token, tuples, blocks of one size, odd classifiers
FAMILIES = (
    "cait_xxs24_224",
    "coat_tiny",
    "convnext_atto",
    "deit_tiny_distilled_patch16_224",
    "densenet121",
    "dla34",
    "eva02_tiny_patch14_224",
    "levit_128s",
    "mixer_s32_224",
    "mobilevit_xxs",
    "pit_ti_224",
    "regnetx_002",
    "resnet26",
    "starnet_s1",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "test_vit4",
    "tnt_s_legacy_patch16_224",
    "twins_svt_small",
    "vgg11",
    "visformer_tiny",
    "vit_small_patch14_reg4_dinov2",
    "volo_d1_224",
    "xcit_nano_12_p8_224",
)
CASES = [
    *itertools.product(MODELS.names(), SIZES),
    *((f"timm/{name}", 64) for name in FAMILIES),
]

READ_LAST = {
    "cait_xxs24_224",
    "densenet121",
    "mixer_s32_224",
    "mobilevit_xxs",
    "regnetx_002",
    "resnet26",
    "tnt_s_legacy_patch16_224",
    "twins_svt_small",
    "vit_small_patch14_reg4_dinov2",
    "xcit_nano_12_p8_224",
}
"""Whose classifier sees the mean of the last map or a token of it. Of the others something lies between: a layer
(MobileNets, VGG), a norm (ConvNeXt, Swin, StarNet, EVA), or a second classifier (distilled ones)."""

NO_SINGLE_HEAD = {"deit_micro_distilled", "deit_tiny_distilled_patch16_224", "dla34", "levit_128s", "volo_d1_224"}
"""The logits are the mean of two heads, or their layer is no Linear."""


def bare(name):
    return name.removeprefix("timm/")


def reads_last(name):
    registered = name in MODELS.names() and not name.startswith("deit_micro")
    return bare(name) in READ_LAST or (registered and name.startswith(("resnet", "vit_", "deit_")))


def network(name, size, classes=5):
    torch.manual_seed(0)
    return build(ModelChoice(name=name), classes, size)


def images(size, count=3):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(7))


def shapes(outputs):
    return tuple(tuple(stage.shape[1:]) for stage in outputs.stages)


def heard(model, module, pixels):
    """(input, output) of a module in a call of the network, by a hook of the test's own."""
    seen = []
    handle = module.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    with torch.no_grad():
        model(pixels)
    handle.remove()
    return seen[-1]


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


# ---------------------------------------------------------------- every family


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{bare(case[0])}-{case[1]}")
def family(request):
    """(name, image size, network): each built once for all that is asked of it."""
    name, size = request.param
    return name, size, network(name, size).eval()


def test_every_family_shows_grids_that_never_grow(family):
    _, size, model = family
    watched = Watched(model, size, EVERYTHING)
    anatomy = watched.anatomy
    with torch.no_grad():
        outputs = watched(images(size))
        assert torch.equal(outputs.logits, model(images(size)))
    assert shapes(outputs) == anatomy.stages
    assert 1 <= len(outputs.stages) <= STAGES
    assert all(len(stage) == 3 and stage.shape[2] == stage.shape[3] for stage in outputs.stages)
    sizes = [stage.shape[2] for stage in outputs.stages]
    assert sizes == sorted(sizes, reverse=True)
    assert len({stage.data_ptr() for stage in outputs.stages}) == len(outputs.stages)
    assert (anatomy.classes, outputs.vector.shape) == (5, (3, anatomy.pooled))


def test_pooled_is_what_the_classifier_sees(family):
    name, size, model = family
    watched = Watched(model, size, EVERYTHING)
    head, pixels = watched.anatomy.head, images(size)
    classifier = model.get_classifier()
    classifier = classifier[0] if isinstance(classifier, tuple) else classifier
    seen, _ = heard(model, classifier, pixels)
    with torch.no_grad():
        outputs = watched(pixels)
        assert torch.equal(outputs.vector, seen.flatten(1))
        assert (head is None) == (bare(name) in NO_SINGLE_HEAD)
        if head is not None:
            assert head is classifier
            torch.testing.assert_close(head(outputs.vector), outputs.logits, rtol=1e-4, atol=1e-5)


def test_reads_last_says_whether_the_classifier_applies_to_the_last_map(family):
    name, size, model = family
    anatomy = Watched(model, size).anatomy  # of weights as drawn, where the last norm of some does nothing yet
    assert anatomy.reads_last == reads_last(name)
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    watched = Watched(model, size, EVERYTHING)
    assert dataclasses.replace(watched.anatomy, head=anatomy.head) == anatomy
    if anatomy.reads_last and not anatomy.prefix_tokens:
        with torch.no_grad():
            outputs = watched(images(size))
            at_each = F.conv2d(outputs.last, watched.anatomy.head.weight[:, :, None, None], watched.anatomy.head.bias)
        torch.testing.assert_close(at_each.mean((2, 3)), outputs.logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size", "prefix", "last"),
    [
        ("vit_micro", 32, 1, "norm"),
        ("deit_micro_distilled", 48, 2, "norm"),
        ("timm/vit_small_patch14_reg4_dinov2", 64, 5, "norm"),
        ("timm/mixer_s32_224", 64, 0, "norm"),
        ("timm/xcit_nano_12_p8_224", 64, 1, "norm"),  # its inner blocks have no class token yet
        ("resnet8_w16", 32, 0, "layer3"),  # its layer4 is empty
        ("resnet18", 64, 0, "layer4"),
    ],
)
def test_where_the_last_map_comes_from(name, size, prefix, last):
    model = network(name, size).eval()
    watched = Watched(model, size, ("last",))
    assert (watched.anatomy.prefix_tokens, watched.anatomy.last_module) == (prefix, last)
    _, output = heard(model, model.get_submodule(last), images(size))
    with torch.no_grad():
        map_ = watched(images(size)).last
    assert torch.equal(to_tokens(map_), output[:, prefix:]) if output.ndim == 3 else torch.equal(map_, output)


def test_inner_blocks_without_a_class_token_and_the_end_with_one_share_a_grid():
    model = network("timm/xcit_nano_12_p8_224", 64)
    assert Watched(model, 64).anatomy.stages == ((128, 8, 8),) * 4
    _, inner = heard(model.eval(), model.blocks[2], images(64))
    assert inner.shape[1] == 64


@pytest.mark.parametrize(
    ("name", "blocks"), [("vit_micro", (1, 2, 4)), ("deit_tiny", (2, 5, 8)), ("timm/mixer_s32_224", (1, 3, 5))]
)
def test_the_maps_of_a_transformer_are_evenly_spaced(name, blocks):
    model = network(name, 64).eval()
    watched = Watched(model, 64, ("stages",))
    with torch.no_grad():
        outputs = watched(images(64))
    for stage, number in zip(outputs.stages[:-1], blocks, strict=True):
        _, tokens = heard(model, model.blocks[number], images(64))
        assert torch.equal(to_tokens(stage), tokens[:, watched.anatomy.prefix_tokens :])


def test_tokens_before_a_small_grid_are_not_taken_for_patches():
    """2 x 2 patches, a class and four register tokens are nine tokens, and no grid of 3 x 3."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=16, reg_tokens=4, num_classes=5)
    anatomy = Watched(model, 32).anatomy
    assert (anatomy.stages, anatomy.prefix_tokens) == (((192, 2, 2),) * 4, 5)


def test_channels_last_of_a_swin_come_back_as_channels_first():
    model = network("timm/swin_tiny_patch4_window7_224", 64).eval()
    _, output = heard(model, model.layers[3], images(64))
    assert output.shape == (3, 2, 2, 768)
    with torch.no_grad():
        assert torch.equal(Watched(model, 64, ("last",))(images(64)).last, output.permute(0, 3, 1, 2))


# ---------------------------------------------------------------- what is asked for


@pytest.mark.parametrize(
    ("needs", "stages", "pooled"),
    [
        (("logits",), 0, False),
        (("pooled",), 0, True),
        (("logits", "last"), 1, False),
        (("last", "pooled"), 1, True),
        (("stages",), 4, False),
        (("stages", "last"), 4, False),
        (EVERYTHING, 4, True),
    ],
    ids=str,
)
def test_only_what_was_asked_for_is_there(needs, stages, pooled):
    model = make_model().eval()
    everything = Watched(model, 32, EVERYTHING)(images(32))
    outputs = Watched(model, 32, needs)(images(32))
    assert (len(outputs.stages), outputs.pooled is not None) == (stages, pooled)
    assert torch.equal(outputs.logits, everything.logits)
    for ours, theirs in zip(outputs.stages[::-1], everything.stages[::-1], strict=False):
        assert torch.equal(ours, theirs)


def test_what_was_not_asked_for_is_missed_by_name():
    outputs = Outputs(torch.zeros(2, 5))
    with pytest.raises(ShapeMismatch, match="'pooled'"):
        _ = outputs.vector
    with pytest.raises(ShapeMismatch, match="'last'"):
        _ = outputs.last


def test_gradient_reaches_what_lies_before_each_stage():
    model = make_model()
    watched = Watched(model, 32, EVERYTHING)
    watched(images(32)).stages[1].square().sum().backward()
    assert model.layer1[0].bn2.weight.grad.abs().sum() > 0
    assert model.layer2[0].bn2.weight.grad is None
    model.zero_grad()
    watched(images(32)).vector.square().sum().backward()
    assert model.layer3[0].bn2.weight.grad.abs().sum() > 0
    assert model.fc.weight.grad is None


def test_named_taps_are_taken():
    model = make_model().eval()
    watched = Watched(model, 32, EVERYTHING, taps=("conv1", "layer2.0.conv1"))
    assert watched.anatomy.stages == ((16, 16, 16), (32, 4, 4))
    assert (watched.anatomy.last_module, watched.anatomy.reads_last) == ("layer2.0.conv1", False)
    outputs = watched(images(32))
    for stage, name in zip(outputs.stages, ("conv1", "layer2.0.conv1"), strict=True):
        assert torch.equal(stage, heard(model, model.get_submodule(name), images(32))[1])
    assert shapes(Watched(model, 32, ("last",), taps=("conv1", "layer2.0.conv1"))(images(32))) == ((32, 4, 4),)


def test_taps_that_cannot_be_are_refused():
    model = make_model()
    with pytest.raises(TrainError, match=r"no module 'layer9' to tap; there are conv1, conv1\.0, "):
        Watched(model, 32, taps=("layer1", "layer9"))
    with pytest.raises(TrainError, match=r"'fc' gives shape \(2, 5\): neither a map nor tokens"):
        Watched(model, 32, taps=("layer1", "fc"))
    assert hooks(model) == 0


def test_another_form_of_the_network_is_called_in_its_place():
    model, calls = make_model().eval(), []

    def call(pixels):
        calls.append(len(pixels))
        return model(pixels)

    watched = Watched(model, 32, ("logits",), call=call)
    assert calls == []
    assert torch.equal(watched(images(32)).logits, model(images(32)))
    assert calls == [3]


# ---------------------------------------------------------------- nothing is left behind


class Restless(nn.Sequential):
    """Draws random numbers whenever it is asked, in evaluation too."""

    def forward(self, pixels):
        return super().forward(F.dropout(pixels, 0.1, training=True))


@pytest.mark.parametrize("build_model", [make_model, make_noisy_model, lambda: Restless(*make_noisy_model())])
def test_construction_changes_nothing(build_model):
    model = build_model().train()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    before = weights(model)
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    Watched(model, 32, EVERYTHING)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == state[1:]
    assert [module.training for module in model.modules()] == modes
    assert any("num_batches_tracked" in key for key in before)
    assert same_weights(model, before)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert hooks(model) == 0


def test_hooks_are_there_during_a_call_alone():
    model = make_model()
    mine = model.layer1.register_forward_hook(lambda module, inputs, output: None)
    watched = Watched(model, 32, EVERYTHING)
    assert hooks(copy.deepcopy(model)) == 1
    during = []
    model.fc.register_forward_pre_hook(lambda module, inputs: during.append(hooks(model)))
    watched(images(32))
    assert during == [2 + 4 + 1]
    assert hooks(model) == hooks(copy.deepcopy(model)) == 2
    with pytest.raises(RuntimeError):
        watched(torch.zeros(1, 5, 32, 32))
    assert hooks(model) == 2
    watched.close()
    assert hooks(model) == 2
    mine.remove()
    assert hooks(model) == 1


def test_nothing_of_a_batch_is_held_after_it():
    watched = Watched(make_model(), 32, EVERYTHING)
    outputs = watched(images(32))
    held = [weakref.ref(part) for part in (outputs.logits, outputs.pooled, *outputs.stages)]
    del outputs
    gc.collect()
    assert all(ref() is None for ref in held)


def test_a_failed_look_leaves_the_mode_and_no_hooks():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 30 * 30, 5)).train()
    before = weights(model)
    with pytest.raises(TrainError, match=r"does not take images \(N, 3, 48, 48\): mat1 and mat2"):
        Watched(model, 48, EVERYTHING)
    assert model.training
    assert hooks(model) == 0
    assert same_weights(model, before)


@pytest.mark.parametrize("name", ["efficientformer_l1", "swin_tiny_patch4_window7_224"])
def test_a_timm_model_of_another_size_is_refused_as_any_other(name):
    """One fails at a tensor, the other at an assertion."""
    with pytest.raises(TrainError, match=r"does not take images \(N, 3, 64, 64\)"):
        Watched(timm.create_model(name, num_classes=5), 64)


# ---------------------------------------------------------------- memory format, tokens


@pytest.mark.parametrize("name", ["resnet8_w16", "mobilenetv3_small_050", "vit_micro"])
def test_channels_last_input_gives_the_same_stages(name):
    model = network(name, 32).eval()
    with torch.no_grad():
        plain = Watched(model, 32, EVERYTHING)(images(32))
        model = model.to(memory_format=torch.channels_last)
        other = Watched(model, 32, EVERYTHING)(images(32).to(memory_format=torch.channels_last))
    assert shapes(plain) == shapes(other)
    for ours, theirs in zip(plain.stages, other.stages, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain.vector, other.vector, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vit_micro", "deit_micro_distilled"])
def test_a_token_lands_where_its_patch_was(name):
    """Blocks that pass tokens on, and patches that carry their mean: every map is the image, seen from afar."""
    model = network(name, 32).eval()
    with torch.no_grad():
        for block in model.blocks:
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight.zero_(), layer.bias.zero_()
        model.patch_embed.proj.weight.fill_(1 / (3 * 4 * 4))
        model.patch_embed.proj.bias.zero_()
        model.pos_embed.zero_()
        model.cls_token.fill_(1e3)
        outputs = Watched(model, 32, EVERYTHING)(images(32))
    seen_from_afar = F.avg_pool2d(images(32).mean(1, keepdim=True), 4)
    assert seen_from_afar.shape == (3, 1, 8, 8)
    for stage in outputs.stages[:-1]:  # the last one is behind the norm
        torch.testing.assert_close(stage, seen_from_afar.expand_as(stage), rtol=1e-4, atol=1e-5)


def test_grids_and_tokens_are_each_others_inverse():
    tokens = torch.randn(2, 3 + 15, 4)
    grid = to_grid(tokens, 3, (3, 5))
    assert grid.shape == (2, 4, 3, 5)
    assert torch.equal(grid[1, :, 2, 4], tokens[1, -1])
    assert torch.equal(grid[0, :, 1, 0], tokens[0, 3 + 5])
    assert torch.equal(to_tokens(grid), tokens[:, 3:])
    assert torch.equal(to_grid(tokens, 2), tokens[:, 2:].transpose(1, 2).reshape(2, 4, 4, 4))


@pytest.mark.parametrize(("prefix", "grid"), [(3, None), (2, (3, 5)), (18, None), (18, (0, 0)), (20, None)])
def test_tokens_that_do_not_fill_a_grid_are_refused(prefix, grid):
    with pytest.raises(ShapeMismatch, match="token grid"):
        to_grid(torch.randn(2, 18, 4), prefix, grid)


# ---------------------------------------------------------------- the distillation token


def test_a_distilled_deit_in_training_speaks_with_both_tokens_where_asked():
    model = network("deit_micro_distilled", 32)
    assert not model.distilled_training
    plain = Watched(model, 32, ("logits", "pooled"))
    watched = Watched(model, 32, ("logits", "pooled", "token"))
    model.train()
    outputs = watched(images(32))
    assert outputs.token_logits.shape == outputs.logits.shape == (3, 5)
    assert torch.equal(outputs.logits, model.head(outputs.vector))
    assert not torch.allclose(outputs.logits, outputs.token_logits)
    unasked = plain(images(32))
    assert unasked.token_logits is None
    model.eval()
    assert watched(images(32)).token_logits is None
    watched.close()
    model.train()
    mean = Watched(model, 32)(images(32))
    assert mean.token_logits is None
    torch.testing.assert_close(mean.logits, (outputs.logits + outputs.token_logits) / 2)


def test_a_deit_that_spoke_with_both_tokens_before_does_so_afterwards():
    model = network("deit_micro_distilled", 32)
    model.set_distilled_training(True)
    Watched(model, 32, ("token",)).close()
    assert model.distilled_training


def test_a_network_without_a_token_has_nothing_to_say_for_it():
    assert Watched(make_model(), 32, ("logits", "token"))(images(32)).token_logits is None


# ---------------------------------------------------------------- networks of one's own


class Tutorial(nn.Module):
    """One ReLU and one pooling for all layers, as in every tutorial."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, 1, 1), nn.Conv2d(6, 7, 3, 1, 1)
        self.third = nn.Conv2d(7, 8, 3, 1, 1)
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)
        self.fc = nn.Linear(8, 5)

    def forward(self, pixels):
        out = self.pool(self.relu(self.first(pixels)))
        out = self.pool(self.relu(self.second(out)))
        return self.fc(self.relu(self.third(out)).mean((2, 3)))


class Talkative(nn.Module):
    """Answers with more than logits."""

    def __init__(self, extra):
        super().__init__()
        self.inner, self.extra = make_noisy_model(), extra

    def forward(self, pixels):
        return self.inner(pixels), *(pixels,) * self.extra


def plain(*last):
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), *last)


POOLED = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))

# network, image size, stages, taps, reads_last, prefix tokens
OWN = {
    "torchvision resnet18": (
        lambda: torchvision.models.resnet18(num_classes=5), 64,
        ((64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)), "layer4", True, 0,
    ),
    "torchvision mobilenet": (  # not the first layer of the next block, which works at the size of the one before
        lambda: torchvision.models.mobilenet_v3_small(num_classes=5), 64,
        ((16, 16, 16), (24, 8, 8), (48, 4, 4), (576, 2, 2)), "features", False, 0,
    ),
    "torchvision swin": (  # (N, H, W, C) inside
        lambda: torchvision.models.swin_t(num_classes=5), 64,
        ((96, 16, 16), (192, 8, 8), (384, 4, 4), (768, 2, 2)), "permute", True, 0,
    ),
    "torchvision vit": (  # a smaller vit_b_16
        lambda: torchvision.models.VisionTransformer(64, 16, 12, 2, 32, 64, num_classes=5), 64,
        ((32, 4, 4),) * 4, "encoder", True, 1,
    ),
    "blown up": (  # VGG and AlexNet pool small maps up to the size of large ones
        lambda: plain(nn.AdaptiveAvgPool2d(11), nn.Flatten(), nn.Linear(16 * 11 * 11, 5)), 32,
        ((8, 16, 16), (16, 8, 8)), "3", False, 0,
    ),
    "cut short": (  # its last block begins at the size of the one before and leaves a single position
        lambda: nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()), nn.Sequential(nn.Conv2d(8, 9, 3, 2, 1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(9, 10, 1), nn.AdaptiveAvgPool2d(1)), nn.Flatten(), nn.Linear(10, 5),
        ), 32, ((8, 16, 16), (9, 8, 8)), "1", False, 0,
    ),
    "sequential": (lambda: plain(*POOLED), 32, ((8, 16, 16), (16, 8, 8)), "3", True, 0),
    "wrapped": (lambda: nn.Sequential(plain(*POOLED)), 32, ((8, 16, 16), (16, 8, 8)), "0.3", True, 0),
    "flattened": (lambda: plain(nn.Flatten(), nn.Linear(1024, 5)), 32, ((8, 16, 16), (16, 8, 8)), "3", False, 0),
    "one size": (make_noisy_model, 32, ((8, 8, 8),) * 3, "2", False, 0),
    "tutorial": (Tutorial, 32, ((6, 32, 32), (7, 16, 16), (8, 8, 8)), "relu", True, 0),
    "no map": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 5)), 32, (), "", False, 0),
}  # fmt: skip


@pytest.mark.parametrize("kind", OWN)
def test_stages_of_the_users_own_network_are_found(kind):
    make, size, stages, last, reads, prefix = OWN[kind]
    torch.manual_seed(0)
    model = make().eval()
    watched = Watched(model, size, EVERYTHING)
    anatomy = watched.anatomy
    assert (anatomy.stages, anatomy.last_module) == (stages, last)
    assert (anatomy.reads_last, anatomy.prefix_tokens) == (reads, prefix)
    with torch.no_grad():
        outputs = watched(images(size))
        assert torch.equal(outputs.logits, model(images(size)))
        torch.testing.assert_close(anatomy.head(outputs.vector), outputs.logits)
    assert shapes(outputs) == stages
    assert hooks(model) == 0


def test_a_layer_behind_the_classifier_means_there_is_no_simple_head():
    model = nn.Sequential(*plain(*POOLED), nn.Softmax(1))
    anatomy = Watched(model, 32).anatomy
    assert (anatomy.head, anatomy.pooled, anatomy.reads_last) == (None, 16, False)


@pytest.mark.parametrize("extra", [1, 2])
def test_what_a_network_says_beside_its_logits_is_left_out(extra):
    model = Talkative(extra).eval()
    outputs = Watched(model, 32, EVERYTHING)(images(32))
    assert torch.equal(outputs.logits, model.inner(images(32)))
    assert outputs.token_logits is None


def test_a_network_without_logits_is_refused():
    with pytest.raises(TrainError, match=r"gives shape \(2, 16, 8, 8\); logits"):
        Watched(plain(), 32)


# ---------------------------------------------------------------- pairs and sizes


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (1, 1, [(0, 0)]),
        (4, 4, [(0, 0), (1, 1), (2, 2), (3, 3)]),
        (1, 4, [(0, 3)]),
        (4, 1, [(3, 0)]),
        (2, 4, [(0, 0), (1, 3)]),
        (3, 4, [(0, 0), (1, 1), (2, 3)]),
        (4, 2, [(0, 0), (3, 1)]),
        (0, 4, []),
    ],
)
def test_pairs(student, teacher, expected):
    assert pairs(student, teacher) == expected


@pytest.mark.parametrize(("student", "teacher"), list(itertools.product(range(1, 7), repeat=2)))
def test_pairs_are_as_many_as_can_be_and_keep_both_ends(student, teacher):
    found = pairs(student, teacher)
    assert len(found) == min(student, teacher)
    assert found[-1] == (student - 1, teacher - 1)
    for side in zip(*found, strict=True):
        assert list(side) == sorted(set(side))
    if len(found) > 1:
        assert found[0] == (0, 0)
    assert found == [(ours, theirs) for theirs, ours in pairs(teacher, student)]


@pytest.mark.parametrize(
    ("student", "teacher", "size"),
    [((8, 8), (4, 4), (4, 4)), ((4, 4), (8, 8), (4, 4)), ((4, 4), (4, 4), (4, 4)), ((6, 2), (3, 4), (3, 2))],
)
def test_the_larger_map_is_pooled_to_the_smaller(student, teacher, size):
    ours, theirs = torch.randn(2, 3, *student), torch.randn(2, 5, *teacher)
    left, right = same_size(ours, theirs)
    assert (left.shape, right.shape) == ((2, 3, *size), (2, 5, *size))
    torch.testing.assert_close(left.mean((2, 3)), ours.mean((2, 3)))
    torch.testing.assert_close(right.mean((2, 3)), theirs.mean((2, 3)))
    assert (left is ours) == (student == size)
    assert (right is theirs) == (teacher == size)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_losses_are_computed_in_float32_at_least(given, wanted):
    assert in_float32(torch.ones(2, dtype=given)).dtype == wanted
