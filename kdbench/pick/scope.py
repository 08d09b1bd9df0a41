"""Which data set, which machine and which limits a choice is about; what is not clear is asked. Floor 6; no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kdbench.choices import KINDS, Budget, DeviceProfile, Limit, LimitKey
from kdbench.environment import collect
from kdbench.errors import ConfigError, RecordError, UnknownName
from kdbench.report.figures import LatencySetting, undisplaced
from kdbench.report.rows import Row, dataset_key, dataset_titles, environments_of
from kdbench.report.text import machine as machine_text
from kdbench.types import Environment

SHOWN_DIGITS = 4
"""Of a fingerprint, as in all tables."""


@dataclass(frozen=True)
class Scope:
    """What candidates are judged by.

    Attributes:
        machine: fingerprint of where latency and memory count; "" if there is none.
        elsewhere: whether memory that was measured on other machines stands in, the largest one: of a device that
            nothing was measured on.
        unjudged: why there is no latency at all; "" where there can be one.
        settings: that count, of all candidates.
        limits: the tighter of what the budget and the device say, each once.
    """

    machine: str
    machine_title: str
    elsewhere: bool
    unjudged: str
    settings: frozenset[LatencySetting]
    limits: tuple[Limit, ...]
    notes: tuple[str, ...]


def of_one_dataset(rows: Sequence[Row], asked: str | None) -> tuple[str, list[Row]]:
    """The rows of the data set that is asked for, by its name or by its title, and that title.

    Raises: ConfigError, if several would do; UnknownName.
    """
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[dataset_key(row.dataset)].append(row)
    found = list(groups.values())
    names = [group[0].dataset.name for group in found]
    titles = dataset_titles([group[0].dataset for group in found])
    if asked is None:
        if len(found) == 1:
            return titles[0], found[0]
        ways = names if len(set(names)) == len(names) else [f'"{title}"' for title in titles]
        raise ConfigError([f"there are {len(found)} data sets, and figures of two are never compared; "
                           f"give one of them to --dataset: {', '.join(ways)}"])  # fmt: skip
    places = [place for place, title in enumerate(titles) if title == asked]
    places = places or [place for place, name in enumerate(names) if name == asked]
    if not places:
        raise UnknownName("data set", asked, names)
    if len(places) > 1:
        ways = [f'"{titles[place]}"' for place in places]
        raise ConfigError([f"{len(places)} data sets are called {asked}; give one of them to --dataset: "
                           f"{', '.join(ways)}"])  # fmt: skip
    return titles[places[0]], found[places[0]]


def scope_of(rows: Sequence[Row], budget: Budget, device: DeviceProfile | None, machine: str | None) -> Scope:
    """What these rows are judged by.

    Args:
        rows: the candidates.
        machine: the first digits of a fingerprint, where the one who asks names it.
    Raises: ConfigError, if several machines would do, or the one that is named is not the device; UnknownName;
        RecordError, if nothing was measured with the runtimes that are asked for.
    """
    settings = _settings(rows, budget, device)
    environments = environments_of(rows)
    known = sorted({setting.fingerprint for setting in settings})
    here = collect(1).fingerprint if device is not None and device.this_machine else ""
    fitting = known if device is None else [one for one in known if _is(device, one, environments[one], here)]
    unjudged, notes = "", list[str]()
    if machine is not None:
        found = _named(machine, known, environments)
        if device is not None and found not in fitting and (device.cpu or device.fingerprints or device.this_machine):
            raise ConfigError([f"machine {_title(found, environments)} is no {device.name}; leave --machine out, or "
                               "name a device that it is"])  # fmt: skip
    elif len(fitting) > 1:
        if _needs_machine(budget, device):
            listed = " or ".join(_title(one, environments) for one in fitting)
            raise ConfigError([f"{len(fitting)} machines were measured on, and figures of two are never mixed; give "
                               f"one of them to --machine: {listed}"])  # fmt: skip
        found = ""
    else:
        found = fitting[0] if fitting else ""
    if not found and device is not None:
        where = f"this machine ({here[:SHOWN_DIGITS]})" if device.this_machine else device.name
        unjudged = f"nothing here was measured on {where}"
    limits, unused = _limits(budget, device, judge_latency=bool(found))
    if unused:
        notes.append(f"The latency limit of {device.name if device else ''} is not judged: {unjudged or 'no machine'}.")
    return Scope(
        machine=found,
        machine_title=_title(found, environments) if found else "",
        elsewhere=not found and device is not None and not device.this_machine,
        unjudged=unjudged,
        settings=frozenset(settings),
        limits=limits,
        notes=tuple(notes),
    )


# ---------------------------------------------------------------- parts


def _settings(rows: Iterable[Row], budget: Budget, device: DeviceProfile | None) -> list[LatencySetting]:
    """Of single images, with runtimes that are allowed; none that another one displaces."""
    every = undisplaced({setting for row in rows for setting in row.latencies})
    single = [setting for setting in every if setting.batch_size == 1]
    measured = {setting.runtime for setting in single}
    there = None if device is None else device.runtimes
    for runtime in budget.runtimes:
        if there is not None and device is not None and runtime not in there:
            exist = f"there are {', '.join(there)}" if there else "no runtime of kdbench is there"
            raise ConfigError([f"the runtime '{runtime}' is not on {device.name}; {exist}"])
        if measured and runtime not in measured:
            raise RecordError(f"nothing here was measured with the runtime '{runtime}', but with "
                              f"{', '.join(sorted(measured))}; measure it with `kdbench profile --results DIR "
                              f"--runtime {runtime}`")  # fmt: skip
    return [
        setting
        for setting in single
        if (not budget.runtimes or setting.runtime in budget.runtimes) and (there is None or setting.runtime in there)
    ]


def _is(device: DeviceProfile, fingerprint: str, environment: Environment, here: str) -> bool:
    """Whether a machine is that device, by what the device's profile says of it."""
    by_name = any(word.lower() in environment.cpu.lower() for word in device.cpu)
    return by_name or fingerprint in device.fingerprints or fingerprint == here


