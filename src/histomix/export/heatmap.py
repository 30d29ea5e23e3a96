"""A composition map as an OME-TIFF: one channel per cell type, laid over the slide by its physical size and place."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from anndata import AnnData

from ..common.palette import type_colours
from ..common.words import RESEARCH_USE
from ..errors import InputError
from ..maps import CompositionMap
from ..maps.map import BOUNDS
from ..provenance import atomic_path, digest_bytes

_LEAST_PX = 64
_NAMESPACE = uuid.UUID("0c6d6a3e-0f0b-5c53-8d1f-5a2f6f0d7c11")


def composition_raster(
    composition: AnnData | CompositionMap, layers: Sequence[pd.DataFrame] | None = None
) -> tuple[np.ndarray, tuple[float, float], float]:
    """Lay the tiles of a grid out as a raster.

    Parameters
    ----------
    composition
        The map.
    layers
        Tables of numbers of its tiles, one column a channel; the composition where left out.

    Returns
    -------
    ``(raster, origin_px, cell_px)``: float32 ``(channels, rows, columns)``, NaN where there is no tile or it could not
    be read; the top-left corner of the first cell and the side of a cell, level-0 px.

    Raises
    ------
    InputError
        The map is of spots, which stand on no grid.
    """
    one = CompositionMap.of(composition)
    if one.at_spots:
        raise InputError("the map is of spots, which stand on no grid", hint="Predict the slide without --at")
    cell, xy_px = one.cell_px, one.xy_px
    first = xy_px.min(axis=0)
    column, row = np.rint((xy_px - first) / cell).astype(int).T
    values = np.concatenate([table.to_numpy(np.float32) for table in layers or [one.values()]], axis=1)
    raster = np.full((values.shape[1], row.max() + 1, column.max() + 1), np.nan, np.float32)
    raster[:, row, column] = values.T
    left, top = first - cell / 2
    return raster, (float(left), float(top)), cell


def write_heatmap(
    path: str | os.PathLike[str],
    composition: AnnData | CompositionMap,
    *,
    intervals: bool = False,
    novelty: bool = False,
) -> Path:
    """Write an OME-TIFF with one float32 channel per cell type and a pyramid of means.

    ``PhysicalSizeX`` is the side of a cell in um and ``PositionX``, ``PositionY`` the corner of the raster from the
    corner of the slide (the tags ``XPosition`` and ``YPosition`` of a TIFF too), so that viewers lay it over the
    slide. A channel has the colour of its cell type in the viewer. Cells without a tile are NaN.

    Parameters
    ----------
    path, composition
        The file, and the map.
    intervals
        Add the ends of the intervals: channels ``<type> lower`` and ``<type> upper``.
    novelty
        Add the channel ``novelty``.

    Raises
    ------
    InputError
        The map is of spots, or has no intervals.
    StorageError
        The file cannot be written.
    """
    place, one = Path(path), CompositionMap.of(composition)
    layers = _layers(one, intervals, novelty)
    raster, (left, top), cell = composition_raster(one, layers)
    names = [str(name) for table in layers for name in table.columns]
    mpp = one.mpp
    levels = [raster]
    while min(levels[-1].shape[1:]) >= 2 * _LEAST_PX:
        levels.append(_halved(levels[-1]))
    side, reading = cell * mpp, one.reading
    metadata = {
        "axes": "CYX",
        # Of itself, tifffile takes a UUID that tells the network address of this computer and the time.
        "UUID": str(uuid.uuid5(_NAMESPACE, digest_bytes(raster.tobytes()))),
        "Name": f"composition of {one.slide['file']}",
        "Description": " ".join(filter(None, [reading.statement, *reading.notes, RESEARCH_USE])),
        "Channel": {"Name": names, "Color": _colours(names, one.cell_types)},
        "PhysicalSizeX": side,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": side,
        "PhysicalSizeYUnit": "µm",
        "Plane": {
            "PositionX": [left * mpp] * len(raster),
            "PositionXUnit": ["µm"] * len(raster),
            "PositionY": [top * mpp] * len(raster),
            "PositionYUnit": ["µm"] * len(raster),
        },
    }
    # In the unit of the resolution, cm; a place left of the slide or above it has no such tag.
    position = [
        (tag, tifffile.DATATYPE.RATIONAL, 1, (round(edge * mpp * 1000), 10_000_000), True)
        for tag, edge in ((286, left), (287, top))
        if edge >= 0
    ]
    with atomic_path(place) as temporary, tifffile.TiffWriter(temporary, bigtiff=True, ome=True) as tiff:
        for number, level in enumerate(levels):
            scale = 1e4 / (side * 2**number)
            facts: dict[str, Any] = (
                {"metadata": metadata, "subifds": len(levels) - 1} if number == 0 else {"subfiletype": 1}
            )
            tiff.write(
                level,
                resolution=(scale, scale),
                resolutionunit="CENTIMETER",
                compression="zlib",
                photometric="minisblack",
                extratags=position,
                **facts,
            )
    return place


def _layers(one: CompositionMap, intervals: bool, novelty: bool) -> list[pd.DataFrame]:
    layers = [one.values()]
    if intervals:
        if not one.bounds:
            raise InputError("the map has no intervals", where=one.where, hint="Predict with a head that is calibrated")
        layers += [table.add_suffix(f" {end}") for end, table in one.bounds.items()]
    if novelty:
        layers.append(pd.DataFrame({"novelty": one.novelty}, index=one.adata.obs_names))
    return layers


def _colours(names: Sequence[str], types: Sequence[str]) -> list[int]:
    """Colours as OME writes them: red, green, blue and opacity as one signed number; white where there is none."""
    colours = {name: [round(255 * part) for part in colour] for name, colour in type_colours(types).items()}
    ends = {f"{name} {end}": name for name in types for end in BOUNDS}
    numbers = []
    for name in names:
        red, green, blue = colours.get(ends.get(name, name), [255, 255, 255])
        numbers.append(int(np.array((red << 24) + (green << 16) + (blue << 8) + 255, np.uint32).astype(np.int32)))
    return numbers


def _halved(raster: np.ndarray) -> np.ndarray:
    """Mean of every 2 x 2 cells, over those that are known."""
    types, rows, columns = raster.shape
    padded = np.pad(raster, ((0, 0), (0, rows % 2), (0, columns % 2)), constant_values=np.nan)
    blocks = padded.reshape(types, (rows + 1) // 2, 2, (columns + 1) // 2, 2)
    known = np.isfinite(blocks)
    count = known.sum(axis=(2, 4))
    total = np.where(known, blocks, 0).sum(axis=(2, 4))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
