"""Metrics on arrays of spots x cell types, all types at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr
from scipy.stats import rankdata

from ..errors import InputError

Array = NDArray[np.float64]

#: Correlations over fewer spots than this are undefined (two spots always correlate perfectly).
MIN_SPOTS = 3
#: A column counts as constant when its range is below this share of its largest absolute value (rounding only).
CONSTANT = 1e-9

#: The conventions behind the numbers, written into every summary.
RULES = {
    "constant_prediction": "a prediction that is constant over the spots scores 0 in every correlation (0.5 in "
    "auroc_present)",
    "constant_label": "where the observed values of a type are constant over the spots (the type is absent, say) the "
    "correlations are undefined: the value is empty and left out of means, and n_types says how many types a mean runs "
    "over",
    "few_spots": f"correlations over fewer than {MIN_SPOTS} spots are undefined",
    "presence": "auroc_present: a type is present in a spot when its proportion is > 0.05, or its cells per spot are "
    ">= 0.5; undefined where a type is present in all spots or in none",
    "composition": "js_composition: Jensen-Shannon distance, base 2 (0 = equal, 1 = nothing in common), of each spot's "
    "composition, negative predictions taken as 0; a prediction without any cells scores 1; spots without any observed "
    "cells are left out",
    "ceiling": "reliability of the labels (head labels, target label): per cell type, the correlation over the spots "
    "of a section of two labels made from independent counts of the same depth; a perfect prediction of what the "
    "labels would be without that noise correlates with them by the square root of the reliability, which so bounds "
    "pearson (chance may pass it on few spots); only the noise of counting is seen: where the reference is wrong, "
    "labels agree with themselves and are wrong; empty where the label is constant, absent (unknown) where labels "
    "carry no reliability; no bound for scores against the truth",
    "slides": "slide_mae: the absolute error of the mean over a section's test spots; slide_mae_constant: that of the "
    "training mean in its place; slide_mae_shrunk: that of the mean drawn to the training mean, by slopes from inner "
    "held-out donors; slide_spearman: order of the tested sections by their means; spread_kept: standard "
    "deviation of the predicted means over that of the observed ones (1 = all of it); the last two over all tested "
    "sections of a protocol, their intervals draw donors",
    "level": "pearson, spearman, rmse, mae, auroc_present: per cell type over the test spots of one section in one "
    "fold; pearson_pooled: over all test spots of a fold; pearson_within: the same after centring observed and "
    "predicted values per section; js_composition: mean over the test spots of one section in one fold",
}


def is_present(values: Array, unit: str) -> NDArray[np.bool_]:
    """Whether a type stands in a spot: more than 0.05 of what is there, or at least half a cell per spot.

    Parameters
    ----------
    values
        Spots x cell types.
    """
    if unit == "proportion":
        return values > 0.05
    if unit == "relative abundance":
        present: NDArray[np.bool_] = values > 0.05 * values.sum(axis=1, keepdims=True)
        return present
    if unit == "cells per spot":
        return values >= 0.5
    raise InputError(f"there is no unit {unit!r}", hint="Use 'proportion', 'cells per spot' or 'relative abundance'")


def pearson(observed: Array, predicted: Array) -> Array:
    """Pearson correlation of each column, shape (n_types,).

    NaN where the observed column is constant or there are fewer than `MIN_SPOTS` rows; else 0 where the predicted
    column is constant.
    """
    if len(observed) < MIN_SPOTS:
        return np.full(observed.shape[1], np.nan)
    a, b = unit_deviations(observed), unit_deviations(predicted)
    varies = a.any(axis=0)
    return np.where(varies, np.clip((a * b).sum(axis=0), -1.0, 1.0), np.nan)


def pearson_by_section(observed: Array, predicted: Array, section: NDArray[np.str_]) -> Array:
    """`pearson` in each section, over the rows whose prediction is whole, shape (n_sections, n_types).

    Sections are in the order of their names; one without any such row is left out.
    """
    known = np.isfinite(predicted).all(axis=1)
    parts = [known & (section == name) for name in np.unique(section[known])]
    scores = [pearson(observed[rows], predicted[rows]) for rows in parts]
    return np.stack(scores) if scores else np.empty((0, observed.shape[1]))


def within_sections(observed: Array, predicted: Array, section: NDArray[np.str_]) -> float:
    """`pearson_by_section`, mean over types and then over sections; 0 where no section has any."""
    scores = [
        row[np.isfinite(row)].mean()
        for row in pearson_by_section(observed, predicted, section)
        if np.isfinite(row).any()
    ]
    return float(np.mean(scores)) if scores else 0.0


def spearman(observed: Array, predicted: Array) -> Array:
    """Spearman correlation of each column (ties share their mean rank), with the rules of `pearson`."""
    return pearson(_ranks(observed), _ranks(predicted))


def rmse(observed: Array, predicted: Array) -> Array:
    """Root mean squared error of each column."""
    error: Array = np.sqrt(np.mean((predicted - observed) ** 2, axis=0))
    return error


def mae(observed: Array, predicted: Array) -> Array:
    """Mean absolute error of each column."""
    error: Array = np.mean(np.abs(predicted - observed), axis=0)
    return error


def auroc(present: NDArray[np.bool_], predicted: Array) -> Array:
    """Area under the ROC curve of each column, from the Mann-Whitney statistic (ties count half).

    NaN where a column of ``present`` is all true or all false.
    """
    n_present = present.sum(axis=0).astype(np.float64)
    pairs = n_present * (len(present) - n_present)
    wins = np.where(present, _ranks(predicted), 0.0).sum(axis=0) - n_present * (n_present + 1) / 2
    area: Array = np.divide(wins, pairs, out=np.full(present.shape[1], np.nan), where=pairs > 0)
    return area


def js_distance(observed: Array, predicted: Array) -> Array:
    """Jensen-Shannon distance (base 2) of each row's composition, shape (n_spots,).

    Negative predictions are taken as 0. NaN where the observed row sums to 0; else 1 where the predicted row does.
    """
    p, q = (np.clip(values, 0.0, None) for values in (observed, predicted))
    p_total, q_total = p.sum(axis=1), q.sum(axis=1)
    p = p / np.where(p_total > 0, p_total, 1.0)[:, None]
    q = q / np.where(q_total > 0, q_total, 1.0)[:, None]
    middle = (p + q) / 2
    divergence = (rel_entr(p, middle) + rel_entr(q, middle)).sum(axis=1) / (2 * np.log(2))
    # Equal rows may come out a rounding error below zero.
    distance = np.sqrt(np.clip(divergence, 0.0, 1.0))
    return np.where(p_total > 0, np.where(q_total > 0, distance, 1.0), np.nan)


def centre_within(values: Array, section: NDArray[np.str_]) -> Array:
    """Subtract each section's mean from its rows; a column that is constant in a section becomes exactly 0 there."""
    centred = np.empty_like(values)
    for name in np.unique(section):
        rows = section == name
        centred[rows] = _deviations(values[rows])
    return centred


