"""What a head sees around a tile: mean features of rings about it, and predictions smoothed over its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from ..errors import HeadError

_ROWS = 2048
#: A Gaussian is cut off at this many standard deviations.
SMOOTH_REACH = 3.0


@dataclass(frozen=True, eq=False)
class Places:
    """Where rows of features are.

    Parameters
    ----------
    section
        Section or slide of each row, ``(n,)``: rows of two sections are never neighbours.
    xy_um
        Centres, float64 ``(n, 2)``, um from the corner of their slide.
    tiles
        Gives the pixels of rows by their number, uint8 ``(m, px, px, 3)``; for heads that are trained end to end.
    """

    section: np.ndarray
    xy_um: np.ndarray
    tiles: Callable[[np.ndarray], np.ndarray] | None = None

    def __post_init__(self) -> None:
        if self.xy_um.shape != (len(self.section), 2) or not np.isfinite(self.xy_um).all():
            raise HeadError(
                f"places need one section and one finite position (x, y) a row; there are {len(self.section)} sections "
                f"and positions of shape {self.xy_um.shape}"
            )

    def __len__(self) -> int:
        return len(self.section)

    def __getitem__(self, rows: Any) -> Places:
        """The places of some rows (a slice, numbers or a mask)."""
        chosen = replace(self, section=self.section[rows], xy_um=self.xy_um[rows])
        tiles = self.tiles
        if tiles is None:
            return chosen
        numbers = np.arange(len(self))[rows]
        return replace(chosen, tiles=lambda here: tiles(numbers[here]))


class Neighbourhood:
    """Neighbours within the sections of some places."""

    def __init__(self, places: Places) -> None:
        self.places = places
        _, self._code = np.unique(places.section, return_inverse=True)
        self._rows = [np.flatnonzero(self._code == code) for code in range(self._code.max(initial=-1) + 1)]
        self._trees = [cKDTree(places.xy_um[rows]) for rows in self._rows]

    def pairs(self, rows: np.ndarray, radius_um: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs nearer than ``radius_um``, a row with itself included: position in ``rows``, row, distance in um."""
        here: list[np.ndarray] = [np.zeros(0, np.intp)]
        there: list[np.ndarray] = [np.zeros(0, np.intp)]
        distance: list[np.ndarray] = [np.zeros(0)]
        for code in np.unique(self._code[rows]):
            mine = np.flatnonzero(self._code[rows] == code)
            tree = cKDTree(self.places.xy_um[rows[mine]])
            found = tree.sparse_distance_matrix(self._trees[code], radius_um, output_type="ndarray")
            here.append(mine[found["i"]])
            there.append(self._rows[code][found["j"]])
            distance.append(found["v"])
        return np.concatenate(here), np.concatenate(there), np.concatenate(distance)


def with_rings(X: Any, rows: np.ndarray, neighbourhood: Neighbourhood, rings_um: Sequence[float]) -> np.ndarray:
    """Join the mean features of rings around each row to its own, float32 ``(len(rows), d * (1 + n_rings))``.

    Ring ``i`` holds the rows of the section whose centre is farther than ring ``i - 1``'s radius (for the first: not
    the row itself) and within ``rings_um[i]``. Where a ring is empty, the ring inside it stands in for it.
    """
    here, there, distance = neighbourhood.pairs(rows, max(rings_um))
    needed = np.unique(np.concatenate([there, rows]))
    values = np.asarray(X[needed], dtype=np.float32)
    parts = [values[np.searchsorted(needed, rows)]]
    inner = 0.0
    for outer in rings_um:
        inside = (distance > inner) & (distance <= outer)
        shape = (len(rows), len(needed))
        ones = np.ones(int(inside.sum()), np.float32)
        ring = sparse.csr_matrix((ones, (here[inside], np.searchsorted(needed, there[inside]))), shape=shape)
        count = np.asarray(ring.sum(axis=1)).ravel()
        mean = (ring @ values) / np.maximum(count, 1)[:, None]
        parts.append(np.where(count[:, None] > 0, mean, parts[-1]).astype(np.float32))
        inner = outer
    return np.concatenate(parts, axis=1)


def smooth(values: np.ndarray, neighbourhood: Neighbourhood, sd_um: float) -> np.ndarray:
    """Average the rows of a prediction over their neighbours with Gaussian weights of standard deviation ``sd_um``.

    Rows that are NaN have no part and stay NaN. Weights are renormalised over the rows there are, so that edges and
    holes are neither darkened nor filled.
    """
    result = np.full(values.shape, np.nan)
    known = np.isfinite(values).all(axis=1)
    everything = np.flatnonzero(known)
    for start in range(0, len(everything), _ROWS):
        rows = everything[start : start + _ROWS]
        here, there, distance = neighbourhood.pairs(rows, SMOOTH_REACH * sd_um)
        use = known[there]
        weight = np.exp(-0.5 * np.square(distance[use] / sd_um))
        kernel = sparse.csr_matrix((weight, (here[use], there[use])), shape=(len(rows), len(values)))
        total = np.asarray(kernel.sum(axis=1)).ravel()
        result[rows] = (kernel @ np.where(known[:, None], values, 0.0)) / total[:, None]
    return result
