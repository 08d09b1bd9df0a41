"""The nouns of kdbench: what is asked for (specs) and what came out (records). Floor 1; no torch.

All are frozen pydantic models that refuse unknown keys, so a record read back means what it meant when written.
Units stand in names; fractions are in [0, 1]; one multiply-add is 1 MAC.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SCHEMA_VERSION = 1
"""Of RunRecord: raised when a field changes its meaning or goes away."""

PROFILE_SCHEMA_VERSION = 1
"""Of ProfileRecord: raised when a field changes its meaning or goes away."""

EVALUATION_SCHEMA_VERSION = 1
"""Of EvaluationRecord: raised when a field changes its meaning or goes away."""

ENGINE_VERSION = 1
"""Part of every run_id: raised when the same spec would train to another result."""

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""

Scalar = bool | int | float | str
ModelKind = Literal["cnn", "vit"]
Role = Literal["teacher", "student"]
TeacherMode = Literal["cached", "live"]
SplitName = Literal["train", "val", "test"]
Status = Literal["ok", "failed", "diverged"]
Fit = Literal["crop", "stretch", "pad"]
Precision = Literal["fp32", "bf16"]
"""What torch computes in, in training and after."""
RunPrecision = Literal["fp32", "bf16", "int8"]
"""What a runtime computes in; int8 is a file of its own, which a quantised run has left."""
StainMethod = Literal["none", "macenko", "reinhard"]
Device = Literal["cpu", "cuda"]


class Frozen(BaseModel):
    """The base of every type here: immutable, no unknown keys, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    def __hash__(self) -> int:
        # over canonical JSON: fields may be mappings, which pydantic's own hash of frozen models cannot take, and
        # equal models must have equal hashes whatever the order of keys and whether a number says 2 or 2.0
        return hash(content_id(self.model_dump(mode="json")))


def later(default: Any, **facts: Any) -> Any:
    """A field that came after the first records: at its default it is not part of an id, so their ids still hold."""
    return Field(default=default, json_schema_extra={"later": True}, **facts)


# ---------------------------------------------------------------- what the registries hold


class ModelSpec(Frozen):
    """One architecture of the registry: timm behind it, facts beside it."""

    name: str
    architecture: str = Field(description="the timm name that builds it")
    kind: ModelKind
    roles: tuple[Role, ...]
    paper: str = Field(description="arXiv number or citation of the architecture")
    licence: str = "Apache-2.0"
    arguments: dict[str, Any] = Field(default_factory=dict, description="passed to timm.create_model")
    note: str = ""


# ---------------------------------------------------------------- what is asked for


