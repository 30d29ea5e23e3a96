"""Labels for a cohort: the tables that its sheet names, or derived from counts and a reference."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ..common.hierarchy import Hierarchy, read_hierarchy
from ..errors import LabelError, UnknownMethodError
from ..progress import Progress, progress_bars
from ..provenance import require_folder, require_writable
from ..spots import Cohort
from .abundance import Abundance, check_unit
from .by_section import Labels
from .deconvolve.signatures_c2l import TABLE as SIGNATURES
from .deconvolve.signatures_c2l import Regression, fit_reference
from .deconvolve.svi import require_cell2location
from .groups import with_groups
from .methods import FAST
from .options import Options, read_options
from .ready import READY, label_ready
from .run import Run, Settings
from .signatures import Signatures, is_single_cells, read_reference
from .vocabulary import read_vocabulary

_log = logging.getLogger(__name__)


def label(
    cohort: Cohort | str | os.PathLike[str],
    method: str = "poisson",
    reference: str | os.PathLike[str] | pd.DataFrame | None = None,
    out: str | os.PathLike[str] | None = None,
    unit: str | None = None,
    seed: int = 0,
    progress: Progress | bool = True,
    *,
    cells_per_spot: float | str | None = None,
    min_genes: int | None = None,
    cell_type_key: str | None = None,
    vocabulary: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    fit: str | None = None,
    summary: str | None = None,
    detection_alpha: float | None = None,
    n_genes: int | None = None,
    max_epochs: int | None = None,
    batch_key: str | None = None,
    covariates: Sequence[str] | None = None,
    reliability: str | None = None,
    layer: str | None = None,
    genome: str | None = None,
    hierarchy: Mapping[str, str] | str | os.PathLike[str] | None = None,
) -> dict[str, Abundance]:
    """Derive the abundance of each cell type at each spot of a cohort.

    With ``out``, each section is stored when done; the same call then keeps every section whose counts, reference and
    settings are unchanged, and goes on with a fit of cell2location that was stopped, from its last 20th epoch, as if it
    had never been. Spots without counts in the shared genes get no label, with a logged note.

    The labels carry what is known of their noise: the reliability of each type (see `label_reliability`), an sd
    (cell2location: of the posterior; poisson: see `poisson_spread`), and with cell2location the posterior median.
    ``provenance["fitted_with"]`` names the sections that had a part in the labels of a section.

    Parameters
    ----------
    cohort
        Sections with raw counts (method ``"table"``: with labels in the sheet), or their sheet.
    method
        ``"poisson"`` (see `poisson_deconvolve`), ``"nnls"`` (see `nnls_deconvolve`), ``"cell2location"`` (see
        `fit_spots`; needs the extra ``histomix[cell2location]``), ``"table"``: the labels that the sheet names (see
        `cohort_labels`), or ``"cells"``: the cells of a known type in each spot (see `cell_labels`).
    reference
        Signatures of the cell types (see `read_reference`). Of single cells, the fast methods take the averages of the
        types; cell2location fits its regression (see `fit_reference`), kept as ``signatures.csv`` in ``out``.
    out
        Folder for ``<section>.csv`` and ``manifest.json``. None keeps the labels in memory.
    unit
        ``"proportion"``, which None means for the fast methods, since counts and a reference do not tell how deep a
        cell of the tissue was sequenced; or ``"cells per spot"``, which takes that from ``cells_per_spot`` and is what
        None means for cell2location. Its proportions are those of the posterior medians. Labels in cells whose totals
        picture, panel or depth contradict (see `check_totals`) come as ``"relative abundance"``, all of them, with a
        warning; it may be asked for, too. With ``"table"``, None keeps the declared unit; cells per spot and relative
        abundances may be turned into proportions, never the reverse.
    seed
        Seed of all that is random: the fits of cell2location, and the splits and draws for reliability and spread.
    progress
        Bars in a terminal or notebook; False for none, or a function that is told ``"label"``, sections done and
        sections in all, and of a fit of cell2location its name, the epochs done and the most there can be.
    layer
        Of a reference of single cells: where its raw counts are, see `read_reference`.
    genome
        Of counts of several genomes (a xenograft) the one whose genes are used, such as ``"GRCh38"``.
    cells_per_spot
        Cells of a typical spot. A number, or ``"nuclei"``: the median of the nuclei counted in the image under the
        spots. Fast methods: all weights are scaled alike, so that the median total over the spots is this; over those
        of the cohort with a number, of each section with ``"nuclei"``. cell2location: what it expects of a spot before
        it sees the counts (``N_cells_per_location``), counted over the sections that are fitted together; None
        presumes 8 cells in a spot of 55 um, in others as many per area, and logs it.
    min_genes
        Fewest shared genes to go on with; None: twice as many as cell types, and at least 20.
    cell_type_key
        Column of cell types in a reference of single cells.
    vocabulary
        YAML file that maps the cell types of the labels (see `read_vocabulary`).
    threads
        CPU threads; None: as torch has them (cell2location), or one for each core. Numbers of cell2location are the
        same bits for the same threads, those of the fast methods for any.
    fit
        cell2location: which sections are fitted together, as batches of one model. ``"donor"`` (what None means): those
        of each donor, so that no label of a donor depends on the counts of another, and folds by donor stay apart.
        ``"cohort"``: all, which lends strength to small sections, but couples labels of training and test donors (the
        evaluation warns). ``"section"``: each by itself.
    summary
        cell2location, cells per spot: ``"q05"`` (None), the 5 % quantile that the field uses, confident abundance; or
        ``"median"``.
    detection_alpha
        cell2location: how alike the spots of a section detect RNA; its authors advise 20 for strong differences within
        a section and 200 for slight ones. None is 20, since such differences are more common in sections of human
        tissue than their absence; with 200 they would be taken for differences in cells.
    n_genes
        cell2location: genes used, those that tell most about the type (see `most_specific_genes`); None: 3000.
    max_epochs
        cell2location: epochs at most; None: 300. A fit stops before when its best ELBO is 25 epochs old.
    batch_key, covariates
        cell2location, single cells: columns of ``obs`` with batches, and with categorical covariates.
    reliability
        cell2location: ``"fast"`` (None) stores the reliability of the Poisson method on the same genes; ``"own"`` fits
        two more times, to each half of the counts.

    hierarchy
        Groups of the cell types, for the answers of heads that are trained on the labels: name -> name of its group, or
        a file (`histomix.common.hierarchy.read_hierarchy`). None: a coarser column of single cells, if they have one.

    Returns
    -------
    dict
        Section -> labels, in the order of the cohort.

    Raises
    ------
    SheetError
        The sheet has faults; all are named.
    InputError
        The hierarchy cannot be read, or is none of the labels' cell types; or ``out`` is a file.
    LabelError
        The method, unit, reference or an option cannot be used; ``out`` holds labels of other sections made in another
        way; or some sections failed: the others are done and stored, and the message names each failure.
    MissingExtraError
        cell2location is not installed.
    StorageError
        Something cannot be written; finished sections are intact.

    Examples
    --------
    >>> labels = hm.label("sheet.csv", reference="reference.csv", progress=False)
    >>> labels["P1S1"].unit
    'proportion'
    """
    asked = {
        "fit": fit,
        "summary": summary,
        "detection_alpha": detection_alpha,
        "n_genes": n_genes,
        "max_epochs": max_epochs,
        "batch_key": batch_key,
        "covariates": None if covariates is None else tuple(covariates),
        "reliability": reliability,
    }
    if method not in (*FAST, "cell2location", *READY):
        choices = ", ".join(f'"{name}"' for name in (*FAST, "cell2location", *READY))
        raise UnknownMethodError(f"there is no method '{method}'", hint=f"Choose one of {choices}")
    options = read_options(method, asked)
    words = None if vocabulary is None else read_vocabulary(vocabulary)
    parents, where = (
        (hierarchy, None) if isinstance(hierarchy, Mapping | None) else (read_hierarchy(hierarchy), hierarchy)
    )
    cohort = Cohort.of(cohort)
    if out is not None:  # found wanting before the work, not after it
        require_folder(out, own="unit")
        if isinstance(cohort, Cohort):  # what only behaves as one has no files
            cohort.refuse_replacing(Path(out), ".csv", ".sd.csv", ".reliability.csv")
        require_writable(out)
    if genome is not None:
        cohort = cohort.with_genome(genome)
    if method in READY:
        with progress_bars(progress) as report:
            labels = label_ready(method, cohort, out, unit, seed, report, words)
        return Labels(with_groups(labels, parents, where, {}, out))
    if options is not None:
        require_cell2location()
    unit = check_unit(unit or ("proportion" if options is None else "cells per spot"))
    if reference is None:
        raise LabelError(
            f'method "{method}" needs a reference of cell-type signatures',
            hint='Give reference=FILE, or use method "table" for labels that the sheet names',
        )
    if options is None and (cells_per_spot is not None) != (unit == "cells per spot"):
        raise LabelError(
            f'the unit "{unit}" {"needs" if cells_per_spot is None else "takes no"} cells_per_spot',
            hint='Give unit="cells per spot" and cells_per_spot=N (or "nuclei") together, or neither',
        )
    cells = _cells(cells_per_spot)
    folder = None if out is None else Path(out)
    if folder is not None and Path(SIGNATURES).stem in cohort.names:
        raise LabelError(
            f"a section is named '{Path(SIGNATURES).stem}', as the signatures are in a folder of labels",
            where=cohort.sheet,
            hint="Give it another name",
        )
    with progress_bars(progress) as report:
        signatures = _signatures(reference, cell_type_key, layer, options, seed, folder, threads, report)
        if parents is not None and words is None:
            Hierarchy.of(parents, list(signatures.table.columns), where)  # refused now, not after a fit
        if words is not None:
            # Refused now, not after a fit.
            types = signatures.table.columns
            words.apply(Abundance(pd.DataFrame(1 / len(types), index=["spot"], columns=types), unit))
        settings = Settings(
            method,
            unit,
            signatures.digest,
            cells,
            min_genes,
            cell_type_key,
            seed,
            options,
            None if words is None else words.digest,
            layer,
            genome,
        )
        labels = Run(cohort, signatures, settings, folder, threads, words).label(report)
    return Labels(with_groups(labels, parents, where, signatures.groups, out))


def _cells(cells_per_spot: float | str | None) -> float | str | None:
    if cells_per_spot is None or cells_per_spot == "nuclei":
        return cells_per_spot
    if isinstance(cells_per_spot, str) or not (math.isfinite(cells_per_spot) and cells_per_spot > 0):
        raise LabelError(
            f"a typical spot cannot have {cells_per_spot} cells",
            hint='Give a number above 0, or "nuclei" to count them',
        )
    return float(cells_per_spot)


def _signatures(
    reference: str | os.PathLike[str] | pd.DataFrame,
    cell_type_key: str | None,
    layer: str | None,
    options: Options | None,
    seed: int,
    folder: Path | None,
    threads: int | None,
    progress: Progress,
) -> Signatures:
    if options is not None and not isinstance(reference, pd.DataFrame) and is_single_cells(reference, cell_type_key):
        choice = Regression(cell_type_key, options.batch_key, options.covariates, options.n_genes, seed, layer)
        return fit_reference(Path(reference), choice, folder, threads, progress)
    if options is not None and (options.batch_key or options.covariates):
        raise LabelError(
            "batch_key and covariates are columns of single cells, and the reference is a table of signatures",
            hint="Leave them out, or give an h5ad of single cells",
        )
    return read_reference(reference, cell_type_key, layer)
