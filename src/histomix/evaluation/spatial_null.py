"""Whether a prediction places cell types beside each other as the labels do, against maps that are shifted apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from .spatial import Array, SpatialWeights, adjusted, colocalisation, matrices, off_diagonal, pitch_um, standardised

#: Random shifts that the types draw theirs from, a new one for every permutation.
SHIFTS = 256
#: Fewer pairs of types than this have no correlation worth a number.
MIN_PAIRS = 3
#: Values in memory at once.
_BATCH = 3_000_000

#: What the null is, for the files that carry its numbers.
NULL = (
    "each predicted map is mirrored and shifted at random on the torus of the section's bounding box, every type by a "
    "shift of its own, and the spots' totals are taken out anew: types stay as abundant and about as patchy as predicted "
    "(patchiness_kept is the share of their Moran's I that survives) but lie where they lie by chance; null_mean is what "
    "such maps reach. The shift tears maps at the seam and fills places off the tissue from the nearest spot, so on ragged "
    "or small sections the null is somewhat less patchy than the prediction; p is one-sided and cannot be below 1 / "
    "(n_permutations + 1)"
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
        Moran's I of the shifted maps as a share of that of the maps as predicted, mean over types and shifts.
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
        See `histomix.evaluation.spatial.adjusted`.
    n_permutations
        Draws of the null; 0 for none.
    seed
        Of the null.
    label_matrix, shifts
        Of the labels, and of the places (see `random_shifts`), where they are known already.
    """
    predicted = np.asarray(prediction, dtype=np.float64)
    observed = colocalisation(label, weights, adjust) if label_matrix is None else label_matrix
    found = colocalisation(predicted, weights, adjust)
    target, mine = off_diagonal(observed), off_diagonal(found)
    known = np.isfinite(target)
    use = known & np.isfinite(mine)
    if known.sum() < MIN_PAIRS:
        return Colocalisation(observed, found, np.nan, np.nan, np.nan, np.nan, np.nan, int(known.sum()), 0)
    if use.sum() < MIN_PAIRS:
        return Colocalisation(observed, found, 0.0, np.nan, np.nan, np.nan, np.nan, int(use.sum()), 0)
    correlation = float(_correlations(target[use], mine[None, use])[0])
    if n_permutations < 1:
        return Colocalisation(observed, found, correlation, np.nan, np.nan, np.nan, np.nan, int(use.sum()), 0)
    rng = np.random.default_rng(seed)
    maps = random_shifts(xy_um, max(SHIFTS, predicted.shape[1]), seed) if shifts is None else shifts
    drawn, kept = [], []
    for batch in _shifted(predicted, maps, n_permutations, rng):
        null = matrices(standardised(adjusted(batch, adjust)), weights)
        drawn.append(_correlations(target[use], off_diagonal(null)[:, use]))
        kept.append(np.diagonal(null, axis1=1, axis2=2))
    values = np.concatenate(drawn)
    values = values[np.isfinite(values)]
    own = np.diagonal(found)
    patchy = own > 0.05  # a share of next to nothing says nothing
    share = float(np.nanmean(np.concatenate(kept)[:, patchy] / own[patchy])) if patchy.any() else np.nan
    return Colocalisation(
        observed,
        found,
        correlation,
        float((1 + (values >= correlation).sum()) / (1 + len(values))),
        float(values.mean()) if len(values) else np.nan,
        float(values.std()) if len(values) else np.nan,
        share,
        int(use.sum()),
        len(values),
    )


def random_shifts(xy_um: ArrayLike, count: int, seed: int = 0) -> NDArray[np.intp]:
    """Random rigid motions of spots on the torus of their bounding box, shape (count, n_spots).

    Row ``k`` says from which spot each spot takes its value: all are mirrored (or not) and moved by one random shift,
    what leaves the box at one side comes back at the other, and each spot takes the value that comes to lie nearest to
    it. The idea is the toroidal shift of Lotwick & Silverman 1982 ("Methods for analysing spatial processes of several
    types of points").
    """
    places = np.asarray(xy_um, dtype=np.float64)
    rng = np.random.default_rng(seed)
    low = places.min(axis=0)
    # One pitch between the last and the first column, as between any others.
    box = np.ptp(places, axis=0) + (pitch_um(places) if len(places) > 1 else 1.0)
    at = places - low
    tree = cKDTree(at, boxsize=box)
    found = np.empty((count, len(places)), dtype=np.intp)
    for row in range(count):
        mirror, shift = rng.integers(2, size=2).astype(bool), rng.random(2) * box
        found[row] = tree.query(np.mod(np.where(mirror, -at, at) + shift, box))[1]
    return found


def _shifted(values: Array, maps: NDArray[np.intp], count: int, rng: np.random.Generator) -> Iterator[Array]:
    """Sets of maps in which every type is shifted by a motion of its own, (n_sets, n_spots, n_types) at a time."""
    spots, types = values.shape
    size = max(1, _BATCH // max(1, spots * types))
    columns = np.arange(types)
    for start in range(0, count, size):
        here = min(size, count - start)
        # No two types of one set share a motion: they would keep their places to each other.
        chosen = np.argsort(rng.random((here, len(maps))), axis=1)[:, :types]
        yield values[maps[chosen].transpose(0, 2, 1), columns]


def _correlations(target: Array, rows: Array) -> Array:
    """Pearson correlation of each row with the target; pairs that a row lacks are left out of it, NaN where constant."""
    known = np.isfinite(rows)
    count = known.sum(axis=1, keepdims=True)
    a, b = np.where(known, target, 0.0), np.where(known, rows, 0.0)
    a = np.where(known, a - a.sum(axis=1, keepdims=True) / np.maximum(count, 1), 0.0)
    b = np.where(known, b - b.sum(axis=1, keepdims=True) / np.maximum(count, 1), 0.0)
    lengths = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.divide((a * b).sum(axis=1), lengths, out=np.full(len(rows), np.nan), where=lengths > 0)
