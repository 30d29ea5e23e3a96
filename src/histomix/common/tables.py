"""Tables as people save them: text with any of three separators, gzipped or not, or Parquet."""

from __future__ import annotations

import csv
import functools
import gzip
import io
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import InputError, MissingExtraError, SectionError, missing_of
from ..provenance import refuse_pipe
from . import words
from .memory import available_memory
from .naming import repeated

_SEPARATORS = ("\t", ",", ";")
_MAX_HEADER = 1 << 26  # a first line of 26 k genes has 0.3 MB
_NO_TABLES = (".h5ad", ".h5", ".parquet", ".json", ".zarr", ".tif", ".tiff", ".svs", ".ndpi", ".jpg", ".jpeg", ".png")
_PARQUET = (".parquet", ".pq")
#: What tables call the column of their keys, in lower case: a header that begins with one of these, or with a blank,
#: names its first column.
_KEYS = frozenset((
    "", "spot", "spots", "spot_id", "spotid", "spot_name", "barcode", "barcodes", "bead", "beads", "bead_barcode",
    "key", "keys", "id", "index", "row.names", "rownames", "cell", "cells", "cell_id", "cellid", "entityid",
    "gene", "genes", "gene_id", "gene_ids", "gene_name", "gene_names", "gene_symbol", "symbol", "feature", "features",
    "feature_id", "ensembl_id", "slide", "section", "name",
))  # fmt: skip
_LONG_EXPONENT = r"[eE][+-]?\d{5}"


def read_bytes(path: Path, error: type[InputError] = SectionError) -> bytes:
    """Content of a file, unzipped when it is gzip, without a byte order mark.

    Raises
    ------
    InputError
        An ``error``: the file is absent, unreadable, a pipe, a truncated or damaged gzip, or more text than a quarter
        of the memory that is free: what is made of it takes several times as much.
    """
    refuse_pipe(path, error)
    free = available_memory()
    most = sys.maxsize - 1 if free is None else free // 4
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= most else None
        if content is not None and content[:2] == b"\x1f\x8b":
            content = _unpacked(content, most)
    except (OSError, EOFError, zlib.error) as reason:
        raise _unreadable(path, reason, error) from reason
    if content is None:
        raise error(
            f"holds more than {most / 2**30:.1f} GiB of text, a quarter of the memory that is free",
            where=path,
            hint="Give it more memory, and see whether the file is what it should be",
        )
    return content.removeprefix(b"\xef\xbb\xbf")


def _unpacked(packed: bytes, most: int) -> bytes | None:
    """What gzip has packed, in one member or several; None where that is more than so many bytes."""
    parts, left = [], most
    while packed:
        member = zlib.decompressobj(wbits=31)
        parts.append(member.decompress(packed, left + 1))
        left -= len(parts[-1])
        if left < 0:
            return None
        if not member.eof:
            raise EOFError("it ends before its last part does")
        packed = member.unused_data.lstrip(b"\0")
    return b"".join(parts)


def _unreadable(path: Path, reason: Exception, error: type[InputError]) -> InputError:
    if isinstance(reason, FileNotFoundError):
        return missing_of(error)("there is no such file", where=path, hint="Check the path")
    if path.is_dir():
        return error("is a folder, not a file", where=path, hint="Name the file in it")
    return error(f"cannot be read ({reason})", where=path, hint="Fetch or unpack the file again")


def decode(content: bytes, path: Path, error: type[InputError] = SectionError) -> str:
    """Text of a table; refuses binary files and other encodings than UTF-8."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as reason:
        raise error("is not a text table in UTF-8", where=path, hint="Save it as CSV or TSV in UTF-8") from reason
    if "\0" in text:
        raise error("is not a text table", where=path, hint="Save it as CSV or TSV in UTF-8")
    return text


def plain_lines(text: str) -> str:
    """The text with one kind of line end: Windows ends lines with two characters, old Macs with the other one."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def csv_rows(text: str, path: Path, error: type[InputError] = SectionError) -> list[list[str]]:
    """Rows of a CSV, cells as text without outer spaces; lines without a cell are left out.

    Raises
    ------
    InputError
        An ``error``: a quote lacks its partner, or a cell is longer than any cell.
    """
    try:
        rows = list(csv.reader(io.StringIO(plain_lines(text))))
    except csv.Error as reason:
        raise error(f"cannot be read as CSV ({reason})", where=path, hint="Copy or save the file again") from reason
    return [[cell.strip() for cell in row] for row in rows if row]


