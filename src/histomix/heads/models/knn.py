"""A head without a model: the mean label of the most similar training spots."""

from __future__ import annotations

import numpy as np

from ...errors import HeadError
from ..base import CompositionRegressor
from ..inner_folds import inner_splits
from ..neighbourhood import Positions
from .preprocess import principal_components, rotate


class KNNRegressor(CompositionRegressor):
    """Mean label of the nearest training spots, weighted by inverse distance.

    Distances are Euclidean between unit vectors (so they rank as the cosine does) in the leading principal components
    of the standardised embeddings. The training spots are held in half precision, so a saved head predicts the same.

    Parameters
    ----------
    unit
        "proportion" or "cells per spot".
    n_neighbors
        Neighbours averaged; all training spots where there are fewer.
    n_components
        Principal components kept.
    rings_um, smooth_um, slide_scale
        What the head sees around a tile; see `CompositionRegressor`.

    Attributes
    ----------
    mean_, scale_ : float32 arrays, (n_features,)
    components_ : float32 array, (n_features, n_components)
    spots_ : float16 array, (n_spots, n_components)
    labels_ : float32 array, (n_spots, n_present_types)
    weight_ : float32 array, (n_spots,)
    """

    def __init__(
        self,
        unit: str = "proportion",
        n_neighbors: int = 30,
        n_components: int = 64,
        rings_um: tuple[float, ...] | str = (),
        smooth_um: float | str = 0.0,
        slide_scale: bool = False,
    ) -> None:
        self.unit = unit
        self.rings_um = rings_um
        self.smooth_um = smooth_um
        self.slide_scale = slide_scale
        self.n_neighbors = n_neighbors
        self.n_components = n_components

    def _fit(
        self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None, weight: np.ndarray, positions: Positions | None
    ) -> None:
        if self.n_neighbors < 1 or self.n_components < 1:
            raise HeadError(
                f"n_neighbors and n_components must be at least 1; they are {self.n_neighbors} and {self.n_components}"
            )
        held_out = np.full(Y.shape, np.nan)
        for train, test in inner_splits(len(X), groups):
            self._remember(X[train], Y[train], weight[train])
            held_out[test] = self._predict(X[test], None)
        self._remember(X, Y, weight)
        self.held_out_ = held_out

    def _remember(self, X: np.ndarray, Y: np.ndarray, weight: np.ndarray) -> None:
        self.mean_, self.scale_, self.components_ = principal_components(X, weight, self.n_components)
        self.spots_ = self._embed(X).astype(np.float16)
        self.labels_ = Y.astype(np.float32)
        self.weight_ = weight.astype(np.float32)

    def _predict(self, X: np.ndarray, positions: Positions | None) -> np.ndarray:
        spots = self.spots_.astype(np.float32)
        result = np.empty((len(X), self.labels_.shape[1]))
        k = min(self.n_neighbors, len(spots))
        for start in range(0, len(X), 512):
            here = slice(start, start + 512)
            cosine = self._embed(X[here]) @ spots.T
            nearest = np.argpartition(cosine, -k, axis=1)[:, -k:]
            # The floor keeps a spot that was in training from being its own only neighbour by an infinite weight.
            distance = np.sqrt(np.maximum(2 - 2 * np.take_along_axis(cosine, nearest, axis=1), 1e-4))
            share = self.weight_[nearest] / distance
            share /= share.sum(axis=1, keepdims=True)
            result[here] = np.einsum("nk,nkt->nt", share, self.labels_[nearest])
        return result / result.sum(axis=1, keepdims=True) if self.unit == "proportion" else result

    def _embed(self, X: np.ndarray) -> np.ndarray:
        Z = rotate(X, self.mean_, self.scale_, self.components_)
        unit: np.ndarray = Z / np.maximum(np.linalg.norm(Z, axis=1, keepdims=True), 1e-6)
        return unit

    def _fitted_arrays(self) -> dict[str, tuple[str, ...]]:
        return {
            "mean_": ("features",),
            "scale_": ("features",),
            "components_": ("features", "components"),
            "spots_": ("spots", "components"),
            "labels_": ("spots", "types"),
            "weight_": ("spots",),
        }
