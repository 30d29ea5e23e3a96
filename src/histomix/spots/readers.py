"""Spots files in: legacy Spatial Transcriptomics, h5ad and plain CSV."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from ..errors import SectionError
from . import tables
from .counts import read_counts, read_keys

if TYPE_CHECKING:
    from anndata import AnnData

_log = logging.getLogger(__name__)

#: Formats that `read_section_spots` reads, and those it knows by name only.
READABLE = ("st", "h5ad", "csv")
FORMATS = (*READABLE, "visium", "visium-hd", "hest", "spatialdata", "xenium")
#: Spot diameter and pitch in um where the format fixes them (legacy ST: Stahl et al. 2016, Science 353:78).
GEOMETRY: dict[str, tuple[float, float]] = {"st": (100.0, 200.0)}

_ST_COLUMNS = ("x", "y", "pixel_x", "pixel_y")
_PX_COLUMNS = (("x_px", "y_px"), ("pixel_x", "pixel_y"))
#: A count table that misses more of the spots than this is taken for another section's.
_MIN_COUNTED = 0.5
_EXAMPLES = 3


def detect_format(path: Path) -> str:
    """Name of the format of a spots file or folder, one of `FORMATS`.

    Raises
    ------
    SectionError
        The file is of no known format; the message says what was found in it.
    """
    if path.is_dir():
        if path.suffix == ".zarr":
            return "spatialdata"
        if any((path / name).exists() for name in ("spatial", "tissue_positions_list.csv", "tissue_positions.csv")):
            return "visium"
        if any(path.glob("binned_outputs")) or path.name.startswith("square_"):
            return "visium-hd"
        raise SectionError("is a folder of no known format", where=path, mend="Name the spots file itself")
    if path.suffix == ".h5ad":
        return "h5ad"
    if path.name.startswith("tissue_positions"):
        return "visium"
    columns = tables.header_of(path)
    if set(_ST_COLUMNS) <= set(columns) and "spot" not in columns:
        return "st"
    if any(set(pair) <= set(columns) for pair in _PX_COLUMNS):
        return "csv"
    shown = ", ".join(columns[:8]) or "nothing"
    raise SectionError(
        f"is of no known spots format (its first line has: {shown})",
        where=path,
        mend="Give a *_selection.tsv (x, y, pixel_x, pixel_y), an .h5ad, or a CSV with spot, x_px, y_px",
    )


def read_spots(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Places of the spots in any spots file.

    Parameters
    ----------
    path
        Legacy ``*_selection.tsv`` (rows with ``selected`` = 1), h5ad with ``obsm["spatial"]``, or a CSV with
        ``spot``, ``x_px``, ``y_px``.

    Returns
    -------
    Table in the file's order: index ``spot`` (key as text), columns ``x_px``, ``y_px`` (spot centres, level-0 px).

    Raises
    ------
    SectionError
        The file cannot be read, is of no known format, repeats a key, or lacks a coordinate.
    """
    path = Path(path)
    if not path.exists():
        raise SectionError("there is no such file", where=path, mend="Check the path")
    adata = read_section_spots(path, detect_format(path))
    places = pd.DataFrame(adata.obsm["spatial"], index=adata.obs_names, columns=["x_px", "y_px"])
    return places.rename_axis("spot")


def read_section_spots(path: Path, format: str, counts: Path | None = None, with_counts: bool = False) -> AnnData:
    """One section as AnnData; arguments as in a row of the cohort sheet.

    When ``counts`` is given, spots that it lacks are dropped whether or not the counts themselves are asked for, so
    that every verb sees the same spots; ``uns["spots_without_counts"]`` says how many.

    Returns
    -------
    AnnData: obs_names = spot keys, ``obsm["spatial"]`` (n, 2) float64 in level-0 px, ``X`` csr float32 counts (no genes
    when not asked for or absent); legacy ST keeps its array coordinates in obs ``array_x``, ``array_y``.
    """
    from anndata import AnnData

    if format not in READABLE:
        raise SectionError(
            f"the format '{format}' is not read by this version",
            where=path,
            mend="Convert the section to h5ad (obsm['spatial'] in px of the image) or to CSV (spot, x_px, y_px)",
        )
    if format == "h5ad":
        adata = _read_h5ad(path, with_counts and counts is None)
    else:
        obs, xy_px = _read_st(path) if format == "st" else _read_csv(path)
        _require_unique(obs.index, path)
        adata = AnnData(X=_no_counts(len(obs)), obs=obs, obsm={"spatial": xy_px})
    return adata if counts is None else _join_counts(adata, path, counts, with_counts)


def _require_unique(keys: pd.Index, path: Path) -> None:
    if not keys.is_unique:
        key = keys[keys.duplicated()][0]
        raise SectionError(f"has the spot '{key}' more than once", where=path, mend="Keep one row per spot")


def _no_counts(spots: int, genes: int = 0) -> sparse.csr_matrix:
    return sparse.csr_matrix(np.zeros((spots, genes), dtype=np.float32))


