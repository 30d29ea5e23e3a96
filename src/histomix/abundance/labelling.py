"""Labels for a cohort: the tables that its sheet names, or derived from counts and a reference."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..errors import HistomixError, LabelError
from ..progress import Progress, silent
from ..provenance import versions
from .abundance import Abundance, check_unit, join_spots
from .run import DECONVOLVE, Run, Settings, refuse_failures
from .signatures import read_reference
from .tables import common_unit, read_abundance, write_labels

if TYPE_CHECKING:
    from ..spots import Cohort

_log = logging.getLogger(__name__)


def label(
    cohort: Cohort,
    method: str = "poisson",
    reference: str | os.PathLike[str] | pd.DataFrame | None = None,
    out: str | os.PathLike[str] | None = None,
    unit: str | None = None,
    seed: int = 0,
    progress: Progress = silent,
    *,
    cells_per_spot: float | None = None,
    min_genes: int | None = None,
    cell_type_key: str | None = None,
) -> dict[str, Abundance]:
    """Derive the abundance of each cell type at each spot of a cohort.

    With ``out``, each section is stored when done; the same call then keeps every section whose counts, reference and
    settings are unchanged. Spots without counts in the shared genes get no label, with a logged note.

    Parameters
    ----------
    cohort
        Sections with raw counts (method ``"table"``: with labels in the sheet).
    method
        ``"poisson"`` (see `poisson_deconvolve`), ``"nnls"`` (see `nnls_deconvolve`), or ``"table"``: the labels
        that the sheet names (see `cohort_labels`).
    reference
        Signatures of the cell types (see `read_reference`).
    out
        Folder for ``<section>.csv`` and ``manifest.json``. None keeps the labels in memory.
    unit
        ``"proportion"``, also what None means, since counts and a reference do not tell how deep a cell of the tissue
        was sequenced; or ``"cells per spot"``, which takes that from ``cells_per_spot``. With ``"table"``, None keeps
        the declared unit; cells per spot may be turned into proportions, never the reverse.
    seed
        Recorded in the manifest; none of these methods is random.
    progress
        Told ``"label"``, sections done and sections in all.
    cells_per_spot
        Cells of a typical spot: all weights are scaled alike, so that the median total over the cohort's spots is this.
    min_genes
        Fewest shared genes to go on with; None: twice as many as cell types, and at least 20.
    cell_type_key
        Column of cell types in a reference of single cells.

    Returns
    -------
    dict
        Section -> labels, in the order of the cohort.

    Raises
    ------
    LabelError
        The method, unit or reference cannot be used; ``out`` holds labels of other sections made in another way; or
        some sections failed: the others are done and stored, and the message names each failure.
    StorageError
        Something cannot be written; finished sections are intact.
    """
    if method == "table":
        return _tables(cohort, out, unit, seed, progress)
    if method == "cell2location":
        raise LabelError(
            "this version does not run cell2location itself",
            mend='Use method "poisson" or "nnls", or run cell2location elsewhere and name its h5ad results in the '
            'column labels of the sheet (method "table")',
        )
    if method not in DECONVOLVE:
        choices = ", ".join(f'"{name}"' for name in (*DECONVOLVE, "table"))
        raise LabelError(f"there is no method '{method}'", mend=f"Choose one of {choices}")
    unit = check_unit(unit or "proportion")
    if reference is None:
        raise LabelError(
            f'method "{method}" needs a reference of cell-type signatures',
            mend='Give reference=FILE, or use method "table" for labels that the sheet names',
        )
    if (cells_per_spot is not None) != (unit == "cells per spot"):
        raise LabelError(
            f'the unit "{unit}" {"needs" if cells_per_spot is None else "takes no"} cells_per_spot',
            mend='Give unit="cells per spot" and cells_per_spot=N together, or neither',
        )
    if cells_per_spot is not None and not (math.isfinite(cells_per_spot) and cells_per_spot > 0):
        raise LabelError(f"a typical spot cannot have {cells_per_spot} cells", mend="Give a number above 0")
    signatures = read_reference(reference, cell_type_key)
    settings = Settings(
        method,
        unit,
        signatures.digest,
        None if cells_per_spot is None else float(cells_per_spot),
        min_genes,
        cell_type_key,
    )
    return Run(cohort, signatures, settings, None if out is None else Path(out), seed).label(progress)


def cohort_labels(cohort: Cohort) -> dict[str, Abundance]:
    """Labels that the sheet of a cohort names in its column ``labels``, joined to the spots.

    Sections without labels are left out with a logged note.

    Raises
    ------
    LabelError
        No section has labels, or those of some sections cannot be used: undeclared unit, keys of no spot, bad numbers.
        The message names each.
    """
    labels: dict[str, Abundance] = {}
    failed: dict[str, HistomixError] = {}
    without = []
    for name in cohort.names:
        try:
            section = cohort.section(name, counts=False)
            if section.labels is None:
                without.append(name)
                continue
            unit = None if section.label_unit is None else check_unit(section.label_unit, section.where)
            labels[name] = join_spots(read_abundance(section.labels, unit), section.keys, section.labels)
        except HistomixError as error:
            failed[name] = error
    refuse_failures(failed, len(cohort.names), mend="Mend these labels or the sheet, and run again")
    if not labels:
        raise LabelError(
            "no section has labels",
            where=cohort.sheet,
            mend="Fill the columns labels and label_unit, or derive labels with `histomix label`",
        )
    if without:
        _log.info("no labels in the sheet for section %s", ", ".join(without))
    return labels


def _tables(
    cohort: Cohort, out: str | os.PathLike[str] | None, unit: str | None, seed: int, progress: Progress
) -> dict[str, Abundance]:
    labels = cohort_labels(cohort)
    if unit is not None and check_unit(unit) == "proportion":
        labels = {name: table.proportions() for name, table in labels.items()}
    found = common_unit(labels)
    if unit is not None and unit != found:
        raise LabelError(
            f"labels in {found} cannot be turned into {unit}",
            where=cohort.sheet,
            mend=f'Ask for "{found}": how many cells a proportion stands for is not in the tables',
        )
    if out is not None:
        sections = {name: {"source": table.provenance} for name, table in labels.items()}
        write_labels(out, labels, {"method": "table", "sections": sections, "seed": seed, "versions": versions()})
    progress("label", len(labels), len(labels))
    return labels
