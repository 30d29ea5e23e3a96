"""A composition map written a stretch of tiles at a time, so that its size does not meet the memory."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image

from ..common.storage.altered import STATUS
from ..common.storage.h5ad import GrowingH5ad
from ..provenance import atomic_path
from .composition import collection_facts, composition_geojson, composition_table
from .map import MAP_FILE, CompositionMap
from .tissue import PREVIEW_FILE

if TYPE_CHECKING:
    from anndata import AnnData

#: The map for QuPath, as text and packed.
GEOJSON_FILES = ("tiles.geojson", "tiles.geojson.gz")


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
        names = ("composition.csv", GEOJSON_FILES[compress], MAP_FILE)
        csv, geojson, h5ad = (files.enter_context(atomic_path(place / name)) for name in names)
        table = streams.enter_context(csv.open("w", encoding="utf-8", newline=""))
        collection = streams.enter_context(_text(geojson, compress))
        store = streams.enter_context(GrowingH5ad(h5ad))
        collection.write('{"type": "FeatureCollection", "features": [')
        rows, told = 0, {}

        def append(block: AnnData) -> None:
            nonlocal rows
            one = CompositionMap(block)
            composition_table(one).to_csv(
                table, index=one.at_spots, header=rows == 0, float_format="%.6g", lineterminator="\n"
            )
            for feature in composition_geojson(one)["features"]:
                collection.write(",\n" if rows else "\n")
                collection.write(json.dumps(feature, allow_nan=False))
                rows += 1
            told.update(collection_facts(one))
            store.append(block)

        yield append
        rest = "".join(f", {json.dumps(name)}: {json.dumps(value)}" for name, value in told.items())
        collection.write(f"\n]{rest}}}\n")
        store.finish()
    # An earlier run may have written the other.
    (place / GEOJSON_FILES[not compress]).unlink(missing_ok=True)


def write_composition(
    folder: str | os.PathLike[str], composition: AnnData | CompositionMap, preview: np.ndarray | None = None
) -> None:
    """Write ``composition.h5ad``, ``composition.csv``, ``tiles.geojson`` and, where given, ``preview.jpg``.

    The ``status.json`` of an earlier map in the folder is removed: it tells of other files.

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

    Examples
    --------
    >>> composition = hm.predict("slides/patient-9.tif", "head", progress=False)
    >>> hm.write_composition("one-map", composition)
    """
    if preview is not None:
        with atomic_path(Path(folder) / PREVIEW_FILE) as temporary:
            Image.fromarray(preview).save(temporary, quality=88)
    with composition_writer(folder) as append:
        append(CompositionMap.of(composition).adata)
    # What an earlier run said of the files that were here is not true of these.
    (Path(folder) / STATUS).unlink(missing_ok=True)


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
