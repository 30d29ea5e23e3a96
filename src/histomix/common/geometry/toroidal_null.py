"""Maps moved as a whole: the null of patterns that are as smooth as what was seen, but lie where they lie by chance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from .pitch import nearest_pitch

#: Places that are searched for at once.
_PLACES = 1 << 15


def random_shifts(xy: ArrayLike, count: int, seed: int | np.random.Generator = 0) -> Iterator[NDArray[np.intp]]:
    """Random rigid motions of spots on the torus of their bounding box, ``count`` times (n_spots,).

    Each says from which spot each spot takes its value: all are mirrored in x, in y, in both or in neither, and moved
    by one random shift; what leaves the box at one side comes back at the other, and each spot takes the value that
    comes to lie nearest to it. The idea is the toroidal shift of Lotwick & Silverman 1982 ("Methods for analysing
    spatial processes of several types of points"); see also Upton & Fingleton 1985, Harms & Fortin 2006.

    Parameters
    ----------
    xy
        Spot centres, (n_spots, 2), in any unit.
    count
        How many.
    seed
        Of the motions, or the generator that they are drawn from.
    """
    positions = np.asarray(xy, dtype=np.float64)
    rng = np.random.default_rng(seed)
    at, pitch = positions - positions.min(axis=0), nearest_pitch(positions)
    # One pitch between the last and the first column, as between any others.
    box = np.ptp(positions, axis=0) + (pitch if pitch > 0 else 1.0)
    tree = cKDTree(at, boxsize=box)
    # Threads are started for each search, which costs more than finding the neighbours of a few hundred spots.
    at_once = max(1, _PLACES // max(1, len(at)))
    for first in range(0, count, at_once):
        moved = np.empty((min(at_once, count - first), *at.shape))
        for places in moved:
            mirror, shift = rng.integers(2, size=2).astype(bool), rng.random(2) * box
            places[:] = np.mod(np.where(mirror, -at, at) + shift, box)
            places[places >= box] = 0.0  # rounding may give the box itself, which is off the torus
        yield from np.asarray(tree.query(moved, workers=-1)[1])
