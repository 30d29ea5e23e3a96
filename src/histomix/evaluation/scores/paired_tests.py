"""Whether a difference is more than chance: sign-flip permutation over donors, corrected for many comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from ...common.metrics import Array
from ...common.resampling import mean_and_interval, resample_weights
from .bootstrap import units_by_head

#: A result below this is called a difference.
ALPHA = 0.05
#: Up to this many donors every pattern of signs is tried; above, `DRAWS` random ones.
EXACT_DONORS = 14
DRAWS = 9999
#: The score that heads are compared by.
TESTED = "pearson"
_BLOCK = 4096


def sign_flip(values: Array, groups: NDArray[np.intp], seed: int = 0) -> Array:
    """Two-sided p of each column: is the mean over units other than 0?

    Under the null hypothesis the sign of a whole donor is as likely to be the other, so the units of one donor are
    flipped together (Fisher 1935; Good 2005, Permutation Tests). Exact for up to `EXACT_DONORS` donors.

    Parameters
    ----------
    values
        Differences, ``(n_units, n_columns)``; NaN where a unit has none.
    groups
        Donor of each unit, coded from 0, ``(n_units,)``.
    seed
        Of the random patterns.

    Returns
    -------
    float64 ``(n_columns,)``; NaN for a column without any value.
    """
    finite = np.isfinite(values)
    sums = np.zeros((int(groups.max(initial=-1)) + 1, values.shape[1]))
    np.add.at(sums, groups, np.where(finite, values, 0.0))
    observed = np.abs(sums.sum(axis=0))
    # A pattern that gives the observed sum back must count as equal to it, whatever the order of summing.
    least = observed - 1e-9 * np.abs(sums).sum(axis=0)
    n = len(sums)
    if n <= EXACT_DONORS:
        # A pattern and its mirror image have the same absolute sum, so the first sign may stay.
        patterns = 1 - 2 * (np.arange(2 ** max(n - 1, 0))[:, None] >> np.arange(n)[None] & 1).astype(np.float64)
        p = _count(patterns, sums, least) / len(patterns)
    else:
        rng = np.random.default_rng(seed)
        p = (1 + _count(rng.choice([-1.0, 1.0], size=(DRAWS, n)), sums, least)) / (1 + DRAWS)
    return np.where(finite.any(axis=0), p, np.nan)


def _count(patterns: Array, sums: Array, least: Array) -> Array:
    """How many patterns give a sum at least as far from 0, by column."""
    blocks = range(0, len(patterns), _BLOCK)
    counts: Array = np.sum([(np.abs(patterns[at : at + _BLOCK] @ sums) >= least).sum(axis=0) for at in blocks], axis=0)
    return counts


def adjusted(p: Sequence[float] | Array) -> list[float | None]:
    """Benjamini-Hochberg adjusted p; None where there is none."""
    values = np.asarray([np.nan if one is None else one for one in p], dtype=np.float64)
    known = np.isfinite(values)
    result = np.full(len(values), np.nan)
    if known.any():
        result[known] = false_discovery_control(values[known])
    return [float(one) if np.isfinite(one) else None for one in result]


def paired_tests(metrics: pd.DataFrame, heads: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """Compare every pair of heads over the same donors.

    Parameters
    ----------
    metrics
        The long table of one protocol.
    heads
        Those to compare; a head that is not in the table is left out.
    seed
        Of the bootstrap and of random patterns of signs.

    Returns
    -------
    list
        One dict per target and pair: ``a, b, metric, target, n_donors, difference`` (mean over sections of a - b) with
        its interval ``low`` to ``high``, ``p`` (see `sign_flip`; None with one donor), ``p_adjusted`` over the pairs of
        a target, ``smallest_p`` that so many donors can give, ``types`` (difference, p and p adjusted over the cell
        types, by type) and a ``statement`` in words.
    """
    tests: list[dict[str, Any]] = []
    for target in dict.fromkeys(metrics["target"]):
        rows = metrics[(metrics["target"] == target) & (metrics["metric"] == TESTED)]
        values = units_by_head(rows, TESTED)
        pairs = [_pair(a, b, target, values, seed) for a, b in combinations([h for h in heads if h in values], 2)]
        for one, p in zip(pairs, adjusted([one["p"] for one in pairs]), strict=True):
            one["p_adjusted"] = p
            one["statement"] = statement(one)
        tests += pairs
    return tests


def _pair(a: str, b: str, target: str, values: dict[str, pd.DataFrame], seed: int) -> dict[str, Any]:
    gap = values[a] - values[b]
    means = gap.mean(axis=1)
    measured = means.notna().to_numpy()
    gap, means = gap[measured], means[measured]
    groups, donors = pd.factorize(gap.index.get_level_values("donor"))
    n = len(donors)
    entry = mean_and_interval(means.to_numpy(), resample_weights(groups, seed), groups)
    both = np.column_stack([means.to_numpy(), gap.to_numpy()])
    p = sign_flip(both, groups, seed) if n > 1 else np.full(both.shape[1], np.nan)
    return {
        "a": a,
        "b": b,
        "metric": TESTED,
        "target": target,
        "n_donors": n,
        "difference": entry["mean"],
        "low": entry["low"],
        "high": entry["high"],
        "p": float(p[0]) if np.isfinite(p[0]) else None,
        "smallest_p": smallest_p(n),
        "types": {
            str(name): {
                "difference": float(gap[name].mean()) if gap[name].notna().any() else None,
                "p": float(one) if np.isfinite(one) else None,
                "p_adjusted": corrected,
            }
            for name, one, corrected in zip(gap.columns, p[1:], adjusted(p[1:]), strict=True)
        },
    }


def smallest_p(n_donors: int) -> float | None:
    """The smallest two-sided p that so many donors can give; None with one, whose sections are not independent."""
    if n_donors < 2:
        return None
    return 2 / 2**n_donors if n_donors <= EXACT_DONORS else 1 / (1 + DRAWS)


def statement(test: dict[str, Any]) -> str:
    """One sentence on a paired test, which says so when donors are too few to tell."""
    words = difference_words(test)
    if test["difference"] is None:
        return words
    if test["p"] is None or test["smallest_p"] > ALPHA:
        return f"{words}; {too_few_words(test['n_donors'])}"
    verdict = "a difference" if test["p_adjusted"] < ALPHA else "no difference shown"
    return (
        f"{words}; p = {test['p']:.3g} over {test['n_donors']} donors, {test['p_adjusted']:.3g} corrected for the "
        f"pairs compared: {verdict}"
    )


def difference_words(test: dict[str, Any]) -> str:
    """The difference and its interval."""
    if test["difference"] is None:
        return f"{test['a']} and {test['b']} share no section that can be scored"
    words = f"{test['a']} - {test['b']}: {test['difference']:+.3f}"
    return words if test["low"] is None else f"{words} (95 % interval {test['low']:+.3f} to {test['high']:+.3f})"


def too_few_words(n_donors: int) -> str:
    """Why so few donors cannot tell a difference."""
    if n_donors < 2:
        return "one donor cannot tell: its sections are not independent, so there is no test"
    return (
        f"{n_donors} donors are too few to tell: the smallest two-sided p that they can give is "
        f"2/{2**n_donors} = {smallest_p(n_donors):.3g}"
    )
