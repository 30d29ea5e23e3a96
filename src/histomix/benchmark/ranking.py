"""Encoders and heads in order, with what can be said of their differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..common.resampling import mean_and_interval, resample_weights
from ..evaluation.baselines import ORACLE
from ..evaluation.result import Evaluation
from .slide_means import slide_columns

#: The score that ranks.
METRIC = "pearson"
#: Scores that stand beside it.
BESIDE = ("pearson_within", "pearson_pooled", "spearman", "rmse", "js_composition")


def rank(cells: Sequence[tuple[str, str, Evaluation]], seed: int) -> pd.DataFrame:
    """Rank every encoder and head by mean Pearson, per cohort, protocol and target.

    Parameters
    ----------
    cells
        Cohort, encoder and evaluation; those of one cohort and protocol are over the same spots and folds.
    seed
        Of the bootstrap: donors, then sections of each drawn donor, as in an evaluation.

    Returns
    -------
    DataFrame
        ``cohort, protocol, target, rank, encoder, head``; ``pearson`` with ``low`` and ``high``; ``minus_best`` with
        ``minus_best_low`` and ``minus_best_high``, the paired difference to the first of the table over the same
        sections; ``level_with_best``: that interval holds 0, so the order of the two is not known; other scores, and
        those of slides' means with their intervals (`histomix.benchmark.slide_means.slide_columns`); how many
        ``n_types``, ``n_sections`` and ``n_donors`` the means run over; seconds of fitting and predicting over all
        folds. A head that reads no features (the training mean, say) stands once, with an empty encoder.
    """
    rows: list[dict[str, Any]] = []
    groups: dict[tuple[str, str], list[tuple[str, Evaluation]]] = {}
    for cohort, encoder, evaluation in cells:
        groups.setdefault((cohort, evaluation.summary["protocol"]), []).append((encoder, evaluation))
    for (cohort, protocol), members in groups.items():
        for target in members[0][1].summary["scores"]:
            rows += [
                {"cohort": cohort, "protocol": protocol, "target": target, **row}
                for row in _rank(members, target, seed)
            ]
    return pd.DataFrame(rows)


def _rank(members: Sequence[tuple[str, Evaluation]], target: str, seed: int) -> list[dict[str, Any]]:
    units: dict[tuple[str, str], pd.Series] = {}
    entries: dict[tuple[str, str], tuple[Evaluation, str]] = {}
    for encoder, evaluation in members:
        table = evaluation.metrics
        table = table[(table["target"] == target) & (table["metric"] == METRIC)]
        # Mean over folds first (a section may be in several random folds), then over cell types.
        means = table.groupby(["head", "donor", "section", "cell_type"])["value"].mean().groupby(level=[0, 1, 2]).mean()
        for head in evaluation.summary["scores"][target]:
            if head == ORACLE:  # knows the answer
                continue
            key = ("" if _reads_nothing(head, members, target) else encoder, head)
            units.setdefault(key, means[head])
            entries.setdefault(key, (evaluation, head))
    scores = pd.DataFrame(units)
    donors = pd.factorize(scores.index.get_level_values("donor"))[0].astype(np.intp)
    weights = resample_weights(donors, seed)

    def interval(values: np.ndarray) -> tuple[float, float]:
        estimate = mean_and_interval(values, weights, donors)
        return tuple(np.nan if estimate[edge] is None else estimate[edge] for edge in ("low", "high"))  # type: ignore[return-value]

    order = sorted(units, key=lambda key: (-np.nan_to_num(scores[key].mean(), nan=-np.inf), key))
    best, rows = scores[order[0]].to_numpy(float), []
    for place, key in enumerate(order, start=1):
        evaluation, head = entries[key]
        summary = evaluation.summary["scores"][target][head]
        values = scores[key].to_numpy(float)
        low, high = interval(values)
        gap_low, gap_high = (0.0, 0.0) if place == 1 else interval(values - best)
        cost = evaluation.summary["cost"].get(head, {})
        rows.append(
            {
                "rank": place,
                "encoder": key[0],
                "head": head,
                METRIC: float(np.nanmean(values)) if np.isfinite(values).any() else np.nan,
                "low": low,
                "high": high,
                "minus_best": float(np.nanmean(values - best)) if np.isfinite(values - best).any() else np.nan,
                "minus_best_low": gap_low,
                "minus_best_high": gap_high,
                "level_with_best": bool(gap_high >= 0) if np.isfinite(gap_high) else None,
                **{metric: summary[metric]["mean"] for metric in BESIDE if metric in summary},
                **slide_columns(summary),
                **{name: summary[METRIC][name] for name in ("n_types", "n_sections", "n_donors")},
                "fit_seconds": cost.get("fit_seconds"),
                "predict_seconds": cost.get("predict_seconds"),
            }
        )
    return rows


def _reads_nothing(head: str, members: Sequence[tuple[str, Evaluation]], target: str) -> bool:
    """Whether a head predicts the same from every encoder's features, and so does not depend on them."""
    if len(members) == 1:
        return head == "mean" or head not in members[0][1].predictions
    tables = [evaluation.predictions.get(head, evaluation.labels) for _, evaluation in members]
    return all(
        all(table[section].equals(tables[0][section]) for section in table) and set(table) == set(tables[0])
        for table in tables[1:]
    )
