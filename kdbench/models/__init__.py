"""The model families: one file each, found by themselves at the first look-up of ``kdbench.model.MODELS``."""
