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
    order = np.argsort(score)
    return _of_sorted(score[order], group[order], n_groups, levels)


def _of_sorted(
    score: np.ndarray, group: np.ndarray, n_groups: int, levels: Sequence[float], judged: bool = True
) -> list[tuple[float, np.ndarray]]:
    """`group_quantiles` of scores that ascend; coverages are 0 where nothing is to be ``judged``."""
    grid = score
    if len(score) > _GRID:
        grid = score[np.linspace(0, len(score) - 1, _GRID).round().astype(int)]
    # How many rows of each group lie at or below each score of the grid, all groups in one count.
    ends = np.searchsorted(score, grid, side="right")
    place = np.repeat(np.arange(len(grid)), np.diff(ends, prepend=0))
    counts = np.bincount(group * len(grid) + place, minlength=n_groups * len(grid)).reshape(n_groups, len(grid))
    below = counts.cumsum(axis=1) / np.bincount(group, minlength=n_groups)[:, None]
    # What is left of sum and least without one group.
    total, least = below.sum(axis=0), below.min(axis=0)
    whole = grid[_first(total + least, n_groups + 1, levels)]
    if not judged:
        return [(float(one), np.zeros(n_groups)) for one in whole]
    worst = below.argmin(axis=0)
    others, at = total - below, (worst, np.arange(len(grid)))
    below[at] = np.inf
    next_least = below.min(axis=0)
    below[at] = least
    others += least
    others[at] = total - least + next_least
    coverage = np.stack(
        [own[_first(rest, n_groups, levels)] for own, rest in zip(below, others, strict=True)],
        axis=1,
    )
    return [(float(one), covered) for one, covered in zip(whole, coverage, strict=True)]


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
    edges = np.empty((strata - 1, values.shape[1]))
    shares = np.arange(1, strata) / strata - 1e-12
    for column, of_type in enumerate(np.ascontiguousarray(values.T)):
        order = np.argsort(of_type)
        edges[:, column] = of_type[order[np.searchsorted(np.cumsum(row_weight[order]), shares)]]
    return edges


def by_stratum(
    score: np.ndarray,
    stratum: np.ndarray,
    strata: int,
    group: np.ndarray,
    n_groups: int,
    levels: Sequence[float],
    judged: bool = True,
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
    judged
        Whether groups are judged by the others' scores; else their coverages are 0.

    Returns
    -------
    For each level the score of each stratum, ``(strata,)``, and each group's coverage by the others' scores,
    ``(n_groups,)``.
    """
    # In ascending order once: what is taken of it ascends too.
    order = np.argsort(score)
    score, group, stratum = score[order], group[order], stratum[order]
    together = _of_sorted(score, group, n_groups, levels, judged)
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
            found = _of_sorted(score[rows], np.searchsorted(whole, group[rows]), len(whole), levels, judged)
            multiplier[:, number] = [of_level[0] for of_level in found]
            covered[:, whole] = [of_level[1] for of_level in found]
        inside += here * covered
    return list(zip(multiplier, inside / counts, strict=True))


def _first(below: np.ndarray, count: int, levels: Sequence[float]) -> np.ndarray:
    """First score at which groups, and one more as bad as the worst of them (``count`` in all), have each level."""
    return np.searchsorted(below / count, np.asarray(levels) - 1e-12)  # the last one is 1
