"""What the card of a head says of the means of slides and of totals, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...common.units import RELATIVE
from ...common.words import counted
from .levels import Levels, levels_of
from .markdown import markdown_table, number_text

#: Numbers of the card's levels: errors of slides' means, and how their order and spread are kept.
_HALF = "slide_error"
_ERRORS = ("slide_mae", "slide_mae_constant", _HALF)
_ACROSS = ("slide_spearman", "spread_kept")
_SHRUNK = ("slope", "shrunk_mae")


def level_lines(card: Mapping[str, Any]) -> list[str]:
    """What a card says of the means of slides, in lines: where it comes from, then what each cell type is good for."""
    levels = levels_of(card)
    if levels is None:
        return ["means of slides: not known"]
    names = [str(name) for name in card.get("cell_types") or []]
    widest = max((len(name) for name in names), default=0)
    lines = [f"means of slides, {_held_out(levels)}:"]
    for name in names:
        error, constant, half = (levels.number(name, what) for what in _ERRORS)
        line = f"  {name:{widest}}  {levels.word(name)}"
        line += "" if error is None or constant is None else f"; error {error:.3f} (training mean {constant:.3f})"
        lines.append(line + ("" if half is None else f"; {levels.level:.0%} within {half:.3f}"))
    return lines


def _held_out(levels: Levels) -> str:
    if levels.donors_unseen:
        return f"{counted(levels.n_donors, 'donor')} held out ({counted(levels.n_sections, 'section')})"
    return f"{counted(levels.n_sections, 'section')} held out, of {counted(levels.n_donors, 'donor')} in training"


def levels_markdown(card: Mapping[str, Any]) -> str:
    """What a card says of the means of slides, as Markdown."""
    levels = levels_of(card)
    if levels is None:
        return "Not known: no section was held out."
    shown = (*_ERRORS[:2], *_ACROSS, _HALF, *_SHRUNK)
    rows = [
        [name, levels.word(name), *(number_text(levels.number(name, what)) for what in shown)]
        for name in card["cell_types"]
    ]
    head = ["Cell type", "Good for", "Error of slide means", "Training mean's", "Order (Spearman)", "Spread kept"]
    head += [f"{levels.level:.0%} of slides within", "Slope", "Error when drawn"]
    text = f"Means of slides, {_held_out(levels)}. "
    if not levels.donors_unseen:
        text += "Slides are told apart only by donors that were in no training row. "
    text += (
        "*Between slides*: the error of slide means is below the training mean's. *Within a slide only*: it is not, "
        "but places within a slide are told. *Slope*: how much of what sets a slide's mean apart from the training "
        "mean is to be believed; drawn to it by that much, means have the last error."
    )
    text += "\n\n" + markdown_table(head, rows)
    return text + _totals(card["levels"].get("totals"), card["unit"])


def _totals(facts: Mapping[str, Any] | None, unit: str) -> str:
    """How well the number of cells in a spot is told."""
    numbers = [(facts or {}).get(name) for name in ("rmse", "rmse_constant", "least", "most")]
    if not facts or not all(isinstance(one, int | float) for one in numbers):
        return ""
    rmse, without, least, most = (number_text(one) for one in numbers)
    text = (
        f"\n\nCells in a spot, all types together: the error on held-out slides is {rmse}, the training mean's "
        f"{without}; the mean of a donor is read {least} to {most} times what it is. "
    )
    if facts.get("told") is True:
        return text + "So totals are told as well as by the training mean, or better."
    if unit == RELATIVE:
        return text + "So totals of a new slide are not told, and the head answers in relative abundance."
    return text + "So totals of a new slide are not told: read its numbers relative to each other, not as cells."
