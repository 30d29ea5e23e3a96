"""Spatial autocorrelation and co-localisation of cell types, all types at once, at a length scale in um."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from ...errors import InputError

Array = NDArray[np.float64]

#: Shapes of the weights: what a neighbour at a distance counts.
KERNELS = ("gaussian", "band")
#: A Gaussian is cut off at this many length scales.
REACH = 3.0
#: How the total of a spot is taken out of its abundances.
ADJUSTMENTS = ("share", "residual", "none")
#: A column counts as constant when its range is below this share of its largest absolute value (rounding only).
_CONSTANT = 1e-9


@dataclass(frozen=True, eq=False)
class SpatialWeights:
    """What each spot counts as a neighbour of each other.

    Attributes
    ----------
    matrix
        csr float64 (n, n): symmetric, nothing on the diagonal, of sum n (all zero where no spot has a neighbour).
    radius_um, kernel
        As given to `spatial_weights`.
    """

    matrix: sparse.csr_matrix
    radius_um: float
    kernel: str

    def __len__(self) -> int:
        return int(self.matrix.shape[0])

    @property
    def alone(self) -> int:
        """Spots that have no neighbour."""
        return int((np.diff(self.matrix.indptr) == 0).sum())


def spatial_weights(xy_um: ArrayLike, radius_um: float, kernel: str = "gaussian") -> SpatialWeights:
    """Weights of the neighbours of each spot, by distance in um.

    Parameters
    ----------
    xy_um
        Spot centres, shape (n, 2).
    radius_um
        Length scale. ``"gaussian"``: the standard deviation, ``exp(-d^2 / (2 radius_um^2))``, cut off at three of them.
        ``"band"``: every other spot within ``radius_um`` counts the same.
    kernel
        One of `KERNELS`.

    Raises
    ------
    InputError
        The radius is not positive, a place is not finite, or the kernel is unknown.
    """
    positions = np.asarray(xy_um, dtype=np.float64)
    if positions.ndim != 2 or positions.shape[1] != 2 or not np.isfinite(positions).all():
        raise InputError(f"places need finite x and y of each spot; their shape is {positions.shape}")
    if not (np.isfinite(radius_um) and radius_um > 0):
        raise InputError(f"a radius of {radius_um} um is no length scale", hint="Give a positive number of um")
    if kernel not in KERNELS:
        raise InputError(f"there is no kernel {kernel!r}", hint=f"Choose from {', '.join(KERNELS)}")
    reach = radius_um * (REACH if kernel == "gaussian" else 1.0)
    tree = cKDTree(positions)
    pairs = tree.query_pairs(reach, output_type="ndarray")
    first, second = pairs[:, 0], pairs[:, 1]
    distance = np.hypot(*(positions[first] - positions[second]).T)
    weight = np.exp(-0.5 * (distance / radius_um) ** 2) if kernel == "gaussian" else np.ones(len(pairs))
    both = np.concatenate([weight, weight])
    rows, columns = np.concatenate([first, second]), np.concatenate([second, first])
    matrix = sparse.csr_matrix((both, (rows, columns)), shape=(len(positions), len(positions)))
    total = matrix.sum()
    return SpatialWeights(matrix * (len(positions) / total) if total > 0 else matrix, float(radius_um), kernel)


def moran(values: ArrayLike, weights: SpatialWeights) -> Array:
    """Moran's I of each column, shape (n_types,): how much neighbours resemble each other.

    ``I = (n / S0) z'Wz / z'z`` with deviations from the mean z (Moran 1950, "Notes on continuous stochastic
    phenomena"); about ``-1 / (n - 1)`` where there is no pattern. NaN for a constant column.
    """
    z = standardised(np.asarray(values, dtype=np.float64))
    return np.asarray(np.einsum("ij,ij->j", z, weights.matrix @ z)) + _undefined(weights)


def colocalisation(values: ArrayLike, weights: SpatialWeights, adjust: str = "share") -> Array:
    """Bivariate Moran's R of every pair of columns, shape (n_types, n_types), symmetric.

    ``R_ab = (n / S0) za'W zb / sqrt(za'za zb'zb)``: whether one type is found around (not in) the spots where another
    is. The diagonal is Moran's I of the adjusted columns. The form is that of Wartenberg 1985 ("Multivariate spatial
    correlation: a method for exploratory geographical analysis") and, with Gaussian weights, of SpatialDM (Li et al.
    2023). A row and column of NaN for a constant type.

    Parameters
    ----------
    values
        Abundance or prediction, shape (n_spots, n_types).
    weights
        From `spatial_weights`, of these spots.
    adjust
        See `adjusted`: without it, every pair of types seems to attract where spots differ in how many cells they hold.
    """
    z = standardised(adjusted(np.asarray(values, dtype=np.float64), adjust))
    cross = z.T @ (weights.matrix @ z)
    # Symmetric to the last bit, whatever the order of the sums.
    return np.asarray((cross + cross.T) / 2) + _undefined(weights)


def adjusted(values: Array, how: str = "share") -> Array:
    """Abundance with the total of each spot taken out, shape (n_spots, n_types).

    ``"share"`` divides by the spot's total (values below 0 are taken as 0; a spot without cells gets the mean share,
    and so has no part); shares of abundant types are tied to each other by their sum of 1. ``"residual"`` takes out of
    each type what a straight line on the total tells of it, for abundances in cells. ``"none"`` leaves the values.

    Raises
    ------
    InputError
        There is no such adjustment.
    """
    if how not in ADJUSTMENTS:
        raise InputError(f"there is no adjustment {how!r}", hint=f"Choose from {', '.join(ADJUSTMENTS)}")
    if how == "none":
        return values
    if how == "share":
        cells = np.clip(values, 0.0, None)
        total = cells.sum(axis=1, keepdims=True)
        shares = np.divide(cells, total, out=np.zeros_like(cells), where=total > 0)
        filled: Array = np.where(total > 0, shares, shares.sum(axis=0) / max((total > 0).sum(), 1))
        return filled
    total = values.sum(axis=1)
    # Totals that are equal but for rounding (proportions) tell nothing.
    if np.ptp(total) <= _CONSTANT * np.abs(total).max():
        return values
    about = total - total.mean()
    return np.asarray(values - np.outer(about, about @ values / (about @ about)))


def standardised(values: Array) -> Array:
    """Columns as deviations from their mean, of length 1; NaN for a constant column."""
    constant = np.ptp(values, axis=0) <= _CONSTANT * np.abs(values).max(axis=0)
    deviations = values - values.mean(axis=0)
    length = np.sqrt((deviations**2).sum(axis=0))
    return np.asarray(np.where(constant, np.nan, deviations / np.where(constant | (length == 0), 1.0, length)))


def off_diagonal(matrix: Array) -> Array:
    """The pairs of different types of symmetric matrices, shape (..., n_types * (n_types - 1) / 2)."""
    rows, columns = np.triu_indices(matrix.shape[-1], k=1)
    return matrix[..., rows, columns]


def _undefined(weights: SpatialWeights) -> float:
    """Added to a result: nothing, or NaN where no spot has a neighbour."""
    return 0.0 if weights.matrix.nnz else np.nan
