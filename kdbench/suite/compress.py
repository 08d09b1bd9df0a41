"""One stage of compression: the parent's network, pruned or quantised. Floor 5."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save
from torch import Tensor, nn

from kdbench.compress.artefact import as_json
from kdbench.compress.aware import fake_quantised, plain
from kdbench.compress.prune import Pruned, prune
from kdbench.compress.quantise import quantise
from kdbench.compress.structure import fit_structure
from kdbench.data.dataset import Dataset
from kdbench.data.views import Views
from kdbench.engine.evaluate import measure, predict
from kdbench.errors import RecordError
from kdbench.model import normalisation
from kdbench.profiling.latency import MIN_SAMPLES
from kdbench.profiling.profile import profile_model, time_model
from kdbench.profiling.runtime import Setting
from kdbench.seeding import derive
from kdbench.store import Store, write_atomic
from kdbench.suite.trained import load_trained, network_hash
from kdbench.types import Compression, Profile, ProfileSpec, Progress, PruneSpec, QuantiseSpec, RunSpec

_BATCH = 64  # images at once, of which importance is judged
_TIMED = 3 * MIN_SAMPLES  # passes of which a latency is judged, in each step of the search


@dataclass(frozen=True)
class Stage:
    """A stage at its begin.

    Attributes:
        network: what is fine-tuned; for a quantisation without one, the parent's.
        facts: what is known of the compression so far.
        calibration: normalised training images (N, 3, S, S) float32, to quantise by; none for pruning.
    """

    spec: RunSpec
    network: nn.Module
    facts: Compression
    calibration: np.ndarray = field(default_factory=lambda: np.zeros((0, 3, 0, 0), np.float32), repr=False)

    @property
    def tuned(self) -> bool:
        """Whether it is fine-tuned at all."""
        return self.spec.quantise is None or self.spec.quantise.kind == "aware"


def begin(spec: RunSpec, data: Dataset, store: Store, progress: Progress | None = None) -> Stage:
    """Take the parent's network and prune it, or make it ready to be quantised.

    Raises: RecordError, if the parent has left no network; CompressError.
    """
    parent = _parent(spec)
    facts = Compression(parent_weights=network_hash(parent, store, "parent"))
    network = load_trained(parent, len(data.classes), store)
    if spec.prune is not None:
        return _pruned(spec, spec.prune, network, facts, data, store, progress)
    if spec.quantise is None:
        return Stage(spec, network, facts)
    stage = Stage(spec, network, facts, _calibration(spec, spec.quantise, data))
    if stage.tuned:
        stage = replace(stage, network=fake_quantised(network, spec.dataset.image_size, stage.calibration))
    return stage


def quantised(
    stage: Stage,
    how: QuantiseSpec,
    network: nn.Module,
    data: Dataset,
    store: Store,
    progress: Progress | None = None,
) -> tuple[nn.Module, Compression]:
    """Write the file of a quantised network; returned is the file as a network, and all facts.

    Args:
        network: in eval mode, on the CPU; fine-tuned where that is asked for.
    Raises: CompressError; RuntimeUnavailable.
    """
    spec = stage.spec
    made = quantise(
        plain(network) if stage.tuned else network,
        how,
        spec.dataset.image_size,
        stage.calibration,
        store.artefact_path(spec.run_id),
        facts=_metadata(spec, data),
        progress=progress,
    )
    facts = stage.facts.model_copy(
        update={
            "seconds": round(made.seconds, 3),
            "versions": made.versions,
            "operators": made.quantised,
            "left": made.left,
        }
    )
    return load_trained(spec, len(data.classes), store), facts


def costs_of(spec: RunSpec, store: Store, num_classes: int) -> Profile:
    """Of a quantised network: the counts are those of its parent, the bytes those of its file."""
    counts = profile_model(
        load_trained(_parent(spec), num_classes, store), spec.dataset.image_size, ProfileSpec(), counts_only=True
    )
    size = store.artefact_path(spec.run_id).stat().st_size
    return counts.model_copy(update={"weight_bytes": size, "activation_bytes": None, "denormals": None})


def storable(model: nn.Module) -> dict[str, Tensor]:
    """The weights and buffers of a network, as safetensors takes them."""
    return {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}


# ---------------------------------------------------------------- parts


def _parent(spec: RunSpec) -> RunSpec:
    if spec.parent is None:
        raise RecordError(f"{spec.title} is no stage of compression: it has no parent")
    return spec.parent


def _pruned(
    spec: RunSpec,
    how: PruneSpec,
    network: nn.Module,
    facts: Compression,
    data: Dataset,
    store: Store,
    progress: Progress | None,
) -> Stage:
    """Prune, or go on from what was pruned before an interrupt: a latency is not measured alike twice."""
    kept = store.start_path(spec.run_id)
    known = _read_start(kept, network)
    if known is not None and known[1].parent_weights == facts.parent_weights:
        return Stage(spec, *known)
    # what a fine-tuning of another network has left is of no use to this one
    store.checkpoint_path(spec.run_id).unlink(missing_ok=True)
    started = time.perf_counter()
    image_size = spec.dataset.image_size

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        chosen = balanced(data, how.images, spec.seed)
        views = Views(None, *normalisation(spec.model))
        for start in range(0, len(chosen), _BATCH):
            part = chosen[start : start + _BATCH]
            yield views.batch(data, part, 0), torch.from_numpy(data.labels[part])

    def milliseconds(candidate: nn.Module) -> float:
        return time_model(candidate, image_size, Setting(how.runtime), _TIMED).median_ms

    made: Pruned = prune(
        network,
        how,
        image_size,
        batches=batches,
        measure_ms=milliseconds if how.latency is not None else None,
        seed=derive("prune", spec.seed),
        progress=progress,
    )
    seconds = round(time.perf_counter() - started, 3)
    val = data.splits["val"]
    logits = predict(made.network, data, val, Views(None, *normalisation(spec.model)))
    facts = facts.model_copy(
        update={
            "seconds": seconds,
            "reached": _reached(made, how),
            "untuned_accuracy": measure(logits, data.labels[val], data.classes).accuracy,
            "notes": _left(made),
        }
    )
    write_atomic(kept, save(storable(made.network), {"compression": facts.model_dump_json()}))
    return Stage(spec, made.network, facts)


def _reached(made: Pruned, how: PruneSpec) -> dict[str, float]:
    before, after = made.before, made.after
    counted = {
        "macs": after.macs / before.macs,
        "params": after.params / before.params,
        "bytes": after.bytes / before.bytes,
    }
    return counted | ({"latency": made.reached} if how.latency is not None else {})


def _left(made: Pruned) -> tuple[str, ...]:
    """Why layers kept all of their channels, each reason once."""
    reasons = Counter(made.left.values())
    return tuple(f"{count} layers keep all channels: {reason}" for reason, count in sorted(reasons.items()))


def _read_start(path: Path, parent: nn.Module) -> tuple[nn.Module, Compression] | None:
    """A pruned network and its facts from before an interrupt; None if there is none that can be used."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            facts = Compression.model_validate_json((file.metadata() or {})["compression"])
        network = fit_structure(parent, {name: tuple(tensor.shape) for name, tensor in load_file(path).items()})
        load_model(network, path)
    except Exception:  # a damaged file: it is made again
        return None
    return network.eval(), facts


