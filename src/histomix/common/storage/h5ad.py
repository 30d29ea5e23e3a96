"""AnnData files that every anndata from 0.11 on opens, whichever of them wrote the file."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from ...errors import InputError
from ..strangers.annotated import read_annotated
from .hdf5 import new_hdf5

if TYPE_CHECKING:
    from anndata import AnnData

_SETTING = threading.RLock()
_CHUNK_ROWS = 1024


@contextlib.contextmanager
def plain_strings() -> Iterator[None]:
    """While it is open, anndata writes text as plain arrays of strings.

    With pandas 3, anndata 0.13 would write names as nullable strings, a group of two arrays, which programs that read
    the file without anndata do not look for. The setting is the process's own, so one thread at a time has it.
    """
    with _SETTING, ad.settings.override(allow_write_nullable_strings=False):
        yield


def read_h5ad(path: str | os.PathLike[str], kind: type[InputError], what: str, hint: str) -> AnnData:
    """Read a file of anybody, into memory.

    Parameters
    ----------
    path
        The file; or the folder that AnnData is when it is stored as Zarr.
    kind, what, hint
        The error of one that cannot be read, in the words ``"<what> (<reason>)"``.

    Raises
    ------
    InputError
        Or ``kind``: the file is absent, damaged, no h5ad file, or reads data of other files; or a sparse matrix of it
        has indices beyond its rows or columns, which would be read as other numbers or end the process.
    """
    return read_annotated(path, kind, what, hint)


def write_h5ad(path: str | os.PathLike[str], data: AnnData, compression: str | None = None) -> None:
    """Write ``data`` as anndata does, with names as plain strings.

    Parameters
    ----------
    path
        The file; overwritten.
    data
        What to write; no name may be missing.
    compression
        ``"gzip"``, or None for none.
    """
    data.strings_to_categoricals()
    if data.raw is not None:
        data.strings_to_categoricals(data.raw.var)
    with new_hdf5(path) as store, plain_strings():
        _write_anndata(store, data, compression)


def _write_anndata(store: h5py.File, data: AnnData, compression: str | None) -> None:
    ad.io.write_elem(store, "/", data, dataset_kwargs={"compression": compression} if compression else {})
    if data.raw is None and "raw" in store:
        del store["raw"]  # written as nothing by anndata 0.12 and 0.13, which 0.11 cannot read


def layer_names(data: AnnData) -> list[str]:
    """Names of the layers; anndata 0.13 lists X among them, under the key None."""
    return [name for name in data.layers if name is not None]


class GrowingH5ad:
    """An ``.h5ad`` made from stretches of rows, so that its arrays do not meet the memory.

    Arrays grow in a file of their own beside ``path``; `finish` hands them to anndata, which copies them chunk by
    chunk into ``path``. The table ``obs`` alone is held in memory, about 200 bytes a row. The same stretches give
    the same bytes.

    Parameters
    ----------
    path
        The file to write.

    Examples
    --------
    >>> with GrowingH5ad(path) as growing:  # doctest: +SKIP
    ...     for chunk in chunks:
    ...         growing.append(chunk)
    ...     growing.finish()
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._growing = self._path.with_name(f"{self._path.stem}.growing.h5")
        self._obs: list[pd.DataFrame] = []

    def __enter__(self) -> Self:
        self._open = new_hdf5(self._growing)
        self._arrays = self._open.__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        try:
            self._open.__exit__(*failure)
        finally:
            self._growing.unlink(missing_ok=True)

    def append(self, chunk: AnnData) -> None:
        """Add rows.

        Parameters
        ----------
        chunk
            Its ``X``, ``layers`` and ``obsm`` are dense; every chunk has the same columns, arrays and variables.
            ``uns`` and ``var`` are those of the first.
        """
        if not self._obs:
            self._var, self._uns = chunk.var, dict(chunk.uns)
        self._obs.append(chunk.obs)
        self._extend("X", chunk.X)
        for name in layer_names(chunk):
            self._extend(f"layers/{name}", chunk.layers[name])
        for name, array in chunk.obsm.items():
            self._extend(f"obsm/{name}", array)
        self._open.check()

    def finish(self) -> None:
        """Write the file."""
        # A chunk that is kept for later is written in an order that changes from run to run, and with it the bytes.
        with new_hdf5(self._path, rdcc_nbytes=0) as store, plain_strings():
            obs = pd.concat(self._obs)
            self._obs.clear()
            _write_anndata(store, ad.AnnData(obs=obs, var=self._var, uns=self._uns), "gzip")
            self._write(store, "X", self._arrays["X"])
            for group in ("layers", "obsm"):
                for name, array in self._arrays.get(group, {}).items():
                    self._write(store[group], name, array)

    def _extend(self, place: str, values: Any) -> None:
        values = np.asarray(values)
        if place not in self._arrays:
            width = values.shape[1:]
            self._arrays.create_dataset(
                place, (0, *width), values.dtype, maxshape=(None, *width), chunks=(_CHUNK_ROWS, *width)
            )
        array = self._arrays[place]
        start = len(array)
        array.resize(start + len(values), axis=0)
        array[start:] = values

    @staticmethod
    def _write(store: h5py.Group, name: str, array: h5py.Dataset) -> None:
        chunks = (min(_CHUNK_ROWS, len(array)), *array.shape[1:])
        ad.io.write_elem(store, name, array, dataset_kwargs={"compression": "gzip", "chunks": chunks})
