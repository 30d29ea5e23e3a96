"""One protocol from folds to scores; several, side by side, show what leakage adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..common.metrics import Array
from ..errors import InputError
from ..heads import TrainingSet
from ..heads.trust.levels import across_slides, good_for
from ..progress import tell
from .baselines import NUCLEI, ORACLE, nuclei_of_rows, nuclei_predictions, section_mean
from .data import EvaluationData
from .fit_folds import LABEL, MEAN, Fits, fit_folds
from .folds import HONESTY, Fold, check_protocol
from .scores.bootstrap import describe_folds, summarise
from .scores.coverage import IntervalScores
from .scores.levels import across_rows, slide_errors
from .scores.scoring import score

COLUMNS = ["head", "protocol", "fold", "donor", "section", "cell_type", "metric", "value", "target", "n_spots"]
#: Metrics whose inflation is told.
INFLATED = ("pearson", "pearson_pooled", "pearson_within")


@dataclass
class Scored:
    """What one protocol gave."""

    protocol: str
    folds: list[Fold]
    fits: Fits
    metrics: pd.DataFrame
    described: list[dict[str, Any]]
    scores: dict[str, Any]
    calibration: dict[str, Any]


def chosen_protocols(folds: str | Sequence[str] | None, transfer: bool) -> list[str]:
    """Names of the protocols asked for, the most honest first.

    Raises
    ------
    InputError
        One is unknown or stands twice; or two cohorts were given with folds of one, or the reverse.
    """
    asked = [folds] if isinstance(folds, str) else list(folds or [])
    names = [one.strip() for name in asked for one in name.split(",")] or ["transfer" if transfer else "donor"]
    for name in names:
        check_protocol(name)
        if names.count(name) > 1:
            raise InputError(f"the folds {name!r} stand twice", hint="Name each once")
        if (name == "transfer") != transfer:
            if transfer:
                hint = "Leave the folds out, or leave out the test cohort"
                raise InputError(f"a second cohort is tested whole, not in {name} folds", hint=hint)
            raise InputError("folds called 'transfer' need a second cohort", hint="Give the cohort to test on as well")
    return sorted(names, key=HONESTY.index)


def run_protocol(
    protocol: str,
    folds: list[Fold],
    gathered: EvaluationData,
    estimators: Mapping[str, Any],
    counts: Mapping[str, pd.Series],
    truth: Array | None,
    step: Callable[[], None],
    seed: int,
) -> Scored:
    """Fit and score every head and baseline in the folds of one protocol."""
    training = gathered.training
    intervals = IntervalScores(training, protocol)
    fits = fit_folds(estimators, training, folds, step, Fits(intervals=intervals))
    observed = np.asarray(training.Y, dtype=np.float64)
    beside = references(training, folds, counts, seed)
    scored = {"label": (observed, {**fits.predicted, **beside})}
    if truth is not None:
        scored["truth"] = (truth, {**fits.predicted, **beside, LABEL: observed})
    metrics = pd.concat([score_folds(protocol, folds, training, scored), *intervals.rows()], ignore_index=True)
    described = describe_folds(folds, training)
    scores = summarise(metrics, described, seed)
    unseen = len({name for fold in described for name in fold["donors"]}) > 1
    unseen &= not any(fold["test_donors_in_training"] for fold in described)
    across = _across(training, scored, scores, seed, donors_unseen=unseen)
    if len(across):
        metrics = pd.concat([metrics, across.assign(protocol=protocol)[COLUMNS]], ignore_index=True)
    return Scored(protocol, folds, fits, metrics, described, scores, intervals.summary())


def references(
    training: TrainingSet, folds: list[Fold], counts: Mapping[str, pd.Series], seed: int
) -> dict[str, Array]:
    """Predictions of the baselines that are no heads: from nuclei, where they could be counted, and section means."""
    tables = {}
    nuclei = nuclei_of_rows(training, counts)
    if all(np.isfinite(nuclei[fold.train]).any() for fold in folds):
        tables[NUCLEI] = nuclei_predictions(training, folds, nuclei, seed)
    return {**tables, ORACLE: section_mean(training, folds)}


def score_folds(
    protocol: str, folds: list[Fold], training: TrainingSet, scored: Mapping[str, tuple[Array, dict[str, Array]]]
) -> pd.DataFrame:
    """Score every head in every fold; rows without an observed value (a spot without truth) are left out.

    What is predicted holds the baseline of the training mean: the constant that errors of slide means are told beside.
    """
    parts = []
    for target, (observed, predicted) in scored.items():
        for done, (name, values) in enumerate(predicted.items(), start=1):
            tell(f"scores against {target} (heads)", done - 1, len(predicted))
            for fold in folds:
                rows = fold.test[np.isfinite(observed[fold.test]).all(axis=1)]
                section, donor = training.section[rows], training.donor[rows]
                types = [str(name) for name in training.cell_types]
                part = score(
                    observed[rows], values[rows], section=section, donor=donor, cell_types=types, unit=training.unit
                )
                constant = predicted[MEAN][rows]
                levels = slide_errors(observed[rows], values[rows], constant, section, donor, types)
                part = pd.concat([part, levels], ignore_index=True)
                parts.append(part.assign(head=name, protocol=protocol, fold=fold.name, target=target))
            tell(f"scores against {target} (heads)", done, len(predicted))
    table = pd.concat([part for part in parts if len(part)], ignore_index=True)
    return table[COLUMNS].astype({"value": np.float64, "n_spots": np.int64})


def _across(
    training: TrainingSet,
    scored: Mapping[str, tuple[Array, dict[str, Array]]],
    scores: dict[str, Any],
    seed: int,
    *,
    donors_unseen: bool,
) -> pd.DataFrame:
    """Add order and spread of the slides' means, and what each type is good for, to the scores; returns their rows."""
    section, donor = np.asarray(training.section, dtype=str), np.asarray(training.donor, dtype=str)
    types, parts = [str(name) for name in training.cell_types], [pd.DataFrame()]
    for target, (observed, predicted) in scored.items():
        for head, values in predicted.items():
            entries = across_slides(observed, values, section, donor, types, seed)
            scores[target][head] |= entries
            scores[target][head]["good_for"] = good_for(scores[target][head], donors_unseen=donors_unseen)
            tested = int(np.isfinite(values).all(axis=1).sum())
            parts.append(across_rows(entries).assign(head=head, target=target, n_spots=tested))
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def inflation(results: Sequence[Scored]) -> list[dict[str, Any]]:
    """Mean scores of every head under every protocol: ``protocol, head, metric, mean, low, high``."""
    return [
        {
            "protocol": one.protocol,
            "head": head,
            "metric": metric,
            **{k: entry[metric][k] for k in ("mean", "low", "high")},
        }
        for one in results
        for head, entry in one.scores["label"].items()
        for metric in INFLATED
    ]


def absent_types(described: Sequence[Mapping[str, Any]]) -> list[str]:
    """Remarks on cell types that a fold's test rows have and its training rows have not."""
    lost: dict[str, int] = {}
    for one in described:
        for name in one["types_not_in_training"]:
            lost[name] = lost.get(name, 0) + 1
    return [
        f"{name} is absent from the training donors in {count} of {len(described)} folds that test it: no head "
        "can tell it there"
        for name, count in lost.items()
    ]
