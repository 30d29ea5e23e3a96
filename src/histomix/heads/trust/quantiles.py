"""Quantiles of scores that hold for a new group: whole groups weigh equally, and the worst counts twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Scores at which a cell type's distributions are compared, at most; what lies between is rounded up.
_GRID = 4096
#: A group counts in a stratum where so many of its rows are.
_LEAST_ROWS = 10


def group_quantile(score: np.ndarray, group: np.ndarray, n_groups: int, level: float) -> tuple[float, np.ndarray]:
    """The score that holds a share of a new group's, and each group's coverage by the others' score, ``(n_groups,)``.

    Groups weigh equally, and the new one is taken to be as bad as the worst of them; see `calibrate` in `intervals`.

    Parameters
    ----------
    score
        Of each row, ``(n,)``.
    group
        Of each row, coded from 0, ``(n,)``.
    n_groups
        Number of groups.
    level
        The share.
    """
    return group_quantiles(score, group, n_groups, (level,))[0]


def group_quantiles(
    score: np.ndarray, group: np.ndarray, n_groups: int, levels: Sequence[float]
) -> list[tuple[float, np.ndarray]]:
    """What `group_quantile` gives at each of some levels, with all that they share done once."""
    ordered = np.sort(score)
    if len(ordered) > _GRID:
        ordered = ordered[np.unique(np.linspace(0, len(ordered) - 1, _GRID).round().astype(int))]
    by_group = np.split(score[np.argsort(group, kind="stable")], np.cumsum(np.bincount(group, minlength=n_groups))[:-1])
    below = np.stack([np.searchsorted(np.sort(own), ordered, side="right") / len(own) for own in by_group])
    # What is left of sum and least without one group.
    total, worst = below.sum(axis=0), below.argmin(axis=0)
    least, next_least = np.partition(below, 1, axis=0)[:2]
    found, coverage = [], np.empty((len(levels), n_groups))
    for one in range(n_groups):
        others = total - below[one] + np.where(worst == one, next_least, least)
        for number, level in enumerate(levels):
            coverage[number, one] = below[one, _first(others, n_groups, level)]
    for number, level in enumerate(levels):
        found.append((float(ordered[_first(total + least, n_groups + 1, level)]), coverage[number]))
    return found


def stratum_edges(values: np.ndarray, row_weight: np.ndarray, strata: int) -> np.ndarray:
    """Greatest prediction of every stratum but the last, each with an equal share of the weight, by type.

    Parameters
    ----------
    values
        Predictions, ``(n, n_types)``.
    row_weight
        Of each row, ``(n,)``; the sum is 1.
    strata
        Their number.

    Returns
    -------
    ``(strata - 1, n_types)``
    """
    order = np.argsort(values, axis=0, kind="stable")
    below = np.cumsum(row_weight[order], axis=0)
    edges = np.empty((strata - 1, values.shape[1]))
    for number in range(1, strata):
        place = (below < number / strata - 1e-12).sum(axis=0, keepdims=True)
        edges[number - 1] = np.take_along_axis(values, np.take_along_axis(order, place, axis=0), axis=0)
    return edges


def by_stratum(
    score: np.ndarray,
    stratum: np.ndarray,
    strata: int,
    group: np.ndarray,
    n_groups: int,
    levels: Sequence[float],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What `group_quantiles` gives of each stratum, and of all rows where fewer than two groups have enough in it.

    Parameters
    ----------
    score, group
        Of each row, as `group_quantiles` takes them.
    stratum
        Of each row, coded from 0, ``(n,)``.
    strata, n_groups
        Number of strata and of groups.
    levels
        The shares.

    Returns
    -------
    For each level the score of each stratum, ``(strata,)``, and each group's coverage by the others' scores,
    ``(n_groups,)``.
    """
    together = group_quantiles(score, group, n_groups, levels)
    multiplier = np.repeat([[of_level[0]] for of_level in together], strata, axis=1)
    inside = np.zeros((len(levels), n_groups))
    counts = np.bincount(group, minlength=n_groups)
    for number in range(strata):
        rows = stratum == number
        here = np.bincount(group[rows], minlength=n_groups)
        whole = np.flatnonzero(here >= _LEAST_ROWS)
        covered = np.stack([of_level[1] for of_level in together])
        if len(whole) > 1:
            rows &= here[group] >= _LEAST_ROWS
            found = group_quantiles(score[rows], np.searchsorted(whole, group[rows]), len(whole), levels)
            multiplier[:, number] = [of_level[0] for of_level in found]
            covered[:, whole] = [of_level[1] for of_level in found]
        inside += here * covered
    return list(zip(multiplier, inside / counts, strict=True))


def _first(below: np.ndarray, count: int, level: float) -> int:
    """First score at which groups, and one more as bad as the worst of them (``count`` in all), have the level."""
    return int(np.argmax(below / count >= level - 1e-12))  # the last one is 1
