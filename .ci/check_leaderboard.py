"""Check what `kdbench run quickstart` left: every run is there, and distillation beat the baselines."""

from __future__ import annotations

import sys
from pathlib import Path

from kdbench.report import build_rows, collect

folder = Path(sys.argv[1])
records = collect(folder)
problems = [f"{record.spec.title}: {record.status}" for record in records if record.status != "ok"]
rows = build_rows(records)
gains = {f"{row.model} < {row.teacher}, {row.method}": row.gain for row in rows if row.role == "student"}
problems += [f"{name}: no gain could be computed" for name, gain in gains.items() if gain is None]
beaten = [name for name, gain in gains.items() if gain is not None and gain > 0]
if len(gains) != 8:
    problems.append(f"8 distilled rows were expected, {len(gains)} are there")
if 2 * len(beaten) <= len(gains):
    problems.append(f"only {len(beaten)} of {len(gains)} distilled rows beat their baselines: {gains}")
text = (folder / "leaderboard.md").read_text()
problems += [f"the leaderboard does not name {row.model}" for row in rows if row.model not in text]
for problem in problems:
    sys.stderr.write(f"{problem}\n")
sys.stdout.write(f"{len(beaten)} of {len(gains)} distilled rows beat their baselines\n")
sys.exit(bool(problems))
