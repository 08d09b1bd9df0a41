"""The reused classifier: the loss against a literal reading, and what is shipped: student, projector and head."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from lessons import make, ready
from torch import nn

from kdbench.engine.taps import Watched
from kdbench.errors import ConfigError, ShapeMismatch, TrainError
from kdbench.method import build_method
from kdbench.methods.simkd import ReusedClassifier, bottleneck, shortened, simkd_loss
from kdbench.model import build
from kdbench.profiling.macs import count_macs
from kdbench.profiling.params import count_params
from kdbench.types import MethodSpec, ModelChoice

CLASSES = 5

# the student's name, its image size, and its modules that the teacher's classifier makes needless
STUDENTS = {
    "resnet8_w16": (32, ("fc",)),
    "mobilenetv3_small_050": (48, ("conv_head", "norm_head", "classifier")),
    "vit_micro": (32, ("fc_norm", "head")),
    "tinynet_e": (48, ("conv_head", "bn2", "classifier")),
    "ghostnet_050": (48, ("blocks.8", "blocks.9", "conv_head", "classifier")),
    "timm/swin_tiny_patch4_window7_224": (64, ("norm", "head")),
}
MAIN = ["resnet8_w16", "mobilenetv3_small_050", "vit_micro"]


def network(name, seed=0):
    torch.manual_seed(seed)
    model = build(ModelChoice(name=name), CLASSES, STUDENTS[name][0])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics of a trained network, not 0 and 1
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def pixels(name, samples=3):
    return torch.randn(samples, 3, *[STUDENTS[name][0]] * 2, generator=torch.Generator().manual_seed(1))


def taught(name, teacher="cnn", seed=0, model=None, **options):
    """(student, watched student, method) of a real student and a made-up teacher."""
    student = model or network(name, seed)
    watched = Watched(student, STUDENTS[name][0], ("last", "pooled"))
    setting, _ = make(f"cnn<{teacher}", classes=CLASSES)
    method = ready("simkd", dataclasses.replace(setting, student=watched.anatomy), seed=seed, **options)
    for module in method.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                module.running_mean.normal_(0, 0.1)
    return student, watched, method


# ---------------------------------------------------------------- the loss


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (4, 6), (1, 3, 1, 1)])
def test_equals_the_formula(shape):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(shape, generator=generator) for _ in range(2))
    pairs = list(zip(student.double().flatten().tolist(), teacher.double().flatten().tolist(), strict=True))
    expected = sum((s - t) ** 2 for s, t in pairs) / len(pairs)
    assert expected > 0.1
    assert simkd_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert simkd_loss(teacher, teacher).item() == 0
    assert simkd_loss(student.bfloat16(), teacher).dtype == torch.float32


def test_gradcheck():
    student = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(simkd_loss, (student, teacher))


def test_other_shapes_are_refused():
    with pytest.raises(ShapeMismatch, match="'last': student gives shape"):
        simkd_loss(torch.zeros(4, 3, 2, 2), torch.zeros(4, 3, 1, 1))


@pytest.mark.parametrize(("factor", "inner"), [(2, 10), (3, 6), (64, 1)])
@pytest.mark.parametrize("rectified", [True, False])
def test_the_projector_is_the_bottleneck_of_the_paper(factor, inner, rectified):
    layers = bottleneck(7, 20, factor, rectified)
    convs = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    shapes = [(conv.in_channels, conv.out_channels, conv.kernel_size[0]) for conv in convs]
    assert shapes == [(7, inner, 1), (inner, inner, 3), (inner, 20, 1)]
    features = torch.randn(4, 7, 5, 5)
    expected = features
    for number, conv in enumerate(convs):
        expected = F.conv2d(expected, conv.weight, padding=conv.kernel_size[0] // 2)
        spread, mean = torch.var_mean(expected, (0, 2, 3), unbiased=False, keepdim=True)
        expected = (expected - mean) / (spread + 1e-5).sqrt()
        expected = expected.relu() if rectified or number < 2 else expected
    torch.testing.assert_close(layers(features), expected, rtol=1e-4, atol=1e-5)
    assert layers(features).shape == (4, 20, 5, 5)
    assert bool((layers(features) < 0).any()) is not rectified


# ---------------------------------------------------------------- the method


def test_a_cnns_map_is_matched_position_by_position():
    setting, lesson = make()
    method = ready("simkd", setting, weight=2.0)
    expected = 2 * F.mse_loss(method.projector(lesson.student.last), lesson.teacher.last)
    assert method(lesson)["simkd"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert isinstance(method.projector[-1], nn.ReLU)
    assert method.hard_weight == 0


def test_the_larger_map_is_pooled_before_the_projector():
    setting, lesson = make("vit<cnn")
    method = ready("simkd", setting)
    pooled = F.adaptive_avg_pool2d(lesson.student.last, 2)
    expected = F.mse_loss(method.projector(pooled), lesson.teacher.last)
    assert method(lesson)["simkd"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert method.size == (2, 2)


@pytest.mark.parametrize("change", [{}, {"reads_last": False}, {"prefix_tokens": 1}])
def test_of_any_other_teacher_the_pooled_vector_is_matched(change):
    setting, lesson = make("cnn<cnn" if change else "cnn<vit")
    teacher = dataclasses.replace(setting.teacher, **change)
    method = ready("simkd", dataclasses.replace(setting, teachers=(teacher,)))
    expected = F.mse_loss(method.projector(lesson.student.last).mean((2, 3)), lesson.teacher.pooled)
    assert method(lesson)["simkd"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert not isinstance(method.projector[-1], nn.ReLU)
    assert method.size is None


def test_the_head_is_a_frozen_copy_of_the_teachers():
    setting, _ = make()
    method = ready("simkd", setting)
    theirs = setting.teacher.head
    assert torch.equal(method.head.weight, theirs.weight)
    assert torch.equal(method.head.bias, theirs.bias)
    assert method.head.weight.data_ptr() != theirs.weight.data_ptr()
    assert not any(parameter.requires_grad for parameter in method.head.parameters())
    assert all(parameter.requires_grad for parameter in method.projector.parameters())


def test_labels_are_not_read():
    setting, lesson = make()
    method = ready("simkd", setting)
    other = dataclasses.replace(lesson, targets=(lesson.targets + 1) % CLASSES)
    assert torch.equal(method(lesson)["simkd"], method(other)["simkd"])


def test_a_teacher_without_a_linear_classifier_is_refused():
    setting, _ = make()
    teacher = dataclasses.replace(setting.teacher, head=None)
    with pytest.raises(TrainError, match=r"reuses the teacher's classifier, .* try kd"):
        ready("simkd", dataclasses.replace(setting, teachers=(teacher,)))


def test_a_student_without_a_map_is_refused():
    setting, _ = make()
    with pytest.raises(TrainError, match="the student's last map, and the student has none"):
        ready("simkd", dataclasses.replace(setting, student=dataclasses.replace(setting.student, stages=())))


# ---------------------------------------------------------------- what is shipped


@pytest.mark.parametrize("teacher", ["cnn", "vit"])
@pytest.mark.parametrize("name", STUDENTS)
def test_what_is_shipped_answers_through_projector_and_head(name, teacher):
    student, watched, method = taught(name, teacher)
    deployed = method.deploy(student).eval()
    images = pixels(name)
    with torch.no_grad():
        last = watched(images).last
        if method.size is not None:
            assert last.shape[2] > method.size[0]
            last = F.adaptive_avg_pool2d(last, method.size)
        expected = method.head(method.projector(last).mean((2, 3)))
        torch.testing.assert_close(deployed(images), expected)
        assert expected.std() > 1e-3
        assert deployed(images[:1]).shape == (1, CLASSES)


@pytest.mark.parametrize("name", STUDENTS)
def test_its_cost_is_trunk_projector_and_head(name):
    student, _, method = taught(name)
    deployed = method.deploy(student)
    needless = sum(count_params(student.get_submodule(part)) for part in STUDENTS[name][1])
    assert needless > 0
    expected = count_params(student) - needless + count_params(method.projector) + count_params(method.head)
    assert count_params(deployed) == expected


def test_its_multiply_adds_are_counted_to_the_last_one():
    student, watched, method = taught("resnet8_w16")
    channels, height, width = watched.anatomy.stages[-1]
    per_position = channels * 10 + 9 * 10 * 10 + 10 * 20
    expected = count_macs(student, 32).macs - 64 * CLASSES + height * width * per_position + 20 * CLASSES
    assert count_macs(method.deploy(student), 32).macs == expected


@pytest.mark.parametrize("name", MAIN)
def test_the_student_itself_stays_whole(name):
    student, _, method = taught(name)
    images = pixels(name)
    with torch.no_grad():
        before = student(images)
        parts, count = [part for part, _ in student.named_modules()], count_params(student)
        method.deploy(student)(images)
        assert torch.equal(student(images), before)
    assert [part for part, _ in student.named_modules()] == parts
    assert count_params(student) == count


@pytest.mark.parametrize("name", MAIN)
def test_it_shares_its_parameters_with_the_student_and_the_method(name):
    student, _, method = taught(name)
    deployed = method.deploy(student).eval()
    known = {id(parameter) for parameter in (*student.parameters(), *method.parameters())}
    assert {id(parameter) for parameter in deployed.parameters()} <= known
    images = pixels(name)
    with torch.no_grad():
        before = deployed(images)
        next(parameter for parameter in student.parameters() if parameter.ndim == 4).mul_(1.5)
        moved = deployed(images)
        method.projector[0].weight.mul_(-1)
        again = deployed(images)
    assert not torch.allclose(before, moved)
    assert not torch.allclose(moved, again)


@pytest.mark.parametrize("name", MAIN)
def test_training_reaches_all_of_it_but_the_head_and_brings_it_nearer_to_the_teacher(name):
    student, watched, method = taught(name, "vit")
    deployed = method.deploy(student)
    _, lesson = make("cnn<vit", samples=3)
    optimizer = torch.optim.Adam([p for p in deployed.parameters() if p.requires_grad], lr=1e-3)
    images, losses = pixels(name), []
    for _ in range(6):
        student.train()
        method.train()
        loss = method(dataclasses.replace(lesson, student=watched(images)))["simkd"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    for part, parameter in deployed.named_parameters():
        assert (parameter.grad is None) == part.startswith("head."), part


@pytest.mark.parametrize("name", MAIN)
def test_its_state_is_saved_and_loaded(name):
    student, _, method = taught(name)
    deployed = method.deploy(student).eval()
    state = copy.deepcopy(deployed.state_dict())
    other, _, second = taught(name, seed=3)
    fresh = second.deploy(other).eval()
    images = pixels(name)
    with torch.no_grad():
        assert not torch.allclose(fresh(images), deployed(images))
        fresh.load_state_dict(state, strict=True)
        assert torch.equal(fresh(images), deployed(images))


@pytest.mark.parametrize("name", MAIN)
def test_a_deep_copy_goes_its_own_way(name):
    """As the averaged weights do: the copy neither follows the student nor leads it."""
    student, _, method = taught(name)
    deployed = method.deploy(student).eval()
    twin = copy.deepcopy(deployed)
    images = pixels(name)
    with torch.no_grad():
        before = deployed(images)
        assert torch.equal(twin(images), before)
        for parameter in twin.parameters():
            parameter.mul_(1.1)
        assert torch.equal(deployed(images), before)
        assert not torch.equal(twin(images), before)
    assert not {id(parameter) for parameter in twin.parameters()} & {
        id(parameter) for parameter in student.parameters()
    }


def test_with_nothing_to_project_it_is_the_teacher():
    teacher = network("resnet8_w16")
    anatomy = Watched(teacher, 32).anatomy
    whole = ReusedClassifier(shortened(teacher, anatomy.last_module), nn.Identity(), anatomy.head, anatomy, None)
    images = pixels("resnet8_w16")
    with torch.no_grad():
        torch.testing.assert_close(whole(images), teacher(images))


def test_an_absent_part_stays_absent():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.classifier = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.Linear(6, 5)
            self.register_module("neck", None)

        def forward_features(self, images):
            features = self.last(self.first(images))
            return features if self.neck is None else self.neck(features) * 0

    model = Optional()
    cut = shortened(model, "last")
    assert cut.neck is None
    assert count_params(cut) == count_params(model.first) + count_params(model.last)
    assert cut.forward_features(torch.randn(2, 3, 4, 4)).abs().sum() > 0


def test_a_module_of_the_users_own_is_refused():
    setting, _ = make()
    with pytest.raises(TrainError, match="cut behind its last map, by forward_features"):
        ready("simkd", setting).deploy(nn.Sequential(nn.Conv2d(3, 4, 3)))


@pytest.mark.parametrize("last", ["", "layer9"])
def test_an_unknown_last_module_is_refused(last):
    with pytest.raises(TrainError, match=f"cannot cut ResNet behind '{last}'"):
        shortened(network("resnet8_w16"), last)


# ---------------------------------------------------------------- options


def test_defaults_are_those_of_the_paper():
    assert build_method(MethodSpec(name="simkd")).options.model_dump() == {"weight": 1.0, "factor": 2}


@pytest.mark.parametrize("wrong", [{"weight": 0}, {"factor": 0}, {"alpha": 1}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build_method(MethodSpec(name="simkd", options=wrong))
