"""One library of an AnnData that holds several."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ...errors import SectionError

if TYPE_CHECKING:
    from anndata import AnnData

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
            mend=f"Name one after the file, as in {where.name if where else 'spots.h5ad'}#library={names[0]}",
        )
    if name not in names:
        raise SectionError(f"has no library '{name}' (it has: {listed})", where=where, mend="Name one of these")
    uns = {**adata.uns, "spatial": {name: adata.uns["spatial"][name]}}
    if len(names) == 1:
        one = adata.copy()
    else:
        column = _column(adata.obs, names)
        if column is None:
            raise SectionError(
                f"holds the libraries {listed}, but no column of obs tells which spots are of '{name}'",
                where=where,
                mend="Add a column library_id to obs with these names",
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
            found = set(values.astype(str).unique())
            if found <= set(names) and found:
                return str(column)
    return None
