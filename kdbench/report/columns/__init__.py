"""One file for each column of the leaderboard; each registers itself in `kdbench.report.column.COLUMNS`."""
