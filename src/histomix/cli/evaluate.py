"""``histomix evaluate``: how well heads predict sections they have not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .session import Json, Quiet, Seed, Sheet, Threads, session
from .train import Features, Labels


def evaluate(
    sheet: Sheet,
    features: Features,
    out: Annotated[Path, typer.Option("--out", help="Folder for metrics and predictions.", show_default=False)],
    labels: Labels = None,
    heads: Annotated[
        str, typer.Option("--heads", help="Heads to compare; mean and ridge always stand beside them.")
    ] = "mean,ridge,mlp",
    folds: Annotated[
        str, typer.Option("--folds", help="donor (honest), section (optimistic) or random (leaky).")
    ] = "donor",
    truth: Annotated[
        Path | None,
        typer.Option("--truth", help="Folder of known abundances to score against as well.", show_default=False),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Score heads on held-out donors (or sections), with baselines beside them."""
    with session(as_json, quiet, threads) as run:
        from ..abundance import cohort_labels, read_labels
        from ..embedding import read_features
        from ..evaluation import evaluate as evaluate_heads
        from ..spots import read_cohort

        cohort = read_cohort(sheet)
        result = evaluate_heads(
            cohort,
            [read_features(folder) for folder in features],
            cohort_labels(cohort) if labels is None else read_labels(labels),
            heads=tuple(name.strip() for name in heads.split(",") if name.strip()),
            folds=folds,
            truth=None if truth is None else read_labels(truth),
            out=out,
            seed=seed,
            progress=run.progress,
        )
        run.say(result.text())
        run.done(out=str(out), summary=result.summary)
