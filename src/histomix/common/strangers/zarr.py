"""Stores of Zarr that strangers made: refused where reading would run a program, never end, or invent numbers."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

from ...errors import InputError
from ...provenance import refuse_pipe

_METADATA = (".zarray", ".zmetadata", "zarr.json")
#: The codec that runs what it decodes; libraries refuse it of late, and older ones obey.
_PROGRAM = "pickle"
#: The numbers of sparse matrices and places: no chunk of these is all zeros, and only such are left out by writers.
_NUMBERS, _PLACES = "data", "obsm"


def check_zarr(path: str | os.PathLike[str], kind: type[InputError] = InputError) -> None:
    """Refuse a Zarr store that is no mere data, or not whole.

    Pickled arrays would run what they hold; pipes and devices keep their reader waiting; and a chunk that is not there
    is read as zeros, which counts and places would be where a copy was cut short.

    Parameters
    ----------
    path
        The folder.
    kind
        The error to raise.

    Raises
    ------
    InputError
        Or ``kind``: the store has such an array, or such a thing in the place of a file, or lacks chunks.
    """
    for file in _files(os.fspath(path)):
        if not file.is_file():
            refuse_pipe(file.path, kind)  # what leads nowhere is left to the library
        elif file.name in _METADATA and _PROGRAM in _codecs(Path(file.path)):
            what = "holds pickled arrays, which are a program that would run with your rights"
            raise kind(what, where=file.path, hint="Ask for the store without them, as its maker can write it")
        elif file.name in _METADATA and (lost := _lost_chunks(Path(file.path))):
            name = Path(file.path).parent.relative_to(path).as_posix()
            raise kind(f"lacks {lost:,} of the chunks of {name}", where=path, hint="Copy the store again, whole")


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


def _lost_chunks(metadata: Path) -> int:
    """How many chunks of an array are not there, of those that cannot be left out."""
    folder = metadata.parent
    if folder.name != _NUMBERS and folder.parent.name != _PLACES:
        return 0
    try:
        facts = json.loads(metadata.read_text(encoding="utf-8"))
        grid = facts["chunks"] if "chunks" in facts else facts["chunk_grid"]["configuration"]["chunk_shape"]
        expected = math.prod(-(-size // side) for size, side in zip(facts["shape"], grid, strict=True))
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        return 0  # a group, or what Zarr does not read either
    stored = sum(one.is_file() and one.name[0] != "." and one.name not in _METADATA for one in folder.rglob("*"))
    return max(0, int(expected) - stored)


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