class ModelChoice(Frozen):
    """A model as a suite asks for it."""

    name: str
    pretrained: bool | str = Field(default=False, description="true: the published weights; a path: that file")
    weights: str = later("", description="SHA-256 of that file, filled in when resolved; the path is then no identity")
    patch_size: int | None = Field(default=None, ge=1, description="ViT only; None adapts it to the image size")

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class DatasetSpec(Frozen):
    """Which images, decoded how, split how."""

    name: str
    image_size: int = Field(default=64, ge=16, le=1024, description="pixels, both sides")
    fit: Fit = "crop"
    crop_fraction: float = Field(default=1.0, gt=0, le=1, description="of the shorter side, for fit: crop")
    val_fraction: float = Field(default=0.1, gt=0, lt=0.5)
    test_fraction: float = Field(default=0.2, gt=0, lt=0.5, description="unused where the source gives its test set")
    split_seed: int = Field(default=0, ge=0)
    train_limit: int | None = Field(default=None, ge=1, description="a stratified part of the training images")
    sources: tuple[str, ...] = Field(default=(), description="of a union; empty: every one that is on this disk")
    options: dict[str, Scalar] = Field(default_factory=dict, description="of a generated source")
    content: str = Field(default="", description="hash of the images' bytes and labels, filled in when resolved")
    protocol: str = later("", description='how it is split (`kdbench list protocols`); "": the data set\'s usual one')
    protocol_version: int = later(1, ge=1, description="filled in when resolved: another version is another split")
    fold: int = later(0, ge=0, description="which part is the test set, of a protocol with several folds")
    held_out: str = later("", description="the source that is the test set, of a protocol that leaves one out")
    stain: StainMethod = later("none", description="every image brought to one stain, when it is decoded")

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class ViewSpec(Frozen):
    """The augmentation: each sample's view is a pure function of (seed, epoch, index). All magnitudes are maxima."""

    seed: int = Field(default=0, ge=0)
    pool: int | None = Field(default=None, ge=1, description="views per image, seen in turn; None: a new one an epoch")
    horizontal_flip: bool = True
    vertical_flip: bool = True
    quarter_turns: bool = True
    rotation_degrees: float = Field(default=10.0, ge=0, le=180)
    scale: float = Field(default=0.1, ge=0, lt=1, description="zoom by a factor in [1 - scale, 1 + scale]")
    translation: float = Field(default=0.05, ge=0, lt=0.5, description="fraction of the side")
    brightness: float = Field(default=0.1, ge=0, lt=1)
    contrast: float = Field(default=0.1, ge=0, lt=1)
    saturation: float = Field(default=0.1, ge=0, lt=1)
    stain: float = Field(default=0.05, ge=0, lt=1, description="gain of each stain's optical density")
    mixup: float = later(0.0, ge=0, description="Beta parameter of the blend of two images; 0: off")
    cutmix: float = later(0.0, ge=0, description="Beta parameter of the share of a pasted patch; 0: off")
    mixed_share: float = later(1.0, ge=0, le=1, description="of the images, how many are mixed at all")
    hue_degrees: float = later(0.0, ge=0, le=180, description="rotation of the chroma plane; grey and luma stay")
    white_balance: float = later(0.0, ge=0, lt=1, description="gain of each channel by itself, within 1 +- this")


