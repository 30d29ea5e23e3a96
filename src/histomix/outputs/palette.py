"""Colours: one per cell type, and a sequential map for abundance."""

from __future__ import annotations

from collections.abc import Sequence

#: Sequential, perceptually even and readable in grey: low is quiet, high is loud.
ABUNDANCE_MAP = "viridis"

#: Heads keep one colour on every figure.
HEAD_COLOURS = {"label": "#8a8f98", "mlp": "#6b2fb3", "ridge": "#d1793b", "knn": "#2f8f83", "mean": "#b9bdc4"}

# Paul Tol's "muted" scheme (https://sros.nl/~t.j.m.tol), made for colour-blind readers, then his "light" one.
_TYPE_COLOURS = (
    *("#CC6677", "#332288", "#DDCC77", "#117733", "#88CCEE", "#882255", "#44AA99", "#999933", "#AA4499"),
    *("#77AADD", "#EE8866", "#EEDD88", "#FFAABB", "#99DDFF", "#44BB99", "#BBCC33", "#AAAA00"),
)


def type_colours(types: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """A colour for each cell type, as RGB in 0..1, in the order of the types (it repeats after 17)."""
    return {name: _rgb(_TYPE_COLOURS[index % len(_TYPE_COLOURS)]) for index, name in enumerate(types)}


def _rgb(code: str) -> tuple[float, float, float]:
    red, green, blue = (int(code[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return red, green, blue
