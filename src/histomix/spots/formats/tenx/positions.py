"""What Space Ranger writes into ``spatial/``: positions and scale factors."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ....common import tables
from ....common.words import counted, reason
from ....errors import HistomixError, MissingExtraError, MissingSectionError, SectionError
from ....provenance import parse_json, refuse_pipe
from ...counts import match_barcodes
from ..base import spots_only
from .matrix import find_matrix, is_raw, read_barcodes, read_matrix

if TYPE_CHECKING:
    from anndata import AnnData

COLUMNS = ("barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")
# Space Ranger 1 wrote the list without a header, 2 and later the file with one, Visium HD the parquet.
_POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
_AGAIN = "Copy the spatial folder of this section again"
#: The largest whole number that a column may hold, and what another one is not.
_WHOLE = {"in_tissue": 1, "array_row": 1 << 31, "array_col": 1 << 31}
_NOT_WHOLE = {"in_tissue": "neither 0 nor 1", **dict.fromkeys(("array_row", "array_col"), "no place of the array")}
_BATCH = 1 << 18
#: Barcodes of Visium HD name the side of their bin.
_BIN = re.compile(r"s_(\d{3})um_\d+_\d+")
_START = 1 << 14
_NAMES = re.compile(
    r"tissue_positions|scalefactors_json|tissue_(?:hires|lowres)_image|(?:filtered|raw)_(?:feature|gene)_bc"
)


def find_positions(spatial: Path) -> Path | None:
    """The positions file of a ``spatial`` folder, gzipped or not; its name may have a prefix.

    Raises
    ------
    SectionError
        There are those of several samples, told by their prefixes.
    """
    files = [path for name in _POSITIONS for end in ("", ".gz") for path in sorted(spatial.glob(f"*{name}{end}"))]
    own = [path for path in files if not prefix_of(path)] or files
    if len({prefix_of(path) for path in own}) > 1:
        raise SectionError(
            f"holds the positions of several samples ({', '.join(path.name for path in own)})",
            where=spatial,
            hint="Name the file of one of them, or give each sample a folder of its own",
        )
    return own[0] if own else None


def is_positions(path: Path) -> bool:
    """Whether a file is called as Space Ranger calls its positions."""
    return path.is_file() and path.name.removesuffix(".gz").endswith(_POSITIONS)


def prefix_of(path: Path) -> str:
    """What stands in a file's name before the name that Space Ranger gives: the sample, where people put it there."""
    return _NAMES.split(path.name)[0]


def of_sample(files: Sequence[Path], positions: Path | None, what: str) -> Path | None:
    """Of files of one kind that of the sample whose positions these are, None without any.

    Raises
    ------
    SectionError
        They are of other samples, or of several and nothing tells which.
    """
    own = "" if positions is None else prefix_of(positions)
    same = [path for path in files if prefix_of(path) == own]
    if same or not files:
        return same[0] if same else None
    if len(files) == 1 and not (own and prefix_of(files[0])):
        return files[0]
    raise SectionError(
        f"holds {what} of other samples ({', '.join(path.name for path in files)}), and none of that of "
        f"{positions.name if positions else 'the positions'}",
        where=files[0].parent,
        hint="Put what belongs to one sample into a folder of its own",
    )


def bin_size(path: Path) -> int | None:
    """Side in um of the bins of Visium HD in a positions file, by its barcodes (``s_008um_...``); None for no bins.

    A file that cannot be read holds none: whoever reads it will say what is wrong.
    """
    try:
        first = next(position_batches(path, 1))["barcode"].iloc[0] if path.suffix == ".parquet" else _first_cell(path)
    except (HistomixError, StopIteration, IndexError, OSError, zlib.error):
        return None
    named = _BIN.match(str(first))
    return int(named[1]) if named else None


def _first_cell(path: Path) -> str:
    """The first cell of the second line, which is no header in any version."""
    with path.open("rb") as stream:
        start = stream.read(_START)
    if start[:2] == b"\x1f\x8b":
        start = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(start)
    return start.decode("utf-8", "replace").splitlines()[1].split(",")[0].strip('" ')


def read_positions(path: Path) -> pd.DataFrame:
    """All spots of a positions file: index barcode; in_tissue as bool, array_row, array_col, x_px, y_px.

    Raises
    ------
    SectionError
        The file cannot be read, lacks a column, repeats a barcode, or has a coordinate that is no number.
    """
    table = pd.concat(list(position_batches(path)))
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


