"""Colours: one per cell type, one per head, and the scales of maps and matrices."""

from __future__ import annotations

from collections.abc import Sequence

#: Sequential, perceptually even and readable in grey: low is quiet, high is loud.
ABUNDANCE_MAP = "viridis"
#: Diverging around 0, told apart without red against green.
SIGNED_MAP = "RdBu_r"
#: What a tile may be trusted for, over H&E: greens, which no stain has; pale is sure.
TRUST_MAP = "YlGn"
#: Shares from nothing to everything, on paper.
FRACTION_MAP = "Purples"

#: Text, quiet text, axes, thin lines, and the ground of dots.
INK, QUIET, AXIS, LINE, GROUND = "#23262b", "#6a7078", "#c9ccd1", "#e1e3e6", "#ffffff"

#: What a figure draws the eye to.
ACCENT = "#6b2fb3"
#: Heads keep one colour on every figure.
HEAD_COLOURS = {
    "label": "#8a8f98",
    "average": ACCENT,
    "mlp": "#3b78c2",
    "ridge": "#d1793b",
    "sun2025": "#c2447a",
    "knn": "#2f8f83",
    "mean": "#b9bdc4",
}

#: What the colours of a chart become on a dark page.
DARK = {
    INK: "#e9ebef",
    QUIET: "#a8afb9",
    AXIS: "#5a616b",
    LINE: "#3b4048",
    GROUND: "#1c1f25",
    ACCENT: "#b794ee",
    "#b9bdc4": "#7b828c",
    "#332288": "#8f84e0",
    "#882255": "#d9699e",
    "#117733": "#4fb273",
}

# Paul Tol's "muted" scheme (https://sros.nl/~t.j.m.tol), made for colour-blind readers, then his "light" one.
_TYPE_COLOURS = (
    *("#CC6677", "#332288", "#DDCC77", "#117733", "#88CCEE", "#882255", "#44AA99", "#999933", "#AA4499"),
    *("#77AADD", "#EE8866", "#EEDD88", "#FFAABB", "#99DDFF", "#44BB99", "#BBCC33", "#AAAA00"),
)
#: Share of black that each further round of the colours is mixed with.
_SHADES = (0.0, 0.35, 0.6)


def type_colours(types: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """A colour for each cell type, as RGB in 0..1, in the order of the types.

    After 17 types the colours come again darker, and after 51 they repeat.
    """
    return {name: _type_colour(index) for index, name in enumerate(types)}


def head_colours(heads: Sequence[str]) -> dict[str, str]:
    """A colour for each head: its own where it is a usual one, else one of the types' in order."""
    others = [name for name in heads if name not in HEAD_COLOURS]
    spare = [code.lower() for code in ("#0077BB", "#CC3311", "#117733", "#AA4499", "#999933", "#332288")]
    return {name: HEAD_COLOURS.get(name) or spare[others.index(name) % len(spare)] for name in heads}


def _type_colour(index: int) -> tuple[float, float, float]:
    turn, place = divmod(index, len(_TYPE_COLOURS))
    light = 1 - _SHADES[turn % len(_SHADES)]
    red, green, blue = _rgb(_TYPE_COLOURS[place])
    return red * light, green * light, blue * light


def _rgb(code: str) -> tuple[float, float, float]:
    red, green, blue = (int(code[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return red, green, blue
