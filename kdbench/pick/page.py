"""A choice as people read it: the choice first, then what passes too, then who was rejected and why. Floor 6; no torch.

The page is blocks of text and tables, which Markdown shows here and the command line shows in a terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdbench.choices import Choice, DeviceSetting, Limit, LimitKey, Verdict
from kdbench.pick import words
from kdbench.report.column import MISSING, NOT_APPLICABLE
from kdbench.report.text import escape, grid

ON_FRONT = "*"
"""Marks the Pareto front."""


@dataclass(frozen=True)
class Text:
    """A paragraph; one that is a heading stands over what follows."""

    text: str
    heading: int = 0


@dataclass(frozen=True)
class Table:
    """Cells as they are, not yet escaped; `right` names the columns of figures by their places."""

    headings: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    right: frozenset[int] = frozenset()


def render_choice(choice: Choice) -> str:
    """The page in Markdown; ends with a newline."""
    return "\n\n".join(_markdown(block) for block in blocks(choice)) + "\n"


def _markdown(block: Text | Table) -> str:
    if isinstance(block, Text):
        return f"{'#' * block.heading} {escape(block.text)}" if block.heading else escape(block.text)
    align = ["right" if place in block.right else "left" for place in range(len(block.headings))]
    return grid(
        [[escape(cell) for cell in row] for row in block.body], [escape(name) for name in block.headings], align
    )


def blocks(choice: Choice) -> list[Text | Table]:
    """The page: what was chosen, what it was judged by, what passes too, what was rejected, what does not count."""
    chosen = choice.chosen
    where = f" on {choice.device.name}" if choice.device is not None else ""
    found: list[Text | Table] = []
    if chosen is None:
        found.append(Text(f"No student fits: {choice.dataset}{where}", heading=1))
    else:
        found += [Text(chosen.label, heading=1), Text(f"{choice.dataset}{where}: {chosen.reason}.")]
        found += _portrait(chosen, choice)
    passing = [verdict for verdict in choice.verdicts if verdict.state in ("chosen", "passes")]
    if len(passing) > 1:
        found += [Text("What passes", heading=2), *_passing(passing, choice)]
    out = [verdict for verdict in choice.verdicts if verdict.state in ("rejected", "no result")]
    if out:
        found += [Text("Rejected" if chosen is not None else "Nearest misses first", heading=2), *_rejected(out)]
    if choice.relaxations:
        found.append(Text("What would do", heading=2))
        found.append(Table(("change", "share", "lets pass"), tuple(_relaxation(choice))))
    found += [Text("How it was judged", heading=2), *_how(choice)]
    return found


def _portrait(chosen: Verdict, choice: Choice) -> list[Text | Table]:
    limits = {check.limit.key: check for check in chosen.checks}
    body = []
    for key in words.NAMES:
        figure = chosen.figures.get(key)
        if figure is None and key not in choice.budget.objective:
            continue
        name = words.NAMES[key] + (f" ({figure.detail})" if figure is not None and figure.detail else "")
        if figure is None:  # of the objective, so a reader looks for it
            body.append((name, MISSING, *[NOT_APPLICABLE] * 3))
            continue
        check = limits.get(key)
        judged = words.amount(figure.judged, key) + f" ({figure.basis})" if figure.judged != figure.value else ""
        bound = _bound(check.limit) if check is not None else NOT_APPLICABLE
        margin = NOT_APPLICABLE
        if check is not None and check.margin is not None:
            share = f" ({check.relative:.1%})".replace("%", " %") if check.relative is not None else ""
            margin = f"{words.gap(check.margin, key)}{share}"
        body.append((name, words.amount(figure.value, key), judged or figure.basis, bound, margin))
    facts = f"Run {chosen.run_id}"
    if len(chosen.seeds) > 1:
        facts += f", of {len(chosen.seeds)} seeds the best one in validation"
    if chosen.failed_runs:
        facts += f"; {chosen.failed_runs} more {'runs' if chosen.failed_runs > 1 else 'run'} without a result"
    if chosen.setting is not None:
        facts += f"; {setting_text(chosen.setting, choice)}"
    table = Table(("figure", "value", "judged by", "limit", "inside by"), tuple(body), frozenset({1, 3, 4}))
    return [table, Text(f"{facts}.")]


def _bound(limit: Limit) -> str:
    sign = "≥" if limit.key in ("accuracy", "recall") else "≤"
    return f"{sign} {words.amount(limit.value, limit.key)}{' (device)' if limit.by == 'device' else ''}"


def setting_text(setting: DeviceSetting, choice: Choice) -> str:
    """What runs it: "onnxruntime (onnxruntime 1.32.0), fp32, 1 thread, as measured on machine d49a"."""
    device = "" if setting.device == "cpu" else f" on its {setting.device} device"
    threads = f"{setting.threads} thread{'s' if setting.threads != 1 else ''}"
    measured = "" if choice.machine else "memory "
    return (
        f"{setting.runtime} ({setting.library}), {setting.precision}, {threads}, {measured}as measured on machine "
        f"{setting.machine[:4]}{device}"
    )


def _passing(passing: Sequence[Verdict], choice: Choice) -> list[Text | Table]:
    asked: dict[LimitKey, None] = dict.fromkeys(("accuracy", *choice.budget.objective))
    asked |= dict.fromkeys(limit.key for limit in choice.limits)
    keys = [key for key in asked if any(key in verdict.figures for verdict in passing)]
    body = []
    for number, verdict in enumerate(passing, start=1):
        figures = [words.amount(verdict.figures[key].value, key) if key in verdict.figures else MISSING for key in keys]
        runtime = verdict.setting.runtime if verdict.setting is not None else NOT_APPLICABLE
        front = ON_FRONT if verdict.on_front else ""
        body.append((str(number), front, verdict.label, *figures, runtime, verdict.reason))
    headings = ("#", "front", "model", *(words.NAMES[key] for key in keys), "runtime", "why")
    over = " and ".join(words.NAMES[key] for key in keys if key in ("accuracy", *choice.budget.objective))
    count = sum(verdict.on_front for verdict in passing)
    note = f"{ON_FRONT} marks the Pareto front of {over}: nothing that passes beats one of these {count} in all of it."
    if count == 1:
        note = f"{ON_FRONT} marks the Pareto front of {over}: nothing that passes is better in any of it."
    return [Table(headings, tuple(body), frozenset({0, *range(3, 3 + len(keys))})), Text(note)]


def _rejected(out: Sequence[Verdict]) -> list[Text | Table]:
    return [Table(("model", "why"), tuple((verdict.label, verdict.reason) for verdict in out))]


def _relaxation(choice: Choice) -> list[tuple[str, str, str]]:
    found = []
    by_key = {limit.key: limit for limit in choice.limits}
    for relaxation in choice.relaxations:
        changes = [
            words.option_value(key, value)
            if by_key[key].by == "budget"
            else f"a device with {words.NAMES[key]} of {words.amount(value, key)}"
            for key, value in relaxation.changes.items()
        ]
        share = NOT_APPLICABLE if relaxation.relative is None else f"{relaxation.relative:.1%}".replace("%", " %")
        found.append((" and ".join(changes), share, relaxation.label))
    return found


def _how(choice: Choice) -> list[Text | Table]:
    found: list[Text | Table] = []
    if choice.limits:
        body = []
        for limit in choice.limits:
            thumb = "; a rule of thumb" if limit.rule_of_thumb else ""
            source = (
                f"{choice.device.name}: {limit.source}{thumb}" if limit.by == "device" and choice.device else "asked"
            )
            body.append((words.NAMES[limit.key], _bound(limit).removesuffix(" (device)"), source))
        found.append(Table(("limit", "", "from"), tuple(body), frozenset({1})))
    order = ", then ".join(words.NAMES[key] for key in choice.budget.objective)
    machine = f" Latency and memory count as measured on machine {choice.machine_title}." if choice.machine else ""
    found.append(
        Text(
            f"In the order of {order}. Limits are held against the worse end of a 95 % interval where there is one, "
            f"the order is that of the figures themselves; a missing figure is no pass.{machine}"
        )
    )
    if choice.device is not None and choice.device.note:
        found.append(Text(f"{choice.device.name}: {choice.device.note}."))
    return found + [Text(note) for note in choice.notes]