def _read_st(path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    table = tables.read_table(path)
    missing = [name for name in _ST_COLUMNS if name not in table]
    if missing:
        raise SectionError(
            f"lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)} of legacy ST",
            where=path,
            mend="Give a *_selection.tsv with x, y, pixel_x, pixel_y (new_x, new_y, selected)",
        )
    if "selected" in table:
        selected = tables.numbers(table, "selected", path) == 1
        if not selected.any():
            raise SectionError("has no spot with selected = 1", where=path, mend="Select the spots under the tissue")
    else:
        selected = np.ones(len(table), dtype=bool)
    grid = np.column_stack([tables.numbers(table, "x", path), tables.numbers(table, "y", path)])
    if (grid != np.round(grid)).any():
        raise SectionError("has x or y that are no whole numbers", where=path, mend="Keys are made of array positions")
    xy_px = np.column_stack([tables.numbers(table, "pixel_x", path), tables.numbers(table, "pixel_y", path)])
    adjusted = [tables.numbers(table, f"new_{axis}", path) if f"new_{axis}" in table else None for axis in "xy"]
    array = [grid[:, axis] if values is None else values for axis, values in enumerate(adjusted)]
    keys = [f"{x}x{y}" for x, y in grid.astype(int)]
    obs = pd.DataFrame({"array_x": array[0], "array_y": array[1]}, index=pd.Index(keys, name="spot"))
    return obs[selected], xy_px[selected]


def _read_csv(path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    table = tables.read_table(path)
    pair = next((pair for pair in _PX_COLUMNS if set(pair) <= set(table.columns)), None)
    if pair is None:
        raise SectionError(
            f"lacks the columns x_px, y_px (it has: {', '.join(table.columns[:8])})",
            where=path,
            mend="Name the columns of the spot centres x_px and y_px, in px of the image",
        )
    key = "spot" if "spot" in table else table.columns[0]
    if key in pair:
        raise SectionError("lacks a column with the spot keys", where=path, mend="Add a column 'spot'")
    if (table[key] == "").any():
        row = int(np.flatnonzero(table[key] == "")[0]) + 2
        raise SectionError(f"row {row} has no spot key", where=path, mend="Give every spot its key")
    xy_px = np.column_stack([tables.numbers(table, name, path) for name in pair])
    obs = table.drop(columns=list(pair)).set_index(key).rename_axis("spot")
    for name in {"array_x", "array_y"} & set(obs.columns):
        obs[name] = tables.numbers(table, name, path)
    return obs, xy_px


def _read_h5ad(path: Path, with_counts: bool) -> AnnData:
    import h5py
    from anndata import AnnData, read_h5ad
    from anndata.io import read_elem

    damaged = "cannot be read as h5ad ({})"
    try:
        if with_counts:
            adata = read_h5ad(path)
        else:
            with h5py.File(path, "r") as store:
                obs, obsm, uns = (read_elem(store[name]) if name in store else {} for name in ("obs", "obsm", "uns"))
                adata = AnnData(obs=obs, obsm=obsm, uns=uns)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise SectionError(damaged.format(error), where=path, mend="Write it again with a current anndata") from error
    if "spatial" not in adata.obsm:
        found = ", ".join(adata.obsm) or "none"
        raise SectionError(
            f"has no obsm['spatial'] (obsm: {found})",
            where=path,
            mend="Store the spot centres there, in px of the image",
        )
    xy_px = np.asarray(adata.obsm["spatial"])
    if xy_px.ndim != 2 or xy_px.shape[1] < 2 or xy_px.dtype.kind not in "iuf" or not np.isfinite(xy_px[:, :2]).all():
        raise SectionError(
            "has an obsm['spatial'] that is not spots x 2 finite numbers",
            where=path,
            mend="Store x, y in px of the image",
        )
    if not adata.n_obs:
        raise SectionError("holds no spots", where=path, mend="Check that the file is whole")
    _require_unique(adata.obs_names, path)
    adata.obsm["spatial"] = xy_px[:, :2].astype(np.float64)
    if adata.X is None:
        genes = adata.n_vars if with_counts else 0
        adata = adata[:, :genes].copy()
        adata.X = _no_counts(adata.n_obs, genes)
    else:
        adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
    return adata


def _join_counts(adata: AnnData, spots_path: Path, counts_path: Path, with_counts: bool) -> AnnData:
    from anndata import AnnData

    table = read_counts(counts_path) if with_counts else None
    keys = read_keys(counts_path) if table is None else table.keys
    rows = keys.get_indexer(adata.obs_names)
    counted = rows >= 0
    if counted.mean() < _MIN_COUNTED:
        raise _mismatch(adata.obs_names, counted, spots_path, counts_path, keys, read_counts(counts_path).genes)
    if not counted.all():
        _log.info("%s: %d of %d spots have no counts and are dropped", spots_path, (~counted).sum(), len(rows))
    kept = adata[counted]
    uns = {**adata.uns, "spots_without_counts": int((~counted).sum())}
    if table is None:
        matrix, var = _no_counts(kept.n_obs), None
    else:
        matrix, var = table.matrix[rows[counted]], pd.DataFrame(index=table.genes)
    return AnnData(X=matrix, obs=kept.obs.copy(), var=var, obsm={k: v.copy() for k, v in kept.obsm.items()}, uns=uns)


def _mismatch(
    spots: pd.Index, counted: np.ndarray, spots_path: Path, counts_path: Path, keys: pd.Index, genes: pd.Index
) -> SectionError:
    if spots.isin(genes).mean() >= _MIN_COUNTED:
        return SectionError(
            "is genes x spots: its columns are the spots", where=counts_path, mend="Transpose it to spots x genes"
        )
    matched = "none" if not counted.any() else f"only {counted.sum()}"
    ours, theirs = (", ".join(map(str, index[:_EXAMPLES])) for index in (spots, keys))
    return SectionError(
        f"{matched} of its {len(spots)} spots are in the counts {counts_path}: "
        f"the spots are called {ours}, those of the counts {theirs}",
        where=spots_path,
        mend="Give the counts of this section, with the same spot keys",
    )
