"""Labels on disk: any table with a declared unit in, one folder of tables with a manifest out."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..common.storage import h5ad
from ..errors import LabelError
from ..progress import told
from ..provenance import atomic_path, digest_file, read_json, write_json
from .abundance import SUM_TOLERANCE, Abundance, check_unit
from .by_section import Labels
from .number_tables import read_cells, read_numbers, to_numbers
from .recognise import Recognised, orient_table, recognise_h5ad, recognise_table
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from anndata import AnnData

MANIFEST = "manifest.json"
#: What may stand beside ``<section>.csv``, as ``<section>.<side>.csv``.
SIDES = ("sd", "median", "reliability")
#: What a manifest says of a section, or of all, that goes into the provenance of labels that are read.
_FACTS = (
    "method", "fit", "fitted_with", "reference", "vocabulary", "summary", "reliability_of", "recognised_as",
    "normalised", "transposed", "left_out", "key_column", "keys_respelled", "derived_from", "source", "hierarchy",
)  # fmt: skip

#: In fewer rows a column may be a sum, or count, by chance.
_FEWEST_ROWS = 5
_log = logging.getLogger(__name__)


def read_abundance(
    path: str | os.PathLike[str],
    unit: str | None = None,
    where: str | os.PathLike[str] | None = None,
    *,
    vocabulary: Vocabulary | None = None,
) -> Abundance:
    """Read one table of labels.

    Parameters
    ----------
    path
        Spots x cell types. CSV or TSV, gzipped or not: first column the spot key, then one column per cell type.
        Beside ``<name>.csv``, ``<name>.sd.csv`` and ``<name>.median.csv`` hold the posterior's, and
        ``<name>.reliability.csv`` (cell_type, reliability) the reliabilities. Or h5ad: ``obs_names`` are the keys,
        ``X`` the abundances, ``uns["unit"]`` the unit.

        Results of other tools are recognised by their content, named in ``provenance["recognised_as"]``:
        cell2location (``obsm``, ``obs`` or table; the label is the 5 % quantile or, in its absence, the median or the
        mean, see ``provenance["summary"]``; cells per spot), Tangram (mapped mass, divided by its total when
        declared as proportions; or counts of cells) and SPOTlight. Plain tables of proportions are what stereoscope,
        CARD and RCTD (normalised weights) export. A table whose columns are spot keys is turned. What was left out or
        changed is recorded in the provenance.
    unit
        One of `UNITS`. None takes the unit that the file, or the ``manifest.json`` beside it, declares.
    where
        What errors name as their place, if not ``path``.
    vocabulary
        Applied to the cell types. With its ``renormalise``, proportions need not sum to 1 in the file.

    Raises
    ------
    LabelError
        The file cannot be read, its unit is undeclared or other than ``unit``, the labels are not valid (see
        `Abundance`), or do not fit the vocabulary.

    Examples
    --------
    >>> table = hm.read_abundance("labels/P1S1.csv", unit="proportion")
    >>> table.values.shape[1]
    8
    """
    path = Path(path)
    place = os.fspath(where or path)
    if path.suffix == ".h5ad":
        recognised = recognise_h5ad(read_h5ad(path), place)
    else:
        recognised = _numbers(recognise_table(read_cells(path), place), path)
    digest = digest_file(path)
    declared, facts = _manifest_facts(path, digest)
    recognised.unit = recognised.unit or declared
    recognised.values = orient_table(recognised.values, recognised.notes, place)
    _leave_out_sums(recognised, place)
    if recognised.notes:
        _log.info("%s: read as %s (%s)", place, recognised.name, recognised.notes)
    if unit and recognised.unit and unit != recognised.unit:
        raise LabelError(
            f'was asked for in "{unit}", but the file declares "{recognised.unit}"',
            where=place,
            hint="Declare the true unit",
        )
    unit = check_unit(unit or recognised.unit, place)
    divided = _divide(recognised, unit, vocabulary, place)
    sides = {} if divided else _read_sides(path)
    provenance = {"recognised_as": recognised.name, **recognised.notes, **facts, "file": place, "digest": digest}
    abundance = Abundance(
        recognised.values,
        unit,
        recognised.sd if recognised.sd is not None else sides.get("sd"),
        provenance,
        recognised.median if recognised.median is not None else sides.get("median"),
        _read_reliability(path),
    )
    if unit == "cells per spot" and ((abundance.values.sum(axis=1) - 1).abs() < 1e-3).all():
        _log.warning('%s: declared as "cells per spot", but every spot sums to 1, as proportions do', place)
    return abundance if vocabulary is None else vocabulary.apply(abundance)


def write_abundance(folder: str | os.PathLike[str], section: str, abundance: Abundance) -> Path:
    """Write ``<section>.csv``, and its sides where there are any, into a folder of labels.

    The sides are ``<section>.sd.csv``, ``<section>.median.csv`` and ``<section>.reliability.csv``. Numbers are written
    so that they read back exactly. The table comes last: as long as it is there, its sides are its own, even if the
    writing was cut short. The unit goes into the folder's manifest: see `write_labels`.

    Raises
    ------
    StorageError
        Something cannot be written.
    LabelError
        The section's name ends like that of a side.
    """
    if section.rpartition(".")[2].casefold() in SIDES:
        raise LabelError(f"'{section}' would be taken for a part of another section", hint="Rename the section")
    target = Path(folder) / f"{section}.csv"
    reliability = abundance.reliability
    # After the table, since contexts end in the reverse order.
    tables = {
        target: abundance.values,
        _side(target, "sd"): abundance.sd,
        _side(target, "median"): abundance.median,
        _side(target, "reliability"): None if reliability is None else reliability.to_frame("reliability"),
    }
    with contextlib.ExitStack() as stack:
        for path, table in tables.items():
            if table is not None:
                label = "cell_type" if path == _side(target, "reliability") else "spot"
                table.to_csv(stack.enter_context(atomic_path(path)), index_label=label, lineterminator="\n")
        for path in tables:
            path.unlink(missing_ok=True)
    return target


def read_labels(folder: str | os.PathLike[str]) -> dict[str, Abundance]:
    """Read a folder of labels: section -> abundance, in the unit that its ``manifest.json`` declares.

    The sections are those that the manifest lists, else every ``<section>.csv``. What the manifest says of a section
    (method, fit, ``fitted_with``, reference, vocabulary and more) is in its provenance, unless the table was changed
    since.

    Raises
    ------
    LabelError
        The manifest is missing or declares no unit, a listed section has no table, or a table is not valid.

    Examples
    --------
    >>> hm.read_labels("labels")["P1S1"].unit
    'proportion'
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise LabelError(
            f"has no {MANIFEST}, so the unit of the labels is unknown",
            where=folder,
            hint=f'Make the labels with `histomix label`, or write {MANIFEST} with {{"unit": "proportion"}}',
        )
    if "encoder" in manifest and "unit" not in manifest:
        raise LabelError(
            "holds features of tiles, and no labels", where=folder, hint="Give a folder that `histomix label` made"
        )
    unit = check_unit(manifest.get("unit"), folder / MANIFEST)
    listed = manifest.get("sections")
    if not isinstance(listed, dict | list | None) or not all(isinstance(name, str) for name in listed or ()):
        raise LabelError(
            "does not list the sections by their names", where=folder / MANIFEST, hint="Make the labels again"
        )
    if listed is None:
        listed = sorted(path.stem for path in folder.glob("*.csv") if path.stem.rpartition(".")[2] not in SIDES)
    if not listed:
        raise LabelError("holds no labels", where=folder, hint="Make them with `histomix label`")
    names = told("look through labels (sections)", list(listed))
    return Labels((name, read_abundance(folder / f"{name}.csv", unit)) for name in names)


