"""``histomix inspect``: what a file or folder is, and the sheet row that uses it."""

from __future__ import annotations

from typing import Annotated

import typer

from .session import Json, Quiet, session


def inspect(
    path: Annotated[
        str,
        typer.Argument(help="A file or folder; options of its format may follow a #.", show_default=False),
    ],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what a file or folder is, what is in it, what is missing, and the sheet row to use."""
    with session(as_json, quiet) as run:
        from ..spots import inspect_data

        found = inspect_data(path)
        run.say(f"{found.path}: {found.description.what}")
        for title, lines in (("In it", found.description.contents), ("Missing", found.description.missing)):
            if lines:
                run.say(f"\n{title}:")
            for line in lines:
                run.say(f"  - {line}")
        if found.rows:
            run.say("\nFor a cohort sheet:\n" + found.sheet().rstrip())
        run.done(
            path=str(found.path),
            what=found.description.what,
            contents=list(found.description.contents),
            missing=list(found.description.missing),
            rows=[dict(row) for row in found.rows],
            sheet=found.sheet(),
        )
