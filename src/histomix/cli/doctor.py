"""``histomix doctor``: what is installed, what can load, and what mends the rest."""

from __future__ import annotations

from typing import Annotated

import typer

from .session import Json, Quiet, session


def doctor(
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", help="Only this encoder: a name, a card file or zoo:NAME.", show_default="all"),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what is installed, which encoders can load now, and for each that cannot the one step that mends it."""
    with session(as_json, quiet) as run:
        from ..encoders import doctor as examine

        installation = examine(encoder)
        run.say(installation.text())
        run.done(**installation.to_dict())
        if installation.missing or (encoder and not installation.encoders[encoder].loadable):
            raise typer.Exit(1)
