"""Tiles that a file holds no data for: white, or of the colour it fills them with, where a coarser level says so."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ...errors import SlideReadError
from ..slide import Reader

#: By so much pixels may differ from the colour of a tile without data: glass is not quite white.
_TOLERANCE = 40


def check_white(
    reader: Reader,
    path: Path,
    level: int,
    box: tuple[int, int, int, int],
    *,
    sparse: bool = False,
    colour: int = 255,
    hint: str = "The file is unfinished or damaged: copy or export it again",
) -> None:
    """Refuse a tile without data, unless the next coarser level is white there.

    Parameters
    ----------
    reader, path
        Of the slide.
    level, box
        Which tile: left, top, width and height in px of its level.
    sparse
        Formats that leave white tiles out: where no coarser level exists, the tile is white.
    colour
        What the format fills such tiles with, where it is not white.
    hint
        What may mend it.

    Raises
    ------
    SlideReadError
        Tissue would be shown as glass, or nothing tells.
    """
    x, y, width, height = box
    scale = reader.downsamples[level]
    if level + 1 < len(reader.downsamples):
        ratio = scale / reader.downsamples[level + 1]
        left, top = math.floor(x * ratio), math.floor(y * ratio)
        right, bottom = math.ceil((x + width) * ratio), math.ceil((y + height) * ratio)
        pixels = reader.read_level(level + 1, left, top, right - left, bottom - top)
        if np.abs(pixels.astype(np.int16) - colour).max() <= _TOLERANCE:
            return
        why = "though the next level shows something there"
    elif sparse:
        return
    else:
        why = f"and no coarser level tells whether it is {'white' if colour == 255 else 'blank'}"
    raise SlideReadError(
        f"the tile at x={x * scale:.0f}, y={y * scale:.0f} (level-0 px, level {level}) holds no data, {why}",
        where=path,
        hint=hint,
    )
