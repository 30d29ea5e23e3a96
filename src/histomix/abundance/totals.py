"""Whether the totals of labels can be cells, by what the picture shows under the spots and what the panel tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from .sections import MatchedCounts
    from .signatures import Signatures

#: A typical total may be this many times more or fewer cells than the nuclei counted under the spots (a count that
#: misses up to a third of pale nuclei, and takes what lies over each other for one).
PICTURE_RATIO = 2.0
#: With fewer shared genes than this, what a gene's own efficiency does to the totals is not averaged out.
LEAST_GENES = 150
#: A cell of the tissue gives so many times the counts of a reference cell in the same genes, least and most.
DETECTION = (0.02, 3.0)


@dataclass(frozen=True)
class Totals:
    """What was found of the totals of one section.

    Attributes
    ----------
    total
        Median over spots of the sum of the labels.
    nuclei
        Median of the nuclei counted under the spots; None where they cannot be.
    genes
        Genes shared with the reference.
    detection
        Counts in these genes for each count that the reference's cells of these labels would give.
    """

    total: float
    nuclei: float | None
    genes: int
    detection: float

    @property
    def doubts(self) -> list[str]:
        """Why the totals cannot be taken for cells; empty where they can. A picture decides alone."""
        if self.nuclei is not None:
            if 1 / PICTURE_RATIO <= self.total / self.nuclei <= PICTURE_RATIO:
                return []
            seen = f"{self.nuclei:.3g} nuclei are counted under it in the picture"
            return [f"a typical spot sums to {self.total:.3g} cells, and {seen}"]
        doubts = []
        if self.genes < LEAST_GENES:
            doubts.append(f"{self.genes} genes are shared with the reference, fewer than {LEAST_GENES}")
        if not DETECTION[0] <= self.detection <= DETECTION[1]:
            doubts.append(
                f"each cell would have given {self.detection:.3g} times the counts of a reference cell, outside "
                f"{DETECTION[0]:g} to {DETECTION[1]:g}"
            )
        return doubts

    def facts(self) -> dict[str, Any]:
        """As a manifest has them."""
        return {
            "median_total": self.total,
            "nuclei": self.nuclei,
            "genes": self.genes,
            "detection": self.detection if np.isfinite(self.detection) else None,
            "doubts": self.doubts,
        }


def check_totals(values: pd.DataFrame, matched: MatchedCounts, signatures: Signatures, nuclei: float | None) -> Totals:
    """Compare the totals of labels in cells with the picture, the panel and the depth of one section.

    Parameters
    ----------
    values
        Labels, spots x cell types.
    matched
        Counts that they were made from.
    nuclei
        Median of those counted under the spots; None where they cannot be.
    """
    total = float(values.sum(axis=1).median())
    rows = matched.keys.get_indexer(values.index)
    counts = np.asarray(matched.counts[rows].sum(axis=1), dtype=np.float64).ravel()
    expected = values.to_numpy() @ signatures.table.to_numpy()[matched.genes].sum(axis=0)
    typical = float(np.median(expected))
    detection = float(np.median(counts)) / typical if typical > 0 else np.inf
    return Totals(total, nuclei, len(matched.genes), detection)
