"""Stored maps turned into files of other programs, by the name of the format."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData

from ..common.anonymity.marked_output import mark_output, refuse_marked
from ..common.anonymity.pseudonyms import Pseudonyms, open_pseudonyms
from ..common.naming import file_key, safe_file_name, spreadsheet_table
from ..common.paths import as_list, paths_among
from ..common.storage.h5ad import write_h5ad
from ..common.tables import columns_or_none, write_parquet
from ..common.words import RESEARCH_USE
from ..errors import HistomixError, InputError, MissingExtraError, UnknownNameError
from ..maps import CompositionMap, MapSource, find_maps
from ..maps.anonymise import private_map
from ..maps.composition import collection_facts, composition_geojson, composition_table
from ..maps.scverse import to_scverse
from ..progress import Progress, progress_bars, tell
from ..provenance import atomic_path, require_folder
from .heatmap import write_heatmap
from .spatial_data import write_spatialdata

Also = Collection[str]

#: Tiles that are written before the next word of how far it is, and held as text.
_STRETCH = 2000


def export_maps(
    maps: MapSource | Sequence[MapSource],
    to: str,
    out: str | os.PathLike[str],
    *,
    also: Also = (),
    anonymise: bool = False,
    pseudonym_key: str | os.PathLike[str] | None = None,
    progress: Progress | bool = True,
) -> tuple[list[Path], list[HistomixError]]:
    """Write many maps as `export_map` does; one that cannot be written stops no other.

    Parameters
    ----------
    maps
        Maps, their folders, or folders of such; one or several.
    to, out, also, anonymise, pseudonym_key
        As for `export_map`.
    progress
        Bars in a terminal or notebook; False for none, or a function that is told how many maps are done.

    Returns
    -------
    written : list of Path
        The files.
    failures : list of HistomixError
        Why others could not be written.

    Raises
    ------
    InputError
        The format is unknown or has no such thing to add, a folder holds no map, two maps have one name, or names
        would stand beside pseudonyms in ``out``.

    Examples
    --------
    >>> written, failures = hm.export_maps("maps", "csv", "exported")
    >>> [path.name for path in written]
    ['patient-9.csv']
    """
    _check_format(to, also)
    given = as_list(maps)
    sources = find_maps(given)
    _check_names(sources)
    names = _names(anonymise, pseudonym_key, out, paths_among(given), sources)
    written: list[Path] = []
    failures: list[HistomixError] = []
    with progress_bars(progress) as report:
        for number, source in enumerate(sources, start=1):
            try:
                written.append(_export(source, to, also, Path(out), names))
            except HistomixError as error:
                failures.append(error)
            report("export", number, len(sources))
    return written, failures


def export_map(
    one: MapSource,
    to: str,
    out: str | os.PathLike[str],
    *,
    also: Also = (),
    anonymise: bool = False,
    pseudonym_key: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a map in a format of `FORMATS` as ``out/<name><suffix>``: of a map on disk the name of its folder.

    Parameters
    ----------
    one
        A map, or its folder.
    to
        The format.
    out
        Folder to write to.
    also
        What to add, of `EXTRAS`: ``intervals`` and ``novelty`` as channels of an OME-TIFF; ``words`` at each tile of
        GeoJSON (its answer, and why it is out of scope), which QuPath keeps from 0.6 on and 0.5 logs as errors.
    anonymise
        Name slide, patient and regions by pseudonyms, and leave out what is no part of a map.
    pseudonym_key
        The key file of the pseudonyms; see `histomix.common.anonymity.pseudonyms.key_file`.

    Raises
    ------
    InputError
        The format is unknown or has no such thing to add, or the map cannot be written in it; or names would stand
        beside pseudonyms in ``out``.
    MissingExtraError
        A library that the format needs is not installed.
    StorageError
        The file cannot be written.
    """
    _check_format(to, also)
    source = Path(one) if isinstance(one, str | os.PathLike) else CompositionMap.of(one)
    names = _names(anonymise, pseudonym_key, out, paths_among([one]), [source])
    return _export(source, to, also, Path(out), names)


