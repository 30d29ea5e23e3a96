"""Fit heads on some donors, score them on the others."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..abundance import Abundance
from ..errors import HeadError, InputError
from ..heads import CompositionRegressor, TrainingSet, assemble, inner_groups, make_estimator
from ..progress import Progress, silent
from ..provenance import versions
from .ceiling import CEILING, LABELS, ceiling_rows, summarise_ceiling
from .coupling import coupled_labels, coupling_notes
from .folds import PROTOCOLS, Fold, make_folds
from .metrics import RULES, Array
from .result import Evaluation, check_folder
from .scoring import score
from .summary import REFERENCE, describe_folds, interval_words, small_sections, summarise
from .truth import truth_rows

if TYPE_CHECKING:
    from anndata import AnnData

    from ..spots import Cohort

#: Heads that stand beside every other.
BASELINES = ("mean", REFERENCE)
#: The labels themselves, scored against the truth: the bar that a head trained on them may approach.
LABEL = "label"


def evaluate(
    cohort: Cohort,
    features: Mapping[str, AnnData] | Sequence[Mapping[str, AnnData]],
    labels: Mapping[str, Abundance],
    heads: Sequence[str] | Mapping[str, Any] = ("mean", "ridge", "mlp"),
    folds: str = "donor",
    truth: Mapping[str, Abundance] | None = None,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: Progress = silent,
    *,
    n_folds: int | None = None,
) -> Evaluation:
    """Score heads on spots that they were not trained on.

    Every head is fitted anew in each fold, on that fold's training rows alone; all it chooses for itself, it chooses on
    inner splits of those by donor (by section where one donor is left).

    Parameters
    ----------
    cohort, features, labels
        As for `histomix.heads.assemble`. The ``reliability`` of labels becomes the metric ``"ceiling"``; their
        ``provenance["fitted_with"]`` tells which test labels were fitted together with training donors.
    heads
        Names of heads, or names with unfitted scikit-learn estimators whose ``fit`` takes ``groups``. The mean and
        ridge are always added.
    folds
        ``"donor"``, ``"section"`` (optimistic) or ``"random"`` (leaky); see `PROTOCOLS`.
    truth
        Known abundances by section, in the unit of the labels or in cells per spot. Every head is scored against them
        as well, and so are the labels (as the head ``"label"``): the bar to approach.
    out
        Folder to write, see `Evaluation.save`.
    seed
        Seed of heads, folds and bootstrap: the same seed gives the same numbers.
    progress
        Told of each head in each fold.
    n_folds
        How many folds (see `make_folds`).

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        The cohort cannot make the folds (with one donor ``folds="section"`` is left, which is optimistic), or ``out``
        holds other files.
    HeadError
        A head is unknown, cannot be fitted in a fold, or predicts values that are not finite.
    LabelError
        The truth has other cell types than the labels, covers no spot, or is in proportions while labels count cells.
    """
    if out is not None:
        check_folder(out)
    training = assemble(cohort, features, labels)
    section, donor = np.asarray(training.section, dtype=str), np.asarray(training.donor, dtype=str)
    splits = make_folds(section, donor, folds, n_folds, seed)
    prototypes = _prototypes(heads, training.unit, seed)
    known, notes = (None, []) if truth is None else truth_rows(truth, training)

    observed = np.asarray(training.Y, dtype=np.float64)
    predicted = {name: np.full(observed.shape, np.nan) for name in prototypes}
    cost = {name: {"fit_seconds": 0.0, "predict_seconds": 0.0} for name in prototypes}
    progress("evaluate", 0, len(splits) * len(prototypes))
    for index, fold in enumerate(splits):
        for number, (name, prototype) in enumerate(prototypes.items(), start=1):
            predicted[name][fold.test] = _predict(name, prototype, training, fold, cost[name])
            progress("evaluate", index * len(prototypes) + number, len(splits) * len(prototypes))

    metrics = _metrics(folds, splits, training, {"label": (observed, predicted)})
    if known is not None:
        against = {"truth": (known, {**predicted, LABEL: observed})}
        metrics = pd.concat([metrics, _metrics(folds, splits, training, against)], ignore_index=True)
    described = describe_folds(splits, section, donor)
    scores = summarise(metrics, described, seed)
    rows = ceiling_rows(labels, training, splits, folds)
    metrics = pd.concat([metrics, rows], ignore_index=True) if len(rows) else metrics
    sections, donors = list(dict.fromkeys(section.tolist())), np.unique(donor).tolist()
    positions = _positions(features if isinstance(features, Mapping) else features[0], sections, section, training.keys)

    def tables(values: Array) -> dict[str, pd.DataFrame]:
        types = [str(name) for name in training.cell_types]
        frames = {name: pd.DataFrame(values[section == name], positions[name].index, types) for name in sections}
        return {name: frame.dropna() for name, frame in frames.items() if frame.notna().to_numpy().any()}

    truths = {} if known is None else tables(known)
    ceiling, ceiling_notes = summarise_ceiling(rows, len(sections))
    coupled = coupled_labels(labels, training, splits)
    summary = {
        "protocol": folds,
        "protocol_means": PROTOCOLS[folds],
        "folds": described,
        "heads": list(prototypes),
        "unit": training.unit,
        "cell_types": [str(name) for name in training.cell_types],
        "sections": sections,
        "donors": donors,
        "n_sections": len(sections),
        "n_donors": len(donors),
        "n_spots": len(observed),
        "truth": {"sections": list(truths), "n_spots": sum(map(len, truths.values()))} if truths else None,
        "dropped": training.dropped,
        "features": training.features,
        "seed": seed,
        "rules": RULES,
        "interval": interval_words(len(donors), len(sections)),
        "notes": [*coupling_notes(coupled), *ceiling_notes, *notes, *small_sections(section)],
        CEILING: ceiling,
        "coupled_labels": coupled,
        "scores": scores,
        "versions": versions("numpy", "scipy", "scikit-learn", "torch"),
        "cost": cost,
    }
    predictions = {name: tables(values) for name, values in predicted.items()}
    result = Evaluation(metrics, predictions, summary, tables(observed), truths, positions)
    if out is not None:
        result.save(out)
    return result


def _positions(
    features: Mapping[str, AnnData], sections: list[str], section: NDArray[np.str_], keys: ArrayLike
) -> dict[str, pd.DataFrame]:
    """Level-0 position of every spot, by section."""
    spots = np.asarray(keys).astype(str)
    tables = {name: features[name].obs.loc[spots[section == name], ["x_px", "y_px"]] for name in sections}
    return {name: table.astype(np.float64).rename_axis("spot") for name, table in tables.items()}


def _prototypes(heads: Sequence[str] | Mapping[str, Any], unit: str, seed: int) -> dict[str, Any]:
    """Unfitted estimators by name, the baselines first."""
    given = dict(heads) if isinstance(heads, Mapping) else dict.fromkeys([heads] if isinstance(heads, str) else heads)
    for name in given:
        # The name becomes a folder.
        if name in (LABEL, LABELS, "", "..") or Path(name).name != name:
            raise InputError(f"a head cannot be called {name!r}", mend="Choose another name")
    names = dict.fromkeys([*BASELINES, *given])
    return {name: make_estimator(name, unit, seed) if given.get(name) is None else given[name] for name in names}


def _predict(name: str, prototype: Any, training: TrainingSet, fold: Fold, cost: dict[str, float]) -> Array:
    """Fit on the training rows of a fold and predict its test rows."""
    from sklearn.base import clone

    rows = fold.train
    groups = inner_groups(training.section[rows], training.donor[rows], training.xy_um[rows])
    # Estimators of other libraries do not know of places.
    known = isinstance(prototype, CompositionRegressor)
    here, there = ({"places": training.places[part]} if known else {} for part in (rows, fold.test))
    start = time.perf_counter()
    try:
        estimator = clone(prototype).fit(training.X[rows], training.Y[rows], groups=groups, **here)
        fitted = time.perf_counter()
        values = np.asarray(estimator.predict(training.X[fold.test], **there), dtype=np.float64)
    except HeadError as error:
        raise HeadError(error.what, where=f"head {name}, fold {fold.name}", mend=error.mend) from error
    cost["fit_seconds"] += fitted - start
    cost["predict_seconds"] += time.perf_counter() - fitted
    expected = (len(fold.test), len(training.cell_types))
    if values.shape != expected or not np.isfinite(values).all():
        what = f"the prediction has shape {values.shape}, not {expected}"
        if values.shape == expected:
            bad = int((~np.isfinite(values)).any(axis=1).sum())
            what = f"{bad} of {len(values)} predicted spots are not finite"
        raise HeadError(what, where=f"head {name}, fold {fold.name}", mend="Check the head; nothing was scored")
    return values


def _metrics(
    protocol: str, folds: list[Fold], training: TrainingSet, scored: dict[str, tuple[Array, dict[str, Array]]]
) -> pd.DataFrame:
    """Score every head in every fold; rows without an observed value (a spot without truth) are left out."""
    parts = []
    for target, (observed, predicted) in scored.items():
        for name, values in predicted.items():
            for fold in folds:
                rows = fold.test[np.isfinite(observed[fold.test]).all(axis=1)]
                part = score(
                    observed[rows],
                    values[rows],
                    section=training.section[rows],
                    donor=training.donor[rows],
                    cell_types=training.cell_types,
                    unit=training.unit,
                )
                parts.append(part.assign(head=name, protocol=protocol, fold=fold.name, target=target))
    table = pd.concat([part for part in parts if len(part)], ignore_index=True)
    columns = ["head", "protocol", "fold", "donor", "section", "cell_type", "metric", "value", "target", "n_spots"]
    return table[columns].astype({"value": np.float64, "n_spots": np.int64})
