"""``histomix report``: the results as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .session import Anonymise, Json, PseudonymKey, Quiet, Threads, session


def report(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders made by the other verbs.", show_default=False, metavar="DIR...")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the page.", show_default=False)],
    title: Annotated[
        str | None, typer.Option("--title", help="Title of the page.", show_default="tissue, sections and donors")
    ] = None,
    anonymise: Anonymise = False,
    pseudonym_key: PseudonymKey = None,
    as_json: Json = False,
    quiet: Quiet = False,
    threads: Threads = None,
) -> None:
    """Show labels, scores and maps on a page that opens from disk and loads nothing remote."""
    with session(as_json, quiet, threads) as run:
        from ..report import write_report

        page = write_report(
            folders, out, title=title, anonymise=anonymise, pseudonym_key=pseudonym_key, progress=run.progress
        )
        run.say(f"report: {page}")
        run.done(report=str(page))
