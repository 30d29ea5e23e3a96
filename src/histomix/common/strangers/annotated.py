"""AnnData that strangers made, as ``.h5ad`` or Zarr: read whole or without counts, and where its counts are."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from ...errors import HistomixError, InputError, MissingExtraError, missing_of
from ...provenance import refuse_pipe
from .hdf5 import check_hdf5
from .zarr import check_zarr

if TYPE_CHECKING:
    from anndata import AnnData

#: What h5py, Zarr and anndata raise on damaged files.
_DAMAGE = (
    OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError, SystemError,
    MemoryError,  # sizes that are not true
)  # fmt: skip
_ENCODING = re.compile(r"encoding_type='(.*?)', encoding_version='(.*?)'")
#: Values of a matrix that are looked at to tell counts from other numbers.
_LOOKED_AT = 100_000
X, RAW = "X", "raw"


def is_anndata_zarr(path: Path) -> bool:
    """Whether a folder is AnnData stored as Zarr: tables of the rows and the columns at its root."""
    return all((path / name).is_dir() for name in ("obs", "var")) and any(
        (path / name).exists() for name in (".zgroup", ".zattrs", "zarr.json")
    )


def read_annotated(path: str | os.PathLike[str], kind: type[InputError], what: str, hint: str) -> AnnData:
    """Read AnnData of anybody into memory; see `histomix.common.storage.h5ad.read_h5ad`."""
    import anndata

    with _looked_at(path, kind, what, hint):
        data = anndata.io.read_zarr(path) if Path(path).is_dir() else anndata.read_h5ad(path)
        check_sparse(data)
    return data


def read_rows(path: str | os.PathLike[str], kind: type[InputError], what: str, hint: str) -> AnnData:
    """As `read_annotated`, without counts and genes: ``obs``, ``obsm`` and ``uns`` alone, read in a moment."""
    import anndata

    with _looked_at(path, kind, what, hint), _opened(path) as store:
        names = [name for name in ("obs", "obsm", "uns") if name in store]
        if all(hasattr(store[name], "keys") for name in names):
            parts = {name: anndata.io.read_elem(store[name]) for name in names}
            data = anndata.AnnData(**{"obs": {}, "obsm": {}, "uns": {}} | parts)
            check_sparse(data)
            return data
    # Before anndata 0.7 tables were arrays of records, which it reads as a part of the whole only.
    return read_annotated(path, kind, what, hint)


def gene_count(path: str | os.PathLike[str], kind: type[InputError], what: str, hint: str) -> int:
    """Number of genes that there are counts of; 0 where the file has genes and no counts."""
    with _looked_at(path, kind, what, hint), _opened(path) as store:
        if "X" not in store or store["X"].attrs.get("encoding-type") == "null":
            return 0
        counts = store["X"]
        return int((counts.shape if hasattr(counts, "shape") else _stored_shape(counts))[1])


def obs_columns(path: str | os.PathLike[str]) -> tuple[set[str], set[str]]:
    """Names in ``obs`` and in ``obsm``, without reading them; none where the file cannot be looked at."""
    try:
        refuse_pipe(path)
        with _opened(path) as store:
            return _names(store.get("obs")), _names(store.get("obsm"))
    except (*_DAMAGE, ImportError):
        return set(), set()


@dataclass(frozen=True)
class CountsFound:
    """Counts of AnnData: ``matrix`` (rows x genes), ``var`` (the table of these genes), and where they stood."""

    matrix: Any
    var: pd.DataFrame
    place: str


def find_counts(data: AnnData, layer: str | None = None, first: tuple[str, ...] = (X, "counts", RAW)) -> CountsFound:
    """Where the raw counts of AnnData are: people keep them in ``X``, in a layer, or in ``raw``.

    Parameters
    ----------
    data
        Of single cells, or spots.
    layer
        ``"X"``, ``"raw"``, or the name of a layer, when it is known.
    first
        Where to look, in this order, when it is not; then in the layer that alone holds counts. The first place that
        has whole numbers is it; where none has, the first that there is, for the caller to say what is wrong with it.

    Raises
    ------
    ValueError
        There is no such layer, or no matrix at all; says what there is.
    """
    places = dict(_matrices(data))
    if layer is not None:
        if layer not in places:
            raise ValueError(f"has no counts in '{layer}' (it has: {', '.join(places) or 'none'})")
        return CountsFound(*places[layer], layer)
    if not places:
        raise ValueError("has no counts" if data.X is None else f"has no counts (X is of the type {data.X.dtype})")
    known = [name for name in first if name in places]
    chosen = next((name for name in known if looks_whole(places[name][0])), None)
    if chosen is None:
        others = [name for name in places if name not in first and looks_whole(places[name][0])]
        chosen = others[0] if len(others) == 1 else None
    chosen = chosen or next(iter(known), next(iter(places)))
    return CountsFound(*places[chosen], chosen)


def _matrices(data: AnnData) -> Iterator[tuple[str, tuple[Any, pd.DataFrame]]]:
    """Matrices of real numbers by place: that a gene is there is no count, and complex numbers would lose a part."""
    layers = [(name, data.layers[name], data.var) for name in data.layers if name is not None]
    raw = [] if data.raw is None else [(RAW, data.raw.X, data.raw.var)]
    for name, matrix, var in [(X, data.X, data.var), *layers, *raw]:
        if matrix is not None and matrix.dtype.kind in "iuf":
            yield name, (matrix, var)


def looks_whole(matrix: Any) -> bool:
    """Whether a matrix looks like counts: whole numbers, none negative, not all of them zero."""
    values = np.asarray(matrix.data if sparse.issparse(matrix) else matrix).ravel()
    some = values[:: max(1, len(values) // _LOOKED_AT)]
    if some.dtype.kind not in "iufb" or not len(some):
        return False
    return bool(np.isfinite(some).all() and (some >= 0).all() and (some == np.rint(some)).all() and some.any())


@contextlib.contextmanager
def _looked_at(path: str | os.PathLike[str], kind: type[InputError], what: str, hint: str) -> Iterator[None]:
    """Refuse a file that may not be read; while open, what libraries raise on damage becomes a ``kind``."""
    if not Path(path).exists():
        raise missing_of(kind)("there is no such file", where=path, hint="Check the path")
    try:
        (check_zarr if Path(path).is_dir() else check_hdf5)(path, kind)
        yield
    except HistomixError:
        raise
    except ImportError as error:
        raise MissingExtraError("zarr", "st", "reading a Zarr store") from error
    except Exception as error:
        # The one error of anndata's own has no public name.
        if type(error).__name__ == "IORegistryError":
            raise _newer(path, kind, str(error)) from error
        if not isinstance(error, _DAMAGE):
            raise
        reason = str(error).strip().splitlines()
        told = reason[0] if reason else type(error).__name__
        raise kind(f"{what} ({told})", where=path, hint=hint) from error


def _newer(path: str | os.PathLike[str], kind: type[InputError], told: str) -> InputError:
    """The refusal of a part that is stored in a way which this anndata does not know."""
    from importlib.metadata import version

    found = _ENCODING.search(told)
    what = f"'{found[1] or 'none'}', version '{found[2] or 'none'}'" if found else "unknown"
    return kind(
        f"a part of it is stored as {what}, which anndata {version('anndata')} does not read",
        where=path,
        hint="Check that the file is whole and AnnData; if a newer anndata wrote it, upgrade anndata",
    )


def _opened(path: str | os.PathLike[str]) -> Any:
    import h5py

    if not Path(path).is_dir():
        return h5py.File(path, "r")
    import zarr

    return contextlib.nullcontext(zarr.open_group(os.fspath(path), mode="r"))


def _stored_shape(counts: Any) -> Any:
    shape = counts.attrs.get("shape")
    return counts.attrs["h5sparse_shape"] if shape is None else shape


def _names(part: Any) -> set[str]:
    records = getattr(getattr(part, "dtype", None), "names", None)
    return set(records or part or ())


def check_sparse(data: AnnData) -> None:
    """Refuse sparse matrices that name rows or columns which they do not have.

    Nothing else would: arithmetic on them reads and writes beyond their memory, and an index of -1 is the last column.
    """
    parts = {"X": data.X} | ({} if data.raw is None else {"raw.X": data.raw.X})
    for name in ("layers", "obsm", "varm", "obsp", "varp"):
        held: Mapping[str, Any] = getattr(data, name)
        parts |= {f"{name}['{key}']": held[key] for key in held if key is not None}
    for name, matrix in parts.items():
        if sparse.issparse(matrix) and matrix.format in ("csr", "csc"):
            try:
                matrix.check_format(full_check=True)
            except ValueError as error:
                raise ValueError(f"{name} is no whole sparse matrix: {error}") from error
            stored = matrix.nnz
            # Of two numbers for one place, some programs show the sum, others one of them.
            matrix.sum_duplicates()
            if matrix.nnz < stored:
                raise ValueError(f"{name} is no whole sparse matrix: it has two numbers for one place")
