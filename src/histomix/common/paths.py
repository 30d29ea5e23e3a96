"""Paths in tables that travel between systems, and paths among what a function is given."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError


def path_in_table(folder: Path, text: str) -> Path:
    r"""The path that a table in ``folder`` names, relative to it; ``images\A.jpg``, as Windows writes it, too."""
    path = folder / text
    if os.sep == "/" and "\\" in text and not exists(path):
        return folder / text.replace("\\", "/")
    return path


def exists(path: Path) -> bool:
    """Whether something is there; False also for what cannot be a path."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long for a file, or with a null mark
        return False


def as_list(given: Any) -> list[Any]:
    """What was given, alone or in a list or tuple, as a list; a text is one thing."""
    return list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]


def paths_among(given: Sequence[Any]) -> list[Path]:
    """Those of the things that are paths."""
    return [Path(one) for one in given if isinstance(one, str | os.PathLike)]


def refuse_replacing(inputs: Iterable[Path | None], targets: Iterable[Path]) -> None:
    """Refuse to write over a file that the same command reads: it is not ours, and may be the only one.

    Raises
    ------
    InputError
        One of ``targets`` is one of ``inputs``, under this name or another (a link, other capitals).
    """
    read = {key: path for path in inputs if path is not None and (key := _file_of(path)) is not None}
    for target in targets:
        key = _file_of(target)
        if key in read:
            raise InputError(
                "is read by this command, and would be replaced by what it writes",
                where=target,
                hint="Choose another --out",
            )


def _file_of(path: Path) -> tuple[int, int] | None:
    """What tells a file from every other; None where there is none."""
    try:
        state = path.stat()
    except (OSError, ValueError):
        return None
    return (state.st_dev, state.st_ino)
