"""Labels that need no deconvolution: tables that the sheet names, and cells of a known type counted in each spot."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..errors import HistomixError, LabelError
from ..progress import Progress, told
from ..provenance import versions
from ..spots import CELLS, RELATIVE, cells_to_labels
from .abundance import Abundance, check_unit, join_spots
from .run import refuse_failures
from .tables import common_unit, read_abundance, read_labels, write_labels
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from ..spots import Cohort

#: Methods without a reference.
READY = ("table", "cells")

_log = logging.getLogger(__name__)


def label_ready(
    method: str,
    cohort: Cohort,
    out: str | os.PathLike[str] | None,
    unit: str | None,
    seed: int,
    progress: Progress,
    vocabulary: Vocabulary | None,
) -> dict[str, Abundance]:
    """Labels by one of `READY`, in the unit asked for (None: their own), and stored in ``out``."""
    labels = (cohort_labels if method == "table" else cell_labels)(cohort, vocabulary)
    if unit is not None and check_unit(unit) == "proportion":
        labels = {name: table.proportions() for name, table in labels.items()}
    elif unit == RELATIVE:
        # Cells may be read as amounts without a scale; shares are none, since each spot's have a scale of their own.
        labels = {n: replace(table, unit=RELATIVE) if table.unit == CELLS else table for n, table in labels.items()}
    own_unit = common_unit(labels)
    if unit is not None and unit != own_unit:
        raise LabelError(
            f"labels in {own_unit} cannot be turned into {unit}",
            where=cohort.sheet,
            hint=f'Ask for "{own_unit}": the tables do not say how many cells a share or relative abundance stands for',
        )
    if out is not None:
        sections = {name: {"source": _without_path(table.provenance)} for name, table in labels.items()}
        write_labels(out, labels, {"method": method, "sections": sections, "seed": seed, "versions": versions()})
    progress("label", len(labels), len(labels))
    return labels


def _without_path(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Where labels are from, with the name of their file and not the way to it, which may name a person."""
    return {key: Path(str(value)).name if key == "file" else value for key, value in provenance.items()}


def labels_of(
    source: Mapping[str, Abundance] | str | os.PathLike[str] | None, cohort: Cohort
) -> Mapping[str, Abundance]:
    """Labels by section: those given, those of a folder, or without either those that the sheet of the cohort names.

    Raises
    ------
    LabelError
        As `read_labels` and `cohort_labels`.
    """
    if source is None:
        return cohort_labels(cohort)
    return source if isinstance(source, Mapping) else read_labels(source)


def cohort_labels(cohort: Cohort, vocabulary: Vocabulary | None = None) -> dict[str, Abundance]:
    """Labels that the sheet of a cohort names in its column ``labels``, joined to the spots.

    ``vocabulary`` maps their cell types, and may tell that weights are to be divided by their total. Sections without
    labels are left out with a logged note.

    Raises
    ------
    LabelError
        No section has labels, or those of some sections cannot be used: undeclared unit, keys of no spot, bad numbers.
        The message names each.
    """
    labels: dict[str, Abundance] = {}
    failed: dict[str, HistomixError] = {}
    without = []
    for name in told("look through labels (sections)", cohort.names):
        try:
            section = cohort.section(name, counts=False)
            if section.labels is None:
                without.append(name)
                continue
            unit = None if section.label_unit is None else check_unit(section.label_unit, section.where)
            abundance = read_abundance(section.labels, unit, vocabulary=vocabulary)
            labels[name] = join_spots(abundance, section.keys, section.labels, section=name)
        except HistomixError as error:
            failed[name] = error
    refuse_failures(failed, len(cohort.names), hint="Mend these labels or the sheet, and run again")
    if not labels:
        raise LabelError(
            "no section has labels",
            where=cohort.sheet,
            hint="Fill the columns labels and label_unit, or derive labels with `histomix label`",
        )
    if without:
        _log.info("no labels in the sheet for section %s", ", ".join(without))
    return labels


def cell_labels(cohort: Cohort, vocabulary: Vocabulary | None = None) -> dict[str, Abundance]:
    """Cells of each type per spot, of sections that were read from tables of typed cells (see `cells_to_labels`).

    A type that a section has no cell of is 0 there, so that all sections have the same types.

    Raises
    ------
    LabelError
        Some sections have no cells or no cell types; the message names each.
    """
    counts: dict[str, pd.DataFrame] = {}
    failed: dict[str, HistomixError] = {}
    for name in cohort.names:
        try:
            counts[name] = cells_to_labels(cohort.section(name, counts=False))
        except HistomixError as error:
            failed[name] = error
    refuse_failures(failed, len(cohort.names), hint="Mend these sections or the sheet, and run again")
    types = sorted({str(name) for table in counts.values() for name in table.columns})
    labels = {
        name: Abundance(
            table.reindex(columns=types, fill_value=0.0),
            "cells per spot",
            provenance={"method": "cells", "section": name, "fitted_with": [name]},
        )
        for name, table in counts.items()
    }
    return labels if vocabulary is None else {name: vocabulary.apply(table) for name, table in labels.items()}
