"""A composition map as an OME-TIFF: one channel per cell type, laid over the slide by its physical size and place."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from anndata import AnnData

from ..common.words import RESEARCH_USE
from ..errors import InputError
from ..maps import CompositionMap
from ..provenance import atomic_path, digest_bytes

_LEAST_PX = 64
_NAMESPACE = uuid.UUID("0c6d6a3e-0f0b-5c53-8d1f-5a2f6f0d7c11")


def composition_raster(composition: AnnData | CompositionMap) -> tuple[np.ndarray, tuple[float, float], float]:
    """Lay the tiles of a grid out as a raster.

    Returns
    -------
    ``(raster, origin_px, cell_px)``: float32 ``(types, rows, columns)``, NaN where there is no tile or it could not be
    read; the top-left corner of the first cell and the side of a cell, level-0 px.

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
    raster = np.full((len(one.cell_types), row.max() + 1, column.max() + 1), np.nan, np.float32)
    raster[:, row, column] = one.values().to_numpy(np.float32).T
    left, top = first - cell / 2
    return raster, (float(left), float(top)), cell


def write_heatmap(path: str | os.PathLike[str], composition: AnnData | CompositionMap) -> Path:
    """Write an OME-TIFF with one float32 channel per cell type and a pyramid of means.

    ``PhysicalSizeX`` is the side of a cell in um and ``PositionX``, ``PositionY`` the corner of the raster from the
    corner of the slide, so that viewers lay it over the slide. Cells without a tile are NaN.

    Raises
    ------
    InputError
        The map is of spots.
    StorageError
        The file cannot be written.
    """
    place, one = Path(path), CompositionMap.of(composition)
    raster, (left, top), cell = composition_raster(one)
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
        "Channel": {"Name": one.cell_types},
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
                **facts,
            )
    return place


def _halved(raster: np.ndarray) -> np.ndarray:
    """Mean of every 2 x 2 cells, over those that are known."""
    types, rows, columns = raster.shape
    padded = np.pad(raster, ((0, 0), (0, rows % 2), (0, columns % 2)), constant_values=np.nan)
    blocks = padded.reshape(types, (rows + 1) // 2, 2, (columns + 1) // 2, 2)
    known = np.isfinite(blocks)
    count = known.sum(axis=(2, 4))
    total = np.where(known, blocks, 0).sum(axis=(2, 4))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
