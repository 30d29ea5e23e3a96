"""Bins of Visium HD summed to square tiles, a part of the capture area at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from ....errors import SectionError
from ..base import no_counts, spots_only
from .matrix import H5Matrix, gene_table, is_raw, open_h5
from .positions import position_batches

if TYPE_CHECKING:
    from anndata import AnnData

_HINT_PARTS = "Copy the square folder again: its positions and its matrix do not belong together"
#: Bins a side at most: 32 mm of the finest, three times the largest capture area.
_MAX_SIDE = 1 << 14
# Stored counts that are held at once, beside the tiles.
_BLOCK = 1 << 21
_DIGITS = 5
#: The filtered matrix holds the bins under tissue: with less of them under tissue, it is of another section.
_MIN_SHARED = 0.95


@dataclass(frozen=True)
class Grid:
    """Tiles of ``factor`` x ``factor`` bins: where they are, and which bins are under tissue.

    ``tiles``: index key, columns array_row, array_col, x_px, y_px, bins (under tissue); complete tiles only.
    """

    bin_um: int
    factor: int
    tiles: pd.DataFrame
    tissue: np.ndarray  # (rows, columns) of bins, bool

    def tile_of(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Row in ``tiles`` of bins by their array position (n,), -1 where they are in none or not under tissue."""
        places = self.tiles[["array_row", "array_col"]].to_numpy()
        lookup = np.full((_MAX_SIDE // self.factor + 1,) * 2, -1, np.int32)
        lookup[places[:, 0], places[:, 1]] = np.arange(len(places))
        return np.where(self.tissue[rows, columns], lookup[rows // self.factor, columns // self.factor], -1)


def tile_grid(positions: Path, bin_um: int, tile_um: int, min_tissue: float) -> Grid:
    """Lay tiles over the bins of a positions file.

    Parameters
    ----------
    positions
        ``tissue_positions.parquet`` of one bin size.
    bin_um, tile_um
        Side of a bin and of a tile; the latter must be a multiple of the former.
    min_tissue
        Share of a tile's bins that must be under tissue for the tile to be kept.

    Raises
    ------
    SectionError
        The file cannot be used, the sizes do not fit, or no tile is kept.
    """
    factor = tile_um // bin_um
    if factor < 1 or factor * bin_um != tile_um:
        near = ", ".join(f"{n * bin_um}" for n in (max(1, factor), factor + 1))
        raise SectionError(
            f"tiles of {tile_um:g} um cannot be made of whole bins of {bin_um} um",
            where=positions,
            hint=f"Choose a multiple of the bin, such as {near}, or a finer bin (#bin_um=2)",
        )
    tissue = np.zeros((_MAX_SIDE, _MAX_SIDE), bool)  # pages that are never touched cost no memory
    parts = []
    for batch in position_batches(positions):
        rows, columns = batch["array_row"].to_numpy(dtype=np.int64), batch["array_col"].to_numpy(dtype=np.int64)
        if min(rows.min(), columns.min()) < 0 or max(rows.max(), columns.max()) >= _MAX_SIDE:
            raise SectionError("has array positions that no slide has", where=positions, hint="Copy the file again")
        named = bin_positions(batch["barcode"].to_numpy().astype("S"), bin_um, positions)
        if not (np.array_equal(named[0], rows) and np.array_equal(named[1], columns)):
            raise SectionError(
                "has barcodes that name other array positions than its columns do", where=positions, hint=_HINT_PARTS
            )
        inside = batch["in_tissue"].to_numpy() == 1
        tissue[rows[inside], columns[inside]] = True
        ids, places = np.unique((rows // factor) * _MAX_SIDE + columns // factor, return_inverse=True)
        sums = [np.bincount(places, weights=values) for values in (
            np.ones(len(rows)), inside, batch["pxl_col_in_fullres"].to_numpy(), batch["pxl_row_in_fullres"].to_numpy()
        )]  # fmt: skip
        parts.append(pd.DataFrame(np.column_stack(sums), index=ids, columns=["all", "bins", "x_px", "y_px"]))
    table = pd.concat(parts).groupby(level=0).sum()
    kept = table[(table["all"] == factor**2) & (table["bins"] >= min_tissue * factor**2)]
    if kept.empty:
        raise SectionError(
            f"has no tile of {tile_um} um with {min_tissue:.0%} of its bins under tissue",
            where=positions,
            hint="Choose a smaller tile, or check in_tissue",
        )
    row, column = np.divmod(kept.index.to_numpy(), _MAX_SIDE)
    keys = pd.Index([f"s_{tile_um:03d}um_{r:05d}_{c:05d}" for r, c in zip(row, column, strict=True)], name="spot")
    centres = kept[["x_px", "y_px"]].div(kept["all"], axis=0)
    tiles = centres.assign(array_row=row, array_col=column, bins=kept["bins"].astype(np.int64)).set_index(keys)
    return Grid(bin_um, factor, tiles, tissue)


def bin_positions(barcodes: np.ndarray, bin_um: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Array row and column that barcodes (n,) of bytes name: ``s_008um_00012_00345-1`` is row 12, column 345.

    Raises
    ------
    SectionError
        They are no barcodes of bins of this size.
    """
    prefix = f"s_{bin_um:03d}um_".encode()
    letters = np.ascontiguousarray(barcodes).view(np.uint8).reshape(len(barcodes), -1)
    start, width = len(prefix), len(prefix) + 2 * _DIGITS + 1
    good = letters.shape[1] >= width and (letters[:, :start] == np.frombuffer(prefix, np.uint8)).all()
    digits = letters[:, start:width].astype(np.int16) - ord("0") if good else np.empty((0, 0), np.int16)
    numbers = np.delete(digits, _DIGITS, axis=1) if good else digits
    if not good or numbers.min(initial=0) < 0 or numbers.max(initial=0) > 9:
        raise SectionError(
            f"has barcodes that are not those of {bin_um} um bins ({barcodes[0].decode(errors='replace')})",
            where=path,
            hint=_HINT_PARTS,
        )
    place = 10 ** np.arange(_DIGITS - 1, -1, -1)
    rows, columns = numbers[:, :_DIGITS] @ place, numbers[:, _DIGITS:] @ place
    if max(rows.max(initial=0), columns.max(initial=0)) >= _MAX_SIDE:
        raise SectionError("has barcodes of array positions that no slide has", where=path, hint=_HINT_PARTS)
    return rows, columns


def sum_counts(grid: Grid, matrix: Path) -> tuple[sparse.csr_matrix, pd.DataFrame, tuple[str, ...]]:
    """Counts of the tiles (csr float32, tiles x genes), the table of genes, and what to say of them.

    Raises
    ------
    SectionError
        The matrix cannot be read, or has bins that the positions lack.
    """
    with open_h5(matrix) as stored:
        keep, var, notes = gene_table(stored.features(), matrix)
        under = stored.size if is_raw(matrix) else _under_tissue(grid, stored, matrix)
        if under < _MIN_SHARED * stored.size:
            raise SectionError(
                f"has {stored.size:,} bins with counts, of which only {under:,} are under tissue by the positions",
                where=matrix,
                hint=_HINT_PARTS,
            )
        total = _added(_partial_sums(grid, stored, matrix), (len(grid.tiles), stored.width))
    return total if keep.all() else total[:, keep], var, notes


def _partial_sums(grid: Grid, stored: H5Matrix, path: Path) -> Iterator[sparse.csr_matrix]:
    for start, stop in stored.blocks(_BLOCK):
        barcodes = np.asarray(stored.barcodes[start:stop]).astype("S")
        tile = grid.tile_of(*bin_positions(barcodes, grid.bin_um, path))
        bins = np.flatnonzero(tile >= 0)
        if len(bins):
            ones = np.ones(len(bins), np.float32)
            belongs = sparse.csr_matrix((ones, (tile[bins], bins)), shape=(len(grid.tiles), stop - start))
            yield belongs @ stored.rows(start, stop)


def _under_tissue(grid: Grid, stored: H5Matrix, path: Path) -> int:
    total = 0
    for start in range(0, stored.size, _BLOCK):
        barcodes = np.asarray(stored.barcodes[start : start + _BLOCK]).astype("S")
        total += int(grid.tissue[bin_positions(barcodes, grid.bin_um, path)].sum())
    return total


def _added(parts: Iterator[sparse.csr_matrix], shape: tuple[int, int]) -> sparse.csr_matrix:
    """Sum of sparse matrices; they are merged whenever they hold as much as their sum so far."""
    total: sparse.csr_matrix = no_counts(*shape)
    pending: list[sparse.csr_matrix] = []
    for part in parts:
        pending.append(part)
        if sum(some.nnz for some in pending) > max(total.nnz, 4 * _BLOCK):
            total, pending = sum(pending, total), []
    return sparse.csr_matrix(sum(pending, total), dtype=np.float32)


def tiles_adata(grid: Grid, matrix: Path | None) -> tuple[AnnData, tuple[str, ...]]:
    """Tiles as spots, with counts where a matrix is given, and what to say of them."""
    from anndata import AnnData

    tiles = grid.tiles
    obs = tiles[["array_row", "array_col", "bins"]].assign(
        array_x=tiles["array_col"].astype(float), array_y=tiles["array_row"].astype(float)
    )
    xy_px = tiles[["x_px", "y_px"]].to_numpy()
    if matrix is None:
        return spots_only(obs, xy_px), ()
    counts, var, notes = sum_counts(grid, matrix)
    return AnnData(X=counts, obs=obs, var=var, obsm={"spatial": xy_px}), notes
