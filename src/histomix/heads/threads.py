"""How many CPU threads the linear algebra of a fit may use (torch's own are limited where it trains)."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

from threadpoolctl import threadpool_limits

#: Embeddings with fewer values than this are worked on by one thread.
SMALL = 20_000_000


def threads_for(n_values: int) -> AbstractContextManager[Any]:
    """Keep linear algebra to one thread while a table of ``n_values`` (rows x columns) is worked on, if it is small.

    The steps of a small fit are so short that threads spend it waiting for one another: on two cores of which one is
    busy, the eigenvectors of 1,000 spots took seven times as long with two threads as with one.
    """
    return threadpool_limits(1) if n_values < SMALL else contextlib.nullcontext()
