"""``histomix label``: cell-type abundance per spot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .session import Json, Quiet, Seed, Sheet, Threads, session


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
        str, typer.Option("--method", help="poisson (fast), nnls, or table (the sheet's labels).")
    ] = "poisson",
    unit: Annotated[
        str | None, typer.Option("--unit", help='"proportion" or "cells per spot".', show_default="proportion")
    ] = None,
    cells_per_spot: Annotated[
        float | None,
        typer.Option(
            "--cells-per-spot", min=0, help='Median cells in a spot; needed for "cells per spot".', show_default=False
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Derive the abundance of each cell type at each spot from counts and a reference."""
    with session(as_json, quiet, threads) as run:
        from ..abundance import label as derive
        from ..spots import read_cohort

        labels = derive(
            read_cohort(sheet),
            method=method,
            reference=reference,
            out=out,
            unit=unit,
            seed=seed,
            progress=run.progress,
            cells_per_spot=cells_per_spot,
        )
        spots = sum(len(table.values) for table in labels.values())
        first = next(iter(labels.values()))
        types = f"{len(first.cell_types)} cell types ({first.unit})"
        run.say(f"{spots:,} spots of {len(labels)} sections labelled with {types}: {out}")
        run.done(
            out=str(out),
            method=method,
            unit=first.unit,
            sections=list(labels),
            spots=spots,
            cell_types=first.cell_types,
        )
