"""Contrastive distillation: against a peer over two batches, against the formula, and what the memories hold."""

import dataclasses
import math

import pytest
import torch
from lessons import TRAIN_SIZE, make, ready

from kdbench.errors import ConfigError
from kdbench.method import build_method
from kdbench.methods.crd import contrastive_loss, first_log_constant
from kdbench.methods.sp import unit_rows
from kdbench.types import MethodSpec


def literal(positive, negative, chosen, log_constant, images):
    """-log(p / (p + m/n + e)) - sum over negatives of log((m/n) / (p + m/n + e)), mean over the batch, in float64."""
    constant, total = math.exp(log_constant), 0.0
    for own, others, counts in zip(positive.tolist(), negative.tolist(), chosen.tolist(), strict=True):
        noise = sum(counts) / images
        likely = math.exp(own) / constant
        total -= math.log(likely / (likely + noise + 1e-7))
        for other, counted in zip(others, counts, strict=True):
            if counted:
                total -= math.log(noise / (math.exp(other) / constant + noise + 1e-7))
    return total / len(positive)


def scores(samples=4, candidates=9, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    positive = torch.randn(samples, generator=generator, dtype=torch.float64).to(dtype)
    negative = torch.randn(samples, candidates, generator=generator, dtype=torch.float64).to(dtype)
    chosen = torch.rand(samples, candidates, generator=generator) < 0.6
    return positive, negative, chosen


def embedded(method, lesson):
    """What the method makes of student and teacher."""
    with torch.no_grad():
        student = unit_rows(method.student_embedding(lesson.student.pooled))
        return student, unit_rows(method.teacher_embedding(lesson.teacher.pooled))


def labelled(setting, labels):
    return dataclasses.replace(setting, labels=labels, train_size=len(labels))


def test_equals_the_formula():
    positive, negative, chosen = scores()
    expected = literal(positive, negative, chosen, 3.0, 40)
    value = contrastive_loss(positive, negative, chosen, torch.tensor(3.0).double(), 40)
    assert value.item() == pytest.approx(expected, rel=1e-10)
    single = contrastive_loss(positive.float(), negative.float(), chosen, torch.tensor(3.0), 40)
    assert single.item() == pytest.approx(expected, rel=1e-5)


def test_the_constant_is_the_mean_score_times_the_images():
    positive, negative, chosen = scores()
    counted = [math.exp(value) for value in positive.tolist()]
    counted += [math.exp(value) for value in negative[chosen].tolist()]
    expected = sum(counted) / len(counted) * 40
    assert first_log_constant(positive, negative, chosen, 40).exp().item() == pytest.approx(expected, rel=1e-10)


def test_gradcheck():
    positive, negative, chosen = scores(3, 4)
    leaves = (positive.requires_grad_(), negative.requires_grad_())
    constant = torch.tensor(2.0).double()
    assert torch.autograd.gradcheck(lambda p, n: contrastive_loss(p, n, chosen, constant, 40), leaves)


@pytest.mark.filterwarnings("ignore")
def test_equals_torchdistill_over_two_batches():
    """With every image of another class as a negative no draw is left; the second batch sees what the first left."""
    peers = pytest.importorskip("torchdistill.losses.mid_level")
    setting, _ = make()
    images, classes = 32, 4
    labels = torch.arange(images) % classes
    method = ready("crd", labelled(setting, labels))
    others = images - images // classes
    peer = peers.CRDLoss("n", "e", "n", 128, images, others, images)
    peer.memory_v1.copy_(method.student_memory)
    peer.memory_v2.copy_(method.teacher_memory)
    for seed in (1, 2):
        lesson = make(seed=seed)[1]
        positions = lesson.positions % images
        # one order among the positions' duplicates would be up to chance
        positions = torch.randperm(images, generator=torch.Generator().manual_seed(seed))[: len(positions)]
        lesson = dataclasses.replace(lesson, positions=positions)
        negatives = torch.stack([(labels != labels[position]).nonzero()[:, 0] for position in positions])
        index = {"pos_idx": positions, "contrast_idx": torch.cat([positions[:, None], negatives], 1)}
        student, teacher = embedded(method, lesson)
        expected = peer({"n": {"output": student}, "e": {"input": index}}, {"n": {"output": teacher}})
        assert method(lesson)["crd"].item() == pytest.approx(0.8 * expected.item(), rel=1e-5)
        torch.testing.assert_close(method.student_memory, peer.memory_v1, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(method.teacher_memory, peer.memory_v2, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(method.log_constants.exp(), peer.params[2:4], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("asked", "counted"), [(1, 1), (5, 5), (31, 31), (32, 32), (16384, 32)])
def test_counts_as_many_negatives_as_asked_for_and_there_are(asked, counted):
    """Where all scores are equal, log(1 + m) + m log((1 + m) / m) is left of either direction."""
    setting, lesson = make()  # 40 images, 8 of each of 5 classes
    method = ready("crd", setting, negatives=asked, weight=1.0)
    same = torch.zeros(128)
    same[0] = 1
    for memory in (method.student_memory, method.teacher_memory):
        memory.copy_(same.expand_as(memory))
    for embedding in (method.student_embedding, method.teacher_embedding):
        embedding.weight.data.zero_()
        embedding.bias.data.copy_(same)
    expected = math.log(1 + counted) + counted * math.log((1 + counted) / counted)
    assert method(lesson)["crd"].item() == pytest.approx(2 * expected, rel=1e-4)


@pytest.mark.parametrize("ground_truth", [True, False])
def test_negatives_are_of_other_classes_or_without_labels_all_others(ground_truth):
    setting, lesson = make(samples=1, ground_truth=ground_truth)
    own = lesson.positions.item()
    classes = torch.arange(TRAIN_SIZE) % 5
    options = {} if ground_truth else {"kd_weight": 1.0}

    def value(changed):
        method = ready("crd", setting, **options).eval()
        method.log_constants.fill_(4.0)  # else the estimate would bring all scores in
        method.teacher_memory[changed] = method.teacher_memory[changed].flip(1)
        return method(lesson)["crd"].item()

    nothing = torch.zeros(TRAIN_SIZE, dtype=torch.bool)
    mates = (classes == classes[own]) & (torch.arange(TRAIN_SIZE) != own)
    assert value(classes != classes[own]) != pytest.approx(value(nothing), rel=1e-6)
    if ground_truth:
        assert value(mates) == pytest.approx(value(nothing), rel=1e-6)
    else:
        assert value(mates) != pytest.approx(value(nothing), rel=1e-6)


def test_each_candidate_is_drawn_as_often_as_any_other():
    """Classes of unlike size: of an image's 12 possible negatives 4 are drawn, each in a third of the draws."""
    setting, lesson = make(samples=1)
    labels = torch.tensor([0] * 20 + [1] * 7 + [2] * 5)
    method = ready("crd", labelled(setting, labels), negatives=4).eval()
    lesson = dataclasses.replace(lesson, positions=torch.tensor([3]))
    seen = torch.zeros(32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(600):
            method.teacher_memory.requires_grad_().grad = None
            method(lesson)["crd"].backward()
            seen += (method.teacher_memory.grad.abs().sum(1) > 0).float()
    assert seen[:20].sum() == seen[3] == 600  # the positive, and no other of its class
    assert (seen[20:] / 600).tolist() == pytest.approx([1 / 3] * 12, abs=0.08)


def test_memories_are_of_length_one_and_follow_with_momentum_where_an_image_was_seen():
    setting, lesson = make()
    method = ready("crd", setting)
    before = method.student_memory.clone(), method.teacher_memory.clone()
    assert before[0].shape == before[1].shape == (TRAIN_SIZE, 128)
    made = embedded(method, lesson)
    method(lesson)
    unseen = torch.ones(TRAIN_SIZE, dtype=torch.bool)
    unseen[lesson.positions] = False
    for old, new, embeddings in zip(before, (method.student_memory, method.teacher_memory), made, strict=True):
        assert torch.equal(new[unseen], old[unseen])
        mixed = 0.5 * old[lesson.positions] + 0.5 * embeddings
        torch.testing.assert_close(new[lesson.positions], mixed / mixed.norm(dim=1, keepdim=True))
        torch.testing.assert_close(new.norm(dim=1), torch.ones(TRAIN_SIZE))
        assert not new.requires_grad


def test_the_constants_are_set_once():
    setting, lesson = make()
    method = ready("crd", setting)
    assert method.log_constants.isinf().all()
    method(lesson)
    first = method.log_constants.clone()
    assert first.isfinite().all()
    method(make(seed=3)[1])
    assert torch.equal(method.log_constants, first)


def test_a_small_temperature_stays_finite():
    """Scores of e^1000 are beyond float32."""
    setting, lesson = make()
    loss = ready("crd", setting, temperature=0.001)(lesson)["crd"]
    loss.backward()
    assert loss.isfinite()
    assert all(stage.grad is None or stage.grad.isfinite().all() for stage in lesson.student.stages)


def test_nothing_is_remembered_outside_training():
    setting, lesson = make()
    method = ready("crd", setting).eval()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    assert method(lesson)["crd"].isfinite()
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_draws_follow_torchs_generator():
    setting, lesson = make()
    method = ready("crd", setting, negatives=3).eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        first, second = method(lesson)["crd"], method(lesson)["crd"]
        torch.manual_seed(3)
        assert torch.equal(method(lesson)["crd"], first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("samples", [1, 6])
def test_a_single_class_leaves_nothing_to_tell_apart(samples):
    setting, lesson = make(samples=samples)
    loss = ready("crd", labelled(setting, torch.zeros(TRAIN_SIZE, dtype=torch.int64)))(lesson)["crd"]
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-3)
    assert all(stage.grad is None or stage.grad.isfinite().all() for stage in lesson.student.stages)


def test_labels_stay_out_of_the_checkpoint():
    setting, _ = make()
    assert set(ready("crd", setting).state_dict()) == {
        "student_memory", "teacher_memory", "log_constants", "student_embedding.weight", "student_embedding.bias",
        "teacher_embedding.weight", "teacher_embedding.bias",
    }  # fmt: skip


def test_both_directions_train_their_own_side():
    setting, lesson = make("mobile<cnn")
    method = ready("crd", setting)
    method(lesson)["crd"].backward()
    assert method.student_embedding.weight.grad.abs().sum() > 0
    assert method.teacher_embedding.weight.grad.abs().sum() > 0
    assert lesson.student.pooled.grad.abs().sum() > 0


def test_defaults_are_those_of_the_literature():
    options = build_method(MethodSpec(name="crd")).options.model_dump()
    assert options == {
        "weight": 0.8, "negatives": 16384, "temperature": 0.07, "momentum": 0.5, "width": 128,
        "kd_weight": 0.0, "kd_temperature": 4.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [{"weight": -1}, {"negatives": 0}, {"temperature": 0}, {"momentum": 1.0}, {"momentum": -1}, {"width": 0}, {"k": 1}],
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"option '{next(iter(wrong))}'"):
        build_method(MethodSpec(name="crd", options=wrong))
