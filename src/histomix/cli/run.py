"""``histomix run``: the whole road for one's own data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .session import Json, Quiet, Seed, Sheet, Threads, TrustCode, session


def run(
    sheet: Sheet,
    out: Annotated[Path, typer.Option("--out", help="Folder for everything.", show_default=False)],
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            help="Cell types, to make labels of counts: single cells (h5ad), or signatures, genes x cell types.",
            show_default="the sheet's labels",
        ),
    ] = None,
    slides: Annotated[
        list[str] | None,
        typer.Option(
            "--slides",
            help="Slides to map: a file, a folder or a sheet; may be given again.",
            show_default="those of the sheet",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option("--method", help="poisson, nnls, cell2location, table or cells.", show_default="what there is"),
    ] = None,
    cell_type_key: Annotated[
        str | None,
        typer.Option("--cell-type-key", help="Column of cell types of single cells.", show_default="cell_type"),
    ] = None,
    encoder: Annotated[str, typer.Option("--encoder", help="A name from: histomix encoders.")] = "builtin",
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Local weights of the encoder.", show_default=False)
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option("--mpp", help="Um per pixel of slides that do not say it.", show_default="from each slide"),
    ] = None,
    stride_um: Annotated[
        float | None, typer.Option("--stride-um", help="Distance of the maps' tiles.", show_default="tile size")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, and do nothing.")] = False,
    trust_code: TrustCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Labels, features, evaluation, a head, maps, a viewer and the report, in one folder, from a cohort sheet.

    The plan is shown first. Stopped, the same command goes on. At the end: how good, against what, what to look at.
    """
    with session(as_json, quiet, threads, goes_on=True) as current:
        from ..road import run as run_road

        result = run_road(
            sheet,
            out,
            reference=reference,
            slides=slides or None,
            method=method,
            encoder=encoder,
            weights=weights,
            mpp=mpp,
            stride_um=stride_um,
            cell_type_key=cell_type_key,
            trust_code=trust_code,
            dry_run=dry_run,
            seed=seed,
            threads=threads,
            progress=current.progress,
            say=current.say,
        )
        for failure in result.failures:
            current.failures.append(failure)
            current.remark(f"failed: {failure}")
        current.done(
            out=str(result.out),
            plan=result.plan.to_dict(),
            report=None if result.report is None else str(result.report),
            viewer=None if result.viewer is None else str(result.viewer),
            summary=result.summary,
            seconds=result.seconds,
        )