class TrainSpec(Frozen):
    """How one network is trained."""

    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=64, ge=1)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1, description="sgd only (Nesterov)")
    warmup_epochs: float = Field(default=1.0, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    ema_decay: float | None = Field(default=None, gt=0, lt=1, description="per step; the averaged weights are kept")
    clip_norm: float | None = Field(default=None, gt=0, description="largest norm of the whole gradient")
    precision: Precision | Literal["auto"] = Field(default="fp32", description="auto: the quicker of fp32 and bf16")
    channels_last: bool | Literal["auto"] = Field(default=True, description="auto: the quicker memory format")
    threads: Literal["all", "auto"] = later("all", description="auto: the quicker number of the usable cores")
    attention: Literal["fused", "auto"] = later("fused", description="auto: torch's fused one, or plain where quicker")
    compile: bool = later(False, description="torch.compile, where it works; the record says whether it did")
    sampling: Literal["uniform", "balanced"] = later("uniform", description="balanced: every class equally often")
    class_weights: Literal["none", "balanced"] = later("none", description="of the hard-label loss: 1 / frequency")
    freeze: int = later(
        0, ge=-1, description="layer groups from the stem on that stay as they are; -1: all but the head"
    )


class MethodSpec(Frozen):
    """A distillation method with its options; ``ground_truth: false`` turns the hard-label term off."""

    name: str
    ground_truth: bool = True
    options: dict[str, Scalar] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def label(self) -> str:
        """How tables call it."""
        return self.name if self.ground_truth else f"{self.name} (no ground truth)"


class TeachingSpec(Frozen):
    """How a run gets at what its teachers say."""

    outputs: TeacherMode | Literal["auto"] = Field(
        default="auto", description="auto: cached, unless feature maps would take more room than maps_limit_bytes"
    )
    maps_limit_bytes: int = Field(default=2 * 2**30, ge=0, description="of one teacher's maps over all views")


class PruneSpec(Frozen):
    """Structured pruning: whole channels, attention heads and hidden units leave until a target is met.

    Exactly one target is given: what may stay, as a fraction of the network that is pruned.
    """

    macs: float | None = Field(default=None, gt=0, lt=1, description="of its multiply-adds")
    params: float | None = Field(default=None, gt=0, lt=1, description="of its parameters")
    bytes: float | None = Field(default=None, gt=0, lt=1, description="of the bytes of its weights")
    latency: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="of its latency in `runtime`, measured here: another machine prunes otherwise",
    )
    runtime: str = Field(default="eager", description="for latency: what runs it, one image on one thread")
    importance: str = Field(default="magnitude", description="which go first (`kdbench list importances`)")
    steps: int = Field(default=1, ge=1, description="how often importance is judged anew on the way")
    round_to: int = Field(
        default=8, ge=1, description="channels that stay are a multiple of it, where there are enough"
    )
    images: int = Field(default=256, ge=1, description="training images that a data-driven importance looks at")

    @model_validator(mode="after")
    def _one_target(self) -> PruneSpec:
        given = [name for name in PRUNE_TARGETS if getattr(self, name) is not None]
        if len(given) != 1:
            what = f"{' and '.join(given)} are given" if given else "nothing is given"
            raise ValueError(f"exactly one of {', '.join(PRUNE_TARGETS)} says how much may stay, and {what}")
        return self

    @property
    def target(self) -> tuple[str, float]:
        """Its name and the fraction that may stay."""
        return next((name, value) for name in PRUNE_TARGETS if (value := getattr(self, name)) is not None)

    @property
    def label(self) -> str:
        """How tables call it: ``macs 50 %``, and by which importance if not by the usual one."""
        name, value = self.target
        usual = type(self).model_fields["importance"].default
        by = "" if self.importance == usual else f" by {self.importance}"
        return f"{name} {100 * value:g} %{by}"


PRUNE_TARGETS = ("macs", "params", "bytes", "latency")


class QuantiseSpec(Frozen):
    """Int8 weights and activations, as a file that a runtime runs."""

    kind: Literal["static", "dynamic", "aware"] = Field(
        default="static",
        description="static: ranges of activations from images; dynamic: from each image, when it is run; aware: "
        "static after a fine-tuning that already rounds",
    )
    toolkit: Literal["onnxruntime", "nncf"] = Field(default="onnxruntime", description="what quantises; nncf: an extra")
    images: int = Field(
        default=256, ge=1, description="training images that ranges are taken from, of all classes alike"
    )
    ranges: Literal["minmax", "percentile"] = Field(
        default="minmax", description="of activations: all values, or all but the most extreme 0.001 %"
    )

    @property
    def label(self) -> str:
        """How tables call it: ``int8``, and how, if not in the usual way."""
        how: list[str] = [self.kind] if self.kind != "static" else []
        how += [self.ranges] if self.ranges != "minmax" else []
        how += [self.toolkit] if self.toolkit != "onnxruntime" else []
        return " ".join(["int8", *how])


