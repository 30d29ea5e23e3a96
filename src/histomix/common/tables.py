"""Small text tables as people save them: any of three separators, gzipped or not."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import LabelError, MissingLabelError, MissingSectionError, SectionError

_SEPARATORS = ("\t", ",", ";")
_MAX_HEADER = 1 << 26  # a first line of 26 k genes has 0.3 MB
_NO_TABLES = (".h5ad", ".h5", ".parquet", ".json", ".zarr", ".tif", ".tiff", ".svs", ".ndpi", ".jpg", ".jpeg", ".png")


def read_bytes(path: Path) -> bytes:
    """Content of a file, unzipped when it is gzip, without a byte order mark.

    Raises
    ------
    SectionError
        The file is absent, unreadable, or a truncated or damaged gzip.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except FileNotFoundError as error:
        raise MissingSectionError("there is no such file", where=path, hint="Check the path") from error
    except (OSError, EOFError, zlib.error) as error:
        raise SectionError(f"cannot be read ({error})", where=path, hint="Fetch or unpack the file again") from error
    return content.removeprefix(b"\xef\xbb\xbf")


def decode(content: bytes, path: Path) -> str:
    """Text of a table; refuses binary files and other encodings than UTF-8."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SectionError("is not a text table in UTF-8", where=path, hint="Save it as CSV or TSV in UTF-8") from error
    if "\0" in text:
        raise SectionError("is not a text table", where=path, hint="Save it as CSV or TSV in UTF-8")
    return text


def separator(header: str) -> str:
    """The separator that occurs most often in a header line; tab, then comma, on a tie."""
    return max(_SEPARATORS, key=header.count)


def header_of(path: Path) -> list[str]:
    """Column names of a text table, without quotes and outer spaces; only its start is read.

    Raises
    ------
    SectionError
        The file is absent, unreadable or damaged, or is no text table.
    """
    try:
        with path.open("rb") as stream:
            zipped = stream.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as stream:
            first = stream.readline(_MAX_HEADER)
    except FileNotFoundError as error:
        raise MissingSectionError("there is no such file", where=path, hint="Check the path") from error
    except (OSError, EOFError, zlib.error) as error:
        raise SectionError(f"cannot be read ({error})", where=path, hint="Fetch or unpack the file again") from error
    lines = decode(first.removeprefix(b"\xef\xbb\xbf"), path).splitlines()
    return _names(lines[0]) if lines else []


def columns_or_none(path: Path) -> list[str] | None:
    """Column names of a text table; None when the path is no such table."""
    if path.is_dir() or path.suffix.lower() in _NO_TABLES:
        return None
    try:
        return header_of(path)
    except SectionError:
        return None


def _names(header: str) -> list[str]:
    return [name.strip().strip('"').strip() for name in header.split(separator(header))]


def read_table(path: Path) -> pd.DataFrame:
    """Read a table with every cell as text, so that keys such as ``007`` stay what they are.

    A first column without a name (or R's way of leaving it out of the header) is called ``""``.

    Raises
    ------
    SectionError
        The file cannot be read, is not text, has ragged rows, or holds no rows.
    """
    text = decode(read_bytes(path), path)
    try:
        table = pd.read_csv(io.StringIO(text), sep=separator(text.partition("\n")[0]), dtype=str, na_filter=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise SectionError(f"cannot be read as a table ({error})", where=path, hint="Save it as CSV or TSV") from error
    if not isinstance(table.index, pd.RangeIndex):
        if isinstance(table.index, pd.MultiIndex):
            raise SectionError("has rows with more cells than the header", where=path, hint="Mend the header")
        table = table.reset_index(names="")
    table.columns = pd.Index(["" if str(name).startswith("Unnamed: ") else str(name).strip() for name in table.columns])
    if table.empty:
        raise SectionError("has a header but no rows", where=path, hint="Check that the file is whole")
    return table.apply(lambda column: column.str.strip())


def numbers(table: pd.DataFrame, column: str, path: Path) -> np.ndarray:
    """One column as finite float64 (n,); the error names the first row that is no number (the header is row 1)."""
    values = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=float)
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        cell = table[column].iloc[wrong[0]]
        raise SectionError(
            f"row {wrong[0] + 2}, column '{column}': '{cell}' is not a number ({len(wrong)} such rows)",
            where=path,
            hint="Fill in the number or remove the row",
        )
    return values


_NUMBER_SEPARATORS = ("\t", ",", ";")


def read_numbers(path: Path) -> pd.DataFrame:
    """Read a table of `read_cells` as float64.

    Raises
    ------
    LabelError
        As `read_cells`, or the table holds a cell that is not a number.
    """
    return to_numbers(read_cells(path), path)


def read_cells(path: Path) -> pd.DataFrame:
    """Read a CSV or TSV, gzipped or not, with every cell as text; the first column becomes the index.

    The header may name the first column, leave its name empty, or leave it out as R does. Names lose outer spaces.

    Raises
    ------
    LabelError
        The file cannot be read as text, or has ragged rows or repeated columns.
    """
    header, _, body = _text(path).partition("\n")
    separator = max(_NUMBER_SEPARATORS, key=header.count)
    names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
    try:
        # Every cell as text: keys such as 007 stay what they are, and no gene called NA turns into a gap.
        cells = pd.read_csv(io.StringIO(body), sep=separator, header=None, dtype=str, na_filter=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise LabelError(
            f"cannot be read as a table ({error})", where=path, hint="Check that the file is a whole CSV or TSV"
        ) from error
    if cells.shape[1] == len(names) + 1:
        names = ["", *names]
    if cells.shape[1] != len(names) or len(names) < 2:
        raise LabelError(
            f"has {len(names)} column names for {cells.shape[1]} columns",
            where=path,
            hint="Give a CSV or TSV with one name per column and numbers after the first column",
        )
    columns = pd.Index(names[1:])
    if not columns.is_unique:
        raise LabelError(
            f"has the column '{columns[columns.duplicated()][0]}' more than once", where=path, hint="Keep it once"
        )
    return cells.iloc[:, 1:].set_axis(columns, axis=1).set_axis(cells[0].str.strip().to_numpy(), axis=0)


def to_numbers(text: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Turn the cells of a table into float64; LabelError names the first that is no finite number."""
    try:
        # Not pd.to_numeric, which is off in the last digit: what was written is what is read.
        numbers = text.to_numpy(dtype=np.float64)
    except ValueError:
        numbers = text.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.argwhere(~np.isfinite(numbers))
    if len(wrong):
        row, column = wrong[0]
        raise LabelError(
            f"row {row + 2}, column '{text.columns[column]}': '{text.to_numpy()[row, column]}' is not a number "
            f"({len(wrong)} such cells)",
            where=path,
            hint="Keep one column of names, then columns of finite numbers without gaps",
        )
    return pd.DataFrame(numbers, index=text.index, columns=text.columns)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError as error:
        raise MissingLabelError("there is no such file", where=path, hint="Check the path") from error
    except UnicodeDecodeError as error:
        raise LabelError("is not a text table in UTF-8", where=path, hint="Save it as CSV or TSV in UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise LabelError(f"cannot be read ({error})", where=path, hint="Fetch or unpack the file again") from error