def _names(
    anonymise: bool,
    pseudonym_key: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    folders: Sequence[Path],
    maps: Sequence[Path | CompositionMap],
) -> Pseudonyms | None:
    """The pseudonyms of an export, whose folder is marked; what an earlier one wrote under these maps' names goes."""
    require_folder(out)
    names = open_pseudonyms(anonymise, pseudonym_key, out, folders)
    if names is None:
        refuse_marked(Path(out))
        return None
    stems = [one.resolve().name if isinstance(one, Path) else one.folder_name or one.name for one in maps]
    named = {f"{safe_file_name(stem)}{suffix}" for stem in stems for suffix, _ in FORMATS.values()}
    mark_output(Path(out), names.key, lambda path: path.name in named)
    return names


def _check_format(to: str, also: Also) -> None:
    if to not in FORMATS:
        raise UnknownNameError(f"there is no format {to!r}", hint=f"Choose one of: {', '.join(FORMATS)}")
    known = EXTRAS.get(to, ())
    for one in also:
        if one not in known:
            hint = f"It may have: {', '.join(known)}" if known else "Leave it out"
            raise UnknownNameError(f"{to} has no {one!r} to add", hint=hint)


def _check_names(sources: Sequence[Path | CompositionMap]) -> None:
    """Refuse maps that would be written to one file, before any is written."""
    seen: dict[str, Path | CompositionMap] = {}
    for source in sources:
        name = source.resolve().name if isinstance(source, Path) else source.folder_name or source.name
        twin = seen.setdefault(file_key(safe_file_name(name)), source)
        if twin is not source:
            both = [str(one) for one in (twin, source) if isinstance(one, Path)]
            raise InputError(
                f"two maps are called {name}" + (f" ({' and '.join(both)})" if both else ""),
                hint="Export them to different folders, or rename one of the folders",
            )


def _export(source: Path | CompositionMap, to: str, also: Also, out: Path, names: Pseudonyms | None) -> Path:
    suffix, write = FORMATS[to]
    one = CompositionMap.of(source)
    name = one.folder_name or one.name
    if names is not None:
        one = private_map(one, names)
        name = one.name
        names.save()
    path = out / f"{safe_file_name(name)}{suffix}"
    if not _is_export(path):
        what = "is no export of a map (a file of spots may have this name), and would be replaced"
        raise InputError(what, where=path, hint="Choose another --out")
    write(path, one, also)
    return path


def _is_export(path: Path) -> bool:
    """Whether nothing of somebody else's is lost where a table is written; pictures and GeoJSON are not looked into."""
    if path.suffix == ".csv":
        return not (header := columns_or_none(path)) or {"x_px", "y_px", "use"} <= set(header)
    if path.suffix != ".h5ad" or not path.is_file():
        return True
    try:
        with h5py.File(path) as file:
            return "obs/dominant_type" in file
    except OSError:  # cut short: of a run that was killed, or of no use to anybody
        return True


def _kept_features(one: CompositionMap) -> AnnData | None:
    """The features that ``histomix predict --keep-features`` left beside the map; None where there are none."""
    path = None if one.file is None else one.file.parent / "features" / "features.npy"
    if path is None or not path.is_file():
        return None
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read as an array ({error})", where=path, hint="Predict the slide again") from error
    if values.shape[:1] != (len(one),):
        what = f"has {len(values):,} rows for a map of {len(one):,} tiles"
        raise InputError(what, where=path, hint="Predict the slide again")
    features = AnnData(np.asarray(values, dtype=np.float32), obs=one.adata.obs[["x_px", "y_px"]].copy())
    features.obsm["spatial"] = one.xy_px
    return features


def _anndata(path: Path, one: CompositionMap, also: Also) -> None:
    with atomic_path(path) as temporary:
        write_h5ad(temporary, to_scverse(one, one.preview()), compression="gzip")


