"""Whether cells lie where they say or where another way of writing places has them, by how a map agrees with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from ...common.metrics import pearson
from ...errors import InputError
from ...spots.alignment.fit import GIVEN, ORIENTATIONS, move, orientation

#: Of a map that agrees as well as this nothing is asked.
_POOR = 0.35
#: So much better than the given way and than all others one must agree, and on so many tiles: neighbours are alike, and
#: one of ten ways agrees a little by chance.
_BETTER, _CLEAR, _FEWEST_TILES = 0.3, 0.2, 30
#: So many cells tell it.
_CELLS = 100_000

#: What a map and cells say of the same tiles, both tiles x cell types.
Compare = Callable[[pd.DataFrame], tuple[pd.DataFrame, pd.DataFrame]]


def doubt_of_places(cells: pd.DataFrame, compare: Compare, size_px: tuple[float, float], mpp: float) -> list[str]:
    """What to say where a map that hardly agrees with cells agrees with them far better if they lie otherwise.

    Places that were written with x and y swapped, from another corner, or in um where px were meant give a score
    without an error. The score stays that of the places as they are given: a way that is chosen by the map itself
    would flatter it.

    Parameters
    ----------
    cells
        ``x_px, y_px`` and ``cell_type``.
    compare
        Counts such cells in the map's tiles; InputError where none is in one.
    size_px, mpp
        Of the slide.
    """
    cells = cells.iloc[:: -(-len(cells) // _CELLS)]
    given, tiles = _agreement(cells, compare)
    if not given < _POOR:  # NaN where one type is left, or no tile
        return []
    found = []
    for words, affine in _ways(size_px, mpp):
        moved = cells.copy()
        moved[["x_px", "y_px"]] = move(cells[["x_px", "y_px"]].to_numpy(np.float64), affine)
        value, on = _agreement(moved, compare)
        if on >= max(_FEWEST_TILES, tiles / 2) and np.isfinite(value):
            found.append((value, words))
    best, next_best = [*sorted(found, reverse=True), (0.0, ""), (0.0, "")][:2]
    if best[0] < max(0.0, given) + _BETTER or best[0] < max(0.0, next_best[0]) + _CLEAR:
        return []
    value, words = best
    return [
        f"the map agrees with the cells far better with their places read otherwise ({words}: Pearson {value:.2f}, not "
        f"{given:.2f}): make sure how they were written; the scores are of the places as they are"
    ]


def _agreement(cells: pd.DataFrame, compare: Compare) -> tuple[float, int]:
    """Mean Pearson over the cell types, NaN where it is not defined, and the number of tiles."""
    try:
        truth, predicted = compare(cells)
    except InputError:
        return np.nan, 0
    values = pearson(truth.to_numpy(np.float64), predicted.to_numpy(np.float64))
    known = values[np.isfinite(values)]
    return (float(known.mean()) if len(known) else np.nan), len(truth)


def _ways(size_px: tuple[float, float], mpp: float) -> Iterator[tuple[str, np.ndarray]]:
    if np.isfinite(size_px).all():
        size = int(size_px[0]), int(size_px[1])
        yield from ((name, orientation(name, size)) for name in ORIENTATIONS if name != GIVEN)
    for scale, words in ((1 / mpp, "as um"), (mpp, "as px")):
        if not 0.99 < scale < 1.01:
            yield words, np.array([[scale, 0.0, 0.0], [0.0, scale, 0.0]])