class RunSpec(Frozen):
    """One training run, whole: two equal specs give equal results. Teachers stand inside, so no file is needed to
    know what a student was taught by.

    A run with a parent begins with what that run left, and is one stage of its compression: pruned and fine-tuned, or
    quantised.
    """

    role: Role
    dataset: DatasetSpec
    model: ModelChoice
    method: MethodSpec
    teachers: tuple[RunSpec, ...] = ()
    views: ViewSpec = ViewSpec()
    train: TrainSpec = TrainSpec()
    seed: int = Field(default=0, ge=0)
    teaching: TeachingSpec = later(TeachingSpec())
    parent: RunSpec | None = later(None, description="the run whose network is compressed; of the same seed")
    prune: PruneSpec | None = later(None)
    quantise: QuantiseSpec | None = later(None)
    engine_version: int = ENGINE_VERSION

    @model_validator(mode="after")
    def _one_stage(self) -> RunSpec:
        stages = sum(stage is not None for stage in (self.prune, self.quantise))
        if stages != (self.parent is not None):
            raise ValueError("a run with a parent is pruned or quantised, one of them; a run without is neither")
        if self.parent is not None and self.parent.seed != self.seed:
            raise ValueError(f"the seed is {self.seed}, that of its parent {self.parent.seed}; they have to be equal")
        if self.parent is not None and self.parent.quantise is not None:
            raise ValueError("a quantised network is the last stage; prune it before")
        return self

    @property
    def run_id(self) -> str:
        """16 hex digits over everything in the spec."""
        return content_id(identity(self))

    @property
    def cell_id(self) -> str:
        """The same without the run's own seed: the runs of one cell are repetitions of each other."""
        return content_id(_cell(self))

    @property
    def lineage(self) -> tuple[RunSpec, ...]:
        """What it was before, the trained network first, and itself."""
        return (*self.parent.lineage, self) if self.parent is not None else (self,)

    @property
    def needed(self) -> tuple[RunSpec, ...]:
        """The runs whose networks it takes: its teachers, and its parent."""
        return (*self.teachers, *([self.parent] if self.parent is not None else []))

    @property
    def stage(self) -> str:
        """What was done to its parent's network, as tables call it; "" for a run without one."""
        if self.prune is not None:
            return self.prune.label
        return self.quantise.label if self.quantise is not None else ""

    @property
    def title(self) -> str:
        """A short name for people, not unique."""
        first = self.lineage[0]
        teachers = "+".join(teacher.model.name for teacher in first.teachers)
        taught = f" < {teachers}" if teachers else ""
        stages = "".join(f" > {each.stage}" for each in self.lineage[1:])
        return f"{self.dataset.name}/{self.model.name}/{first.method.label}{taught}{stages}/seed{self.seed}"


class ProfileSpec(Frozen):
    """What is measured of every trained model. Not part of a run's identity: it changes no weight."""

    batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = (1,)
    threads: tuple[Annotated[int, Field(ge=1)], ...] = (1,)
    samples: int = Field(default=50, ge=5, description="timed forward passes for each batch size and thread count")


class SourceDeclaration(Frozen):
    """A data set of the user's own: a folder for each class, or a table with a line for each image.

    Paths may begin with ``~``; relative ones begin at the folder of the file that the declaration stands in.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    folder: str | None = Field(default=None, min_length=1, description="holds <class>/, or {train,val,test}/<class>/")
    csv: str | None = Field(default=None, min_length=1, description="a table with a header, instead of folder")
    image: str = Field(default="image", description="of csv: the column of the file's path")
    label: str = Field(default="label", description="of csv: the column of the class")
    split: str | None = Field(default=None, description="of csv: the column of the side; None: kdbench splits")
    group: str | None = Field(default=None, description="of csv: the column of what must stay on one side: a patient")
    delimiter: str | None = Field(default=None, description="of csv: None is a comma, in a .tsv file a tab")
    root: str | None = Field(default=None, min_length=1, description="of csv: where its paths begin; None: its folder")
    labels: tuple[str, ...] | dict[str, str] | None = Field(
        default=None, description="the classes in their order, or label by folder or code; None: all there are, sorted"
    )
    title: str = ""
    licence: str = ""
    citation: str = ""
    url: str = ""

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        if value is not None and (len(value) != 1 or value in '"\r\n'):
            raise ValueError(f'one character such as ";" or "\\t" (in double quotes) is wanted, not {value!r}')
        return value

    @field_validator("labels", mode="before")
    @classmethod
    def _distinct_labels(cls, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, dict):
            codes, labels = [_label(key) for key in value], [_label(item) for item in value.values()]
            checked: Any = dict(zip(codes, labels, strict=True))
        elif isinstance(value, list | tuple):
            codes = labels = [_label(item) for item in value]
            checked = tuple(labels)
        else:
            raise ValueError("a list of labels is wanted, or a mapping from folder or code to label")
        if twice := sorted({code for code in codes if codes.count(code) > 1}):
            raise ValueError(f"{', '.join(map(repr, twice))} stands twice; keep one")
        if len(set(labels)) < 2:
            raise ValueError(f"a classifier needs at least two labels, not {len(set(labels))}")
        return checked

    @model_validator(mode="after")
    def _folder_or_csv(self) -> SourceDeclaration:
        if (self.folder is None) == (self.csv is None):
            raise ValueError("either folder or csv has to say where the images are")
        columns = ("image", "label", "split", "group", "delimiter", "root")
        if self.folder is not None and (stray := [key for key in columns if key in self.model_fields_set]):
            raise ValueError(f"{', '.join(stray)} goes with csv, not with folder")
        return self


def _label(value: Any) -> str:
    """A label or code as written; YAML takes codes for numbers, and yes and no for truth values."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"a label is text; put {value!r} in quotes as it is written on the disk")
    return value.strip()