def balanced(data: Dataset, count: int, seed: int) -> np.ndarray:
    """Indices of training images, of every class alike as far as it has some, in a mixed order; always the same."""
    train = data.splits["train"]
    generator = np.random.default_rng(derive("calibration", seed))
    by_class = [generator.permutation(train[data.labels[train] == label]) for label in range(len(data.classes))]
    # one of each class in turn, until there are enough
    places = [(place, label) for label, indices in enumerate(by_class) for place in range(len(indices))]
    chosen = np.array([by_class[label][place] for place, label in sorted(places)[:count]], dtype=np.int64)
    return generator.permutation(chosen)


def _calibration(spec: RunSpec, how: QuantiseSpec, data: Dataset) -> np.ndarray:
    chosen = balanced(data, how.images, spec.seed)
    return Views(None, *normalisation(spec.model)).batch(data, chosen, 0).contiguous().numpy()


def _metadata(spec: RunSpec, data: Dataset) -> Mapping[str, str]:
    """What the file says of itself, as that of an export does."""
    mean, std = normalisation(spec.model)
    return {
        "run_id": spec.run_id,
        "title": spec.title,
        "labels": as_json(data.classes).decode().strip(),
        "image_size": str(spec.dataset.image_size),
        "mean": " ".join(map(str, mean)),
        "std": " ".join(map(str, std)),
        "dataset": spec.dataset.name,
    }
