"""Learning from several teachers at once: four ways to weigh what they say.

All match the mixture of the teachers' softened probabilities, sum_m w_m softmax(z_m / T). Its gradient is that of
sum_m w_m KL(teacher m || student), the form of some of the papers, because a cross-entropy is linear in its target.
Weights are kept as logarithms, so that neither a weight nor a probability can round to log 0.

- multi_fixed: equal or given weights (You, Xu, Xu and Tao, "Learning from multiple teacher networks", KDD 2017)
- multi_entropy: the surer a teacher is, the more it counts (Kwon, Na, Lee and Kim, "Adaptive knowledge distillation
  based on entropy", ICASSP 2020)
- multi_confidence: the nearer a teacher is to the label, the more it counts (Zhang, Chen and Wang, arXiv:2201.00007;
  their term on feature maps is left out, so that the four differ in nothing but the weights)
- multi_gated: a small network learns whom to trust with each image (after Liu, Zhang and Wang, arXiv:2103.04062)
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.errors import TrainError
from kdbench.features import in_float32
from kdbench.method import METHODS, Lesson, Method, Setting, check_logits
from kdbench.types import Frozen


def log_mixture(teacher_logits: Tensor, log_weights: Tensor, temperature: float = 1.0) -> Tensor:
    """The weighted mean of softened probabilities.

    Args:
        teacher_logits: (N, M, K) of M teachers, unnormalised.
        log_weights: (N, M) or (1, M), of weights that sum to 1 over M.
        temperature: > 0.
    Returns: (N, K), natural logarithms of probabilities.
    """
    return (log_weights.unsqueeze(2) + F.log_softmax(teacher_logits / temperature, dim=2)).logsumexp(1)


def mixture_kl(student_logits: Tensor, teacher_logits: Tensor, log_weights: Tensor, temperature: float) -> Tensor:
    """Match the teachers' mixture.

    Args:
        student_logits: (N, K), unnormalised; computed in at least float32.
        teacher_logits: (N, M, K) likewise.
        log_weights: (N, M) or (1, M), of weights that sum to 1 over M.
        temperature: > 0, of student and teachers; the loss is scaled by its square.
    Returns: scalar, nats, mean over N; 0 where the student gives the mixture. Of teachers that all agree it is the
        plain distillation loss, whatever the weights.
    """
    student = F.log_softmax(in_float32(student_logits) / temperature, dim=1)
    target = log_mixture(in_float32(teacher_logits), log_weights, temperature)
    return F.kl_div(student, target, reduction="batchmean", log_target=True) * temperature**2


def fixed_log_weights(count: int, first: float = 0.0) -> Tensor:
    """The same weights for every image.

    Args:
        count: M, of teachers; at least 2.
        first: weight in [0, 1) of the first teacher, the others share the rest; 0: all alike.
    Returns: (1, M), natural logarithms.
    """
    weights = [first] + [(1 - first) / (count - 1)] * (count - 1) if first else [1 / count] * count
    return torch.tensor([weights]).log()


def entropy_log_weights(teacher_logits: Tensor) -> Tensor:
    """More weight for the teacher that is surer of an image: (1 - H_m / sum H) / (M - 1), H the entropies.

    Of two teachers that is weights in inverse proportion to the entropies; where no teacher has a doubt, all are alike.

    Args:
        teacher_logits: (N, M, K), unnormalised; M at least 2.
    Returns: (N, M), natural logarithms.
    """
    log_probs = F.log_softmax(in_float32(teacher_logits), dim=2)
    entropies = -(log_probs.exp() * log_probs).sum(2)
    tiny = torch.finfo(entropies.dtype).tiny
    shares = entropies.clamp_min(tiny) / entropies.clamp_min(tiny).sum(1, keepdim=True)
    return ((1 - shares) / (teacher_logits.shape[1] - 1)).clamp_min(tiny).log()


def confidence_log_weights(teacher_logits: Tensor, targets: Tensor) -> Tensor:
    """More weight for the teacher that is nearer to the label: (1 - softmax_m(L)) / (M - 1), L the cross-entropies.

    Args:
        teacher_logits: (N, M, K), unnormalised; M at least 2.
        targets: (N,) int64.
    Returns: (N, M), natural logarithms.
    """
    samples, count, _ = teacher_logits.shape
    log_probs = F.log_softmax(in_float32(teacher_logits), dim=2)
    losses = -log_probs[torch.arange(samples, device=targets.device), :, targets]
    shares = F.log_softmax(losses, dim=1)
    # 1 - softmax is the sum of the others' shares, which keeps its digits where one teacher takes nearly all of it
    own = torch.eye(count, dtype=torch.bool, device=shares.device)
    others = shares.unsqueeze(1).expand(samples, count, count).masked_fill(own, -math.inf)
    return others.logsumexp(2) - math.log(count - 1)


class _SeveralTeachers(Method):
    """alpha * T^2 * KL(mixture of the teachers || student) + (1 - alpha) * cross-entropy."""

    family = "several teachers"
    teachers = "many"

    class Options(Frozen):
        temperature: float = Field(default=4.0, gt=0)
        alpha: float = Field(default=0.9, gt=0, le=1, description="weight of the teachers' term")

    @property
    def hard_weight(self) -> float:
        return 1.0 - float(self.options.alpha)

    def prepare(self, setting: Setting) -> None:
        if len(setting.teachers) < 2:
            raise TrainError(f"{self.name} weighs teachers against each other, {len(setting.teachers)} given; try kd")

    @abstractmethod
    def log_weights(self, lesson: Lesson, teacher_logits: Tensor) -> Tensor:
        """(N, M) or (1, M), of the teachers' logits (N, M, K)."""

    def forward(self, lesson: Lesson) -> dict[str, Tensor]:
        said = _stacked(lesson)
        log_weights = self.log_weights(lesson, said)
        # the weights are the teachers' business: what the student learns never moves them
        term = mixture_kl(lesson.student.logits, said, log_weights.detach(), self.options.temperature)
        return {self.name: self.options.alpha * term, **self.more_terms(lesson, said, log_weights)}

    def more_terms(self, lesson: Lesson, teacher_logits: Tensor, log_weights: Tensor) -> dict[str, Tensor]:
        """What trains the weights themselves."""
        return {}


