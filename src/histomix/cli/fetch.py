"""``histomix fetch``: a public cohort by name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .session import Json, Quiet, session


def fetch(
    name: Annotated[
        str,
        typer.Argument(
            help="her2st, stnet, wu2021-visium or hist2cell-lung; 10x:SAMPLE[@VERSION], a public Visium sample; or "
            "hest:ID, a sample of HEST-1k.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the cohort.", show_default="the user's cache")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option("--token", envvar="HF_TOKEN", help="Token of the Hugging Face hub (HEST-1k).", show_default=False),
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            "--mirror", help="Server that holds the same files under MIRROR/<host>/<path>.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Bring a public cohort here, checked, with a sheet that is ready to use."""
    with session(as_json, quiet, goes_on=True) as run:
        from ..common.words import counted
        from ..datasets import fetch_cohort
        from ..datasets.catalogue import public_cohort
        from ..spots import read_cohort

        cohort = public_cohort(name)
        run.say(f"{cohort.title}\n  licence: {cohort.licence}\n  cite: {cohort.citation}")
        sheet = fetch_cohort(name, out, token, mirror, run.progress)
        local_cohort = read_cohort(sheet)
        donors = len(set(local_cohort.donors.values()))
        run.say(f"{counted(len(local_cohort), 'section')} of {counted(donors, 'donor')}: {sheet}")
        run.done(
            sheet=str(sheet),
            sections=local_cohort.names,
            donors=donors,
            licence=cohort.licence,
            citation=cohort.citation,
        )