# ---------------------------------------------------------------- what came out


class Metrics(Frozen):
    """Of one model on one split."""

    accuracy: float = Field(ge=0, le=1)
    macro_f1: float = Field(ge=0, le=1, description="mean over the classes that occur in the split")
    loss: float = Field(ge=0, description="cross-entropy, nats, mean over images")
    recall: dict[str, float] = Field(description="by class; only classes that occur in the split")
    count: int = Field(ge=1, description="images")


class EpochLog(Frozen):
    """One line of the training curve."""

    epoch: int
    train_loss: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    seconds: float


class Memory(Frozen):
    """What one forward pass needs besides the runtime itself."""

    peak_rss_bytes: int | None = Field(
        default=None,
        description="highest resident memory of an isolated process while it runs the model, above what it held "
        "before the model was loaded: weights, activations and what the runtime keeps for them",
    )
    cuda_allocated_bytes: int | None = Field(default=None, description="highest, by torch's allocator")
    cuda_reserved_bytes: int | None = Field(default=None, description="highest, by torch's allocator")


class Latency(Frozen):
    """Time of one forward pass on one machine in one setting."""

    runtime: str
    precision: RunPrecision
    batch_size: int
    threads: int
    median_ms: float
    iqr_ms: float
    samples: int
    unstable: bool = Field(
        description="the interquartile range is above 10 % of the median, or something else was at work"
    )
    device: Device = "cpu"
    library: str = Field(default="", description='what ran it, with its version; "": the environment\'s torch')
    interval_ms: tuple[float, float] | None = Field(default=None, description="95 % bootstrap interval of the median")
    p90_ms: float | None = Field(default=None, description="None: too few samples for it")
    p99_ms: float | None = Field(default=None, description="None: too few samples for it")
    prepare_ms: float | None = Field(
        default=None, description="loading it, with what the runtime optimises or compiles"
    )
    cold_ms: float | None = Field(default=None, description="the first call after that")
    steady: bool | None = Field(default=None, description="whether the warm-up reached steady times")
    isolated: bool = Field(
        default=False, description="in a process of its own, in rounds that took turns with those of other models"
    )
    among: int | None = Field(default=None, description="networks that took turns, itself included, where they did")
    rounds_ms: tuple[tuple[float, ...], ...] = Field(default=(), description="the samples of the figure, by round")
    disturbed_ms: tuple[float, ...] = Field(
        default=(), description="passes left out, as the system gave the processor to somebody else meanwhile"
    )
    memory: Memory | None = None
    energy_j: float | None = Field(default=None, description="of one forward pass, by the platform's own counter")
    note: str = ""


