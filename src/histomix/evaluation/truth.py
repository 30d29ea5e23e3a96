"""Known abundances beside the labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from ..abundance import Abundance
from ..errors import LabelError
from ..heads import TrainingSet
from .metrics import Array

_log = logging.getLogger(__name__)


def truth_rows(truth: Mapping[str, Abundance], training: TrainingSet) -> tuple[Array, list[str]]:
    """Truth of each row in the unit of the labels (NaN where there is none), with remarks on what it lacks."""
    types = [str(name) for name in training.cell_types]
    section, keys = np.asarray(training.section, dtype=str), np.asarray(training.keys).astype(str)
    known = np.full((len(section), len(types)), np.nan)
    empty = 0
    for name in dict.fromkeys(section.tolist()):
        if name not in truth:
            continue
        abundance, where = truth[name], f"truth of section {name}"
        values = abundance.values
        if set(values.columns) != set(types):
            odd = sorted(set(values.columns) ^ set(types))
            raise LabelError(f"truth and labels do not have the same cell types ({', '.join(odd)})", where=where)
        if abundance.unit != training.unit and training.unit != "proportion":
            raise LabelError(
                f"is in {abundance.unit}, but the labels are in {training.unit}",
                where=where,
                mend="Proportions follow from cells per spot, never the reverse: give the truth in cells per spot",
            )
        spots = keys[section == name]
        if abundance.unit != training.unit:
            values = values[values.sum(axis=1) > 0]
            values = values.div(values.sum(axis=1), axis=0)
            empty += int(np.isin(spots, abundance.values.index).sum() - np.isin(spots, values.index).sum())
        known[section == name] = values[types].reindex(spots).to_numpy()
    missing = int(np.isnan(known).any(axis=1).sum())
    if missing == len(known):
        raise LabelError("the truth covers none of the labelled spots", mend="Check its section names and spot keys")
    notes = []
    if missing:
        why = f", {empty} of them because they hold no cells" if empty else ""
        notes.append(f"{missing} of {len(known)} spots have no truth{why}; scores against the truth leave them out")
        _log.warning("%s", notes[0])
    return known, notes
