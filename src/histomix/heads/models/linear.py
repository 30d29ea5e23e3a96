"""Linear heads: the training mean, and ridge regression with its penalty chosen on an inner split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from sklearn.utils import Tags

from ...errors import HeadError
from ...progress import told
from ..base import CompositionRegressor, to_unit
from ..inner_folds import inner_splits
from ..neighbourhood import Positions
from .gram import Moments, moments, residuals, ridge_path
from .preprocess import spectrum, standardise
from .search import N_TRIALS, search_facts


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

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # it learns nothing from the features
        return tags

    def _fit(
        self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray, positions: Positions | None
    ) -> None:
        self.mean_ = np.average(Y, axis=0, weights=weight)

    def _predict(self, X: np.ndarray, positions: Positions | None) -> np.ndarray:
        return np.broadcast_to(self.mean_, (len(X), len(self.mean_)))

    def _fitted_arrays(self) -> dict[str, tuple[str, ...]]:
        return {"mean_": ("types",)}

    def restore(self, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]) -> Self:
        """Set what `fitted` returned; raises what `CompositionRegressor.restore` does."""
        super().restore(arrays, numbers)
        if (self.mean_ < 0).any() or (self.unit == "proportion" and abs(self.mean_.sum() - 1) > _ROUNDING):
            raise HeadError(f"the saved array mean_ holds what is no {self.unit}")
        return self


#: How far the sum of mean proportions may be from 1.
_ROUNDING = 1e-3
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
    rings_um, smooth_um, slide_scale
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
        rings_um: tuple[float, ...] | str = (),
        smooth_um: float | str = 0.0,
        slide_scale: bool = False,
    ) -> None:
        self.unit = unit
        self.alpha = alpha
        self.alphas = alphas
        self.rings_um = rings_um
        self.smooth_um = smooth_um
        self.slide_scale = slide_scale

    def _fit(
        self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray, positions: Positions | None
    ) -> None:
        alphas = np.asarray(self.alphas if self.alpha is None else [self.alpha], float)
        if alphas.ndim != 1 or not alphas.size or not (alphas > 0).all() or not np.isfinite(alphas).all():
            raise HeadError(f"a ridge penalty must be positive; alpha is {self.alpha!r} and alphas is {self.alphas!r}")
        # Few rows have a smaller Gram matrix of their own, which is not shared between folds.
        problem = (_Rows if len(X) < X.shape[1] else _Sums)(X, Y, groups, weight)
        paths = [problem.without(fold, alphas) for fold in told("ridge (splits)", range(len(problem.splits)))]
        best = 0
        if len(alphas) > 1:
            self.inner_loss_ = _inner_loss(problem, paths)
            best = int(np.argmin(self.inner_loss_))
            self.search_ = _search(alphas, self.inner_loss_, len(problem.splits))
        self.alpha_ = float(alphas[best])
        (self.coef_,), (self.intercept_,) = problem.whole(alphas[best : best + 1])
        self.held_out_ = np.full(Y.shape, np.nan)
        for (_, test), (coefs, intercepts) in zip(problem.splits, paths, strict=True):
            self.held_out_[test] = to_unit(X[test] @ coefs[best] + intercepts[best], self.unit)

    def _predict(self, X: np.ndarray, positions: Positions | None) -> np.ndarray:
        return to_unit(X @ self.coef_ + self.intercept_, self.unit)

    def _fitted_arrays(self) -> dict[str, tuple[str, ...]]:
        return {"coef_": ("features", "types"), "intercept_": ("types",)}


def _search(alphas: np.ndarray, loss: np.ndarray, n_splits: int) -> dict[str, Any]:
    """The penalties as trials: all come from one decomposition, so that each trial is a part of them."""
    parts = np.array_split(np.arange(len(alphas)), min(N_TRIALS, len(alphas)))
    best = [part[np.argmin(loss[part])] for part in parts]
    trials = [
        {"alpha": float(alphas[one]), "of": [float(value) for value in alphas[part]], "score": _explained(loss[one])}
        for part, one in zip(parts, best, strict=True)
    ]
    judged_by = "share of the labels' variance within held-out groups that is explained, mean over cell types"
    return search_facts(trials, {"alpha": float(alphas[np.argmin(loss)])}, n_splits, judged_by)


def _explained(loss: float) -> float | None:
    return round(1 - float(loss), 4) if np.isfinite(loss) else None


class _Problem:
    """Ridge on all rows and on the training rows of each inner split, and how it errs on the held-out ones."""

    def __init__(self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray) -> None:
        self.X, self.Y, self.groups, self.weight = X, Y, groups, weight
        self.splits = inner_splits(len(X), groups)

    def _groups_of(self, fold: int) -> list[np.ndarray]:
        """Held-out rows of a split, by group."""
        test = self.splits[fold][1]
        if self.groups is None:
            return [test]
        return [test[self.groups[test] == name] for name in np.unique(self.groups[test])]


class _Rows(_Problem):
    """Solved on the rows themselves: for fewer rows than features."""

    def whole(self, alphas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _ridge_path(self.X, self.Y, self.weight, alphas)

    def without(self, fold: int, alphas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        train = self.splits[fold][0]
        return _ridge_path(self.X[train], self.Y[train], self.weight[train], alphas)

    def squares(self, fold: int, coefs: np.ndarray, intercepts: np.ndarray) -> np.ndarray:
        """Sum of squared residuals about each held-out group's mean residual, (n_alphas, n_types)."""
        side_by_side = np.moveaxis(coefs, 0, 1).reshape(self.X.shape[1], -1)
        total = np.zeros(intercepts.shape)
        for rows in self._groups_of(fold):
            residual = (self.X[rows] @ side_by_side).reshape(len(rows), *intercepts.shape) + intercepts
            residual -= self.Y[rows, None]
            residual -= np.average(residual, axis=0, weights=self.weight[rows])
            total += np.tensordot(self.weight[rows], np.square(residual), axes=1)
        return total


