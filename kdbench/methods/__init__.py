"""One file for each distillation method; each registers itself in `kdbench.method.METHODS`."""
