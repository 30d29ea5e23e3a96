"""The families: each module has ``cases()``, which yields its cases."""

from __future__ import annotations

from collections.abc import Iterator

from ..case import Case
from . import (
    archives,
    dicom,
    encoders,
    flat,
    heads,
    maps,
    ome,
    references,
    regions,
    remote,
    sheets,
    spots,
    stores,
    tiff,
    zarr,
)

FAMILIES = {
    "flat": flat,
    "tiff": tiff,
    "ome": ome,
    "dicom": dicom,
    "zarr": zarr,
    "spots": spots,
    "references": references,
    "sheets": sheets,
    "regions": regions,
    "encoders": encoders,
    "heads": heads,
    "stores": stores,
    "maps": maps,
    "archives": archives,
    "remote": remote,
}


def all_cases(names: list[str] | None = None) -> Iterator[Case]:
    """The cases of some families, or of all."""
    for name in names or FAMILIES:
        yield from FAMILIES[name].cases()
