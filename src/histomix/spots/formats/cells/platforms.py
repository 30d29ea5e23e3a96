"""Cell-level truth: Xenium, CosMx and MERSCOPE cell tables as pseudo-spots with the cells of each type in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ....common.strangers.annotated import obs_columns
from ....common.tables import column_names
from ....common.words import counted
from ....errors import InputError, MissingExtraError, SectionError
from ....provenance import read_json
from ..base import Description, Options, SpotFile
from ..tenx.matrix import read_matrix
from .gather import OPTIONS, cell_options, to_spots
from .tables import (
    COSMX,
    MERSCOPE,
    PLAIN,
    XENIUM,
    Cells,
    Layout,
    has_cells,
    read_cells,
    read_h5ad_cells,
    with_types,
)

_XENIUM_FILES = ("cells.parquet", "cells.csv.gz", "cells.csv")
_XENIUM_SPECS = "experiment.xenium"
#: No camera of a microscope has larger or smaller px; Xenium's are .2125 um.
_PIXEL_UM = (0.01, 100)
_TYPES_MISSING = "cell types: name a table of cell id and cell type after the spots, as in {}#types=cell_types.csv"


class CellFormat:
    """What the platforms share; each finds and reads its own files."""

    name = ""
    what = ""
    options: Mapping[str, str] = OPTIONS
    layout: Layout

    def matches(self, path: Path) -> bool:
        """See `Format`."""
        raise NotImplementedError

    def files(self, path: Path) -> tuple[Path, Path]:
        """The cell table, and the folder that option paths are relative to."""
        return path, path.parent

    def cells(self, path: Path, table: Path, with_counts: bool, type_column: str | None) -> Cells:
        """Cells of the table, in the platform's unit."""
        return read_cells(table, self.layout, type_column)

    def alignment(self, folder: Path) -> Path | None:
        """The affine file that the platform puts beside the cells."""
        return None

    def image(self, folder: Path) -> Path | None:
        """The H&E image that the platform puts beside the cells."""
        return None

    def read(self, path: Path, with_counts: bool, options: Options) -> SpotFile:
        """See `Format`."""
        table, folder = self.files(path)
        wanted = cell_options(options, folder, path)
        own_types = wanted.type_column if wanted.types is None else None
        cells = self.cells(path, table, with_counts, own_types)
        if wanted.types is not None:
            cells = with_types(cells, wanted.types, wanted.type_column)
        if wanted.alignment is None and wanted.landmarks is None and wanted.um_per_px is None:
            wanted = replace(wanted, alignment=self.alignment(folder))
        return replace(to_spots(cells, wanted, path), image=self.image(folder))

    def describe(self, path: Path, options: Options) -> Description:
        """See `Format`."""
        table, folder = self.files(path)
        wanted = cell_options(options, folder, path)
        cells = self.cells(path, table, False, wanted.type_column if wanted.types is None else None)
        if wanted.types is not None:
            cells = with_types(cells, wanted.types, wanted.type_column)
        contents = [f"{counted(len(cells.table), 'cell')} with their places in {cells.unit}", *cells.notes]
        missing = []
        if cells.mpp is not None:
            contents.append(f"{cells.mpp:.4g} um per px of the image, by {cells.mpp_source}")
        if cells.typed:
            types = cells.table["cell_type"].dropna().unique()
            contents.append(f"{counted(len(types), 'cell type')}: {', '.join(sorted(types)[:8])}")
        else:
            missing.append(_TYPES_MISSING.format(path.name))
        alignment = wanted.alignment or wanted.landmarks or self.alignment(folder)
        if cells.unit != "image px":
            if alignment is not None:
                contents.append(f"the way to the image: {alignment.name}")
            elif wanted.um_per_px is None:
                missing.append("the way to the image: option alignment, landmarks or um_per_px")
        image = self.image(folder)
        if image is None:
            missing.append("the H&E image")
        row = {"spots": str(path), "format": self.name} | ({"image": str(image)} if image else {})
        return Description(self.what, tuple(contents), tuple(missing), row)


class Xenium(CellFormat):
    """The ``outs`` of Xenium, or its cell table; ``*alignment.csv`` leads to ``*he_image.ome.tif``."""

    name = "xenium"
    what = "the cells of one Xenium section"
    layout = XENIUM

    def matches(self, path: Path) -> bool:
        """See `Format`."""
        if path.is_dir():
            return (path / _XENIUM_SPECS).exists() or any(
                (path / name).exists() and _has(path / name, XENIUM) for name in _XENIUM_FILES
            )
        return path.name in _XENIUM_FILES and _has(path, XENIUM)

    def files(self, path: Path) -> tuple[Path, Path]:
        """See `CellFormat`."""
        if not path.is_dir():
            return path, path.parent
        table = next((path / name for name in _XENIUM_FILES if (path / name).exists()), None)
        if table is None:
            raise SectionError(
                f"is a Xenium folder without a cell table ({', '.join(_XENIUM_FILES)})",
                where=path,
                hint="Copy cells.parquet from the outs folder",
            )
        return table, path

    def cells(self, path: Path, table: Path, with_counts: bool, type_column: str | None) -> Cells:
        """See `CellFormat`."""
        cells = read_cells(table, XENIUM, type_column)
        pixel_um, note = _xenium_pixel(table.parent / _XENIUM_SPECS)
        cells = replace(cells, pixel_um=pixel_um, notes=(*cells.notes, *note))
        matrix = table.parent / "cell_feature_matrix.h5"
        if not with_counts or not matrix.exists():
            return cells
        counts = read_matrix(matrix)
        rows = counts.barcodes.get_indexer(cells.table.index)
        if not (rows >= 0).any():
            raise SectionError("has counts of other cells", where=matrix, hint="Copy the outs folder of one section")
        lost = int((rows < 0).sum())
        notes = [f"{counted(lost, 'cell')} of {len(rows):,} have no counts and are dropped"] if lost else []
        kept = cells.keep(rows >= 0, *notes)
        return replace(kept, counts=counts.matrix[rows[rows >= 0]], genes=counts.var)

    def alignment(self, folder: Path) -> Path | None:
        """See `CellFormat`."""
        return _only(folder, "*alignment.csv", "alignment files", "alignment")

    def image(self, folder: Path) -> Path | None:
        """See `CellFormat`."""
        images = sorted(folder.glob("*he_image.ome.tif"))
        return images[0] if len(images) == 1 else None


