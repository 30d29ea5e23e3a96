"""Tables behind the charts of an evaluation, for the report and for `histomix.pl`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError
from ..evaluation import Evaluation

_DETECTABILITY = ("pearson", "low", "high", "p_adjusted", "ceiling", "share_of_ceiling", "detectable", "group")


def detectability_table(evaluation: Evaluation) -> pd.DataFrame | None:
    """``summary["detectability"]`` as a table with cell types as its index; None where it was not asked for.

    ``ceiling`` is the bound that the reliability of the labels sets to Pearson.
    """
    rows = evaluation.summary.get("detectability")
    if not rows:
        return None
    table = pd.DataFrame(rows).drop_duplicates("cell_type").set_index("cell_type")
    table = table.reindex(columns=list(_DETECTABILITY))
    numbers = [name for name in _DETECTABILITY if name not in ("detectable", "group")]
    table[numbers] = table[numbers].astype(float)
    table["detectable"] = table["detectable"].map(lambda value: bool(value) if value is not None else False)
    table["group"] = table["group"].map(lambda value: value if isinstance(value, str) else "")
    return table


def confusion_table(
    evaluation: Evaluation, head: str, target: str = "label", groups: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Count held-out spots by their most abundant type: rows as labelled (or true), columns as predicted.

    Parameters
    ----------
    evaluation
        An evaluation.
    head
        Whose predictions.
    target
        ``"label"`` or ``"truth"``.
    groups
        Cell type -> group; abundances of a group are summed first. A type without one is its own group.

    Raises
    ------
    InputError
        There is no such head, or there is no truth.
    """
    tables = evaluation.truth if target == "truth" else evaluation.labels
    if head not in evaluation.predictions or not tables:
        what = f"there is no head {head!r}" if tables else "the evaluation has no truth"
        raise InputError(what, hint=f"Choose from {', '.join(evaluation.predictions)}")
    types = [str(name) for name in evaluation.summary["cell_types"]]
    group_of = {name: (groups or {}).get(name) or name for name in types}
    names = list(dict.fromkeys(group_of.values()))
    counts = np.zeros((len(names), len(names)), dtype=int)
    for section, observed in tables.items():
        predicted = evaluation.predictions[head].get(section)
        if predicted is None:
            continue
        keys = observed.index.intersection(predicted.index)
        pair = [_summed(table.loc[keys], group_of, names) for table in (observed, predicted)]
        known = np.isfinite(pair[0]).all(axis=1) & np.isfinite(pair[1]).all(axis=1) & (pair[0].sum(axis=1) > 0)
        np.add.at(counts, (pair[0][known].argmax(axis=1), pair[1][known].argmax(axis=1)), 1)
    present = (counts.sum(axis=0) + counts.sum(axis=1)) > 0
    table: pd.DataFrame = pd.DataFrame(counts, index=names, columns=names).loc[present, present]
    return table


def _summed(table: pd.DataFrame, group_of: Mapping[str, str], names: list[str]) -> np.ndarray:
    positions = [names.index(group_of[str(name)]) for name in table.columns]
    member = np.zeros((len(positions), len(names)))
    member[np.arange(len(positions)), positions] = 1
    return table.to_numpy(float) @ member


def colocalisation_tables(
    evaluation: Evaluation, head: str, section: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, list[dict[str, Any]]] | None:
    """Mean co-localisation matrices of labels and prediction over sections (or of one), and the entries they come from.

    None where the evaluation has none for the head.
    """
    entries = (evaluation.summary.get("spatial") or {}).get("colocalisation") or []
    rows = [one for one in entries if one["head"] == head and section in (None, one["section"])]
    if not rows:
        return None
    types = [str(name) for name in rows[0]["cell_types"]]
    rows = [one for one in rows if [str(name) for name in one["cell_types"]] == types]
    means = []
    for name in ("label", "prediction"):
        known = np.ma.masked_invalid([np.array(one[name], dtype=float) for one in rows])
        means.append(pd.DataFrame(known.mean(axis=0).filled(np.nan), index=types, columns=types))
    label, predicted = means
    return label, predicted, rows


def composition_means(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Mean composition of each section or slide (rows) over its readable spots or tiles."""
    return pd.DataFrame({name: table.mean(axis=0, skipna=True) for name, table in tables.items()}).T


def percent(value: Any) -> str:
    """A fraction as a percentage, a dash where it is undefined."""
    return "–" if value is None or not math.isfinite(float(value)) else f"{float(value):.0%}"
