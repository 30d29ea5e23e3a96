"""The ceiling that the noise of the labels sets to scores against them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ...abundance import Abundance
from ...common.words import counted
from ...heads import TrainingSet
from ..folds import Fold

#: What stands in the column ``head`` of the rows of the ceiling.
LABELS = "labels"
CEILING = "ceiling"


def ceiling_rows(
    labels: Mapping[str, Abundance], training: TrainingSet, folds: list[Fold], protocol: str
) -> pd.DataFrame:
    """Rows of metric ``ceiling``: the reliability of the labels per section and cell type, where labels carry one.

    ``fold`` is that which tests the section, and empty where several do.
    """
    section, donor = np.asarray(training.section, dtype=str), np.asarray(training.donor, dtype=str)
    tested = {fold.name: set(section[fold.test].tolist()) for fold in folds}
    parts = []
    for name in dict.fromkeys(section.tolist()):
        reliability = labels[name].reliability
        if reliability is None:
            continue
        rows = section == name
        by = [fold for fold, names in tested.items() if name in names]
        if not by:
            continue
        parts.append(
            pd.DataFrame(
                {
                    "head": LABELS,
                    "protocol": protocol,
                    "fold": by[0] if len(by) == 1 else "",
                    "donor": donor[rows][0],
                    "section": name,
                    "cell_type": training.cell_types,
                    "metric": CEILING,
                    "value": reliability[training.cell_types].to_numpy(np.float64),
                    "target": "label",
                    "n_spots": int(rows.sum()),
                }
            )
        )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def summarise_ceiling(rows: pd.DataFrame, n_sections: int) -> tuple[dict[str, Any] | None, list[str]]:
    """Mean reliability over sections of the mean over cell types, the bound it sets, and remarks.

    None where no label carries a reliability. ``bound`` is the mean of the square roots: what a perfect predictor's
    mean Pearson correlation could be.
    """
    values = rows.pivot(index="section", columns="cell_type", values="value") if len(rows) else pd.DataFrame()
    values = values.dropna(how="all")
    if values.empty:
        return None, []
    roots = np.sqrt(values.clip(lower=0))
    counted = values.notna().sum()
    ceiling = {
        "mean": float(values.mean(axis=1).mean()),
        "bound": float(roots.mean(axis=1).mean()),
        "n_types": int((counted > 0).sum()),
        "n_sections": len(values),
        "types": {
            name: {
                "mean": float(values[name].mean()) if counted[name] else None,
                "bound": float(roots[name].mean()) if counted[name] else None,
                "n_units": int(counted[name]),
            }
            for name in dict.fromkeys(rows["cell_type"].tolist())
        },
    }
    if len(values) == n_sections:
        return ceiling, []
    return ceiling, [
        f"the ceiling is that of {len(values)} of {n_sections} sections: other labels carry no reliability"
    ]


def shares_of_ceiling(metrics: pd.DataFrame, rows: pd.DataFrame) -> dict[str, float]:
    """Mean Pearson of each head as a share of the mean bound, over the same sections and cell types."""
    scores = metrics[(metrics["metric"] == "pearson") & (metrics["target"] == "label")]
    means = scores.groupby(["head", "section", "cell_type"], sort=False)["value"].mean()
    bounds = np.sqrt(rows.set_index(["section", "cell_type"])["value"].clip(lower=0))
    shares = {}
    for head in means.index.unique("head"):
        both = pd.concat([means[head], bounds.rename("bound")], axis=1).dropna()
        if both["bound"].sum() > 0:
            shares[str(head)] = float(both["value"].sum() / both["bound"].sum())
    return shares


def ceiling_words(ceiling: Mapping[str, Any] | None) -> str:
    """One sentence on the ceiling."""
    if ceiling is None:
        return "ceiling unknown: the labels carry no reliability"
    return (
        f"ceiling: mean reliability of the labels {ceiling['mean']:.3f} ({counted(ceiling['n_types'], 'type')}, "
        f"{counted(ceiling['n_sections'], 'section')}), so even a perfect prediction has a mean Pearson of "
        f"{ceiling['bound']:.3f} at most"
    )
