"""Leaderboard and costs as raw numbers: data frames, CSV, JSON. Fractions, bytes, milliseconds; nothing is rounded.

The columns of the leaderboard are the registry's, so a new one shows up here too. With several machines,
``latency_ms`` splits into ``latency_ms_<fingerprint>``: a script that sorts by it then stops, and does not rank two
machines against each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdbench.report.column import Column, columns_for
from kdbench.report.figures import LatencySetting, images_per_s
from kdbench.report.networks import Network, networks
from kdbench.report.outcomes import Outcomes
from kdbench.report.rows import Row, build_rows
from kdbench.store import newest_profiles, setting_text
from kdbench.types import Latency, ProfileRecord, RunRecord

if TYPE_CHECKING:
    import pandas as pd

REPORT_SCHEMA_VERSION = 1
"""Of the leaderboard as JSON: raised when a key changes its meaning or goes away."""

COSTS_SCHEMA_VERSION = 1
"""Of the costs as JSON: raised when a key changes its meaning or goes away."""


def to_frame(
    records: Sequence[RunRecord],
    profiles: Sequence[ProfileRecord] = (),
    outcomes: Outcomes | None = None,
    names: Sequence[str] | None = None,
) -> pd.DataFrame:
    """One row for each cell; what is not known is NA. Columns are typed even where figures are missing.

    Args: names: of the columns wanted, as `columns_for` takes them; what tells the rows apart is always there.
    """
    rows = build_rows(records, profiles, outcomes)
    columns = columns_for(rows, names)
    return _typed_frame([plain_row(row, columns) for row in rows])


def to_csv(
    records: Sequence[RunRecord],
    profiles: Sequence[ProfileRecord] = (),
    outcomes: Outcomes | None = None,
    names: Sequence[str] | None = None,
) -> str:
    """The frame as CSV; an empty field is a missing figure."""
    return str(to_frame(records, profiles, outcomes, names).to_csv(index=False, lineterminator="\n"))


def to_json(
    records: Sequence[RunRecord],
    profiles: Sequence[ProfileRecord] = (),
    outcomes: Outcomes | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """``{schema_version, columns, rows}``, plain values throughout; null is a missing figure."""
    rows = build_rows(records, profiles, outcomes)
    columns = columns_for(rows, names)
    return {
        "schema_version": REPORT_SCHEMA_VERSION,
        "columns": [
            {"key": column.key, "title": column.title, "better": column.better, "note": column.note}
            for column in columns
        ],
        "rows": [plain_row(row, columns) | {"run_ids": [record.run_id for record in row.records]} for row in rows],
    }


def costs_frame(profiles: Sequence[ProfileRecord]) -> pd.DataFrame:
    """One row for each model and setting; counts in units, times in milliseconds, memory in bytes; unknown is NA.

    A setting without a figure has a row with the reason, a model without settings one with its counts.
    """
    return _typed_frame(_plain_costs(profiles))


def costs_csv(profiles: Sequence[ProfileRecord]) -> str:
    """The frame as CSV; an empty field is a missing figure."""
    return str(costs_frame(profiles).to_csv(index=False, lineterminator="\n"))


def costs_json(profiles: Sequence[ProfileRecord]) -> dict[str, Any]:
    """``{schema_version, machines, rows}``, plain values throughout; null is a missing figure."""
    environments = {profile.environment.fingerprint: profile.environment for profile in newest_profiles(profiles)}
    return {
        "schema_version": COSTS_SCHEMA_VERSION,
        "machines": {name: environments[name].model_dump(mode="json") for name in sorted(environments)},
        "rows": _plain_costs(profiles),
    }


def _plain_costs(profiles: Sequence[ProfileRecord]) -> list[dict[str, Any]]:
    rows = []
    for network in networks(profiles):
        for setting, latency in network.latencies.items():
            rows.append(_plain_cost(network, setting.fingerprint, setting_text(latency), setting, latency))
        for (fingerprint, text), reason in network.failures.items():
            rows.append(_plain_cost(network, fingerprint, text, failure=reason))
        if not network.latencies and not network.failures:
            rows.append(_plain_cost(network, network.counts.environment.fingerprint, None))
    return rows


def _plain_cost(
    network: Network,
    fingerprint: str,
    text: str | None,
    setting: LatencySetting | None = None,
    latency: Latency | None = None,
    failure: str | None = None,
) -> dict[str, Any]:
    counts, check = network.counts, network.counts.cross_check
    low, high = latency.interval_ms or (None, None) if latency else (None, None)
    memory = latency.memory if latency else None
    return {
        "image_size": counts.image_size,
        "num_classes": counts.num_classes,
        "model": counts.model,
        "label": network.label,
        "run_id": counts.run_id or None,
        "title": counts.title or None,
        "params": counts.params,
        "trainable_params": counts.trainable_params,
        "macs": counts.macs,
        "flops": counts.flops,
        "activations": counts.activations,
        "activation_bytes": counts.activation_bytes,
        "weight_bytes": counts.weight_bytes,
        "denormals": counts.denormals,
        "cross_check_macs": check.macs if check else None,
        "cross_check_difference": check.difference if check else None,
        "machine": fingerprint,
        "setting": text,
        "runtime": setting.runtime if setting else None,
        "library": setting.library if setting else None,
        "precision": setting.precision if setting else None,
        "device": setting.device if setting else None,
        "batch_size": setting.batch_size if setting else None,
        "threads": setting.threads if setting else None,
        "isolated": setting.isolated if setting else None,
        "median_ms": latency.median_ms if latency else None,
        "interval_low_ms": low,
        "interval_high_ms": high,
        "iqr_ms": latency.iqr_ms if latency else None,
        "p90_ms": latency.p90_ms if latency else None,
        "p99_ms": latency.p99_ms if latency else None,
        "prepare_ms": latency.prepare_ms if latency else None,
        "cold_ms": latency.cold_ms if latency else None,
        "images_per_s": images_per_s(latency) if latency else None,
        "samples": latency.samples if latency else None,
        "disturbed": len(latency.disturbed_ms) if latency else None,
        "unstable": latency.unstable if latency else None,
        "steady": latency.steady if latency else None,
        "peak_rss_bytes": memory.peak_rss_bytes if memory else None,
        "cuda_allocated_bytes": memory.cuda_allocated_bytes if memory else None,
        "cuda_reserved_bytes": memory.cuda_reserved_bytes if memory else None,
        "energy_j": latency.energy_j if latency else None,
        "note": latency.note or None if latency else None,
        "failure": failure,
    }


# ---------------------------------------------------------------- parts


def _typed_frame(plain: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of the same keys as a frame; None becomes NA, and whole numbers stay whole beside it."""
    import pandas as pd  # here, so that a table in Markdown does not wait for it

    keys = list(plain[0]) if plain else []
    return pd.DataFrame(
        {key: pd.array([row[key] for row in plain], dtype=_dtype([row[key] for row in plain])) for key in keys}
    )


