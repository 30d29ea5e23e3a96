"""How far a tile's prediction is to be trusted, and whether a slide is like those of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from scipy import linalg

from ...errors import HeadError
from ..inner_folds import inner_splits
from ..models.preprocess import standardise, threads_for
from ..saved import check_saved, check_scale
from .expected_error import ExpectedError, tile_errors

#: A tile is in scope while it is no more novel than this share of held-out training tiles.
IN_SCOPE_PERCENTILE = 0.99
_COMPONENTS = 64
#: Training tiles looked at, at most: more make it slower and hardly another.
_ROWS = 12_000
_QUANTILES = np.linspace(0, 1, 1001)
#: Training tiles kept to measure the distance to, at most, and which of the nearest it is measured to.
_PROTOTYPES, _NEIGHBOUR = 2000, 5
#: Where the distance of held-out tiles ends that says nothing of their error, and how much it counts beyond.
_FAR, _STEEP = 0.95, 6.0
#: Errors that are expected to differ by less than this (of the logarithm) are taken to be the same.
_LEAST_RANGE = 0.05
#: Held-out tiles so many interquartile ranges above the upper quartile are outliers (Tukey 1977).
_FENCE = 1.5
#: A slide is out of scope with a smaller share of its tiles in scope than the first; the second is enough to be in.
_OUT, _IN = 0.5, 0.9


_ARRAYS = ("centre", "scale", "axes", "noise", "prototypes", "usual", "far", "quantiles", "shares")


class NoveltyModel:
    """Percentile of a tile's expected error and distance, among training tiles of donors held out from it.

    The error that is expected of a tile follows from what is predicted there: ridge regression of the logarithm of
    held-out errors (mean over cell types, each over the standard deviation of its labels) on the sum of the predictions
    and that of their roots. It orders the tiles of slides like those of training. How far a tile is from the training
    tiles hardly tells that order, and counts only beyond where nearly all held-out tiles are: there nothing is known of
    its error.

    Two distances see different things. The Mahalanobis distance is from the whole distribution, with its covariance
    shrunk by probabilistic principal components (Tipping and Bishop 1999): the leading components have their own
    variance, all other directions share one. The distance to the fifth nearest of up to 2000 training tiles in the
    leading components (Sun, Ming, Zhu and Li 2022, arXiv 2204.06507) finds what lies between or beside the
    kinds of tissue that were seen. The logarithm of each is put on the scale of held-out tiles, and the greater counts.
    So is the logarithm of the expected error; what the distance is beyond the 95th percentile of held-out tiles is
    added to it, six times, and the novelty is the percentile of the sum among held-out tiles. Donors weigh equally,
    and since they were held out, a merely new donor does not look novel. A model that was fitted without errors has
    the distance alone.

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
    usual : float64 array, (2, 2) or (3, 2): median and interquartile range of the log distances of held-out training
        tiles, and of their expected log error
    far : float64 array, (1,): distance beyond which it counts
    quantiles : float64 array, (1001,): of held-out training tiles' sum, or greater distance
    shares : float64 array, (n_groups,): of the tiles of each held-out donor that are in scope, judged by the others
    error : the expected log error; its arrays stand beside those above
    """

    centre: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    noise: np.ndarray
    prototypes: np.ndarray
    usual: np.ndarray
    far: np.ndarray
    quantiles: np.ndarray
    shares: np.ndarray
    error: ExpectedError

    def fit(
        self,
        X: np.ndarray,
        groups: np.ndarray | None,
        held_out: np.ndarray | None = None,
        Y: np.ndarray | None = None,
    ) -> Self:
        """Fit on embeddings whose rows of one group are held out together.

        Of more than 12,000 rows, as many are drawn with a fixed seed, equally from all groups.

        Parameters
        ----------
        X
            Embeddings, ``(n, n_features)``.
        groups
            Group of each row, ``(n,)``, or None.
        held_out, Y
            Predictions of each row by a fit without its group, and labels, ``(n, n_types)``; rows with NaN have no part
            in the expected error. None: the distance alone counts.
        """
        groups = None if groups is None else np.asarray(groups)
        if len(X) > _ROWS:
            kept = _spread_over(len(X), groups, _ROWS)
            X, groups = X[kept], None if groups is None else groups[kept]
            held_out, Y = (None if table is None else table[kept] for table in (held_out, Y))
        splits = inner_splits(len(X), groups)
        order = np.concatenate([test for _, test in splits])
        values, error = _told_errors(held_out, Y, order)
        with threads_for(X.size):
            parts = []
            for train, test in splits:
                self._fit_distances(X[train], None if groups is None else groups[train])
                self._fit_error(values, error, train)
                parts.append(self._signals(X[test], None if values is None else values[test]))
            signals = np.concatenate(parts, axis=1)
            names = np.zeros(len(order), int) if groups is None else groups[order]
            _, group = np.unique(names, return_inverse=True)
            self.usual, self.far, self.quantiles = _reference(signals, group)
            self.shares = _fractions_in_scope(signals, group)
            self._fit_distances(X, groups)
            self._fit_error(values, error, order)
        return self

    @property
    def needs_values(self) -> bool:
        """Whether predictions are asked for."""
        return len(self.error) > 0

    def __call__(self, X: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
        """Percentile of each row, 0 to 1, float64 ``(n,)``; 1 is beyond every held-out training tile.

        Parameters
        ----------
        X
            Embeddings, ``(n, n_features)``.
        values
            What the head predicts of them, ``(n, n_types)``; only where `needs_values`.

        Raises
        ------
        HeadError
            Predictions are needed and None.
        """
        if values is None and self.needs_values:
            raise HeadError("the novelty score depends on the predictions, and none were given")
        signals = self._signals(X, values if self.needs_values else None)
        return _percentile(signals, self.usual, self.far, self.quantiles)

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
        own = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        return {**own, **self.error.arrays()}

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray], n_features: int, n_types: int) -> Self:
        """Make a model from what `arrays` returned, for a head of so many features and cell types.

        Raises
        ------
        HeadError
            An array is missing or unknown, or has the wrong shape, kind or range.
        """
        model = cls()
        rank = arrays["axes"].shape[-1] if "axes" in arrays else 0
        length = {name: len(arrays[name]) if name in arrays else 0 for name in ("prototypes", "shares")}
        shapes = {"centre": (n_features,), "scale": (n_features,), "axes": (n_features, rank), "noise": (1,)}
        shapes |= {"prototypes": (length["prototypes"], rank), "quantiles": _QUANTILES.shape}
        shapes |= {"shares": (length["shares"],), "far": (1,), "error_offset": (1,)}
        types = n_types if "error_scale" in arrays and len(arrays["error_scale"]) else 0
        shapes |= {"usual": (3 if types else 2, 2), "error_weights": (2,), "error_scale": (types,)}
        arrays = _of_distance_alone(arrays)
        actual_shapes = {name: array.shape for name, array in arrays.items()}
        if actual_shapes != shapes or not all(length.values()):
            raise HeadError(f"the arrays of the novelty score have shapes {actual_shapes}; expected {shapes}")
        check_saved(arrays, may_be_empty=("error_scale",))
        check_scale(arrays["error_scale"], "the saved array error_scale")
        if (arrays["shares"] < 0).any() or (arrays["shares"] > 1).any():
            raise HeadError("the saved array shares holds what is no share from 0 to 1")
        if not (arrays["noise"] > 0).all():
            raise HeadError("the saved array noise holds no variance above 0")
        check_scale(arrays["usual"][:, 1], "the second column of the saved array usual")
        if (np.diff(arrays["quantiles"]) < 0).any():
            raise HeadError("the saved array quantiles does not ascend")
        for name in _ARRAYS:
            setattr(model, name, arrays[name])
        model.error = ExpectedError.restored(arrays)
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

    def _fit_error(self, values: np.ndarray | None, error: np.ndarray | None, rows: np.ndarray) -> None:
        if values is None or error is None:
            self.error = ExpectedError.unknown()
            return
        told = rows[np.isfinite(error[rows])]
        self.error = ExpectedError.fit(values[told], error[told])

    def _signals(self, X: np.ndarray, values: np.ndarray | None) -> np.ndarray:
        """Logarithms of both distances of each row, and of its expected error, float64 ``(2, n)`` or ``(3, n)``."""
        distances = self._distances(X)
        if values is None:
            return distances
        return np.concatenate([distances, self.error(values)[None]])

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


def _of_distance_alone(arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Arrays of an earlier version, which had no expected error, in the layout of this one."""
    if {"far", "error_weights", "error_scale", "error_offset"} & set(arrays):
        return arrays
    without = {"far": np.zeros(1), "error_offset": np.zeros(1)}
    return {**arrays, **without, "error_weights": np.zeros(2), "error_scale": np.zeros(0)}


