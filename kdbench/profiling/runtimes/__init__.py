"""The ways to run a trained network: one file each, found by themselves (``kdbench.profiling.runtime.RUNTIMES``)."""
