"""The tissue of a slide divided once: what is read, and what is not and why."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..maps.areas import BLUR, DAMAGED, EXCLUDED, FAT, FOLD, OUT_OF_SCOPE, PEN, READ, TOO_SMALL
from ..slides import TissueMask, tissue

if TYPE_CHECKING:
    from ..heads import Head

_FAT_CELLS = re.compile(r"adipo|lipocyte|\bfat\b", re.IGNORECASE)


def knows_fat(head: Head) -> bool:
    """Whether one of a head's cell types is fat: only then are tiles of fat read."""
    return any(_FAT_CELLS.search(str(name)) for name in head.card["cell_types"])


def planned_areas(
    mask: TissueMask, tiles: np.ndarray, facts: dict[str, Any], outside: Sequence[np.ndarray]
) -> np.ndarray:
    """What is to be read of the tissue, and why the rest is not.

    Parameters
    ----------
    mask
        The tissue.
    tiles
        The tiles that are to be read, as `histomix.prediction.plan.TILE`.
    facts
        Of the plan.
    outside
        Columns and rows of the cells of the grid that lie outside the regions.

    Returns
    -------
    uint8 of the mask's shape, codes of `histomix.maps.areas.REASONS`; 0 off the tissue.
    """
    kinds = mask.kinds if mask.kinds is not None else np.where(mask.mask, tissue.TISSUE, tissue.GLASS)
    if facts["places"] == "spots":
        raster = np.full(kinds.shape, EXCLUDED, np.uint8)
        for window in _squares(tiles, facts, mask.mpp, kinds.shape):
            raster[window] = READ
    else:
        row, column = _cells(facts, mask.mpp, kinds.shape)
        columns, rows = facts["grid"]
        state = np.full((rows + 1, columns + 1), TOO_SMALL, np.uint8)  # the last of each is off the grid
        state[outside[1], outside[0]] = EXCLUDED
        state[tiles["row"], tiles["column"]] = READ
        raster = state[np.ix_(row, column)]
    asked = raster != EXCLUDED
    raster[(kinds == tissue.FAT) & (raster == TOO_SMALL)] = FAT
    for kind, reason in ((tissue.PEN, PEN), (tissue.FOLD, FOLD), (tissue.SMALL, TOO_SMALL)):
        raster[(kinds == kind) & asked] = reason
    raster[kinds == tissue.GLASS] = 0
    return raster


def final_areas(planned: np.ndarray, tiles: np.ndarray, facts: dict[str, Any], state: np.ndarray) -> np.ndarray:
    """What has become of the tissue: the planned areas, with what the tiles turned out to be; as `planned_areas`.

    Parameters
    ----------
    planned, tiles, facts
        Of the plan.
    state
        uint8 (tiles,), what became of each tile: a code of `histomix.maps.areas.REASONS`.
    """
    mpp = facts["tissue_areas"]["mpp"]
    if facts["places"] == "spots":
        painted = np.zeros_like(planned)
        for reason in (DAMAGED, OUT_OF_SCOPE, BLUR, READ):  # where spots overlap, the best counts
            for window in _squares(tiles[state == reason], facts, mpp, planned.shape):
                painted[window] = reason
    else:
        columns, rows = facts["grid"]
        cells = np.zeros((rows + 1, columns + 1), np.uint8)
        cells[tiles["row"], tiles["column"]] = state
        painted = cells[np.ix_(*_cells(facts, mpp, planned.shape))]
    return np.where(planned == READ, painted, planned)


def _cells(facts: dict[str, Any], mpp: float, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the grid's cell of each row and column of the mask; -1 off the grid."""
    slide, tile = facts["slide"], facts["tile"]
    stride, half = facts["cell_px"], tile["size_px"] * tile["mpp"] / slide["mpp"] / 2
    numbers = []
    for start, pixels, count in zip(slide["bounds_px"][::-1], shape, facts["grid"][::-1], strict=True):
        centres = (np.arange(pixels) + 0.5) * mpp / slide["mpp"]
        cell = np.floor((centres - (start + half - stride / 2)) / stride).astype(np.int64)
        numbers.append(np.where((cell >= 0) & (cell < count), cell, -1))
    return numbers[0], numbers[1]


def _squares(tiles: np.ndarray, facts: dict[str, Any], mpp: float, shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """The pixels of the mask under each tile, at least one."""
    scale, half = facts["slide"]["mpp"] / mpp, facts["cell_px"] / 2
    windows = []
    for x, y in zip(tiles["x_px"].tolist(), tiles["y_px"].tolist(), strict=True):
        window = []
        for centre, pixels in ((y, shape[0]), (x, shape[1])):
            first = min(max(math.floor((centre - half) * scale + 0.5), 0), pixels - 1)
            window.append(slice(first, max(first + 1, math.floor((centre + half) * scale + 0.5))))
        windows.append((window[0], window[1]))
    return windows
