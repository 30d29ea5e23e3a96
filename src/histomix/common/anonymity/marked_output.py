"""Output folders in which nobody is named: marked as such, so that no later run puts names beside the pseudonyms."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from ...errors import InputError
from ...provenance import read_json, write_json

logger = logging.getLogger(__name__)
MARK = "anonymised.json"
_WHAT = "names of slides, patients and regions in this folder are pseudonyms; the key to them is not in it"


def mark_output(out: Path, key: str, earlier: Callable[[Path], bool]) -> None:
    """Mark a folder as one without names, and remove what an earlier run with names left of the same slides.

    Parameters
    ----------
    out
        The folder; made where it is absent.
    key
        Of the pseudonyms.
    earlier
        Whether an entry of the folder is a result, under its name, that this run makes anew under a pseudonym.

    Raises
    ------
    InputError
        The folder is marked with another key, or holds anything else, whose names would stay.
    StorageError
        It cannot be written.
    """
    marked = _key_of(out)
    if marked is not None:
        if marked != key:
            raise InputError(
                f"holds pseudonyms of another key ({marked}, not {key})",
                where=out,
                hint="Give that key with --pseudonym-key, or choose another --out",
            )
        return
    entries = [path for path in sorted(out.iterdir()) if not path.name.startswith(".")] if out.is_dir() else []
    foreign = [path.name for path in entries if not earlier(path)]
    if foreign:
        raise InputError(
            f"holds {foreign[0]!r}, which was made without --anonymise: names would stay beside the pseudonyms",
            where=out,
            hint="Choose another --out, or remove this one",
        )
    for path in entries:
        logger.warning("%s: made without --anonymise; it is removed and made anew under a pseudonym", path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    write_json(out / MARK, {"anonymised": key, "what": _WHAT})


def refuse_marked(out: Path) -> None:
    """Refuse to write names into a folder that is marked as one without.

    Raises
    ------
    InputError
        It is.
    """
    if _key_of(out) is not None:
        raise InputError(
            "was made with --anonymise: names would stand beside the pseudonyms",
            where=out,
            hint="Give --anonymise again, or choose another --out",
        )


def _key_of(out: Path) -> str | None:
    return str(read_json(out / MARK).get("anonymised")) if (out / MARK).is_file() else None
