"""Slides of a report that were predicted from H&E alone: what varies on them, or that they are out of scope."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from ..common.words import counted, whole_percent
from ..maps import CompositionMap
from ..maps.answers import answers_sentence
from ..maps.areas import REASONS, areas_sentence
from ..maps.reading import Reading, words_by_type
from ..maps.varying import varying_types
from ..pages.page import Drawer
from ..pl.areas import areas_figure
from ..pl.figures import composition_figure, map_figure
from ..pl.tables import percent
from ..pl.varying import draw_footnote, map_notes, scope_figure, type_words, varying_figure
from .inputs import SlideMap
from .panel_parts import plain_table

#: A smaller share in scope is said beside the pictures.
_CARE = 0.8
_FEWEST = 3
#: What became of the rest of the tissue is said above the pictures where less is read.
_MOST_IS_READ = 0.75


def figure_count(one: SlideMap) -> int:
    """How many figures `slide_view` draws."""
    if one.canvas is None or not one.composition.read_ok.any():
        return 0
    return (2 if one.composition.reading.statement else 3) + (one.composition.not_read() is not None)


def slide_view(one: SlideMap, draw: Drawer) -> dict[str, Any]:
    """A slide predicted from H&E alone; of one out of scope, the statement and where, and no composition."""
    composition = one.composition
    reading = composition.reading
    facts: dict[str, Any] = {
        "name": one.name,
        "text": f"{len(composition):,} tiles of {composition.cell_px * composition.mpp:.0f} µm, "
        f"{percent(reading.in_scope_share)} in scope, unit: {composition.unit}",
        "statement": reading.statement,
        "good_for": "" if reading.statement else words_by_type(reading.good_for),
        "notes": _notes(one),
        "figure": None,
        "caption": "",
        "map_figure": None,
        "dominant": None,
        "table": None if reading.statement else _slide_table(composition),
        "areas": _areas_table(composition),
        "areas_figure": None,
    }
    if one.canvas is None or not composition.read_ok.any():
        return facts
    raster = composition.not_read()
    if raster is not None:
        facts["areas_figure"] = draw.picture(areas_figure(one.canvas, composition, raster), one.name, "areas")
    places, table, outside = composition.xy_px, composition.values(), composition.read_ok & ~composition.in_scope
    if reading.statement:
        facts["figure"] = draw.picture(scope_figure(one.canvas, composition), one.name, "scope")
    else:
        pale = "Pale: the interval of the tile holds the mean. " if composition.bounds else ""
        facts["figure"] = draw.picture(varying_figure(one.canvas, composition), one.name, "varying")
        facts["caption"] = f"{varying_types(composition).words} Colours: less and more than the slide's mean. {pale}"
    figure = map_figure(one.canvas, places, table, outside=outside, words=type_words(composition))
    draw_footnote(figure.axes[0], map_notes(composition))
    facts["map_figure"] = draw.picture(figure, one.name, "maps")
    if not reading.statement:
        figure = composition_figure(one.canvas, places, {"most abundant cell type": table}, 4.2, outside)
        draw_footnote(figure.axes[0], map_notes(composition))
        facts["dominant"] = draw.picture(figure, one.name, "composition")
    return facts


def _notes(one: SlideMap) -> list[str]:
    composition, reading = one.composition, one.composition.reading
    notes = []
    if one.failure is not None:
        notes.append(f"This map is of an earlier run: the last attempt on this slide failed. {one.failure}")
    unread = int((~composition.read_ok).sum())
    if unread:
        notes.append(f"{unread:,} of {len(composition):,} tiles could not be read; they are left blank.")
    if not reading.statement and reading.in_scope_share < _CARE:
        notes.append(
            f"Only {whole_percent(reading.in_scope_share)} of the tiles look like the training tissue; the others are "
            "hatched, and in no number here."
        )
    notes += reading.remarks
    if reading.limits:
        notes.append(reading.limits)
    if composition.bounds and reading.caution:
        notes.append(reading.caution)
    answers = answers_sentence(composition)
    if answers:
        notes.append(answers)
    areas = composition.areas_mm2
    if areas and areas["read"] < _MOST_IS_READ * sum(areas.values()):
        notes.append(f"{areas_sentence(areas)}.")
    return notes


def _areas_table(composition: CompositionMap) -> dict[str, Any] | None:
    """What became of the tissue, in mm2."""
    areas = composition.areas_mm2
    total = sum(areas.values())
    if not total:
        return None
    there = sorted((one for one in REASONS if areas.get(one.name)), key=lambda one: -areas[one.name])
    rows = [[one.title, f"{areas[one.name]:.3g}", percent(areas[one.name] / total), one.what] for one in there]
    caption = f"{areas_sentence(areas)}. The parts add up to all tissue that was found."
    return plain_table(["tissue", "mm²", "share", "what it is"], rows, caption)


def _slide_table(composition: CompositionMap) -> dict[str, Any] | None:
    """Means of the tiles in scope, with what each type is good for."""
    reading, values = composition.reading, composition.values()
    known = values[reading.used].dropna()
    if known.empty:
        return None
    rows_used = reading.used & np.isfinite(values.to_numpy(float)).all(axis=1)
    most = known.idxmax(axis=1).value_counts(normalize=True)
    order = [str(name) for name in known.mean().sort_values(ascending=False).index]
    columns: dict[str, list[Any]] = {
        "cell type": order,
        "good for": [reading.good_for[name] for name in order],
        "mean of tiles": [(f"{known[name].mean():.3f}", _error(reading.slide_error[name])) for name in order],
        **_drawn(reading, known[order].mean()),
        **_bounds(composition, order, rows_used),
        "95th percentile": [f"{known[name].quantile(0.95):.3f}" for name in order],
        "most abundant in": [percent(most.get(name, 0.0)) for name in order],
    }
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    caption = f"Unit: {composition.unit}, over {counted(len(known), 'tile')} in scope. {reading.refers_to}"
    if any(map(math.isfinite, reading.slide_error.values())):
        caption += " ±: how far a slide's mean may be off, from slides of donors that were held out."
    if "drawn to training" in columns:
        caption += (
            " Drawn: the mean drawn to that of the training labels, by as much as those slides say; closer to the "
            "truth as a number, and no better for telling slides apart."
        )
    return plain_table(list(columns), rows, caption.strip())


def _drawn(reading: Reading, means: pd.Series) -> dict[str, list[Any]]:
    """Means drawn to those of the training labels, where the head says how far."""
    drawn = reading.shrunk(means)
    if not drawn.notna().any():
        return {}
    halves = reading.levels["shrunk_error"].loc[means.index]
    shown = zip(drawn, halves, strict=True)
    return {"drawn to training": [(f"{mean:.3f}", _error(half)) if math.isfinite(mean) else "" for mean, half in shown]}


def _error(half_width: float) -> str:
    return f"± {half_width:.3f}" if math.isfinite(half_width) else ""


def _bounds(composition: CompositionMap, order: list[str], used: np.ndarray) -> dict[str, list[str]]:
    """The mean bounds of a tile, under words that say whom they were calibrated on where that is few."""
    if composition.lower is None or composition.upper is None:
        return {}
    ends: list[pd.Series] = [table[used].mean() for table in (composition.lower, composition.upper)]
    reading = composition.reading
    whom = f", calibrated on: {reading.calibrated_on}" if reading.caution else ""
    return {f"mean bounds of a tile{whom}": [f"{ends[0][name]:.3f} to {ends[1][name]:.3f}" for name in order]}
