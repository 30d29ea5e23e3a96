"""A reference head: gradient-boosted trees on principal components, kept as plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import HeadError
from ..base import CompositionRegressor, to_unit
from ..neighbourhood import Positions
from .preprocess import principal_components, rotate


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
    max_iter, learning_rate, max_leaf_nodes, min_samples_leaf
        Of `sklearn.ensemble.HistGradientBoostingRegressor`.
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

    _fitted_numbers = ("depth_",)

    def __init__(
        self,
        unit: str = "proportion",
        n_components: int = 64,
        max_iter: int = 100,
        learning_rate: float = 0.05,
        max_leaf_nodes: int = 8,
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
        models = self._boost(X, Y, weight)
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

    def _boost(self, X: np.ndarray, Y: np.ndarray, weight: np.ndarray) -> list[Any]:
        """scikit-learn's fitted models, one per type; sets the projection."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        if self.n_components < 1 or self.max_iter < 1:
            raise HeadError(
                f"n_components and max_iter must be at least 1; they are {self.n_components} and {self.max_iter}"
            )
        self.mean_, self.scale_, self.components_ = principal_components(X, weight, self.n_components)
        Z = rotate(X, self.mean_, self.scale_, self.components_)
        settings = {
            "max_iter": self.max_iter,
            "learning_rate": self.learning_rate,
            "max_leaf_nodes": self.max_leaf_nodes,
            "min_samples_leaf": self.min_samples_leaf,
            "early_stopping": False,
            "random_state": self.seed,
        }
        try:
            return [HistGradientBoostingRegressor(**settings).fit(Z, y, sample_weight=weight) for y in Y.T]
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
