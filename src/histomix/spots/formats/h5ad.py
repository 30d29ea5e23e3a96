"""Plain h5ad with spot centres in ``obsm["spatial"]``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from ...common.strangers.annotated import (
    RAW,
    X,
    find_counts,
    gene_count,
    is_anndata_zarr,
    read_annotated,
    read_rows,
)
from ...common.words import counted
from ...errors import SectionError
from .base import UNREADABLE, Description, Options, SpotFile, no_counts, require_unique
from .tenx.positions import ScaleFactors
from .tenx.visium import DIAMETER_UM, PITCH_UM, lattice_positions, spots_mpp

if TYPE_CHECKING:
    from anndata import AnnData


class PlainH5AD:
    """AnnData of one section, as h5ad or Zarr; ``obsm["spatial"]`` holds x, y in px of the image."""

    name = "h5ad"
    options: Mapping[str, str] = {
        "library": "the library to read, of several in uns['spatial']",
        "layer": "where the raw counts are: X, raw, or the name of a layer",
    }

    def matches(self, path: Path) -> bool:
        """See `Format`."""
        return is_anndata_zarr(path) if path.is_dir() else path.suffix == ".h5ad"

    def read(self, path: Path, with_counts: bool, options: Options) -> SpotFile:
        """See `Format`. Spots that lie as those of a Visium array do get its geometry and um per px."""
        adata, place = _read(path, with_counts, options.get("library"), options.get("layer"))
        spots = _as_bins(adata) or _as_visium(adata, path) or SpotFile(adata)
        return spots if place in (None, X) else dataclasses.replace(spots, notes=(f"its counts are those of {place}",))

    def describe(self, path: Path, options: Options) -> Description:
        """See `Format`."""
        spots = self.read(path, False, options)
        genes = gene_count(path, SectionError, *UNREADABLE)
        contents = [counted(spots.adata.n_obs, "spot") + " with their places in obsm['spatial']"]
        missing = ["the image that the places belong to"]
        if spots.mpp is None:
            missing += ["um per px of the image", "spot diameter and pitch in um"]
        else:
            contents.append(f"about {spots.mpp:.4g} um per px, by {spots.mpp_source}")
        if genes:
            contents.append(counted(genes, "gene"))
        else:
            missing.append("counts")
        return Description(
            "an AnnData file of spots", tuple(contents), tuple(missing), {"spots": str(path), "format": self.name}
        )


def _scalefactors(adata: AnnData) -> Mapping[str, Any]:
    """Scale factors as scanpy stores them; empty without."""
    library = next(iter(adata.uns["spatial"].values())) if library_names(adata) else {}
    factors = library.get("scalefactors", {}) if isinstance(library, Mapping) else {}
    return factors if isinstance(factors, Mapping) else {}


def _as_bins(adata: AnnData) -> SpotFile | None:
    """Bins of Visium HD, whose scale factors say their side and um per px."""
    known = _scalefactors(adata)
    try:
        bin_um, mpp = float(known["bin_size_um"]), float(known["microns_per_pixel"])
    except (KeyError, TypeError, ValueError):
        return None
    if not (0 < bin_um < math.inf and 0 < mpp < math.inf):
        return None
    return SpotFile(adata, mpp, "microns_per_pixel of its scale factors", bin_um, bin_um)


def _as_visium(adata: AnnData, path: Path) -> SpotFile | None:
    """A Visium section as scanpy stores it: array positions in obs, and a spot diameter that agrees with them."""
    diameter_px = _scalefactors(adata).get("spot_diameter_fullres")
    if diameter_px is None or not {"array_row", "array_col"} <= set(adata.obs.columns):
        return None
    xy_px = adata.obsm["spatial"]
    positions = adata.obs[["array_row", "array_col"]].assign(x_px=xy_px[:, 0], y_px=xy_px[:, 1])
    if any(positions[name].dtype.kind not in "iuf" for name in positions):
        return None
    try:
        mpp, source = spots_mpp(positions, ScaleFactors(path, float(diameter_px)))
    except SectionError:  # another kind of array, which the sheet must describe
        return None
    array = lattice_positions(positions)
    adata.obs = adata.obs.assign(array_x=array[:, 0], array_y=array[:, 1])
    return SpotFile(adata, mpp, source, DIAMETER_UM, PITCH_UM)


def _read(path: Path, with_counts: bool, library: str | None, layer: str | None) -> tuple[AnnData, str | None]:
    """Spots with their counts in ``X``, and where these stood."""
    from anndata import AnnData

    adata = (read_annotated if with_counts else read_rows)(path, SectionError, *UNREADABLE)
    if "spatial" not in adata.obsm:
        keys = ", ".join(adata.obsm) or "none"
        raise SectionError(
            f"has no obsm['spatial'] (obsm: {keys})",
            where=path,
            hint="Store the spot centres there, in px of the image",
        )
    xy_px = np.asarray(adata.obsm["spatial"])
    if xy_px.ndim != 2 or xy_px.shape[1] < 2 or xy_px.dtype.kind not in "iuf" or not np.isfinite(xy_px[:, :2]).all():
        raise SectionError(
            "has an obsm['spatial'] that is not spots x 2 finite numbers",
            where=path,
            hint="Store x, y in px of the image",
        )
    if not adata.n_obs:
        raise SectionError("holds no spots", where=path, hint="Check that the file is whole")
    adata = one_library(adata, library, path)
    require_unique(adata.obs_names, path)
    xy_px = np.asarray(adata.obsm["spatial"])
    adata.obsm["spatial"] = xy_px[:, :2].astype(np.float64)
    if adata.X is None and not adata.layers and adata.raw is None:
        genes = adata.n_vars if with_counts else 0
        adata = adata[:, :genes].copy()
        adata.X = no_counts(adata.n_obs, genes)
        return adata, None
    try:
        counts = find_counts(adata, layer, (X, "counts", RAW))
    except ValueError as error:
        raise SectionError(str(error), where=path, hint="Name X, raw, or a layer that it has") from error
    spots = AnnData(
        X=sparse.csr_matrix(counts.matrix, dtype=np.float32),
        obs=adata.obs,
        var=counts.var.copy(),
        obsm=dict(adata.obsm),
        uns=dict(adata.uns),
    )
    return spots, counts.place


FORMATS = (PlainH5AD(),)


#: Columns of obs that tell the library of a spot, where their values are the names in ``uns["spatial"]``.
_COLUMNS = ("library_id", "library", "batch", "sample", "sample_id", "region")


def library_names(adata: AnnData) -> tuple[str, ...]:
    """Names of the libraries in ``uns["spatial"]``, in their order; empty without."""
    spatial = adata.uns.get("spatial")
    return tuple(map(str, spatial)) if isinstance(spatial, Mapping) else ()


def one_library(adata: AnnData, name: str | None = None, where: Path | None = None) -> AnnData:
    """The spots of one library (images of different libraries share no px, so a section is one of them).

    Parameters
    ----------
    adata
        With the scanpy convention ``uns["spatial"][<library>]``; returned as it is when it holds one library or none.
    name
        The library wanted; may be left out when there is one.
    where
        The file, for errors.

    Returns
    -------
    AnnData with the spots of the library, and ``uns["spatial"]`` of it alone.

    Raises
    ------
    SectionError
        There are several and none is named, the name is unknown, or no column of obs tells which spots are its own.
    """
    names = library_names(adata)
    if name is None and len(names) < 2:
        return adata
    listed = ", ".join(names) or "none"
    if name is None:
        raise SectionError(
            f"holds {len(names)} libraries with an image each: {listed}",
            where=where,
            hint=f"Name one after the file, as in {where.name if where else 'spots.h5ad'}#library={names[0]}",
        )
    if name not in names:
        raise SectionError(f"has no library '{name}' (it has: {listed})", where=where, hint="Name one of these")
    uns = {**adata.uns, "spatial": {name: adata.uns["spatial"][name]}}
    if len(names) == 1:
        one = adata.copy()
    else:
        column = _column(adata.obs, names)
        if column is None:
            raise SectionError(
                f"holds the libraries {listed}, but no column of obs tells which spots are of '{name}'",
                where=where,
                hint="Add a column library_id to obs with these names",
            )
        one = adata[(adata.obs[column].astype(str) == name).to_numpy()].copy()
    one.uns = uns
    return one


def _column(obs: pd.DataFrame, names: tuple[str, ...]) -> str | None:
    """The column whose values are libraries, every spot with one."""
    first = [name for name in _COLUMNS if name in obs]
    for column in [*first, *(name for name in obs.columns if name not in first)]:
        values = obs[column]
        if values.dtype.kind in "OUSV" or isinstance(values.dtype, (pd.CategoricalDtype, pd.StringDtype)):
            libraries = set(values.astype(str).unique())
            if libraries <= set(names) and libraries:
                return str(column)
    return None