def _stacked(lesson: Lesson) -> Tensor:
    logits: Sequence[Tensor] = [teacher.logits for teacher in lesson.teachers]
    for teacher in logits:
        check_logits(lesson.student.logits, teacher)
    return in_float32(torch.stack(tuple(logits), dim=1))


class FixedWeights(_SeveralTeachers):
    """The same weights for every image."""

    name = "multi_fixed"
    paper = "You et al., KDD 2017"
    summary = "match the mean of several teachers' softened probabilities"

    class Options(_SeveralTeachers.Options):
        first_weight: float = Field(
            default=0.0, ge=0, lt=1, description="of the first teacher, the others share the rest; 0: all alike"
        )

    def log_weights(self, lesson: Lesson, teacher_logits: Tensor) -> Tensor:
        return fixed_log_weights(teacher_logits.shape[1], self.options.first_weight).to(teacher_logits)


class EntropyWeights(_SeveralTeachers):
    """For each image more weight for the teacher of less entropy; needs no label."""

    name = "multi_entropy"
    paper = "Kwon et al., ICASSP 2020"
    summary = "several teachers, the surer one of each image weighs more"

    def log_weights(self, lesson: Lesson, teacher_logits: Tensor) -> Tensor:
        return entropy_log_weights(teacher_logits)


class ConfidenceWeights(_SeveralTeachers):
    """For each image more weight for the teacher of less cross-entropy with the label."""

    name = "multi_confidence"
    paper = "arXiv:2201.00007"
    summary = "several teachers, the one nearer to each label weighs more"
    uses_labels = True

    def log_weights(self, lesson: Lesson, teacher_logits: Tensor) -> Tensor:
        return confidence_log_weights(teacher_logits, lesson.targets)


class GatedWeights(_SeveralTeachers):
    """A gate sees what the student makes of an image and what the teachers say, and learns whom to trust with it.

    It starts with equal weights and learns alongside, from the cross-entropy of the mixed prediction with the label.
    """

    name = "multi_gated"
    paper = "after arXiv:2103.04062"
    summary = "several teachers, weighed for each image by a small network that learns alongside"
    needs = ("logits", "pooled")
    teacher_needs = ("logits",)
    uses_labels = True

    class Options(_SeveralTeachers.Options):
        gate_width: int = Field(default=64, ge=1, description="hidden units of the gate")

    def prepare(self, setting: Setting) -> None:
        super().prepare(setting)
        count = len(setting.teachers)
        width = self.options.gate_width
        last = nn.Linear(width, count)
        nn.init.zeros_(last.weight)  # the first mixture is the plain mean
        nn.init.zeros_(last.bias)
        inputs = setting.student.pooled + count * setting.student.classes
        self.gate = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), last)

    def log_weights(self, lesson: Lesson, teacher_logits: Tensor) -> Tensor:
        # detached: the gate must not bend the student's features to its own ends
        seen = in_float32(lesson.student.vector).detach()
        return F.log_softmax(self.gate(torch.cat((seen, teacher_logits.softmax(2).flatten(1)), dim=1)), dim=1)

    def more_terms(self, lesson: Lesson, teacher_logits: Tensor, log_weights: Tensor) -> dict[str, Tensor]:
        return {"gate": F.nll_loss(log_mixture(teacher_logits, log_weights), lesson.targets)}


METHODS.add("multi_fixed", FixedWeights)
METHODS.add("multi_entropy", EntropyWeights)
METHODS.add("multi_confidence", ConfidenceWeights)
METHODS.add("multi_gated", GatedWeights)
