"""AnnData without places: single cells that can serve as a reference for labels, for `inspect`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..common.strangers.annotated import gene_count, is_anndata_zarr, obs_columns, read_rows
from ..common.words import counted
from ..errors import SectionError
from .formats import Description
from .formats.base import UNREADABLE

#: The column of cell types that `label` finds by itself.
_KEY = "cell_type"
#: A column of more different names than this is no column of cell types.
_MOST_TYPES = 500
_SHOWN = 5


def describe_single_cells(path: Path) -> Description | None:
    """What a file of AnnData is whose rows have no place; None where it is another file, or has no column of types."""
    if path.suffix != ".h5ad" or path.is_dir() or is_anndata_zarr(path):
        return None
    columns, places = obs_columns(path)
    if not columns or places & {"spatial", "X_spatial"}:
        return None
    obs = read_rows(path, SectionError, *UNREADABLE).obs
    keys = [str(name) for name in obs if _may_be_types(obs[name])]
    if not keys:
        return None
    keys.sort(key=lambda name: name != _KEY)
    genes = gene_count(path, SectionError, *UNREADABLE)
    types = f"obs['{keys[0]}'] with {counted(obs[keys[0]].nunique(), 'different name')}"
    contents = [
        f"{counted(len(obs), 'cell')}" + (f" x {counted(genes, 'gene')}" if genes else ""),
        types + (f"; other columns of names: {', '.join(keys[1:][:_SHOWN])}" if keys[1:] else ""),
        "for histomix label --reference" + ("" if keys[0] == _KEY else f" with --cell-type-key {keys[0]}"),
    ]
    missing = ["places in obsm['spatial'], if these are spots and not a reference"]
    return Description("single cells, a reference for labels (AnnData)", tuple(contents), tuple(missing))


def _may_be_types(values: pd.Series) -> bool:
    """Whether a column holds names, at least two, many rows sharing one."""
    if pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return False
    return 2 <= values.nunique() <= min(_MOST_TYPES, len(values) // 2)
