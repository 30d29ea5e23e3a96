"""What a head sees around a tile: mean features of rings about it, and predictions smoothed over its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from ..common.geometry.pitch import spot_pitch
from ..common.metrics import within_sections
from ..errors import HeadError
from ..provenance import digest_json

_ROWS = 2048
#: A Gaussian is cut off at this many standard deviations.
SMOOTH_REACH = 3.0


@dataclass(frozen=True, eq=False)
class Positions:
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

    def __getitem__(self, rows: Any) -> Positions:
        """The places of some rows (a slice, numbers or a mask)."""
        chosen = replace(self, section=self.section[rows], xy_um=self.xy_um[rows])
        if self.tiles is None:
            return chosen
        return replace(chosen, tiles=_SomeTiles(self.tiles, np.arange(len(self))[rows]))

    def tiles_identity(self) -> str | None:
        """Digest of what decides the pixels; None where their source cannot tell (it has no ``identity``)."""
        tell = getattr(self.tiles, "identity", None)
        return None if tell is None else tell()


@dataclass(frozen=True, eq=False)
class _SomeTiles:
    """The pixels of some rows of others."""

    tiles: Callable[[np.ndarray], np.ndarray]
    rows: np.ndarray

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return self.tiles(self.rows[rows])

    def identity(self) -> str | None:
        tell = getattr(self.tiles, "identity", None)
        whole = None if tell is None else tell()
        return None if whole is None else digest_json([whole, self.rows.tolist()])


class Neighbourhood:
    """Neighbours within the sections of some places."""

    def __init__(self, positions: Positions) -> None:
        self.positions = positions
        _, self._code = np.unique(positions.section, return_inverse=True)
        self._rows = [np.flatnonzero(self._code == code) for code in range(self._code.max(initial=-1) + 1)]
        self._trees = [cKDTree(positions.xy_um[rows]) for rows in self._rows]

    def pairs(self, rows: np.ndarray, radius_um: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs nearer than ``radius_um``, a row with itself included: position in ``rows``, row, distance in um."""
        here: list[np.ndarray] = [np.zeros(0, np.intp)]
        there: list[np.ndarray] = [np.zeros(0, np.intp)]
        distance: list[np.ndarray] = [np.zeros(0)]
        for code in np.unique(self._code[rows]):
            mine = np.flatnonzero(self._code[rows] == code)
            tree = cKDTree(self.positions.xy_um[rows[mine]])
            entries = tree.sparse_distance_matrix(self._trees[code], radius_um, output_type="ndarray")
            here.append(mine[entries["i"]])
            there.append(self._rows[code][entries["j"]])
            distance.append(entries["v"])
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


_MEAN_ROWS = 4096
#: The training scale counts as this many rows of a slide: one of few tiles has little scale of its own.
PRIOR_ROWS = 10
#: Radii of automatic rings, in pitches of the training spots: on a square and on a hexagonal lattice, the neighbours
#: with and without the diagonal ones, and the shell around them.
RINGS = (1.5, 2.5)
#: Smoothing tried, in pitches of the training spots.
SMOOTHING = (0.0, 0.35, 0.5, 0.75, 1.0)
#: Smoothing is chosen if it raises the mean correlation by this much: less is noise, and it costs detail.
WORTH = 0.003


@dataclass(frozen=True)
class Context:
    """How far a head looks around a tile.

    Parameters
    ----------
    rings_um, smooth_um
        See `CompositionRegressor`.
    slide
        Features are put on the scale of their slide (`SlideScale`), so all of its tiles have a part.
    """

    rings_um: tuple[float, ...] = ()
    smooth_um: float = 0.0
    slide: bool = False

    @property
    def reach_um(self) -> float:
        """How far rings and smoothing reach, um."""
        return max(self.rings_um, default=0.0) + SMOOTH_REACH * self.smooth_um

    @property
    def context_um(self) -> float:
        """How far away a tile can matter, um; infinite when the whole slide does."""
        return np.inf if self.slide else self.reach_um


