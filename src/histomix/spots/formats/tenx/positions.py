"""What Space Ranger writes into ``spatial/``: positions and scale factors."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ....common import tables
from ....common.words import counted
from ....errors import MissingExtraError, MissingSectionError, SectionError
from ....provenance import parse_json
from ...counts import match_barcodes
from ..base import spots_only
from .matrix import find_matrix, is_raw, read_barcodes, read_matrix

if TYPE_CHECKING:
    from anndata import AnnData

COLUMNS = ("barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")
# Space Ranger 1 wrote the list without a header, 2 and later the file with one, Visium HD the parquet.
_POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
_AGAIN = "Copy the spatial folder of this section again"
_BATCH = 1 << 18


def find_positions(spatial: Path) -> Path | None:
    """The positions file of a ``spatial`` folder, gzipped or not; its name may have a prefix."""
    for name in _POSITIONS:
        for pattern in (name, f"{name}.gz", f"*{name}", f"*{name}.gz"):
            for path in sorted(spatial.glob(pattern)):
                return path
    return None


def read_positions(path: Path) -> pd.DataFrame:
    """All spots of a positions file: index barcode; in_tissue as bool, array_row, array_col, x_px, y_px.

    Raises
    ------
    SectionError
        The file cannot be read, lacks a column, repeats a barcode, or has a coordinate that is no number.
    """
    table = pd.concat(list(parquet_batches(path))) if path.suffix == ".parquet" else _read_csv(path)
    barcodes = pd.Index(table["barcode"].astype(object), name="spot")
    if not barcodes.is_unique:
        raise SectionError(
            f"has the barcode '{barcodes[barcodes.duplicated()][0]}' more than once", where=path, hint=_AGAIN
        )
    return pd.DataFrame(
        {
            "in_tissue": table["in_tissue"].to_numpy() == 1,
            "array_row": table["array_row"].to_numpy(dtype=np.int64),
            "array_col": table["array_col"].to_numpy(dtype=np.int64),
            "x_px": table["pxl_col_in_fullres"].to_numpy(dtype=np.float64),
            "y_px": table["pxl_row_in_fullres"].to_numpy(dtype=np.float64),
        },
        index=barcodes,
    )


def parquet_batches(path: Path) -> Iterator[pd.DataFrame]:
    """A positions file in parquet, some rows at a time.

    Raises
    ------
    MissingExtraError
        pyarrow is not installed.
    SectionError
        The file cannot be read, or lacks a column or a coordinate.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "st", "reading positions in parquet") from error
    try:
        # Mapping the file would count its pages as memory of the program.
        with pq.ParquetFile(path, memory_map=False, pre_buffer=False) as stored:
            missing = [name for name in COLUMNS if name not in stored.schema_arrow.names]
            if missing:
                raise SectionError(
                    f"lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}", where=path, hint=_AGAIN
                )
            if not stored.metadata.num_rows:
                raise SectionError("holds no spots", where=path, hint=_AGAIN)
            for batch in stored.iter_batches(_BATCH, columns=list(COLUMNS), use_threads=False):
                table = batch.to_pandas()
                _require_numbers(table, path)
                yield table
    except FileNotFoundError as error:
        raise MissingSectionError("there is no such file", where=path, hint="Check the path") from error
    except (OSError, pa.ArrowException) as error:
        raise SectionError(f"cannot be read as parquet ({error})", where=path, hint=_AGAIN) from error


def _read_csv(path: Path) -> pd.DataFrame:
    text = tables.decode(tables.read_bytes(path), path)
    rows = list(csv.reader(io.StringIO(text)))
    rows = [[cell.strip() for cell in row] for row in rows if row]
    if not rows:
        raise SectionError("holds no spots", where=path, hint=_AGAIN)
    # The name of the file does not tell whether there is a header: people rename it.
    header = len(rows[0]) > 1 and not _is_number(rows[0][1])
    names = rows[0] if header else list(COLUMNS)
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise SectionError(f"lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}", where=path, hint=_AGAIN)
    first = 2 if header else 1
    for number, row in enumerate(rows[1:] if header else rows, start=first):
        if len(row) != len(names):
            raise SectionError(f"row {number} has {len(row)} cells, not {len(names)}", where=path, hint=_AGAIN)
    if len(rows) == int(header):
        raise SectionError("has a header but no rows", where=path, hint=_AGAIN)
    table = pd.DataFrame(rows[1:] if header else rows, columns=names)[list(COLUMNS)]
    numbers = table.copy()
    for name in COLUMNS[1:]:
        numbers[name] = pd.to_numeric(table[name], errors="coerce")
    _require_numbers(numbers, path, first)
    return numbers


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _require_numbers(table: pd.DataFrame, path: Path, first: int | None = None) -> None:
    for name in COLUMNS[1:]:
        column = table[name]
        values = column.to_numpy(dtype=np.float64, na_value=np.nan) if column.dtype.kind in "iufb" else None
        wrong = np.arange(len(column)) if values is None else np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            place = f"row {wrong[0] + first}, " if first else ""
            raise SectionError(
                f"{place}column '{name}': {len(wrong)} values are no numbers (spot {table['barcode'].iloc[wrong[0]]})",
                where=path,
                hint=_AGAIN,
            )


