"""Means over cell types, sections and donors, with intervals from a grouped bootstrap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...common.metrics import Array
from ...common.resampling import DRAWS, LEVEL, mean_and_interval, resample_weights
from ...heads import TrainingSet
from ...progress import tell
from ..folds import Fold
from .scoring import FOLD_METRICS, INTERVAL_METRICS, SECTION_METRICS, SHRUNK_METRIC, SLIDE_METRICS

#: Fewer donors than this make an interval rough.
FEW_DONORS = 5
#: The head that others are compared with, pair by pair.
REFERENCE = "ridge"
#: Sections with fewer spots than this are named in the notes: their correlations are mostly noise.
FEW_SPOTS = 20


def summarise(metrics: pd.DataFrame, folds: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Average a table of scores.

    Parameters
    ----------
    metrics
        The long table of `Evaluation.metrics`.
    folds
        What `describe_folds` returned.
    seed
        Seed of the bootstrap.

    Returns
    -------
    dict
        ``{target: {head: {metric: entry}}}``. An entry has the ``mean`` over units (sections; folds for the metrics
        over a fold) of the mean over cell types, its interval ``low`` to ``high`` (None with a single unit),
        ``n_types``, ``n_sections``, ``n_donors``, ``types`` (mean, interval and n_units of each cell type),
        ``by_donor`` (mean and n_units of each donor; the interval is over its units) and, except for ridge,
        ``vs_ridge``: the paired difference with its interval. ``slide_mae`` has ``minus_constant`` besides: of each
        cell type, the difference to the error of the training mean, paired by section. Undefined values are left out
        of means and counted by the ``n_``.
    """
    members = {fold["name"]: fold["sections"] for fold in folds}
    scores: dict[str, Any] = {}
    for target in dict.fromkeys(metrics["target"]):
        on_target = metrics[metrics["target"] == target]
        donors = dict(zip(on_target["section"], on_target["donor"], strict=True))
        scores[target] = {head: {} for head in dict.fromkeys(on_target["head"])}
        of_all = (*SECTION_METRICS, *SLIDE_METRICS, SHRUNK_METRIC, *FOLD_METRICS, *INTERVAL_METRICS)
        for done, metric in enumerate(of_all, start=1):
            tell(f"means over {target} (metrics)", done, len(of_all))
            values = units_by_head(on_target[on_target["metric"] == metric], metric)
            if not values:
                continue
            groups = _groups(next(iter(values.values())).index)
            weights = resample_weights(groups, seed)
            held = members if metric in FOLD_METRICS else {name: [name] for name in donors}
            for head in values:
                entry = scores[target][head][metric] = _entry(values[head], weights, groups, held, donors)
                entry["by_donor"] = _by_donor(values[head].mean(axis=1), seed)
                if metric == "js_composition":
                    entry["n_types"] = int(on_target["cell_type"].replace("", np.nan).nunique())
                if metric == "slide_mae":
                    constant = units_by_head(on_target[on_target["metric"] == "slide_mae_constant"], metric)[head]
                    entry["minus_constant"] = {
                        str(name): mean_and_interval(column.to_numpy(), weights, groups)
                        for name, column in (values[head] - constant).items()
                    }
                if head != REFERENCE and REFERENCE in values:
                    difference = (values[head] - values[REFERENCE]).mean(axis=1).to_numpy()
                    entry["vs_" + REFERENCE] = mean_and_interval(difference, weights, groups)
    return scores


def describe_folds(folds: list[Fold], training: TrainingSet) -> list[dict[str, Any]]:
    """Name what each fold holds out, and count the test donors that its training rows know.

    ``types_not_in_training`` are the cell types that the test rows have and the training rows have not.
    """
    section, donor = np.asarray(training.section, dtype=str), np.asarray(training.donor, dtype=str)
    types = np.asarray(training.cell_types)
    return [
        {
            "name": fold.name,
            "donors": np.unique(donor[fold.test]).tolist(),
            "sections": np.unique(section[fold.test]).tolist(),
            "n_train": len(fold.train),
            "n_test": len(fold.test),
            "n_train_donors": len(np.unique(donor[fold.train])),
            "test_donors_in_training": len(np.intersect1d(donor[fold.test], donor[fold.train])),
            "types_not_in_training": types[
                training.Y[fold.test].any(axis=0) & ~training.Y[fold.train].any(axis=0)
            ].tolist(),
        }
        for fold in folds
    ]