class _Sums(_Problem):
    """Solved on second moments: one pass over the rows serves every split and every penalty.

    The moments of a split's training rows are those of all rows less those of its held-out rows.
    """

    def __init__(self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray) -> None:
        super().__init__(X, Y, groups, weight)
        self.mean, self.scale = standardise(X, weight)
        held_out = np.zeros(len(X), bool)
        self.parts: list[Moments] = []
        self.inside: list[Moments] = []
        for fold, (_, test) in enumerate(self.splits):
            groups_here = [self._moments(rows) for rows in self._groups_of(fold)]
            self.parts.append(sum(groups_here[1:], groups_here[0]))
            centred = [sums.centred() for sums in groups_here]
            self.inside.append(sum(centred[1:], centred[0]))
            held_out[test] = True
        self.total = sum(self.parts, self._moments(np.flatnonzero(~held_out)))

    def _moments(self, rows: np.ndarray) -> Moments:
        return moments(self.X, self.Y, self.weight, rows, self.mean, self.scale)

    def _solve(self, sums: Moments, alphas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        coefs, intercepts = ridge_path(sums, alphas, self.X.dtype)
        coefs = coefs / self.scale[:, None]
        return coefs, intercepts - self.mean @ coefs

    def whole(self, alphas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._solve(self.total, alphas)

    def without(self, fold: int, alphas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._solve(self.total - self.parts[fold], alphas)

    def squares(self, fold: int, coefs: np.ndarray, intercepts: np.ndarray) -> np.ndarray:
        """Sum of squared residuals about each held-out group's mean residual, (n_alphas, n_types)."""
        return residuals(self.inside[fold], coefs * self.scale[:, None])


def _inner_loss(problem: _Rows | _Sums, paths: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Variance of each penalty's residuals within held-out groups, relative to the labels', mean over types."""
    Y, weight = problem.Y, problem.weight
    variance = np.square(standardise(Y, weight)[1])  # 1 of a constant type, whose residuals are rounding
    total = sum((problem.squares(fold, *path) / variance).mean(axis=1) for fold, path in enumerate(paths))
    return np.asarray(total / sum(weight[test].sum() for _, test in problem.splits))


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
