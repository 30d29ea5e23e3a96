"""A composition map as tables and QuPath objects."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..common.palette import type_colours
from ..common.words import RESEARCH_USE
from .map import CompositionMap

if TYPE_CHECKING:
    from anndata import AnnData

#: Columns of ``composition.csv`` that are no cell types, before and after them.
PLACE_COLUMNS = ("x_px", "y_px")
STATE_COLUMNS = ("novelty", "in_scope", "tissue", "read_ok", "region", "fragment", "answer")
#: The class of a tile out of scope in QuPath, which leaves classes that end with an asterisk out of its counts.
OUT_OF_SCOPE = "Out of scope*"
_GREY = (150, 150, 150)
#: Of a tile in GeoJSON without its composition, and of one number with the name of a cell type.
_TILE_BYTES, _NUMBER_BYTES = 400, 30
#: UUIDs of tiles are derived from the slide's fingerprint, so that the same tile has the same id in every run.
_NAMESPACE = uuid.UUID("6f3f1c52-6a0e-5d0c-9d63-0d7cf0a5a9b1")


def composition_table(composition: AnnData | CompositionMap) -> pd.DataFrame:
    """A composition map as one table: place, one column per cell type, then novelty and the tile's state.

    ``region`` follows where regions were given, ``fragment`` where the slide has several pieces of tissue, and last
    ``answer`` of a head that gives them: the name of a cell type or a group, in words.
    """
    one = CompositionMap.of(composition)
    obs = one.adata.obs
    states = [name for name in STATE_COLUMNS if name in obs]
    if one.fragments == 1 and "fragment" in states:
        states.remove("fragment")
    table: pd.DataFrame = pd.concat([obs[list(PLACE_COLUMNS)], one.values(), obs[states]], axis=1)
    table.index.name = "spot"
    return table


def composition_geojson(composition: AnnData | CompositionMap, *, metadata: bool = False) -> dict[str, Any]:
    """A composition map as a QuPath FeatureCollection of tile objects.

    Coordinates are level-0 px relative to the slide's bounds, as QuPath counts them. Each tile carries its composition
    as measurements (with ``<type> lower`` and ``<type> upper`` of a calibrated head) and is classified by its dominant
    cell type. A tile out of scope has the grey class `OUT_OF_SCOPE` instead and the measurement ``in scope`` of 0, one
    out of focus ``in focus`` of 0; an unreadable tile carries no measurements. The collection says in ``use`` what it
    is for, in ``statement`` that the slide is out of scope, in ``remarks`` that its um per px or focus is not right, in
    ``limits`` what a head of few training donors cannot tell, in ``intervals`` whom few intervals were calibrated on,
    and in ``tissue_areas_mm2`` what became of the slide's tissue.

    Parameters
    ----------
    composition
        The map.
    metadata
        Give each tile words too: its ``answer``, and why it is out of scope or focus. QuPath 0.6 keeps them; 0.5 logs
        an error for each tile that has some.
    """
    one = CompositionMap.of(composition)
    slide, half, types = one.slide, one.cell_px / 2, one.cell_types
    left, top = slide["bounds_px"]
    colours = {name: [round(255 * channel) for channel in colour] for name, colour in type_colours(types).items()}
    values = one.values().to_numpy(float)
    bounds = {name: table.to_numpy(float) for name, table in one.bounds.items()}
    novelty, in_scope, in_focus, obs = one.novelty, one.in_scope, one.in_focus, one.adata.obs
    answer = one.answer
    features = []
    for row, (key, x, y) in enumerate(zip(obs.index, obs["x_px"], obs["y_px"], strict=True)):
        x0, x1, y0, y1 = (
            round(float(v), 2) for v in (x - left - half, x - left + half, y - top - half, y - top + half)
        )
        properties: dict[str, Any] = {"objectType": "tile", "name": str(key)}
        if np.isfinite(values[row]).all():
            dominant = types[int(values[row].argmax())]
            measurements = _numbers(types, values[row])
            for bound, array in bounds.items():
                measurements |= _numbers([f"{name} {bound}" for name in types], array[row])
            if np.isfinite(novelty[row]):
                measurements["novelty"] = round(float(novelty[row]), 4)
            words = {} if answer is None else {"answer": str(answer[row])}
            properties["classification"] = {"name": dominant, "color": colours[dominant]}
            if not in_scope[row]:
                measurements["in scope"] = 0
                words["scope"] = "out of scope: unlike the tiles that the head was trained on"
                properties["classification"] = {"name": OUT_OF_SCOPE, "color": list(_GREY)}
            if not in_focus[row]:
                measurements["in focus"] = 0
                words["focus"] = "out of focus: predicted from blurred pixels"
            properties["measurements"] = measurements
            if metadata and words:
                properties["metadata"] = words
        features.append(
            {
                "type": "Feature",
                "id": str(uuid.uuid5(_NAMESPACE, f"{slide['fingerprint']}/{key}")),
                "geometry": {"type": "Polygon", "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]},
                "properties": properties,
            }
        )
    return {"type": "FeatureCollection", "features": features, **collection_facts(one)}


def collection_facts(one: CompositionMap) -> dict[str, Any]:
    """What a FeatureCollection says of all its tiles and of the slide's tissue; QuPath passes it over."""
    facts: dict[str, Any] = {"use": RESEARCH_USE}
    reading = one.reading
    told = {"statement": reading.statement, "remarks": " ".join(reading.remarks), "limits": reading.limits}
    facts |= {name: words for name, words in told.items() if words}
    if one.bounds and one.reading.caution:
        facts["intervals"] = one.reading.caution
    if areas := {name: round(area, 6) for name, area in one.areas_mm2.items()}:
        facts["tissue_areas_mm2"] = areas
    return facts


def geojson_bytes(n_tiles: int, n_types: int, intervals: bool) -> int:
    """About how large a map is as GeoJSON: each number stands there with its name."""
    return n_tiles * (_TILE_BYTES + _NUMBER_BYTES * n_types * (3 if intervals else 1))


def _numbers(names: list[str], values: np.ndarray) -> dict[str, float]:
    """Measurements that are numbers; QuPath's reader refuses others."""
    return {name: round(float(value), 6) for name, value in zip(names, values, strict=True) if np.isfinite(value)}
