"""One file for each data set source; each registers itself in `kdbench.data.source.SOURCES`."""
