"""``histomix encoders``: the cards."""

from __future__ import annotations

import dataclasses

from .session import Json, Quiet, Seed, Threads, session


def encoders(as_json: Json = False, quiet: Quiet = False, seed: Seed = 0, threads: Threads = None) -> None:
    """List the encoders: what each sees and gives, its licence, and whether it can load now."""
    with session(as_json, quiet, threads) as run:
        from ..encoders import availability, cards

        rows = [(card, availability(card.name)) for card in cards()]
        if not (as_json or quiet):
            from rich.console import Console
            from rich.table import Table

            table = Table("name", "dim", "px", "um/px", "pooling", "licence", "gated", "source", "loads offline", box=None)
            for card, state in rows:
                table.add_row(
                    card.name,
                    str(card.dim),
                    str(card.size_px),
                    f"{card.mpp:g}",
                    card.pooling,
                    card.licence,
                    "yes" if card.gated else "no",
                    card.hub_id or card.source,
                    "yes" if state.loadable else "no",
                )
            Console().print(table)
        run.done(
            encoders=[{**dataclasses.asdict(card), "loadable_offline": state.loadable} for card, state in rows],
        )
