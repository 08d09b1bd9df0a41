"""What finished runs have left, as networks again. Floor 5."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_model
from torch import nn

from kdbench.compress.network import OnnxNetwork
from kdbench.compress.structure import fit_structure
from kdbench.engine.taps import Watched
from kdbench.errors import KdbenchError, RecordError, first_line
from kdbench.method import Method, Setting, build_method
from kdbench.model import build
from kdbench.store import Store, find_stores
from kdbench.suite.plan import fits
from kdbench.types import RunRecord, RunSpec

_LEAST_DIGITS = 6
_LISTED = 12  # runs that a message lists


def load_trained(spec: RunSpec, num_classes: int, store: Store) -> nn.Module:
    """The network of a finished run, in eval mode; of a quantised one as its runtime runs it.

    Raises: RecordError if it is missing or damaged; RuntimeUnavailable.
    """
    path = store.network_path(spec)
    if spec.quantise is None:
        return load_weights(spec, num_classes, path)
    if not path.is_file():
        raise RecordError(f"the file {path.name} of {spec.title} is not there; run its suite again")
    return OnnxNetwork(path)


def load_weights(spec: RunSpec, num_classes: int, path: Path) -> nn.Module:
    """What that run deploys, in eval mode, with weights of a file. Raises: RecordError if it is missing or damaged."""
    model = untrained(spec, num_classes)
    try:
        if any(stage.prune is not None for stage in spec.lineage):
            with safe_open(path, "pt") as file:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            model = fit_structure(model, shapes)
        load_model(model, path)
    except Exception as problem:
        what = first_line(problem) if isinstance(problem, KdbenchError) else problem
        raise RecordError(f"the weights {path.name} of {spec.title} cannot be used: {what}") from None
    return model.eval()


def untrained(spec: RunSpec, num_classes: int) -> nn.Module:
    """What a run deploys, before its weights are loaded: its network, with what its method adds to it.

    Of a stage of compression that is its first ancestor's, for the fine-tuning adds nothing.
    """
    spec = spec.lineage[0]
    model = build(spec.model.model_copy(update={"pretrained": False}), num_classes, spec.dataset.image_size)
    method = build_method(spec.method)
    if type(method).deploy is Method.deploy:
        return model
    networks = [model, *(untrained(teacher, num_classes) for teacher in spec.teachers)]
    student, *teachers = (Watched(network, spec.dataset.image_size).anatomy for network in networks)
    method.prepare(Setting(student, tuple(teachers), 1, None, spec.train.epochs, lambda: model))
    return method.deploy(model)


def structure_name(spec: RunSpec) -> str:
    """A name under which the tuning of networks of one structure is found again."""
    return " > ".join([spec.model.name, *(each.stage for each in spec.lineage[1:])])


def network_hash(spec: RunSpec, store: Store, who: str) -> str:
    """SHA-256 of what a run has left of its network.

    Args:
        who: what it is to the run that needs it: teacher, parent.
    Raises: RecordError if it is not there.
    """
    try:
        with store.network_path(spec).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        known = store.read_record(spec.run_id)
        if known is not None and known.status == "diverged":
            raise RecordError(f"its {who} {spec.title} diverged; lower that {who}'s learning rate") from None
        raise RecordError(f"its {who} {spec.title} has no weights; run the suite again") from None


def find_run(store: Store, run: str) -> RunRecord:
    """The one run with a result that is meant: by the first digits of its id, or by its title.

    Args:
        run: six digits of the id or more; or a title, a part of one, or a pattern with ``*``, ``?`` or ``[``. A
            compressed network is meant where no trained one fits, or a stage is named with `` > ``.
    Raises: RecordError if that is none or several, which are listed.
    """
    records = sorted(store.records(), key=lambda record: (record.spec.title, record.run_id))
    if not records:
        below = ", ".join(str(one.root) for one in find_stores(store.root)[:_LISTED])
        hint = f"there are some in {below}" if below else "give the results folder of a suite as --results"
        raise RecordError(f"{store.root} holds no records; {hint}")
    is_id = re.fullmatch(rf"[0-9a-f]{{{_LEAST_DIGITS},16}}", run) is not None
    found = [record for record in records if is_id and record.run_id.startswith(run)]
    found = found or [record for record in records if record.spec.title == run]
    found = found or [record for record in records if fits(record.spec, run)]
    found = [record for record in found if record.status == "ok"] or found
    if " > " not in run:  # a trained network has the name of all that became of it
        found = [record for record in found if record.spec.parent is None] or found
    if len(found) == 1:
        return found[0]
    if found:
        listed = "".join(f"\n  {record.run_id}  {record.spec.title}" for record in found[:_LISTED])
        more = f"\n  and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        raise RecordError(f"'{run}' is {len(found)} runs of {store.root}; give more of one's id:{listed}{more}")
    short = f"; an id needs {_LEAST_DIGITS} digits" if re.fullmatch(r"[0-9a-f]+", run) and not is_id else ""
    raise RecordError(
        f"there is no run '{run}' among the {len(records)} of {store.root}{short}; one is {records[0].run_id}, "
        f"'{records[0].spec.title}'"
    )
