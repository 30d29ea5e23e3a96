"""Scores of predictions as a long table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ...common.metrics import auroc, centre_within, is_present, js_distance, mae, pearson, rmse, spearman
from ...errors import InputError

#: Metrics with one value per section.
SECTION_METRICS = ("pearson", "spearman", "rmse", "mae", "auroc_present", "js_composition")
#: Metrics of a section's mean, with one value per section; the second is the error of the training mean in its place.
SLIDE_METRICS = ("slide_mae", "slide_mae_constant")
#: The error of a section's mean that is drawn to the training mean, of heads that tell how far (from three donors).
SHRUNK_METRIC = "slide_mae_shrunk"
#: Metrics with one value per fold.
FOLD_METRICS = ("pearson_pooled", "pearson_within")
#: Metrics of the intervals of a calibrated head, with one value per section.
INTERVAL_METRICS = ("coverage", "width")

_COLUMNS = ["donor", "section", "cell_type", "metric", "value", "n_spots"]


def score(
    observed: ArrayLike,
    predicted: ArrayLike,
    *,
    section: ArrayLike,
    donor: ArrayLike,
    cell_types: Sequence[str],
    unit: str,
) -> pd.DataFrame:
    """Score the predictions of one fold (`RULES` has the conventions).

    Parameters
    ----------
    observed, predicted
        Abundance, shape (n_spots, n_types), in ``unit``.
    section, donor
        Section and donor of each spot, shape (n_spots,).
    cell_types
        Names of the columns.
    unit
        ``"proportion"`` or ``"cells per spot"``.

    Returns
    -------
    DataFrame
        Columns donor, section, cell_type, metric, value, n_spots. ``section`` is empty for values over the whole fold
        (and ``donor`` too if it has several), ``cell_type`` for js_composition. A value that is undefined is NaN.

    Raises
    ------
    InputError
        The shapes do not agree, or a value is not finite.
    """
    y, p = np.asarray(observed, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    sections, donors = np.asarray(section, dtype=str), np.asarray(donor, dtype=str)
    if y.shape != p.shape or y.shape != (len(sections), len(cell_types)) or sections.shape != donors.shape:
        raise InputError(
            f"observed {y.shape}, predicted {p.shape}, {len(sections)} sections, {len(donors)} donors and "
            f"{len(cell_types)} cell types do not agree",
            hint="Give one row per spot and one column per cell type",
        )
    for what, values in (("observed", y), ("predicted", p)):
        bad = int((~np.isfinite(values)).any(axis=1).sum())
        if bad:
            raise InputError(
                f"{bad:,} of {len(y):,} spots have {what} values that are not finite", hint="Mend or drop them"
            )
    types = [str(name) for name in cell_types]
    parts: list[pd.DataFrame] = []

    def add(metric: str, values: ArrayLike, donor_name: str, section_name: str, n_spots: int) -> None:
        columns = (donor_name, section_name, types if metric != "js_composition" else [""], metric, values, n_spots)
        parts.append(pd.DataFrame(dict(zip(_COLUMNS, columns, strict=True))))

    for name in dict.fromkeys(sections):
        rows = sections == name
        a, b, owner, count = y[rows], p[rows], str(donors[rows][0]), int(rows.sum())
        add("pearson", pearson(a, b), owner, name, count)
        add("spearman", spearman(a, b), owner, name, count)
        add("rmse", rmse(a, b), owner, name, count)
        add("mae", mae(a, b), owner, name, count)
        add("auroc_present", auroc(is_present(a, unit), b), owner, name, count)
        distance = js_distance(a, b)
        measured = distance[np.isfinite(distance)]
        add("js_composition", [measured.mean() if len(measured) else np.nan], owner, name, len(measured))
    if len(y):
        owners = np.unique(donors)
        owner = str(owners[0]) if len(owners) == 1 else ""
        add("pearson_pooled", pearson(y, p), owner, "", len(y))
        add("pearson_within", pearson(centre_within(y, sections), centre_within(p, sections)), owner, "", len(y))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=_COLUMNS)
