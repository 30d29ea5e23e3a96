"""Spots files in, whatever their format, joined with the counts that the sheet names."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..common import tables
from ..errors import MissingSectionError, SectionError
from .counts import match_barcodes, read_counts, read_keys
from .formats import GENOME, Options, SpotFile, check_options, find_format, load_format, split_location
from .formats.base import no_counts

if TYPE_CHECKING:
    from anndata import AnnData

_log = logging.getLogger(__name__)

#: A count table that misses more of the spots than this is taken for another section's.
_MIN_COUNTED = 0.5
_EXAMPLES = 3
#: Names of genes in files of several genomes: ``GRCh38_CD3E``.
_MARKED = re.compile(r"([A-Za-z]+[0-9][A-Za-z0-9.-]*)_+\S")
#: No place of a slide is further away, level-0 px.
_FARTHEST_PX = 1e8
_NO_OPTIONS: Mapping[str, str] = {}


def detect_format(path: Path) -> str:
    """Name of the format of a spots file or folder, one of `histomix.spots.formats.KNOWN`.

    Raises
    ------
    SectionError
        The file is of no known format; the message says what was found in it.
    """
    reader = find_format(path)
    if reader is not None:
        return reader.name
    if path.is_dir():
        inside = ", ".join(sorted(item.name for item in path.iterdir())[:8]) or "nothing"
        raise SectionError(
            f"is a folder of no known format (it holds: {inside})",
            where=path,
            hint="Name the spots file itself, or the outs folder of Space Ranger",
        )
    shown = ", ".join(tables.header_of(path)[:8]) or "nothing"
    raise SectionError(
        f"is of no known spots format (its first line has: {shown})",
        where=path,
        hint="Give a *_selection.tsv (x, y, pixel_x, pixel_y), an .h5ad, a CSV with spot, x_px, y_px, "
        "or the outs folder of Space Ranger",
    )


def read_spots(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Places of the spots in any spots file.

    Parameters
    ----------
    path
        Legacy ``*_selection.tsv`` (rows with ``selected`` = 1), h5ad with ``obsm["spatial"]``, a CSV with ``spot``,
        ``x_px``, ``y_px``, a Space Ranger ``outs`` folder, or any other format that histomix reads; options follow a
        ``#`` (``"outs#bin_um=8"``).

    Returns
    -------
    Table in the file's order: index ``spot`` (key as text), columns ``x_px``, ``y_px`` (spot centres, level-0 px).

    Raises
    ------
    SectionError
        The file cannot be read, is of no known format, repeats a key, or lacks a coordinate.
    """
    path, options = split_location(os.fspath(path))
    if not path.exists():
        raise MissingSectionError("there is no such file", where=path, hint="Check the path")
    spots = read_section_spots(path, detect_format(path), options=options)
    for note in spots.notes:
        _log.info("%s: %s", path, note)
    positions = pd.DataFrame(spots.adata.obsm["spatial"], index=spots.adata.obs_names, columns=["x_px", "y_px"])
    return positions.rename_axis("spot")


def read_section_spots(
    path: Path, format: str, counts: Path | None = None, with_counts: bool = False, options: Options = _NO_OPTIONS
) -> SpotFile:
    """One section; arguments as in a row of the cohort sheet.

    When ``counts`` is given, spots that it lacks are dropped whether or not the counts themselves are asked for, so
    that every verb sees the same spots; ``uns["spots_without_counts"]`` says how many.

    Raises
    ------
    SectionError
        The files cannot be used, or the format does not know an option.
    """
    reader = load_format(format, path)
    check_options(reader, options, path)
    genome = options.get(GENOME)
    spots = reader.read(path, with_counts and counts is None, options)
    _refuse_far_places(spots.adata, path)
    if counts is not None:
        spots = dataclasses.replace(spots, adata=_join_counts(spots.adata, path, counts, with_counts, genome))
    if genome is None or not spots.adata.n_vars:
        return spots
    # A matrix of 10x says itself of which genomes its genes are, and its reader has chosen.
    chosen = counts.suffix == ".h5" if counts is not None else ".tenx." in type(reader).__module__
    return dataclasses.replace(spots, adata=_of_genome(spots.adata, genome, counts or path, chosen))


