"""How many CPU threads a fit may use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from threadpoolctl import threadpool_limits

#: Embeddings with fewer values than this are fitted on one thread.
SMALL = 20_000_000


@contextlib.contextmanager
def threads_for(n_values: int, *, uses_torch: bool = False) -> Iterator[None]:
    """Keep linear algebra and torch to one thread while a small table is worked on.

    The steps of a small fit are so short that threads spend it waiting for one another: on two cores of which one is
    busy, a fit on 1,000 spots took six times as long with two threads as with one.

    Parameters
    ----------
    n_values
        Rows x columns of the embeddings.
    uses_torch
        Limit torch too, which means importing it.
    """
    if n_values >= SMALL:
        yield
        return
    with threadpool_limits(1), _one_torch_thread() if uses_torch else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _one_torch_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
