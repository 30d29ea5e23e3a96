"""A slide as small pictures at powers of two, in scripts that a page may load from disk."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..slides import Slide
from .encode import packed_flags, write_script

TILE_PX = 512
_QUALITY = 82
#: A tile in which no channel is darker than this is background and is not stored: the page draws white there.
_WHITE = 242


@dataclass(frozen=True)
class Level:
    """One level: its scale, and its size in tiles."""

    mpp: float
    columns: int
    rows: int


def pyramid_levels(width_px: int, height_px: int, slide_mpp: float, mpp: float) -> list[Level]:
    """Levels from the finest (``mpp``, or the slide's own where that is coarser) to one that fits one tile."""
    levels, scale = [], max(mpp, slide_mpp)
    while True:
        width, height = width_px * slide_mpp / scale, height_px * slide_mpp / scale
        levels.append(Level(scale, math.ceil(width / TILE_PX), math.ceil(height / TILE_PX)))
        if max(width, height) <= TILE_PX:
            return levels
        scale *= 2


def write_pyramid(slide: Slide, folder: Path, key: str, levels: list[Level], wrote: Callable[[int], None]) -> list[str]:
    """Write ``folder/<level>_<column>_<row>.js`` for every tile that shows anything.

    A page opened from disk may run scripts beside it but not read files, and a picture loaded from disk would bar it
    from exporting what it drew: so each JPEG is a line of script.

    Parameters
    ----------
    slide
        An open slide.
    folder
        Where to write; it must exist.
    key
        What the page calls the slide.
    levels
        See `pyramid_levels`.
    wrote
        Told the number of tiles done.

    Returns
    -------
    Of each level, which tiles were written: one bit each in the order of row * columns + column, base64.
    """
    present: list[str] = []
    done = 0
    for number, level in enumerate(levels):
        here = np.zeros(level.columns * level.rows, dtype=bool)
        for column, row, pixels in _tiles(slide, level):
            if int(pixels.min()) < _WHITE:
                data = io.BytesIO()
                Image.fromarray(pixels).save(data, "JPEG", quality=_QUALITY)
                text = base64.b64encode(data.getvalue()).decode()
                name = f"{number}_{column}_{row}"
                write_script(folder, key, name, text)
                here[row * level.columns + column] = True
            done += 1
            wrote(done)
        present.append(packed_flags(here))
    return present


def _tiles(slide: Slide, level: Level) -> Iterator[tuple[int, int, np.ndarray]]:
    step = TILE_PX * level.mpp / slide.mpp
    for row in range(level.rows):
        for column in range(level.columns):
            x, y = column * step, row * step
            width = min(TILE_PX, math.ceil((slide.width_px - x) * slide.mpp / level.mpp))
            height = min(TILE_PX, math.ceil((slide.height_px - y) * slide.mpp / level.mpp))
            yield column, row, slide.read(x, y, max(width, 1), max(height, 1), level.mpp)
