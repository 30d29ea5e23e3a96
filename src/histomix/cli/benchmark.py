"""``histomix benchmark``: encoders and heads in one table, on the same spots and folds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .session import Json, Quiet, Seed, Threads, TrustCode, session


def benchmark(
    sheets: Annotated[list[Path], typer.Argument(help="Cohort sheets.", show_default=False, metavar="SHEET...")],
    out: Annotated[Path, typer.Option("--out", help="Folder for features, scores and the page.", show_default=False)],
    encoders: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder", help="An encoder; give it several times. uni+conch joins two.", show_default="builtin"
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights", help="Local weights of an encoder: uni=FILE.", show_default=False, metavar="NAME=FILE"
        ),
    ] = None,
    heads: Annotated[
        str, typer.Option("--heads", help="Heads; the baselines always stand beside them.")
    ] = "ridge,default",
    folds: Annotated[
        str,
        typer.Option(
            "--folds",
            help="Protocols: donor or site (honest), section (optimistic), random (leaky); transfer: each sheet to "
            "each other.",
        ),
    ] = "donor",
    labels: Annotated[
        list[Path] | None,
        typer.Option("--labels", help="Folder made by label, one for each sheet.", show_default="those of the sheet"),
    ] = None,
    truth: Annotated[
        list[Path] | None,
        typer.Option("--truth", help="Folder of known abundances, one for each sheet.", show_default=False),
    ] = None,
    nuclei: Annotated[
        bool, typer.Option("--nuclei/--no-nuclei", help="Count nuclei in the slides, for a baseline.")
    ] = True,
    trust_code: TrustCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
    seed: Seed = 0,
    threads: Threads = None,
) -> None:
    """Compare encoders and heads on the same spots and folds. The same command again makes only what is missing."""
    with session(as_json, quiet, threads, goes_on=True) as run:
        from ..benchmark import run_benchmark

        files = named_weights(weights)
        result = run_benchmark(
            sheets,
            out,
            encoders or ["builtin"],
            _listed(heads),
            _listed(folds),
            labels=labels or None,
            truth=truth or None,
            weights=files,
            trust_code=trust_code,
            nuclei=nuclei,
            seed=seed,
            threads=threads,
            progress=run.progress,
        )
        shown = ["cohort", "protocol", "target", "rank", "encoder", "head", "pearson", "low", "high", "minus_best"]
        table = result.ranking[shown].to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep="-")
        run.say(f"{table}\n\npage: {result.page}")
        for failure in result.failures:
            run.failed(failure)
        run.done(out=str(out), page=str(result.page), ranking=result.ranking.to_dict("records"))


def named_weights(given: list[str] | None) -> dict[str, str]:
    """Files by the name of their encoder, from ``NAME=FILE``. Raises InputError where a name is missing."""
    from ..errors import InputError

    files = {}
    for one in given or []:
        name, equals, file = one.partition("=")
        if not equals:
            raise InputError(f"--weights {one!r} does not name its encoder", hint="Write it as NAME=FILE")
        files[name] = file
    return files


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
