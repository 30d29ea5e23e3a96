"""What the card of a head says of the means of slides, for every surface that shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...common.words import BETWEEN, NEITHER, NOT_KNOWN, WITHIN


@dataclass(frozen=True)
class Levels:
    """How well a head tells slides apart by their means.

    Attributes
    ----------
    protocol
        "held-out donor" or "held-out section".
    donors_unseen
        Whether the donors that were held out were in no training row.
    n_donors, n_sections
        That were held out.
    level
        Share of held-out slides whose error `slide_error` holds.
    by_type
        Facts of each cell type, as they stand in the card.
    """

    protocol: str
    donors_unseen: bool
    n_donors: int
    n_sections: int
    level: float
    by_type: Mapping[str, Mapping[str, Any]]

    def word(self, cell_type: str) -> str:
        """What predictions of a type are good for: "between slides", "within a slide only", "neither", "not known"."""
        said = self._facts(cell_type).get("good_for")
        return said if said in (BETWEEN, WITHIN, NEITHER) else NOT_KNOWN

    def slide_error(self, cell_type: str) -> float | None:
        """Half the width around a slide's mean that holds `level` of held-out slides' errors; None if not known."""
        return self.number(cell_type, "slide_error")

    def number(self, cell_type: str, name: str) -> float | None:
        """A number of a type by its name in the card; None if not known."""
        value = self._facts(cell_type).get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            return None
        return float(value)

    def _facts(self, cell_type: str) -> Mapping[str, Any]:
        facts = self.by_type.get(cell_type)
        return facts if isinstance(facts, Mapping) else {}


def levels_of(card: Mapping[str, Any]) -> Levels | None:
    """What a card says of the means of slides; None where it says nothing, as an older card.

    A card may come from elsewhere: what is no word or number of these is not known.
    """
    facts = card.get("levels")
    if not isinstance(facts, Mapping):
        return None
    by_type, level = facts.get("by_type"), facts.get("level")
    counts = [facts.get(name) for name in ("n_donors", "n_sections")]
    n_donors, n_sections = (one if isinstance(one, int) and one >= 0 else 0 for one in counts)
    unseen = facts.get("donors_unseen") is True
    return Levels(
        protocol=f"held-out {'donor' if unseen else 'section'}",
        donors_unseen=unseen,
        n_donors=n_donors,
        n_sections=n_sections,
        level=float(level) if isinstance(level, int | float) and 0 < level < 1 else float("nan"),
        by_type=by_type if isinstance(by_type, Mapping) else {},
    )