@dataclass(frozen=True)
class ScaleFactors:
    """``scalefactors_json.json``; what a version does not write is None."""

    path: Path
    spot_diameter_px: float | None = None
    hires: float | None = None
    lowres: float | None = None
    mpp: float | None = None
    bin_um: float | None = None


def read_scalefactors(spatial: Path) -> ScaleFactors | None:
    """Scale factors of a ``spatial`` folder, None where there is no such file.

    Raises
    ------
    SectionError
        The file is no JSON object, or a factor is no positive number.
    """
    path = next(iter(sorted(spatial.glob("*scalefactors_json.json*"), key=lambda file: len(file.name))), None)
    if path is None:
        return None
    text = tables.decode(tables.read_bytes(path), path)
    try:
        values = parse_json(text)
    except ValueError as error:
        raise SectionError(f"cannot be read as JSON ({error})", where=path, hint=_AGAIN) from error
    names = ("spot_diameter_fullres", "tissue_hires_scalef", "tissue_lowres_scalef", "microns_per_pixel", "bin_size_um")
    if not isinstance(values, dict):
        raise SectionError("is JSON, but not an object", where=path, hint=_AGAIN)
    factors: list[Any] = [values.get(name) for name in names]
    for name, value in zip(names, factors, strict=True):
        if value is not None and not (type(value) in (int, float) and 0 < value < np.inf):
            raise SectionError(f"has a {name} that is no positive number ({value!r})", where=path, hint=_AGAIN)
    return ScaleFactors(path, *factors)


#: Spots under tissue and barcodes of the filtered matrix are the same: below this share, they are of two sections.
_MIN_SHARED = 0.95


def join_matrix(
    obs: pd.DataFrame, xy_px: np.ndarray, positions: Path, outs: Path, with_counts: bool
) -> tuple[AnnData, list[str]]:
    """Spots (index barcode) that have counts in the matrix of ``outs``, all where there is none; and what to say.

    Raises
    ------
    SectionError
        The matrix cannot be read, or is of another section.
    """
    from anndata import AnnData

    matrix = find_matrix(outs)
    if matrix is None:
        return spots_only(obs, xy_px), []
    table = read_matrix(matrix) if with_counts else None
    barcodes = read_barcodes(matrix) if table is None else table.barcodes
    rows, suffixed = match_barcodes(obs.index, barcodes)
    has_counts, raw = rows >= 0, is_raw(matrix)
    # Spots may be taken away by hand, in either: one side may then be a part of the other.
    shared = has_counts.mean() if raw else max(has_counts.mean(), has_counts.sum() / max(1, len(barcodes)))
    if shared < _MIN_SHARED:
        examples = [", ".join(map(str, index[:2])) for index in (obs.index, barcodes)]
        raise SectionError(
            f"{has_counts.sum():,} of its {len(obs):,} spots under tissue are among the {len(barcodes):,} barcodes of "
            f"{matrix} (spots: {examples[0]}; barcodes: {examples[1]})",
            where=positions,
            hint="The positions and the matrix are of two sections: copy the outs folder of one section again",
        )
    notes = ["barcodes are matched without what follows their last '-'"] if suffixed else []
    if raw:
        notes.append(f"only the raw matrix ({matrix.name}) is there; its spots under tissue are used")
    if not has_counts.all():
        notes.append(f"{counted(int((~has_counts).sum()), 'spot')} of {len(obs):,} have no counts and are dropped")
    if not raw and len(barcodes) > has_counts.sum():
        notes.append(
            f"{len(barcodes) - has_counts.sum():,} of {len(barcodes):,} barcodes with counts are not under tissue"
        )
    if table is None:
        adata = spots_only(obs[has_counts], xy_px[has_counts])
    else:
        notes += table.notes
        adata = AnnData(
            X=table.matrix[rows[has_counts]], obs=obs[has_counts], var=table.var, obsm={"spatial": xy_px[has_counts]}
        )
    adata.uns["spots_without_counts"] = int((~has_counts).sum())
    return adata, notes