class LayerCost(Frozen):
    """One module of a network and what it does itself, without its submodules; of one image."""

    name: str = Field(description='its path in the network; "": the network itself')
    kind: str = Field(description="its class")
    params: int
    macs: int
    activations: int = Field(description="values its multiply-add operators put out")
    output: tuple[int, ...] | None = Field(default=None, description="shape; None if it gives no single tensor")
    operators: dict[str, int] = Field(default_factory=dict, description="multiply-adds by operator")
    not_counted: dict[str, int] = Field(default_factory=dict, description="calls of operators outside macs")


class CrossCheck(Frozen):
    """The same network by another counter."""

    counter: str = Field(description="with its version")
    macs: int
    difference: float = Field(description="(macs - ours) / ours; 0 if both are 0")
    reasons: tuple[str, ...] = Field(default=(), description="what makes the difference, the largest part first")


class Profile(Frozen):
    """What a model costs. Counts hold anywhere; latencies belong to the record's environment."""

    image_size: int
    params: int
    macs: int = Field(description="multiply-adds of one image")
    flops: int = Field(description="2 x macs")
    weight_bytes: int = Field(description="parameters and buffers as stored")
    not_counted: dict[str, int] = Field(default_factory=dict, description="operators outside macs, with their calls")
    latencies: tuple[Latency, ...] = ()
    trainable_params: int | None = None
    activations: int | None = Field(default=None, description="values that multiply-add operators put out, one image")
    activation_bytes: int | None = Field(
        default=None, description="estimate: most bytes of activations alive at once in one forward pass of one image"
    )
    denormals: int | None = Field(default=None, description="weights other than 0 below the type's smallest normal")
    by_operator: dict[str, int] = Field(default_factory=dict, description="macs by operator")
    layers: tuple[LayerCost, ...] = Field(default=(), description="in the order of the network; () if not asked for")
    cross_check: CrossCheck | None = None


class Environment(Frozen):
    """The machine and the software of a run: an allow-list, never the process environment."""

    fingerprint: str = Field(description="hash of what latency depends on; two fingerprints share no ranked column")
    cpu: str
    cpu_flags: tuple[str, ...]
    cores: int = Field(description="usable by this process")
    memory_bytes: int
    gpu: str | None
    system: str
    python: str
    versions: dict[str, str]
    threads: int = Field(description="torch's intra-op threads while training")
    kdbench: str
    commit: str | None
    dirty: bool | None
    affinity: int | None = Field(default=None, description="processors this process may be put on")
    quota_cores: float | None = Field(default=None, description="what the control group grants; None: no limit")
    governor: str | None = Field(default=None, description="of the clock; None: not told")
    clock_mhz: tuple[float, float] | None = Field(default=None, description="lowest and highest set; None: not told")
    load: tuple[float, float] | None = Field(default=None, description="1 min load average, at start and end")
    flush_denormal: bool | None = None
    thread_settings: dict[str, str] = Field(default_factory=dict, description="thread variables that are set")
    gpu_driver: str | None = None
    gpu_clock_mhz: tuple[int, int] | None = Field(default=None, description="of the GPU's cores: now, at most")
    gpu_throttle: tuple[str, ...] = Field(default=(), description="why the GPU's clock is held down")


class Tuning(Frozen):
    """How a network was run: chosen by the spec, or by a short probe on this machine."""

    memory_format: Literal["channels_last", "contiguous"]
    precision: Precision
    threads: int = Field(ge=1)
    attention: Literal["fused", "plain"] = Field(default="fused", description="plain: matrix products and a softmax")
    compiled: bool = False
    probe_ms: dict[str, float] = Field(default_factory=dict, description="of one step, by setting; {}: not probed")
    note: str = Field(default="", description="why something asked for was not done")


class LeftOut(Frozen):
    """A file, or a folder of files, of a source that is not in the data set, and why."""

    path: str
    reason: str
    count: int = 1


