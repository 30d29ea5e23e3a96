"""Linear heads: the training mean, and ridge regression with its penalty chosen on an inner split."""

from __future__ import annotations

import numpy as np

from ..errors import HeadError
from .base import CompositionRegressor, to_unit
from .context import Places
from .inner import inner_splits
from .preprocess import spectrum, standardise


class MeanRegressor(CompositionRegressor):
    """Predict the training mean everywhere: what a head must beat.

    Parameters
    ----------
    unit
        "proportion" or "cells per spot".

    Attributes
    ----------
    mean_ : float64 array, (n_present_types,)
    """

    def __init__(self, unit: str = "proportion") -> None:
        self.unit = unit

    def _fit(
        self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray, places: Places | None
    ) -> None:
        self.mean_ = np.average(Y, axis=0, weights=weight)

    def _predict(self, X: np.ndarray, places: Places | None) -> np.ndarray:
        return np.broadcast_to(self.mean_, (len(X), len(self.mean_)))

    def _fitted_arrays(self) -> dict[str, tuple[str, ...]]:
        return {"mean_": ("types",)}


#: Penalties tried, in units of the mean eigenvalue of the standardised features' Gram matrix.
ALPHAS = tuple(float(f"{alpha:.3g}") for alpha in np.logspace(-2, 3, 16))


class RidgeRegressor(CompositionRegressor):
    """Ridge regression on standardised embeddings, with the penalty chosen on an inner split.

    The penalty is ``alpha`` times the mean eigenvalue of the standardised features' Gram matrix (its trace over the
    number of features, about the number of spots), so that one grid serves every encoder and cohort size. Predictions
    are clipped at 0 and, for proportions, divided by their sum.

    Parameters
    ----------
    unit
        "proportion" or "cells per spot".
    alpha
        A fixed penalty, or None to choose it among `alphas` by the variance of the residuals within held-out groups:
        the level of an unseen donor cannot be learnt from others, so no penalty is chosen to hedge against it. Each
        cell type's is taken relative to its training variance, so that rare types count as much as common ones.
    alphas
        The penalties to choose among, all solved from one eigendecomposition per inner fold.
    rings_um, smooth_um
        What the head sees around a tile; see `CompositionRegressor`.

    Attributes
    ----------
    alpha_ : float
    coef_ : float64 array, (n_features, n_present_types), on the original scale of the features
    intercept_ : float64 array, (n_present_types,)
    inner_loss_ : float64 array, (n_alphas,), relative residual variance on the inner split; only when alpha was chosen
    """

    _fitted_numbers = ("alpha_",)

    def __init__(
        self,
        unit: str = "proportion",
        alpha: float | None = None,
        alphas: tuple[float, ...] = ALPHAS,
        rings_um: tuple[float, ...] = (),
        smooth_um: float = 0.0,
    ) -> None:
        self.unit = unit
        self.alpha = alpha
        self.alphas = alphas
        self.rings_um = rings_um
        self.smooth_um = smooth_um

    def _fit(
        self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray, places: Places | None
    ) -> None:
        alphas = np.asarray(self.alphas if self.alpha is None else [self.alpha], float)
        if alphas.ndim != 1 or not alphas.size or not (alphas > 0).all() or not np.isfinite(alphas).all():
            raise HeadError(f"a ridge penalty must be positive; alpha is {self.alpha!r} and alphas is {self.alphas!r}")

        best = 0
        if len(alphas) > 1:
            self.inner_loss_ = _inner_loss(X, Y, groups, weight, alphas)
            best = int(np.argmin(self.inner_loss_))
        self.alpha_ = float(alphas[best])
        (self.coef_,), (self.intercept_,) = _ridge_path(X, Y, weight, alphas[best : best + 1])

    def _predict(self, X: np.ndarray, places: Places | None) -> np.ndarray:
        return to_unit(X @ self.coef_ + self.intercept_, self.unit)

    def _fitted_arrays(self) -> dict[str, tuple[str, ...]]:
        return {"coef_": ("features", "types"), "intercept_": ("types",)}


def _inner_loss(
    X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray, alphas: np.ndarray
) -> np.ndarray:
    """Variance of each penalty's residuals within held-out groups, relative to the labels', mean over types."""
    mean = np.average(Y, axis=0, weights=weight)
    variance = np.maximum(np.average(np.square(Y - mean), axis=0, weights=weight), np.finfo(float).tiny)
    total, held_out = np.zeros(len(alphas)), 0.0
    for train, test in inner_splits(len(X), groups):
        coefs, intercepts = _ridge_path(X[train], Y[train], weight[train], alphas)
        side_by_side = np.moveaxis(coefs, 0, 1).reshape(X.shape[1], -1)
        names = np.zeros(len(test)) if groups is None else groups[test]
        for name in np.unique(names):
            rows = test[names == name]
            residual = (X[rows] @ side_by_side).reshape(len(rows), *intercepts.shape) + intercepts - Y[rows, None]
            residual -= np.average(residual, axis=0, weights=weight[rows])
            share = np.average(np.square(residual), axis=0, weights=weight[rows]) / variance
            total += share.mean(axis=1) * weight[rows].sum()
            held_out += weight[rows].sum()
    return total / held_out


def _ridge_path(X: np.ndarray, Y: np.ndarray, weight: np.ndarray, alphas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (n_alphas, n_features, n_types) and intercepts (n_alphas, n_types) for ``X`` on its own scale.

    All penalties share one eigendecomposition.
    """
    mean, scale = standardise(X, weight)
    root = np.sqrt(weight)[:, None]
    Z = (X - mean) / scale * root
    centre = np.average(Y, axis=0, weights=weight)
    vectors, values = spectrum(Z)
    projected = vectors.T @ (Z.T @ ((Y - centre) * root))
    penalties = alphas * values.sum() / Z.shape[1]
    coefs = np.stack([vectors @ (projected / (values + penalty)[:, None]) for penalty in penalties]) / scale[:, None]
    return coefs, centre - mean @ coefs
