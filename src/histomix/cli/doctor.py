"""``histomix doctor``: what is installed, what can load, and what mends the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .session import Json, Quiet, session


def doctor(
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", help="Only this encoder: a name, a card file or zoo:NAME.", show_default="all"),
    ] = None,
    golden: Annotated[
        bool,
        typer.Option("--golden", help="Run a tile whose numbers are published: are the weights what they claim to be?"),
    ] = False,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Local weights, for --golden.", show_default="the hub's cache")
    ] = None,
    pair: Annotated[
        Path | None,
        typer.Option(
            "--pair", help="Folder with tile.png and expected.npy, for --golden.", show_default="that of HISTOMIX_DATA"
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say what is installed, which encoders can load now, and for each that cannot the one step that mends it."""
    with session(as_json, quiet) as run:
        from ..encoders import doctor as examine

        installation = examine(encoder, golden=golden, weights=weights, pair=pair)
        run.say(installation.text())
        run.done(**installation.to_dict())
        # Weights that were given are judged by their pair alone, whatever the hub's cache holds.
        unloadable = encoder and weights is None and not installation.encoders[encoder].loadable
        amiss = any(one.state != "agrees" for one in installation.golden.values())
        if installation.missing or unloadable or amiss:
            raise typer.Exit(1)
