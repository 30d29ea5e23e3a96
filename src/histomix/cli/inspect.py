"""``histomix inspect``: what a file or folder is, and the sheet row that uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .session import REFUSED, Json, Quiet, session


def inspect(
    path: Annotated[
        str,
        typer.Argument(help="A file or folder; options of its format may follow a #.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write the row as a sheet; paths relative to it.", show_default=False),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what a file or folder is, what is in it, what is missing, and the sheet row to use.

    Exit code 2 where it cannot be used.
    """
    with session(as_json, quiet) as run:
        from ..spots import inspect_data, write_rows

        inspection = inspect_data(path)
        run.say(f"{inspection.path}: {inspection.description.what}")
        for title, lines in (("In it", inspection.description.contents), ("Missing", inspection.description.missing)):
            if lines:
                run.say(f"\n{title}:")
            for line in lines:
                run.say(f"  - {line}")
        if inspection.rows:
            shown = None if out is None else out.parent
            run.say(f"\n{'For a cohort sheet' if out is None else out}:\n{inspection.sheet(shown).rstrip()}")
        if out is not None:
            write_rows(inspection, out)
        if not inspection.usable:
            run.failures.append(f"{inspection.path}: {inspection.description.what}")
        run.done(
            path=str(inspection.path),
            what=inspection.description.what,
            contents=list(inspection.description.contents),
            missing=list(inspection.description.missing),
            rows=[dict(row) for row in inspection.rows],
            sheet=inspection.sheet(),
        )
        if not inspection.usable:
            raise typer.Exit(REFUSED)
