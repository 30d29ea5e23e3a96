"""Features and labels of a cohort, joined into one table to train on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..abundance import Abundance, join_spots
from ..common.storage.unfinished import digest_array
from ..embedding import encoder_identity, feature_manifest, require_current, require_same_encoder, stain_shifts
from ..errors import FeatureError, LabelError
from ..progress import told
from ..provenance import digest_json
from ..slides import TileSpec
from .models.pixels import CohortTiles
from .neighbourhood import Positions
from .stain import StainDamping, fit_stain_damping

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from ..spots import Cohort

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Spots that have both features and labels.

    Parameters
    ----------
    X
        Embeddings, float32 ``(n, n_features)``; several encoders stand side by side.
    Y
        Abundances, float64 ``(n, n_types)``, in ``unit``.
    keys, section, donor
        Spot key, section name and donor of each row, ``(n,)``.
    xy_um
        Spot centres, ``(n, 2)``, um from the corner of their slide.
    cell_types
        Names of the columns of ``Y``.
    unit
        "proportion", "cells per spot" or "relative abundance".
    features
        ``{"encoders": [...]}``: facts of each encoder and its tile, in the order of the blocks of ``X``.
    dropped
        By section, how many labels had no features, tiles had no labels, and tiles were unreadable; zeros left out.
    tiles
        Gives the pixels of rows by their number; None where a section of the sheet has no image.
    shifts
        By section, how embeddings moved in other stains, for each encoder; sections without are left out.
    slides
        By section, the digest of its slide's content; sections whose features do not tell it are left out.
    """

    X: np.ndarray
    Y: np.ndarray
    keys: np.ndarray
    section: np.ndarray
    donor: np.ndarray
    xy_um: np.ndarray
    cell_types: list[str]
    unit: str
    features: dict[str, Any]
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    tiles: CohortTiles | None = None
    shifts: dict[str, list[np.ndarray]] = field(default_factory=dict)
    slides: dict[str, str] = field(default_factory=dict)

    def stain_damping(self, rows: np.ndarray | None = None) -> StainDamping | None:
        """What a head fitted on these rows looks past; None where the features do not tell."""
        rows = np.arange(len(self.X)) if rows is None else rows
        return fit_stain_damping(self.X[rows], [self.shifts.get(name) for name in np.unique(self.section[rows])])

    def seen_from(self, rows: np.ndarray) -> TrainingSet:
        """All rows as a head that is fitted on these ones sees them."""
        return self.damped(self.stain_damping(rows))

    def damped(self, damping: StainDamping | None) -> TrainingSet:
        """The same rows as a head sees them; without a copy where nothing is damped."""
        return self if damping is None else replace(self, X=damping(self.X))

    @property
    def positions(self) -> Positions:
        """Where the rows are, and their pixels."""
        return Positions(self.section, self.xy_um, self.tiles)

    @cached_property
    def digest(self) -> str:
        """Digest of what heads are fitted on, without the pixels."""
        tables = (self.X, self.Y, self.section, self.donor, self.xy_um)
        return digest_json([self.unit, *map(digest_array, tables)])