def slide_means(values: Array, section: NDArray[np.str_]) -> tuple[NDArray[np.str_], Array]:
    """Names of the sections, in their order, and the mean of each one's rows, shape (n_sections, n_types)."""
    names, code, counts = np.unique(section, return_inverse=True, return_counts=True)
    total = np.zeros((len(names), values.shape[1]))
    np.add.at(total, code, values)
    return names, total / counts[:, None]


def spread_kept(observed: Array, predicted: Array) -> Array:
    """Standard deviation of each predicted column over that of the observed one; NaN where that is constant."""
    below = np.where(_is_constant(observed), np.nan, observed.std(axis=0))
    return np.asarray(predicted.std(axis=0) / below)


def _is_constant(values: Array) -> NDArray[np.bool_]:
    constant: NDArray[np.bool_] = np.ptp(values, axis=0) <= CONSTANT * np.abs(values).max(axis=0)
    return constant


def _deviations(values: Array) -> Array:
    return np.where(_is_constant(values), 0.0, values - values.mean(axis=0))


def unit_deviations(values: Array) -> Array:
    """Deviations from the mean as columns of length 1; constant columns are all 0."""
    deviations = _deviations(values)
    largest = np.abs(deviations).max(axis=0)
    # Scaled first, so that squares of very small or large values neither vanish nor overflow.
    deviations = deviations / np.where(largest > 0, largest, 1.0)
    length = np.sqrt((deviations**2).sum(axis=0))
    return deviations / np.where(length > 0, length, 1.0)


def _ranks(values: Array) -> Array:
    ranks: Array = rankdata(np.where(_is_constant(values), 0.0, values), axis=0)
    return ranks
