"""``histomix encoders``: the cards."""

from __future__ import annotations

import dataclasses

from .session import Json, Quiet, session

#: Columns of a pipe, in which a row is one line.
_PIPE = 400


def encoders(as_json: Json = False, quiet: Quiet = False) -> None:
    """List the encoders: what each sees and gives, its licence, and whether it can load now."""
    with session(as_json, quiet) as run:
        from ..encoders import availability, cards

        rows = [(one, availability(one.name)) for one in cards()]
        if not (as_json or quiet):
            from rich.console import Console
            from rich.table import Table

            names = ("name", "dim", "px", "um/px", "pooling", "licence", "gated", "revision", "loads offline")
            table = Table(*names, box=None)
            for number in (0, 4, 7):
                table.columns[number].no_wrap = True
            # Licences are whole on any width: a narrow terminal folds them, a pipe has no width.
            table.columns[5].overflow = "fold"
            table.columns[5].min_width = 14
            for one, state in rows:
                # What no source confirmed is marked.
                doubt = {
                    name: "?" if name in one.unconfirmed else "" for name in ("mpp", "licence", "gated", "pooling")
                }
                table.add_row(
                    one.name,
                    str(one.dim),
                    str(one.size_px),
                    f"{one.mpp:.3g}{doubt['mpp']}",
                    one.pooling + doubt["pooling"],
                    one.licence + doubt["licence"],
                    ("yes" if one.gated else "no") + doubt["gated"],
                    (one.revision or "-")[:7],
                    "yes" if state.loadable else "no",
                )
            console = Console()
            Console(width=None if console.is_terminal else _PIPE).print(table)
            run.say(
                "\n? not confirmed by a second source. All facts: histomix encoders --json."
                "\nWhat makes one load: histomix doctor --encoder NAME."
                " Others: a card file's path, or zoo:NAME of lazyslide-models."
            )
        run.done(
            encoders=[
                {
                    **dataclasses.asdict(one),
                    "page": one.page,
                    "loadable_offline": state.loadable,
                    "reason": state.reason,
                    "hint": state.hint,
                }
                for one, state in rows
            ],
        )
