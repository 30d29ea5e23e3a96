"""Features of several sections, which a notebook shows as one card."""

from __future__ import annotations

from anndata import AnnData

from ..common.words import counted
from ..provenance import parse_json


class Features(dict[str, AnnData]):
    """Section -> features: a dict with a card."""

    def _repr_html_(self) -> str:
        from ..notebook import card_html

        facts, rows, told = [], [], {}
        for name, table in self.items():
            told = told or parse_json(str(table.uns.get("manifest", "{}")))
            tissue = float(table.obs["tissue"].mean()) if "tissue" in table.obs else None
            rows.append([name, f"{table.n_obs:,}", tissue])
        if told:
            encoder, tile = told["encoder"], told["tile"]
            facts = [
                ("encoder", encoder.get("name")),
                ("licence", encoder.get("licence")),
                ("tile", f"{tile.get('size_px')} px at {tile.get('mpp')} um per px"),
            ]
        width = next(iter(self.values())).n_vars if self else 0
        tiles = sum(table.n_obs for table in self.values())
        lead = f"{counted(tiles, 'tile')} of {counted(len(self), 'section')}, {counted(width, 'feature')} each"
        return card_html("Features", lead, facts, ("section", "tiles", "mean share of tissue"), rows)
