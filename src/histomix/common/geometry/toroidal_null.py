"""Maps moved as a whole: the null of patterns that are as smooth as what was seen, but lie where they lie by chance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from .pitch import nearest_pitch

#: Places that are searched for at once.
_PLACES = 1 << 15
#: Fields a pitch of the raster in which it is known which spots may be nearest, how many those are at most, how many
#: searches a field costs, and how many fields are held.
_FIELDS, _CANDIDATES, _COST, _MOST_FIELDS = 5, 4, 3, 1 << 21


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
    for sources in shift_blocks(xy, random_motions(count, seed)):
        yield from sources


@dataclass(frozen=True, eq=False)
class Motions:
    """Rigid motions of a torus: the sign that x and y get, and by which share of its sides they are moved, (n, 2)."""

    sign: NDArray[np.float64]
    share: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.sign)


def random_motions(count: int, seed: int | np.random.Generator = 0) -> Motions:
    """The motions of `random_shifts`, which know nothing of the spots yet."""
    rng = np.random.default_rng(seed)
    sign, share = np.empty((2, count, 2))
    for number in range(count):
        sign[number] = np.where(rng.integers(2, size=2).astype(bool), -1.0, 1.0)
        share[number] = rng.random(2)
    return Motions(sign, share)


def shift_blocks(xy: ArrayLike, motions: Motions) -> Iterator[NDArray[np.intp]]:
    """What `random_shifts` yields, several at once (some, n_spots)."""
    positions = np.asarray(xy, dtype=np.float64)
    at, pitch = positions - positions.min(axis=0), nearest_pitch(positions)
    torus = _Torus(at, pitch if pitch > 0 else 1.0, len(motions))
    at_once = max(1, _PLACES // max(1, len(at)))
    for first in range(0, len(motions), at_once):
        some = slice(first, first + at_once)
        sign, shift = motions.sign[some], motions.share[some] * torus.box
        yield torus.nearest(*(torus.wrapped(sign[:, [axis]] * at[:, axis] + shift[:, [axis]], axis) for axis in (0, 1)))


class _Torus:
    """Which spot lies nearest to places on the torus of the spots' bounding box.

    Of each field of a raster it is found once which spots can be nearest to a place in it; where those are few, places
    are compared with them alone, and looked for in a tree otherwise. The spot is the same, in a fifth of the time.
    """

    def __init__(self, at: NDArray[np.float64], pitch: float, count: int) -> None:
        # One pitch between the last and the first column, as between any others.
        self.box = np.ptp(at, axis=0) + pitch
        self.tree = cKDTree(at, boxsize=self.box)
        self.x, self.y = np.ascontiguousarray(at.T)
        self.shape = np.ceil(self.box / pitch * _FIELDS).astype(int)
        most = min(count * len(at) / _COST, _MOST_FIELDS)
        self.candidates = self._found() if self.shape.prod(dtype=float) < most and len(at) > _CANDIDATES else None

    def wrapped(self, values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        """Coordinates that are less than a box away, in the box."""
        box = self.box[axis]
        values += box * (values < 0)
        values -= box * (values >= box)  # rounding may give the box itself, which is off the torus
        return values

    def nearest(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.intp]:
        """The nearest spot of places in the box, of the shape of their coordinates."""
        if self.candidates is None:
            return np.asarray(self.tree.query(np.stack([x, y], axis=-1), workers=-1)[1])
        (width, height), (columns, rows) = self.box, self.shape
        column = np.minimum((x * (columns / width)).astype(np.intp), columns - 1)
        row = np.minimum((y * (rows / height)).astype(np.intp), rows - 1)
        field = column * rows + row
        found: NDArray[np.intp] = self.candidates[0][field]
        least = self._square(x, y, found)
        for of_field in self.candidates[1:]:
            other = of_field[field]
            square = self._square(x, y, other)
            nearer = square < least
            np.copyto(found, other, where=nearer)
            np.minimum(least, square, out=least)
        many = found < 0
        if many.any():
            found[many] = self.tree.query(np.stack([x[many], y[many]], axis=1))[1]
        return found

    def _square(self, x: NDArray[np.float64], y: NDArray[np.float64], spot: NDArray[np.intp]) -> NDArray[np.float64]:
        dx: NDArray[np.float64] = np.abs(x - self.x[spot])
        dy: NDArray[np.float64] = np.abs(y - self.y[spot])
        np.minimum(dx, self.box[0] - dx, out=dx)
        np.minimum(dy, self.box[1] - dy, out=dy)
        dx *= dx
        dy *= dy
        dx += dy
        return dx

    def _found(self) -> NDArray[np.intp]:
        """Spots that may be nearest to a place in each field, ``(_CANDIDATES, fields)``; -1 where they are more."""
        size = self.box / self.shape
        middles = [(np.arange(count) + 0.5) * step for count, step in zip(self.shape, size, strict=True)]
        middle = np.stack(np.meshgrid(*middles, indexing="ij"), axis=-1).reshape(-1, 2)
        distance, spot = self.tree.query(middle, k=_CANDIDATES + 1)
        # A place is half a diagonal from the middle at most.
        far = distance > distance[:, :1] + np.hypot(*size) * (1 + 1e-9)
        spot = np.where(far, spot[:, :1], spot)
        spot[~far[:, -1]] = -1
        return np.ascontiguousarray(spot[:, :-1].T)
