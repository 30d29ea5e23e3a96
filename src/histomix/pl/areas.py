"""A picture of what was read of a slide's tissue, and what was not and why."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from ..common.words import RESEARCH_USE
from ..maps import CompositionMap
from ..maps.areas import GLASS, REASONS
from .figures import Canvas, draw_scale_bar, draw_slide
from .varying import draw_footnote

_COVER = 0.62


def areas_figure(canvas: Canvas, one: CompositionMap, raster: np.ndarray, inches: float = 5.2) -> Figure:
    """The whole slide under the colours of what became of its tissue, with the mm2 of each part.

    Parameters
    ----------
    canvas, one
        The slide and its map.
    raster
        uint8 codes of `histomix.maps.areas.REASONS` over the slide.
    inches
        Width.
    """
    height, width = canvas.image.shape[:2]
    frame = (0.0, float(width), 0.0, float(height))
    figure = Figure(figsize=(inches, inches * height / width + 0.9), layout="constrained")
    axes = figure.subplots()
    draw_slide(axes, canvas, frame, faded=True)
    codes = np.asarray(Image.fromarray(raster).resize((width, height), Image.Resampling.NEAREST))
    cover = np.zeros((*codes.shape, 4), np.uint8)
    for code, reason in enumerate(REASONS, start=1):
        cover[codes == code] = (*reason.colour, round(255 * _COVER))
    cover[codes == GLASS] = 0
    axes.imshow(cover, interpolation="nearest", extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    draw_scale_bar(axes, canvas, frame)
    areas = one.areas_mm2
    there = [reason for reason in REASONS if areas.get(reason.name)]
    marks = [
        Patch(color="#{:02x}{:02x}{:02x}".format(*reason.colour), label=f"{reason.title}, {areas[reason.name]:.3g} mm²")
        for reason in there
    ]
    figure.legend(handles=marks, loc="outside upper left", ncols=2, fontsize=7.5, frameon=False)
    draw_footnote(axes, [RESEARCH_USE])
    return figure