class DataCard(Frozen):
    """Which images a run saw."""

    name: str
    sources: dict[str, int] = Field(description="images taken from each source")
    classes: tuple[str, ...]
    splits: dict[SplitName, dict[str, int]] = Field(description="images by class in each split")
    content_hash: str
    duplicates: int = Field(default=0, description="images whose bytes occur more than once; kept on one side")
    left_out: tuple[LeftOut, ...] = ()
    caveats: tuple[str, ...] = ()
    protocol: str = Field(default="", description='how it was split, with its version; "": not noted')
    leak: str = Field(default="", description='why a model may know test images already; "": it does not')
    independent: dict[SplitName, int] = Field(
        default_factory=dict,
        description="of each split, groups of images that do not depend on each other: originals, not their copies",
    )


class Failure(Frozen):
    """Why a run has no result."""

    kind: str
    message: str


class Compression(Frozen):
    """What a stage of compression did to the network of its parent."""

    parent_weights: str = Field(description="SHA-256 of the parent's weights")
    seconds: float = Field(default=0.0, ge=0, description="of the pruning or quantising itself, without fine-tuning")
    reached: dict[str, float] = Field(
        default_factory=dict, description="what is left of the parent's macs, params, bytes and, if asked for, latency"
    )
    untuned_accuracy: float | None = Field(
        default=None, description="on the validation images, right after pruning and before the fine-tuning"
    )
    versions: dict[str, str] = Field(default_factory=dict, description="of the libraries that quantised it")
    operators: dict[str, int] = Field(
        default_factory=dict, description="operators with multiply-adds that compute in int8, by kind"
    )
    left: dict[str, int] = Field(default_factory=dict, description="of such operators, those that stay in fp32")
    notes: tuple[str, ...] = ()


class RunRecord(Frozen):
    """One run, one JSON file; every table is made from these alone."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    cell_id: str
    status: Status
    spec: RunSpec
    started: str = Field(description="ISO 8601, UTC")
    train_seconds: float = Field(ge=0, description="of the training loop alone, over all its sittings")
    teacher_seconds: float = Field(default=0.0, ge=0, description="on teacher outputs in the last sitting; 0: replayed")
    teacher_outputs: Literal["none", "cached", "live", "both"] = Field(
        default="none",
        description="cached: replayed from disk; live: run beside the student; both: of several teachers",
    )
    teacher_bytes: int = Field(default=0, ge=0, description="of the cached outputs this run reads, over all its views")
    tuning: Tuning | None = None
    teacher_weights: tuple[str, ...] = Field(default=(), description="SHA-256 of the weights it was taught by")
    best_epoch: int | None = None
    history: tuple[EpochLog, ...] = ()
    val_metrics: Metrics | None = None
    test_metrics: Metrics | None = None
    profile: Profile | None = None
    compression: Compression | None = Field(default=None, description="of a run with a parent")
    environment: Environment
    data: DataCard | None = None
    failure: Failure | None = None
    command: str = ""


class ProfileRecord(Profile):
    """A model's costs as a file of their own: measured on the target, taken in by a report elsewhere."""

    kind: Literal["kdbench-profile"] = "kdbench-profile"
    schema_version: int = PROFILE_SCHEMA_VERSION
    model: str = Field(description="how tables call it")
    choice: ModelChoice
    num_classes: int
    run_id: str = Field(default="", description='of the run that trained it; "": it is not trained')
    title: str = Field(default="", description="of that run")
    started: str = Field(description="ISO 8601, UTC")
    environment: Environment
    failures: dict[str, str] = Field(default_factory=dict, description="why a setting has no figure, by setting")
    command: str = ""


class EvaluateSpec(Frozen):
    """What trained models are tried on besides their own test images. Not part of a run's identity: it changes no
    weight.
    """

    on: tuple[DatasetSpec, ...] = Field(default=(), description="further data sets; all of their images are tested")
    corruptions: tuple[str, ...] = Field(
        default=(), description="of the test images (`kdbench list corruptions`); all: every one there is"
    )
    levels: tuple[Annotated[int, Field(ge=1, le=5)], ...] = Field(default=(1, 2, 3, 4, 5), min_length=1)

    @field_validator("on", "corruptions", "levels", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | int) and not isinstance(value, bool) else value


