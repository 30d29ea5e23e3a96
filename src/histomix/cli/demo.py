"""``histomix demo``: the whole job on one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .session import Json, Quiet, Seed, Threads, session


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything the demo makes.")] = Path("histomix-demo"),
    cohort: Annotated[
        str, typer.Option("--cohort", help="auto, phantom or her2st (in the folder HISTOMIX_DATA names).")
    ] = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Labels, features, evaluation, a head, the map of a held-out section, a zoomable viewer, and the report."""
    with session(as_json, quiet, threads, goes_on=True) as run:
        from ..road import demo as run_road

        result = run_road(out, cohort=cohort, seed=seed, threads=threads, progress=run.progress, say=run.say)
        run.done(report=str(result.report), cohort=result.cohort, seconds=result.seconds, summary=result.summary)
