"""Slide-seq-like tables: places of beads, and counts of genes x beads beside them.

Rodriques et al. 2019, Science 363:1463; Stickels et al. 2021, Nature Biotechnology 39:313. Beads are 10 um wide; the
published coordinates are px of the bead image, about 0.65 um each, and the image is not H&E, so that something must
lead from them to a slide.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from ...common import tables
from ...common.words import counted
from ...errors import MissingSectionError, SectionError
from ..counts import read_counts
from .base import Description, Options, SpotFile, require_unique, spots_only
from .cells.gather import positive
from .cells.placement import read_affine, read_landmarks

if TYPE_CHECKING:
    from anndata import AnnData

BEAD_UM = 10.0
UNIT_UM = 0.65
_KEYS = ("barcodes", "barcode", "bead", "beads", "bead_barcode", "cell_id", "")
_PLACES = (("xcoord", "ycoord"), ("x", "y"), ("x_um", "y_um"))
_MIN_COUNTED = 0.5


class SlideSeq:
    """Bead places (``barcodes``, ``xcoord``, ``ycoord``) and, by the option ``dge`` or beside them, their counts."""

    name = "slideseq"
    options: Mapping[str, str] = {
        "dge": "counts of genes x beads (found beside the places as *MappedDGEForR.csv)",
        "mpp": "um per unit of the places, which are then px of the image",
        "landmarks": "table of x_um, y_um (beads), x_px, y_px (image)",
        "alignment": "affine matrix from px of the image to the beads' own units",
        "unit_um": f"um per unit of the places (default {UNIT_UM:g})",
    }

    def matches(self, path: Path) -> bool:
        """See `Format`."""
        columns = tables.columns_or_none(path) or []
        if "xcoord" in columns and "ycoord" in columns:
            return True
        return {"x", "y"} <= set(columns) and any(name in columns for name in _KEYS[:5])

    def read(self, path: Path, with_counts: bool, options: Options) -> SpotFile:
        """See `Format`."""
        obs, xy = _read(path)
        notes: list[str] = []
        mpp, source = None, None
        if "mpp" in options:
            mpp, source = positive(options["mpp"], "mpp", path), "option mpp"
        files = {name: path.parent / options[name] for name in ("landmarks", "alignment", "dge") if name in options}
        for name, file in files.items():
            if not file.is_file():
                raise MissingSectionError(f"option {name}: there is no file {file}", where=path, hint="Check the path")
        if len({"mpp", "landmarks", "alignment"} & set(options)) > 1:
            raise SectionError("mpp, landmarks and alignment exclude each other", where=path, hint="Give one of them")
        if "landmarks" in files or "alignment" in files:
            unit_um = positive(options["unit_um"], "unit_um", path) if "unit_um" in options else UNIT_UM
            read = read_landmarks if "landmarks" in files else read_affine
            placement = read(files.get("landmarks") or files["alignment"], unit_um)
            xy = placement.apply(xy * unit_um)
            mpp, source = placement.mpp, f"{placement.source}, with {unit_um:g} um per unit of the beads"
            if placement.residual_um is not None:
                notes.append(f"the landmarks are {placement.residual_um:.2f} um (rms) from the fitted map")
        else:
            notes.append("the places of the beads are taken to be px of the image")
        adata = spots_only(obs, xy)
        counts = files.get("dge") or _counts_beside(path)
        if with_counts and counts is not None:
            adata, dropped = _with_counts(adata.obs, xy, path, counts)
            if dropped:
                notes.append(f"{counted(dropped, 'bead')} have no counts and are dropped")
        return SpotFile(adata, mpp, source, BEAD_UM, None, notes=tuple(notes))

    def describe(self, path: Path, options: Options) -> Description:
        """See `Format`."""
        spots, counts = self.read(path, False, options), _counts_beside(path)
        contents = [counted(spots.adata.n_obs, "bead") + " with their places", *spots.notes]
        if counts is not None:
            contents.append(f"counts in {counts.name}")
        missing = ["an H&E image, and the way to it (option landmarks or alignment)"]
        if counts is None:
            missing.append("counts (option dge)")
        return Description(
            "a table of beads, as Slide-seq has it", tuple(contents), tuple(missing),
            {"spots": str(path), "format": self.name},
        )  # fmt: skip


def _read(path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    table = tables.read_table(path)
    pair = next((pair for pair in _PLACES if set(pair) <= set(table.columns)), None)
    key = next((name for name in _KEYS if name in table.columns), None)
    if pair is None or key is None:
        raise SectionError(
            f"is no table of beads (it has: {', '.join(table.columns[:8])})",
            where=path,
            hint="Name the columns barcodes, xcoord, ycoord",
        )
    xy = np.column_stack([tables.numbers(table, name, path) for name in pair])
    obs = pd.DataFrame(index=pd.Index(table[key], name="spot"))
    require_unique(obs.index, path)
    return obs, xy


def _counts_beside(path: Path) -> Path | None:
    files = sorted(path.parent.glob("*MappedDGEForR.csv*"))
    head = path.name.partition("BeadLocations")[0]
    named = [file for file in files if head and file.name.startswith(head)]
    return named[0] if len(named) == 1 else files[0] if len(files) == 1 else None


def _with_counts(obs: pd.DataFrame, xy: np.ndarray, path: Path, counts: Path) -> tuple[AnnData, int]:
    from anndata import AnnData

    table = read_counts(counts)  # genes x beads: what it calls genes are beads
    columns = table.genes.get_indexer(obs.index)
    counted = columns >= 0
    if counted.mean() < _MIN_COUNTED:
        ours, theirs = (", ".join(map(str, index[:3])) for index in (obs.index, table.genes))
        raise SectionError(
            f"{counted.sum():,} of its {len(obs):,} beads are in the counts {counts.name} (beads: {ours}; "
            f"columns there: {theirs})",
            where=path,
            hint="Give the counts of this puck, genes x beads",
        )
    matrix = sparse.csr_matrix(table.matrix.tocsc()[:, columns[counted]].T, dtype=np.float32)
    adata = AnnData(X=matrix, obs=obs[counted], var=pd.DataFrame(index=table.keys), obsm={"spatial": xy[counted]})
    return adata, int((~counted).sum())


FORMATS = (SlideSeq(),)
