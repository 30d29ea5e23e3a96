"""What must be said of a slide before anybody believes its map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.words import counted
from ..maps.areas import areas_sentence
from ..maps.reading import scope_statement
from .plan import Plan, knows_slide

if TYPE_CHECKING:
    from ..heads import Head

#: Where less than this share of the tissue is read, it is said what became of the rest.
_MOST_IS_READ = 0.75
_FEW_TILES = 2


def remarks_of(
    plan: Plan,
    head: Head,
    areas: Mapping[str, float],
    unreadable: int,
    in_scope: int,
    scale: Mapping[str, Any] | None = None,
    focus: Mapping[str, Any] | None = None,
) -> list[str]:
    """Sentences on a slide whose map must be read with care.

    Parameters
    ----------
    plan, head
        Its tiles, and the head that read them.
    areas
        What became of its tissue, mm2.
    unreadable, in_scope
        How many tiles could not be read, and how many are like those of the training.
    scale
        What the head says of the slide's um per px (`histomix.heads.trust.scale.ScaleModel.check`).
    focus
        How sharp the slide is (`histomix.prediction.focus.focus_facts`).
    """
    remarks = []
    readable = len(plan) - unreadable
    statement = scope_statement(in_scope / readable if readable else float("nan"), head.card.get("tissue"))
    if statement:
        remarks.append(f"{statement}: check the tissue, the stain and the um per px, and do not read its composition")
    magnified = scale is not None and scale["told"] and scale["factor"] > 1
    if scale is not None and scale["told"]:
        remarks.append(str(scale["words"]))
    if focus is not None and focus["soft"] and not magnified:  # what is magnified is soft by that
        remarks.append(str(focus["words"]))
    if unreadable:
        remarks.append(f"{unreadable:,} of {len(plan):,} tiles could not be read")
    if knows_slide(plan, head):
        remarks.append("the head was trained on this very slide: its map tests nothing")
    upsampling = plan.facts["slide"]["upsampling"]
    if upsampling > 1.05:
        remarks.append(f"tiles are interpolated, {upsampling:.2f} times finer than the slide")
    if misplaced := plan.facts.get("misplaced"):
        remarks.append(f"the spots that were given do not fit this slide: {misplaced}")
    if empty := _without_tiles(plan):
        remarks.append(
            f"no tile lies in {counted(len(empty), 'region')} that was to be predicted: {', '.join(empty)} (elsewhere, "
            "on no tissue, smaller than a tile, or under a smaller region that took the tiles)"
        )
    return remarks + _of_tissue(plan, areas, magnified)


def _without_tiles(plan: Plan) -> list[str]:
    """Names of the regions that were asked for and of which the map has nothing."""
    names = [str(name) for name in plan.facts["regions"] or []]
    held = {names[number] for number in np.unique(plan.tiles["region"]) if 0 <= number < len(names)}
    return [name for name in dict.fromkeys(names) if name not in held]


def _of_tissue(plan: Plan, areas: Mapping[str, float], magnified: bool) -> list[str]:
    remarks, total = [], sum(areas.values())
    asked = total - areas["excluded"]
    fat = plan.facts["tissue_areas"]["fat_mm2"]
    if areas["blur"] > 0.5 * (areas["blur"] + areas["read"]):
        remarks.append(
            f"most of what was read is out of focus ({areas['blur']:.3g} of {areas['blur'] + areas['read']:.3g} mm2): "
            f"{'if the um per px is right, ' if magnified else ''}scan the slide again before its numbers are used"
        )
    if fat > 0.5 * total:
        remarks.append(f"most of the tissue is fat ({fat:.3g} of {total:.3g} mm2)")
    if asked > 0 and areas["read"] < _MOST_IS_READ * asked:
        remarks.append(areas_sentence(areas))
    if not plan.at_spots:
        _, tiles = np.unique(plan.tiles["fragment"], return_counts=True)
        if len(tiles) > 1 and tiles.max() <= _FEW_TILES:
            held = "one tile" if tiles.max() == 1 else "one or two tiles"
            remarks.append(
                f"each of its {len(tiles)} pieces of tissue holds {held}: the numbers of a piece lean on that alone"
            )
    return remarks
