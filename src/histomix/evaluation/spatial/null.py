"""Whether a prediction places cell types beside each other as the labels do, against maps that are shifted apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from ...common.geometry.toroidal_null import random_shifts
from ...common.metrics import pearson
from ...common.threads import single_thread
from .moran import Array, SpatialWeights, colocalisation, off_diagonal

#: Random shifts that the types draw theirs from, a new one for every permutation.
SHIFTS = 128
#: Fewer pairs of types than this have no correlation worth a number.
MIN_PAIRS = 3
#: A Moran's I below this has no share that could be kept.
_PATCHY = 0.05
#: Places (spots x types) that are moved at once.
_PLACES = 1 << 17
#: Share of the variation that single precision makes of nothing.
_ROUNDING = 1e-10

#: What the null is, for the files that carry its numbers.
NULL = (
    "each predicted map is mirrored and shifted at random on the torus of the section's bounding box, every type by a "
    "shift of its own, and the spots' totals are taken out anew: types stay as abundant and about as patchy as "
    "predicted (patchiness_kept: the ratio of their Moran's I to the prediction's) but lie where they lie by chance; "
    "null_mean is what such maps reach. The shift tears maps at the seam and fills places off the tissue from the "
    "nearest spot, so on ragged or small sections the null is somewhat less patchy than the prediction; p is one-sided "
    "and cannot be below 1 / (n_permutations + 1)"
)


@dataclass(frozen=True)
class Colocalisation:
    """Agreement of two matrices of co-localisation.

    Attributes
    ----------
    label, prediction
        Matrices, (n_types, n_types); NaN for types that do not vary.
    correlation
        Pearson correlation of their off-diagonal entries, each pair of types once. 0 where the prediction is constant,
        NaN with fewer than three pairs or labels that do not vary.
    p, null_mean, null_sd
        Against the permutation null (see `NULL`); NaN where there is no null.
    patchiness_kept
        Moran's I of the shifted maps over that of the maps as predicted, mean over types and shifts.
    n_pairs, n_permutations
        What they run over.
    """

    label: Array
    prediction: Array
    correlation: float
    p: float
    null_mean: float
    null_sd: float
    patchiness_kept: float
    n_pairs: int
    n_permutations: int


def compare_colocalisation(
    label: ArrayLike,
    prediction: ArrayLike,
    xy_um: ArrayLike,
    weights: SpatialWeights,
    *,
    adjust: str = "share",
    n_permutations: int = 200,
    seed: int = 0,
    label_matrix: Array | None = None,
    shifts: NDArray[np.intp] | None = None,
) -> Colocalisation:
    """Compare how a prediction and the labels place types beside each other.

    Parameters
    ----------
    label, prediction
        Shape (n_spots, n_types).
    xy_um
        Spot centres, (n_spots, 2).
    weights
        From `spatial_weights`, of these spots.
    adjust
        See `histomix.evaluation.spatial.moran.adjusted`.
    n_permutations
        Draws of the null; 0 for none.
    seed
        Of the null.
    label_matrix, shifts
        Of the labels, and of the places (see `random_shifts`), where they are known already.
    """
    predicted = np.asarray(prediction, dtype=np.float64)
    observed = colocalisation(label, weights, adjust) if label_matrix is None else label_matrix
    ours = colocalisation(predicted, weights, adjust)
    target, mine = off_diagonal(observed), off_diagonal(ours)
    known = np.isfinite(target)
    use = known & np.isfinite(mine)
    if known.sum() < MIN_PAIRS:
        return Colocalisation(observed, ours, np.nan, np.nan, np.nan, np.nan, np.nan, int(known.sum()), 0)
    if use.sum() < MIN_PAIRS:
        return Colocalisation(observed, ours, 0.0, np.nan, np.nan, np.nan, np.nan, int(use.sum()), 0)
    correlation = float(_correlations(target[use], mine[None, use])[0])
    if n_permutations < 1:
        return Colocalisation(observed, ours, correlation, np.nan, np.nan, np.nan, np.nan, int(use.sum()), 0)
    rng = np.random.default_rng(seed)
    maps = np.stack([*random_shifts(xy_um, max(SHIFTS, predicted.shape[1]), seed)]) if shifts is None else shifts
    null, types = _Null(predicted, weights, adjust), predicted.shape[1]
    with single_thread():
        # No two types of one draw share a shift: they would keep their places to each other.
        chosen = np.stack([rng.permutation(len(maps))[:types] for _ in range(n_permutations)])
        at_once = max(1, _PLACES // predicted.size)
        parts = (chosen[first : first + at_once] for first in range(0, n_permutations, at_once))
        draws = np.concatenate([null.draws(maps, part) for part in parts])
    values = _correlations(target[use], off_diagonal(draws)[:, use])
    values = values[np.isfinite(values)]
    own = np.diagonal(ours)
    patchy = np.nan_to_num(own) > _PATCHY
    kept = np.diagonal(draws, axis1=1, axis2=2)[:, patchy] / own[patchy]
    share = float(kept[np.isfinite(kept)].mean()) if np.isfinite(kept).any() else np.nan
    return Colocalisation(
        observed,
        ours,
        correlation,
        float((1 + (values >= correlation).sum()) / (1 + len(values))),
        float(values.mean()) if len(values) else np.nan,
        float(values.std()) if len(values) else np.nan,
        share,
        int(use.sum()),
        len(values),
    )


class _Null:
    """Matrices of one prediction whose types are shifted apart.

    In single precision and one thread: a draw of the null needs neither more digits nor bits that depend on the
    number of threads.
    """

    def __init__(self, values: Array, weights: SpatialWeights, adjust: str) -> None:
        cells = np.clip(values, 0.0, None) if adjust == "share" else values
        largest = np.abs(cells).max(axis=0)
        # Of one size, so that single precision suits cells and proportions alike; a share depends on their ratios.
        scale = largest.max() if largest.max() > 0 else 1.0
        self.columns = np.ascontiguousarray((cells / scale).T, dtype=np.float32)
        self.upper = sparse.triu(weights.matrix, k=1, format="csr").astype(np.float32)
        self.adjust = adjust

    def draws(self, maps: NDArray[np.intp], chosen: NDArray[np.intp]) -> Array:
        """The matrices when type ``t`` takes the values of the spots ``maps[chosen[:, t]]``, (draws, types x types)."""
        moved = np.empty((len(chosen), *self.columns.shape), dtype=np.float32)
        for draw, numbers in zip(moved, chosen, strict=True):
            for column, number, into in zip(self.columns, numbers, draw, strict=True):
                np.take(column, maps[number], out=into, mode="clip")  # any mode but "raise" writes there at once
        if self.adjust == "share":
            self._close(moved)
        moved -= moved.mean(axis=2, keepdims=True)
        if self.adjust == "residual":
            for draw in moved:
                total = draw.sum(axis=0)
                spread = float(total @ total)
                # Totals that are equal but for rounding tell nothing.
                if spread > _ROUNDING * float((draw**2).sum()):
                    draw -= np.outer(draw @ total / spread, total)
        length = np.sqrt(np.einsum("dij,dij->di", moved, moved, dtype=np.float64))
        # Neighbours of all draws in one product of a sparse matrix.
        n_draws, n_types, n_spots = moved.shape
        near = self.upper @ np.ascontiguousarray(moved.reshape(-1, n_spots).T)
        half = np.matmul(moved, near.reshape(n_spots, n_draws, n_types).transpose(1, 0, 2))
        scale = np.where(length > 0, length, np.nan)
        return np.asarray((half + half.transpose(0, 2, 1)) / (scale[:, :, None] * scale[:, None, :]), dtype=np.float64)

    @staticmethod
    def _close(moved: NDArray[np.float32]) -> None:
        """Divide by the total of each spot; a spot without cells gets the mean share."""
        total = moved.sum(axis=1)
        empty = total <= 0
        moved /= np.where(empty, 1.0, total).astype(np.float32)[:, None]
        for draw, without in zip(moved, empty, strict=True):
            if without.any() and not without.all():
                draw[:, without] = draw[:, ~without].mean(axis=1, keepdims=True)


def _correlations(target: Array, rows: Array) -> Array:
    """`pearson` of each row with the target, over the pairs that the row has."""
    known = np.isfinite(rows)
    if known.all():  # nearly always
        return np.asarray(pearson(np.broadcast_to(target[:, None], rows.T.shape), rows.T))
    correlations = np.empty(len(rows))
    # One pass for each pattern of pairs that are absent.
    patterns, member = np.unique(known, axis=0, return_inverse=True)
    for number, pairs in enumerate(patterns):
        mine = rows[member.reshape(-1) == number][:, pairs].T
        correlations[member.reshape(-1) == number] = pearson(np.broadcast_to(target[pairs, None], mine.shape), mine)
    return correlations