class CosMx(CellFormat):
    """CosMx SMI: ``*metadata_file.csv``; cell ids are ``{fov}_{cell_ID}``."""

    name = "cosmx"
    what = "the cells of one CosMx section"
    layout = COSMX

    def matches(self, path: Path) -> bool:
        """See `Format`."""
        if path.is_dir():
            return any(_has(table, COSMX) for table in path.glob("*metadata_file.csv*"))
        return _has(path, COSMX)

    def files(self, path: Path) -> tuple[Path, Path]:
        """See `CellFormat`."""
        return (_table_in(path, "*metadata_file.csv*"), path) if path.is_dir() else (path, path.parent)


class Merscope(CellFormat):
    """MERSCOPE: ``cell_metadata.csv`` with ``center_x``, ``center_y`` in um."""

    name = "merscope"
    what = "the cells of one MERSCOPE section"
    layout = MERSCOPE

    def matches(self, path: Path) -> bool:
        """See `Format`."""
        table = path / "cell_metadata.csv" if path.is_dir() else path
        return table.name.startswith("cell_metadata") and _has(table, MERSCOPE)

    def files(self, path: Path) -> tuple[Path, Path]:
        """See `CellFormat`."""
        return (_table_in(path, "cell_metadata.csv*"), path) if path.is_dir() else (path, path.parent)


class CellTable(CellFormat):
    """A plain table (or h5ad) of cells: id, ``x_px``, ``y_px`` or ``x_um``, ``y_um``, ``cell_type``."""

    name = "cells"
    what = "a table of cells"

    def matches(self, path: Path) -> bool:
        """See `Format`: a table of places and types with a cell id or no key, or an h5ad with places in obs alone."""
        if path.is_dir():
            return False
        if path.suffix == ".h5ad":
            return _positions_in_obs(path)
        try:
            columns = column_names(path) if path.suffix == ".parquet" else _columns(path)
        except (SectionError, MissingExtraError):
            return False
        return has_cells(columns)

    def cells(self, path: Path, table: Path, with_counts: bool, type_column: str | None) -> Cells:
        """See `CellFormat`."""
        if table.suffix == ".h5ad":
            return read_h5ad_cells(table, with_counts, type_column)
        columns = column_names(table)
        layout = next((some for some in PLAIN if {some.x, some.y} <= set(columns)), None)
        if layout is None:
            raise SectionError(
                f"has no places of cells (it has: {', '.join(columns[:8])})",
                where=table,
                hint="Name the columns x_px, y_px (px of the image) or x_um, y_um",
            )
        return read_cells(table, layout, type_column)


def _positions_in_obs(path: Path) -> bool:
    obs, obsm = obs_columns(path)
    return "spatial" not in obsm and any({some.x, some.y} <= obs for some in PLAIN)


def _columns(path: Path) -> list[str]:
    from ....common import tables

    return tables.columns_or_none(path) or []


def _has(path: Path, layout: Layout) -> bool:
    try:
        columns = column_names(path) if path.suffix == ".parquet" else _columns(path)
    except (SectionError, MissingExtraError):
        return False
    return {layout.x, layout.y} <= set(columns)


def _only(folder: Path, pattern: str, what: str, option: str) -> Path | None:
    files = sorted(folder.glob(pattern))
    if len(files) > 1:
        raise SectionError(
            f"holds several {what}: {', '.join(path.name for path in files)}",
            where=folder,
            hint=f"Name one after the spots, as in {folder.name}#{option}={files[0].name}",
        )
    return files[0] if files else None


def _table_in(folder: Path, pattern: str) -> Path:
    files = sorted(folder.glob(pattern))
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise SectionError(
            f"does not hold one cell table {pattern} but {names}", where=folder, hint="Name the table itself"
        )
    return files[0]


def _xenium_pixel(specs: Path) -> tuple[float, tuple[str, ...]]:
    default = float(XENIUM.pixel_um or 0)
    if not specs.exists():
        return default, (f"there is no {_XENIUM_SPECS}: its px are taken to be {default} um",)
    again = "Copy it from the outs folder again"
    try:
        size = read_json(specs, hint=again).get("pixel_size")
    except InputError as error:
        raise SectionError(error.what, where=specs, hint=again) from error
    number = size if isinstance(size, int | float) and not isinstance(size, bool) else float("nan")
    if not _PIXEL_UM[0] <= number <= _PIXEL_UM[1]:
        raise SectionError(f"does not tell the pixel_size in um ({size!r})", where=specs, hint=again)
    return float(number), ()


FORMATS = (Xenium(), CosMx(), Merscope(), CellTable())
