"""What leaves first: one file each, found by themselves (``kdbench.compress.importance.IMPORTANCES``)."""
