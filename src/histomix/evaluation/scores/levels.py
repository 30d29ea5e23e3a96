"""How well heads tell slides apart by their mean composition, as rows of the table of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...common.metrics import Array
from .scoring import SLIDE_METRICS


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


def across_rows(entries: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """`heads.trust.levels.across_slides` as rows of the long table, over all tested slides."""
    rows = [
        {"fold": "all", "donor": "", "section": "", "cell_type": name, "metric": metric, "value": one["mean"]}
        for metric, entry in entries.items()
        for name, one in entry["types"].items()
    ]
    return pd.DataFrame(rows).astype({"value": np.float64}) if rows else pd.DataFrame()
