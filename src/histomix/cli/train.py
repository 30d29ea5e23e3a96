"""``histomix train``: a head from features and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .session import Json, Quiet, Seed, Sheet, Threads, session

Features = Annotated[
    list[Path],
    typer.Option("--features", help="Folder made by embed; give it again to join encoders.", show_default=False),
]
Labels = Annotated[
    Path | None, typer.Option("--labels", help="Folder made by label.", show_default="the sheet's labels column")
]


def train(
    sheet: Sheet,
    features: Features,
    out: Annotated[Path, typer.Option("--out", help="Folder for the head.", show_default=False)],
    labels: Labels = None,
    head: Annotated[
        str,
        typer.Option(
            "--head",
            help="default (average), or: average, mlp, ridge, knn, pcr, gbm, mean; as published: sun2025, hist2cell, "
            "hist2cell-tiles.",
        ),
    ] = "default",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A parameter of the head, again for more: smooth_um=80, rings_um=150,300.",
            show_default=False,
            metavar="NAME=VALUE",
        ),
    ] = None,
    damp_stain: Annotated[
        bool,
        typer.Option(
            "--damp-stain/--no-damp-stain",
            help="Look past what stain alone does to features, which embed has tried on some tiles.",
        ),
    ] = True,
    level: Annotated[
        float, typer.Option("--level", help="Share of labels that intervals are to hold; 0 for no intervals.")
    ] = 0.9,
    scores: Annotated[
        Path | None,
        typer.Option(
            "--scores",
            help="Folder made by evaluate, whose scores of this head go into its card.",
            show_default="those of the inner splits",
        ),
    ] = None,
    hierarchy: Annotated[
        Path | None,
        typer.Option(
            "--hierarchy",
            help="Groups of cell types that tiles may be answered with (YAML or CSV).",
            show_default="those of the labels",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Train a head on all sections of the sheet. Resumable: run the same command again."""
    with session(as_json, quiet, threads, goes_on=True) as run:
        from ..common.words import counted
        from ..heads import parse_settings
        from ..heads import train as train_head

        parameters = parse_settings(head, settings or [])
        trained = train_head(
            sheet,
            features,
            labels,
            head=head,
            seed=seed,
            out=out,
            progress=run.progress,
            scores=scores,
            level=level or None,
            parameters=parameters,
            damp_stain=damp_stain,
            hierarchy=hierarchy,
        )
        run.say(
            f"{head} head for {counted(len(trained.card['cell_types']), 'cell type')} ({trained.card['unit']}): {out}"
        )
        if trained.intervals is not None:
            run.say(trained.card["calibration"]["statement"])
        run.done(out=str(out), card=trained.card)
