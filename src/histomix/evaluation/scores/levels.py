"""How well heads tell slides apart by their mean composition, beside how well they tell places within one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...common.metrics import Array, slide_means, spearman, spread_kept
from .bootstrap import interval_of, resample_weights
from .scoring import SLIDE_METRICS

#: Metrics over the means of all tested slides of a protocol.
ACROSS_METRICS = ("slide_spearman", "spread_kept")
#: Slides from which their order and spread are told.
MIN_SLIDES = 3
#: Part of the largest square below which a sum of squares is rounding.
_ROUNDING = 1e-12
BETWEEN, WITHIN, NEITHER = "between slides", "within a slide only", "neither"


def slide_errors(
    observed: Array,
    predicted: Array,
    constant: Array,
    section: NDArray[np.str_],
    donor: NDArray[np.str_],
    cell_types: Sequence[str],
) -> pd.DataFrame:
    """Absolute error of each slide's mean, and of a constant in its place: rows as `score` gives them.

    Parameters
    ----------
    observed, predicted
        Abundance, ``(n_spots, n_types)``.
    constant
        The training mean in the place of predictions, ``(n_spots, n_types)``.
    section, donor
        Of each spot, ``(n_spots,)``.
    cell_types
        Names of the columns.
    """
    parts = []
    for name in dict.fromkeys(section.tolist()):
        rows = section == name
        truth = observed[rows].mean(axis=0)
        errors = (np.abs(values[rows].mean(axis=0) - truth) for values in (predicted, constant))
        for metric, values in zip(SLIDE_METRICS, errors, strict=True):
            facts = {"donor": str(donor[rows][0]), "section": name, "cell_type": list(cell_types)}
            parts.append(pd.DataFrame({**facts, "metric": metric, "value": values, "n_spots": int(rows.sum())}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def across_slides(
    observed: Array,
    predicted: Array,
    section: NDArray[np.str_],
    donor: NDArray[np.str_],
    cell_types: Sequence[str],
    seed: int,
) -> dict[str, dict[str, Any]]:
    """Order and spread of the slides' means: an entry of the scores for each of `ACROSS_METRICS`.

    Rows that are NaN (no truth, or not tested) are left out. Intervals draw donors, then their slides; those of the
    order use the ranks among all slides. With fewer than `MIN_SLIDES` slides nothing is told.
    """
    known = np.isfinite(observed).all(axis=1) & np.isfinite(predicted).all(axis=1)
    names, truth = slide_means(observed[known], section[known])
    if len(names) < MIN_SLIDES:
        return {}
    answer = slide_means(predicted[known], section[known])[1]
    owners = dict(zip(section.tolist(), donor.tolist(), strict=True))
    groups = pd.factorize(np.array([owners[name] for name in names]))[0].astype(np.intp)
    weights = resample_weights(groups, seed)
    true_ranks, ranks = (pd.DataFrame(values).rank().to_numpy() for values in (truth, answer))
    entries = {}
    for metric, values, drawn in (
        ("slide_spearman", spearman(truth, answer), _correlations(true_ranks, ranks, weights)),
        ("spread_kept", spread_kept(truth, answer), _spreads(truth, answer, weights)),
    ):
        finite = np.isfinite(values)
        entries[metric] = {
            **interval_of(float(_mean(values)), _mean(drawn[:, finite], axis=1), groups),
            "n_types": int(finite.sum()),
            "n_sections": len(names),
            "n_donors": len(np.unique(groups)),
            "types": {
                str(name): {**interval_of(float(value), draws, groups), "n_units": len(names)}
                for name, value, draws in zip(cell_types, values, drawn.T, strict=True)
            },
        }
    return entries


def across_rows(entries: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """`across_slides` as rows of the long table, over all tested slides."""
    rows = [
        {"fold": "all", "donor": "", "section": "", "cell_type": name, "metric": metric, "value": one["mean"]}
        for metric, entry in entries.items()
        for name, one in entry["types"].items()
    ]
    return pd.DataFrame(rows).astype({"value": np.float64}) if rows else pd.DataFrame()


def good_for(scores: Mapping[str, Any], *, donors_unseen: bool) -> dict[str, str]:
    """What each cell type's predictions are good for, from the scores of one head.

    Slides are told apart only where several donors were tested and none was in training (``donors_unseen``): the levels
    of donors that a head knows say nothing of the next one's.

    *between slides*: the error of slide means is below the constant's (the interval of the paired difference, donors
    drawn, lies below 0). *within a slide only*: it is not, but the correlation within slides is above 0 (its interval
    is). *neither*: neither, or it could not be told.
    """
    levels, places = scores["slide_mae"].get("minus_constant", {}), scores["pearson"]["types"]
    words = {}
    for name, place in places.items():
        above = (levels.get(name) or {}).get("high")
        if donors_unseen and above is not None and above < 0:
            words[name] = BETWEEN
        else:
            words[name] = WITHIN if (place.get("low") or 0.0) > 0 else NEITHER
    return words


def _mean(values: Array, axis: int = 0) -> Array:
    """Mean of what is finite; NaN where nothing is."""
    finite = np.isfinite(values)
    total, count = np.where(finite, values, 0.0).sum(axis=axis), finite.sum(axis=axis)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _correlations(truth: Array, answer: Array, weights: Array) -> Array:
    """Of each draw and type; NaN where the draw's slides have one level, 0 where the answer has."""
    a, b = _centred(truth, weights), _centred(answer, weights)
    above = np.einsum("ws,wst->wt", weights, a * b)
    below = _squares(a, weights) * _squares(b, weights)
    correlation = np.divide(above, np.sqrt(below), out=np.zeros_like(above), where=below > 0)
    return np.asarray(np.where(_squares(a, weights) > 0, correlation, np.nan))


def _spreads(truth: Array, answer: Array, weights: Array) -> Array:
    """Of each draw and type: how much of the slides' spread the answer keeps; NaN where they have none."""
    above, below = (_squares(_centred(values, weights), weights) for values in (answer, truth))
    return np.sqrt(np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0))


def _centred(values: Array, weights: Array) -> Array:
    """Values less each draw's weighted mean, (draws, slides, types)."""
    total = weights.sum(axis=1)[:, None]
    return np.asarray(values[None] - ((weights @ values) / total)[:, None])


def _squares(centred: Array, weights: Array) -> Array:
    """Weighted sums of squares of each draw, (draws, types); what rounding leaves of one level is 0."""
    sums = np.einsum("ws,wst->wt", weights, np.square(centred))
    return np.asarray(np.where(sums > _ROUNDING * np.square(centred).max(axis=(0, 1)), sums, 0.0))
