"""Intervals of means by drawing donors, then what each donor has: the bootstrap that every room shares."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from .metrics import Array

#: Draws of the bootstrap, and the level of its intervals.
DRAWS, LEVEL = 2000, 0.95


def resample_weights(groups: NDArray[np.intp], seed: int, draws: int = DRAWS) -> NDArray[np.float64]:
    """How often each unit is drawn in each bootstrap sample, shape (draws, n_units).

    Groups (donors) are drawn with replacement, then as many units of each drawn group as it has, with replacement; with
    one group only its units are drawn. The array is shared and cannot be written to.
    """
    return _resample_weights(np.ascontiguousarray(groups, dtype=np.intp).tobytes(), seed, draws)


@lru_cache(maxsize=8)
def _resample_weights(coded: bytes, seed: int, draws: int) -> NDArray[np.float64]:
    """The weights, made once: every metric of a target, and every head, is drawn by the same ones."""
    groups = np.frombuffer(coded, dtype=np.intp)
    rng = np.random.default_rng(seed)
    n_units, sizes = len(groups), np.bincount(groups) if len(groups) else np.zeros(0, dtype=np.intp)
    if len(sizes) < 2:
        drawn, valid = rng.integers(max(n_units, 1), size=(draws, n_units)), np.ones((draws, n_units), dtype=bool)
    else:
        first = np.cumsum(sizes) - sizes
        units = np.argsort(groups, kind="stable")
        group = rng.integers(len(sizes), size=(draws, len(sizes)))
        size = sizes[group][..., None]
        place = (rng.random((draws, len(sizes), sizes.max())) * size).astype(np.intp)
        drawn = units[first[group][..., None] + place].reshape(draws, -1)
        valid = (np.arange(sizes.max()) < size).reshape(draws, -1)
    flat = (drawn + n_units * np.arange(draws)[:, None])[valid]
    weights = np.bincount(flat, minlength=draws * n_units).reshape(draws, n_units).astype(np.float64)
    weights.flags.writeable = False
    return weights


def mean_and_interval(values: Array, weights: Array, groups: NDArray[np.intp]) -> dict[str, float | None]:
    """Mean over units with its bootstrap interval.

    A percentile interval of few donors is too narrow. Its percentiles are moved out to where Student's t on as many
    donors puts them (the expanded percentile interval of Hesterberg 2015, The American Statistician 69, 371).

    Parameters
    ----------
    values
        One of each unit, ``(n_units,)``; NaN where it is undefined.
    weights
        Of `resample_weights`.
    groups
        Donor of each unit, coded from 0, ``(n_units,)``.

    Returns
    -------
    dict
        ``mean``, ``low``, ``high``; None where they are undefined (an interval needs two units).
    """
    finite = np.isfinite(values)
    low = high = None
    if finite.sum() > 1:
        total = weights @ finite
        means = (weights @ np.where(finite, values, 0.0))[total > 0] / total[total > 0]
        low, high = (float(edge) for edge in np.quantile(means, percentiles(groups[finite])))
    return {"mean": _number(values[finite].mean()) if finite.any() else None, "low": low, "high": high}


def interval_of(value: float, drawn: Array, groups: NDArray[np.intp]) -> dict[str, float | None]:
    """A number with the interval of its draws, as `mean_and_interval` gives them."""
    finite = drawn[np.isfinite(drawn)]
    low = high = None
    if len(groups) > 1 and len(finite):
        low, high = (float(edge) for edge in np.quantile(finite, percentiles(groups)))
    return {"mean": _number(value), "low": low, "high": high}


def percentiles(groups: NDArray[np.intp]) -> tuple[float, float]:
    """Which quantiles of the bootstrap bound an interval of `LEVEL` over some donors (over units, with one donor)."""
    n = len(np.unique(groups))
    return _percentiles(len(groups) if n < 2 else n)


@lru_cache
def _percentiles(n: int) -> tuple[float, float]:
    outer = float(norm.sf(np.sqrt(n / (n - 1)) * t.ppf((1 + LEVEL) / 2, n - 1)))
    return outer, 1 - outer


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if np.isfinite(value) else None
