"""Stores of Zarr that strangers made: refused where reading an array would run a program, or never end."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError
from ...provenance import refuse_pipe

_METADATA = (".zarray", ".zmetadata", "zarr.json")
#: The codec that runs what it decodes; libraries refuse it of late, and older ones obey.
_PROGRAM = "pickle"


def check_zarr(path: str | os.PathLike[str], kind: type[InputError] = InputError) -> None:
    """Refuse a Zarr store with arrays that are pickled, which would run what they hold, or with pipes and devices.

    Parameters
    ----------
    path
        The folder.
    kind
        The error to raise.

    Raises
    ------
    InputError
        Or ``kind``: the store has such an array, or such a thing in the place of a file.
    """
    for file in _files(os.fspath(path)):
        if not file.is_file():
            refuse_pipe(file.path, kind)  # what leads nowhere is left to the library
        elif file.name in _METADATA and _PROGRAM in _codecs(Path(file.path)):
            what = "holds pickled arrays, which are a program that would run with your rights"
            raise kind(what, where=file.path, hint="Ask for the store without them, as its maker can write it")


def _files(folder: str) -> Iterator[os.DirEntry[str]]:
    """All that is no folder below a folder, links followed, each folder once."""
    walked: set[str] = set()
    waiting = [folder]
    while waiting:
        below = waiting.pop()
        place = os.path.realpath(below)
        if place in walked:  # a link leads back
            continue
        walked.add(place)
        with contextlib.suppress(OSError), os.scandir(below) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting.append(entry.path)
                else:
                    yield entry


def _codecs(file: Path) -> set[str]:
    """Whatever may be the name of a codec in metadata of Zarr, without what stands before a dot."""
    refuse_pipe(file)
    try:
        waiting = [json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, RecursionError):
        return set()  # Zarr does not read it either
    codecs = set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            names = (value.get("id"), value.get("name"))
            codecs |= {name.rpartition(".")[2].lower() for name in names if isinstance(name, str)}
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return codecs