@dataclass(frozen=True, eq=False)
class SlideScale:
    """Features less their slide's mean, over their slide's standard deviation.

    Stain and scanner move and stretch the features of a whole slide, more than tissue does; what is left is where a
    tile stands among those of its slide. The statistics use features alone, no labels, so an unseen slide has its own.

    Parameters
    ----------
    mean, variance
        Means over the training slides of a slide's mean and variance, float32 ``(n_features,)``: what slides of few
        tiles are drawn to.
    """

    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def fitted(cls, X: np.ndarray, positions: Positions | None) -> SlideScale:
        """Learn what a slide's scale usually is; without places, a scale of zeros, which stands for none."""
        if positions is None:
            return cls(*np.zeros((2, X.shape[1]), np.float32))
        _, code = np.unique(positions.section, return_inverse=True)
        means, variances, _ = _by_slide(X, code)
        return cls(means.mean(axis=0).astype(np.float32), variances.mean(axis=0).astype(np.float32))

    def of(self, X: Any, positions: Positions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Slide number of each row, and mean and standard deviation of each slide, float32 ``(n_slides, d)``."""
        _, code = np.unique(positions.section, return_inverse=True)
        means, variances, counts = _by_slide(X, code)
        weight = (counts / (counts + PRIOR_ROWS))[:, None]
        mean = weight * means + (1 - weight) * self.mean
        variance = weight * variances + (1 - weight) * self.variance
        # A column that hardly varies would be blown up to 1.
        floor = np.maximum(1e-2 * self.variance, 1e-12)
        return code, mean.astype(np.float32), np.sqrt(np.maximum(variance, floor)).astype(np.float32)


def _by_slide(X: Any, code: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and variance of each slide's rows, and their number."""
    n, d = int(code.max(initial=0)) + 1, X.shape[1]
    total, square, count = np.zeros((n, d)), np.zeros((n, d)), np.bincount(code, minlength=n)
    origin = np.asarray(X[:1], dtype=np.float64)  # keeps the difference of squares from cancelling
    for start in range(0, len(code), _MEAN_ROWS):
        block = np.asarray(X[start : start + _MEAN_ROWS], dtype=np.float64) - origin
        here = code[start : start + _MEAN_ROWS]
        for number in np.unique(here):
            rows = block if (here == number).all() else block[here == number]
            total[number] += rows.sum(axis=0)
            square[number] += np.square(rows).sum(axis=0)
    mean = total / count[:, None]
    return mean + origin, np.maximum(square / count[:, None] - np.square(mean), 0.0), count


def spot_pitch_um(positions: Positions) -> float:
    """Median over sections of the spots' pitch, um; 0 if no section has enough rows to tell."""
    pitches = [spot_pitch(positions.xy_um[positions.section == name]) for name in np.unique(positions.section)]
    return float(np.median([pitch.px for pitch in pitches if pitch is not None] or [0.0]))


def choose_rings(positions: Positions) -> tuple[float, ...]:
    """Radii, um, of two rings: the spots next to a spot, and those next to them."""
    pitch = spot_pitch_um(positions)
    return tuple(round(factor * pitch, 1) for factor in RINGS) if pitch > 0 else ()


def choose_smoothing(
    held_out: np.ndarray, Y: np.ndarray, positions: Positions, lengths: Sequence[float] = SMOOTHING
) -> float:
    """The smoothing, um, of held-out predictions that correlates best with their labels within sections."""
    neighbourhood, pitch = Neighbourhood(positions), spot_pitch_um(positions)
    scores = []
    for length in lengths:
        values = smooth(held_out, neighbourhood, length * pitch) if length * pitch > 0 else held_out
        scores.append(within_sections(Y, values, positions.section))
    best = int(np.argmax(scores))
    return round(lengths[best] * pitch, 1) if scores[best] > scores[0] + WORTH else 0.0
