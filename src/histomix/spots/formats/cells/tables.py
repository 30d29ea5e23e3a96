"""Tables of single cells as the platforms write them: centroids, types and counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from ....common.strangers.annotated import read_annotated, read_rows
from ....common.tables import column_names, read_columns, to_numeric
from ....common.words import counted
from ....errors import SectionError
from ...pseudo_spots import assigned
from ..base import UNREADABLE, require_unique

_TYPE_COLUMNS = ("cell_type", "celltype", "cell_types", "cell type", "annotation", "type")
#: What a table of types alone may call them too.
_GROUP_COLUMNS = ("group", "cluster")
_ID_COLUMNS = ("cell_id", "barcode", "cell", "entityid", "id", "")
#: With fewer of the cells than this in the table of types, the two are taken for different sections.
_MIN_TYPED = 0.5
_EXAMPLES = 3
#: What tables write where there is no number.
_GAPS = ("", "nan", "na", "n/a", "none", "null", "<na>")
#: No centroid lies so far from the corner, in um or px.
_MOST_PLACE = 1e9


@dataclass(frozen=True)
class Layout:
    """Columns of a platform's cell table: ids (several are joined by "_"), centroids, and their unit."""

    ids: tuple[str, ...]
    x: str
    y: str
    #: ``"um"``; ``"px"`` of the platform, ``pixel_um`` each; ``"image px"`` of the H&E image itself.
    unit: str
    pixel_um: float | None = None


