"""References by name: single cells or signatures that a script prepares once, found in the cache afterwards."""

from __future__ import annotations

import os
from pathlib import Path

from ..common.cache import cache_root
from ..errors import MissingFileError, UnknownNameError

HUB = "hub:"
#: What each is, and where its cells are from.
REFERENCES = {
    "wu2021-breast": "breast cancer, 9 major cell types (Wu et al., Nat Genet 53, 1334 (2021); GEO GSE176078)",
    "hlca": "healthy lung, 80 cell types (Madissoon et al., Nat Genet 55, 66 (2023); E-MTAB-11640 and its cells)",
}
_ENDINGS = (".h5ad", ".csv")


def find_reference(name: str | os.PathLike[str]) -> Path:
    """A reference by its path, or by its name (``"hub:wu2021-breast"``) in the cache.

    Raises
    ------
    InputError
        There is no such reference, or it has not been prepared.
    """
    text = os.fspath(name)
    if not text.startswith(HUB):
        return Path(text)
    key = text.removeprefix(HUB)
    if key not in REFERENCES:
        known = ", ".join(f"{HUB}{one}" for one in REFERENCES)
        raise UnknownNameError(f"there is no reference {text!r}", hint=f"Choose one of {known}, or give a file")
    places = [cache_root() / "references" / f"{key}{ending}" for ending in _ENDINGS]
    for place in places:
        if place.is_file():
            return place
    raise MissingFileError(
        f"the reference {text} ({REFERENCES[key]}) has not been prepared",
        where=places[0],
        hint=f"Prepare it with: python scripts/prepare_reference.py {key}, or give a file with --reference",
    )
