"""Labels on disk: any table with a declared unit in, one folder of tables with a manifest out."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..errors import LabelError
from ..provenance import atomic_path, digest_file, read_json, write_json
from .abundance import Abundance, check_unit
from .annotated import read_h5ad
from .delimited import read_numbers

if TYPE_CHECKING:
    from anndata import AnnData

MANIFEST = "manifest.json"
_POSITIONS = ("x_px", "y_px")
#: What cell2location calls the 5 % quantile and the standard deviation of its posterior, in obsm and before type names.
_QUANTILE, _SD = "q05", "stds"

_log = logging.getLogger(__name__)


def read_abundance(
    path: str | os.PathLike[str], unit: str | None = None, where: str | os.PathLike[str] | None = None
) -> Abundance:
    """Read one table of labels.

    Parameters
    ----------
    path
        Spots x cell types. CSV or TSV, gzipped or not: first column the spot key, then one column per cell type; a
        table ``<name>.sd.csv`` beside ``<name>.csv`` holds posterior sds. Or h5ad: ``obs_names`` are the keys, ``X``
        the abundances, ``uns["unit"]`` the unit; a result of cell2location is recognised by its ``obsm``, and gives
        the 5 % quantiles in cells per spot.
    unit
        One of `UNITS`. None takes the unit that the file (h5ad), or the ``manifest.json`` beside it, declares.
    where
        What errors name as their place, if not ``path``.

    Raises
    ------
    LabelError
        The file cannot be read, its unit is undeclared or other than ``unit``, or the labels are not valid (see
        `Abundance`).
    """
    path = Path(path)
    place = os.fspath(where or path)
    sd = None
    if path.suffix == ".h5ad":
        values, sd, declared = _read_h5ad(path)
    else:
        values, declared = read_numbers(path), _manifest_unit(path)
        sd_path = path.with_name(f"{path.stem}.sd.csv")
        if path.suffix == ".csv" and sd_path.exists():
            sd = read_numbers(sd_path)
    positions = [name for name in _POSITIONS if name in values]
    if positions:
        _log.info("%s: %s are positions, not cell types: left out", place, " and ".join(positions))
        values = values.drop(columns=positions)
    if unit and declared and unit != declared:
        raise LabelError(
            f'was asked for in "{unit}", but the file declares "{declared}"', where=place, mend="Declare the true unit"
        )
    unit = check_unit(unit or declared, place)
    abundance = Abundance(values, unit, sd, {"file": place, "digest": digest_file(path)})
    if unit == "cells per spot" and ((abundance.values.sum(axis=1) - 1).abs() < 1e-3).all():
        _log.warning('%s: declared as "cells per spot", but every spot sums to 1, as proportions do', place)
    return abundance


def write_abundance(folder: str | os.PathLike[str], section: str, abundance: Abundance) -> Path:
    """Write ``<section>.csv``, and ``<section>.sd.csv`` if there is a posterior, into a folder of labels.

    Numbers are written so that they read back exactly. The unit goes into the folder's manifest: see `write_labels`.
    """
    target = Path(folder) / f"{section}.csv"
    sd_target = target.with_name(f"{section}.sd.csv")
    # The sd goes first, and a stale one away first: a table is never seen beside the sd of another.
    sd_target.unlink(missing_ok=True)
    if abundance.sd is not None:
        _write_csv(sd_target, abundance.sd)
    _write_csv(target, abundance.values)
    return target


def read_labels(folder: str | os.PathLike[str]) -> dict[str, Abundance]:
    """Read a folder of labels: section -> abundance, in the unit that its ``manifest.json`` declares.

    The sections are those that the manifest lists, else every ``<section>.csv``.

    Raises
    ------
    LabelError
        The manifest is missing or declares no unit, a listed section has no table, or a table is not valid.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise LabelError(
            f"has no {MANIFEST}, so the unit of the labels is unknown",
            where=folder,
            mend=f'Make the labels with `histomix label`, or write {MANIFEST} with {{"unit": "proportion"}}',
        )
    unit = check_unit(manifest.get("unit"), folder / MANIFEST)
    listed = manifest.get("sections")
    if listed is None:
        listed = sorted(path.stem for path in folder.glob("*.csv") if not path.name.endswith(".sd.csv"))
    if not listed:
        raise LabelError("holds no labels", where=folder, mend="Make them with `histomix label`")
    return {name: read_abundance(folder / f"{name}.csv", unit) for name in listed}


def write_labels(folder: str | os.PathLike[str], labels: Mapping[str, Abundance], manifest: Mapping[str, Any]) -> None:
    """Write the labels of many sections and their manifest, last, into a folder.

    ``unit`` and ``sections`` of the manifest are filled from ``labels``; facts that it has per section are kept.

    Raises
    ------
    LabelError
        There are no labels, or they are in different units.
    """
    unit = common_unit(labels)
    facts = manifest.get("sections", {})
    sections = {name: {**facts.get(name, {}), "spots": len(table.values)} for name, table in labels.items()}
    for name, table in labels.items():
        write_abundance(folder, name, table)
    write_json(Path(folder) / MANIFEST, {**manifest, "unit": unit, "sections": sections})


def common_unit(labels: Mapping[str, Abundance]) -> str:
    """The one unit of the labels of many sections; LabelError if there are none, or more than one unit."""
    units = {table.unit: name for name, table in labels.items()}
    if len(units) != 1:
        found = ", ".join(f'"{unit}" ({name})' for unit, name in units.items()) or "no labels"
        raise LabelError(f"labels of one unit are needed, not {found}", mend="Bring all sections to the same unit")
    return next(iter(units))


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder of labels, or None without one."""
    path = folder / MANIFEST
    return read_json(path, mend="Make the labels again with `histomix label`") if path.exists() else None


def _manifest_unit(path: Path) -> str | None:
    manifest = read_manifest(path.parent) or {}
    # Only a folder of labels declares a unit, and only for its own tables: other rooms write manifests as well.
    return manifest.get("unit") if path.stem in manifest.get("sections", [path.stem]) else None


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index_label="spot")


def _read_h5ad(path: Path) -> tuple[pd.DataFrame, pd.DataFrame | None, str | None]:
    adata = read_h5ad(path)
    values = _read_posterior(adata, _QUANTILE)
    if values is not None:
        return values, _read_posterior(adata, _SD), "cells per spot"
    if adata.X is None:
        raise LabelError("has no X to read labels from", where=path, mend="Store spots x cell types in X")
    declared = adata.uns.get("unit")
    return adata.to_df(), None, None if declared is None else str(declared)


def _read_posterior(adata: AnnData, summary: str) -> pd.DataFrame | None:
    table = adata.obsm.get(f"{summary}_cell_abundance_w_sf")
    if not isinstance(table, pd.DataFrame):
        return None
    return table.set_axis(table.columns.str.removeprefix(f"{summary}cell_abundance_w_sf_"), axis=1)
