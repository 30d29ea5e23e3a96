"""Labels of several sections, which a notebook shows as one card."""

from __future__ import annotations

from ..common.words import counted
from .abundance import Abundance


class Labels(dict[str, Abundance]):
    """Section -> labels: a dict with a card."""

    def _repr_html_(self) -> str:
        from ..notebook import card_html

        types = list(dict.fromkeys(name for one in self.values() for name in one.cell_types))
        methods = sorted({str(one.provenance["method"]) for one in self.values() if one.provenance.get("method")})
        facts = [("unit", sorted({one.unit for one in self.values()})), ("method", methods), ("cell types", types)]
        rows = [
            [name, f"{len(one.values):,}", None if one.reliability is None else float(one.reliability.mean())]
            for name, one in self.items()
        ]
        spots = sum(len(one.values) for one in self.values())
        lead = f"{counted(spots, 'spot')} of {counted(len(self), 'section')}, {counted(len(types), 'cell type')}"
        return card_html("Labels", lead, facts, ("section", "spots", "mean reliability"), rows)