def assemble(
    cohort: Cohort,
    features: Mapping[str, AnnData] | Sequence[Mapping[str, AnnData]],
    labels: Mapping[str, Abundance],
) -> TrainingSet:
    """Join features and labels on the spot keys of each section.

    Spots that have only one of the two, or whose tile was unreadable, are left out with a logged count.

    Parameters
    ----------
    cohort
        Says which sections and donors.
    features
        Section -> features; several such mappings (one per encoder) are concatenated.
    labels
        Section -> abundances.

    Raises
    ------
    FeatureError
        A section has no features, or features of another encoder, tile or slide than the others; or they were made
        before the sheet was changed.
    LabelError
        A section has no labels, none that belongs to a tile, or another unit or other cell types than the others.
    """
    blocks = [features] if isinstance(features, Mapping) else list(features)
    if not blocks or not len(cohort):
        raise FeatureError("there are no features to train on", hint="Give the features of at least one encoder")
    # In the order of their names, so that the order of a sheet's rows moves nothing that is drawn at random.
    sections = sorted(cohort.names)
    encoders = [_common_encoder(block, sections) for block in blocks]
    for name in told("look whether features are current (sections)", sections):
        require_current(cohort, name, [block[name] for block in blocks])
    unit, cell_types = _common_types(labels, sections)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    dropped: dict[str, dict[str, int]] = {}
    for name in told("look up features and labels (sections)", sections):
        part, lost = _section(name, [block[name] for block in blocks], labels[name], cell_types)
        parts.append(part)
        if lost:
            dropped[name] = lost
            level = logging.WARNING if 2 * len(part[0]) < len(labels[name].values) else logging.INFO
            _log.log(
                level, "section %s: left out %s", name, ", ".join(f"{what} ({count:,})" for what, count in lost.items())
            )
    X, Y, keys, xy_um = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    section = np.repeat(sections, [len(part[0]) for part in parts])
    donor = np.array([cohort.donors[name] for name in section.tolist()])
    counts = [len(part[0]) for part in parts]
    tiles = _tiles(cohort, sections, blocks[0], encoders[0], np.repeat(np.arange(len(parts)), counts), xy_um)
    shifts = {name: found for name in sections if (found := _shifts([block[name] for block in blocks])) is not None}
    facts = {"encoders": encoders}
    prints = {name: feature_manifest(blocks[0][name])["slide"].get("digest") for name in sections}
    slides = {name: str(digest) for name, digest in prints.items() if digest}
    return TrainingSet(X, Y, keys, section, donor, xy_um, cell_types, unit, facts, dropped, tiles, shifts, slides)


def _shifts(tables: Sequence[AnnData]) -> list[np.ndarray] | None:
    """How the embeddings of one section moved in other stains, by encoder; None where one of them does not tell."""
    shifts = [found for table in tables if (found := stain_shifts(table, feature_manifest(table))) is not None]
    return shifts if len(shifts) == len(tables) else None


def join_blocks(tables: Sequence[AnnData]) -> tuple[pd.Index, np.ndarray]:
    """Tile keys and embeddings, float32, of several encoders side by side, for the tiles that all of them have."""
    keys = tables[0].obs_names
    if len(tables) == 1:
        return keys, np.asarray(tables[0].X, dtype=np.float32)
    for table in tables[1:]:
        keys = keys[keys.isin(table.obs_names)]
    return keys, np.concatenate([np.asarray(table[keys].X, dtype=np.float32) for table in tables], axis=1)


def positions_um(table: AnnData, keys: pd.Index) -> np.ndarray:
    """Centres of the tiles named by ``keys``, float64 ``(n, 2)``, um from the corner of their slide.

    Raises
    ------
    FeatureError
        The table does not say where its tiles are.
    """
    mpp = feature_manifest(table)["slide"].get("mpp")
    if "spatial" not in table.obsm or not mpp:
        raise FeatureError(
            "the features do not say where their tiles are (obsm['spatial'] and the slide's mpp)",
            hint="Make features with: histomix embed",
        )
    xy_um: np.ndarray = np.asarray(table.obsm["spatial"], dtype=np.float64)[table.obs_names.get_indexer(keys)] * mpp
    return xy_um


def _tiles(
    cohort: Cohort,
    sections: Sequence[str],
    block: Mapping[str, AnnData],
    encoder: Mapping[str, Any],
    section: np.ndarray,
    xy_um: np.ndarray,
) -> CohortTiles | None:
    """The pixels that the first encoder sees, read from the slides of the sheet."""
    by_name = dict(zip(cohort.names, (getattr(row, "image", None) for row in cohort.rows), strict=True))
    images = [image for name in sections if (image := by_name[name]) is not None]
    if len(images) < len(sections):
        return None
    mpp = np.array([feature_manifest(block[name])["slide"]["mpp"] for name in sections])
    slides = list(zip(images, mpp.tolist(), strict=True))
    return CohortTiles(slides, section, xy_um / mpp[section][:, None], TileSpec(encoder["size_px"], encoder["mpp"]))


