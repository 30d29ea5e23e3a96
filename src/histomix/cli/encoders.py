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

            table = Table(
                "name", "dim", "px", "um/px", "pooling", "licence", "gated", "source", "loads offline", box=None
            )
            for one, state in rows:
                table.add_row(
                    one.name,
                    str(one.dim),
                    str(one.size_px),
                    f"{one.mpp:g}",
                    one.pooling,
                    one.licence,
                    "yes" if one.gated else "no",
                    one.hub_id or one.source,
                    "yes" if state.loadable else "no",
                )
            Console().print(table)
        run.done(
            encoders=[{**dataclasses.asdict(one), "loadable_offline": state.loadable} for one, state in rows],
        )
