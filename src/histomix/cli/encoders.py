"""``histomix encoders``: the cards."""

from __future__ import annotations

import dataclasses

from .session import Json, Quiet, Seed, Threads, session


def encoders(as_json: Json = False, quiet: Quiet = False, seed: Seed = 0, threads: Threads = None) -> None:
    """List the encoders: what each sees and gives, its licence, and whether it can load now."""
    with session(as_json, quiet, threads) as run:
        from ..encoders import availability, cards

        rows = [(one, availability(one.name)) for one in cards()]
        if not (as_json or quiet):
            from rich.console import Console
            from rich.table import Table

            table = Table("name", "dim", "px", "um/px", "pooling", "licence", "gated", "loads offline", box=None)
            table.columns[0].no_wrap = True
            for one, state in rows:
                facts = (one.name, str(one.dim), str(one.size_px), f"{one.mpp:g}", one.pooling, one.licence)
                table.add_row(*facts, "yes" if one.gated else "no", "yes" if state.loadable else "no")
            Console().print(table)
            run.say(
                "\nWhere each comes from: histomix encoders --json. What makes one load: histomix doctor --encoder NAME"
            )
        run.done(
            encoders=[{**dataclasses.asdict(one), "loadable_offline": state.loadable} for one, state in rows],
        )