def separator(header: str) -> str:
    """The separator that occurs most often in a header line, quotes apart; tab, then comma, on a tie."""
    return max(_SEPARATORS, key=re.sub(r'"[^"]*"', "", header).count)


def header_of(path: Path) -> list[str]:
    """Column names of a text table, without quotes and outer spaces; only its start is read.

    Raises
    ------
    SectionError
        The file is absent, unreadable or damaged, or is no text table.
    """
    refuse_pipe(path, SectionError)
    try:
        state = path.stat()
    except (OSError, ValueError) as reason:  # ValueError: a name that no file can have
        raise _unreadable(path, reason, SectionError) from reason
    return list(_header(path, state.st_ino, state.st_size, state.st_mtime_ns))


@functools.lru_cache(maxsize=256)
def _header(path: Path, *_state: int) -> tuple[str, ...]:
    """The header of a file as it is; a folder's tables are asked for theirs by one format after the other."""
    lines = _start(path, 2)
    if not lines:
        return ()
    names = names_in(lines[0])
    first = names_in(lines[1], separator(lines[0])) if len(lines) > 1 else names
    return ("", *names) if len(first) == len(names) + 1 and not _names_key(names) else tuple(names)


def first_rows(path: Path, most: int) -> list[list[str]]:
    """Cells of the first rows below the header of a text table, as text; only its start is read.

    Raises
    ------
    SectionError
        The file is absent, unreadable or damaged, or is no text table.
    """
    header, *lines = _start(path, most + 1) or [""]
    return [names_in(line, separator(header)) for line in lines if line.strip()]


def _start(path: Path, n_lines: int) -> list[str]:
    """The first lines of a text file, packed or not."""
    refuse_pipe(path, SectionError)
    try:
        with path.open("rb") as stream:
            zipped = stream.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as stream:
            lines = [stream.readline(_MAX_HEADER) for _ in range(n_lines)]
    except (OSError, EOFError, zlib.error) as reason:
        raise _unreadable(path, reason, SectionError) from reason
    return decode(b"".join(lines).removeprefix(b"\xef\xbb\xbf"), path).splitlines()[:n_lines]


def columns_or_none(path: Path) -> list[str] | None:
    """Column names of a text table; None when the path is no such table."""
    try:
        return None if path.suffix.lower() in _NO_TABLES or not path.is_file() else header_of(path)
    except (SectionError, OSError):  # of a name that no file can have, too
        return None


def names_in(line: str, mark: str | None = None) -> list[str]:
    """Names in the first line of a table, without quotes and outer spaces; ``mark`` is between them (None: guess)."""
    mark = separator(line) if mark is None else mark
    if '"' not in line:
        return [name.strip() for name in line.split(mark)]
    try:
        cells = next(csv.reader([line], delimiter=mark), [])
    except csv.Error:  # a name longer than any name
        cells = line.split(mark)
    return [name.strip().strip('"').strip() for name in cells]


def _names_key(names: Sequence[str]) -> bool:
    return names[0].lower() in _KEYS


def leaves_key_out(names: Sequence[str], width: int, path: Path, error: type[InputError] = SectionError) -> bool:
    """Whether a header of a table of so many columns leaves out the name of the first, as R writes it.

    Raises
    ------
    InputError
        An ``error``: there are other columns than names. Where one name is lacking and the first is that of keys, it is
        another one that is lost: read as R's, every column would be called as its neighbour.
    """
    if width == len(names) + 1 and not _names_key(names):
        return True
    if width != len(names):
        raise error(
            f"has {len(names):,} column names for {width:,} columns",
            where=path,
            hint="Give a CSV or TSV with one name above each column",
        )
    return False


