"""Features of several sections, which a notebook shows as one card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anndata import AnnData

from ..common.storage.facts import read_facts
from ..common.words import counted


class Features(dict[str, AnnData]):
    """Section -> features in memory: a dict with a card."""

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Tiles and features of each section."""
        return {name: (table.n_obs, table.n_vars) for name, table in self.items()}

    def _repr_html_(self) -> str:
        return features_card(self, self.shapes)


def features_card(features: Mapping[str, AnnData], shapes: Mapping[str, tuple[int, int]]) -> str:
    """The card of features by section, in HTML; they are looked at one section after the other."""
    from ..notebook import card_html

    facts: list[tuple[str, Any]] = []
    rows: list[list[Any]] = []
    told: dict[str, Any] = {}
    for name, table in features.items():
        told = told or (read_facts(table.uns["manifest"]) if "manifest" in table.uns else {})
        tissue = float(table.obs["tissue"].mean()) if "tissue" in table.obs else None
        rows.append([name, f"{table.n_obs:,}", tissue])
    if told:
        encoder, tile = told["encoder"], told["tile"]
        facts = [
            ("encoder", encoder.get("name")),
            ("licence", encoder.get("licence")),
            ("tile", f"{tile.get('size_px')} px at {tile.get('mpp')} um per px"),
        ]
    width = next((width for _, width in shapes.values()), 0)
    tiles = sum(tiles for tiles, _ in shapes.values())
    lead = f"{counted(tiles, 'tile')} of {counted(len(shapes), 'section')}, {counted(width, 'feature')} each"
    return card_html("Features", lead, facts, ("section", "tiles", "mean share of tissue"), rows)
