"""Imported first by the server that processes are forked from (``kdbench.profiling.process``). Floor 3; no torch."""

import signal
import warnings

signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is meant for the user's process, which ends this one
warnings.simplefilter("ignore")  # what packages warn their developers of while they are imported; nobody reads it here
