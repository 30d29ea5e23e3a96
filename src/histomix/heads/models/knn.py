"""A head without a model: the mean label of the most similar training spots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from ...common.threads import side_by_side
from ...errors import HeadError
from ...progress import tell
from ..base import CompositionRegressor
from ..inner_folds import inner_splits
from ..neighbourhood import Positions
from .preprocess import principal_components, rotate
from .search import Search, settings_to_try

#: Components that are tried, and neighbours that are read along each.
_COMPONENTS, _NEIGHBOURS = (64, 32, 128, 256), (30, 5, 10, 20, 60, 100)
#: Tiles whose neighbours are looked for at once.
_AT_ONCE = 512


class KNNRegressor(CompositionRegressor):
    """Mean label of the nearest training spots, weighted by inverse distance.

    Distances are Euclidean between unit vectors (so they rank as the cosine does) in the leading principal components
    of the standardised embeddings. The training spots are held in half precision, so a saved head predicts the same.

    Parameters
    ----------
    unit
        "proportion" or "cells per spot".
    n_neighbors, n_components
        Neighbours averaged (all training spots where there are fewer), and principal components kept. None to choose
        them on inner splits: four numbers of components are tried, and numbers of neighbours read along each.
    rings_um, smooth_um, slide_scale
        What the head sees around a tile; see `CompositionRegressor`.

    Attributes
    ----------
    mean_, scale_ : float32 arrays, (n_features,)
    components_ : float32 array, (n_features, n_components)
    spots_ : float16 array, (n_spots, n_components)
    labels_ : float32 array, (n_spots, n_present_types)
    weight_ : float32 array, (n_spots,)
    n_neighbors_ : int
    """

    _fitted_numbers = _whole_numbers = ("n_neighbors_",)

    def __init__(
        self,
        unit: str = "proportion",
        n_neighbors: int | None = None,
        n_components: int | None = None,
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
        if any(value is not None and value < 1 for value in (self.n_neighbors, self.n_components)):
            raise HeadError(
                f"n_neighbors and n_components must be at least 1; they are {self.n_neighbors} and {self.n_components}"
            )
        trials = settings_to_try(self, [{"n_components": number} for number in _COMPONENTS])
        counts = _NEIGHBOURS if self.n_neighbors is None else (self.n_neighbors,)
        splits = inner_splits(len(X), groups)
        most = max(one["n_components"] for one in trials)
        bases = [principal_components(X[train], weight[train], most) for train, _ in splits]
        search = Search(Y, groups, positions)
        for number, one in enumerate(trials):
            held_out = np.full((len(counts), *Y.shape), np.nan)
            for fold, ((train, test), basis) in enumerate(zip(splits, bases, strict=True)):
                tell("look for neighbours (fits)", number * len(splits) + fold, len(trials) * len(splits))
                self._remember(X[train], Y[train], weight[train], basis, one["n_components"])
                held_out[:, test] = self._means(X[test], counts)
            search.trial(one, zip([{"n_neighbors": count} for count in counts], held_out, strict=True))
        tell("look for neighbours (fits)", len(trials) * len(splits), len(trials) * len(splits))
        if len(trials) * len(counts) > 1:
            self.search_ = search.facts(len(splits))
        self.n_neighbors_ = search.settings["n_neighbors"]
        n_components = search.settings["n_components"]
        self._remember(X, Y, weight, principal_components(X, weight, n_components), n_components)
        self.held_out_ = search.held_out

    def _remember(
        self,
        X: np.ndarray,
        Y: np.ndarray,
        weight: np.ndarray,
        basis: tuple[np.ndarray, np.ndarray, np.ndarray],
        n_components: int,
    ) -> None:
        self.mean_, self.scale_, self.components_ = *basis[:2], basis[2][:, :n_components]
        self.spots_ = self._embed(X).astype(np.float16)
        self.labels_ = Y.astype(np.float32)
        self.weight_ = weight.astype(np.float32)

    def _predict(self, X: np.ndarray, positions: Positions | None) -> np.ndarray:
        (means,) = self._means(X, (self.n_neighbors_,))
        return np.asarray(means)

    def _means(self, X: np.ndarray, counts: Sequence[int]) -> np.ndarray:
        """Weighted mean labels of the nearest spots, for each number of them, (n_counts, n, n_types)."""
        spots = self.spots_.astype(np.float32)
        result = np.empty((len(counts), len(X), self.labels_.shape[1]))
        k = min(max(counts), len(spots))
        places = np.minimum(counts, k)

        def read(start: int) -> None:
            here = slice(start, start + _AT_ONCE)
            nearest, cosine = _largest(self._embed(X[here]) @ spots.T, k)
            # The floor keeps a spot that was in training from being its own only neighbour by an infinite weight.
            share = self.weight_[nearest] / np.sqrt(np.maximum(2 - 2 * cosine, 1e-4))
            total, weight, done = 0.0, 0.0, 0
            for number in np.argsort(places, kind="stable"):
                more = slice(done, places[number])
                total = total + np.einsum("nk,nkt->nt", share[:, more], self.labels_[nearest[:, more]])
                weight = weight + share[:, more].sum(axis=1, keepdims=True)
                result[number, here], done = total / weight, places[number]

        with side_by_side() as each:
            for _ in each(read, range(0, len(X), _AT_ONCE)):
                pass
        return result / result.sum(axis=2, keepdims=True) if self.unit == "proportion" else result

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

    def restore(self, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]) -> Self:
        """Set what `fitted` returned; raises what `CompositionRegressor.restore` does."""
        # A head of before 2.1 has the number among its parameters alone.
        super().restore(arrays, {"n_neighbors_": self.n_neighbors, **numbers})
        if not self.n_neighbors_:
            raise HeadError("the fitted number n_neighbors_ is 0; a tile has one neighbour at least")
        if (self.weight_ < 0).any() or (self.labels_ < 0).any():
            raise HeadError("the saved array weight_ or labels_ holds negative numbers")
        if self.unit == "proportion" and self.labels_.max() > 1 + 1e-6:
            raise HeadError("the saved array labels_ holds what is no proportion")
        return self


def _largest(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and values of the k largest of each row, the largest first, and of equal ones the first.

    The k-th largest of the maxima of blocks is a bound that k values reach and few more: to look for these takes a
    quarter of the time of parting all values.
    """
    n, m = values.shape
    block = m // (4 * k)
    if block > 1:
        maxima = values[:, : m // block * block].reshape(n, -1, block).max(axis=2)
        bound = np.partition(maxima, -k, axis=1)[:, -k]
        row, column = np.divmod(np.flatnonzero(values >= bound[:, None]), m)
        found = np.bincount(row, minlength=n)
        place = np.arange(len(row)) - (np.cumsum(found) - found)[row]
        columns = np.zeros((n, found.max()), dtype=np.intp)
        few = np.full(columns.shape, -np.inf, dtype=values.dtype)
        columns[row, place], few[row, place] = column, values[row, column]
    else:
        columns, few = np.broadcast_to(np.arange(m), values.shape), values
    order = np.argsort(-few, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(columns, order, axis=1), np.take_along_axis(few, order, axis=1)
