"""Second moments of a table, so that ridge on any part of its rows is solved without passing over the rows again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from ...progress import told
from .preprocess import standardise

_ROWS = 4096
#: A column whose variance in some rows is below this share of its variance in all is constant there: what is left of
#: it after sums of float32 products are subtracted is rounding.
_CONSTANT = 1e-5


@dataclass(frozen=True, eq=False)
class Moments:
    """Weighted sums over some rows of features ``x`` and labels ``y``; they add, and subtract, as the rows do.

    Parameters
    ----------
    weight
        Sum of the weights.
    x, y
        Sums, ``(n_features,)`` and ``(n_types,)``.
    xx, xy
        Sums of products, ``(n_features, n_features)`` and ``(n_features, n_types)``.
    yy
        Sums of squares, ``(n_types,)``.
    """

    weight: float
    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray
    yy: np.ndarray

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.weight + other.weight,
            self.x + other.x,
            self.y + other.y,
            self.xx + other.xx,
            self.xy + other.xy,
            self.yy + other.yy,
        )

    def __sub__(self, other: Moments) -> Moments:
        return self + Moments(-other.weight, -other.x, -other.y, -other.xx, -other.xy, -other.yy)

    def centred(self) -> Moments:
        """The same rows less their weighted means."""
        mean_x, mean_y = self.x / self.weight, self.y / self.weight
        return Moments(
            self.weight,
            np.zeros_like(self.x),
            np.zeros_like(self.y),
            self.xx - np.outer(self.x, mean_x),
            self.xy - np.outer(self.x, mean_y),
            self.yy - self.y * mean_y,
        )


def moments(
    X: np.ndarray, Y: np.ndarray, weight: np.ndarray, rows: np.ndarray, mean: np.ndarray, scale: np.ndarray
) -> Moments:
    """Sum over some rows of ``(X - mean) / scale`` and ``Y``.

    Products of a few thousand rows are taken in the precision of ``X`` and summed in float64.
    """
    d, types = X.shape[1], Y.shape[1]
    total = Moments(0.0, np.zeros(d), np.zeros(types), np.zeros((d, d)), np.zeros((d, types)), np.zeros(types))
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        root = np.sqrt(weight[part])[:, None]
        Z = (((X[part] - mean) / scale) * root).astype(X.dtype, copy=False)
        T = (Y[part] * root).astype(X.dtype, copy=False)
        ones = root.astype(X.dtype, copy=False)
        total += Moments(
            float(weight[part].sum()),
            (Z.T @ ones)[:, 0],
            weight[part] @ Y[part],
            Z.T @ Z,
            Z.T @ T,
            weight[part] @ np.square(Y[part]),
        )
    return total


def ridge_path(sums: Moments, alphas: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Ridge on features standardised over the rows of ``sums``.

    A penalty is ``alpha`` times the mean eigenvalue of the standardised features' Gram matrix. All are solved from its
    one eigendecomposition.

    Returns
    -------
    Coefficients ``(n_alphas, n_features, n_types)`` and intercepts ``(n_alphas, n_types)`` for the features of ``sums``
    on their own scale.
    """
    inside = sums.centred()
    variance = np.diagonal(inside.xx) / sums.weight
    varies = variance > _CONSTANT * np.maximum(1.0, np.square(sums.x / sums.weight))
    inverse = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1.0)), 0.0)
    gram = ((inside.xx * inverse[:, None]) * inverse).astype(dtype)
    against = (inside.xy * inverse[:, None]).astype(dtype)
    values, vectors = linalg.eigh(gram, overwrite_a=True, check_finite=False, driver="evd")
    values = np.maximum(values.astype(np.float64), 0.0)
    projected = vectors.T @ against
    penalties = np.maximum(alphas * (values.sum() / len(values)), np.finfo(np.float64).tiny)
    shrunk = (projected / (values + penalty)[:, None] for penalty in penalties)
    coefs = np.stack([vectors @ part.astype(dtype) for part in shrunk]) * inverse[:, None]
    return coefs, (sums.y - sums.x @ coefs) / sums.weight


def residuals(sums: Moments, coefs: np.ndarray) -> np.ndarray:
    """Sum of squared residuals of each set of coefficients, ``(n_alphas, n_types)``, on centred sums."""
    flat = np.moveaxis(coefs, 0, 1).reshape(len(sums.x), -1)
    fitted = (flat * (sums.xx.astype(flat.dtype) @ flat)).sum(axis=0, dtype=np.float64)
    crossed = np.einsum("adt,dt->at", coefs, sums.xy)
    squares: np.ndarray = np.maximum(fitted.reshape(len(coefs), -1) - 2 * crossed + sums.yy, 0.0)
    return squares


def components_without(
    X: np.ndarray, weight: np.ndarray, held_out: list[np.ndarray], n: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Leading principal components of all rows less each set of held-out ones, as `principal_components` gives them.

    One pass over the rows serves all: the moments of the rest are those of all less those held out.
    """
    none = np.zeros((len(X), 0))
    mean, scale = standardise(X, weight)
    parts = [moments(X, none, weight, rows, mean, scale) for rows in held_out]
    seen = np.zeros(len(X), bool)
    for rows in held_out:
        seen[rows] = True
    total = sum(parts, moments(X, none, weight, np.flatnonzero(~seen), mean, scale))
    components = []
    for part in told("principal components (splits)", parts):
        rest = total - part
        inside = rest.centred()
        variance = np.diagonal(inside.xx) / rest.weight
        varies = variance > _CONSTANT * np.maximum(1.0, np.square(rest.x / rest.weight))
        spread = np.where(varies, np.sqrt(np.where(varies, variance, 1.0)), 1.0)
        correlation = (np.where(np.outer(varies, varies), inside.xx, 0.0) / np.outer(spread, spread)).astype(X.dtype)
        first = max(len(spread) - n, 0)
        values, vectors = linalg.eigh(
            correlation, overwrite_a=True, check_finite=False, subset_by_index=(first, len(spread) - 1)
        )
        values, vectors = values[::-1], vectors[:, ::-1]
        kept = values > max(values[0], np.finfo(values.dtype).tiny) * len(X) * np.finfo(values.dtype).eps
        centre = mean + scale * rest.x / rest.weight
        components.append(
            (centre.astype(np.float32), (scale * spread).astype(np.float32), vectors[:, kept].astype(np.float32))
        )
    return components
