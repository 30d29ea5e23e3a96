"""The error that is to be expected of a tile, from what is predicted there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import linalg

#: Penalty on the weights, per row; and the least error that is told from none, over the median.
_ALPHA, _LEAST_ERROR = 0.2, 0.1
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class ExpectedError:
    """Logarithm of the expected error of tiles: linear in the sum of the predictions, and in that of their roots.

    The first says how much there is on a tile, both together of how many types. Weights of each type tell unseen donors
    no better, and sections of one patient worse.

    Parameters
    ----------
    weights, scale, offset
        float64 arrays ``(2,)``, ``(n_types,)`` and ``(1,)``: weights of the sum of the predictions over their scale and
        of the sum of the roots of these. Of no types: nothing is known of errors.
    """

    weights: np.ndarray
    scale: np.ndarray
    offset: np.ndarray

    @classmethod
    def unknown(cls) -> Self:
        """Of no types."""
        return cls(np.zeros(2), np.zeros(0), np.zeros(1))

    @classmethod
    def fit(cls, values: np.ndarray, error: np.ndarray) -> Self:
        """Ridge regression on held-out predictions ``(n, n_types)`` and the errors of their rows ``(n,)``."""
        spread = np.maximum(values, 0).std(axis=0)
        largest = max(float(spread.max()), _TINY)
        # The scale of a type that is never predicted is that of the others: its weights are 0 then.
        scale = np.where(spread > 1e-9 * largest, spread, largest)
        terms = _terms(values, scale)
        target = np.log(error + _LEAST_ERROR * max(float(np.median(error)), _TINY))
        mean, centre = terms.mean(axis=0), float(target.mean())
        Z = terms - mean
        sd = Z.std(axis=0)
        sd[sd <= 1e-6 * np.abs(mean) + _TINY] = np.inf  # what is the same everywhere weighs nothing
        Z = Z / sd
        penalty = _ALPHA * len(Z) * np.eye(Z.shape[1])
        weights = linalg.solve(Z.T @ Z + penalty, Z.T @ (target - centre), assume_a="pos") / sd
        return cls(weights, scale, np.array([centre - float(mean @ weights)]))

    def __len__(self) -> int:
        return len(self.scale)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Expected log error of each row, float64 ``(n,)``."""
        expected: np.ndarray = _terms(values, self.scale) @ self.weights + self.offset[0]
        return expected

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the fitted arrays."""
        return {"error_weights": self.weights, "error_scale": self.scale, "error_offset": self.offset}

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Make it of what `arrays` returned."""
        return cls(arrays["error_weights"], arrays["error_scale"], arrays["error_offset"])


def tile_errors(held_out: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """Mean absolute error of each row over the types, each over the SD of its labels, ``(n,)``; NaN as in ``held_out``.

    A type whose labels are all the same has no part.
    """
    labels = np.asarray(Y, dtype=np.float64)
    known = np.isfinite(held_out).all(axis=1)
    sd = labels[known].std(axis=0) if known.any() else np.zeros(labels.shape[1])
    told = sd > 1e-9 * max(float(sd.max(initial=0)), _TINY)
    error = np.where(known, 0.0, np.nan)
    if told.any():
        error[known] = (np.abs(held_out[known][:, told] - labels[known][:, told]) / sd[told]).mean(axis=1)
    return error


def _terms(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Sums over the types of the predictions over their scale, and of the roots of these, ``(n, 2)``."""
    part = np.maximum(np.asarray(values, dtype=np.float64), 0) / scale
    return np.stack([part.sum(axis=1), np.sqrt(part).sum(axis=1)], axis=1)
