"""What one more donor brings: a learning curve over donors, of each cell type, with its interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..common.metrics import Array, pearson_by_section
from ..common.resampling import mean_and_interval, resample_weights
from ..errors import InputError
from ..evaluation.fit_folds import Fits, fit_and_predict
from ..evaluation.folds import Fold
from ..heads import TrainingSet

#: With fewer there is nothing to fit a curve to: three held-out donors with one and two donors in training each.
MIN_DONORS = 4
#: Numbers of donors in training that are tried, at most, and orders in which the others join each held-out donor.
_SIZES, _ORDERS = 6, 2
MEAN = "mean over cell types"
RULE = (
    "Pearson correlation per section of donors that were held out from heads trained on one other donor, on two and so "
    "on; the curve is score = a - b / donors, fitted for each held-out donor; means and intervals are over held-out "
    "donors, of which the training sets overlap, so that intervals are somewhat too narrow"
)


@dataclass(frozen=True)
class DonorCurve:
    """Scores by number of donors in training, and what one more brings.

    Attributes
    ----------
    points
        cell_type, n_donors, mean, low, high.
    gains
        One row a cell type, and one of their mean: cell_type, n_donors (now), score (of the curve, at as many), gain of
        one more donor with low and high, and gain of doubling them.
    """

    points: pd.DataFrame
    gains: pd.DataFrame


def require_donors(donors: NDArray[Any]) -> list[str]:
    """Names of the donors, where they are enough to tell anything.

    Raises
    ------
    InputError
        They are fewer than four.
    """
    names = [str(name) for name in np.unique(donors)]
    if len(names) < MIN_DONORS:
        raise InputError(
            f"what one more donor brings cannot be told from {len(names)}: a curve over donors holds each one out and "
            f"trains on the others, and with fewer than {MIN_DONORS} it has two points at most and no interval",
            hint=f"Plan again with {MIN_DONORS} donors; until then take the donor that is least like those you have",
        )
    return names


def curve_sizes(n_donors: int) -> list[int]:
    """Numbers of donors in training that are tried: one, two, and so on to all but the held-out one."""
    if n_donors - 1 <= _SIZES:
        return list(range(1, n_donors))
    return [int(size) for size in np.unique(np.round(np.geomspace(1, n_donors - 1, _SIZES)).astype(int))]


def donor_curve(
    training: TrainingSet, estimator: Any, seed: int = 0, step: Callable[[], None] = lambda: None
) -> DonorCurve:
    """Score heads trained on one donor, two and so on, on donors that were held out.

    Parameters
    ----------
    training
        Spots of four donors or more.
    estimator
        An unfitted head.
    seed
        Of the order in which donors join, and of the bootstrap.
    step
        Called after each fit.

    Raises
    ------
    InputError
        There are fewer than four donors.
    """
    donors = require_donors(training.donor)
    sizes, rng = curve_sizes(len(donors)), np.random.default_rng(seed)
    scores = np.full((len(donors), len(sizes), len(training.cell_types)), np.nan)
    for place, held in enumerate(donors):
        found: list[list[Array]] = [[] for _ in sizes]
        for _ in range(_ORDERS):
            others = rng.permutation([name for name in donors if name != held]).tolist()
            for number, size in enumerate(sizes):
                found[number].append(_score(training, estimator, others[:size], held))
                step()
        scores[place] = [np.nanmean(np.stack(one), axis=0) if one else np.nan for one in found]
    return _summary(scores, np.asarray(sizes), [str(name) for name in training.cell_types], seed)


def n_fits(n_donors: int) -> int:
    """How many fits `donor_curve` makes."""
    return n_donors * len(curve_sizes(n_donors)) * _ORDERS


def _score(training: TrainingSet, estimator: Any, members: list[str], held: str) -> Array:
    rows = np.flatnonzero(np.isin(training.donor, members))
    test = np.flatnonzero(training.donor == held)
    fold = Fold(f"{held}, {len(members)} donors", rows, test)
    fits = Fits(cost={"head": {"fit_seconds": 0.0, "predict_seconds": 0.0}})
    values = fit_and_predict("head", estimator, training.seen_from(rows), fold, fits)
    table = pearson_by_section(np.asarray(training.Y[test], dtype=np.float64), values, training.section[test])
    seen = np.isfinite(table)
    sums = np.where(seen, table, 0.0).sum(axis=0)
    return np.where(seen.any(axis=0), sums / np.maximum(seen.sum(axis=0), 1), np.nan)


def _summary(scores: Array, sizes: NDArray[np.int_], types: list[str], seed: int) -> DonorCurve:
    n_donors = len(scores)
    groups = np.arange(n_donors).astype(np.intp)
    weights = resample_weights(groups, seed)
    with_mean = np.concatenate([scores, _mean(scores)[:, :, None]], axis=2)
    points, gains = [], []
    for column, name in enumerate([*types, MEAN]):
        table = with_mean[:, :, column]
        for number, size in enumerate(sizes.tolist()):
            values = table[:, number]
            if np.isfinite(values).any():
                points.append({"cell_type": name, "n_donors": size, **mean_and_interval(values, weights, groups)})
        level, slope = _fits(table, sizes)
        more, double = 1 / n_donors - 1 / (n_donors + 1), 1 / n_donors - 1 / (2 * n_donors)
        gain = mean_and_interval(slope * more, weights, groups)
        gains.append(
            {
                "cell_type": name,
                "n_donors": n_donors,
                "score": mean_and_interval(level - slope / n_donors, weights, groups)["mean"],
                "gain": gain["mean"],
                "low": gain["low"],
                "high": gain["high"],
                "gain_of_doubling": mean_and_interval(slope * double, weights, groups)["mean"],
            }
        )
    return DonorCurve(pd.DataFrame(points), pd.DataFrame(gains))


def _mean(scores: Array) -> Array:
    seen = np.isfinite(scores)
    return np.where(seen.any(axis=2), np.where(seen, scores, 0.0).sum(axis=2) / np.maximum(seen.sum(axis=2), 1), np.nan)


def _fits(table: Array, sizes: NDArray[np.int_]) -> tuple[Array, Array]:
    """Level and slope of ``level - slope / donors`` of each held-out donor; NaN where a point is missing."""
    design = np.column_stack([np.ones(len(sizes)), -1.0 / sizes])
    found = np.full((len(table), 2), np.nan)
    for place, values in enumerate(table):
        seen = np.isfinite(values)
        if seen.sum() >= 2:
            found[place] = np.linalg.lstsq(design[seen], values[seen], rcond=None)[0]
    return found[:, 0], found[:, 1]