def write_labels(folder: str | os.PathLike[str], labels: Mapping[str, Abundance], manifest: Mapping[str, Any]) -> None:
    """Write the labels of many sections and their manifest, last, into a folder.

    ``unit`` and ``sections`` of the manifest are filled from ``labels``; facts that it has per section are kept, and
    those of the labels' provenance that `read_labels` gives back are added.

    Raises
    ------
    LabelError
        There are no labels, or they are in different units.
    """
    unit = common_unit(labels)
    given = manifest.get("sections", {})
    sections = {}
    for name, table in labels.items():
        path = write_abundance(folder, name, table)
        facts = {key: table.provenance[key] for key in _FACTS if key in table.provenance}
        sections[name] = {**facts, **given.get(name, {}), "spots": len(table.values), "digest": digest_file(path)}
    write_json(Path(folder) / MANIFEST, {**manifest, "unit": unit, "sections": sections})


def common_unit(labels: Mapping[str, Abundance]) -> str:
    """The one unit of the labels of many sections; LabelError if there are none, or more than one unit."""
    units = {table.unit: name for name, table in labels.items()}
    if len(units) != 1:
        words = ", ".join(f'"{unit}" ({name})' for unit, name in units.items()) or "no labels"
        raise LabelError(f"labels of one unit are needed, not {words}", hint="Bring all sections to the same unit")
    return next(iter(units))


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder of labels, or None without one."""
    path = folder / MANIFEST
    return read_json(path, hint="Make the labels again with `histomix label`") if path.exists() else None


def _manifest_facts(path: Path, digest: str) -> tuple[str | None, dict[str, Any]]:
    """The unit that the manifest beside a table declares, and what it says of these labels."""
    manifest = _table(read_manifest(path.parent))
    sections = manifest.get("sections")
    sections = sections if isinstance(sections, dict | list) else {path.stem: {}}
    # Only a folder of labels declares a unit, and only for its own tables: other rooms write manifests as well.
    if "unit" not in manifest or path.stem not in sections:
        return None, {}
    section = _table(sections[path.stem]) if isinstance(sections, dict) else {}
    if section.get("digest", digest) != digest:
        others = sections if isinstance(sections, dict) else {}
        owner = next((name for name, one in others.items() if _table(one).get("digest") == digest), None)
        if owner is not None:
            raise LabelError(
                f"holds the labels of section {owner}, not of {path.stem}",
                where=path,
                hint=f"Give each table its own name again; {MANIFEST} says which is whose",
            )
        _log.warning("%s: was changed since %s was written: what that says of it is left out", path, MANIFEST)
        return manifest["unit"], {}
    settings = dict(_table(manifest.get("settings")))
    if "unit" in settings:
        settings["unit"] = manifest["unit"]  # what was asked for may not be what could be given
    shared = {**settings, **{key: manifest[key] for key in _FACTS if key in manifest}}
    source = section.get("source")
    facts = {**shared, **_table(source)}
    facts |= {key: section[key] for key in _FACTS if key in section}
    if isinstance(facts.get("reference"), dict):
        facts["reference"] = facts["reference"].get("digest")
    return manifest["unit"], facts


def _table(value: Any) -> dict[str, Any]:
    """Facts of a manifest; none where they are of another kind."""
    return value if isinstance(value, dict) else {}


def _numbers(recognised: Recognised, path: Path) -> Recognised:
    recognised.values = to_numbers(recognised.values, path)
    recognised.sd = None if recognised.sd is None else to_numbers(recognised.sd, path)
    recognised.median = None if recognised.median is None else to_numbers(recognised.median, path)
    return recognised


def _leave_out_sums(recognised: Recognised, place: str) -> None:
    """Leave out a column that sums the others or numbers the rows, whatever it is called; it would be a cell type."""
    values, n = recognised.values, len(recognised.values)
    if n < _FEWEST_ROWS or values.shape[1] < 3 or not all(kind.kind in "biuf" for kind in values.dtypes):
        return
    numbers = values.to_numpy(np.float64)
    total = numbers.sum(axis=1, keepdims=True)
    sums = (np.abs(2 * numbers - total) <= 1e-3 * total).all(axis=0) & numbers.any(axis=0)
    sums &= sums.sum() == 1  # of two that are the same and have nothing beside them, neither is
    # A type that is half of every spot is no total: a total varies, or it is that of shares or per cents.
    whole = [(np.abs(numbers - one) <= SUM_TOLERANCE * one).all(axis=0) for one in (1, 100)]
    sums &= (np.ptp(numbers, axis=0) > 0) | np.any(whole, axis=0)
    sums &= bool((np.abs(total - 1) > SUM_TOLERANCE).any())
    rows = np.arange(n)[:, None]
    counts = (numbers == rows).all(axis=0) | (numbers == rows + 1).all(axis=0)
    for found, what in ((sums, "is the sum of the others"), (counts, "only numbers the rows")):
        for name in values.columns[found]:
            _log.warning("%s: the column '%s' %s, and is left out", place, name, what)
            recognised.notes["left_out"] = [*recognised.notes.get("left_out", []), str(name)]
    recognised.values = values.loc[:, ~(sums | counts)]


def _divide(recognised: Recognised, unit: str, vocabulary: Vocabulary | None, place: str) -> bool:
    """Bring proportions to a sum of 1 where the file's kind or the vocabulary says so; whether that was done."""
    stated = vocabulary is not None and vocabulary.renormalise
    if unit != "proportion" or not (recognised.scaled or stated):
        return False
    total = recognised.values.sum(axis=1)
    recognised.notes["normalised"] = {"least_total": float(total.min()), "largest_total": float(total.max())}
    recognised.values, recognised.sd, recognised.median = Vocabulary.normalised(recognised.values, place), None, None
    return True


def _side(path: Path, side: str) -> Path:
    return path.with_name(f"{path.stem}.{side}.csv")


def _read_sides(path: Path) -> dict[str, pd.DataFrame]:
    sides = {side: _side(path, side) for side in ("sd", "median")} if path.suffix == ".csv" else {}
    return {side: read_numbers(place) for side, place in sides.items() if place.exists()}


def _read_reliability(path: Path) -> pd.Series | None:
    place = _side(path, "reliability")
    if path.suffix != ".csv" or not place.exists():
        return None
    cells = read_cells(place)
    try:
        # An empty cell is a type that does not vary.
        return cells["reliability"].replace("", "nan").astype(np.float64)
    except (KeyError, ValueError) as error:
        raise LabelError(
            f"is not a table of cell_type and reliability ({error})", where=place, hint="Remove it, or label again"
        ) from error


def read_h5ad(path: Path) -> AnnData:
    """Read an h5ad file.

    Raises
    ------
    LabelError
        The file is absent, damaged or of another kind, or reads data of other files.
    """
    return h5ad.read_h5ad(path, LabelError, "cannot be read as h5ad", "Check that the file is whole")
