"""Spots of Space Ranger joined with the feature-barcode matrix beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...errors import SectionError
from ..counts import match_barcodes
from . import tenx
from .base import count, spots_only

if TYPE_CHECKING:
    from anndata import AnnData

#: Spots under tissue and barcodes of the filtered matrix are the same: below this share, they are of two sections.
_MIN_SHARED = 0.95


def join_matrix(
    obs: pd.DataFrame, xy_px: np.ndarray, positions: Path, outs: Path, with_counts: bool
) -> tuple[AnnData, list[str]]:
    """Spots (index barcode) that have counts in the matrix of ``outs``, all where there is none; and what to say.

    Raises
    ------
    SectionError
        The matrix cannot be read, or is of another section.
    """
    from anndata import AnnData

    matrix = tenx.find_matrix(outs)
    if matrix is None:
        return spots_only(obs, xy_px), []
    table = tenx.read_matrix(matrix) if with_counts else None
    barcodes = tenx.read_barcodes(matrix) if table is None else table.barcodes
    rows, suffixed = match_barcodes(obs.index, barcodes)
    counted, raw = rows >= 0, tenx.is_raw(matrix)
    # Spots may be taken away by hand, in either: one side may then be a part of the other.
    shared = counted.mean() if raw else max(counted.mean(), counted.sum() / max(1, len(barcodes)))
    if shared < _MIN_SHARED:
        examples = [", ".join(map(str, index[:2])) for index in (obs.index, barcodes)]
        raise SectionError(
            f"{counted.sum():,} of its {len(obs):,} spots under tissue are among the {len(barcodes):,} barcodes of "
            f"{matrix} (spots: {examples[0]}; barcodes: {examples[1]})",
            where=positions,
            mend="The positions and the matrix are of two sections: copy the outs folder of one section again",
        )
    notes = ["barcodes are matched without what follows their last '-'"] if suffixed else []
    if raw:
        notes.append(f"only the raw matrix ({matrix.name}) is there; its spots under tissue are used")
    if not counted.all():
        notes.append(f"{count(int((~counted).sum()), 'spot')} of {len(obs):,} have no counts and are dropped")
    if not raw and len(barcodes) > counted.sum():
        notes.append(
            f"{len(barcodes) - counted.sum():,} of {len(barcodes):,} barcodes with counts are not under tissue"
        )
    if table is None:
        adata = spots_only(obs[counted], xy_px[counted])
    else:
        notes += table.notes
        adata = AnnData(
            X=table.matrix[rows[counted]], obs=obs[counted], var=table.var, obsm={"spatial": xy_px[counted]}
        )
    adata.uns["spots_without_counts"] = int((~counted).sum())
    return adata, notes
