"""One file for each corruption; each registers itself in `kdbench.data.corruption.CORRUPTIONS`."""
