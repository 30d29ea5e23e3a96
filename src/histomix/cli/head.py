"""``histomix head``: share heads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .session import Anonymise, Json, PseudonymKey, Quiet, Session, session

if TYPE_CHECKING:
    from ..sharing import HeadFacts

head = typer.Typer(
    name="head",
    help="Ready heads and your own: list, pull, show and push, with the Hugging Face hub, a folder or a zip archive.",
    no_args_is_help=True,
    add_completion=False,
)
_MB = 1_000_000
_SOURCE = "hf://OWNER/NAME[@REVISION], a zip archive, a folder, or a name that head list shows."
#: How heads that no catalogue lists are made or had.
_ELSEWHERE = (
    "Others: histomix train makes one from your own sections, histomix reproduce STUDY --publish one of a published "
    "study; --catalogue adds what others list, and hf://OWNER/NAME, a zip or a folder can be pulled without a list."
)

Endpoint = Annotated[str | None, typer.Option("--endpoint", help="Address of a mirror of the hub.", show_default=False)]
Catalogue = Annotated[
    list[str] | None,
    typer.Option("--catalogue", help="A catalogue beside the package's own.", show_default=False, metavar="URL|FILE"),
]
MaxMb = Annotated[int, typer.Option("--max-mb", min=1, help="Refuse a head that is larger.")]


@head.command("push")
def push(
    folder: Annotated[Path, typer.Argument(help="Folder of the head.", show_default=False, metavar="HEAD")],
    target: Annotated[
        str, typer.Argument(help="hf://OWNER/NAME[@BRANCH], a new .zip or a new folder.", show_default=False)
    ],
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public (private otherwise).")] = False,
    message: Annotated[str, typer.Option("--message", "-m", help="Of the commit.", show_default=False)] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before anything leaves this computer.")] = False,
    anonymise: Anonymise = False,
    pseudonym_key: PseudonymKey = None,
    endpoint: Endpoint = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Share a head with a README written from its card. Only hf:// uses a network."""
    with session(as_json, quiet) as run:
        from ..common.words import counted
        from ..errors import InputError
        from ..heads import load_head
        from ..sharing import push_head

        if target.startswith("hf://") and not yes:
            training = load_head(folder).card["training"]
            counts = f"{counted(training['n_donors'], 'donor')} and {counted(training['n_sections'], 'section')}"
            names = f"has pseudonyms for {counts}" if anonymise else f"names {counts}"
            run.remark(f"{target} will be given the card, which {names}, the arrays and a README.")
            if not _agreed("Send it?", as_json):
                raise InputError("nothing was sent", hint="Agree when asked, or give --yes")
        place = push_head(
            folder,
            target,
            public=public,
            message=message,
            endpoint=endpoint,
            anonymise=anonymise,
            pseudonym_key=pseudonym_key,
        )
        run.say(f"head: {place}")
        run.done(target=place)


@head.command("pull")
def pull(
    source: Annotated[str, typer.Argument(help=_SOURCE, show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the head.", show_default="of a name, the cache: predict --head NAME"),
    ] = None,
    catalogue: Catalogue = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit.", show_default="main")
    ] = None,
    digest: Annotated[
        str | None, typer.Option("--digest", help="Refuse a head with another digest of its card.", show_default=False)
    ] = None,
    accept: Annotated[bool, typer.Option("--accept-licence", help="Accept the licence without being asked.")] = False,
    max_mb: MaxMb = 1000,
    endpoint: Endpoint = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take a head from elsewhere: its licence is shown first, and every file is checked against its sha256."""
    with session(as_json, quiet) as run:
        from ..sharing import head_folder, pull_head

        def agreed(facts: HeadFacts) -> bool:
            _show(run, facts)
            return accept or _agreed("Accept the licence and take the head?", as_json)

        pulled = pull_head(
            source,
            out,
            accept=agreed,
            revision=revision,
            digest=digest,
            max_bytes=max_mb * _MB,
            endpoint=endpoint,
            catalogue=catalogue or (),
        )
        place = out if out is not None else head_folder(source)
        run.say(f"head: {place}")
        run.done(out=str(place), name=pulled.card["name"], digest=pulled.card["digest"])


@head.command("show")
def show(
    source: Annotated[str, typer.Argument(help=_SOURCE, show_default=False)],
    catalogue: Catalogue = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit.", show_default="main")
    ] = None,
    max_mb: MaxMb = 1000,
    endpoint: Endpoint = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a head says of itself: licence, tissue, intended use, limits and digest."""
    with session(as_json, quiet) as run:
        from ..sharing import head_facts

        facts = head_facts(
            source, revision=revision, max_bytes=max_mb * _MB, endpoint=endpoint, catalogue=catalogue or ()
        )
        run.say(facts.text())
        run.done(**facts.to_dict(), card=facts.card)


@head.command("list")
def list_(catalogue: Catalogue = None, as_json: Json = False, quiet: Quiet = False) -> None:
    """List ready heads: tissue, cell types, encoder and licence, donors, scores by protocol, size and sha256."""
    with session(as_json, quiet) as run:
        from ..sharing import list_heads

        heads = list_heads(*(catalogue or ()))
        for one in heads:
            run.say(one.text() + "\n")
        run.say("Take one with: histomix head pull NAME. Use it with: histomix predict SLIDE --head NAME --out MAPS")
        run.say(_ELSEWHERE)
        run.done(heads=[one.to_dict() for one in heads], others=_ELSEWHERE)


def _show(run: Session, facts: HeadFacts) -> None:
    """On stderr, so that it is seen before the question even where stdout is a program's."""
    run.remark(facts.text())


def _agreed(question: str, as_json: bool) -> bool:
    """Ask a person; where there is none, the answer is no."""
    return not as_json and sys.stdin.isatty() and typer.confirm(question, err=True)
