"""From YAML to a Suite; every problem is reported at once, with its line and key. Floor 2.

A suite carries names and numbers, never import paths. Which names exist is asked of the caller, because the
registries stand on a higher floor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from kdbench.choices import DeviceProfile
from kdbench.errors import ConfigError, KdbenchError, MissingData, UnknownName
from kdbench.types import (
    DatasetSpec,
    EvaluateSpec,
    Frozen,
    MethodSpec,
    ModelChoice,
    ProfileSpec,
    PruneSpec,
    QuantiseSpec,
    Scalar,
    SourceDeclaration,
    TeachingSpec,
    TrainSpec,
    ViewSpec,
)

T = TypeVar("T")


class Names(Protocol):
    """What a suite's names are checked against; each method raises a KdbenchError that says what to try."""

    def declare(self, declaration: SourceDeclaration) -> SourceDeclaration:
        """Make a data set known by its name. Returns: the declaration with absolute paths."""
        ...

    def model(self, choice: ModelChoice) -> None: ...
    def dataset(self, spec: DatasetSpec) -> None: ...
    def method(self, method: MethodSpec) -> dict[str, Scalar]:
        """The method's options with its defaults filled in."""
        ...

    def corruption(self, name: str) -> None: ...
    def pruning(self, spec: PruneSpec) -> None: ...


def _known(value: Any, info: ValidationInfo) -> Any:
    """Check one spec against the names of the validation context; a problem is reported at that spec's own line."""
    context = info.context or {}
    names: Names | None = context.get("names")
    if names is None:
        return value
    try:
        if isinstance(value, SourceDeclaration):
            return names.declare(value)
        if isinstance(value, ModelChoice):
            names.model(value)
        elif isinstance(value, DatasetSpec):
            names.dataset(value)
        elif isinstance(value, MethodSpec):
            return value.model_copy(update={"options": names.method(value)})
        elif isinstance(value, PruneSpec):
            names.pruning(value)
        elif isinstance(value, str):
            names.corruption(value)
    except ConfigError as problem:
        raise ValueError("; ".join(problem.problems)) from None
    except UnknownName as problem:
        if problem.name not in context.get("declared", ()):  # else its declaration is wrong, and says so itself
            raise ValueError(str(problem)) from None
    except KdbenchError as problem:
        raise ValueError(str(problem)) from None
    return value


KnownSource = Annotated[SourceDeclaration, AfterValidator(_known)]
KnownModel = Annotated[ModelChoice, AfterValidator(_known)]
KnownDataset = Annotated[DatasetSpec, AfterValidator(_known)]
KnownMethod = Annotated[MethodSpec, AfterValidator(_known)]
KnownCorruption = Annotated[str, AfterValidator(_known)]
KnownPruning = Annotated[PruneSpec, AfterValidator(_known)]

if TYPE_CHECKING:
    _Overrides = Frozen
else:
    # TrainSpec with every field optional: what a teacher or student changes of the suite's own
    _Overrides = create_model(
        "TrainOverrides",
        __base__=Frozen,
        **{
            # the bounds stand in the metadata; Annotated[...] carries them over
            name: (Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation, None)
            for name, field in TrainSpec.model_fields.items()
        },
    )


def changed_training(default: TrainSpec, changes: _Overrides) -> TrainSpec:
    """A training with what an entry changes of it."""
    return default.model_copy(update=changes.model_dump(exclude_unset=True))


class _Entry(Frozen):
    model: KnownModel
    train: _Overrides = _Overrides()

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    def train_spec(self, default: TrainSpec) -> TrainSpec:
        """The suite's training with this entry's changes."""
        return changed_training(default, self.train)


class TeacherEntry(_Entry):
    """A teacher of a suite; trained once, with one seed, for all students."""

    seed: int = Field(default=0, ge=0)


class StudentEntry(_Entry):
    """A student of a suite; trained with every method, teacher and seed, and without a teacher."""


