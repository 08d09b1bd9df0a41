"""From a suite to records: the plan of runs, one run, and what executes a plan."""
