"""Imported first by the server that processes are forked from (``kdbench.profiling.process``). Floor 3; no torch."""

import warnings

warnings.simplefilter("ignore")  # what packages warn their developers of while they are imported; nobody reads it here
