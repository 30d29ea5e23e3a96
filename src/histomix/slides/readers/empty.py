"""Tiles that a file holds no data for: white only where a coarser level says so."""

from __future__ import annotations

import math
from pathlib import Path

from ...errors import SlideReadError
from ..slide import Reader

# Lightness from which a pixel of the glass is taken for white.
_WHITE = 215


def check_white(
    reader: Reader, path: Path, level: int, box: tuple[int, int, int, int], *, sparse: bool = False
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
        if reader.read_level(level + 1, left, top, right - left, bottom - top).min() >= _WHITE:
            return
        why = "though the next level shows something there"
    elif sparse:
        return
    else:
        why = "and no coarser level tells whether it is white"
    raise SlideReadError(
        f"the tile at x={x * scale:.0f}, y={y * scale:.0f} (level-0 px, level {level}) holds no data, {why}",
        where=path,
        hint="The file is unfinished or damaged: copy or export it again",
    )
