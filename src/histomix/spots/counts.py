"""Count tables: spots x genes as delimited text, or the matrix of 10x Genomics."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from ..common import tables
from ..errors import SectionError

_log = logging.getLogger(__name__)
_MAX_DIGITS = 9
_ZERO, _NINE = 48, 57


@dataclass(frozen=True)
class Counts:
    """Counts ``matrix`` (spots x genes, csr float32) with ``keys`` (spots) and ``genes``."""

    keys: pd.Index
    genes: pd.Index
    matrix: sparse.csr_matrix


def read_keys(path: Path) -> pd.Index:
    """Spot keys of a count table: its first column, or the barcodes of a 10x matrix, without parsing the counts."""
    if path.suffix == ".h5":
        from .formats.tenx.matrix import read_barcodes

        return read_barcodes(path)
    return _split(path).keys


def match_barcodes(spots: pd.Index, barcodes: pd.Index) -> tuple[np.ndarray, bool]:
    """Row of every spot in ``barcodes`` (n,), -1 where it has none.

    When none is found, barcodes are compared without what follows their last ``-`` (the GEM well, ``-1``), which some
    tools drop; the second value says so.
    """
    rows = barcodes.get_indexer(spots)
    if (rows >= 0).any():
        return rows, False
    bare = [pd.Index(index.astype(str).str.replace(r"-\d+$", "", regex=True)) for index in (spots, barcodes)]
    if not (bare[0].is_unique and bare[1].is_unique):
        return rows, False
    rows = bare[1].get_indexer(bare[0])
    return rows, bool((rows >= 0).any())


def read_counts(path: Path, genome: str | None = None) -> Counts:
    """Read a count table, ``.tsv``/``.csv``, gzipped or not, whose first column is the spot key; or a 10x ``.h5``.

    ``genome`` names one of several in a 10x ``.h5``.

    Tables of plain integers (all that sequencing gives) are parsed as bytes, about ten times faster than by a general
    parser; anything else goes through pandas.

    Raises
    ------
    SectionError
        The file cannot be read, has ragged rows, repeated keys, or counts that are no numbers, negative or missing.
    """
    if path.suffix == ".h5":
        from .formats.tenx.matrix import read_matrix

        table = read_matrix(path, genome)
        for note in table.notes:
            _log.info("%s: %s", path, note)
        return Counts(table.barcodes, table.var.index, table.matrix)
    lines = _split(path)
    try:
        matrix = _parse_integers(lines)
    except ValueError:
        matrix = _parse_numbers(lines, path)
    genes = lines.genes
    if not genes.is_unique:
        from anndata.utils import make_index_unique

        _log.info("%s: %d gene names occur more than once; later ones get a suffix", path, genes.duplicated().sum())
        genes = make_index_unique(genes)
    return Counts(lines.keys, genes, matrix)


@dataclass(frozen=True)
class _Lines:
    keys: pd.Index
    genes: pd.Index
    values: list[bytes]  # one per spot: what follows the key
    separator: bytes


def _split(path: Path) -> _Lines:
    content = tables.read_bytes(path)
    header, _, body = content.partition(b"\n")
    names_text = tables.decode(header, path)
    separator = tables.separator(names_text)
    names = [name.strip().strip('"') for name in names_text.rstrip("\r\n").split(separator)]
    pairs = [line.rstrip(b"\r").partition(separator.encode()) for line in body.split(b"\n") if line.strip()]
    if not pairs or not pairs[0][2]:
        raise SectionError("is not a table of spots x genes", where=path, hint="Give a TSV with one row per spot")
    keys = pd.Index([tables.decode(key, path).strip().strip('"') for key, _, _ in pairs], dtype=object)
    if not keys.is_unique:
        raise SectionError(
            f"has the spot key '{keys[keys.duplicated()][0]}' more than once", where=path, hint="Keep one row per spot"
        )
    values = [rest for _, _, rest in pairs]
    width = values[0].count(separator.encode()) + 1
    # R writes the header without a name for the first column, others name it or leave it empty.
    if not tables.leaves_key_out(names, width + 1, path):
        names = names[1:]
    for row, rest in enumerate(values):
        if rest.count(separator.encode()) + 1 != len(names):
            raise SectionError(
                f"row {row + 2} has {rest.count(separator.encode()) + 1} counts for {len(names)} genes",
                where=path,
                hint="Check that the file is whole",
            )
    return _Lines(keys, pd.Index(names, dtype=object), values, separator.encode())


def _parse_integers(lines: _Lines) -> sparse.csr_matrix:
    """Raise ValueError when any cell is something else than 1 to 9 digits."""
    columns, data, ends = [], [], [0]
    for row in lines.values:
        text = np.frombuffer(row, dtype=np.uint8)
        breaks = np.flatnonzero(text == lines.separator[0])
        starts = np.concatenate(([0], breaks + 1))
        lengths = np.concatenate((breaks, [len(text)])) - starts
        digits = (text >= _ZERO) & (text <= _NINE)
        if lengths.min() < 1 or lengths.max() > _MAX_DIGITS or digits.sum() != len(text) - len(breaks):
            raise ValueError("not plain integers")
        values = text[starts].astype(np.int64) - _ZERO
        for place in range(1, lengths.max()):
            longer = lengths > place
            values[longer] = values[longer] * 10 + text[starts[longer] + place] - _ZERO
        filled = np.flatnonzero(values)
        columns.append(filled)
        data.append(values[filled].astype(np.float32))
        ends.append(ends[-1] + len(filled))
    shape = (len(lines.values), len(lines.genes))
    return sparse.csr_matrix((np.concatenate(data), np.concatenate(columns), ends), shape=shape)


def _parse_numbers(lines: _Lines, path: Path) -> sparse.csr_matrix:
    text = tables.decode(b"\n".join(lines.values), path)
    separator = lines.separator.decode()
    table = pd.read_csv(
        io.StringIO(text), sep=separator, header=None, float_precision="round_trip", skip_blank_lines=False
    )
    values = table.apply(tables.to_numeric).to_numpy(dtype=np.float64)
    wrong = np.argwhere(~(np.isfinite(values) & (values >= 0)))
    if len(wrong):
        row, column = wrong[0]
        cell = str(table.iat[row, column])
        raise SectionError(
            f"row {row + 2}, column '{lines.genes[column]}': '{cell}' is not a count",
            where=path,
            hint="Counts are numbers >= 0, without gaps",
        )
    return sparse.csr_matrix(values.astype(np.float32))
