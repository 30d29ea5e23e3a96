"""``histomix view``: slides, maps and labels in a zoomable viewer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .session import Anonymise, Json, PseudonymKey, Quiet, Threads, session


def view(
    folders: Annotated[
        list[Path],
        typer.Argument(
            help="Folders made by predict (maps) and by evaluate (labels beside predictions).",
            show_default=False,
            metavar="DIR...",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the viewer.", show_default=False)],
    slides: Annotated[
        list[Path] | None,
        typer.Option("--slides", help="A slide, or a folder of slides; may be given again.", show_default=False),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            "--sheet", help="Cohort sheet that names the images of an evaluation's sections.", show_default=False
        ),
    ] = None,
    head: Annotated[
        str | None, typer.Option("--head", help="Head of an evaluation to show.", show_default="the last, no baseline")
    ] = None,
    title: Annotated[str, typer.Option("--title", help="Words at the top.")] = "Cell types, read from H&E",
    mpp: Annotated[float, typer.Option("--mpp", min=0.1, help="Finest scale of the pictures, um per pixel.")] = 0.5,
    anonymise: Anonymise = False,
    pseudonym_key: PseudonymKey = None,
    as_json: Json = False,
    quiet: Quiet = False,
    threads: Threads = None,
) -> None:
    """Write a viewer that opens from disk: zoom to cells, switch types, compare with labels, select, export.

    The pictures of the slides are copied into it, so it can be handed on as one folder, and shows what they show.
    Slides are found by their names and must be the files that were predicted.
    """
    with session(as_json, quiet, threads) as run:
        from ..viewer import write_viewer

        viewer = write_viewer(
            folders,
            out,
            slides=slides or [],
            cohort=sheet,
            head=head,
            title=title,
            mpp=mpp,
            anonymise=anonymise,
            pseudonym_key=pseudonym_key,
            progress=run.progress,
        )
        run.say(f"viewer: {viewer.page}")
        run.done(out=str(out), page=str(viewer.page), slides=list(viewer.slides))