def _refuse_far_places(adata: AnnData, path: Path) -> None:
    xy_px = adata.obsm["spatial"]
    far = ~(np.abs(xy_px) < _FARTHEST_PX).all(axis=1)  # NaN too
    if far.any():
        x, y = xy_px[far][0]
        raise SectionError(
            f"has {far.sum():,} spots where no image is: '{adata.obs_names[far][0]}' lies at x={x:g}, y={y:g}",
            where=path,
            hint="Mend their places, in px of the image, or remove them",
        )


def _of_genome(adata: AnnData, genome: str, path: Path, chosen: bool) -> AnnData:
    """The genes of a genome, by a column or by their prefixes, which go; all, and a word, where neither tells."""
    marks = tuple(f"{genome}{bar}" for bar in ("_" * n for n in range(6, 0, -1)))
    marked = np.array([str(name).startswith(marks) for name in adata.var_names], dtype=bool)
    own, listed = marked, ""
    if GENOME in adata.var:  # as scanpy reads matrices of 10x
        column = adata.var[GENOME].astype(str).to_numpy()
        own, listed = column == genome, ", ".join(sorted(set(column))[:5])
    elif not marked.any():
        prefixes = [mark[1] for mark in map(_MARKED.match, map(str, adata.var_names)) if mark]
        if len(set(prefixes)) > 1 or len(prefixes) == adata.n_vars:
            listed = "prefixes: " + ", ".join(sorted(set(prefixes))[:5])
        elif not chosen:
            _log.warning("%s: the genes do not say of which genome they are, and all are taken (%s)", path, genome)
            return adata
    if not own.any():
        if chosen:
            return adata
        raise SectionError(f"has no genes of '{genome}' ({listed})", where=path, hint="Name one of these")
    found = adata[:, own].copy()
    found.var_names = [
        str(name)[len(genome) :].lstrip("_") if one else str(name)
        for name, one in zip(found.var_names, marked[own], strict=True)
    ]
    return found


def _join_counts(
    adata: AnnData, spots_path: Path, counts_path: Path, with_counts: bool, genome: str | None = None
) -> AnnData:
    from anndata import AnnData

    table = read_counts(counts_path, genome) if with_counts else None
    keys = read_keys(counts_path) if table is None else table.keys
    rows, suffixed = match_barcodes(adata.obs_names, keys)
    counted = rows >= 0
    if counted.mean() < _MIN_COUNTED:
        genes = read_counts(counts_path, genome).genes
        raise _mismatch(adata.obs_names, counted, spots_path, counts_path, keys, genes)
    if suffixed:
        _log.info("%s: spots and counts are matched without what follows the last '-' of their barcodes", spots_path)
    if not counted.all():
        _log.info("%s: %d of %d spots have no counts and are dropped", spots_path, (~counted).sum(), len(rows))
    kept = adata[counted]
    uns = {**adata.uns, "spots_without_counts": int((~counted).sum())}
    if table is None:
        matrix, var = no_counts(kept.n_obs), None
    else:
        matrix, var = table.matrix[rows[counted]], pd.DataFrame(index=table.genes)
    return AnnData(X=matrix, obs=kept.obs.copy(), var=var, obsm={k: v.copy() for k, v in kept.obsm.items()}, uns=uns)


def _mismatch(
    spots: pd.Index, counted: np.ndarray, spots_path: Path, counts_path: Path, keys: pd.Index, genes: pd.Index
) -> SectionError:
    if spots.isin(genes).mean() >= _MIN_COUNTED:
        return SectionError(
            "is genes x spots: its columns are the spots", where=counts_path, hint="Transpose it to spots x genes"
        )
    matched = "none" if not counted.any() else f"only {counted.sum():,}"
    ours, theirs = (", ".join(map(str, index[:_EXAMPLES])) for index in (spots, keys))
    return SectionError(
        f"{matched} of its {len(spots):,} spots are in the counts {counts_path}: "
        f"the spots are called {ours}, those of the counts {theirs}",
        where=spots_path,
        hint="Give the counts of this section, with the same spot keys",
    )