class Corrupted(Frozen):
    """How a model does on corrupted test images."""

    corruption: str
    level: int = Field(ge=1, le=5)
    accuracy: float = Field(ge=0, le=1)
    macro_f1: float = Field(ge=0, le=1)
    ece: float = Field(ge=0, le=1, description="expected calibration error, 15 bins of equal width")


class EvaluationRecord(Frozen):
    """A trained model on further images, or on corrupted ones; one JSON file each."""

    kind: Literal["kdbench-evaluation"] = "kdbench-evaluation"
    schema_version: int = EVALUATION_SCHEMA_VERSION
    evaluation_id: str = Field(description="hash of the run, the data set and the side")
    run_id: str = Field(description="of the run that trained the model")
    title: str = Field(default="", description="of that run")
    on: DatasetSpec = Field(description="the images, resolved")
    side: Literal["test", "all"] = Field(description="test: the run's own test images; all: a further data set")
    weights: str = Field(default="", description='SHA-256 of the weights that were tried; "": not noted')
    metrics: Metrics | None = Field(default=None, description="of the images as they are")
    corrupted: tuple[Corrupted, ...] = ()
    data: DataCard | None = None
    started: str = Field(description="ISO 8601, UTC")
    environment: Environment
    failure: Failure | None = Field(
        default=None, description="why something asked for is missing; what is there holds all the same"
    )
    command: str = ""

    @property
    def items_key(self) -> str:
        """Of a further data set, the name of the file that lists the images its predictions belong to."""
        return items_key(self.on, self.data.classes if self.data else ())


def items_key(on: DatasetSpec, classes: tuple[str, ...]) -> str:
    """Names the list of all images of a data set that are of these classes: those a model knows."""
    return content_id([identity(on), "all", classes])


def evaluation_id(run_id: str, on: DatasetSpec, side: Literal["test", "all"]) -> str:
    """16 hex digits over what an evaluation is of; what it is tried on of corruptions adds to the same record."""
    return content_id([run_id, identity(on), side])


def setting_text(runtime: str, precision: str, device: str, batch_size: int, threads: int) -> str:
    """What a latency is measured under, as people read it and as ``failures`` of a profile names it."""
    where = "" if device == "cpu" else f" on {device}"
    return f"{runtime} {precision}{where}, batch {batch_size}, {threads} thread{'s' if threads != 1 else ''}"


# ---------------------------------------------------------------- identity


def identity(value: Any) -> Any:
    """What of a spec goes into its id: all of it, less the later fields that are at their defaults."""
    if isinstance(value, Frozen):
        facts: dict[str, Any] = {}
        for name, field in type(value).model_fields.items():
            own = getattr(value, name)
            extra = field.json_schema_extra
            if not (isinstance(extra, dict) and extra.get("later") and own == field.default):
                facts[name] = identity(own)
        if facts.get("weights"):  # the file's content says it all; where it lies changes nothing
            facts["pretrained"] = True
        return facts
    if isinstance(value, dict):
        return {key: identity(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [identity(item) for item in value]
    return value


def _cell(spec: RunSpec) -> dict[str, Any]:
    """A run's identity without its seed, which its lineage shares."""
    facts = {key: value for key, value in identity(spec).items() if key != "seed"}
    if spec.parent is not None:
        facts["parent"] = _cell(spec.parent)
        own = set(spec.lineage)
        facts["teachers"] = [_cell(one) if one in own else identity(one) for one in spec.teachers]
    return facts


def content_id(value: Any) -> str:
    """16 hex digits of SHA-256 over the canonical JSON of value: keys sorted, 1 and 1.0 equal."""
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
