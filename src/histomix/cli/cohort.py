"""``histomix cohort``: many maps as one table, beside the clinical data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..common.words import counted
from .session import Anonymise, Json, PseudonymKey, Quiet, Threads, session


def cohort(
    maps: Annotated[
        list[Path],
        typer.Argument(help="Folders made by predict, or folders of them.", show_default=False, metavar="MAPS..."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the tables.", show_default=False)],
    clinical: Annotated[
        Path | None,
        typer.Option("--clinical", help="CSV, TSV or Parquet with a column slide or patient.", show_default=False),
    ] = None,
    b_types: Annotated[
        list[str] | None,
        typer.Option("--b-cells", help="A cell type of the B lineage (repeat).", show_default=False, metavar="TYPE"),
    ] = None,
    t_types: Annotated[
        list[str] | None,
        typer.Option("--t-cells", help="A cell type of the T lineage (repeat).", show_default=False, metavar="TYPE"),
    ] = None,
    in_scope_only: Annotated[
        bool, typer.Option("--in-scope-only/--all-tiles", help="Measure tiles in scope, or all that could be read.")
    ] = True,
    all_types: Annotated[
        bool,
        typer.Option("--all-types", help="Keep types that the head tells neither between slides nor within one."),
    ] = False,
    pairs_by_fragment: Annotated[
        bool,
        typer.Option("--pairs-by-fragment", help="Pairs of types in each fragment of tissue too: many rows."),
    ] = False,
    patient_pattern: Annotated[
        str | None,
        typer.Option(
            "--patient-pattern", help="Regular expression: the patient in a slide's name.", show_default=False
        ),
    ] = None,
    anonymise: Anonymise = False,
    pseudonym_key: PseudonymKey = None,
    keep_columns: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-column",
            help="With --anonymise: a clinical column that names nobody (repeat).",
            show_default=False,
            metavar="NAME",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    threads: Threads = None,
) -> None:
    """Measure maps: composition, density, mixing, interfaces, TLS-like hot spots, novelty; with clinical data."""
    with session(as_json, quiet, threads) as run:
        from ..cohort import TlsRule, cohort_tables

        rule = TlsRule(tuple(b_types or ()), tuple(t_types or ())) if b_types or t_types else None
        tables = cohort_tables(
            maps,
            out,
            clinical=clinical,
            rule=rule,
            in_scope_only=in_scope_only,
            all_types=all_types,
            pairs_by_fragment=pairs_by_fragment,
            patient_pattern=patient_pattern,
            anonymise=anonymise,
            pseudonym_key=pseudonym_key,
            keep_columns=keep_columns or (),
            progress=run.progress,
        )
        for failure in tables.failures:
            run.failed(failure)
        run.say(f"{counted(len(tables.slides), 'slide')}, {counted(tables.rows, 'row')}: {out}")
        run.done(
            out=str(out), slides=len(tables.slides), files={name: str(path) for name, path in tables.files.items()}
        )
