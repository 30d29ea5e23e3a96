"""``histomix reproduce``: a published table made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .session import Json, Quiet, Session, Threads, TrustCode, session


def reproduce(
    name: Annotated[
        str | None, typer.Argument(help="A study; --list shows them.", show_default=False, metavar="NAME")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for every step.", show_default=False)] = None,
    show: Annotated[bool, typer.Option("--list", help="List the studies.")] = False,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder with the cohorts, as published or with sheets.", show_default="fetched"),
    ] = None,
    labels: Annotated[
        list[Path] | None,
        typer.Option("--labels", help="Folder of labels that are there, one for each cohort.", show_default="made"),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", help="Of the cell types: a file or hub:NAME.", show_default="the study's"),
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="Of the labels.", show_default="the study's: cell2location")
    ] = None,
    encoders: Annotated[
        list[str] | None,
        typer.Option("--encoder", help="An encoder; give it several times.", show_default="the study's"),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option("--weights", help="Local weights of an encoder.", show_default=False, metavar="NAME=FILE"),
    ] = None,
    heads: Annotated[
        str | None, typer.Option("--heads", help="Heads, with commas between.", show_default="the study's")
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Run on what is here, and say what is missing.")] = False,
    publish: Annotated[
        bool, typer.Option("--publish", help="Train and pack a head of each cohort, ready to push.")
    ] = False,
    mirror: Annotated[
        str | None,
        typer.Option("--mirror", help="Server that holds the same files under MIRROR/<host>/.", show_default=False),
    ] = None,
    trust_code: TrustCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
    threads: Threads = None,
) -> None:
    """Make a published table anew: fetch, label, embed, evaluate; the published figure and ours side by side.

    The same command goes on where it stopped.
    """
    with session(as_json, quiet, threads, goes_on=True) as run:
        from ..errors import InputError

        if show:
            _list(run)
            return
        if name is None or out is None:
            raise InputError(
                "a study and a folder are needed", hint="histomix reproduce NAME --out OUT; --list shows the studies"
            )
        from ..studies import reproduce as make
        from .benchmark import named_weights

        done = make(
            name,
            out,
            data=data,
            labels=labels,
            reference=reference,
            method=method,
            encoders=encoders,
            weights=named_weights(weights),
            heads=None if heads is None else [one.strip() for one in heads.split(",") if one.strip()],
            partial=partial,
            publish=publish,
            mirror=mirror,
            trust_code=trust_code,
            threads=threads,
            progress=run.progress,
            say=run.remark if not quiet else lambda text: None,
        )
        shown = done.table[["row", "column", "published", "ours", "interval"]]
        run.say(shown.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.3f}"))
        run.say(f"\ntable: {out / 'table.csv'}\npage: {done.page}")
        for archive in done.heads:
            run.say(f"head: {archive}, to be pushed with: histomix head push {archive.with_suffix('')} hf://OWNER/NAME")
        for failure in done.failures:
            run.failed(failure)
        run.done(
            out=str(out),
            page=str(done.page),
            missing=done.missing,
            heads=[str(one) for one in done.heads],
            table=done.table.astype(object).where(done.table.notna(), None).to_dict("records"),
        )


def _list(run: Session) -> None:
    from ..studies import list_studies

    studies = [one.to_dict() for one in list_studies()]
    for one in studies:
        cohorts = ", ".join(f"{cohort['name']} ({cohort['donors']} donors)" for cohort in one["cohorts"])
        run.say(
            f"{one['name']}: {one['title']}\n  {cohorts}; {one['folds']} folds; labels by {one['labels']} with "
            f"{one['reference']}\n  encoders {', '.join(one['encoders'])}; heads {', '.join(one['heads'])}\n  "
            f"{one['published']} published figures, {one['not_at_hand']} more not at hand; {one['source']}\n"
        )
    run.done(studies=studies)