def plain_row(row: Row, columns: Sequence[Column]) -> dict[str, Any]:
    """A row as names and numbers."""
    figures: dict[str, Any] = {}
    for column in columns:
        figures[column.key] = column.value(row)
        if column.spread is not None:
            figures[f"{column.key}_{column.spread_name}"] = column.spread(row)
        if column.interval is not None:
            low, high = column.interval(row) or (None, None)
            figures |= {f"{column.key}_interval_low": low, f"{column.key}_interval_high": high}
    return {
        "dataset": row.dataset.name,
        "image_size": row.dataset.image_size,
        "protocol": next((record.data.protocol for record in row.records if record.data), "") or None,
        "fold": row.dataset.fold,
        "held_out": row.dataset.held_out or None,
        "leak": next((record.data.leak for record in row.records if record.data), "") or None,
        "content": row.dataset.content or None,
        "rank": row.rank,
        "rank_low": row.rank_range[0] if row.rank_range else None,
        "rank_high": row.rank_range[1] if row.rank_range else None,
        "role": row.role,
        "model": row.model,
        "method": row.method,
        "stages": " > ".join(row.stages) or None,
        "ground_truth": row.origin.method.ground_truth,
        "teacher": row.teacher or None,
        **figures,
        "failed": row.n_failed,
        "failure": row.failure,
        "machines": " ".join(row.fingerprints),
        "cell_id": row.cell_id,
    }


def _dtype(values: Sequence[Any]) -> Any:
    """A pandas type that keeps whole numbers whole where some are missing."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return "boolean"
    if kinds == {int}:
        return "Int64"
    return "Float64" if kinds and kinds <= {int, float} else "string" if kinds == {str} else "object"
