"""The first picture of a slide: the cell types that vary most reliably on it, in one scale, beside the H&E."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..common.naming import plain_text
from ..common.palette import INK, QUIET, SIGNED_MAP
from ..common.words import NOT_KNOWN, RESEARCH_USE, whole_percent
from ..maps import CompositionMap
from ..maps.varying import Varying, varying_types
from ._frame import new_grid
from .figures import Canvas, crop_to, draw_marks, draw_scale_bar, draw_slide, panel_figure, value_colours

#: Side of a panel of ``histomix.pl``, inches.
SIDE = 3.2
#: How much of its colour a tile keeps whose interval holds the slide's mean.
_UNSURE_ALPHA = 0.36
_FOOT_PT, _CHARACTERS_PER_INCH = 6.5, 18
#: Height of a line of small print, and of the words under a panel, inches.
_FOOT_LINE, _UNDER = 0.14, 0.2


def map_notes(one: CompositionMap, *, intervals: bool = False) -> list[str]:
    """What stands under a picture of a map: what is hatched, what a number is for, and what the picture is for.

    Parameters
    ----------
    one
        The map.
    intervals
        Whether the picture shows intervals, or leans on them.
    """
    reading = one.reading
    outside = int((one.read_ok & ~one.in_scope).sum())
    notes = []
    if outside:
        share = whole_percent(outside / int(one.read_ok.sum()))
        notes.append(f"Hatched: out of scope, unlike what the head was trained on ({share} of the tiles).")
    notes += [
        words
        for words in (
            *(*reading.remarks, reading.refers_to, reading.limits),
            reading.caution if intervals and one.bounds else "",
        )
        if words
    ]
    return [*notes, RESEARCH_USE]


def type_words(one: CompositionMap) -> dict[str, str]:
    """What each cell type is good for, for its panel; types of which nothing is known are left out."""
    return {name: f"good for: {word}" for name, word in one.reading.good_for.items() if word != NOT_KNOWN}


def draw_footnote(axes: Axes, notes: Sequence[str]) -> None:
    """Small print under all panels of the figure that ``axes`` are of."""
    figure = axes.get_figure(root=True)
    if figure is None:
        return
    width = max(30, int(figure.get_figwidth() * _CHARACTERS_PER_INCH))
    text = textwrap.fill(plain_text(" ".join(notes)), width)
    figure.set_figheight(figure.get_figheight() + 0.1 + _FOOT_LINE * (text.count("\n") + 1))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=_FOOT_PT, color=QUIET, linespacing=1.5)


def varying_figure(canvas: Canvas, one: CompositionMap) -> Figure:
    """The H&E, and maps of the types that vary most reliably on the slide; see `draw_varying`."""
    chosen = varying_types(one)
    frame = crop_to(canvas, one.xy_px)
    n_panels = 1 + len(chosen.shown)
    figure, panels = panel_figure(n_panels, frame, _columns(n_panels))
    figure.set_figheight(figure.get_figheight() + _UNDER * -(-n_panels // _columns(n_panels)))
    draw_slide(panels[0], canvas, frame)
    draw_scale_bar(panels[0], canvas, frame)
    panels[0].set_title("H&E", fontsize=9, color=INK)
    draw_varying(panels[1:], canvas, one, chosen, panels[:1])
    draw_footnote(panels[0], map_notes(one, intervals=True))
    return figure


def scope_figure(canvas: Canvas, one: CompositionMap, inches: float = 5.2) -> Figure:
    """The H&E with what is out of scope hatched, and no composition."""
    frame = crop_to(canvas, one.xy_px)
    figure = Figure(
        figsize=(inches, inches * (frame[3] - frame[2]) / (frame[1] - frame[0]) + 0.5), layout="constrained"
    )
    axes = figure.subplots()
    draw_slide(axes, canvas, frame)
    draw_marks(axes, canvas, one.xy_px, np.zeros((len(one), 4)), one.read_ok & ~one.in_scope)
    draw_scale_bar(axes, canvas, frame)
    draw_footnote(axes, map_notes(one))
    return figure


def draw_varying(
    panels: Sequence[Axes], canvas: Canvas, one: CompositionMap, chosen: Varying, beside: Sequence[Axes] = ()
) -> None:
    """Difference of each tile from the slide's mean, one panel a type, all in one scale.

    A tile whose interval holds the mean is pale, and one out of scope is hatched.

    Parameters
    ----------
    panels
        Axes, one for each of ``chosen.shown``.
    canvas, one
        The slide and its map.
    chosen
        What `histomix.maps.varying.varying_types` found.
    beside
        Other panels of the figure, which keep the size of these.
    """
    frame, xy_px, used = crop_to(canvas, one.xy_px), one.xy_px, one.reading.used
    values, bounds = one.values()[chosen.shown], {name: table[chosen.shown] for name, table in one.bounds.items()}
    mean, beyond_mean = (chosen.table.loc[chosen.shown, name].to_numpy(float) for name in ("mean", "beyond"))
    difference = values.to_numpy(float) - mean
    words = type_words(one)
    known = np.abs(difference[used & np.isfinite(difference).all(axis=1)])
    top = float(np.percentile(known, 99)) if known.size else 1.0
    norm = Normalize(-top if top > 0 else -1.0, top if top > 0 else 1.0, clip=True)
    for column, (axes, name) in enumerate(zip(panels, chosen.shown, strict=True)):
        colours = value_colours(difference[:, column], norm, SIGNED_MAP)
        beyond = float(beyond_mean[column])
        if len(bounds) == 2:
            lower, upper = (bounds[end][name].to_numpy(float) for end in ("lower", "upper"))
            colours[(lower <= mean[column]) & (mean[column] <= upper), 3] *= _UNSURE_ALPHA
        draw_slide(axes, canvas, frame, faded=True)
        draw_marks(axes, canvas, xy_px, colours, one.read_ok & ~one.in_scope)
        axes.set_title(plain_text(name), fontsize=9, color=INK)
        told = [f"mean {_amount(mean[column], one.unit)}"]
        if np.isfinite(beyond):
            told.append(f"{whole_percent(beyond)} of the slide differs" if beyond else "differs nowhere")
        axes.set_xlabel(
            "\n".join(filter(None, [", ".join(told), words.get(name)])), fontsize=7, color=QUIET, labelpad=3
        )
    if panels:
        _bar([*beside, *panels], norm, one.unit)


def varying_panels(
    one: CompositionMap, img: np.ndarray | None, ncols: int, scale_bar: bool, ax: Axes | Sequence[Axes] | None
) -> list[Axes]:
    """The H&E, where there is any, and the types that vary most reliably."""
    picture = one.preview() if img is None else img
    canvas, xy_px, _ = map_canvas(one, picture)
    chosen = varying_types(one)
    first = [] if picture is None else ["H&E"]
    frame = crop_to(canvas, xy_px)
    aspect = (frame[3] - frame[2]) / (frame[1] - frame[0])
    n_panels = max(1, len(first) + len(chosen.shown))
    panels = new_grid(ax, n_panels, min(ncols, _columns(n_panels)), SIDE, SIDE * aspect + 0.45)
    if first or not chosen.shown:
        draw_slide(panels[0], canvas, frame)
        panels[0].set_title("H&E" if first else plain_text(one.reading.statement), fontsize=9, color=INK)
    draw_varying(panels[len(first) :][: len(chosen.shown)], canvas, one, chosen, panels[: len(first)])
    if scale_bar:
        draw_scale_bar(panels[0], canvas, frame)
    if ax is None:
        draw_footnote(panels[0], map_notes(one, intervals=True))
    return panels


def map_canvas(one: CompositionMap, img: np.ndarray | None) -> tuple[Canvas, np.ndarray, np.ndarray]:
    """The slide under the map, places, and which are out of scope; without a picture, blank paper of its extent."""
    slide = one.slide
    img = one.preview() if img is None else img
    if img is None:
        scale = 256 / max(slide["width_px"], slide["height_px"])
        shape = (max(1, round(slide["height_px"] * scale)), max(1, round(slide["width_px"] * scale)), 3)
        img = np.full(shape, 255, np.uint8)
    scale = img.shape[1] / slide["width_px"]
    canvas = Canvas(np.asarray(img), scale, one.cell_px, one.at_spots, one.mpp / scale)
    return canvas, one.xy_px, one.read_ok & ~one.in_scope


def _bar(panels: Sequence[Axes], norm: Normalize, unit: str) -> None:
    figure = panels[0].figure
    bar = figure.colorbar(ScalarMappable(norm, SIGNED_MAP), ax=list(panels), shrink=0.75, aspect=24, pad=0.02)
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(5, symmetric=True)
    bar.formatter = FuncFormatter(lambda value, _: _amount(value, unit, signed=True))
    bar.update_ticks()
    bar.ax.tick_params(labelsize=7, colors=QUIET, length=0)
    bar.set_label("difference from the mean", fontsize=7, color=QUIET)


def _columns(panels: int) -> int:
    """Panels in a row: one row where they fit, two even ones where they do not."""
    return panels if panels <= 4 else -(-panels // 2)


def _amount(value: float, unit: str, *, signed: bool = False) -> str:
    sign = "+" if signed and value > 1e-12 else ""
    shown = 100 * value if unit == "proportion" else value
    number = f"{shown:.0f}" if abs(shown) >= 10 else f"{shown:.2g}"
    number += " %" if unit == "proportion" else ""
    return (sign + number).replace("-", "−")