def _whole_table(one: CompositionMap) -> pd.DataFrame:
    """The map with the ends of its intervals, as ``<type> lower`` and ``<type> upper``.

    Its last column says what it is for: a table is handed on without its folder.
    """
    bounds = [table.add_suffix(f" {end}") for end, table in one.bounds.items()]
    return pd.concat([composition_table(one), *bounds], axis=1).assign(use=RESEARCH_USE).rename_axis("spot")


def _parquet(path: Path, one: CompositionMap, also: Also) -> None:
    table = _whole_table(one)
    try:
        with atomic_path(path) as temporary:
            write_parquet(table, temporary)
    except ImportError as error:
        raise MissingExtraError("pyarrow", "st", "writing Parquet") from error


def _csv(path: Path, one: CompositionMap, also: Also) -> None:
    """A table for a spreadsheet: numbers as they are, and no name that would be run as a formula."""
    table = spreadsheet_table(_whole_table(one))
    # The mark of byte order tells a spreadsheet that names are in UTF-8.
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8-sig", newline="") as file:
        for rows in _stretches(one):
            table.iloc[rows].to_csv(file, header=not rows.start, float_format="%.6g", lineterminator="\n")


def _geojson(path: Path, one: CompositionMap, also: Also) -> None:
    # No time stamp: the same map gives the same bytes.
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
    ):
        for text in _collection(one, "words" in also):
            packed.write(text.encode())


def _geojson_zip(path: Path, one: CompositionMap, also: Also) -> None:
    """For programs that unpack zip archives and no gzip."""
    entry = zipfile.ZipInfo(path.name.removesuffix(".zip"), (1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
        archive.open(entry, "w", force_zip64=True) as packed,
    ):
        for text in _collection(one, "words" in also):
            packed.write(text.encode())


def _collection(one: CompositionMap, words: bool) -> Iterator[str]:
    """The text of a FeatureCollection, in stretches."""
    yield '{"type": "FeatureCollection", "features": ['
    for rows in _stretches(one):
        features = composition_geojson(CompositionMap(one.adata[rows]), metadata=words)["features"]
        text = ", ".join(json.dumps(feature, allow_nan=False) for feature in features)
        yield f", {text}" if rows.start else text
    rest = "".join(f", {json.dumps(name)}: {json.dumps(value)}" for name, value in collection_facts(one).items())
    yield f"]{rest}}}"


def _stretches(one: CompositionMap) -> Iterator[slice]:
    """Rows of a map, a stretch at a time, told of."""
    for start in range(0, max(len(one), 1), _STRETCH):
        tell(f"tiles of {one.name}", start, len(one))
        yield slice(start, start + _STRETCH)
    tell(f"tiles of {one.name}", len(one), len(one))


def _heatmap(path: Path, one: CompositionMap, also: Also) -> None:
    write_heatmap(path, one, intervals="intervals" in also, novelty="novelty" in also)


def _spatialdata(path: Path, one: CompositionMap, also: Also) -> None:
    write_spatialdata(path, one, one.preview(), _kept_features(one))


_Write = Callable[[Path, CompositionMap, Also], None]
#: Format -> suffix of its file, and what writes it.
FORMATS: dict[str, tuple[str, _Write]] = {
    "spatialdata": (".zarr", _spatialdata),
    "anndata": (".h5ad", _anndata),
    "parquet": (".parquet", _parquet),
    "csv": (".csv", _csv),
    "ome-tiff": (".ome.tif", _heatmap),
    "geojson.gz": (".geojson.gz", _geojson),
    "geojson.zip": (".geojson.zip", _geojson_zip),
}
#: What a format may hold besides, by request: channels of an OME-TIFF, and words at each tile in QuPath.
EXTRAS = {"ome-tiff": ("intervals", "novelty"), "geojson.gz": ("words",), "geojson.zip": ("words",)}
