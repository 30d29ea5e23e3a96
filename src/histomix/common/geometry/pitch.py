"""The pitch of spots: from their array coordinates where these are known, else from their neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

_MIN_SPOTS = 4
# Neighbours of the first shell: beyond the nearest, but short of the diagonal of a square grid (1.41).
_SHELL = 1.3
# Array positions adjusted for jitter are this near to whole numbers on average; those of a hexagonal lattice are not.
_JITTER = 0.2


@dataclass(frozen=True)
class Pitch:
    """Spot pitch in px, and where it is from: ``"array"`` or ``"neighbours"``.

    ``residual`` is the rms distance (in pitches) of the spots from where their array coordinates put them; nan without.
    """

    px: float
    source: str
    residual: float = float("nan")


def nearest_distances(xy: ArrayLike, of: ArrayLike | None = None) -> NDArray[np.float64]:
    """Distance of each spot of ``xy`` (n, 2), or only of those ``of`` them (m, 2), to the nearest other one; n >= 2."""
    return np.asarray(cKDTree(xy).query(xy if of is None else of, k=2)[0])[:, 1]


def nearest_pitch(xy: ArrayLike) -> float:
    """Median distance of spots (n, 2) to their nearest neighbour, in their unit; NaN with fewer than two spots.

    Where spots are jittered this is less than the pitch that they were printed at: see `spot_pitch`.
    """
    positions = np.asarray(xy, dtype=np.float64)
    return float(np.median(nearest_distances(positions))) if len(positions) > 1 else float("nan")


def spot_pitch(xy_px: np.ndarray, array_xy: np.ndarray | None = None) -> Pitch | None:
    """Estimate the pitch; None when there are too few spots to tell.

    Parameters
    ----------
    xy_px
        Spot centres (n, 2), px.
    array_xy
        Array coordinates (n, 2), if known. The pitch is then the scale of the affine map from these to px: printed
        spots are jittered, which makes the nearest neighbour nearer than the pitch (her2st: 271 px for 290).
    """
    if len(xy_px) < _MIN_SPOTS:
        return None
    if array_xy is not None:
        design = np.column_stack([array_xy, np.ones(len(array_xy))])
        if np.linalg.matrix_rank(design) == 3:
            return _from_array(xy_px, array_xy, design)
    nearest = nearest_pitch(xy_px)
    if not nearest > 0:
        return None
    pairs = cKDTree(xy_px).query_pairs(_SHELL * nearest, output_type="ndarray")
    return Pitch(float(np.median(np.linalg.norm(xy_px[pairs[:, 0]] - xy_px[pairs[:, 1]], axis=1))), "neighbours")


def _from_array(xy_px: np.ndarray, array_xy: np.ndarray, design: np.ndarray) -> Pitch | None:
    affine = np.linalg.lstsq(design, xy_px, rcond=None)[0]
    scale = float(np.sqrt(abs(np.linalg.det(affine[:2]))))
    if not scale > 0:
        return None
    # The denser legacy arrays use every other position, like a chessboard: neighbours in a row are two steps apart.
    parity = np.round(array_xy).sum(axis=1) % 2
    whole = np.abs(array_xy - np.round(array_xy)).mean() < _JITTER
    pitch = scale * (2 if whole and (parity == parity[0]).all() else 1)
    distance = np.linalg.norm(design @ affine - xy_px, axis=1)
    return Pitch(pitch, "array", float(np.sqrt(np.mean(distance**2)) / pitch))
