"""A reference head: gradient-boosted trees on principal components, kept as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from ...errors import HeadError
from ..base import CompositionRegressor, to_unit
from ..inner_folds import inner_splits
from ..neighbourhood import Positions
from .preprocess import principal_components, rotate, threads_for
from .search import Search, crossed, settings_to_try

#: Settings that are tried, and numbers of trees that are read along each.
_TRIALS = crossed(learning_rate=(0.05, 0.1), max_leaf_nodes=(8, 4))
_TREES = (100, 25, 50, 75, 150)
#: Inner splits that trials are judged on, at most: an ensemble of trees for every type takes long.
_SPLITS = 3


class BoostingRegressor(CompositionRegressor):
    """scikit-learn's histogram gradient boosting, one ensemble of trees per cell type.

    A reference to compare with: slow with many cell types, and without held-out predictions of its own, so it is not
    calibrated. The fitted trees are kept as arrays, and walked here: a saved head needs no pickle, and predicts what
    scikit-learn's own object would.

    Parameters
    ----------
    unit
        "proportion" or "cells per spot".
    n_components
        Principal components of the standardised embeddings that the trees split on.
    max_iter, learning_rate, max_leaf_nodes
        Of `sklearn.ensemble.HistGradientBoostingRegressor`. None to choose them on inner splits (three at most): four
        pairs of a learning rate and a number of leaves are tried, and numbers of trees read along each.
    min_samples_leaf
        Of the same.
    seed
        Of the binning of very large tables.

    Attributes
    ----------
    mean_, scale_ : float32 arrays, (n_features,)
    components_ : float32 array, (n_features, n_components)
    base_ : float64 array, (n_present_types,), where boosting starts from
    column_, left_, right_ : int32 arrays, (n_nodes,): the component split on, and the nodes below; a leaf is its own
    threshold_, value_ : float64 arrays, (n_nodes,): values up to the threshold go left
    root_ : int32 array, (n_trees,), type after type, the same number of trees each
    depth_ : int, of the deepest tree
    """

    _fitted_numbers = _whole_numbers = ("depth_",)
    _whole_arrays = ("root_", "column_", "left_", "right_")

    def __init__(
        self,
        unit: str = "proportion",
        n_components: int = 64,
        max_iter: int | None = None,
        learning_rate: float | None = None,
        max_leaf_nodes: int | None = None,
        min_samples_leaf: int = 20,
        seed: int = 0,
    ) -> None:
        self.unit = unit
        self.n_components = n_components
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.max_leaf_nodes = max_leaf_nodes
        self.min_samples_leaf = min_samples_leaf
        self.seed = seed

    def _fit(
        self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray, positions: Positions | None
    ) -> None:
        if self.n_components < 1 or (self.max_iter is not None and self.max_iter < 1):
            raise HeadError(
                f"n_components and max_iter must be at least 1; they are {self.n_components} and {self.max_iter}"
            )
        models = self._boost(X, Y, weight, self._searched(X, Y, groups, weight, positions))
        nodes = [tree.nodes for model in models for (tree,) in model._predictors]
        sizes = np.array([len(part) for part in nodes])
        starts = np.cumsum(sizes) - sizes
        every, shift = np.concatenate(nodes), np.repeat(starts, sizes)
        leaf, own = every["is_leaf"].astype(bool), np.arange(len(shift))
        self.column_ = np.where(leaf, 0, every["feature_idx"]).astype(np.int32)
        self.threshold_ = np.where(leaf, 0.0, every["num_threshold"])
        self.left_ = np.where(leaf, own, every["left"] + shift).astype(np.int32)
        self.right_ = np.where(leaf, own, every["right"] + shift).astype(np.int32)
        self.value_ = np.where(leaf, every["value"], 0.0)
        self.root_ = starts.astype(np.int32)
        self.depth_ = int(every["depth"].max())
        self.base_ = np.array([float(np.ravel(model._baseline_prediction)[0]) for model in models])

    def _searched(
        self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray, positions: Positions | None
    ) -> dict[str, Any]:
        """Number of trees, learning rate and leaves, those that are given as they are."""
        trials = settings_to_try(self, _TRIALS)
        counts = _TREES if self.max_iter is None else (self.max_iter,)
        if len(trials) * len(counts) == 1:
            return {**trials[0], "max_iter": counts[0]}
        splits = inner_splits(len(X), groups)[:_SPLITS]
        search = Search(Y, groups, positions)
        for one in trials:
            held_out = np.full((len(counts), *Y.shape), np.nan)
            for train, test in splits:
                models = self._boost(X[train], Y[train], weight[train], {**one, "max_iter": max(counts)})
                Z = rotate(X[test], self.mean_, self.scale_, self.components_)
                for column, model in enumerate(models):
                    for number, values in enumerate(model.staged_predict(Z), start=1):
                        if number in counts:
                            held_out[counts.index(number), test, column] = values
                held_out[:, test] = [to_unit(values, self.unit) for values in held_out[:, test]]
            search.trial(one, zip([{"max_iter": count} for count in counts], held_out, strict=True))
        self.search_ = search.facts(len(splits))
        return search.settings

    def _boost(self, X: np.ndarray, Y: np.ndarray, weight: np.ndarray, chosen: Mapping[str, Any]) -> list[Any]:
        """scikit-learn's fitted models, one per type; sets the projection."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        self.mean_, self.scale_, self.components_ = principal_components(X, weight, self.n_components)
        Z = rotate(X, self.mean_, self.scale_, self.components_)
        settings = {
            **chosen,
            "min_samples_leaf": self.min_samples_leaf,
            "early_stopping": False,
            "random_state": self.seed,
        }
        # Bins of weighted rows take twenty times as long as the trees.
        own = None if (weight == weight[0]).all() else weight
        try:
            # The trees' own threads are those of a library that was loaded just now: here they are told as well.
            with threads_for(X.size):
                return [HistGradientBoostingRegressor(**settings).fit(Z, y, sample_weight=own) for y in Y.T]
        except ValueError as error:
            raise HeadError(f"the trees cannot be grown ({error})", hint="Check the head's parameters") from error

    @property
    def n_iter_(self) -> int:
        """Trees per cell type."""
        return len(self.root_) // len(self.base_)

    def _predict(self, X: np.ndarray, positions: Positions | None) -> np.ndarray:
        Z = rotate(X, self.mean_, self.scale_, self.components_).astype(np.float64)
        result = np.empty((len(X), len(self.base_)))
        for start in range(0, len(X), 256):
            rows = slice(start, min(start + 256, len(X)))
            here = np.arange(rows.stop - rows.start)[:, None]
            node = np.broadcast_to(self.root_, (len(here), len(self.root_)))
            for _ in range(self.depth_):
                goes_left = Z[rows][here, self.column_[node]] <= self.threshold_[node]
                node = np.where(goes_left, self.left_[node], self.right_[node])
            result[rows] = self.value_[node].reshape(len(here), len(self.base_), -1).sum(axis=2) + self.base_
        return to_unit(result, self.unit)

    def _fitted_arrays(self) -> dict[str, tuple[str, ...]]:
        return {
            "mean_": ("features",),
            "scale_": ("features",),
            "components_": ("features", "components"),
            "base_": ("types",),
            "root_": ("trees",),
            **dict.fromkeys(("column_", "threshold_", "left_", "right_", "value_"), ("nodes",)),
        }

    def restore(self, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]) -> Self:
        """Set what `fitted` returned; raises what `CompositionRegressor.restore` does."""
        super().restore(arrays, numbers)
        limits = {"column_": self.components_.shape[1], **dict.fromkeys(("root_", "left_", "right_"), len(self.value_))}
        for name, limit in limits.items():
            if getattr(self, name).max(initial=0) >= limit:
                raise HeadError(f"the saved array {name} points beyond the {limit} there are")
        if len(self.root_) % len(self.base_):
            raise HeadError(f"the saved array root_ has {len(self.root_)} trees for {len(self.base_)} cell types")
        nodes = np.unique(self.root_)
        for _ in range(min(self.depth_, len(self.value_))):
            nodes = np.unique(np.concatenate([self.left_[nodes], self.right_[nodes]]))
        if (self.left_[nodes] != nodes).any() or (self.right_[nodes] != nodes).any():
            raise HeadError(f"the trees do not end in leaves at the fitted number depth_, which is {self.depth_}")
        self.depth_ = min(self.depth_, len(self.value_))
        return self
