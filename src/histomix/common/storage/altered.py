"""Files that are no longer what the run that finished them wrote."""

from __future__ import annotations

from pathlib import Path

from ...errors import MapError
from ...provenance import digest_file, read_json

STATUS = "status.json"


def refuse_altered(folder: Path, map_file: str) -> None:
    """Refuse a map of which a file was changed since the run that its ``status.json`` says is done.

    A file that is gone is no changed one: what needs it says so. Of a map without a status, or with one of a run that
    is not done, nothing is known.

    Parameters
    ----------
    folder
        The folder of the map.
    map_file
        The file in it that numbers are read from; those beside it say the same for other programs and for people.

    Raises
    ------
    MapError
        A file was changed; the one that numbers are read from is named first.
    InputError
        The status is damaged.
    """
    if not (folder / STATUS).is_file():
        return
    told = read_json(folder / STATUS, hint="Predict this slide again")
    digests = told.get("file_digests")
    if told.get("state") != "done" or not isinstance(digests, dict):
        return
    for name in sorted(digests, key=lambda name: (name != map_file, name)):
        path = folder / name
        if Path(name).name != name or not path.is_file() or digest_file(path) == digests[name]:
            continue
        remove = "" if name == map_file else f" remove it ({map_file} is whole),"
        hint = f"Restore it from a copy,{remove} or run predict again for this slide"
        raise MapError("was changed since it was written", where=path, hint=hint)
