"""The tidy table of a cohort on its way to disk: map by map, so that memory holds one map however many there are."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pandas as pd

from ..common.naming import spreadsheet_table
from ..provenance import atomic_path

#: Digits of a value in the CSV files.
FLOAT_FORMAT = "%.8g"


class TidyFiles:
    """``cohort.csv``, and ``cohort.parquet`` with pyarrow, which appear whole when the block ends well.

    Parameters
    ----------
    place
        The folder.

    Attributes
    ----------
    rows
        How many were written.
    written
        What there will be, by name.
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        self.place, self.rows = Path(place), 0
        self.written: dict[str, Path] = {}
        self._stack = contextlib.ExitStack()
        self._parquet: Any = None

    def __enter__(self) -> Self:
        self._csv = self._stack.enter_context(atomic_path(self.place / "cohort.csv"))
        self.written["cohort"] = self.place / "cohort.csv"
        if _has_pyarrow():
            self._table = self._stack.enter_context(atomic_path(self.place / "cohort.parquet"))
            self.written["cohort (Parquet)"] = self.place / "cohort.parquet"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if self._parquet is not None:
            self._parquet.close()
        return self._stack.__exit__(kind, error, trace)

    def add(self, rows: pd.DataFrame) -> None:
        """Write the rows of one more map; columns are those of the first."""
        first = self.rows == 0
        spreadsheet_table(rows).to_csv(
            self._csv,
            mode="w" if first else "a",
            header=first,
            index=False,
            float_format=FLOAT_FORMAT,
            lineterminator="\n",
        )
        self.rows += len(rows)
        if "cohort (Parquet)" in self.written:
            import pyarrow as pa
            from pyarrow.parquet import ParquetWriter

            table = pa.Table.from_pandas(rows, preserve_index=False)
            if self._parquet is None:
                stream = self._stack.enter_context(self._table.open("wb"))  # pyarrow opens UTF-8 names only
                self._parquet = ParquetWriter(stream, table.schema)
            self._parquet.write_table(table.cast(self._parquet.schema))

    @property
    def size_bytes(self) -> int:
        """What is on disk so far."""
        files = [self._csv, *([self._table] if self.reads_back else [])]
        return sum(path.stat().st_size for path in files)

    @property
    def reads_back(self) -> bool:
        """Whether what is written holds all digits, and every name as it is."""
        return "cohort (Parquet)" in self.written


class SlideRows:
    """One row per slide of a column for each measure of the whole slide, gathered map by map."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._rows: list[tuple[str, str, np.ndarray, np.ndarray]] = []

    def add(self, tidy: pd.DataFrame) -> None:
        """Take the rows of one map."""
        whole = tidy[tidy["level"] == "slide"]
        keys = whole[["measure", "cell_type", "other_type"]].itertuples(index=False)
        names = [":".join(filter(None, key)) for key in keys]
        at = np.array([self._places.setdefault(name, len(self._places)) for name in names], dtype=np.int64)
        slide, patient = tidy["slide"].iloc[0], tidy["patient"].iloc[0]
        self._rows.append((slide, patient, at, whole["value"].to_numpy(np.float64)))

    def table(self) -> pd.DataFrame:
        """All slides in the order of the maps."""
        values = np.full((len(self._rows), len(self._places)), np.nan)
        for row, (_, _, at, found) in enumerate(self._rows):
            values[row, at] = found
        table = pd.DataFrame(values, columns=list(self._places))
        who = {"slide": [row[0] for row in self._rows], "patient": [row[1] for row in self._rows]}
        return pd.concat([pd.DataFrame(who), table], axis=1)


def _has_pyarrow() -> bool:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        return False
    return True