def refuse_twins(names: Sequence[str], path: Path, error: type[InputError] = SectionError) -> None:
    """Refuse names of columns that occur more than once; an ``error`` names the first."""
    if again := repeated(filter(None, names)):
        raise error(f"has the column '{again[0]}' more than once", where=path, hint="Keep it once")


def read_table(path: Path, error: type[InputError] = SectionError, *, empty_ok: bool = False) -> pd.DataFrame:
    """Read a table with every cell as text, so that keys such as ``007`` stay what they are.

    A first column without a name (or R's way of leaving it out of the header) is called ``""``.

    Raises
    ------
    InputError
        An ``error``: the file cannot be read, is not text, has ragged rows, a column more than once, or (unless
        ``empty_ok``) holds no rows.
    """
    text = _text(path, error)
    refuse_twins(names_in(text.partition("\n")[0]), path, error)
    table = _parse(text, path, error, dtype=str, na_filter=False)
    table.columns = pd.Index(["" if str(name).startswith("Unnamed: ") else str(name).strip() for name in table.columns])
    if table.empty and not empty_ok:
        raise error("has a header but no rows", where=path, hint="Check that the file is whole")
    return table if table.empty else table.apply(lambda column: column.str.strip())


def read_values(path: Path, is_text: Callable[[str], bool], error: type[InputError] = InputError) -> pd.DataFrame:
    """Read a table of text or Parquet with values as pandas takes them; columns that ``is_text`` names stay text.

    Raises
    ------
    InputError
        An ``error``: the file cannot be read as a table.
    MissingExtraError
        It is Parquet, and pyarrow is not installed.
    """
    if path.suffix.lower() in _PARQUET:
        return _read_parquet(path, None, error)
    text = _text(path, error)
    names = _parse(text, path, error, nrows=0).columns
    # No dtype: of text, pandas would still take NA, None and the like for blank cells.
    return _parse(text, path, error, converters={name: str for name in names if is_text(str(name))})


def column_names(path: Path) -> list[str]:
    """Column names of a text table or Parquet file; SectionError when it is neither."""
    if path.suffix.lower() not in _PARQUET:
        if names := header_of(path):
            return names
        raise SectionError("is empty", where=path, hint="Save the table again")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as reason:
        raise MissingExtraError("pyarrow", "st", "reading Parquet") from reason
    refuse_pipe(path, SectionError)
    try:
        with path.open("rb") as stream:
            return list(pyarrow.parquet.read_schema(stream).names)
    except (OSError, pyarrow.ArrowInvalid) as reason:
        raise _no_parquet(path, reason, SectionError) from reason


def read_columns(path: Path, names: Sequence[str]) -> pd.DataFrame:
    """Some columns of a text table (cells as text) or Parquet file (as stored); ``""`` is a column without a name."""
    present = column_names(path)
    if path.suffix.lower() in _PARQUET:
        return _read_parquet(path, names, SectionError)
    refuse_twins([name for name in present if name in names], path)
    wanted = [present.index(name) for name in names]
    table = _parse(
        _text(path, SectionError), path, SectionError, usecols=wanted, dtype=str, na_filter=False, index_col=False
    )
    order = np.argsort(np.argsort(wanted))
    text: pd.DataFrame = table.iloc[:, order].set_axis(list(names), axis=1).apply(lambda column: column.str.strip())
    return text


def _text(path: Path, error: type[InputError]) -> str:
    """Text of a table with a name (which may be blank) above each column, and no row that has more cells."""
    text = plain_lines(decode(read_bytes(path, error), path, error))
    _require_last_row(text, path, error)
    header = text.partition("\n")[0]
    mark, names = separator(header), names_in(header)
    widths = _widths(text, mark)
    if not any(widths):
        return text
    # Short rows lack blank cells at their end, which some programs leave out.
    common = Counter(filter(None, widths)).most_common(1)[0][0]
    if common > len(names) and leaves_key_out(names, common, path, error):
        text, names = f"{mark}{text}", ["", *names]
    if max(widths) > len(names):
        row = next(number for number, width in enumerate(widths) if width > len(names))
        raise error(
            f"row {row + 2} has {widths[row]:,} cells, and the table {len(names):,} columns",
            where=path,
            hint=f"Put quotes around cells that hold the separator ({mark!r})",
        )
    return text


