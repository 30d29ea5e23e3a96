"""How unlike the training tiles a tile is, and whether a slide is like those of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from scipy import linalg

from ..errors import HeadError
from .inner_folds import inner_splits
from .models.preprocess import standardise, threads_for
from .saved import check_saved

#: A tile is in scope while it is no more novel than this share of held-out training tiles.
IN_SCOPE_PERCENTILE = 0.99
_COMPONENTS = 64
#: Training tiles looked at, at most: more make it slower and hardly another.
_ROWS = 12_000
_QUANTILES = np.linspace(0, 1, 1001)
#: Training tiles kept to measure the distance to, at most, and which of the nearest it is measured to.
_PROTOTYPES, _NEIGHBOUR = 2000, 5
#: Held-out tiles so many interquartile ranges above the upper quartile are outliers (Tukey 1977).
_FENCE = 1.5
#: A slide is out of scope with a smaller share of its tiles in scope than the first; the second is enough to be in.
_OUT, _IN = 0.5, 0.9


class NoveltyModel:
    """Percentile of a tile's distance from the training tiles, among training tiles of donors held out from it.

    Two distances see different things. The Mahalanobis distance is from the whole distribution, with its covariance
    shrunk by probabilistic principal components (Tipping and Bishop 1999): the leading components have their own
    variance, all other directions share one. The distance to the fifth nearest of up to 2000 training tiles in the
    leading components (Sun, Ming, Zhu and Li 2022, arXiv 2204.06507) finds what lies between or beside the
    kinds of tissue that were seen. The logarithm of each is put on the scale of held-out tiles, and the greater counts:
    the novelty is its percentile among held-out tiles. Donors weigh equally, and since they were held out, a merely new
    donor does not look novel.

    Training sections have tiles of glass, folds and pen too. Held-out tiles beyond their donor's upper fence (Tukey's,
    1.5 interquartile ranges above the upper quartile) are therefore no part of the distribution that percentiles are
    taken in; otherwise a few of them would bring everything of their kind into scope.

    Attributes
    ----------
    centre, scale : float32 arrays, (n_features,)
    axes : float32 array, (n_features, r): principal components over their standard deviation, less what the shared
        variance already counts
    noise : float64 array, (1,): the shared variance
    prototypes : float16 array, (m, r): training tiles in the components
    usual : float64 array, (2, 2): median and interquartile range of the log distances of held-out training tiles
    quantiles : float64 array, (1001,): of held-out training tiles' greater distance
    shares : float64 array, (n_groups,): of the tiles of each held-out donor that are in scope, judged by the others
    """

    centre: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    noise: np.ndarray
    prototypes: np.ndarray
    usual: np.ndarray
    quantiles: np.ndarray
    shares: np.ndarray

    def fit(self, X: np.ndarray, groups: np.ndarray | None) -> Self:
        """Fit on embeddings ``(n, n_features)`` whose rows of one group are held out together.

        Of more than 12,000 rows, as many are drawn with a fixed seed, equally from all groups.
        """
        if len(X) > _ROWS:
            kept = _spread_over(len(X), groups, _ROWS)
            X, groups = X[kept], None if groups is None else np.asarray(groups)[kept]
        with threads_for(X.size):
            rows, parts = [], []
            for train, test in inner_splits(len(X), groups):
                self._fit_distances(X[train], None if groups is None else groups[train])
                rows.append(test)
                parts.append(self._distances(X[test]))
            held_out, order = np.concatenate(parts, axis=1), np.concatenate(rows)
            names = np.zeros(len(order), int) if groups is None else np.asarray(groups)[order]
            _, group = np.unique(names, return_inverse=True)
            self.usual, self.quantiles = _reference(held_out, group)
            self.shares = _fractions_in_scope(held_out, group)
            self._fit_distances(X, groups)
        return self

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """Percentile of each row, 0 to 1, float64 ``(n,)``; 1 is beyond every held-out training tile."""
        return _percentile(self._distances(X), self.usual, self.quantiles)

    def scope(self, in_scope: np.ndarray) -> dict[str, Any]:
        """Judge a slide by the share of its readable tiles that are in scope, beside held-out training donors.

        Parameters
        ----------
        in_scope
            Whether each readable tile is in scope, ``(n,)``.

        Returns
        -------
        dict
            ``share`` (None without a tile), ``held_out`` (``least`` and ``mean`` of held-out donors), ``verdict``
            ("in scope", "partly in scope", "out of scope" or "unreadable") and ``words``.
        """
        least, mean = float(self.shares.min()), float(self.shares.mean())
        held_out = {"least": round(least, 4), "mean": round(mean, 4), "n_groups": len(self.shares)}
        if not len(in_scope):
            return {"share": None, "held_out": held_out, "verdict": "unreadable", "words": "No tile could be read."}
        fraction = float(np.mean(in_scope))
        # Enough is what held-out donors have, unless those are strange among themselves.
        enough = min(max(least, _OUT), _IN)
        verdict = "out of scope" if fraction < _OUT else "in scope" if fraction >= enough else "partly in scope"
        words = {
            "in scope": "It is like the slides of training.",
            "partly in scope": "Part of it is unlike the slides of training: read those tiles with caution.",
            "out of scope": "It is unlike the slides of training (another stain, organ, scale or no tissue): "
            "do not trust the prediction.",
        }[verdict]
        text = f"{fraction:.1%} of the tiles are in scope; donors held out of training have {least:.1%} to "
        text += f"{float(self.shares.max()):.1%}. {words}"
        return {"share": round(fraction, 4), "held_out": held_out, "verdict": verdict, "words": text}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the fitted arrays."""
        return {name: np.ascontiguousarray(getattr(self, name)) for name in NoveltyModel.__annotations__}

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray], n_features: int) -> Self:
        """Make a model from what `arrays` returned.

        Raises
        ------
        HeadError
            An array is missing or unknown, or has the wrong shape, kind or range.
        """
        model = cls()
        rank = arrays["axes"].shape[-1] if "axes" in arrays else 0
        length = {name: len(arrays[name]) if name in arrays else 0 for name in ("prototypes", "shares")}
        shapes = {"centre": (n_features,), "scale": (n_features,), "axes": (n_features, rank), "noise": (1,)}
        shapes |= {"prototypes": (length["prototypes"], rank), "usual": (2, 2), "quantiles": _QUANTILES.shape}
        shapes |= {"shares": (length["shares"],)}
        actual_shapes = {name: array.shape for name, array in arrays.items()}
        if actual_shapes != shapes or not all(length.values()):
            raise HeadError(f"the arrays of the novelty score have shapes {actual_shapes}; expected {shapes}")
        check_saved(arrays)
        if (arrays["shares"] < 0).any() or (arrays["shares"] > 1).any():
            raise HeadError("the saved array shares holds what is no share from 0 to 1")
        if not (arrays["noise"] > 0).all():
            raise HeadError("the saved array noise holds no variance above 0")
        for name, array in arrays.items():
            setattr(model, name, array)
        return model

    def _fit_distances(self, X: np.ndarray, groups: np.ndarray | None) -> None:
        mean, scale = standardise(X, np.ones(len(X)))
        Z = ((X - mean) / scale).astype(np.float32)
        total = float(np.einsum("nf,nf->", Z, Z, dtype=np.float64))
        vectors, values = _leading(Z, 2 * _COMPONENTS)
        if not len(values):
            raise HeadError("the features are the same in every training spot", hint="Check the tiles and the encoder")
        # At most half the rank: the rest must tell the variance outside the components.
        r = min(_COMPONENTS, max(1, len(values) // 2))
        variance = values.astype(np.float64) / len(X)
        outside = max(total / len(X) - variance[:r].sum(), 0.0) / max(Z.shape[1] - r, 1)
        noise = outside if outside > 1e-6 * variance[-1] else variance[-1]
        self.centre, self.scale = mean.astype(np.float32), scale.astype(np.float32)
        self.noise = np.array([noise])
        axes = vectors[:, :r] * np.sqrt(np.maximum(1 / noise - 1 / variance[:r], 0))
        # Laid out as it is when it is loaded: products differ in the last bit with the order in memory.
        self.axes = np.ascontiguousarray(axes, dtype=np.float32)
        self.prototypes = (Z[_spread_over(len(Z), groups, _PROTOTYPES)] @ self._directions()).astype(np.float16)

    def _directions(self) -> np.ndarray:
        """The components as unit vectors, ``(n_features, r)``."""
        directions: np.ndarray = self.axes / np.maximum(np.linalg.norm(self.axes, axis=0), 1e-12)
        return directions

    def _distances(self, X: np.ndarray) -> np.ndarray:
        """Logarithms of both distances of each row, float64 ``(2, n)``."""
        return np.log(np.maximum([self._distance(X), self._nearest(X)], 1e-12))

    def _distance(self, X: np.ndarray) -> np.ndarray:
        """|z|^2 over the noise variance, less the share of the components that their own variance explains."""
        result = np.empty(len(X))
        for start in range(0, len(X), 8192):
            rows = slice(start, start + 8192)
            Z = ((X[rows] - self.centre) / self.scale).astype(np.float32)
            result[rows] = np.square(Z).sum(axis=1) / self.noise[0] - np.square(Z @ self.axes).sum(axis=1)
        return result

    def _nearest(self, X: np.ndarray) -> np.ndarray:
        """Distance of each row to the fifth nearest prototype."""
        spots, directions = self.prototypes.astype(np.float32), self._directions()
        square, which = np.square(spots).sum(axis=1), min(_NEIGHBOUR, len(spots)) - 1
        result = np.empty(len(X))
        for start in range(0, len(X), 2048):
            rows = slice(start, start + 2048)
            P = ((X[rows] - self.centre) / self.scale).astype(np.float32) @ directions
            distance = np.square(P).sum(axis=1)[:, None] + square - 2 * (P @ spots.T)
            result[rows] = np.sqrt(np.maximum(np.partition(distance, which, axis=1)[:, which], 0))
        return result


def _leading(Z: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Leading ``n`` eigenvectors (n_features, n) and eigenvalues of ``Z.T @ Z``, descending; fewer of a lower rank."""
    gram = Z @ Z.T if len(Z) < Z.shape[1] else Z.T @ Z
    size = len(gram)
    values, vectors = linalg.eigh(
        gram, subset_by_index=(max(0, size - n), size - 1), overwrite_a=True, check_finite=False
    )
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > max(values[0], np.finfo(values.dtype).tiny) * max(Z.shape) * np.finfo(values.dtype).eps
    values, vectors = values[kept], vectors[:, kept]
    return ((Z.T @ vectors) / np.sqrt(values) if len(Z) < Z.shape[1] else vectors), values


def _spread_over(n: int, groups: np.ndarray | None, most: int) -> np.ndarray:
    """Rows that stand for all: all of them, or ``most``, equally of each group, drawn with a fixed seed; ascending."""
    if n <= most:
        return np.arange(n)
    _, group = np.unique(np.zeros(n, int) if groups is None else groups, return_inverse=True)
    order = np.random.default_rng(0).permutation(n)
    rank = np.empty(n, int)  # of each row within its group, in the drawn order
    for one in range(group.max() + 1):
        rows = order[group[order] == one]
        rank[rows] = np.arange(len(rows))
    return np.sort(order[np.argsort(rank[order], kind="stable")][:most])


def _reference(distances: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What held-out tiles are like: `usual` and `quantiles` of log distances ``(2, n)``, groups weighted equally."""
    weight = (1 / np.bincount(group))[group]
    low, middle, high = (_weighted(distances, weight, [level]) for level in (0.25, 0.5, 0.75))
    usual = np.concatenate([middle, np.maximum(high - low, 1e-6)], axis=1)
    greater, ordinary = _greater(distances, usual), np.ones(len(group), bool)
    for one in range(int(group.max()) + 1):
        rows = group == one
        low, high = np.quantile(greater[rows], [0.25, 0.75])
        ordinary[rows] = greater[rows] <= high + _FENCE * (high - low)
    return usual, _weighted(greater[None, ordinary], weight[ordinary], _QUANTILES)[0]


def _weighted(values: np.ndarray, weight: np.ndarray, levels: Any) -> np.ndarray:
    """Weighted quantiles of each row of ``values``."""
    return np.stack([np.quantile(row, levels, weights=weight, method="inverted_cdf") for row in values])


def _greater(distances: np.ndarray, usual: np.ndarray) -> np.ndarray:
    excess: np.ndarray = ((distances - usual[:, :1]) / usual[:, 1:]).max(axis=0)
    return excess


def _percentile(distances: np.ndarray, usual: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    percentile: np.ndarray = np.interp(_greater(distances, usual), quantiles, _QUANTILES)
    return percentile


def _fractions_in_scope(distances: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Fraction of each group in scope by the quantiles of the others; of all by their own where there is one group."""
    n_groups = int(group.max()) + 1
    if n_groups < 2:
        return np.array([np.mean(_percentile(distances, *_reference(distances, group)) <= IN_SCOPE_PERCENTILE)])
    fractions = np.empty(n_groups)
    for one in range(n_groups):
        rest = group != one
        _, others = np.unique(group[rest], return_inverse=True)
        reference = _reference(distances[:, rest], others)
        fractions[one] = np.mean(_percentile(distances[:, ~rest], *reference) <= IN_SCOPE_PERCENTILE)
    return fractions
