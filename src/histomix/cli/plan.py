"""``histomix plan``: what to sequence next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .session import Json, Quiet, Seed, Sheet, Threads, session


def plan(
    sheet: Sheet,
    features: Annotated[
        list[Path],
        typer.Option("--features", help="Folder made by embed; several are joined.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for tables and the page.", show_default=False)],
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Folder made by label.", show_default="those of the sheet")
    ] = None,
    slides: Annotated[
        list[str] | None,
        typer.Option("--slides", help="Slides without ST: files, folders or sheets.", show_default=False),
    ] = None,
    mpp: Annotated[
        float | None, typer.Option("--mpp", help="Um per pixel of the slides.", show_default="from the slide")
    ] = None,
    head: Annotated[str, typer.Option("--head", help="The head that the curve is of.")] = "ridge",
    weights: Annotated[
        list[Path] | None,
        typer.Option("--weights", help="Local weights of the encoders, for --slides.", show_default=False),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Tell what one more donor would bring of each cell type, and which slide to sequence next."""
    with session(as_json, quiet, threads) as run:
        from ..studies import plan as make

        found = make(
            sheet,
            features if len(features) > 1 else features[0],
            out,
            labels=labels,
            slides=slides,
            mpp=mpp,
            head=head,
            weights=weights,
            seed=seed,
            threads=threads,
            progress=run.progress,
        )
        run.say(f"{found.text()}\n\npage: {found.page}")
        for failure in found.failures:
            run.failed(failure)
        gains = found.curve.gains
        run.done(
            out=str(out),
            page=str(found.page),
            donors=gains.astype(object).where(gains.notna(), None).to_dict("records"),
            slides=found.slides.to_dict("records"),
        )
