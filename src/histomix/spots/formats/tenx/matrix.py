"""Feature-barcode matrices of 10x Genomics: HDF5 and Matrix Market, in the layouts of Cell Ranger 2 and 3."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from ....common import tables
from ....common.strangers.hdf5 import check_hdf5
from ....common.words import counted
from ....errors import HistomixError, MissingSectionError, SectionError

if TYPE_CHECKING:
    import h5py

GENE_EXPRESSION = "Gene Expression"
_DAMAGED = "The file is damaged or cut short: copy it again, or run Space Ranger again"
_H5_ERRORS = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError, SystemError)
#: What numbers are written with in Matrix Market, by their kind; counts are not negative.
_MARKS = {
    **dict.fromkeys(("integer", "unsigned-integer"), b"0123456789 \t\r\n"),
    "real": b"0123456789 \t\r\n.eE+-",
}
_NOT_H5 = "it is no HDF5 file of a feature-barcode matrix"


@dataclass(frozen=True)
class TenxCounts:
    """Counts of spots x genes: ``var`` has unique gene symbols as index and ``gene_ids``."""

    barcodes: pd.Index
    var: pd.DataFrame
    matrix: sparse.csr_matrix
    notes: tuple[str, ...]


def find_matrix(folder: Path, prefix: str = "") -> Path | None:
    """The matrix in a folder: filtered before raw, HDF5 before Matrix Market; of several that with this prefix.

    Raises
    ------
    SectionError
        There are several, and none has just the prefix.
    """
    for kind in ("filtered", "raw"):
        for pattern in (f"{kind}_feature_bc_matrix", f"{kind}_gene_bc_matrices"):
            files = sorted(folder.glob(f"*{pattern}*.h5"), key=lambda path: len(path.name))
            folders = [inner for outer in sorted(folder.glob(f"*{pattern}")) for inner in _matrix_folders(outer)]
            same = [path for path in files if path.name.startswith(prefix + pattern)]
            files = same or files
            if len(files) > 1 and not same:
                raise SectionError(
                    f"holds several matrices ({', '.join(path.name for path in files)})",
                    where=folder,
                    hint="Give each section a folder of its own",
                )
            if files or folders:
                return [*files, *folders][0]
    return None


def is_raw(path: Path) -> bool:
    """Whether a matrix is one of all barcodes, under tissue or not, by its name."""
    return "raw_" in path.name or "raw_" in path.parent.name


def _matrix_folders(folder: Path) -> list[Path]:
    folders = [folder, *sorted(item for item in folder.iterdir() if item.is_dir())] if folder.is_dir() else []
    return [place for place in folders if any(_part(place, name) for name in ("matrix.mtx", "barcodes.tsv"))]


def _part(folder: Path, *names: str) -> Path | None:
    candidates = (folder / f"{name}{end}" for name in names for end in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def read_barcodes(path: Path) -> pd.Index:
    """Barcodes of a matrix (n,), without its counts.

    Raises
    ------
    SectionError
        The file cannot be read, or repeats a barcode.
    """
    if path.is_dir():
        barcodes = _lines(_needed(path, "barcodes.tsv")).iloc[:, 0]
        index = pd.Index(barcodes, dtype=object)
    else:
        with open_h5(path) as matrix:
            index = matrix.barcode_index()
    return _unique(index, path)


def read_matrix(path: Path, genome: str | None = None) -> TenxCounts:
    """Read a whole matrix: an ``.h5`` file or a folder with ``matrix.mtx``.

    Features of other types than Gene Expression, or of other genomes than ``genome``, are left out; gene symbols that
    occur more than once get a suffix.

    Raises
    ------
    SectionError
        A file cannot be read, or the parts do not belong together.
    """
    if path.is_dir():
        barcodes, features, matrix = _read_mtx(path)
    else:
        with open_h5(path, genome) as stored:
            barcodes, features = stored.barcode_index(), stored.features()
            matrix = stored.rows(0, stored.size)
    keep, var, notes = gene_table(features, path)
    return TenxCounts(_unique(barcodes, path), var, matrix if keep.all() else matrix[:, keep], notes)


def gene_table(features: pd.DataFrame, path: Path) -> tuple[np.ndarray, pd.DataFrame, tuple[str, ...]]:
    """Which features are genes (m,), their table as `TenxCounts` has it, and what to say about them."""
    from anndata.utils import make_index_unique

    keep = (features["type"] == GENE_EXPRESSION).to_numpy()
    if not keep.any():
        raise SectionError(
            f"has no features of the type {GENE_EXPRESSION} (types: {', '.join(sorted(set(features['type'])))})",
            where=path,
            hint="Give the matrix of the gene expression library",
        )
    notes = []
    if not keep.all():
        notes.append(f"{counted(int((~keep).sum()), 'feature')} of other types than {GENE_EXPRESSION} left out")
    genes = features[keep]
    names = pd.Index(genes["symbol"], dtype=object)
    if not names.is_unique:
        notes.append(f"{counted(int(names.duplicated().sum()), 'repeated gene symbol')} given a suffix")
        names = make_index_unique(names)
    return keep, pd.DataFrame({"gene_ids": genes["id"].to_numpy()}, index=names.rename(None)), tuple(notes)


@contextmanager
def open_h5(path: Path, genome: str | None = None) -> Iterator[H5Matrix]:
    """Open a feature-barcode matrix in HDF5; every fault of the file becomes a SectionError.

    Of a file of several genomes, features and counts are those of ``genome``; its barcodes need none.
    """
    import h5py

    check_hdf5(path, SectionError)
    try:
        with h5py.File(path, "r") as store:
            yield H5Matrix(store, path, genome)
    except HistomixError:
        raise
    except FileNotFoundError as error:
        raise MissingSectionError("there is no such file", where=path, hint="Check the path") from error
    except _H5_ERRORS as error:
        raise SectionError(f"cannot be read as a 10x matrix ({error})", where=path, hint=_DAMAGED) from error


class H5Matrix:
    """An open matrix file: features x barcodes by columns, which is barcodes x features by rows."""

    def __init__(self, store: h5py.File, path: Path, genome: str | None = None) -> None:
        groups = [name for name in store if isinstance(store[name], type(store["/"])) and "indptr" in store[name]]
        if not groups:
            raise ValueError(f"{_NOT_H5}: it holds {', '.join(store) or 'nothing'}")
        self._path = path
        # Layout 2 has a group of its own for each genome, layout 3 a column of the features.
        self._apart = len(groups) > 1
        self._group: Any = store[genome if self._apart and genome in groups else groups[0]]
        listed = self._group["features"].get("genome") if "features" in self._group else None
        self._genome_of = None if listed is None else _text(listed[:])
        own = [] if self._genome_of is None else sorted(set(self._genome_of) - {""})
        self.genomes = own if "features" in self._group else groups
        self._genome = genome
        self.barcodes = self._group["barcodes"]
        self._indptr = self._group["indptr"][:].astype(np.int64)
        self.size = len(self.barcodes)
        self.width = int(self._group["shape"][0])
        stored = len(self._group["data"]), len(self._group["indices"])
        if len(self._indptr) != self.size + 1 or stored != (self._indptr[-1],) * 2 or (np.diff(self._indptr) < 0).any():
            raise ValueError("its parts have lengths that do not fit each other")
        if self._group["data"].dtype.kind not in "iuf":
            raise ValueError(f"its counts are of the type {self._group['data'].dtype}")

    def barcode_index(self) -> pd.Index:
        """All barcodes as text."""
        barcodes: pd.Index = pd.Index(_text(self.barcodes[:]), dtype=object)
        return barcodes

    def features(self) -> pd.DataFrame:
        """Table of id, symbol, type; one row per column of the counts.

        Raises
        ------
        SectionError
            There are several genomes, each with counts of its own, and none was named; or none has that name.
        """
        self._require_genome()
        if "features" in self._group:
            group = self._group["features"]
            parts = {"id": group["id"], "symbol": group["name"], "type": group["feature_type"]}
        else:  # layout 2: one group per genome, genes only
            parts = {"id": self._group["genes"], "symbol": self._group["gene_names"]}
        table = pd.DataFrame({name: _text(values[:]) for name, values in parts.items()})
        if len(table) != self.width:
            raise ValueError(f"it has {len(table)} features for {self.width} rows")
        table = table if "type" in table else table.assign(type=GENE_EXPRESSION)
        if self._genome is not None and self._genome_of is not None and len(self.genomes) > 1:
            others = ~np.isin(self._genome_of, [self._genome, ""])
            table.loc[others & (table["type"] == GENE_EXPRESSION), "type"] = "genes of another genome"
        return table

    def _require_genome(self) -> None:
        several = ", ".join(self.genomes)
        if self._genome is None and self._apart:
            raise SectionError(
                f"holds the counts of {len(self.genomes)} genomes ({several})",
                where=self._path,
                hint=f"Name one: with --genome, or after the spots in the sheet, as in outs#genome={self.genomes[0]}",
            )
        if self._genome is not None and self.genomes and self._genome not in self.genomes:
            raise SectionError(
                f"has no genome '{self._genome}' (it has: {several})", where=self._path, hint="Name one of these"
            )

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Counts of the barcodes from ``start`` to before ``stop``, csr float32 (barcodes x features)."""
        self._require_genome()
        first, last = int(self._indptr[start]), int(self._indptr[stop])
        data = self._group["data"][first:last].astype(np.float32)
        indices = self._group["indices"][first:last]
        if len(indices) and (indices.min() < 0 or indices.max() >= self.width):
            raise ValueError("it counts features that it does not list")
        indptr = self._indptr[start : stop + 1] - first
        rows = sparse.csr_matrix((data, indices, indptr), shape=(stop - start, self.width))
        # Of two numbers for one feature of a barcode, scipy would show the sum.
        rows.sum_duplicates()
        if rows.nnz < len(indices):
            raise ValueError("it counts a feature of one barcode more than once")
        return rows

    def blocks(self, values: int) -> Iterator[tuple[int, int]]:
        """Runs of barcodes (start, stop) of about ``values`` stored counts each, and never more barcodes than that."""
        start = 0
        while start < self.size:
            stop = int(np.searchsorted(self._indptr, self._indptr[start] + values, side="right")) - 1
            stop = min(max(stop, start + 1), start + values, self.size)
            yield start, stop
            start = stop


