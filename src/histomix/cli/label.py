"""``histomix label``: cell-type abundance per spot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import LabelError
from .session import Json, Quiet, Seed, Sheet, Threads, session

_C2L = "cell2location"


def label(
    sheet: Sheet,
    out: Annotated[Path, typer.Option("--out", help="Folder for the labels.", show_default=False)],
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference", help="Signatures, genes x cell types (CSV, TSV), or single cells (h5ad).", show_default=False
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="poisson (fast), nnls, cell2location, table (the sheet's labels), or cells (counted in the spots).",
        ),
    ] = "poisson",
    unit: Annotated[
        str | None,
        typer.Option("--unit", help='"proportion", "cells per spot", "relative abundance".', show_default="by method"),
    ] = None,
    cells_per_spot: Annotated[
        str | None,
        typer.Option(
            "--cells-per-spot",
            metavar="N|nuclei",
            help='Cells of a typical spot, or "nuclei": count them in the image; for "cells per spot", cell2location.',
            show_default=False,
        ),
    ] = None,
    cell_type_key: Annotated[
        str | None,
        typer.Option("--cell-type-key", help="Column of cell types of single cells.", show_default="cell_type"),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer",
            help="Where raw counts of single cells are: X, raw, or a layer.",
            show_default="found",
        ),
    ] = None,
    genome: Annotated[
        str | None,
        typer.Option("--genome", help="Of counts of several genomes the one to use, as GRCh38.", show_default=False),
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option("--vocabulary", help="Cell types to merge, rename or drop (YAML).", show_default=False),
    ] = None,
    hierarchy: Annotated[
        Path | None,
        typer.Option(
            "--hierarchy",
            help="Groups of cell types, for the answers of heads (YAML or CSV).",
            show_default="a coarser column of single cells",
        ),
    ] = None,
    min_genes: Annotated[
        int | None, typer.Option("--min-genes", min=1, help="Fewest shared genes to go on with.", show_default=False)
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(
            "--fit",
            help="Sections fitted together: donor, section or cohort.",
            show_default="donor",
            rich_help_panel=_C2L,
        ),
    ] = None,
    summary: Annotated[
        str | None,
        typer.Option("--summary", help="q05 or median.", show_default="q05", rich_help_panel=_C2L),
    ] = None,
    detection_alpha: Annotated[
        float | None,
        typer.Option(
            "--detection-alpha",
            help="20: spots differ in RNA detection; 200: hardly.",
            show_default="20",
            rich_help_panel=_C2L,
        ),
    ] = None,
    n_genes: Annotated[
        int | None,
        typer.Option("--genes", min=2, help="Most specific genes used.", show_default="3000", rich_help_panel=_C2L),
    ] = None,
    max_epochs: Annotated[
        int | None,
        typer.Option("--epochs", min=1, help="Epochs at most.", show_default="300", rich_help_panel=_C2L),
    ] = None,
    batch_key: Annotated[
        str | None,
        typer.Option("--batch-key", help="Batches of single cells.", show_default=False, rich_help_panel=_C2L),
    ] = None,
    covariates: Annotated[
        list[str] | None,
        typer.Option(
            "--covariate", help="Categorical covariate of single cells.", show_default=False, rich_help_panel=_C2L
        ),
    ] = None,
    reliability: Annotated[
        str | None,
        typer.Option(
            "--reliability",
            help="Of the fast method (fast), or its own (own: three fits).",
            show_default="fast",
            rich_help_panel=_C2L,
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Derive the abundance of each cell type at each spot from counts and a reference."""
    with session(as_json, quiet, threads, goes_on=True) as run:
        from ..abundance import label as derive
        from ..common.words import counted

        labels = derive(
            sheet,
            method=method,
            reference=reference,
            out=out,
            unit=unit,
            seed=seed,
            progress=run.progress,
            cells_per_spot=_cells(cells_per_spot),
            min_genes=min_genes,
            cell_type_key=cell_type_key,
            vocabulary=vocabulary,
            threads=threads,
            fit=fit,
            summary=summary,
            detection_alpha=detection_alpha,
            n_genes=n_genes,
            max_epochs=max_epochs,
            batch_key=batch_key,
            covariates=covariates or None,
            reliability=reliability,
            layer=layer,
            genome=genome,
            hierarchy=hierarchy,
        )
        spots = sum(len(table.values) for table in labels.values())
        first = next(iter(labels.values()))
        types = f"{counted(len(first.cell_types), 'cell type')} ({first.unit})"
        run.say(f"{counted(spots, 'spot')} of {counted(len(labels), 'section')} labelled with {types}: {out}")
        run.done(
            out=str(out),
            method=method,
            unit=first.unit,
            sections=list(labels),
            spots=spots,
            cell_types=first.cell_types,
        )


def _cells(text: str | None) -> float | str | None:
    if text is None or text == "nuclei":
        return text
    try:
        return float(text)
    except ValueError as error:
        raise LabelError(f"'{text}' is no number of cells", hint='Give a number, or "nuclei"') from error