def _told_errors(
    held_out: np.ndarray | None, Y: np.ndarray | None, rows: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Predictions and errors, where all of ``rows`` have them and they differ; else neither."""
    if held_out is None or Y is None or not np.isfinite(held_out[rows]).all():
        return None, None
    error = tile_errors(held_out, Y)
    return (held_out, error) if error[rows].any() else (None, None)


def _reference(signals: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`usual`, `far` and `quantiles` of signals ``(2 or 3, n)`` of held-out tiles, groups weighted equally."""
    weight = (1 / np.bincount(group))[group]
    low, middle, high = (_weighted(signals, weight, [level]) for level in (0.25, 0.5, 0.75))
    least = np.array([1e-6, 1e-6, _LEAST_RANGE])[: len(signals), None]
    usual = np.concatenate([middle, np.maximum(high - low, least)], axis=1)
    greater, ordinary = _greater(signals, usual), np.ones(len(group), bool)
    for one in range(int(group.max()) + 1):
        rows = group == one
        low, high = np.quantile(greater[rows], [0.25, 0.75])
        ordinary[rows] = greater[rows] <= high + _FENCE * (high - low)
    far = _weighted(greater[None, ordinary], weight[ordinary], [_FAR])[0]
    score = _score(signals, usual, far)
    # The next donor is taken to be as bad as the worst of these, as intervals take it to be.
    tops = [np.quantile(score[ordinary & (group == one)], IN_SCOPE_PERCENTILE) for one in range(int(group.max()) + 1)]
    weight = np.where(group == int(np.argmax(tops)), 2 * weight, weight) if len(tops) > 2 else weight
    return usual, far, _weighted(score[None, ordinary], weight[ordinary], _QUANTILES)[0]


def _weighted(values: np.ndarray, weight: np.ndarray, levels: Any) -> np.ndarray:
    """Weighted quantiles of each row of ``values``."""
    return np.stack([np.quantile(row, levels, weights=weight, method="inverted_cdf") for row in values])


def _greater(signals: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """The greater distance of each row, on the scale of held-out tiles."""
    excess: np.ndarray = ((signals[:2] - usual[:2, :1]) / usual[:2, 1:]).max(axis=0)
    return excess


def _score(signals: np.ndarray, usual: np.ndarray, far: np.ndarray) -> np.ndarray:
    """Expected error, and what the distance adds; the distance alone where no error is expected."""
    greater = _greater(signals, usual)
    if len(signals) < 3:
        return greater
    score: np.ndarray = (signals[2] - usual[2, 0]) / usual[2, 1] + _STEEP * np.maximum(greater - far[0], 0)
    return score


def _percentile(signals: np.ndarray, usual: np.ndarray, far: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    percentile: np.ndarray = np.interp(_score(signals, usual, far), quantiles, _QUANTILES)
    return percentile


def _fractions_in_scope(signals: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Fraction of each group in scope by the quantiles of the others; of all by their own where there is one group."""
    n_groups = int(group.max()) + 1
    if n_groups < 2:
        return np.array([np.mean(_percentile(signals, *_reference(signals, group)) <= IN_SCOPE_PERCENTILE)])
    fractions = np.empty(n_groups)
    for one in range(n_groups):
        rest = group != one
        _, others = np.unique(group[rest], return_inverse=True)
        reference = _reference(signals[:, rest], others)
        fractions[one] = np.mean(_percentile(signals[:, ~rest], *reference) <= IN_SCOPE_PERCENTILE)
    return fractions
