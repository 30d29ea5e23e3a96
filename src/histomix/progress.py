"""How long work tells its caller how far it is; the library itself prints nothing."""

from __future__ import annotations

from collections.abc import Callable

#: Called as ``progress(task, done, total)``: the name of the work, items done so far, items in all.
Progress = Callable[[str, int, int], None]


def silent(task: str, done: int, total: int) -> None:
    """Say nothing: the default `Progress`."""