def _common_encoder(block: Mapping[str, AnnData], sections: Sequence[str]) -> dict[str, Any]:
    """Facts of the one encoder and tile that all sections of a block share."""
    absent = [name for name in sections if name not in block]
    if absent:
        raise FeatureError(
            f"there are no features of {_listed(absent)}",
            hint="Embed every section of the sheet with: histomix embed SHEET --out FEATURES",
        )
    manifests = {name: feature_manifest(block[name]) for name in sections}
    first = manifests[sections[0]]
    for name, manifest in manifests.items():
        identity = encoder_identity(manifest)
        by = f"of section {sections[0]}"
        require_same_encoder(encoder_identity(first), identity, where=f"features of section {name}", expected_by=by)
        table = block[name]
        if not isinstance(table.X, np.ndarray) and not table.isbacked:
            raise FeatureError(
                f"the embeddings of section {name} are a {type(table.X).__name__}, not a table of numbers",
                hint="Give them as NumPy array: X.toarray()",
            )
        if not table.var_names.equals(block[sections[0]].var_names):
            raise FeatureError(
                f"the embeddings of section {name} have other columns, or in another order, than those {by}",
                hint="Give the features as histomix embed made them; their rows may be fewer, their columns stay",
            )
    tile = {key: first["tile"][key] for key in ("size_px", "mpp")}
    return {**first["encoder"], **tile}


def _common_types(labels: Mapping[str, Abundance], sections: Sequence[str]) -> tuple[str, list[str]]:
    """The unit and the cell types that the labels of all sections share."""
    absent = [name for name in sections if name not in labels]
    if absent:
        raise LabelError(f"there are no labels of {_listed(absent)}", hint="Label every section of the sheet")
    first = labels[sections[0]]
    for name in sections[1:]:
        here, where = labels[name], f"labels of section {name}"
        if here.unit != first.unit:
            raise LabelError(
                f"the unit is {here.unit}, but that of section {sections[0]} is {first.unit}",
                where=where,
                hint="Label all sections with one method and unit; cells, shares and relative abundances are not mixed",
            )
        extra = [t for t in here.cell_types if t not in first.cell_types]
        missing = [t for t in first.cell_types if t not in here.cell_types]
        if extra or missing:
            differences = [
                f"{word} {', '.join(types)}" for word, types in (("has", extra), ("lacks", missing)) if types
            ]
            raise LabelError(
                f"the cell types are not those of section {sections[0]}: it {' and '.join(differences)}",
                where=where,
                hint="Give every section the same cell types, with zeros where a type is absent",
            )
    return first.unit, first.cell_types


def _section(
    name: str, tables: Sequence[AnnData], labels: Abundance, cell_types: Sequence[str]
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], dict[str, int]]:
    """Rows of one section (X, Y, keys, xy_um), and counts of what was left out."""
    where = f"section {name}"
    slides = [feature_manifest(table)["slide"] for table in tables]
    if len({slide["fingerprint"] for slide in slides}) > 1:
        raise FeatureError("the encoders' features were made from different slides", where=where, hint="Embed it again")
    tiles, X = join_blocks(tables)
    if not len(tiles):
        raise FeatureError("the encoders' features share no tile", where=where, hint="Embed it again with each encoder")
    joined = join_spots(labels, tiles, where=where, quiet=True)
    keys = joined.values.index
    rows = tiles.get_indexer(keys)
    readable = np.isfinite(X[rows]).all(axis=1)
    keys, rows = keys[readable], rows[readable]
    if not len(keys):
        raise FeatureError("no labelled tile could be read", where=where, hint="Check the slide and embed it again")
    Y = joined.values.loc[keys, list(cell_types)].to_numpy(np.float64)
    xy_um = positions_um(tables[0], keys)
    lost = {
        "labels without a tile": len(labels.values) - len(joined.values),
        "tiles without a label": len(tables[0].obs_names) - len(joined.values),
        "unreadable tiles": int((~readable).sum()),
    }
    return (X[rows], Y, keys.to_numpy(str), xy_um), {what: count for what, count in lost.items() if count}


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"section {shown}" if len(names) == 1 else f"{len(names)} sections ({shown})"
