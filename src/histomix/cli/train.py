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
    head: Annotated[str, typer.Option("--head", help="mlp, ridge, knn or mean.")] = "mlp",
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Train a head on all sections of the sheet."""
    with session(as_json, quiet, threads) as run:
        from ..abundance import cohort_labels, read_labels
        from ..embedding import read_features
        from ..heads import train as train_head
        from ..spots import read_cohort

        cohort = read_cohort(sheet)
        tables = cohort_labels(cohort) if labels is None else read_labels(labels)
        trained = train_head(
            cohort,
            [read_features(folder) for folder in features],
            tables,
            head=head,
            seed=seed,
            out=out,
            progress=run.progress,
        )
        run.say(f"{head} head for {len(trained.card['cell_types'])} cell types ({trained.card['unit']}): {out}")
        run.done(out=str(out), card=trained.card)
