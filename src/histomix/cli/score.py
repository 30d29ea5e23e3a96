"""``histomix score``: a composition map against single cells or regions that were measured otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .session import Json, Quiet, Seed, Threads, session


def score(
    composition: Annotated[
        Path, typer.Argument(help="Folder of a slide that predict wrote.", show_default=False, metavar="MAP")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for metrics and predictions.", show_default=False)],
    cells: Annotated[
        str | None,
        typer.Option(
            "--cells",
            help="Cells with places and types: a table (x_px, y_px, cell_type), or Xenium, CosMx, MERSCOPE files.",
            show_default=False,
            metavar="FILE",
        ),
    ] = None,
    regions: Annotated[
        Path | None,
        typer.Option(
            "--regions", help="Regions: GeoJSON of QuPath, or a table (spot or x_px, y_px; region).", show_default=False
        ),
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(
            "--expect",
            help="Cell types that belong in a region: 'invasive cancer=Epithelial+T cells'; several times.",
            show_default=False,
            metavar="REGION=TYPE",
        ),
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option("--vocabulary", help="Types of the cells to merge, rename or drop (YAML).", show_default=False),
    ] = None,
    map_vocabulary: Annotated[
        Path | None,
        typer.Option("--map-vocabulary", help="Types of the map to merge, rename or drop (YAML).", show_default=False),
    ] = None,
    size_um: Annotated[
        float | None,
        typer.Option("--size-um", help="Side of the square in which cells are counted.", show_default="the map's tile"),
    ] = None,
    spot_um: Annotated[
        float | None,
        typer.Option(
            "--spot-um", help="Diameter of the spots of a head in cells per spot: scales counts.", show_default=False
        ),
    ] = None,
    min_cells: Annotated[
        int, typer.Option("--min-cells", min=0, help="Tiles with fewer typed cells are left out.")
    ] = 1,
    donor: Annotated[
        str | None, typer.Option("--donor", help="Whose tissue it is: said when the head has seen it.")
    ] = None,
    spatial: Annotated[
        bool, typer.Option("--spatial/--no-spatial", help="Patterns and neighbours against the cells as well.")
    ] = True,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Score a map against truth that no label had a part in: single cells, or a pathologist's regions."""
    with session(as_json, quiet, threads) as run:
        from ..errors import InputError
        from ..evaluation import score_map
        from ..evaluation.measured.text import orthogonal_text

        declared: dict[str, list[str]] = {}
        for one in expect or []:
            region, equals, types = one.partition("=")
            if not equals or not region.strip() or not types.strip():
                raise InputError(f"--expect {one!r} names no region and type", hint="Write it as REGION=TYPE+TYPE")
            declared[region.strip()] = [name.strip() for name in types.split("+")]
        evaluation = score_map(
            composition,
            cells=cells,
            regions=regions,
            expect=declared,
            vocabulary=vocabulary,
            map_vocabulary=map_vocabulary,
            size_um=size_um,
            spot_um=spot_um,
            min_cells=min_cells,
            donor=donor,
            spatial=spatial,
            seed=seed,
            out=out,
            progress=run.progress,
        )
        run.say(orthogonal_text(evaluation))
        if as_json and not quiet:  # the text has them otherwise
            for note in evaluation.summary["notes"]:
                run.remark(f"note: {note}")
        run.done(out=str(out), summary=evaluation.summary)