class CompressEntry(Frozen):
    """What becomes of trained students: pruned and fine-tuned, step by step, then quantised; each step is a run."""

    of: str = Field(default="", description='a part, or a pattern, of the titles of students; "": all of them')
    prune: tuple[KnownPruning, ...] = Field(default=(), description="one after the other, each fine-tuned")
    distil: KnownMethod = Field(default=MethodSpec(name="kd"), description="the method of the fine-tuning")
    teacher: Literal["unpruned", "teacher"] = Field(
        default="unpruned",
        description="who teaches the fine-tuning: the network as it was before, or what taught that one; a network "
        "that had no teacher is taught by itself",
    )
    train: _Overrides = Field(default=_Overrides(), description="of the fine-tuning")
    quantise: QuantiseSpec | None = None

    @field_validator("prune", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return () if value is None else (value,) if isinstance(value, dict) else value

    @field_validator("quantise", mode="before")
    @classmethod
    def _int8(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value != "int8":
                raise ValueError(f"int8 is the only format, not {value!r}; or give a mapping, as {{kind: dynamic}}")
            return {}
        return value

    @model_validator(mode="after")
    def _something(self) -> CompressEntry:
        if not self.prune and self.quantise is None:
            raise ValueError("nothing is compressed; give prune, quantise or both")
        return self


class EvaluateEntry(EvaluateSpec):
    """What a suite tries its trained models on besides their own test images."""

    on: tuple[KnownDataset, ...] = ()
    corruptions: tuple[KnownCorruption, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _on_is_a_name(cls, value: Any) -> Any:
        """YAML 1.1 takes a bare ``on`` for a truth value, of a key too."""
        return {"on" if key is True else key: item for key, item in value.items()} if isinstance(value, dict) else value


class _Sources(Frozen):
    """What declares data sets."""

    sources: tuple[KnownSource, ...] = ()

    @field_validator("sources")
    @classmethod
    def _declared_once(cls, sources: tuple[SourceDeclaration, ...]) -> tuple[SourceDeclaration, ...]:
        names = [source.name for source in sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the name '{twice[0]}' stands twice; give each source its own")
        return sources


class Suite(_Sources):
    """A benchmark: which students are distilled from which teachers, how, on what.

    The fields are checked in their order, those of the base class first, so what `sources` declares is known when
    `datasets` is checked, wherever both stand in the file.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    datasets: tuple[KnownDataset, ...]
    teachers: tuple[TeacherEntry, ...] = ()
    students: tuple[StudentEntry, ...]
    methods: tuple[KnownMethod, ...] = (MethodSpec(name="ce"),)
    seeds: tuple[int, ...] = (0,)
    train: TrainSpec = TrainSpec()
    views: ViewSpec = ViewSpec()
    teaching: TeachingSpec = TeachingSpec()
    profile: ProfileSpec = ProfileSpec()
    evaluate: EvaluateEntry = EvaluateEntry()
    compress: tuple[CompressEntry, ...] = ()

    @field_validator("datasets", "students", "methods", mode="before")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and not value:
            raise ValueError("at least one is needed")
        return value

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_or_list(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if value < 1:
                raise ValueError(f"at least 1 seed is needed, not {value}")
            return tuple(range(value))
        return value

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError(f"seeds must be a count or distinct numbers >= 0, not {list(seeds)}")
        return seeds


def shipped_suites() -> tuple[str, ...]:
    """Names of the suites inside the package."""
    return _shipped("suites")


def shipped_devices() -> tuple[str, ...]:
    """Names of the device profiles inside the package."""
    return _shipped("devices")


def _shipped(kind: str) -> tuple[str, ...]:
    folder = resources.files("kdbench") / kind
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def read_suite(name_or_path: str) -> tuple[str, str]:
    """The text of a shipped suite or of a file, and what to call it in messages.

    Raises: UnknownName; MissingData if a path is given and no file is there.
    """
    if name_or_path in shipped_suites():
        return (resources.files("kdbench") / "suites" / f"{name_or_path}.yaml").read_text("utf-8"), name_or_path
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        try:
            return path.read_text("utf-8"), name_or_path
        except (OSError, UnicodeDecodeError) as problem:
            raise MissingData(f"the suite file {path} cannot be read: {problem}; give a file or a shipped suite: "
                              f"{', '.join(shipped_suites())}") from None  # fmt: skip
    raise UnknownName("suite", name_or_path, shipped_suites())


def parse_suite(text: str, where: str, names: Names | None = None) -> Suite:
    """Parse and check a suite.

    Args:
        text: YAML.
        where: what to call it in messages.
        names: checks model, data set and method names too.
    Raises: ConfigError with every problem, each with line and key.
    """
    return _parse(text, where, "suite", lambda raw: Suite.model_validate(raw, context=_context(raw, names)))


def load_device(name_or_path: str) -> DeviceProfile:
    """A shipped device profile, or that of a file of the same form.

    Raises: UnknownName; MissingData if a path is given and no file is there; ConfigError with every problem, each with
        line and key.
    """
    if name_or_path in shipped_devices():
        text = (resources.files("kdbench") / "devices" / f"{name_or_path}.yaml").read_text("utf-8")
        return parse_device(text, name_or_path)
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml") and not path.is_file():
        raise UnknownName("device", name_or_path, shipped_devices())
    try:
        return parse_device(path.read_text("utf-8"), name_or_path)
    except (OSError, UnicodeDecodeError) as problem:
        raise MissingData(f"the device file {path} cannot be read: {problem}; give a file or a shipped device: "
                          f"{', '.join(shipped_devices())}") from None  # fmt: skip


def parse_device(text: str, where: str) -> DeviceProfile:
    """Parse and check a device profile. Arguments and errors are those of `parse_suite`."""
    return _parse(text, where, "device", DeviceProfile.model_validate)


def read_sources(path: str) -> str:
    """The text of a file that declares data sets. Raises: MissingData."""
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise MissingData(f"the data file {path} cannot be read: {problem}; give a data set or a YAML file") from None


def parse_sources(text: str, where: str, names: Names | None = None) -> tuple[SourceDeclaration, ...]:
    """Parse and check a file that declares data sets: one, or a list under ``sources:``, as in a suite.

    The other keys of a suite are not looked at. Arguments and errors are those of `parse_suite`.
    """

    def check(raw: dict[str, Any]) -> tuple[SourceDeclaration, ...]:
        context = _context(raw, names)
        if "sources" not in raw:
            return (_ONE_SOURCE.validate_python(raw, context=context),)
        own = {key: value for key, value in raw.items() if key == "sources" or key not in Suite.model_fields}
        return _Sources.model_validate(own, context=context).sources

    sources = _parse(text, where, "data file", check)
    if not sources:
        raise ConfigError(["it declares no data set; sources: is empty"], where)
    return sources


_ONE_SOURCE: TypeAdapter[SourceDeclaration] = TypeAdapter(KnownSource)


def _context(raw: dict[str, Any], names: Names | None) -> dict[str, Any]:
    sources = raw.get("sources")
    entries = sources if isinstance(sources, list) else []
    return {"names": names, "declared": [entry.get("name") for entry in entries if isinstance(entry, dict)]}


def _parse(text: str, where: str, what: str, check: Callable[[dict[str, Any]], T]) -> T:
    """Read YAML and check it; whatever is wrong is one ConfigError."""
    lines: dict[tuple[str | int, ...], int] = {}
    problems: list[tuple[int, str]] = []
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        raw = yaml.safe_load(text)
        if isinstance(raw, dict) and root is not None:
            _note_lines(root, (), lines, problems)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError([f"{line}not valid YAML: {getattr(problem, 'problem', problem)}"], where) from None
    except (ValueError, RecursionError) as problem:  # a date or number that is none; a list that holds itself
        raise ConfigError([f"not valid YAML: {problem}"], where) from None
    if not isinstance(raw, dict) or root is None:
        raise ConfigError([f"a {what} is a mapping of keys, not {type(raw).__name__}"], where)
    checked = None
    try:
        checked = check(raw)
    except ValidationError as invalid:
        problems += [_describe(error["loc"], error["msg"], error["input"], lines, what) for error in invalid.errors()]
    if problems or checked is None:
        raise ConfigError([text for _, text in sorted(dict.fromkeys(problems))], where)
    return checked


def _note_lines(
    node: yaml.Node,
    path: tuple[str | int, ...],
    lines: dict[tuple[str | int, ...], int],
    problems: list[tuple[int, str]],
) -> None:
    """Note the line of every key and list item; a key that stands twice is a problem, for YAML would drop the first."""
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen:
                problems.append((line, f"line {line}: {_dotted((*path, name))}: the key stands twice; keep one"))
            seen.add(name)
            lines[(*path, name)] = line
            _note_lines(value, (*path, name), lines, problems)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            _note_lines(value, (*path, number), lines, problems)


def _describe(
    where: tuple[str | int, ...], message: str, seen: object, lines: Mapping[tuple[str | int, ...], int], what: str
) -> tuple[int, str]:
    known = where
    while known and known not in lines:
        known = known[:-1]
    line = lines.get(known, 1)
    message = message.removeprefix("Value error, ")
    if message.startswith("Extra inputs"):
        message = "unknown key"
    elif message.startswith("Input should be a valid dictionary"):
        message = f"a mapping of keys is wanted, not {seen!r}"
    elif message == "Field required":
        message = "missing"
    elif isinstance(seen, bool | int | float | str) and str(seen) not in message:
        message = f"{message[:1].lower()}{message[1:]}, not {seen!r}"
    return line, f"line {line}: {_dotted(where) or f'the {what}'}: {message}"


def _dotted(path: tuple[str | int, ...]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".")
