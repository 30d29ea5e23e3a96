"""``histomix init``: a cohort sheet from a folder of one's own data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .session import Json, Quiet, session


def init(
    folder: Annotated[Path, typer.Argument(help="The folder that your data is in, at any depth.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The sheet to write; never replaced.")] = Path("sheet.csv"),
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draft a cohort sheet: sections, their images and counts by name, um per px, and donors as far as names tell.

    What was guessed is said. A section that lacks something stands in the sheet as a remark (#).
    """
    with session(as_json, quiet) as run:
        from ..spots import draft_sheet

        draft = draft_sheet(folder, out, progress=run.progress)
        run.say(f"{draft.path}: {draft.text()}")
        reference = f" --reference {draft.references[0]}" if draft.references else " --reference REFERENCE"
        labelled = draft.rows and all(row.get("labels") for row in draft.rows)
        if draft.rows:
            run.say(f"\nNext: histomix run {draft.path}{'' if labelled else reference} --out run")
        run.done(
            sheet=str(draft.path),
            rows=[dict(row) for row in draft.rows],
            lacking=[{"row": dict(row), "missing": why} for row, why in draft.lacking],
            guesses=list(draft.guesses),
            references=[str(path) for path in draft.references],
            undecided=list(draft.undecided),
            passed_over=list(draft.passed_over),
        )
