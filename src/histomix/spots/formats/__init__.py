"""Formats of spatial data by name; a module is loaded when its format is asked for.

Each module has ``FORMATS``, a tuple of `Format` objects.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from ...errors import SectionError
from ...provenance import refuse_pipe
from .base import GENOME, SHEET_IMAGE, Description, Format, Options, SpotFile

__all__ = [
    "GENOME",
    "KNOWN",
    "SHEET_IMAGE",
    "Description",
    "Format",
    "Options",
    "SpotFile",
    "check_options",
    "find_format",
    "load_format",
    "readable",
    "split_location",
]

# Module of each format. The order is that of detection: what is more particular comes first.
_MODULES = {
    "spatialdata": "spatialdata",
    "visium-hd-cells": "cells.segmented",
    "visium-hd": "tenx.visium_hd",
    "visium": "tenx.visium",
    "xenium": "cells.platforms",
    "cosmx": "cells.platforms",
    "merscope": "cells.platforms",
    "hest": "hest",
    "cells": "cells.platforms",
    "h5ad": "h5ad",
    "st": "st",
    "stnet": "stnet",
    "slideseq": "slideseq",
    "csv": "csv",
}
#: Names of all formats, those that this version cannot read included.
KNOWN = tuple(_MODULES)


def readable() -> tuple[str, ...]:
    """Names of the formats that can be read."""
    return tuple(name for name in KNOWN if importlib.util.find_spec(f"{__name__}.{_MODULES[name]}"))


def load_format(name: str, where: Path | None = None) -> Format:
    """The format of this name; ``where`` is the file that an error names.

    Raises
    ------
    SectionError
        It is unknown, or known by name only.
    """
    if name not in KNOWN:
        near = difflib.get_close_matches(name.lower(), KNOWN, n=1)
        guess = f" (did you mean '{near[0]}'?)" if near else ""
        raise SectionError(
            f"the format '{name}' is not known{guess}", where=where, hint=f"Known are {', '.join(KNOWN)}"
        )
    if name in readable():
        module = importlib.import_module(f".{_MODULES[name]}", __name__)
        formats: Sequence[Format] = module.FORMATS
        for format in formats:
            if format.name == name:
                return format
    raise SectionError(
        f"the format '{name}' is not read by this version; it reads {', '.join(readable())}",
        where=where,
        hint="Convert the section to h5ad (obsm['spatial'] in px of the image) or to CSV (spot, x_px, y_px)",
    )


def find_format(path: Path) -> Format | None:
    """The first format that a file or folder looks like, None when it looks like none.

    Raises
    ------
    SectionError
        It is a pipe, a socket or a device.
    """
    refuse_pipe(path, SectionError)
    return next((format for format in map(load_format, readable()) if format.matches(path)), None)


def split_location(location: str) -> tuple[Path, dict[str, str]]:
    """Split ``"outs#bin_um=8;tile_um=112"`` into the path and the options after its last ``#``.

    A file whose own name has a ``#`` is taken as it stands.

    Raises
    ------
    SectionError
        What follows the ``#`` is not ``name=value``, separated by semicolons.
    """
    start, mark, rest = location.rpartition("#")
    if not mark or not start or Path(location).exists():
        return Path(location), {}
    options: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in rest.split(";"))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value) or name in options:
            raise SectionError(
                f"'{part}' is no option: after '#' stand name=value pairs, separated by ';', each name once",
                where=location,
                hint="For example outs#bin_um=8, or remove the part from '#' on",
            )
        options[name] = value
    return Path(start), options


def check_options(format: Format, options: Options, where: Path) -> None:
    """Raise SectionError for an option that the format does not know."""
    for name in options:
        if name not in format.options and name not in (SHEET_IMAGE, GENOME):
            options_known = {**format.options, GENOME: "of counts of several genomes the one to read, such as GRCh38"}
            known = ", ".join(f"{key} ({meaning})" for key, meaning in options_known.items())
            raise SectionError(
                f"the format '{format.name}' has no option '{name}'", where=where, hint=f"Its options are: {known}"
            )
