"""How the spots of a section are laid out: a printed lattice or loose points, and the ground they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.spatial import ConvexHull, QhullError, cKDTree

from ...common.geometry.pitch import Pitch, nearest_distances, spot_pitch

#: Spread (interquartile range over median) of the nearest-neighbour distance beyond which points are no lattice.
#: Jittered legacy arrays have .15, touching beads about .3, random points .6.
_IRREGULAR = 0.25
#: Places at most where the overlap is sampled.
_PROBES = 20_000
#: Spots at most that the spacing of loose points is measured on.
_SAMPLE = 20_000
_MARGIN = 1.5  # spacings around the spots that count as their neighbourhood
_LATTICE_REACH = 0.55  # spacings: half a pitch, and a little for the jitter of printed spots
_LOOSE_REACH = 1.0  # loose points leave gaps that are no holes


@dataclass(frozen=True, eq=False)
class Layout:
    """Spots as printed or scattered, and the ground they stand for.

    Parameters
    ----------
    xy_px
        Spot centres (n, 2).
    spacing_px
        Distance between neighbours; of loose points, the side of the square that each has for itself.
    pitch
        None for loose points, which have none.
    probes_px, covered
        Places (m, 2) on and around the spots, and whether a spot stands for the ground there: bool (m,).
    step_px
        Distance between the probes.
    filled
        Share of the smallest rectangle around the spots (of loose points: of their convex hull) that they cover:
        about 1 for an array that was kept whole, on tissue or not.
    covered_px2
        Area that the spots cover.
    """

    xy_px: np.ndarray
    spacing_px: float
    pitch: Pitch | None
    probes_px: np.ndarray
    covered: np.ndarray
    step_px: float
    filled: float
    covered_px2: float

    @cached_property
    def extent_px(self) -> float:
        """The longer side of the box around the spots."""
        return float(np.ptp(self.xy_px, axis=0).max())


def layout_of(xy_px: np.ndarray, obs: pd.DataFrame) -> Layout | None:
    """Measure the layout of spot centres (n, 2); None for fewer than four spots, or all in one place.

    ``obs`` may hold their array positions (see `array_positions`).
    """
    pitch = spot_pitch(xy_px, array_positions(obs))
    if pitch is None:
        return None
    kept: Pitch | None = pitch
    spacing_px, reach = pitch.px, _LATTICE_REACH
    if pitch.source == "neighbours" and _is_irregular(xy_px):
        spacing_px, reach, kept = _loose_spacing(xy_px), _LOOSE_REACH, None
    low, high = xy_px.min(axis=0) - _MARGIN * spacing_px, xy_px.max(axis=0) + _MARGIN * spacing_px
    step_px = max(spacing_px / 4, float(np.sqrt(np.prod(high - low) / _PROBES)))
    axes = [np.arange(low[axis] + step_px / 2, high[axis], step_px) for axis in (0, 1)]
    probes_px = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    reach_px = max(reach * spacing_px, step_px / 2)
    covered = np.asarray(cKDTree(xy_px).query(probes_px, p=np.inf)[0]) <= reach_px
    covered_px2 = float(covered.sum()) * step_px**2
    filled = min(1.0, covered_px2 / _outline_px2(xy_px, reach_px, kept is not None))
    return Layout(xy_px, spacing_px, kept, probes_px, covered, step_px, filled, covered_px2)


def array_positions(obs: pd.DataFrame) -> np.ndarray | None:
    """Array positions (n, 2) in pitches, or None when the table has none.

    Legacy ST has ``array_x``, ``array_y``. Space Ranger has ``array_row``, ``array_col``: in Visium these number a
    hexagonal lattice, in which neighbours of a row are two columns (one pitch) apart and rows are sqrt(3)/2 pitches
    apart, so row + column is even throughout; in Visium HD they number a square one.
    """
    pairs: tuple[tuple[str, str], ...] = (("array_x", "array_y"), ("array_col", "array_row"))
    for columns in pairs:
        if set(columns) <= set(obs.columns):
            array: np.ndarray = obs[list(columns)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
            if not np.isfinite(array).all():
                return None
            if columns[0] == "array_col" and len(array) and (np.ptp(array.sum(axis=1) % 2) == 0):
                array = array * (0.5, np.sqrt(0.75))
            return array
    return None


def _is_irregular(xy_px: np.ndarray) -> bool:
    low, middle, high = np.quantile(nearest_distances(xy_px, _sample(xy_px)), [0.25, 0.5, 0.75])
    return bool(high - low > _IRREGULAR * middle)


def _loose_spacing(xy_px: np.ndarray) -> float:
    # Of points at random with density d, the fourth neighbour lies about sqrt(4 / (pi d)) away.
    fourth = np.asarray(cKDTree(xy_px).query(_sample(xy_px), k=min(5, len(xy_px)))[0])[:, -1]
    return float(np.median(fourth) * np.sqrt(np.pi / 4))


def _sample(xy_px: np.ndarray) -> np.ndarray:
    return xy_px[:: max(1, len(xy_px) // _SAMPLE)]


def _outline_px2(xy_px: np.ndarray, reach_px: float, lattice: bool) -> float:
    """Area of the plain shape around the spots: the smallest rectangle around a lattice, the hull of loose points."""
    try:
        hull = ConvexHull(xy_px)
    except QhullError:  # all in a line
        return float(np.prod(np.ptp(xy_px, axis=0) + 2 * reach_px))
    if not lattice:
        return float(hull.volume + hull.area * reach_px + np.pi * reach_px**2)  # of a plane hull, area is its length
    corners = xy_px[hull.vertices]
    along = np.diff(corners, axis=0, append=corners[:1])
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.column_stack([-along[:, 1], along[:, 0]])
    sides = [np.ptp(corners @ axis.T, axis=0) + 2 * reach_px for axis in (along, across)]
    return float((sides[0] * sides[1]).min())  # one side of the smallest rectangle lies along an edge of the hull
