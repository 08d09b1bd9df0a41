"""Class attention: against a literal reading, what does not matter to it, and whose classifier makes the maps."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from lessons import make, ready

from kdbench.errors import ConfigError, ShapeMismatch, TrainError
from kdbench.method import build_method
from kdbench.methods.catkd import catkd_loss, class_maps
from kdbench.types import MethodSpec


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def literal(student, teacher, resolution):
    """Blocks averaged, each class map divided by its length, mean square of the differences; float64, even blocks."""

    def unit(maps):
        rows = []
        for sample in maps.double().tolist():
            for grid in sample:
                height, width = len(grid) // resolution, len(grid[0]) // resolution
                cells = []
                for top in range(0, len(grid), height):
                    for left in range(0, len(grid[0]), width):
                        block = [grid[y][x] for y in range(top, top + height) for x in range(left, left + width)]
                        cells.append(sum(block) / len(block))
                length = math.sqrt(sum(cell**2 for cell in cells))
                rows.append([cell / length for cell in cells])
        return rows

    pairs = [
        (s - t) ** 2
        for one, other in zip(unit(student), unit(teacher), strict=True)
        for s, t in zip(one, other, strict=True)
    ]
    return sum(pairs) / len(pairs)


@pytest.mark.parametrize("resolution", [2, 4])
@pytest.mark.parametrize(("samples", "classes"), [(5, 3), (1, 3), (5, 2)])
def test_equals_the_formula(resolution, samples, classes):
    student, teacher = random(samples, classes, 4, 8), random(samples, classes, 8, 4, seed=1)
    expected = literal(student, teacher, resolution)
    assert expected > 1e-2
    assert catkd_loss(student, teacher, resolution).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("resolution", [2, 3])
def test_equals_the_operators_of_torch_on_uneven_maps(resolution):
    student, teacher = random(4, 3, 7, 7), random(4, 3, 5, 6, seed=1)
    one, other = (F.normalize(F.adaptive_avg_pool2d(maps, resolution), dim=(2, 3)) for maps in (student, teacher))
    assert catkd_loss(student, teacher, resolution).item() == pytest.approx(F.mse_loss(one, other).item(), rel=1e-5)


def test_a_smaller_map_sets_the_resolution():
    student, teacher = random(4, 3, 8, 8), random(4, 3, 2, 2, seed=1)
    assert catkd_loss(student, teacher, 4).item() == pytest.approx(literal(student, teacher, 2), rel=1e-5)


def test_by_hand():
    # class maps (3, 4; 0, 0) and (0, 0; 0, 5): lengths 5 and 5
    student = torch.tensor([[[[3.0, 4.0], [0.0, 0.0]]]])
    teacher = torch.tensor([[[[0.0, 0.0], [0.0, 5.0]]]])
    assert catkd_loss(student, teacher).item() == pytest.approx((0.6**2 + 0.8**2 + 1) / 4)


def test_class_maps_are_the_logits_before_the_mean():
    features, weight = random(4, 6, 3, 5), random(3, 6, seed=1)
    maps = class_maps(features, weight)
    assert maps.shape == (4, 3, 3, 5)
    torch.testing.assert_close(maps.mean((2, 3)), features.mean((2, 3)) @ weight.T)
    torch.testing.assert_close(maps[2, 1, 0, 4], features[2, :, 0, 4] @ weight[1])


def test_gradcheck():
    features, weight = random(2, 4, 3, 3, dtype=torch.float64), random(3, 4, seed=1, dtype=torch.float64)
    teacher = random(2, 3, 4, 4, seed=2, dtype=torch.float64)
    features.requires_grad_()
    weight.requires_grad_()
    assert torch.autograd.gradcheck(lambda f, w: catkd_loss(class_maps(f, w), teacher), (features, weight))


def test_only_where_a_class_is_seen_counts_not_how_strongly():
    teacher = random(4, 3, 4, 4)
    factors = torch.rand(4, 3, 1, 1) + 0.1
    assert catkd_loss(teacher * factors, teacher).item() == pytest.approx(0, abs=1e-10)
    assert catkd_loss(-teacher, teacher).item() == pytest.approx(4 / 4, rel=1e-5)  # |u - (-u)|^2 over four cells
    assert catkd_loss(teacher.flip(3), teacher).item() > 1e-2


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e4])
def test_dead_and_glaring_maps_have_small_gradients(scale):
    student = (random(4, 3, 4, 4) * scale).requires_grad_()
    loss = catkd_loss(student, random(4, 3, 4, 4, seed=1))
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 1


def test_unlike_classes_are_refused():
    with pytest.raises(ShapeMismatch, match="class maps"):
        catkd_loss(random(4, 3, 2, 2), random(4, 2, 2, 2))


@pytest.mark.parametrize("pair", ["cnn<cnn", "cnn<vit", "vit<cnn"])
def test_the_students_live_classifier_learns(pair):
    setting, lesson = make(pair)
    method = ready("catkd", setting)
    terms = method(lesson)
    head, teacher = setting.student.head, setting.teacher.head
    maps = class_maps(lesson.student.last, head.weight), class_maps(lesson.teacher.last, teacher.weight)
    assert set(terms) == {"catkd"}
    assert terms["catkd"].item() == pytest.approx(400 * catkd_loss(*maps).item(), rel=1e-5)
    terms["catkd"].backward()
    assert head.weight.grad.abs().sum() > 0
    assert teacher.weight.grad is None
    # it is the student's: neither trained nor saved twice
    assert list(method.parameters()) == []
    assert set(method.state_dict()) == {"teacher_weight"}
    with torch.no_grad():
        head.weight.mul_(-1)
    assert method(lesson)["catkd"].item() != pytest.approx(terms["catkd"].item(), rel=1e-3)


def test_the_teachers_classifier_stays_what_it_was():
    setting, lesson = make()
    method = ready("catkd", setting)
    before = method(lesson)["catkd"].item()
    with torch.no_grad():
        setting.teacher.head.weight.mul_(-1)
    assert method(lesson)["catkd"].item() == before


def test_a_student_with_a_layer_in_between_gets_a_classifier_for_its_map():
    setting, lesson = make("mobile<cnn")
    method = ready("catkd", setting)
    own = method.classifier
    assert (own.in_features, own.out_features) == (10, 5)
    terms = method(lesson)
    said = own(lesson.student.last.mean((2, 3)))
    assert terms["classifier"].item() == pytest.approx(F.cross_entropy(said, lesson.targets).item(), rel=1e-5)
    maps = class_maps(lesson.student.last, own.weight), class_maps(lesson.teacher.last, setting.teacher.head.weight)
    assert terms["catkd"].item() == pytest.approx(400 * catkd_loss(*maps).item(), rel=1e-5)
    other = dataclasses.replace(lesson, targets=(lesson.targets + 1) % 5)
    assert method(other)["classifier"].item() != pytest.approx(terms["classifier"].item(), rel=1e-3)
    sum(terms.values()).backward()
    assert own.weight.grad.abs().sum() > 0
    assert setting.student.head.weight.grad is None


@pytest.mark.parametrize("change", [{"reads_last": False}, {"head": None}])
def test_a_teacher_without_class_maps_is_refused(change):
    setting, _ = make()
    teacher = dataclasses.replace(setting.teacher, **change)
    with pytest.raises(TrainError, match="try a ResNet or a ViT as the teacher"):
        ready("catkd", dataclasses.replace(setting, teachers=(teacher,)))


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_a_map_of_one_position_is_refused(whose):
    setting, _ = make()
    network = getattr(setting, whose)
    small = dataclasses.replace(network, stages=(*network.stages[:-1], (network.pooled, 1, 1)))
    change = {"student": small} if whose == "student" else {"teachers": (small,)}
    with pytest.raises(TrainError, match=f"the {whose}'s last map has 1 positions; try larger images"):
        ready("catkd", dataclasses.replace(setting, **change))


def test_defaults_are_those_of_the_reference():
    expected = {"weight": 400.0, "resolution": 2, "kd_weight": 0.0, "kd_temperature": 4.0}
    assert build_method(MethodSpec(name="catkd")).options.model_dump() == expected


@pytest.mark.parametrize("wrong", [{"weight": -1}, {"resolution": 1}, {"kd_weight": -1}, {"beta": 1}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build_method(MethodSpec(name="catkd", options=wrong))