#: Centroids in um; experiment.xenium tells the px of the morphology image, .2125 um when it is absent.
XENIUM = Layout(("cell_id",), "x_centroid", "y_centroid", "um", 0.2125)
#: Centroids in global px; the px of the instrument is 0.12028 um (NanoString, CosMx SMI data; older releases: 0.18).
COSMX = Layout(("fov", "cell_ID"), "CenterX_global_px", "CenterY_global_px", "px", 0.12028)
MERSCOPE = Layout(("",), "center_x", "center_y", "um")
#: What plain tables of cells may call their columns; ids are looked for apart.
PLAIN = (
    Layout((), "x_px", "y_px", "image px"),
    Layout((), "x_pixel", "y_pixel", "image px"),
    Layout((), "x_um", "y_um", "um"),
    Layout((), "x_centroid", "y_centroid", "um"),
    Layout((), "center_x", "center_y", "um"),
)


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of one section.

    Attributes
    ----------
    table
        Indexed by cell id; ``x``, ``y`` (``unit``, see `Layout`) and ``cell_type`` (None where there is none).
    counts, genes
        Cells x genes where they were asked for and are there.
    mpp, mpp_source
        um per px of the image, where the platform's files tell it, and how they do.
    """

    table: pd.DataFrame
    unit: str
    pixel_um: float | None = None
    counts: sparse.csr_matrix | None = None
    genes: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()
    mpp: float | None = None
    mpp_source: str | None = None

    @property
    def typed(self) -> bool:
        """Whether any cell has a type."""
        return bool(self.table["cell_type"].notna().any())

    def keep(self, rows: np.ndarray, *notes: str) -> Cells:
        """Only the cells of a mask."""
        counts = None if self.counts is None else self.counts[np.flatnonzero(rows)]
        return replace(self, table=self.table[rows], counts=counts, notes=(*self.notes, *notes))


def read_cells(path: Path, layout: Layout, type_column: str | None = None) -> Cells:
    """Read a cell table; see `Layout`.

    Cells without a place are dropped, and said.

    Raises
    ------
    SectionError
        Columns are missing, an id occurs more than once, a coordinate is text, or no cell has a place.
    MissingExtraError
        A Parquet file needs pyarrow.
    """
    present = column_names(path)
    keyless = not layout.ids and _find(present, _ID_COLUMNS) is None and _is_told_of(present[0])
    ids = [] if keyless else list(layout.ids) or [_id_column(present)]
    if ids == [""] and "" not in present:  # MERSCOPE, as newer versions of its software write it
        ids = ["EntityID"]
    missing = [name for name in (*ids, layout.x, layout.y) if name not in present]
    if missing:
        raise SectionError(
            f"lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)} (it has: {', '.join(present[:8])})",
            where=path,
            hint="Give the cell table as the platform writes it",
        )
    if type_column is not None and type_column not in present:
        raise SectionError(f"has no column '{type_column}'", where=path, hint=f"It has {', '.join(present[:12])}")
    types = type_column or _find(present, _TYPE_COLUMNS)
    table = read_columns(path, list(dict.fromkeys([*ids, layout.x, layout.y, *([types] if types else [])])))
    # Without a key, cells are told by their place in the table.
    keys = _text(table[ids[0]] if ids else pd.Series(np.arange(1, len(table) + 1)))
    for name in ids[1:]:
        keys = keys + "_" + _text(table[name])
    cells = pd.DataFrame(
        {axis: _numbers_and_gaps(table[name], path) for axis, name in (("x", layout.x), ("y", layout.y))}
    ).astype(np.float64)
    cells["cell_type"] = assigned(_text(table[types])) if types else None
    cells.index = pd.Index(keys, name="cell_id")
    return checked(Cells(cells, layout.unit, layout.pixel_um), path)


def _numbers_and_gaps(column: pd.Series, path: Path) -> pd.Series:
    """Numbers of a column, NaN where it says nothing; other text is damage."""
    values = to_numeric(column)
    wrong = np.flatnonzero(values.isna() & ~column.astype(str).str.strip().str.lower().isin(_GAPS))
    if len(wrong):
        raise SectionError(
            f"row {wrong[0] + 2}, column '{column.name}': '{column.iloc[wrong[0]]}' is not a number "
            f"({counted(len(wrong), 'such row')})",
            where=path,
            hint="Correct the rows or take them out",
        )
    return values


def checked(cells: Cells, path: Path) -> Cells:
    """Cells with unique ids and finite places; those without a place are dropped, and said."""
    if not cells.table.index.is_unique:
        require_unique(cells.table.index, path)
    # Of NaN, no comparison is true.
    placed = (np.abs(cells.table[["x", "y"]].to_numpy()) < _MOST_PLACE).all(axis=1)
    if not placed.any():
        raise SectionError("has no cell with a place", where=path, hint="Check that the file is whole")
    if placed.all():
        return cells
    return cells.keep(placed, f"{counted(int((~placed).sum()), 'cell')} without coordinates are dropped")


def read_h5ad_cells(path: Path, with_counts: bool, type_column: str | None = None) -> Cells:
    """Cells of an h5ad: obs ``x_px``, ``y_px`` (or a pair of `PLAIN`), else ``obsm["spatial"]`` in px of the image."""
    adata = (read_annotated if with_counts else read_rows)(path, SectionError, *UNREADABLE)
    layout = next((some for some in PLAIN if {some.x, some.y} <= set(adata.obs.columns)), None)
    if layout is None and "spatial" not in adata.obsm:
        raise SectionError(
            f"has no places of cells (obs: {', '.join(map(str, adata.obs.columns[:8]))}; no obsm['spatial'])",
            where=path,
            hint="Store them in obs as x_px, y_px, in px of the image",
        )
    if type_column is not None and type_column not in adata.obs:
        raise SectionError(f"has no obs column '{type_column}'", where=path, hint="Check the option type_column")
    types = type_column or _find(list(adata.obs.columns), _TYPE_COLUMNS)
    if layout is not None:
        xy = np.column_stack([_numbers_and_gaps(adata.obs[name], path) for name in (layout.x, layout.y)])
    else:
        xy = np.asarray(adata.obsm["spatial"])
        if xy.ndim != 2 or xy.shape[1] < 2 or xy.dtype.kind not in "iuf":
            raise SectionError(
                "has an obsm['spatial'] that is not cells x 2 numbers", where=path, hint="Store x, y in px of the image"
            )
        xy = xy[:, :2].astype(np.float64)
    table = pd.DataFrame(xy, index=adata.obs_names.astype(str), columns=["x", "y"]).rename_axis("cell_id")
    table["cell_type"] = assigned(_text(adata.obs[types])).to_numpy() if types else None
    has_counts = with_counts and adata.X is not None and adata.n_vars > 0
    counts = sparse.csr_matrix(adata.X, dtype=np.float32) if has_counts else None
    genes = pd.DataFrame(index=adata.var_names) if has_counts else None
    return checked(Cells(table, layout.unit if layout else "image px", None, counts, genes), path)


def with_types(cells: Cells, path: Path, type_column: str | None = None) -> Cells:
    """Cells with the types of another table, by cell id.

    Raises
    ------
    SectionError
        The table has no column of types, repeats a cell, or holds less than half of the cells.
    """
    present = column_names(path)
    key = _id_column(present)
    column = type_column or _find(present, (*_TYPE_COLUMNS, *_GROUP_COLUMNS))
    if column is None and len(present) == 2:
        column = next(name for name in present if name != key)
    if column is None or column not in present:
        raise SectionError(
            f"has no column {'of cell types' if column is None else repr(column)} (it has: {', '.join(present[:8])})",
            where=path,
            hint="Name it cell_type, or by the option type_column",
        )
    if column == key or key in cells.table.index:
        what = "no column of cell ids" if column == key else f"no header: it begins with the cell {key}"
        raise SectionError(f"has {what}", where=path, hint="Write the columns cell_id and cell_type, with their names")
    table = read_columns(path, [key, column])
    keys = pd.Index(_text(table[key]))
    if not keys.is_unique:
        require_unique(keys, path)
    types = pd.Series(assigned(_text(table[column])).to_numpy(), index=keys, dtype=object)
    typed = cells.table.index.isin(keys)
    if typed.mean() < _MIN_TYPED:
        ours, theirs = (", ".join(map(str, index[:_EXAMPLES])) for index in (cells.table.index, keys))
        raise SectionError(
            f"holds {typed.sum():,} of the {len(typed):,} cells: these are called {ours}, those of the types {theirs}",
            where=path,
            hint="Give the types of this section's cells, with the same cell ids",
        )
    notes = list(cells.notes)
    strangers = len(keys) - int(keys.isin(cells.table.index).sum())
    if strangers:
        notes.append(f"{counted(strangers, 'cell')} of {path.name} are not in the section and are ignored")
    if not typed.all():
        notes.append(f"{counted(int((~typed).sum()), 'cell')} are not in {path.name}: without a type")
    table = cells.table.assign(cell_type=types.reindex(cells.table.index).to_numpy())
    return replace(cells, table=table, notes=tuple(notes))


def has_cells(columns: Sequence[str]) -> bool:
    """Whether a table with these columns is one of typed cells: places, types, and a cell id or no key at all.

    A table of spots has a key of its own, which would else be lost.
    """
    placed = any({some.x, some.y} <= set(columns) for some in PLAIN)
    if not placed or _find(columns, _TYPE_COLUMNS) is None:
        return False
    return "cell_id" in columns or (_find(columns, (*_ID_COLUMNS, "spot")) is None and _is_told_of(columns[0]))


def _is_told_of(column: str) -> bool:
    """Whether a column says something of a cell, so that it is not its key."""
    return column.lower() in (*_TYPE_COLUMNS, *(name for some in PLAIN for name in (some.x, some.y)))


def _id_column(present: Sequence[str]) -> str:
    position = _find(present, _ID_COLUMNS)
    return present[0] if position is None else position


def _find(present: Sequence[str], wanted: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in reversed(present)}
    return next((lower[name] for name in wanted if name in lower), None)


def _text(column: pd.Series) -> pd.Series:
    """Ids as text: older software stores bytes."""
    if column.dtype == object:
        column = column.map(lambda value: value.decode() if isinstance(value, bytes) else value)
    return column.astype(object).where(column.notna(), "").astype(str)
