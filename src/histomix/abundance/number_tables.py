"""Tables of numbers, each row and column with a name: labels and signatures, as text first and then as float64."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd

from ..common.tables import (
    decode,
    leaves_key_out,
    names_in,
    plain_lines,
    read_bytes,
    refuse_twins,
    separator,
    to_numeric,
)
from ..errors import LabelError

_AGAIN = re.compile(r"\.\d+$")


def refuse_values_for_names(names: pd.Index, where: str | Path) -> None:
    """Refuse a row of values in the place of a header: all names are numbers, and not all whole, as clusters' are.

    Raises
    ------
    LabelError
        They are.
    """
    values = to_numeric(pd.Series([str(name) for name in names])).to_numpy()
    if np.isfinite(values).all() and (values != np.rint(values)).any():
        raise LabelError(
            f"has numbers for names of its cell types (such as '{names[0]}')",
            where=where,
            hint="Give the table a header: the name of each cell type above its column",
        )


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
        The file cannot be read as text, or has ragged rows, repeated columns or no header.
    """
    text = plain_lines(decode(read_bytes(path, LabelError), path, LabelError))
    header, _, body = text.partition("\n")
    names = names_in(header)
    try:
        # Every cell as text: keys such as 007 stay what they are, and no gene called NA turns into a gap.
        cells = pd.read_csv(io.StringIO(body), sep=separator(header), header=None, dtype=str, na_filter=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise LabelError(
            f"cannot be read as a table ({error})", where=path, hint="Check that the file is a whole CSV or TSV"
        ) from error
    if leaves_key_out(names, cells.shape[1], path, LabelError):
        names = ["", *names]
    if len(names) < 2:
        raise LabelError(
            "has one column",
            where=path,
            hint="Give a CSV or TSV with one name per column and numbers after the first column",
        )
    columns = pd.Index(names[1:])
    refuse_values_for_names(columns, path)
    refuse_twins(list(columns), path, LabelError)
    for name in columns:
        # As pandas and R call a column that occurs again.
        first = _AGAIN.sub("", name)
        if first != name and first in columns and cells[names.index(name)].equals(cells[names.index(first)]):
            raise LabelError(f"has the column '{first}' again, as '{name}'", where=path, hint="Keep it once")
    return cells.iloc[:, 1:].set_axis(columns, axis=1).set_axis(cells[0].str.strip().to_numpy(), axis=0)


def to_numbers(text: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Turn the cells of a table into float64; LabelError names the first that is no finite number."""
    try:
        # Not pd.to_numeric, which is off in the last digit: what was written is what is read.
        numbers = text.to_numpy(dtype=np.float64)
    except ValueError:
        numbers = text.apply(to_numeric).to_numpy(dtype=np.float64)
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
