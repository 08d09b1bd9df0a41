"""Progress on the terminal: one line for the plan, one for what is going on, a line for each finished run."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from kdbench.types import EvaluationRecord, RunRecord, RunSpec

_MARKS = {"ok": "[green]ok[/]", "failed": "[red]failed[/]", "diverged": "[yellow]diverged[/]"}
_EVERY = 0.1  # s between redraws of one bar: a step of a tiny net takes a few milliseconds


class Screen:
    """A listener of an executor and a progress callback; use it as a context."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bars = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._plan: TaskID | None = None
        self._step: TaskID | None = None
        self._what, self._drawn = "", 0.0

    def __enter__(self) -> Screen:
        return self  # the bars begin with the first thing to show: an error before it is to be the only line

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars.live.is_started:
            self._bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """The progress callback of everything that takes long."""
        now = time.monotonic()
        if what == self._what and done < total and now - self._drawn < _EVERY:
            return
        self._drawn = now
        self._bars.start()
        if what != self._what or self._step is None:
            if self._step is not None:
                self._bars.remove_task(self._step)
            self._what = what
            self._step = self._bars.add_task(escape(what), total=total)
        self._bars.update(self._step, completed=done, total=total)

    def planned(self, pending: int, skipped: int) -> None:
        self.console.print(f"{pending} runs to do" + (f", {skipped} finished before and kept" if skipped else ""))
        self._bars.start()
        self._plan = self._bars.add_task("runs", total=pending)

    def started(self, spec: RunSpec) -> None:
        self._what = ""

    def noted(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def finished(self, record: RunRecord) -> None:
        if self._plan is not None:
            self._bars.advance(self._plan)
        if self._step is not None:
            self._bars.remove_task(self._step)
            self._step = None
        seconds = record.train_seconds + record.teacher_seconds
        if record.test_metrics is not None:
            outcome = f"test accuracy {100 * record.test_metrics.accuracy:.1f} %, {seconds:.0f} s"
        else:
            outcome = record.failure.message if record.failure else ""
        self.console.print(
            f"{_MARKS[record.status]} {escape(record.spec.title)}: {escape(outcome)}", highlight=False, soft_wrap=True
        )

    def evaluated(self, evaluation: EvaluationRecord) -> None:
        if self._step is not None:
            self._bars.remove_task(self._step)
            self._step = None
        what = evaluation.on.name if evaluation.side == "all" else "corrupted test images"
        if evaluation.failure is not None:
            mark, outcome = "failed", evaluation.failure.message
        elif evaluation.side == "all" and evaluation.metrics is not None:
            mark = "ok"
            outcome = f"accuracy {100 * evaluation.metrics.accuracy:.1f} % of {evaluation.metrics.count}"
        else:
            figures = [figure.accuracy for figure in evaluation.corrupted]
            mark, outcome = "ok", f"accuracy {100 * sum(figures) / len(figures):.1f} %, mean of {len(figures)} settings"
        self.console.print(
            f"{_MARKS[mark]} {escape(evaluation.title)} on {escape(what)}: {escape(outcome)}",
            highlight=False,
            soft_wrap=True,
        )