def _text(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8").astype(object)
    return np.array([value.decode() if isinstance(value, bytes) else str(value) for value in values], dtype=object)


def _unique(barcodes: pd.Index, path: Path) -> pd.Index:
    if not barcodes.is_unique:
        twice = barcodes[barcodes.duplicated()][0]
        raise SectionError(f"has the barcode '{twice}' more than once", where=path, hint=_DAMAGED)
    return barcodes


def _needed(folder: Path, *names: str) -> Path:
    path = _part(folder, *names)
    if path is None:
        raise SectionError(f"lacks its {names[0]}", where=folder, hint=_DAMAGED)
    return path


def _lines(path: Path) -> pd.DataFrame:
    rows = [line.split("\t") for line in tables.decode(tables.read_bytes(path), path).splitlines() if line]
    if len({len(row) for row in rows}) != 1:
        raise SectionError("is empty, or its rows differ in length", where=path, hint=_DAMAGED)
    return pd.DataFrame(rows)


def _read_mtx(folder: Path) -> tuple[pd.Index, pd.DataFrame, sparse.csr_matrix]:
    from scipy.io import mminfo, mmread

    matrix_path, barcodes = _needed(folder, "matrix.mtx"), _lines(_needed(folder, "barcodes.tsv"))
    features = _lines(_needed(folder, "features.tsv", "genes.tsv"))
    columns = ["id", "symbol", "type"][: features.shape[1]]
    features = features.iloc[:, : len(columns)].set_axis(columns, axis=1)
    if "symbol" not in features:
        features["symbol"] = features["id"]
    if "type" not in features:
        features["type"] = GENE_EXPRESSION
    try:
        content = tables.read_bytes(matrix_path)
        *_, kind, symmetry = mminfo(io.BytesIO(content))
        # A pattern says where counts are, and none of them; a symmetric matrix is stored by half.
        if kind not in _MARKS or symmetry != "general":
            raise ValueError(f"its header says that it is {kind} and {symmetry}, which no counts are")
        # scipy takes "1,5" or "1e3" among integers for 1.
        if strange := re.sub(rb"(?m)^%.*$", b"", content).translate(None, _MARKS[kind]):
            raise ValueError(f"it holds {strange[:1]!r} among numbers that are {kind}".replace("b'", "'"))
        stored = mmread(io.BytesIO(content))
        matrix = sparse.csr_matrix(stored.T, dtype=np.float32)
        if sparse.issparse(stored) and matrix.nnz < stored.nnz:
            raise ValueError("it counts a feature of one barcode more than once")
    except (OSError, EOFError, ValueError, TypeError, zlib.error) as error:
        raise SectionError(f"cannot be read as Matrix Market ({error})", where=matrix_path, hint=_DAMAGED) from error
    if matrix.shape != (len(barcodes), len(features)):
        raise SectionError(
            f"has {matrix.shape[1]} features x {matrix.shape[0]} barcodes, but the lists beside it "
            f"{len(features)} and {len(barcodes)}",
            where=matrix_path,
            hint=_DAMAGED,
        )
    return pd.Index(barcodes.iloc[:, 0], dtype=object), features, matrix
