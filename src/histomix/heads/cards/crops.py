"""Whether predictions depend on how much of a slide is read, beyond the neighbourhood that a head names."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from ..base import CompositionRegressor
from ..neighbourhood import Positions

#: Sections that are cropped, crops of each kind of a section, and tiles of a section at most.
N_SECTIONS, N_ROUNDS, MOST_TILES = 2, 2, 1000
#: Radius of a core, um, as a tissue microarray has; less on a smaller section.
CORE_UM = 600.0
#: A standard deviation of the change above this share of the labels' is told as a fault.
TOLERATED = 0.02


def crop_stability(
    estimator: CompositionRegressor,
    X: np.ndarray,
    Y: np.ndarray,
    positions: Positions,
    seed: int = 0,
    n_sections: int = N_SECTIONS,
    n_rounds: int = N_ROUNDS,
) -> dict[str, Any] | None:
    """How far predictions move when sections are cropped at random: to a part of one side, to a window, to a core.

    Tiles of a crop are judged when nothing that was cut away lies within the neighbourhood that the head names
    (`CompositionRegressor.reach_um`: rings, smoothing and graph). A head without a statistic of its whole slide
    predicts them as before, but for the rounding of sums.

    Parameters
    ----------
    estimator
        A fitted head.
    X, Y, positions
        Rows of some sections, with their labels: a change is told in standard deviations of these.
    seed
        Of the sections and crops.
    n_sections, n_rounds
        Sections that are cropped, and crops of each kind of each.

    Returns
    -------
    dict or None
        ``sd``: root of the mean squared change, relative to the labels' standard deviation, over tiles and cell types;
        ``largest``: the largest change of any, relative to the same; ``tolerated``: the most that ``sd`` should be;
        ``beyond_um``: the neighbourhood; ``n_crops``, ``n_tiles``. None where no crop left a tile to be judged (the
        neighbourhood is as large as the sections), or the labels do not vary.
    """
    spread = np.asarray(Y, dtype=np.float64).std(axis=0)
    varies = spread > 0
    rng = np.random.default_rng(seed)
    names = rng.permutation(np.unique(positions.section))[:n_sections]
    changes = []
    for name in names.tolist():
        rows = _window(positions, np.flatnonzero(positions.section == name), rng)
        xy_um = positions.xy_um[rows]
        whole: np.ndarray | None = None
        for crop in (kept for _ in range(n_rounds) for kept in _crops(xy_um, rng)):
            judged = _undisturbed(xy_um, crop, estimator.reach_um)
            if not judged.any():
                continue
            if whole is None:
                whole = estimator.predict(X[rows], positions[rows])
            part = estimator.predict(X[rows[crop]], positions[rows[crop]])
            changes.append((part[judged[crop]] - whole[judged])[:, varies] / spread[varies])
    if not changes or not varies.any():
        return None
    change = np.concatenate(changes)
    return {
        "sd": round(float(np.sqrt(np.square(change).mean())), 4),
        "largest": round(float(np.abs(change).max()), 4),
        "tolerated": TOLERATED,
        "beyond_um": round(float(estimator.reach_um), 1),
        "n_crops": len(changes),
        "n_tiles": len(change),
    }


def _window(positions: Positions, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A section's rows; of a large one those nearest to one of them."""
    if len(rows) <= MOST_TILES:
        return rows
    xy_um = positions.xy_um[rows]
    nearest = np.argsort(np.linalg.norm(xy_um - xy_um[rng.integers(len(rows))], axis=1), kind="stable")
    return np.sort(rows[nearest[:MOST_TILES]])


def _crops(xy_um: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Which rows are kept by a crop of each kind, bool ``(n,)`` each."""
    low, size = xy_um.min(axis=0), np.ptp(xy_um, axis=0)
    axis, kept = int(rng.integers(2)), rng.uniform(0.5, 0.9)
    along = (xy_um[:, axis] - low[axis]) if rng.random() < 0.5 else (low[axis] + size[axis] - xy_um[:, axis])
    side = along <= kept * size[axis]
    extent = rng.uniform(0.5, 0.9, 2) * size
    corner = low + rng.random(2) * (size - extent)
    window = ((xy_um >= corner) & (xy_um <= corner + extent)).all(axis=1)
    centre = xy_um[rng.integers(len(xy_um))]
    core = np.linalg.norm(xy_um - centre, axis=1) <= min(CORE_UM, 0.35 * max(float(size.max()), 1.0))
    return [side, window, core]


def _undisturbed(xy_um: np.ndarray, kept: np.ndarray, reach_um: float) -> np.ndarray:
    """Rows that are kept and have nothing that was cut away within reach; none where nothing was cut away."""
    judged = np.zeros(len(xy_um), bool)
    if kept.all() or not kept.any():
        return judged
    distance, _ = cKDTree(xy_um[~kept]).query(xy_um[kept])
    judged[kept] = distance > reach_um
    return judged
