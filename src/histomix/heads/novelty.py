"""How unlike the training tiles a tile is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np

from ..errors import HeadError
from .inner import inner_splits
from .preprocess import spectrum, standardise
from .threads import threads_for

_COMPONENTS = 64
_QUANTILES = np.linspace(0, 1, 1001)


class NoveltyModel:
    """Percentile of a tile's distance from the training tiles, among training tiles of donors held out from it.

    The distance is the Mahalanobis distance under probabilistic principal components (Tipping and Bishop 1999): the
    leading components have their own variance, all other directions share one. Calibration on held-out groups keeps
    a merely new donor from looking novel.

    Attributes
    ----------
    centre, scale : float32 arrays, (n_features,)
    axes : float32 array, (n_features, r): principal components over their standard deviation, less what the shared
        variance already counts
    noise : float64 array, (1,): the shared variance
    quantiles : float64 array, (1001,): of the distances of held-out training tiles
    """

    centre: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    noise: np.ndarray
    quantiles: np.ndarray

    def fit(self, X: np.ndarray, groups: np.ndarray | None) -> Self:
        """Fit on embeddings ``(n, n_features)`` whose rows of one group are held out together."""
        with threads_for(X.size):
            held_out = []
            for train, test in inner_splits(len(X), groups):
                self._fit_distance(X[train])
                held_out.append(self._distance(X[test]))
            self.quantiles = np.quantile(np.concatenate(held_out), _QUANTILES)
            self._fit_distance(X)
        return self

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """Percentile of each row, 0 to 1, float64 ``(n,)``; 1 is beyond every held-out training tile."""
        return np.interp(self._distance(X), self.quantiles, _QUANTILES)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the fitted arrays."""
        return {name: np.ascontiguousarray(getattr(self, name)) for name in NoveltyModel.__annotations__}

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray], n_features: int) -> Self:
        """Make a model from what `arrays` returned.

        Raises
        ------
        HeadError
            An array is missing or unknown, or has the wrong shape.
        """
        model = cls()
        rank = arrays["axes"].shape[-1] if "axes" in arrays else 0
        shapes = {"centre": (n_features,), "scale": (n_features,), "axes": (n_features, rank)}
        shapes |= {"noise": (1,), "quantiles": _QUANTILES.shape}
        found = {name: array.shape for name, array in arrays.items()}
        if found != shapes:
            raise HeadError(f"the arrays of the novelty score have shapes {found}; expected {shapes}")
        for name, array in arrays.items():
            setattr(model, name, array)
        return model

    def _fit_distance(self, X: np.ndarray) -> None:
        mean, scale = standardise(X, np.ones(len(X)))
        Z = ((X - mean) / scale).astype(np.float32)
        vectors, values = spectrum(Z)
        if not len(values):
            raise HeadError("the features are the same in every training spot", mend="Check the tiles and the encoder")
        # At most half the rank: the rest must tell the variance outside the components.
        r = min(_COMPONENTS, max(1, len(values) // 2))
        variance = values.astype(np.float64) / len(X)
        outside = variance[r:].sum() / max(Z.shape[1] - r, 1)
        noise = outside if outside > 0 else variance[-1]
        self.centre, self.scale = mean.astype(np.float32), scale.astype(np.float32)
        self.noise = np.array([noise])
        self.axes = (vectors[:, :r] * np.sqrt(np.maximum(1 / noise - 1 / variance[:r], 0))).astype(np.float32)

    def _distance(self, X: np.ndarray) -> np.ndarray:
        """|z|^2 over the noise variance, less the share of the components that their own variance explains."""
        result = np.empty(len(X))
        for start in range(0, len(X), 8192):
            rows = slice(start, start + 8192)
            Z = ((X[rows] - self.centre) / self.scale).astype(np.float32)
            result[rows] = np.square(Z).sum(axis=1) / self.noise[0] - np.square(Z @ self.axes).sum(axis=1)
        return result