def interval_words(n_donors: int, n_sections: int) -> dict[str, Any]:
    """What the intervals mean, and how far they can be trusted."""
    method = (
        f"percentile bootstrap, {DRAWS} draws: donors are drawn with replacement, then sections of each drawn donor; "
        "folds that hold out several donors are drawn as they are; percentiles widened for the number of donors by "
        "Student's t (Hesterberg 2015)"
    )
    caution = None
    if n_sections == 1:
        caution = "there is one section: a mean over sections has no interval"
    elif n_donors == 1:
        caution = "there is one donor: its sections are drawn, so the interval says nothing about other donors"
    elif n_donors < FEW_DONORS:
        caution = f"the interval is rough: there are only {n_donors} donors"
    return {"level": LEVEL, "method": method, "caution": caution}


def small_sections(section: NDArray[np.str_]) -> list[str]:
    """Remarks on sections whose correlations rest on very few spots."""
    names, counts = np.unique(section, return_counts=True)
    return [
        f"section {name} has {count} spots: its correlations are mostly noise, and weigh as much as any other section's"
        for name, count in zip(names, counts, strict=True)
        if count < FEW_SPOTS
    ]


def units_by_head(rows: pd.DataFrame, metric: str) -> dict[str, pd.DataFrame]:
    """Units (donor; section or fold) x cell types of each head; random folds of one section are averaged first."""
    units = rows.assign(unit=rows["fold"] if metric in FOLD_METRICS else rows["section"])
    means = units.groupby(["head", "donor", "unit", "cell_type"])["value"].mean()
    return {str(head): means[head].unstack() for head in means.index.unique("head")}


def _groups(units: pd.MultiIndex | pd.Index) -> NDArray[np.intp]:
    """Code the donor of each unit; a fold over several donors has none, and is a group of its own."""
    names = [(donor, "" if donor else unit) for donor, unit in units]
    return pd.factorize(pd.MultiIndex.from_tuples(names, names=["donor", "unit"]))[0].astype(np.intp)


def _entry(
    values: pd.DataFrame,
    weights: Array,
    groups: NDArray[np.intp],
    held: dict[str, list[str]],
    donors: dict[str, str],
) -> dict[str, Any]:
    """Summarise units x cell types; ``held`` names the sections of each unit, ``donors`` the donor of each section."""
    means = values.mean(axis=1)
    sections = {name for _, unit in values.index[means.notna()] for name in held[unit] if name in donors}
    finite = values.notna()
    return {
        **mean_and_interval(means.to_numpy(), weights, groups),
        "n_types": int(finite.any().sum()),
        "n_sections": len(sections),
        "n_donors": len({donors[name] for name in sections}),
        "types": {
            str(name): {
                **mean_and_interval(column.to_numpy(), weights, groups),
                "n_units": int(column.notna().sum()),
            }
            for name, column in values.items()
            if name
        },
    }


def _by_donor(means: pd.Series, seed: int) -> dict[str, dict[str, Any]]:
    """Mean of each donor over its units; an interval, where it has several, draws those units."""
    entries: dict[str, dict[str, Any]] = {}
    for donor, part in means.groupby(level="donor", sort=False):
        if donor:  # a fold over several donors has none
            alone = np.zeros(len(part), dtype=np.intp)
            weights = resample_weights(alone, seed)
            entries[str(donor)] = {
                **mean_and_interval(part.to_numpy(), weights, alone),
                "n_units": int(part.notna().sum()),
            }
    return entries
