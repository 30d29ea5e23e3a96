"""``histomix embed``: what an encoder sees at each spot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .session import Json, Quiet, Seed, Sheet, Threads, session

Encoder = Annotated[str, typer.Option("--encoder", help="A name from: histomix encoders.")]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", help="Local weights, a file or a folder, for use without a hub.", show_default=False),
]


def embed(
    sheet: Sheet,
    out: Annotated[Path, typer.Option("--out", help="Folder for the features.", show_default=False)],
    encoder: Encoder = "builtin",
    weights: Weights = None,
    dtype: Annotated[str, typer.Option("--dtype", help="float16 or float32.")] = "float16",
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Tiles encoded at once.")] = 64,
    force_alignment: Annotated[
        bool, typer.Option("--skip-alignment-check", help="Embed even where the spots do not fit the image.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Embed the H&E tile at each spot with a frozen encoder. Resumable: run the same command again."""
    with session(as_json, quiet, threads) as run:
        from ..embedding import embed as embed_cohort
        from ..spots import read_cohort

        features = embed_cohort(
            read_cohort(sheet),
            encoder=encoder,
            weights=weights,
            out=out,
            dtype=dtype,
            batch_size=batch_size,
            threads=threads,
            check_alignment=not force_alignment,
            progress=run.progress,
        )
        tiles = sum(table.n_obs for table in features.values())
        dim = next(iter(features.values())).n_vars
        run.say(f"{tiles:,} tiles of {len(features)} sections, {dim} features each: {out}")
        run.done(out=str(out), encoder=encoder, sections=list(features), tiles=tiles, dim=dim)
