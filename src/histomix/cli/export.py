"""``histomix export``: composition maps in the formats of other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .session import Anonymise, Json, PseudonymKey, Quiet, Threads, session


class Format(StrEnum):
    """What a map can be turned into."""

    spatialdata = "spatialdata"
    anndata = "anndata"
    parquet = "parquet"
    csv = "csv"
    ome_tiff = "ome-tiff"
    geojson_gz = "geojson.gz"
    geojson_zip = "geojson.zip"


class Extra(StrEnum):
    """What some formats may hold besides."""

    intervals = "intervals"
    novelty = "novelty"
    words = "words"


def export(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders made by predict.", show_default=False, metavar="DIR...")
    ],
    to: Annotated[Format, typer.Option("--to", help="The format.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", help="Folder to write to, one file or store a map.", show_default=False)
    ],
    also: Annotated[
        list[Extra] | None,
        typer.Option(
            "--with",
            help="Add to it: intervals, novelty (channels of an OME-TIFF), words (at tiles in QuPath); several times.",
            show_default=False,
        ),
    ] = None,
    anonymise: Anonymise = False,
    pseudonym_key: PseudonymKey = None,
    as_json: Json = False,
    quiet: Quiet = False,
    threads: Threads = None,
) -> None:
    """Write maps for other programs: SpatialData, AnnData in scverse keys, Parquet, CSV for a spreadsheet,
    OME-TIFF, QuPath (zip, gzip)."""
    with session(as_json, quiet, threads) as run:
        from ..export import export_maps

        written, failures = export_maps(
            folders,
            to.value,
            out,
            also=[one.value for one in also or []],
            anonymise=anonymise,
            pseudonym_key=pseudonym_key,
            progress=run.progress,
        )
        for path in written:
            run.say(str(path))
        for error in failures:
            run.failed(error)
        run.done(out=str(out), written=[str(path) for path in written])
