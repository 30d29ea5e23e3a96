"""What area a predicted number belongs to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..heads import Head

COUNTS = "cells per spot"


def label_area_um2(head: Head) -> float | None:
    """The area, um2, whose cells a head counts: that of its training spots; None for other units.

    A card that does not say how wide its spots were counts over the head's tile, as its estimator saw it.
    """
    if head.card["unit"] != COUNTS:
        return None
    return _spot_area_um2(head) or _tile_um(head) ** 2


def unit_facts(head: Head, plan: Mapping[str, Any]) -> dict[str, Any]:
    """What a map says of its areas: of the label, of the tile, and of a cell of the map, um2, and of a spot its width.

    ``cells_per_map_cell`` is what a number times it is the count of cells in a cell of the map.
    """
    tile = _tile_um(head) ** 2
    cell = (plan["cell_px"] * plan["slide"]["mpp"]) ** 2
    facts: dict[str, Any] = {"tile_um2": tile, "cell_um2": cell, "label_um2": None, "label_area_from": None}
    facts["spot_um"] = head.card["training"].get("spot_diameter_um")
    area = label_area_um2(head)
    if area is not None:
        facts["label_um2"] = area
        facts["label_area_from"] = "training spots" if _spot_area_um2(head) else "tile"
        facts["cells_per_map_cell"] = cell / area
    return {"area": facts}


def _spot_area_um2(head: Head) -> float | None:
    diameter = head.card["training"].get("spot_diameter_um")
    return math.pi / 4 * float(diameter) ** 2 if diameter else None


def _tile_um(head: Head) -> float:
    first = head.card["encoders"][0]
    return float(first["size_px"] * first["mpp"])
