"""One file for each way to execute a plan."""
