"""A composition map written a stretch of tiles at a time, so that its size does not meet the memory."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from PIL import Image

from ..provenance import atomic_path
from .composition import composition_geojson, composition_table

if TYPE_CHECKING:
    from anndata import AnnData

_CHUNK_ROWS = 1024


@contextlib.contextmanager
def composition_writer(folder: str | os.PathLike[str], compress: bool = False) -> Iterator[Callable[[AnnData], None]]:
    """Write ``composition.h5ad``, ``composition.csv`` and ``tiles.geojson`` from stretches of one map.

    Yields a function that takes the next stretch: an AnnData like that of `histomix.predict`, every one with the same
    columns, layers and cell types. The files appear together when the block ends well, and not at all otherwise.

    Parameters
    ----------
    folder
        Where to write.
    compress
        Write ``tiles.geojson.gz`` instead.

    Raises
    ------
    StorageError
        The folder cannot be written, or the disk is full.
    """
    place = Path(folder)
    with contextlib.ExitStack() as files, contextlib.ExitStack() as streams:
        names = ("composition.csv", "tiles.geojson.gz" if compress else "tiles.geojson", "composition.h5ad")
        csv, geojson, h5ad = (files.enter_context(atomic_path(place / name)) for name in names)
        table = streams.enter_context(csv.open("w", encoding="utf-8", newline=""))
        collection = streams.enter_context(_text(geojson, compress))
        store = streams.enter_context(h5py.File(h5ad, "w"))
        collection.write('{"type": "FeatureCollection", "features": [')
        rows = 0

        def append(block: AnnData) -> None:
            nonlocal rows
            at_spots = json.loads(block.uns["manifest"])["places"] == "spots"
            composition_table(block).to_csv(
                table, index=at_spots, header=rows == 0, float_format="%.6g", lineterminator="\n"
            )
            for feature in composition_geojson(block)["features"]:
                collection.write(",\n" if rows else "\n")
                collection.write(json.dumps(feature, allow_nan=False))
                rows += 1
            append_h5ad(store, block)

        yield append
        collection.write("\n]}\n")


def write_composition(folder: str | os.PathLike[str], composition: AnnData, preview: np.ndarray | None = None) -> None:
    """Write ``composition.h5ad``, ``composition.csv``, ``tiles.geojson`` and, where given, ``preview.jpg``.

    Parameters
    ----------
    folder
        Where to write; each file is whole or absent.
    composition
        A map from `histomix.predict`, tiles x cell types.
    preview
        The slide at low resolution, uint8 ``(height, width, 3)``.

    Raises
    ------
    StorageError
        The folder cannot be written, or the disk is full.
    """
    if preview is not None:
        with atomic_path(Path(folder) / "preview.jpg") as temporary:
            Image.fromarray(preview).save(temporary, quality=88)
    with composition_writer(folder) as append:
        append(composition)


@contextlib.contextmanager
def _text(path: Path, compress: bool) -> Iterator[IO[str]]:
    """A file to write text to; the compressed one carries no time, so that the same map gives the same bytes."""
    if not compress:
        with path.open("w", encoding="utf-8", newline="\n") as stream:
            yield stream
        return
    with path.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
        import io

        with io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as stream:
            yield stream


def append_h5ad(store: h5py.File, block: AnnData) -> None:
    """Append the rows of ``block`` to an open ``.h5ad`` (an empty file at first).

    The layout is AnnData's own (its on-disk specification, version 0.1.0); only arrays along the rows grow.
    """
    if "X" not in store:
        _begin(store, block)
    index = store["obs"].attrs["_index"]
    _extend(store["obs"][index], block.obs_names.to_numpy(object))
    for name in block.obs:
        column = block.obs[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            _extend(store["obs"][name]["codes"], column.cat.codes.to_numpy())
        else:
            _extend(store["obs"][name], column.to_numpy())
    _extend(store["X"], np.asarray(block.X))
    for group, arrays in (("layers", block.layers), ("obsm", block.obsm)):
        for name, array in arrays.items():
            _extend(store[group][name], np.asarray(array))


def _begin(store: h5py.File, block: AnnData) -> None:
    store.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    for name, value in (("var", block.var), ("uns", dict(block.uns))):
        ad.io.write_elem(store, name, value)
    for name in ("obsm", "varm", "layers", "obsp", "varp"):
        store.create_group(name).attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
    _growing(store, "X", np.asarray(block.X))
    for name, array in block.layers.items():
        _growing(store["layers"], name, np.asarray(array))
    for name, array in block.obsm.items():
        _growing(store["obsm"], name, np.asarray(array))
    obs = store.create_group("obs")
    index = str(block.obs.index.name or "_index")
    obs.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": index})
    obs.attrs["column-order"] = np.array(list(block.obs.columns), dtype=h5py.string_dtype())
    _growing(obs, index, block.obs_names.to_numpy(object))
    for name in block.obs:
        column = block.obs[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            group = obs.create_group(str(name))
            group.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0"})
            group.attrs["ordered"] = bool(column.cat.ordered)
            ad.io.write_elem(group, "categories", column.cat.categories.to_numpy(object))
            _growing(group, "codes", column.cat.codes.to_numpy())
        else:
            _growing(obs, str(name), column.to_numpy())


def _growing(group: h5py.Group, name: str, like: np.ndarray) -> None:
    """An empty array along the rows that can grow."""
    text = like.dtype.kind in "OUS"
    dtype: Any = h5py.string_dtype() if text else like.dtype
    shape = (0, *like.shape[1:])
    chunks = (_CHUNK_ROWS, *(max(1, side) for side in like.shape[1:]))
    found = group.create_dataset(
        name, shape, dtype, maxshape=(None, *like.shape[1:]), chunks=chunks, compression="gzip", track_times=False
    )
    found.attrs.update({"encoding-type": "string-array" if text else "array", "encoding-version": "0.2.0"})


def _extend(dataset: h5py.Dataset, values: np.ndarray) -> None:
    start = dataset.shape[0]
    dataset.resize(start + len(values), axis=0)
    dataset[start:] = values
    # Left to the end, chunks are written in an order that changes from run to run, and with it the file's bytes.
    dataset.flush()
