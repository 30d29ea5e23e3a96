"""A reference head: least squares on leading principal components, as HEST-bench scores encoders."""

from __future__ import annotations

import numpy as np
from scipy import linalg

from ...errors import HeadError
from ..base import CompositionRegressor, to_unit
from ..inner_folds import inner_splits
from ..neighbourhood import Positions
from .preprocess import principal_components, rotate


class PCRRegressor(CompositionRegressor):
    """Ridge with a small fixed penalty on the leading 256 principal components: one linear layer on the encoder.

    The reference of HEST-bench (Jaume et al. 2024): embeddings are standardised and rotated to principal components,
    and nothing is chosen on the data.

    Parameters
    ----------
    unit
        "proportion" or "cells per spot".
    n_components
        Principal components kept.
    alpha
        Penalty, in units of the mean eigenvalue of the components' Gram matrix.

    Attributes
    ----------
    mean_, scale_ : float32 arrays, (n_features,)
    components_ : float32 array, (n_features, n_components)
    coef_ : float64 array, (n_components, n_present_types)
    intercept_ : float64 array, (n_present_types,)
    """

    def __init__(self, unit: str = "proportion", n_components: int = 256, alpha: float = 0.01) -> None:
        self.unit = unit
        self.n_components = n_components
        self.alpha = alpha

    def _fit(
        self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray, positions: Positions | None
    ) -> None:
        if self.n_components < 1 or not 0 < self.alpha < np.inf:
            raise HeadError(
                f"n_components must be at least 1 and alpha positive; they are {self.n_components} and {self.alpha}"
            )
        self.held_out_ = np.full(Y.shape, np.nan)
        for train, test in inner_splits(len(X), groups):
            basis, coef, intercept = self._solve(X[train], Y[train], weight[train])
            self.held_out_[test] = to_unit(rotate(X[test], *basis) @ coef + intercept, self.unit)
        (self.mean_, self.scale_, self.components_), self.coef_, self.intercept_ = self._solve(X, Y, weight)

    def _solve(
        self, X: np.ndarray, Y: np.ndarray, weight: np.ndarray
    ) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
        basis = principal_components(X, weight, self.n_components)
        Z = rotate(X, *basis).astype(np.float64)
        penalty = self.alpha * np.average(np.square(Z), axis=0, weights=weight).mean() * weight.sum()
        # The components are centred over the weighted rows, so the intercept is the mean label.
        centre = np.average(Y, axis=0, weights=weight)
        gram = (Z * weight[:, None]).T @ Z + penalty * np.eye(Z.shape[1])
        coef = linalg.solve(gram, (Z * weight[:, None]).T @ (Y - centre), assume_a="pos")
        return basis, coef, centre

    def _predict(self, X: np.ndarray, positions: Positions | None) -> np.ndarray:
        Z = rotate(X, self.mean_, self.scale_, self.components_)
        return to_unit(Z @ self.coef_ + self.intercept_, self.unit)

    def _fitted_arrays(self) -> dict[str, tuple[str, ...]]:
        return {
            "mean_": ("features",),
            "scale_": ("features",),
            "components_": ("features", "components"),
            "coef_": ("components", "types"),
            "intercept_": ("types",),
        }
