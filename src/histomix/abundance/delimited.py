"""Tables of numbers as text: a first column of names, then one column of numbers each."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import LabelError, MissingLabelError

_SEPARATORS = ("\t", ",", ";")


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
    separator = max(_SEPARATORS, key=header.count)
    names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
    try:
        # Every cell as text: keys such as 007 stay what they are, and no gene called NA turns into a gap.
        cells = pd.read_csv(io.StringIO(body), sep=separator, header=None, dtype=str, na_filter=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise LabelError(
            f"cannot be read as a table ({error})", where=path, mend="Check that the file is a whole CSV or TSV"
        ) from error
    if cells.shape[1] == len(names) + 1:
        names = ["", *names]
    if cells.shape[1] != len(names) or len(names) < 2:
        raise LabelError(
            f"has {len(names)} column names for {cells.shape[1]} columns",
            where=path,
            mend="Give a CSV or TSV with one name per column and numbers after the first column",
        )
    columns = pd.Index(names[1:])
    if not columns.is_unique:
        raise LabelError(
            f"has the column '{columns[columns.duplicated()][0]}' more than once", where=path, mend="Keep it once"
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
            mend="Keep one column of names, then columns of finite numbers without gaps",
        )
    return pd.DataFrame(numbers, index=text.index, columns=text.columns)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError as error:
        raise MissingLabelError("there is no such file", where=path, mend="Check the path") from error
    except UnicodeDecodeError as error:
        raise LabelError("is not a text table in UTF-8", where=path, mend="Save it as CSV or TSV in UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise LabelError(f"cannot be read ({error})", where=path, mend="Fetch or unpack the file again") from error
