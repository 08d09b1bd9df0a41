"""Made-up lessons: what a method is given, for a CNN or a ViT on either side, without any network."""

import torch
from torch import nn

from kdbench.features import Anatomy, Outputs
from kdbench.method import Lesson, Setting, build_method
from kdbench.types import MethodSpec

TRAIN_SIZE = 40
EPOCHS = 4

# (C, H, W) of each stage, and the width of the classifier's input
CNN = ((4, 16, 16), (6, 8, 8), (8, 4, 4), (10, 2, 2)), 10  # a ResNet: the classifier sees the mean of the last map
WIDE_CNN = ((8, 16, 16), (12, 8, 8), (16, 4, 4), (20, 2, 2)), 20
MOBILE = ((4, 16, 16), (6, 8, 8), (8, 4, 4), (10, 2, 2)), 14  # a MobileNet: a layer between last map and classifier
VIT = ((12, 7, 7),) * 4, 12  # tokens on the grid of the patches; the classifier sees the class token

PAIRS = {
    "cnn<cnn": (CNN, WIDE_CNN),
    "cnn<vit": (CNN, VIT),
    "vit<cnn": (VIT, WIDE_CNN),
    "mobile<cnn": (MOBILE, WIDE_CNN),
}
"""student < teacher, by kind."""


def anatomy(network, classes, generator):
    stages, width = network
    head = nn.Linear(width, classes)
    with torch.no_grad():
        head.weight.copy_(torch.randn(classes, width, generator=generator) / width**0.5)
        head.bias.copy_(torch.randn(classes, generator=generator) / 10)
    return Anatomy(classes=classes, pooled=width, stages=stages, head=head, reads_last=stages[-1][0] == width)


def outputs(network, shape, samples, generator, grad, dtype=torch.float32):
    """Random maps; pooled and logits follow from them as in a real network."""
    stages = [torch.randn(samples, *size, generator=generator).to(dtype) for size in shape.stages]
    for stage in stages:
        stage.requires_grad_(grad)
    if network is VIT:
        pooled = torch.randn(samples, shape.pooled, generator=generator).to(dtype).requires_grad_(grad)
    elif shape.reads_last:
        pooled = stages[-1].mean((2, 3))
    else:
        pooled = torch.randn(samples, shape.pooled, generator=generator).to(dtype).requires_grad_(grad)
    logits = 3 * torch.nn.functional.linear(pooled, shape.head.weight.to(dtype), shape.head.bias.to(dtype))
    if not grad:
        pooled, logits = pooled.detach(), logits.detach()
    return Outputs(logits=logits, pooled=pooled, stages=tuple(stages))


def make(pair="cnn<cnn", samples=6, classes=5, seed=0, teachers=1, ground_truth=True, epoch=0, dtype=torch.float32):
    """(setting, lesson) of a pair; the student's tensors carry gradient (stages and, in a ViT, pooled are leaves)."""
    generator = torch.Generator().manual_seed(seed)
    student_net, teacher_net = PAIRS[pair]
    student = anatomy(student_net, classes, generator)
    taught_by = tuple(anatomy(teacher_net, classes, generator) for _ in range(teachers))
    labels = torch.arange(TRAIN_SIZE) % classes
    positions = torch.randperm(TRAIN_SIZE, generator=generator)[:samples]
    setting = Setting(
        student=student,
        teachers=taught_by,
        train_size=TRAIN_SIZE,
        labels=labels if ground_truth else None,
        epochs=EPOCHS,
        fresh_student=lambda: nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, classes)),
    )
    lesson = Lesson(
        student=outputs(student_net, student, samples, generator, True, dtype),
        teachers=tuple(outputs(teacher_net, shape, samples, generator, False, dtype) for shape in taught_by),
        targets=labels[positions],
        positions=positions,
        pixels=torch.randn(samples, 3, 32, 32, generator=generator),
        epoch=epoch,
        epochs=EPOCHS,
    )
    return setting, lesson


def two_logits(samples=8, classes=5, seed=0, dtype=torch.float32):
    """(student, teacher, targets) at random: logits of two networks that disagree, and labels of every class."""
    generator = torch.Generator().manual_seed(seed)
    student = 3 * torch.randn(samples, classes, generator=generator, dtype=torch.float64)
    teacher = 3 * torch.randn(samples, classes, generator=generator, dtype=torch.float64)
    return student.to(dtype), teacher.to(dtype), torch.arange(samples) % classes


def lesson_of(student, teacher, targets=None):
    """A lesson of logits alone."""
    count = len(student)
    return Lesson(
        student=Outputs(student),
        teachers=(Outputs(teacher),),
        targets=torch.zeros(count, dtype=torch.int64) if targets is None else targets,
        positions=torch.arange(count),
        pixels=torch.zeros(count, 3, 8, 8),
    )


def ready(name, setting, seed=0, **options):
    """The method of that name with those options, prepared as the engine does, in training mode."""
    ground_truth = setting.labels is not None
    method = build_method(MethodSpec(name=name, ground_truth=ground_truth, options=options))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        method.prepare(setting)
    return method.train()


def leaves(lesson):
    """The student's tensors that gradient can be asked of."""
    student = lesson.student
    return [tensor for tensor in (*student.stages, student.pooled) if tensor is not None and tensor.is_leaf]
