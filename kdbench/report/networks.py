"""Profiles to networks: all that was measured of one model becomes one line of a table. Floor 6; no torch.

Nothing is compared across image sizes, numbers of classes or settings; of one setting, figures that were taken beside
other work give way to those that were not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdbench.report.figures import LatencySetting, undisplaced
from kdbench.store import newest_profiles, started_at
from kdbench.types import Environment, Latency, ModelChoice, ProfileRecord, content_id


@dataclass(frozen=True)
class Network:
    """One model with all that was measured of it, on any number of machines.

    Attributes:
        label: what tables call it, distinguishable among the networks it is shown with.
        counts: the profile that was taken last; counts are the same on every machine.
        latencies: by what they were measured under; none that is displaced by an isolated one.
        failures: why a setting has no figure, by fingerprint and setting.
        environments: where it was measured.
    """

    label: str
    counts: ProfileRecord
    latencies: Mapping[LatencySetting, Latency]
    failures: Mapping[tuple[str, str], str]
    environments: tuple[Environment, ...]


def networks(profiles: Iterable[ProfileRecord]) -> list[Network]:
    """The networks of these profiles: by image size, number of classes and multiply-adds; the smaller one first."""
    groups: defaultdict[tuple[Any, ...], list[ProfileRecord]] = defaultdict(list)
    for profile in newest_profiles(profiles):
        own = (profile.model, profile.choice.model_dump_json(), profile.run_id)
        groups[(profile.image_size, profile.num_classes, *own)].append(profile)
    of_all = {
        LatencySetting.of(profile.environment, latency)
        for group in groups.values()
        for profile in group
        for latency in profile.latencies
    }
    shown = set(undisplaced(of_all))
    found = []
    for group in groups.values():
        latencies = {
            setting: latency
            for profile in group
            for latency in profile.latencies
            if (setting := LatencySetting.of(profile.environment, latency)) in shown
        }
        failures = {
            (profile.environment.fingerprint, setting): reason
            for profile in group
            for setting, reason in profile.failures.items()
        }
        newest = max(group, key=lambda profile: (started_at(profile), profile.environment.fingerprint))
        environments = tuple(profile.environment for profile in group)
        ordered = dict(sorted(latencies.items())), dict(sorted(failures.items()))
        found.append(Network(newest.model, newest, *ordered, environments))
    return [
        network
        for _, section in sorted(sections(found).items())
        for network in sorted(_labelled(section), key=lambda each: (each.counts.macs, each.counts.params, each.label))
    ]


def sections(found: Iterable[Network]) -> dict[tuple[int, int], list[Network]]:
    """What can stand in one table: by image size (pixels) and number of classes."""
    by_shape: defaultdict[tuple[int, int], list[Network]] = defaultdict(list)
    for network in found:
        by_shape[(network.counts.image_size, network.counts.num_classes)].append(network)
    return dict(by_shape)


# ---------------------------------------------------------------- labels


def _labelled(section: Sequence[Network]) -> list[Network]:
    """Name the networks of one table so that no two carry the same name."""
    for name in (_by_origin, _by_id):
        often = Counter(network.label for network in section)
        section = [
            replace(network, label=name(network)) if often[network.label] > 1 else network for network in section
        ]
    return list(section)


def _by_origin(network: Network) -> str:
    if network.counts.run_id:
        return network.counts.title or f"{network.label} (trained)"
    return f"{network.label} ({_choice_text(network.counts.choice)})"


def _choice_text(choice: ModelChoice) -> str:
    facts = [f"patch {choice.patch_size}"] if choice.patch_size else []
    if choice.pretrained:
        named = f": {Path(choice.pretrained).name}" if isinstance(choice.pretrained, str) else ""
        facts.append(f"pretrained{named}")
    return ", ".join(facts) or "untrained"


def _by_id(network: Network) -> str:
    own = network.counts.run_id or content_id(network.counts.choice.model_dump(mode="json"))
    return f"{network.label} #{own[:6]}"
