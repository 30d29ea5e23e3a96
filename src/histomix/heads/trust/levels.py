"""How well a head tells slides apart by their mean composition, beside how well it tells places within one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from ...common.metrics import Array, pearson_by_section, slide_means, spearman, spread_kept
from ...common.resampling import interval_of, mean_and_interval, resample_weights
from ...common.units import CELLS, RELATIVE
from ...common.words import BETWEEN, NEITHER, WITHIN
from ..dataset import TrainingSet
from ..inner_folds import MIN_DONORS, held_out_kind
from .intervals import LEVEL
from .quantiles import group_quantile
from .shrinkage import held_out_constant, held_out_slides, level_slopes, shrunk_by_others

#: Metrics over the means of all tested slides.
ACROSS_METRICS = ("slide_spearman", "spread_kept")
#: What a card has of slides' means that are drawn to the training mean.
SHRUNK = ("training_mean", "slope", "shrunk_mae", "shrunk_error")
#: Slides from which their order and spread are told.
MIN_SLIDES = 3
#: Part of the largest square below which a sum of squares is rounding.
_ROUNDING = 1e-12


def held_out_levels(
    training: TrainingSet, held_out: Array, level: float = LEVEL, seed: int = 0
) -> dict[str, Any] | None:
    """What a card says of the means of slides, from predictions of the training rows by fits without their group.

    Parameters
    ----------
    training
        The training rows.
    held_out
        What `held_out_predictions` gave, ``(n, n_types)``; NaN where a row was never held out.
    level
        Share of held-out slides whose error ``slide_error`` is to hold.
    seed
        Of the bootstrap.

    Returns
    -------
    dict or None
        ``protocol``, ``donors_unseen``, ``n_donors``, ``n_sections``, ``level`` and ``by_type``: of each cell type
        ``good_for``, ``slide_mae``, ``slide_mae_constant`` (the training mean of the same fit in its place),
        ``slide_spearman``, ``spread_kept`` and ``slide_error`` (half the width around a slide's mean that holds the
        level of a next donor's slides; donors weigh equally and the next one is taken to be as bad as the worst).
        From `MIN_DONORS` donors on also ``training_mean`` and ``slope``, by which the mean of a slide is drawn to it
        (`level_slopes`), ``shrunk_mae`` and ``shrunk_error``: what ``slide_mae`` and ``slide_error`` are of means drawn
        by slopes that the other donors found. Of heads that count cells also ``totals``, see `held_out_totals`. None
        where no section was held out.
    """
    kind = held_out_kind(training.section, training.donor)
    known = np.isfinite(held_out).all(axis=1)
    if kind == "strip" or not known.any():
        return None
    slides = held_out_slides(training, held_out)
    observed, predicted, section = training.Y[known], held_out[known], training.section[known]
    error, without = np.abs(slides.answer - slides.truth), np.abs(slides.constant - slides.truth)
    group, n_donors = slides.donor, slides.n_donors
    weights = resample_weights(group, seed)
    types = [str(name) for name in training.cell_types]
    places = pearson_by_section(observed, predicted, section)
    words = good_for(
        {
            "slide_mae": {"minus_constant": _by_type(error - without, types, weights, group)},
            "pearson": {"types": _by_type(places, types, weights, group)},
        },
        donors_unseen=kind == "donor" and n_donors > 1,
    )
    across = across_slides(observed, predicted, section, training.donor[known], types, seed)
    halves: list[float | None] = [None] * len(types)
    shrunk: list[dict[str, float | None]] = [{} for _ in types]
    if kind == "donor" and n_donors >= MIN_DONORS:
        halves = _half_widths(error, group, level)
        left = np.abs(shrunk_by_others(slides) - slides.truth)
        columns = (training.Y.mean(axis=0), level_slopes(slides), left.mean(axis=0))
        facts = (*(map(_rounded, column) for column in columns), _half_widths(left, group, level))
        shrunk = [dict(zip(SHRUNK, of_type, strict=True)) for of_type in zip(*facts, strict=True)]
    totals = {}
    if training.unit == CELLS:
        constant = held_out_constant(training)[known]
        totals = {"totals": held_out_totals(observed, predicted, constant, training.donor[known])}
    return {
        **totals,
        "protocol": f"held-out {kind}",
        "donors_unseen": kind == "donor",
        "n_donors": n_donors,
        "n_sections": len(slides.truth),
        "level": level,
        "by_type": {
            name: {
                "good_for": words[name],
                "slide_mae": _rounded(error[:, column].mean()),
                "slide_mae_constant": _rounded(without[:, column].mean()),
                **{
                    metric: _rounded(across[metric]["types"][name]["mean"]) if metric in across else None
                    for metric in ACROSS_METRICS
                },
                "slide_error": halves[column],
                **shrunk[column],
            }
            for column, name in enumerate(types)
        },
    }


def held_out_totals(
    observed: Array, predicted: Array, constant: Array, donor: NDArray[np.str_]
) -> dict[str, float | bool | None]:
    """How well the number of cells in a spot is told where nobody had seen the slide; donors weigh equally.

    Parameters
    ----------
    observed, predicted, constant
        Cells per spot of held-out rows, ``(n, n_types)``: labels, predictions, and the training mean in their place.
    donor
        Of each row.

    Returns
    -------
    dict
        ``rmse`` and ``rmse_constant`` of the totals, in cells; ``least`` and ``most``, a donor's mean predicted total
        over its observed one; ``told``: whether the error is at most the training mean's.
    """
    errors, ratios = [], []
    for name in np.unique(donor):
        mine = donor == name
        truth, answer, mean = (values[mine].sum(axis=1) for values in (observed, predicted, constant))
        errors.append([np.mean(np.square(one - truth)) for one in (answer, mean)])
        if truth.mean() > 0:
            ratios.append(float(answer.mean() / truth.mean()))
    rmse, without = (float(one) for one in np.sqrt(np.mean(errors, axis=0)))
    return {
        "rmse": _rounded(rmse),
        "rmse_constant": _rounded(without),
        "least": _rounded(min(ratios, default=None)),
        "most": _rounded(max(ratios, default=None)),
        "told": bool(rmse <= without),
    }


def answered_unit(unit: str, levels: Mapping[str, Any] | None) -> tuple[str, str]:
    """The unit that a head answers in, and the sentence that says why it is not that of its labels, or "".

    A head that counts cells, and tells the totals of donors that it has not seen worse than the training mean does,
    answers in relative abundance. Fewer than `MIN_DONORS` donors do not show that: the unit stays.

    Parameters
    ----------
    unit
        Of the labels.
    levels
        What `held_out_levels` found.
    """
    totals = (levels or {}).get("totals")
    if unit != CELLS or levels is None or not totals or totals["told"]:
        return unit, ""
    if not levels["donors_unseen"] or levels["n_donors"] < MIN_DONORS:
        return unit, ""
    return RELATIVE, (
        f"The labels are {CELLS}, but of donors that it had not seen the head told the cells in a spot with an error "
        f"of {totals['rmse']:.3g}, and the training mean with {totals['rmse_constant']:.3g} ({levels['n_donors']} "
        f"donors held out in turn): so it answers in {RELATIVE}, whose totals are no numbers of cells."
    )


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
    groups = np.unique([owners[name] for name in names.tolist()], return_inverse=True)[1]
    weights = resample_weights(groups, seed)
    true_ranks, ranks = (rankdata(values, axis=0) for values in (truth, answer))
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


def _half_widths(error: Array, group: NDArray[np.intp], level: float) -> list[float | None]:
    """Half-width of each type that holds the level of a next donor's slides."""
    n_groups = int(group.max()) + 1
    return [_rounded(group_quantile(values, group, n_groups, level)[0]) for values in error.T]


def _by_type(
    values: Array, types: Sequence[str], weights: Array, group: NDArray[np.intp]
) -> dict[str, dict[str, float | None]]:
    """Mean and interval over slides of each column."""
    return {name: mean_and_interval(column, weights, group) for name, column in zip(types, values.T, strict=True)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 5)