def _named(asked: str, known: Sequence[str], environments: dict[str, Environment]) -> str:
    found = [one for one in known if asked and one.startswith(asked.lower())]
    if len(found) > 1:
        raise ConfigError([f"--machine {asked} may be {' or '.join(found)}; give more digits"])
    if not found:
        listed = " or ".join(_title(one, environments) for one in known) or "none"
        raise RecordError(f"nothing here was measured on a machine '{asked}'; there is {listed}")
    return found[0]


def _title(fingerprint: str, environments: dict[str, Environment]) -> str:
    return f"{fingerprint[:SHOWN_DIGITS]}, {machine_text(environments[fingerprint])}"


def _needs_machine(budget: Budget, device: DeviceProfile | None) -> bool:
    keys: set[str] = {"latency", "memory"} if device is None or device.memory_is == "process" else {"latency"}
    limited = any(_stated(device, key) is not None or budget.limit(key) is not None for key in KINDS if key in keys)
    return limited or bool(keys & set(budget.objective))


def _stated(device: DeviceProfile | None, key: LimitKey) -> Limit | None:
    """The device's own limit of that kind."""
    found = getattr(device.limits, key, None) if device is not None else None
    if found is None:
        return None
    return Limit(key=key, value=found.value, by="device", source=found.source, rule_of_thumb=found.rule_of_thumb)


def _limits(budget: Budget, device: DeviceProfile | None, judge_latency: bool) -> tuple[tuple[Limit, ...], bool]:
    """Of the budget and the device the tighter ones; and whether the device's latency is left out."""
    limits: list[Limit] = []
    unused = False
    for key in KINDS:
        asked = budget.limit(key)
        own = _stated(device, key)
        if key == "latency" and own is not None and not judge_latency:
            own, unused = None, True
        both = [Limit(key=key, value=asked)] if asked is not None else []
        both += [own] if own is not None else []
        if both:
            # a device only ever says what there may be at most
            limits.append(min(both, key=lambda limit: limit.value))
    return tuple(limits), unused
