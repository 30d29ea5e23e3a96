"""Damage of a table of text, as spreadsheets, editors and scripts do it."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..case import EITHER, ERROR, RIGHT, UNTOLD, Damage
from .of_bytes import LOST

Rows = list[list[str]]
Change = Callable[[Rows, np.random.Generator], Rows]


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()


def _store(path: Path, data: bytes) -> None:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def by_text(change: Callable[[str], bytes]) -> Damage:
    """A damage by what it makes of the whole text."""

    def apply(path: Path, _rng: np.random.Generator) -> None:
        _store(path, change(_text(path)))

    return apply


def by_rows(change: Change) -> Damage:
    """A damage by what it makes of the rows, header included."""

    def apply(path: Path, rng: np.random.Generator) -> None:
        text = _text(path)
        separator = "\t" if text.partition("\n")[0].count("\t") > text.partition("\n")[0].count(",") else ","
        rows = change([list(row) for row in csv.reader(io.StringIO(text), delimiter=separator)], rng)
        out = io.StringIO()
        csv.writer(out, delimiter=separator, lineterminator="\n").writerows(rows)
        _store(path, out.getvalue().encode())

    return apply


def _some_row(rows: Rows, rng: np.random.Generator) -> int:
    return int(rng.integers(1, len(rows)))


def _cell(text: str, column: int) -> Damage:
    """One cell of a column (counted from the right where negative) holds something else."""

    def change(rows: Rows, rng: np.random.Generator) -> Rows:
        row = _some_row(rows, rng)
        rows[row] = list(rows[row])
        rows[row][column] = text
        return rows

    return by_rows(change)


def _shuffled(rows: Rows, rng: np.random.Generator) -> Rows:
    return [rows[0], *(rows[1:][number] for number in rng.permutation(len(rows) - 1))]


def _repeated(rows: Rows, rng: np.random.Generator) -> Rows:
    return [*rows, rows[_some_row(rows, rng)]]


def _shifted(rows: Rows, rng: np.random.Generator) -> Rows:
    row = _some_row(rows, rng)
    return [*rows[:row], rows[row][1:], *rows[row + 1 :]]


def _longer(rows: Rows, rng: np.random.Generator) -> Rows:
    row = _some_row(rows, rng)
    return [*rows[:row], [*rows[row], "7"], *rows[row + 1 :]]


def _twin_column(rows: Rows, _rng: np.random.Generator) -> Rows:
    return [[*row, row[-1]] for row in rows]


def _twin_name(rows: Rows, _rng: np.random.Generator) -> Rows:
    """The last column again, under its name, with the values of the rows in the other order."""
    return [[*rows[0], rows[0][-1]], *([*row, other[-1]] for row, other in zip(rows[1:], rows[:0:-1], strict=True))]


def _split_cell(rows: Rows, rng: np.random.Generator) -> Rows:
    """A cell that held the separator, and lost its quotes."""
    row = _some_row(rows, rng)
    place = len(rows[row]) - 1
    return [*rows[:row], [*rows[row][:place], "1", *rows[row][place:]], *rows[row + 1 :]]


def _nameless(place: int) -> Change:
    """A header that lacks one of its names, as it is after a careless cut."""
    return lambda rows, _rng: [
        [name for number, name in enumerate(rows[0]) if number != place % len(rows[0])],
        *rows[1:],
    ]


#: Damages that keep what a table says: it is read as before.
SAME: list[tuple[str, Damage, str]] = [
    ("bom", by_text(lambda text: b"\xef\xbb\xbf" + text.encode()), RIGHT),
    ("crlf", by_text(lambda text: text.replace("\n", "\r\n").encode()), RIGHT),
    ("no-last-newline", by_text(lambda text: text.rstrip("\n").encode()), RIGHT),
    ("blank-end", by_text(lambda text: text.encode() + b"\n\n"), EITHER),
    ("quoted", by_rows(lambda rows, _rng: rows), RIGHT),
    ("shuffled", by_rows(_shuffled), RIGHT),
]

#: Damages after which a table says less, or something else.
OTHER: list[tuple[str, Damage, str]] = [
    ("utf-16", by_text(lambda text: text.encode("utf-16")), EITHER),
    ("not-utf-8", by_text(lambda text: text.encode() + b"\xff\xfe\xe4\n"), EITHER),
    ("old-mac", by_text(lambda text: text.replace("\n", "\r").encode()), EITHER),
    ("semicolons", by_text(lambda text: text.replace(",", ";").replace("\t", ";").encode()), EITHER),
    ("decimal-comma", by_text(lambda text: text.replace(",", ";").replace(".", ",").encode()), EITHER),
    ("nul", by_text(lambda text: (text[: len(text) // 2] + "\0\0\0" + text[len(text) // 2 :]).encode()), EITHER),
    (
        "cut-in-a-row",
        by_text(lambda text: text[: max(5, text.rfind("\n", 0, len(text) * 2 // 3) + 3)].encode()),
        EITHER,
    ),
    ("open-quote", by_text(lambda text: text.replace("\n", '\n"', 1).encode()), EITHER),
    ("only-header", by_rows(lambda rows, _rng: rows[:1]), EITHER),
    ("header-lost", by_rows(lambda rows, _rng: rows[1:]), EITHER),
    ("header-twice", by_rows(lambda rows, _rng: [rows[0], rows[0], *rows[1:]]), EITHER),
    ("row-repeated", by_rows(_repeated), EITHER),
    ("row-shifted", by_rows(_shifted), EITHER),
    ("row-longer", by_rows(_longer), EITHER),
    ("column-repeated", by_rows(_twin_column), EITHER),
    ("column-twice", by_rows(_twin_name), EITHER),
    ("cell-split", by_rows(_split_cell), EITHER),
    ("first-name-lost", by_rows(_nameless(0)), EITHER),
    ("second-name-lost", by_rows(_nameless(1)), EITHER),
    ("last-name-lost", by_rows(_nameless(-1)), EITHER),
    ("column-lost", by_rows(lambda rows, _rng: [row[:-1] for row in rows]), EITHER),
    ("first-column-lost", by_rows(lambda rows, _rng: [row[1:] for row in rows]), EITHER),
    ("transposed", by_rows(lambda rows, _rng: [list(row) for row in zip(*rows, strict=False)]), EITHER),
    ("wide-field", by_text(lambda text: (text + "a" * 300_000 + "\n").encode()), EITHER),
    ("not-gzip", lambda path, _rng: path.write_bytes(_text(path).encode()[:50] + b"\x1f\x8b" * 50) and None, EITHER),
]

#: Cells that are no number, or none that can be.
NUMBERS = ("nan", "inf", "-1e9", "1e300", "abc", "", "0x1F", "1,5", "--")


def cells(*columns: int) -> list[tuple[str, Damage, str]]:
    """One cell of each numeric column that holds no number, or an impossible one."""
    return [
        (f"cell{column}={text or 'blank'}", _cell(text, column), EITHER) for column in columns for text in NUMBERS
    ] + [(f"cell{column}=wide-digits", _cell("１２", column), UNTOLD) for column in columns]


def table(*numeric: int) -> list[tuple[str, Damage, str]]:
    """All damages of a table whose columns ``numeric`` hold numbers."""
    return [*SAME, *OTHER, *cells(*numeric), *LOST]


__all__ = ["ERROR", "LOST", "NUMBERS", "OTHER", "SAME", "by_rows", "by_text", "cells", "table"]
