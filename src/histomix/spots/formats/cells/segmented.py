"""Cells that Space Ranger 4 segmented in a Visium HD section: polygons on the image, and the counts of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ....common.geometry.polygons import read_polygons
from ....common.words import counted
from ....errors import InputError, SectionError
from ...counts import match_barcodes
from ..tenx.matrix import read_matrix
from ..tenx.positions import read_scalefactors
from .platforms import CellFormat
from .tables import Cells, checked

FOLDER = "segmented_outputs"
_POLYGONS = "cell_segmentations.geojson"
_MATRIX = "filtered_feature_cell_matrix.h5"
_AGAIN = f"Copy the folder {FOLDER} of this section again"


class SegmentedCells(CellFormat):
    """The ``segmented_outputs`` of Space Ranger 4, or an ``outs`` that has no bins beside it."""

    name = "visium-hd-cells"
    what = "the cells that Space Ranger segmented in one Visium HD section"

    def matches(self, path: Path) -> bool:
        """See `Format`."""
        return _folder(path) is not None

    def files(self, path: Path) -> tuple[Path, Path]:
        """See `CellFormat`."""
        folder = _folder(path)
        if folder is None:
            raise SectionError(f"holds no {_POLYGONS}", where=path, hint=f"Name the folder {FOLDER} of Space Ranger 4")
        return _polygons(folder), folder

    def cells(self, path: Path, table: Path, with_counts: bool, type_column: str | None) -> Cells:
        """See `CellFormat`. A cell is where the centroid of its polygon is."""
        names, centres = [], []
        try:
            for number, properties, shape in read_polygons(table, _AGAIN):
                names.append(_barcode(properties, number, table))
                centres.append((shape.centroid.x, shape.centroid.y) if shape.area else (np.nan, np.nan))
        except SectionError:
            raise
        except InputError as error:
            raise SectionError(error.what, where=table, hint=_AGAIN) from error
        if not names:
            raise SectionError("holds no polygon of a cell", where=table, hint=_AGAIN)
        places = pd.DataFrame(centres, columns=["x", "y"], index=pd.Index(names, name="cell_id"), dtype=np.float64)
        factors = read_scalefactors(table.parent / "spatial")
        cells = Cells(places.assign(cell_type=None), "image px")
        if factors is not None and factors.mpp is not None:
            cells = replace(cells, mpp=factors.mpp, mpp_source=f"microns_per_pixel of {factors.path.name}")
        cells = checked(cells, table)
        matrix = table.parent / _MATRIX
        if not with_counts or not matrix.exists():
            return cells
        counts = read_matrix(matrix)
        rows, _ = match_barcodes(cells.table.index, counts.barcodes)
        has_counts = rows >= 0
        if not has_counts.any():
            raise SectionError("has counts of other cells", where=matrix, hint=_AGAIN)
        lost = int((~has_counts).sum())
        notes = [f"{counted(lost, 'cell')} of {len(rows):,} have no counts and are dropped"] if lost else []
        kept = cells.keep(has_counts, *notes)
        return replace(kept, counts=counts.matrix[rows[has_counts]], genes=counts.var)


def _folder(path: Path) -> Path | None:
    """The folder with the polygons that a path means."""
    if not path.is_dir():
        return path.parent if path.name in (_POLYGONS, f"{_POLYGONS}.gz") else None
    for outs in (path, path / "outs"):
        inner = outs / FOLDER
        if not (outs / "binned_outputs").is_dir() and _polygons(inner).is_file():
            return inner
    return path if _polygons(path).is_file() else None


def _polygons(folder: Path) -> Path:
    zipped = folder / f"{_POLYGONS}.gz"
    return zipped if zipped.is_file() else folder / _POLYGONS


def _barcode(properties: Any, number: int, where: Path) -> str:
    """The barcode that the matrix has for a polygon: ``cellid_000000012-1`` of the cell 12."""
    cell = properties.get("cell_id")
    if isinstance(cell, bool) or not isinstance(cell, (int, str)) or cell == "":
        raise SectionError(f"feature {number} has no cell_id", where=where, hint=_AGAIN)
    return f"cellid_{cell:09d}-1" if isinstance(cell, int) else cell


FORMATS = (SegmentedCells(),)
