"""Which foreign tile a spot is given: that of its name, the nearest one, or the mean of those over it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

#: Spots of which less is covered by tiles have no mean of them.
_COVERED = 0.5


@dataclass(frozen=True, eq=False)
class Matched:
    """Features of the spots that have a tile.

    Parameters
    ----------
    rows
        (m,) numbers of these spots.
    vectors
        (m, dim).
    tiles
        (m,) numbers of their tiles; -1 where several were averaged.
    distance_um
        (m,) from the spot to the centre of its tile, or of the tiles that were averaged.
    how
        ``"barcode"``, ``"nearest"`` or ``"overlap"``.
    """

    rows: np.ndarray
    vectors: np.ndarray
    tiles: np.ndarray
    distance_um: np.ndarray
    how: str


def by_name(keys: np.ndarray, vectors: np.ndarray, spots: np.ndarray) -> Matched:
    """Tiles that have the names of spots; distances are not known (NaN)."""
    places = {str(key): number for number, key in enumerate(keys.tolist())}
    found = np.array([places.get(str(key), -1) for key in spots.tolist()], int)
    rows = np.flatnonzero(found >= 0)
    return Matched(rows, vectors[found[rows]], found[rows], np.full(len(rows), np.nan), "barcode")


def nearest(
    centres_px: np.ndarray, vectors: np.ndarray, spots_px: np.ndarray, mpp: float, tolerance_um: float
) -> Matched:
    """The nearest tile of each spot, where its centre is within ``tolerance_um``."""
    distance, tile = cKDTree(centres_px).query(spots_px)
    rows = np.flatnonzero(distance * mpp <= tolerance_um)
    return Matched(rows, vectors[tile[rows]], tile[rows], distance[rows] * mpp, "nearest")


def overlapping(
    centres_px: np.ndarray,
    vectors: np.ndarray,
    side_px: float,
    spots_px: np.ndarray,
    spot_side_px: float,
    mpp: float,
) -> Matched:
    """The mean of the tiles that lie over each spot, weighted by the area that they cover of its square.

    Parameters
    ----------
    centres_px, vectors, side_px
        Centres of the tiles, their features and their side.
    spots_px, spot_side_px
        Centres of the spots, and the side of the square that stands for one.
    mpp
        Um per px.
    """
    reach = (side_px + spot_side_px) / 2
    near = cKDTree(centres_px).query_ball_point(spots_px, reach, p=np.inf)
    spot = np.repeat(np.arange(len(spots_px)), [len(tiles) for tiles in near])
    tile = np.concatenate([np.asarray(tiles, int) for tiles in near]) if len(spot) else np.zeros(0, int)
    away = np.abs(centres_px[tile] - spots_px[spot])
    shared = np.clip(reach - away, 0, min(side_px, spot_side_px)).prod(axis=1)
    weights = sparse.csr_matrix((shared, (spot, tile)), shape=(len(spots_px), len(centres_px)))
    total = np.asarray(weights.sum(axis=1)).ravel()
    rows = np.flatnonzero(total >= _COVERED * spot_side_px**2)
    weights = sparse.diags(1 / total[rows]) @ weights[rows]
    middle = weights @ centres_px
    distance = np.linalg.norm(middle - spots_px[rows], axis=1) * mpp
    means = np.asarray(weights @ vectors.astype(np.float32), np.float32)
    return Matched(rows, means, np.full(len(rows), -1), distance, "overlap")
