"""Loaded by Dask in each worker of a local cluster: Ctrl-C is for the command, which then ends its workers."""

from __future__ import annotations

import signal
from typing import Any


def dask_setup(_worker: Any) -> None:
    """Ignore the interrupt that a terminal sends to every process; each worker would print where it was."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