def position_batches(path: Path, rows: int = _BATCH) -> Iterator[pd.DataFrame]:
    """A positions file, some rows at a time; all at once of a text.

    Raises
    ------
    MissingExtraError
        pyarrow is not installed.
    SectionError
        The file cannot be read, or lacks a column or a coordinate.
    """
    if path.suffix != ".parquet":
        yield _read_csv(path)
        return
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "st", "reading positions in parquet") from error
    refuse_pipe(path, SectionError)
    try:
        # Mapping the file would count its pages as memory of the program.
        with path.open("rb") as stream, pq.ParquetFile(stream, memory_map=False, pre_buffer=False) as stored:
            missing = [name for name in COLUMNS if name not in stored.schema_arrow.names]
            if missing:
                raise SectionError(
                    f"lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}", where=path, hint=_AGAIN
                )
            if not stored.metadata.num_rows:
                raise SectionError("holds no spots", where=path, hint=_AGAIN)
            for batch in stored.iter_batches(rows, columns=list(COLUMNS), use_threads=False):
                table = batch.to_pandas()
                _require_numbers(table, path)
                yield table
    except FileNotFoundError as error:
        raise MissingSectionError("there is no such file", where=path, hint="Check the path") from error
    except (OSError, pa.ArrowException) as error:
        raise SectionError(f"cannot be read as parquet ({reason(error)})", where=path, hint=_AGAIN) from error


def _read_csv(path: Path) -> pd.DataFrame:
    rows = tables.csv_rows(tables.decode(tables.read_bytes(path), path), path)
    if not rows:
        raise SectionError("holds no spots", where=path, hint=_AGAIN)
    # The name of the file does not tell whether there is a header: people rename it.
    header = len(rows[0]) > 1 and not _is_number(rows[0][1])
    names = rows[0] if header else list(COLUMNS)
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise SectionError(f"lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}", where=path, hint=_AGAIN)
    if twins := [name for name in COLUMNS if names.count(name) > 1]:
        raise SectionError(f"has the column {twins[0]} more than once", where=path, hint=_AGAIN)
    first = 2 if header else 1
    for number, row in enumerate(rows[1:] if header else rows, start=first):
        if len(row) != len(names):
            raise SectionError(f"row {number} has {len(row):,} cells, not {len(names)}", where=path, hint=_AGAIN)
    if len(rows) == int(header):
        raise SectionError("has a header but no rows", where=path, hint=_AGAIN)
    table = pd.DataFrame(rows[1:] if header else rows, columns=names)[list(COLUMNS)]
    numbers = table.copy()
    for name in COLUMNS[1:]:
        numbers[name] = tables.to_numeric(table[name])
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
        if values is not None and name in _WHOLE:
            wrong = np.flatnonzero((values != np.rint(values)) | (np.abs(values) > _WHOLE[name]))
            if len(wrong):
                raise SectionError(
                    f"column '{name}' is {values[wrong[0]]:g} at the spot {table['barcode'].iloc[wrong[0]]} "
                    f"({counted(len(wrong), 'such spot')}), which is {_NOT_WHOLE[name]}",
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


def read_scalefactors(spatial: Path, positions: Path | None = None) -> ScaleFactors | None:
    """Scale factors of a ``spatial`` folder, None where there is no such file.

    Parameters
    ----------
    spatial
        The folder.
    positions
        The positions that they belong to; of several samples in one folder, the prefix of its name tells which.

    Raises
    ------
    SectionError
        The file is no JSON object, a factor is no positive number, or the file is of another sample.
    """
    path = of_sample(sorted(spatial.glob("*scalefactors_json.json*")), positions, "scale factors")
    if path is None:
        return None
    text = tables.decode(tables.read_bytes(path), path)
    try:
        values = parse_json(text, unique=True)
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
    obs: pd.DataFrame, xy_px: np.ndarray, positions: Path, outs: Path, with_counts: bool, genome: str | None = None
) -> tuple[AnnData, list[str]]:
    """Spots (index barcode) that have counts in the matrix of ``outs``, all where there is none; and what to say.

    Raises
    ------
    SectionError
        The matrix cannot be read, or is of another section.
    """
    from anndata import AnnData

    matrix = find_matrix(outs, prefix_of(positions))
    if matrix is None:
        return spots_only(obs, xy_px), []
    table = read_matrix(matrix, genome) if with_counts else None
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
