"""``histomix evaluate``: how well heads predict sections they have not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .session import Json, Quiet, Seed, Sheet, Threads, session
from .train import Features, Labels

_TEST = "Second cohort"


def evaluate(
    sheet: Sheet,
    features: Features,
    out: Annotated[Path, typer.Option("--out", help="Folder for metrics and predictions.", show_default=False)],
    labels: Labels = None,
    heads: Annotated[
        str, typer.Option("--heads", help="Heads to compare; mean and ridge always stand beside them.")
    ] = "mean,ridge,default",
    folds: Annotated[
        str | None,
        typer.Option(
            "--folds",
            help="donor or site (honest), section (optimistic), random (leaky). Several, with commas, stand side by "
            "side: the most honest is the result.",
            show_default="donor",
        ),
    ] = None,
    n_folds: Annotated[
        int | None,
        typer.Option("--n-folds", min=2, help="Fewer folds, each of whole donors.", show_default="one a donor"),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse to score when the audit finds a leak or the signs of one.")
    ] = False,
    truth: Annotated[
        Path | None,
        typer.Option("--truth", help="Folder of known abundances to score against as well.", show_default=False),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(
            "--groups", help="Coarser groups of cell types: CSV cell_type,group or YAML.", show_default="by the labels"
        ),
    ] = None,
    nuclei: Annotated[
        bool, typer.Option("--nuclei/--no-nuclei", help="Count nuclei in the slides, for a baseline.")
    ] = True,
    spatial: Annotated[
        bool, typer.Option("--spatial/--no-spatial", help="Spatial patterns, co-localisation and domains.")
    ] = True,
    damp_stain: Annotated[
        bool, typer.Option("--damp-stain/--no-damp-stain", help="As for train: of each fold, learnt from its training.")
    ] = True,
    more_donors: Annotated[
        bool,
        typer.Option("--more-donors", help="What more donors in training do, for ridge and the last head: more fits."),
    ] = False,
    radius_um: Annotated[
        float | None,
        typer.Option("--radius-um", help="Length scale of the spatial scores.", show_default="the spots' pitch"),
    ] = None,
    regions: Annotated[
        Path | None,
        typer.Option(
            "--regions",
            help="Folder of regions that a pathologist named: <section>*.csv, .tsv or .geojson.",
            show_default=False,
        ),
    ] = None,
    test_sheet: Annotated[
        Path | None,
        typer.Option(
            "--test-sheet",
            help="Train on SHEET, test on this cohort.",
            show_default=False,
            rich_help_panel=_TEST,
        ),
    ] = None,
    test_features: Annotated[
        list[Path] | None,
        typer.Option("--test-features", help="Its features, as --features.", show_default=False, rich_help_panel=_TEST),
    ] = None,
    test_labels: Annotated[
        Path | None,
        typer.Option("--test-labels", help="Its labels.", show_default="its labels column", rich_help_panel=_TEST),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Score heads on held-out donors, sites or another cohort, with baselines beside them.

    Resumable: run the same command again.
    """
    with session(as_json, quiet, threads, goes_on=True) as run:
        from ..errors import InputError
        from ..evaluation import CohortData
        from ..evaluation import evaluate as evaluate_heads

        if (test_sheet is None) != (not test_features) or (test_labels is not None and test_sheet is None):
            raise InputError(
                "a second cohort needs its sheet and its features",
                hint="Give --test-sheet and --test-features together (and --test-labels), or none of them",
            )
        result = evaluate_heads(
            sheet,
            features,
            labels,
            heads=tuple(name.strip() for name in heads.split(",") if name.strip()),
            folds=folds,
            n_folds=n_folds,
            test=None if test_sheet is None else CohortData.of(test_sheet, test_features or [], test_labels),
            strict=strict,
            truth=truth,
            groups=groups,
            nuclei=nuclei,
            spatial=spatial,
            more_donors=more_donors,
            damp_stain=damp_stain,
            radius_um=radius_um,
            regions=regions,
            out=out,
            seed=seed,
            progress=run.progress,
        )
        run.say(result.text())
        run.done(out=str(out), summary=result.summary)
