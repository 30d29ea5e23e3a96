"""Visium HD: bins of Space Ranger's ``binned_outputs``, as they are or summed to tiles."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ....common.geometry.pitch import spot_pitch
from ....common.words import counted
from ....errors import SectionError
from ..base import Description, Options, SpotFile
from .bins import bin_positions, tile_grid, tiles_adata
from .images import at_reduced_image, describe_images
from .matrix import find_matrix
from .positions import (
    ScaleFactors,
    bin_size,
    find_positions,
    is_positions,
    join_matrix,
    position_batches,
    read_scalefactors,
)

DEFAULT_BIN_UM = 8
#: Share of a tile's bins that must be under tissue.
MIN_TISSUE = 0.5
#: More bins than this are not read one by one: nothing here is meant for tiles of 2 um.
MAX_BINS = 2_000_000
_MPP_TOLERANCE = 0.02
#: The folder of Space Ranger 4 with the cells that it segmented; see `histomix.spots.formats.cells.segmented`.
SEGMENTED = "segmented_outputs"
_AGAIN = "Copy the square folder again"
_FOLDER = re.compile(r"square_(\d{3})um")


class VisiumHD:
    """A Visium HD ``outs`` folder, its ``binned_outputs``, one folder of bins, or its positions. Tissue only."""

    name = "visium-hd"
    options: Mapping[str, str] = {
        "bin_um": "side of the bins to read: 2, 8 or 16; 8 when left out",
        "tile_um": "sum the bins to square tiles of this side, so that counts and image tiles cover the same area",
        "image": "'hires' or 'lowres': coordinates in px of that reduced image",
    }

    def matches(self, path: Path) -> bool:
        """See `Format`."""
        return bool(_squares(path))

    def read(self, path: Path, with_counts: bool, options: Options) -> SpotFile:
        """See `Format`. um per px is that of the scale factors, cross-checked with the bins."""
        tile_um = _whole(options, "tile_um", path)
        bin_um, square, notes = _choose(path, _whole(options, "bin_um", path), tile_um)
        if tile_um is not None:
            spots = aggregate_bins(square, tile_um, with_counts=with_counts)
            spots = dataclasses.replace(spots, notes=(*notes, *spots.notes))
        else:
            spots = _read_bins(square, bin_um, with_counts, notes)
        spatial, positions = _spatial(square), _positions(square)
        return at_reduced_image(spots, spatial, read_scalefactors(spatial, positions), options, positions)

    def describe(self, path: Path, options: Options) -> Description:
        """See `Format`."""
        squares = _squares(path)
        bin_um, square, _ = _choose(path, _whole(options, "bin_um", path), None)
        spatial, positions = _spatial(square), _positions(square)
        factors = read_scalefactors(spatial, positions)
        sizes = ", ".join(f"{size} um" for size in sorted(squares))
        contents = [f"bins of {sizes}; {bin_um} um are read unless #bin_um= says otherwise"]
        missing = ["the full-resolution image that Space Ranger was given (its column image)"]
        if factors is None or factors.mpp is None:
            missing.append("microns_per_pixel in scalefactors_json.json")
        else:
            contents.append(f"{factors.mpp:.4g} um per px of the full-resolution image, by {factors.path.name}")
        matrix = find_matrix(square)
        if matrix is None:
            missing.append("a feature-barcode matrix, so it has no counts")
        else:
            contents.append(f"counts, in {square.name}/{matrix.name}")
        contents += describe_images(spatial, factors, factors.mpp if factors else None, positions)
        cells = next((place for place in (path, path.parent, path / "outs") if (place / SEGMENTED).is_dir()), None)
        if cells is not None:
            contents.append(f"segmented cells in {SEGMENTED}: name that folder to read these instead of bins")
        contents.append("a tile of 112 um is what many encoders see: #tile_um=112 sums the bins to such tiles")
        row = {"spots": f"{path}#tile_um=112", "format": self.name}
        return Description("the Space Ranger output of one Visium HD section", tuple(contents), tuple(missing), row)


def aggregate_bins(
    path: str | os.PathLike[str],
    tile_um: int,
    *,
    bin_um: int | None = None,
    with_counts: bool = True,
    min_tissue: float = MIN_TISSUE,
) -> SpotFile:
    """Sum the bins of a Visium HD section to square tiles of an encoder's field of view.

    Only bins under tissue are summed. Memory holds the counts of the tiles and a small part of the bins: the 11 million
    2-um bins of a capture area are never held at once.

    Parameters
    ----------
    path
        ``outs``, ``binned_outputs`` or a ``square_*um`` folder.
    tile_um
        Side of a tile, a multiple of the bin.
    bin_um
        Bins to sum; when left out those of the folder, or the coarsest ones that make up the tile.
    with_counts
        Whether to read the counts.
    min_tissue
        Share of its bins under tissue (0..1) that a tile needs. Tiles cut by the edge of the capture area are left out.

    Returns
    -------
    SpotFile: one spot per tile (key ``s_112um_<row>_<column>``), obs ``bins`` = summed bins, centres in level-0 px;
    ``spot_diameter_um`` and ``spot_pitch_um`` are the side of the tile.

    Raises
    ------
    SectionError
        The files cannot be used, or no tile has enough tissue.
    """
    size, square, notes = _choose(Path(path), bin_um, tile_um)
    positions = _positions(square)
    grid = tile_grid(positions, size, tile_um, min_tissue)
    matrix = find_matrix(square) if with_counts else None
    if matrix is not None and matrix.is_dir():
        raise SectionError(
            "is not read in parts", where=matrix, hint="Give the matrix as filtered_feature_bc_matrix.h5 as well"
        )
    adata, more = tiles_adata(grid, matrix)
    array = grid.tiles[["array_col", "array_row"]].to_numpy(dtype=float)
    factors = read_scalefactors(_spatial(square), positions)
    mpp, source = _mpp(adata.obsm["spatial"], array, tile_um, size, factors)
    notes += (f"{size} um bins are summed to {counted(len(grid.tiles), 'tile')} of {tile_um} um", *more)
    return SpotFile(adata, mpp, source, float(tile_um), float(tile_um), notes=notes)


def _squares(path: Path) -> dict[int, Path]:
    """Folders of bins by their size in um, that ``path`` is, is in, or holds."""
    if not path.is_dir():
        square = path.parent.parent if path.parent.name == "spatial" else path.parent
        size = bin_size(path) if is_positions(path) else None
        return {} if size is None else {size: square}
    for place in (path.parent, path) if path.name == "spatial" else (path,):
        size = _size(place)
        if size is not None:
            return {size: place}
    for folder in (path, path / "binned_outputs", path / "outs" / "binned_outputs"):
        if folder.is_dir():
            sizes = {item: _size(item) for item in sorted(folder.iterdir()) if item.is_dir()}
            squares = {size: item for item, size in sizes.items() if size is not None}
            if squares:
                return squares
    return {}


def _size(folder: Path) -> int | None:
    """Side in um of the bins in a folder: by what its positions hold, else by its name; None where it holds none.

    People rename folders, and copy only a part of them: the same files under another name are of another scale.
    """
    named = _FOLDER.fullmatch(folder.name)
    spatial = _spatial(folder)
    sizes = (bin_size(file) for file in sorted(spatial.iterdir()) if is_positions(file)) if spatial.is_dir() else ()
    return next((size for size in sizes if size is not None), int(named[1]) if named else None)


def _spatial(square: Path) -> Path:
    """Where the positions of a folder of bins are: its ``spatial``, or itself."""
    spatial = square / "spatial"
    return spatial if spatial.is_dir() else square


def _whole(options: Options, name: str, path: Path) -> int | None:
    if name not in options:
        return None
    text = options[name].removesuffix("um").strip()
    if not text.isdecimal() or int(text) < 1:
        raise SectionError(
            f"{name} is '{options[name]}', not a whole number of um", where=path, hint="Say #tile_um=112"
        )
    return int(text)


def _choose(path: Path, bin_um: int | None, tile_um: int | None) -> tuple[int, Path, tuple[str, ...]]:
    squares = _squares(path)
    if not squares:
        raise SectionError(
            "holds no square_*um folder of bins", where=path, hint="Name the outs folder of a Visium HD section"
        )
    if bin_um is not None:
        if bin_um not in squares:
            known = ", ".join(map(str, sorted(squares)))
            raise SectionError(f"has no bins of {bin_um} um", where=path, hint=f"It has {known}")
        return bin_um, squares[bin_um], ()
    if len(squares) == 1:
        return *next(iter(squares.items())), ()
    chosen = DEFAULT_BIN_UM if DEFAULT_BIN_UM in squares else max(squares)
    if tile_um is not None:
        chosen = max((size for size in squares if tile_um % size == 0), default=chosen)
    sizes = ", ".join(map(str, sorted(squares)))
    return chosen, squares[chosen], (f"of the bins of {sizes} um those of {chosen} um are read",)


def _positions(square: Path) -> Path:
    positions = find_positions(_spatial(square))
    if positions is None:
        raise SectionError("has no spatial/tissue_positions.parquet", where=square, hint="Copy the square folder again")
    return positions


def _read_bins(square: Path, bin_um: int, with_counts: bool, notes: tuple[str, ...]) -> SpotFile:
    path, parts, bins = _positions(square), [], 0
    for batch in position_batches(path):
        parts.append(batch[batch["in_tissue"] == 1])
        bins += len(parts[-1])
        if bins > MAX_BINS:
            raise SectionError(
                f"has over {MAX_BINS:,} bins of {bin_um} um under tissue, too many to be spots one by one",
                where=path,
                hint="Sum them to tiles (#tile_um=112), or read coarser bins (#bin_um=8)",
            )
    table = pd.concat(parts)
    if table.empty:
        raise SectionError("has no bin with in_tissue = 1", where=path, hint="Check the tissue detection")
    keys = pd.Index(table["barcode"].astype(object), name="spot")
    if not keys.is_unique:
        raise SectionError(
            f"has the barcode '{keys[keys.duplicated()][0]}' more than once", where=path, hint="Copy it again"
        )
    array = table[["array_col", "array_row"]].to_numpy(dtype=float)
    xy_px = table[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(dtype=float)
    obs = table[["array_row", "array_col"]].set_index(keys).assign(array_x=array[:, 0], array_y=array[:, 1])
    adata, more = join_matrix(obs, xy_px, path, square, with_counts)
    named = np.column_stack(bin_positions(table["barcode"].to_numpy().astype("S"), bin_um, path)[::-1])
    if not np.array_equal(named, array):
        raise SectionError("has barcodes that name other array positions than its columns do", where=path, hint=_AGAIN)
    mpp, source = _mpp(xy_px, array, bin_um, bin_um, read_scalefactors(_spatial(square), path))
    return SpotFile(adata, mpp, source, float(bin_um), float(bin_um), notes=(*notes, *more))


def _mpp(
    xy_px: np.ndarray, array: np.ndarray, side_um: int, bin_um: int, factors: ScaleFactors | None
) -> tuple[float | None, str | None]:
    """Scale of tiles of ``side_um``, of bins of ``bin_um``, and how it is known."""
    if factors is not None and factors.bin_um is not None and factors.bin_um != bin_um:
        raise SectionError(
            f"is of bins of {factors.bin_um:g} um, and the positions are of bins of {bin_um} um",
            where=factors.path,
            hint=_AGAIN,
        )
    pitch = spot_pitch(xy_px, array)
    measured = side_um / pitch.px if pitch is not None else None
    if factors is None or factors.mpp is None:
        return measured, None if pitch is None else f"the {side_um} um between neighbours, {pitch.px:.1f} px apart"
    if measured is not None and abs(measured / factors.mpp - 1) > _MPP_TOLERANCE:
        raise SectionError(
            f"says {factors.mpp:.4g} um per px, but {side_um} um are {side_um / measured:.1f} px in the positions, "
            f"which is {measured:.4g}",
            where=factors.path,
            hint="The scale factors and the positions are of two images: copy the square folder again",
        )
    return factors.mpp, f"microns_per_pixel of {factors.path.name}"


FORMATS = (VisiumHD(),)
