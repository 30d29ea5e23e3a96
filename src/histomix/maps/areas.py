"""What became of a slide's tissue: read, or not and why; in mm2, and as a raster beside the map."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from ..errors import MapError
from ..provenance import atomic_path

AREAS_FILE = "not_read.png"


@dataclass(frozen=True)
class Reason:
    """One part of a slide's tissue.

    Parameters
    ----------
    name
        Its key in files.
    title
        What people are told.
    what
        The same in a sentence.
    colour
        Red, green and blue of the raster's palette.
    """

    name: str
    title: str
    what: str
    colour: tuple[int, int, int]


#: The parts in the order of their codes in the raster, from 1; 0 is glass. Each pixel of tissue is in one of them.
REASONS = (
    Reason("read", "read", "in focus, in scope and predicted", (0x9F, 0xC8, 0xB4)),
    Reason("fat", "fat, not read", "adipose tissue that no tile was read of", (0xE8, 0xC5, 0x47)),
    Reason("pen", "under pen", "a pen mark lies over it", (0x33, 0x66, 0xCC)),
    Reason("fold", "folded", "the section lies double", (0x7A, 0x3E, 0x9D)),
    Reason("blur", "out of focus", "predicted, from pixels out of focus", (0x8F, 0xA3, 0xAD)),
    Reason("damaged", "unreadable", "the file's pixels could not be decoded", (0xC2, 0x2F, 0x2F)),
    Reason("out_of_scope", "out of scope", "predicted, but unlike what the head was trained on", (0xD9, 0x7B, 0x3A)),
    Reason("too_small", "too small", "pieces that were dropped, and edges under half a tile", (0x6B, 0x5B, 0x4A)),
    Reason("excluded", "not asked for", "outside the regions or places that were to be predicted", (0xC9, 0xCC, 0xD1)),
)
GLASS = 0
READ, FAT, PEN, FOLD, BLUR, DAMAGED, OUT_OF_SCOPE, TOO_SMALL, EXCLUDED = range(1, len(REASONS) + 1)


def areas_mm2(raster: np.ndarray, mpp: float) -> dict[str, float]:
    """Area of each part of the tissue, by its name; they add up to all tissue of the raster."""
    counts = np.bincount(raster.ravel(), minlength=len(REASONS) + 1)
    return {reason.name: float(count) * mpp**2 / 1e6 for reason, count in zip(REASONS, counts[1:], strict=True)}


def not_read_mm2(areas: Mapping[str, float]) -> dict[str, float]:
    """The parts of the tissue that are not simply read and are there at all, the largest first."""
    some = [(name, area) for name, area in areas.items() if name != "read" and area > 0]
    return dict(sorted(some, key=lambda item: -item[1]))


def areas_sentence(areas: Mapping[str, float]) -> str:
    """The areas in one sentence: ``9.1 of 12.3 mm2 of tissue were read; 2.0 under pen, 1.2 too small``."""
    titles = {reason.name: reason.title for reason in REASONS}
    rest = [f"{area:.3g} {titles.get(name, name)}" for name, area in not_read_mm2(areas).items()]
    total, read = sum(areas.values()), areas.get("read", 0.0)
    return "; ".join(filter(None, [f"{read:.3g} of {total:.3g} mm2 of tissue were read", ", ".join(rest)]))


def write_areas(path: str | os.PathLike[str], raster: np.ndarray, mpp: float) -> None:
    """Write the raster of reasons as a PNG with a palette: a pixel's value is its code, its colour is for people.

    Parameters
    ----------
    path
        A PNG. Its text ``legend`` is JSON: ``mpp`` and the names by code.
    raster
        uint8 (height, width).
    mpp
        um per pixel; the raster's corner is the corner of level 0.

    Raises
    ------
    StorageError
        The file cannot be written.
    """
    image = Image.fromarray(raster)
    image.putpalette([255, 255, 255, *(channel for reason in REASONS for channel in reason.colour)])
    notes = PngImagePlugin.PngInfo()
    names = {str(code): reason.name for code, reason in enumerate(REASONS, start=1)}
    notes.add_text("legend", json.dumps({"mpp": mpp, "names": {"0": "glass", **names}}))
    with atomic_path(path) as temporary:
        image.save(temporary, "PNG", pnginfo=notes)


def read_areas(path: str | os.PathLike[str]) -> np.ndarray:
    """The raster of reasons, uint8 (height, width), that `write_areas` wrote.

    Raises
    ------
    MapError
        The file cannot be read, or is another picture.
    """
    hint = "Run predict again for this slide"
    try:
        with Image.open(Path(path)) as image:
            raster = np.asarray(image) if image.mode == "P" else None
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise MapError(f"cannot be read ({error})", where=path, hint=hint) from error
    if raster is None or raster.max(initial=0) > len(REASONS):
        raise MapError("is no raster of what was read", where=path, hint=hint)
    return raster
