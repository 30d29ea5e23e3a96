"""A reference head: least squares on leading principal components, as HEST-bench scores encoders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import linalg

from ...errors import HeadError
from ..base import CompositionRegressor, to_unit
from ..inner_folds import inner_splits
from ..neighbourhood import Positions
from .preprocess import principal_components, rotate
from .search import Search, settings_to_try

#: Components that are tried, and penalties that are read along each.
_COMPONENTS, _ALPHAS = (256, 128, 64, 32), (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


class PCRRegressor(CompositionRegressor):
    """Ridge on leading principal components: one linear layer on the encoder.

    The reference of HEST-bench (Jaume et al. 2024), which standardises embeddings, rotates them to 256 principal
    components and chooses nothing on the data. Here the number of components and the penalty are chosen on inner
    splits, as those of any other head.

    Parameters
    ----------
    unit
        "proportion" or "cells per spot".
    n_components, alpha
        Principal components kept, and the penalty in units of the mean eigenvalue of their Gram matrix. None to choose
        them on inner splits: four numbers of components are tried, and penalties read along each. HEST-bench's are 256
        and a small penalty (0.01).

    Attributes
    ----------
    mean_, scale_ : float32 arrays, (n_features,)
    components_ : float32 array, (n_features, n_components)
    coef_ : float64 array, (n_components, n_present_types)
    intercept_ : float64 array, (n_present_types,)
    """

    def __init__(self, unit: str = "proportion", n_components: int | None = None, alpha: float | None = None) -> None:
        self.unit = unit
        self.n_components = n_components
        self.alpha = alpha

    def _fit(
        self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray, positions: Positions | None
    ) -> None:
        n_given, alpha = (
            (1 if self.n_components is None else self.n_components),
            (1.0 if self.alpha is None else self.alpha),
        )
        if n_given < 1 or not 0 < alpha < np.inf:
            raise HeadError(
                f"n_components must be at least 1 and alpha positive; they are {self.n_components} and {self.alpha}"
            )
        trials = settings_to_try(self, [{"n_components": number} for number in _COMPONENTS])
        alphas = _ALPHAS if self.alpha is None else (self.alpha,)
        splits = inner_splits(len(X), groups)
        most = max(one["n_components"] for one in trials)
        bases = [principal_components(X[train], weight[train], most) for train, _ in splits]
        search = Search(Y, groups, positions)
        for one in trials:
            held_out = np.full((len(alphas), *Y.shape), np.nan)
            for (train, test), (mean, scale, components) in zip(splits, bases, strict=True):
                kept = components[:, : one["n_components"]]
                Z, there = (rotate(X[rows], mean, scale, kept).astype(np.float64) for rows in (train, test))
                for place, (coef, intercept) in enumerate(_solve(Z, Y[train], weight[train], alphas)):
                    held_out[place, test] = to_unit(there @ coef + intercept, self.unit)
            search.trial(one, zip([{"alpha": alpha} for alpha in alphas], held_out, strict=True))
        if len(trials) * len(alphas) > 1:
            self.search_ = search.facts(len(splits))
        self.held_out_ = search.held_out
        n_components = search.settings["n_components"]
        self.mean_, self.scale_, self.components_ = principal_components(X, weight, n_components)
        Z = rotate(X, self.mean_, self.scale_, self.components_).astype(np.float64)
        ((self.coef_, self.intercept_),) = _solve(Z, Y, weight, (search.settings["alpha"],))

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


def _solve(
    Z: np.ndarray, Y: np.ndarray, weight: np.ndarray, alphas: Sequence[float]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Coefficients and intercept on principal components for each penalty."""
    # The components are centred over the weighted rows, so the intercept is the mean label.
    centre = np.average(Y, axis=0, weights=weight)
    weighted = (Z * weight[:, None]).T
    gram, product = weighted @ Z, weighted @ (Y - centre)
    unit = np.trace(gram) / len(gram) * np.eye(len(gram))
    return [(linalg.solve(gram + alpha * unit, product, assume_a="pos"), centre) for alpha in alphas]
