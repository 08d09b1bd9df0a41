"""What models cost, without what they can: a page made of profiles alone. Floor 6; no torch.

A pure function of the profiles, as the leaderboard is one of the records.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kdbench.report.column import MISSING, NOT_APPLICABLE, scaled
from kdbench.report.figures import (
    LatencySetting,
    SettingName,
    fewest_threads,
    images_per_s,
    intervals_overlap,
    milliseconds,
    peak_bytes,
    told_apart,
)
from kdbench.report.networks import Network, networks, sections
from kdbench.report.text import (
    LONGEST_LIST,
    dates,
    escape,
    grid,
    machines,
    made_with,
    shortened,
    version,
    versions,
)
from kdbench.store import newest_profiles, setting_text
from kdbench.types import Environment, Latency, ProfileRecord

AGREE = 0.01
"""Two counters of multiply-adds that differ by less than this fraction are said to agree."""

_CONVENTIONS = (
    "One multiply-add is 1 MAC, and FLOPs are 2 x MACs; convolutions, linear layers, matrix products and attention "
    "count, everything else is named under “Not counted”."
)


def render_costs(profiles: Sequence[ProfileRecord], title: str = "Costs", command: str | None = None) -> str:
    """The whole page.

    Args:
        profiles: of any number of models and machines, in any order.
        title: the page's heading.
        command: what made them; None takes it from the profiles.
    """
    profiles = newest_profiles(profiles)
    every = networks(profiles)
    environments = [profile.environment for profile in profiles]
    blocks = [
        f"# {escape(title)}",
        f"{len(every)} model{'s' if len(every) != 1 else ''}, {dates(profiles)}, on {machines(environments)}; "
        f"{versions(environments)}.",
        _CONVENTIONS,
    ]
    for (image_size, classes), section in sections(every).items():
        blocks += [f"## {image_size} px, {classes} classes", *_section(section)]
    blocks += [
        "## How it was measured",
        _how(every),
        _machines(profiles),
        *made_with([command] if command else [profile.command for profile in profiles]),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


# ---------------------------------------------------------------- one image size


@dataclass(frozen=True)
class _Column:
    """One figure of a network; None is missing."""

    title: str
    value: Callable[[Network], float | None]
    text: Callable[[Network, float], str]
    better: Callable[[Iterable[float]], float] | None = min


def _section(section: Sequence[Network]) -> list[str]:
    settings = sorted({setting for network in section for setting in network.latencies})
    names = told_apart([setting for setting in settings if setting.batch_size == 1])
    columns = [*_counts(section), *(_latency(setting, name) for setting, name in names.items())]
    notes = [
        f"- **{escape(_latency(setting, name).title)}**: {_setting_note(setting, section)}"
        for setting, name in names.items()
    ]
    return [
        _in_short(section, names),
        _table(section, columns),
        _caution(section, names),
        "\n".join(notes),
        *_throughput(section, settings),
        *_start_and_memory(section, fewest_threads(settings)),
        *_cross_checks(section),
        *_not_counted(section),
        *_failures(section),
        *_remarks(section),
    ]


def _counts(section: Sequence[Network]) -> list[_Column]:
    """Parameters to bytes; a figure that no profile of the table has gets no column."""

    def prefixed(network: Network, value: float) -> str:
        return scaled(value)

    def in_bytes(network: Network, value: float) -> str:
        return f"{scaled(value)}B"

    columns = [
        _Column("params", lambda network: network.counts.params, prefixed),
        _Column("MACs", lambda network: network.counts.macs, prefixed),
        _Column("FLOPs", lambda network: network.counts.flops, prefixed),
        _Column("activations", lambda network: network.counts.activations, prefixed),
        _Column("activation memory", lambda network: network.counts.activation_bytes, in_bytes),
        _Column("weights", lambda network: network.counts.weight_bytes, in_bytes),
    ]
    return [column for column in columns if any(column.value(network) is not None for network in section)]


def _latency(setting: LatencySetting, name: SettingName) -> _Column:
    def value(network: Network) -> float | None:
        found = network.latencies.get(setting)
        return found.median_ms if found else None

    def text(network: Network, median: float) -> str:
        return _milliseconds(network.latencies[setting]) + _mark(network.latencies[setting])

    return _Column(f"{' '.join(['latency', *name.title])} (ms)", value, text)


def _milliseconds(latency: Latency) -> str:
    return milliseconds(latency.median_ms, latency.interval_ms if latency.isolated else None, latency.iqr_ms)


def _mark(latency: Latency) -> str:
    return " †" if latency.unstable else ""


def _table(section: Sequence[Network], columns: Sequence[_Column]) -> str:
    cells = [_cells(section, column) for column in columns]
    body = [[escape(network.label), *row] for network, row in zip(section, zip(*cells, strict=True), strict=True)]
    headings = ["model", *(escape(column.title) for column in columns)]
    return grid(body, headings, ("left", *["right"] * len(columns)))


def _cells(section: Sequence[Network], column: _Column) -> list[str]:
    """One column of a table, the best figure in bold; nothing is bold where all are equal."""
    values = [column.value(network) for network in section]
    known = [value for value in values if value is not None]
    best = column.better(known) if column.better is not None and len(set(known)) > 1 else None
    cells = []
    for network, value in zip(section, values, strict=True):
        text = MISSING if value is None else escape(column.text(network, value))
        cells.append(f"**{text}**" if value is not None and value == best else text)
    return cells


def _in_short(section: Sequence[Network], names: Mapping[LatencySetting, SettingName]) -> str:
    """The answer first: what is quickest under each setting, and what cannot be told apart from it."""
    lines = []
    for setting, name in list(names.items())[:LONGEST_LIST]:
        first, *others = _quickest_first(section, setting)
        latency = first.latencies[setting]
        said = f"{escape(first.label)}, {_milliseconds(latency)} ms{_mark(latency)}"
        level = [escape(other.label) for other in others if intervals_overlap(latency, other.latencies[setting])]
        if level:
            said += f"; not told apart from it: {', '.join(level[:LONGEST_LIST])}{_more(level)}"
        elif not others:
            said += ", the only one measured"
        lines.append(f"**{' '.join(['Quickest', *map(escape, name.title)])}:** {said}.")
    return "\\\n".join(lines)  # a backslash breaks the line inside one paragraph


def _quickest_first(section: Sequence[Network], setting: LatencySetting) -> list[Network]:
    measured = [network for network in section if setting in network.latencies]
    return sorted(measured, key=lambda network: (network.latencies[setting].median_ms, network.label))


def _caution(section: Sequence[Network], names: Mapping[LatencySetting, SettingName]) -> str:
    """How far the figures carry."""
    lines = ["The fewest multiply-adds first; bold is the best of a column."]
    chains = []
    for setting, name in names.items():
        near = [" ≈ ".join(escape(network.label) for network in chain) for chain in _chains(section, setting)]
        if near:
            which = f"{escape(' '.join(name.title))}: " if name.title else ""
            chains.append(f"{which}{', '.join(near[:LONGEST_LIST])}{_more(near)}")
    if chains:
        lines.append(f"Neighbours whose intervals overlap do not rank: {'; '.join(chains)}.")
    if any(latency.unstable for network in section for latency in network.latencies.values()):
        lines.append("† unstable: the interquartile range is above 10 % of the median, or something else was at work.")
    if not names:
        lines.append("No latency at batch 1 was measured.")
    denormal = [network for network in section if network.counts.denormals]
    if denormal:
        said = ", ".join(f"{escape(network.label)} {network.counts.denormals:,}" for network in denormal[:LONGEST_LIST])
        lines.append(f"Denormal weights, on which some processors are many times slower: {said}{_more(denormal)}.")
    return " ".join(lines)


def _chains(section: Sequence[Network], setting: LatencySetting) -> list[list[Network]]:
    """The networks under one setting, quickest first, as runs in which each overlaps with the next; single ones not."""
    chains: list[list[Network]] = []
    for network in _quickest_first(section, setting):
        if chains and intervals_overlap(chains[-1][-1].latencies[setting], network.latencies[setting]):
            chains[-1].append(network)
        else:
            chains.append([network])
    return [chain for chain in chains if len(chain) > 1]


def _more(items: Sequence[object]) -> str:
    return f" and {len(items) - LONGEST_LIST} more" if len(items) > LONGEST_LIST else ""


def _setting_note(setting: LatencySetting, section: Sequence[Network]) -> str:
    found = [network.latencies[setting] for network in section if setting in network.latencies]
    has_intervals = setting.isolated and any(latency.interval_ms is not None for latency in found)
    figure = "median and, in brackets, its 95 % interval" if has_intervals else "median ± interquartile range"
    return f"one forward pass of one image, {_way(setting)}: {figure}"


def _way(setting: LatencySetting) -> str:
    """All of a setting but the batch size."""
    library = f" ({escape(setting.library)})" if setting.library else ""
    device = "" if setting.device == "cpu" else f" on its {setting.device} device"
    where = f"{setting.threads_text}, on machine {escape(setting.fingerprint[:4])}{device}"
    return f"{escape(setting.runtime)} {setting.precision}{library}, {where}"


def _ways(names: Mapping[LatencySetting, SettingName]) -> str:
    """What the short names of a table stand for."""
    if len(names) == 1:
        return f"Timed with {_way(next(iter(names)))}."
    said = [f"{escape(' '.join(name.title))} = {_way(setting)}" for setting, name in names.items()]
    return f"Settings: {'; '.join(said)}."


# ---------------------------------------------------------------- the smaller tables


def _throughput(section: Sequence[Network], settings: Sequence[LatencySetting]) -> list[str]:
    """Images a second by batch size; nothing where only single images were timed."""
    batches = sorted({setting.batch_size for setting in settings})
    ways = told_apart(sorted({replace(setting, batch_size=1) for setting in settings if setting.batch_size > 1}))
    if not ways:
        return []
    body = []
    for way, name in ways.items():
        of_way = [replace(way, batch_size=batch) for batch in batches]
        measured = [network for network in section if any(setting in network.latencies for setting in of_way)]
        columns = [_cells(measured, _images_a_second(setting)) for setting in of_way]
        said = [escape(" ".join(name.title))] if len(ways) > 1 else []
        rows = zip(measured, zip(*columns, strict=True), strict=True)
        body += [[*said, escape(network.label), *cells] for network, cells in rows]
    headings = [*(["setting"] if len(ways) > 1 else []), "model", *(f"batch {batch}" for batch in batches)]
    align = ("left",) * (len(headings) - len(batches)) + ("right",) * len(batches)
    each = ", for each setting" if len(ways) > 1 else ""
    return [
        "### Images a second",
        grid(body, headings, align),
        f"The batch size over the median time of one forward pass; bold is the best of a column{each}. {_ways(ways)}",
    ]


def _images_a_second(setting: LatencySetting) -> _Column:
    def value(network: Network) -> float | None:
        found = network.latencies.get(setting)
        return images_per_s(found) if found else None

    def text(network: Network, images: float) -> str:
        return f"{images:,.{0 if images >= 10 else 1}f}{_mark(network.latencies[setting])}"

    return _Column(f"batch {setting.batch_size}", value, text, better=max)


def _start_and_memory(section: Sequence[Network], settings: Sequence[LatencySetting]) -> list[str]:
    """Loading, the first call, peak memory and energy under each setting of batch 1 with the fewest threads."""
    kinds: tuple[tuple[str, str, Callable[[Latency], float | None], Callable[[float], str]], ...] = (
        ("loading", "ms", lambda latency: latency.prepare_ms, milliseconds),
        ("first call", "ms", lambda latency: latency.cold_ms, milliseconds),
        ("memory", "MiB", peak_bytes, lambda value: f"{value / 2**20:.1f}"),
        ("energy", "mJ", lambda latency: latency.energy_j, lambda value: f"{1000 * value:.1f}"),
    )
    columns, shown, names = [], set(), told_apart(settings)
    for name, unit, of, text in kinds:
        for setting, apart in names.items():
            column = _Column(
                f"{' '.join([name, *apart.title])} ({unit})",
                lambda network, setting=setting, of=of: (  # type: ignore[misc]
                    of(network.latencies[setting]) if setting in network.latencies else None
                ),
                lambda network, value, text=text: text(value),  # type: ignore[misc]
            )
            if any(column.value(network) is not None for network in section):
                columns.append(column)
                shown.add(name)
    if not columns:
        return []
    notes = {
        "loading": "Loading: until the network can be called, with what the runtime optimises or compiles for it.",
        "first call": "First call: the first forward pass after that, with all that is only done once.",
        "memory": "Memory: the highest resident memory of a process of its own (on a GPU: of torch's allocator), above "
        "what it held before the model was loaded; 1 MiB is 1,048,576 bytes.",
        "energy": "Energy: of one forward pass, by the platform's own counter.",
    }
    return [
        "### Start and memory",
        _table(section, columns),
        " ".join(["Batch 1.", *(note for name, note in notes.items() if name in shown), _ways(names)]),
    ]


def _cross_checks(section: Sequence[Network]) -> list[str]:
    """Where a second counter of multiply-adds comes to another sum, and why."""
    checks = [(network, check) for network in section if (check := network.counts.cross_check) is not None]
    if not checks:
        return []
    body = [
        [
            escape(network.label),
            escape(check.counter),
            scaled(network.counts.macs),
            scaled(check.macs),
            f"{100 * check.difference:+.1f}",
            "; ".join(map(escape, check.reasons)) or MISSING,
        ]
        for network, check in checks
        if abs(check.difference) > AGREE
    ]
    counters = escape(" and ".join(sorted({check.counter for _, check in checks})))
    agree = f"agrees within {100 * AGREE:g} % on {len(checks) - len(body)} of {len(checks)}"
    unchecked = f"; {len(section) - len(checks)} had none" if len(section) > len(checks) else ""
    headings = ["model", "counter", "our MACs", "its MACs", "difference (%)", "why"]
    table = grid(body, headings, ("left", "left", "right", "right", "right", "left")) if body else ""
    line = f"A second counter, {counters}, {agree} model{'s' if len(checks) != 1 else ''}{unchecked}."
    return ["### A second count", line, table]


def _not_counted(section: Sequence[Network]) -> list[str]:
    """The operators outside of the multiply-adds; models with the same ones share a line."""
    by_calls: defaultdict[str, list[str]] = defaultdict(list)
    for network in section:
        calls = ", ".join(f"{escape(name)} x{times}" for name, times in sorted(network.counts.not_counted.items()))
        by_calls[calls or "nothing was left out"].append(escape(network.label))
    lines = [f"- {', '.join(labels)}: {calls}" for calls, labels in by_calls.items()]
    return ["### Not counted", "\n".join(lines)]


def _failures(section: Sequence[Network]) -> list[str]:
    lines = []
    for network in section:
        for (fingerprint, setting), reason in network.failures.items():
            where = f"{escape(setting)}, on machine {escape(fingerprint[:4])}"
            lines.append(f"- {escape(network.label)}, {where}: {escape(shortened(reason))}")
    return ["### Without a figure", "\n".join(lines)] if lines else []


def _remarks(section: Sequence[Network]) -> list[str]:
    """What is said of single figures, and of which."""
    by_note: defaultdict[str, list[str]] = defaultdict(list)
    for network in section:
        for setting, latency in network.latencies.items():
            if latency.note:
                where = f"{escape(setting_text(latency))}, on machine {escape(setting.fingerprint[:4])}"
                by_note[escape(shortened(latency.note))].append(f"{escape(network.label)}, {where}")
    lines = [f"- {note}: {'; '.join(said[:LONGEST_LIST])}{_more(said)}" for note, said in sorted(by_note.items())]
    return ["### Remarks", "\n".join(lines)] if lines else []


# ---------------------------------------------------------------- how it was measured


def _how(every: Sequence[Network]) -> str:
    """How many calls, in how many rounds, beside what."""
    found = [latency for network in every for latency in network.latencies.values()]
    if not found:
        return ""
    alone = [latency for latency in found if latency.isolated]
    lines = []
    if alone:
        rounds = _span(len(latency.rounds_ms) for latency in alone if latency.rounds_ms)
        turns = f"{rounds} rounds that took turns with those of the others" if rounds else "turns with the others"
        calls = _span(latency.samples for latency in alone)
        lines.append(f"Each network was timed in a process of its own, in {turns}: {calls} calls a figure.")
        lines.append("Intervals: 95 %, of the median, by bootstrap over these calls.")
        if not_steady := sum(latency.steady is False for latency in alone):
            lines.append(f"The warm-up of {not_steady} of {len(alone)} figures did not reach steady times.")
    if disturbed := sum(len(latency.disturbed_ms) for latency in found):
        calls = f"{disturbed:,} calls are" if disturbed > 1 else "1 call is"
        lines.append(f"{calls} left out, as the system gave the processor to somebody else meanwhile.")
    if others := [latency for latency in found if not latency.isolated]:
        lines.append(
            f"{len(others)} of {len(found)} figures were taken in one process, one model after the other, and have no "
            f"interval: {_span(latency.samples for latency in others)} calls a figure."
        )
    return " ".join(lines)


def _span(numbers: Iterable[int]) -> str:
    found = sorted(set(numbers))
    if not found:
        return ""
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"


def _machines(profiles: Sequence[ProfileRecord]) -> str:
    """A column for each machine, a line for each fact; facts that no machine tells have none."""
    by_machine: defaultdict[str, list[ProfileRecord]] = defaultdict(list)
    for profile in profiles:
        by_machine[profile.environment.fingerprint].append(profile)
    columns = [_facts(group) for _, group in sorted(by_machine.items())]
    names = dict.fromkeys(name for column in columns for name in column)
    body = [
        [name, *(escape(column[name]) or NOT_APPLICABLE for column in columns)]
        for name in names
        if any(column[name] for column in columns)
    ]
    headings = ["machine", *(escape(fingerprint[:4]) for fingerprint in sorted(by_machine))]
    return grid(body, headings, ["left"] * len(headings))


def _facts(group: Sequence[ProfileRecord]) -> dict[str, str]:
    """Of one machine, over its profiles; facts that changed between them stand side by side."""

    def either(fact: Callable[[Environment], str | None]) -> str:
        return " or ".join(sorted({said for profile in group if (said := fact(profile.environment))}))

    def cores(environment: Environment) -> str:
        facts = []
        if environment.affinity is not None and environment.affinity != environment.cores:
            facts.append(f"{environment.affinity} processors allowed")
        if environment.quota_cores is not None:
            facts.append(f"quota {environment.quota_cores:g}")
        return f"{environment.cores} ({', '.join(facts)})" if facts else str(environment.cores)

    def clock(environment: Environment) -> str:
        facts = [f"governor {environment.governor}"] if environment.governor else []
        if environment.clock_mhz is not None:
            facts.append("{:,.0f} to {:,.0f} MHz".format(*environment.clock_mhz))
        return ", ".join(facts)

    def gpu(environment: Environment) -> str:
        facts = [environment.gpu or "none"]
        if environment.gpu_driver:
            facts.append(f"driver {environment.gpu_driver}")
        if environment.gpu_clock_mhz is not None:
            facts.append("{:,} of {:,} MHz".format(*environment.gpu_clock_mhz))
        if environment.gpu_throttle:
            facts.append(f"held down: {', '.join(environment.gpu_throttle)}")
        return ", ".join(facts)

    def load(at: int) -> str:
        seen = [profile.environment.load[at] for profile in group if profile.environment.load is not None]
        if not seen:
            return ""
        return f"{min(seen):.2f}" if min(seen) == max(seen) else f"{min(seen):.2f} to {max(seen):.2f}"

    libraries = {latency.library for profile in group for latency in profile.latencies if latency.library}
    for profile in group:
        libraries |= {f"{name} {version}" for name, version in profile.environment.versions.items()}
    started, ended = load(0), load(1)
    return {
        "processor": either(lambda e: e.cpu),
        "instruction sets": either(lambda e: " ".join(e.cpu_flags)),
        "cores": either(cores),
        "memory": either(lambda e: f"{e.memory_bytes / 2**30:.1f} GiB"),
        "clock": either(clock),
        "load average": f"{started} at the start, {ended} at the end" if started else "",
        "thread settings": either(lambda e: " ".join(f"{key}={value}" for key, value in e.thread_settings.items())),
        "denormal numbers": either(
            lambda e: None if e.flush_denormal is None else "taken for 0" if e.flush_denormal else "kept"
        ),
        "GPU": either(gpu),
        "system": either(lambda e: e.system),
        "Python": either(lambda e: e.python),
        "libraries": ", ".join(sorted(libraries)),
        "kdbench": either(version),
        "measured": dates(group),
        "fingerprint": group[0].environment.fingerprint,
    }