def _widths(text: str, mark: str) -> list[int]:
    """Cells of each row below the header, 0 for a blank line; none where that is left to pandas to tell."""
    if '"' not in text:
        return [line.count(mark) + 1 if line.strip() else 0 for line in text.split("\n")[1:]]
    try:
        return [len(row) for row in csv.reader(io.StringIO(text), delimiter=mark)][1:]
    except csv.Error:  # a cell longer than any cell, or a quote without its partner
        return []


def _parse(text: str, path: Path, error: type[InputError], **options: Any) -> pd.DataFrame:
    # Python's own reading of numbers: pandas' runs out of its memory on exponents beyond an int of C.
    options = {"sep": separator(text.partition("\n")[0]), "float_precision": "round_trip", **options}
    try:
        table: pd.DataFrame = pd.read_csv(io.StringIO(text), **options)
        return table
    except ValueError as reason:  # of pandas' errors too
        raise error(f"cannot be read as a table ({reason})", where=path, hint="Save it as CSV or TSV") from reason


def _require_last_row(text: str, path: Path, error: type[InputError]) -> None:
    """Refuse a table that ends within a row: what it had after that row is lost too, and pandas fills up the cells."""
    whole = text.rstrip("\n ")  # no tab: the last cell may be blank
    header, _, rows = whole.partition("\n")
    first, last = rows.partition("\n")[0], rows.rpartition("\n")[2]
    mark = separator(header)
    if '"' not in first + last and last.count(mark) < first.count(mark):
        raise error(
            f"ends within a row: the last has {last.count(mark) + 1} cells, and the first {first.count(mark) + 1}",
            where=path,
            hint="Copy it again, or take that row out",
        )


def _read_parquet(path: Path, names: Sequence[str] | None, error: type[InputError]) -> pd.DataFrame:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as reason:
        raise MissingExtraError("pyarrow", "st", "reading Parquet") from reason
    refuse_pipe(path, error)
    try:
        columns = None if names is None else list(names)
        with path.open("rb") as stream:  # of a name that is no UTF-8, too, which pyarrow opens none of
            table: pd.DataFrame = pyarrow.parquet.read_table(stream, columns=columns).to_pandas()
        return table
    except FileNotFoundError as reason:
        raise _unreadable(path, reason, error) from reason
    except (OSError, pyarrow.ArrowInvalid) as reason:
        raise _no_parquet(path, reason, error) from reason


def write_parquet(table: pd.DataFrame, path: Path, *, index: bool | None = None) -> None:
    """Write Parquet, under any name that a file can have; ImportError without pyarrow."""
    import pyarrow
    import pyarrow.parquet

    # Neither it nor pandas opens a name that is no UTF-8.
    with path.open("wb") as stream:
        pyarrow.parquet.write_table(pyarrow.Table.from_pandas(table, preserve_index=index), stream)


def _no_parquet(path: Path, error: Exception, kind: type[InputError]) -> InputError:
    return kind(f"cannot be read as Parquet ({words.reason(error)})", where=path, hint="Copy it again")


def to_numeric(column: pd.Series) -> pd.Series:
    """A column as numbers, NaN where a cell is none.

    An exponent that no float has is none either: pandas runs out of its memory on those beyond an int of C.
    """
    if column.dtype == object or isinstance(column.dtype, pd.StringDtype):
        column = column.mask(column.astype(str).str.contains(_LONG_EXPONENT, na=False))
    return pd.to_numeric(column, errors="coerce")


def numbers(table: pd.DataFrame, column: str, path: Path) -> np.ndarray:
    """One column as finite float64 (n,); the error names the first row that is no number (the header is row 1)."""
    values = to_numeric(table[column]).to_numpy(dtype=float)
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        cell = table[column].iloc[wrong[0]]
        raise SectionError(
            f"row {wrong[0] + 2}, column '{column}': '{cell}' is not a number ({len(wrong)} such rows)",
            where=path,
            hint="Fill in the number or remove the row",
        )
    return values
