"""Stores of Zarr that strangers made: refused where reading an array would run a program."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ...errors import InputError
from ...provenance import refuse_pipe

_METADATA = (".zarray", ".zmetadata", "zarr.json")
#: The codec that runs what it decodes; libraries refuse it of late, and older ones obey.
_PROGRAM = "pickle"


def check_zarr(path: str | os.PathLike[str], kind: type[InputError] = InputError) -> None:
    """Refuse a Zarr store with arrays that are pickled: reading them would run what they hold.

    Parameters
    ----------
    path
        The folder.
    kind
        The error to raise.

    Raises
    ------
    InputError
        Or ``kind``: the store has such an array.
    """
    walked: set[str] = set()
    for folder, below, names in os.walk(path, followlinks=True):
        place = os.path.realpath(folder)
        if place in walked:  # a link leads back: what is below has been looked at
            below.clear()
            continue
        walked.add(place)
        for name in _METADATA:
            file = Path(folder, name)
            if name in names and _PROGRAM in _codecs(file):
                what = "holds pickled arrays, which are a program that would run with your rights"
                raise kind(what, where=file, hint="Ask for the store without them, as its maker can write it")


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
