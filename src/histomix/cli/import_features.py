"""``histomix import-features``: features that others computed, as a store like that of embed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .session import Json, Quiet, session

Encoder = Annotated[
    str | None,
    typer.Option(
        "--encoder", help="Which encoder made them (histomix encoders lists them).", show_default="from the files"
    ),
]
TileUm = Annotated[
    float | None, typer.Option("--tile-um", help="Side of a tile, um.", show_default="from the files", metavar="UM")
]
Origin = Annotated[
    str | None,
    typer.Option("--origin", help="What a place is of its tile: corner or centre.", show_default="from the format"),
]
Level0 = Annotated[bool, typer.Option("--level0", help="Places are in px of the slide's level 0.")]
Scaled = Annotated[
    float | None,
    typer.Option(
        "--scaled",
        help="Level-0 px in a px of the places (4: a level 4 times smaller).",
        show_default=False,
        metavar="N",
    ),
]


def places_scale(level0: bool, scaled: float | None) -> float | None:
    """Level-0 px in a px of the places, as ``--level0`` and ``--scaled`` state it."""
    from ..errors import InputError

    if level0 and scaled is not None:
        raise InputError("--level0 and --scaled contradict each other", hint="Give one of them")
    return 1.0 if level0 else scaled


def import_features(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="Files of TRIDENT, CLAM, slide2vec, LazySlide or HEST-bench, npy, npz, parquet, csv or h5ad, and "
            "folders of them; SECTION=FILE where a file is called otherwise.",
            show_default=False,
            metavar="PATH...",
        ),
    ],
    sheet: Annotated[Path, typer.Option("--sheet", help="The cohort sheet (CSV or YAML).", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder for the features.", show_default=False)],
    encoder: Encoder = None,
    mpp: Annotated[
        float | None, typer.Option("--mpp", help="Um per pixel of the tiles as cut.", show_default="from the files")
    ] = None,
    tile_um: TileUm = None,
    origin: Origin = None,
    level0: Level0 = False,
    scaled: Scaled = None,
    tolerance_um: Annotated[
        float | None,
        typer.Option(
            "--tolerance-um", help="How far a tile may be from its spot.", show_default="half a spot", metavar="UM"
        ),
    ] = None,
    average: Annotated[
        bool, typer.Option("--average", help="Average the tiles over each spot, by the area that they cover of it.")
    ] = False,
    force_alignment: Annotated[
        bool, typer.Option("--skip-alignment-check", help="Import even where the spots do not fit the image.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take in features that others computed. What the files do not say must be stated, and is stamped so."""
    with session(as_json, quiet) as run:
        from ..embedding import feature_manifest
        from ..embedding import import_features as take_in

        features = take_in(
            paths,
            sheet,
            out,
            encoder=encoder,
            mpp=mpp,
            tile_um=tile_um,
            origin=origin,
            scale=places_scale(level0, scaled),
            tolerance_um=tolerance_um,
            average=average,
            check_alignment=not force_alignment,
            progress=run.progress,
        )
        manifests = {name: feature_manifest(table) for name, table in features.items()}
        first = next(iter(manifests.values()))
        name, dim, tile = first["encoder"]["name"], first["encoder"]["dim"], first["tile"]
        spots = sum(table.n_obs for table in features.values())
        run.say(
            f"{spots:,} spots of {len(features)} sections, {dim} features each ({name}, stated; tiles of "
            f"{tile['size_px'] * tile['mpp']:g} um): {out}"
        )
        matched = {one: manifest["imported"] for one, manifest in manifests.items()}
        run.done(out=str(out), sections=list(features), spots=spots, encoder=name, dim=dim, imported=matched)
