"""What a file of features is, found from its first bytes and its names inside, never from its own name."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ...common.strangers.annotated import is_anndata_zarr
from ...common.tables import columns_or_none
from ...errors import FeatureError, MissingFeatureError
from ...provenance import refuse_pipe
from .table_files import has_places
from .tiles import ForeignTiles, Part, join_parts

#: What tools put behind the name of a slide.
_TAILS = re.compile(r"([._-](patches|coords|coordinates|places|positions|features|feats|embeddings|meta))+$", re.I)
_ENDS = re.compile(r"\.(h5ad|h5|hdf5|pt|pth|npy|npz|parquet|pq|csv|tsv|json|zarr|gz)$", re.I)
_HDF5, _NPY, _PARQUET, _ZIP, _PICKLE = b"\x89HDF\r\n\x1a\n", b"\x93NUMPY", b"PAR1", b"PK\x03\x04", b"\x80"
_TABLES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz")
_ZARR = (".zgroup", ".zattrs", "zarr.json")
_KNOWN = "HDF5 (TRIDENT, CLAM, HEST-bench, h5ad), .pt, .npy, .npz, .parquet, .csv, or Zarr of LazySlide"
_Reader = Callable[[Path, str | None], Part | None]


def slide_name(path: Path) -> str:
    """The name of the slide that a file is called after: ``A1`` of ``A1.coordinates.meta.json``."""
    name, before = path.name, ""
    while name != before:
        before, name = name, _ENDS.sub("", name)
    return _TAILS.sub("", name) or path.stem


def find_files(paths: Sequence[str | os.PathLike[str]]) -> dict[str, list[Path]]:
    """Files by the slide that they are called after.

    Parameters
    ----------
    paths
        Files, stores of Zarr, and folders of them; ``NAME=PATH`` says which slide a file is of.

    Raises
    ------
    FeatureError
        There is no such file, or none of a known kind in a folder.
    """
    found: dict[str, list[Path]] = {}
    for given in paths:
        text = os.fspath(given)
        name, mark, rest = text.partition("=")
        named = bool(mark) and not Path(text).exists()
        path = Path(rest if named else text)
        if not path.exists():
            raise MissingFeatureError("there is no such file", where=path, hint="Check the path")
        if not path.is_dir() or is_zarr(path):
            found.setdefault(name if named else slide_name(path), []).append(path)
            continue
        inside = _inside(path)
        if not inside:
            raise FeatureError("the folder holds no features", where=path, hint=f"Known are {_KNOWN}")
        for one in inside:
            found.setdefault(name if named else slide_name(one), []).append(one)
    return found


def is_zarr(path: Path) -> bool:
    """Whether a folder is a store of Zarr."""
    return path.is_dir() and any((path / name).is_file() for name in _ZARR)


def _inside(folder: Path) -> list[Path]:
    """Files of a folder, at any depth, that may hold features or places."""
    found: list[Path] = []
    for place, below, names in os.walk(folder):
        stores = [name for name in sorted(below) if is_zarr(Path(place, name))]
        found += [Path(place, name) for name in stores]
        below[:] = sorted(name for name in below if name not in stores and not name.startswith("."))
        for name in sorted(names):
            path = Path(place, name)
            # What lies about: logs, lists of slides, pictures.
            if not name.startswith(".") and _may_hold(path):
                found.append(path)
    return found


def _may_hold(path: Path) -> bool:
    """Whether a file of a folder may hold features or places: of tables and JSON there may be any."""
    kind = kind_of(path)
    if kind == "table":
        return has_places(columns_or_none(path) or ())
    return kind is not None and (kind != "json" or path.name.endswith(".meta.json"))


def kind_of(path: Path) -> str | None:
    """What a file is: hdf5, npy, npz, pt, parquet, json, table or zarr; None of anything else."""
    if path.is_dir():
        return "zarr" if is_zarr(path) else None
    refuse_pipe(path, FeatureError)
    try:
        with path.open("rb") as stream:
            first = stream.read(512)
    except OSError as error:
        raise FeatureError(f"cannot be read ({error.strerror or error})", where=path) from error
    if first.startswith(_ZIP):
        return _kind_of_zip(path)
    for mark, kind in ((_HDF5, "hdf5"), (_NPY, "npy"), (_PARQUET, "parquet"), (_PICKLE, "pt")):
        if first.startswith(mark):
            return kind
    if first.lstrip()[:1] in (b"{", b"["):
        return "json"
    return "table" if path.name.lower().endswith(_TABLES) else None


def _kind_of_zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return "pt"  # its reader says that it is not whole
    if any(name.endswith("data.pkl") for name in names):
        return "pt"
    return "npz" if any(name.endswith(".npy") for name in names) else None


def read_slide(name: str, paths: Sequence[Path], encoder: str | None = None) -> ForeignTiles:
    """Read the features of one slide from its files.

    Parameters
    ----------
    name
        Of the slide.
    paths
        Its files.
    encoder
        Whose features are wanted, where a file holds those of several.

    Raises
    ------
    FeatureError
        A file is of no known kind, cannot be read, or the files do not make the features of one slide.
    """
    return join_parts(name, [part for path in paths if (part := _read(path, encoder)) is not None])


def _read(path: Path, encoder: str | None) -> Part | None:
    from . import array_files, hdf5_files, spatial_store, table_files

    readers: dict[str, _Reader] = {
        "hdf5": hdf5_files.read,
        "npy": array_files.read_npy,
        "npz": array_files.read_npz,
        "pt": array_files.read_pt,
        "parquet": table_files.read,
        "table": table_files.read,
        "json": array_files.read_meta,
        "zarr": table_files.read_annotated_store if is_anndata_zarr(path) else spatial_store.read,
    }
    kind = kind_of(path)
    if kind is None:
        raise FeatureError("it is no file of features", where=path, hint=f"Known are {_KNOWN}")
    return readers[kind](path, encoder)
