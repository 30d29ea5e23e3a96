"""One section ready to be labelled: its counts in the genes that it shares with the reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from ..errors import LabelError
from ..provenance import digest_bytes
from .deconvolve.checks import check_counts, refuse_logarithms
from .genes import match_section
from .signatures import Signatures

if TYPE_CHECKING:
    from ..spots import Section


@dataclass(frozen=True, eq=False)
class MatchedCounts:
    """Counts (spots x shared genes) of a section, positions of these genes in the reference, and facts of the match."""

    name: str
    keys: pd.Index
    counts: sparse.csr_matrix
    genes: NDArray[np.intp]
    facts: dict[str, Any]

    @property
    def filled(self) -> NDArray[np.bool_]:
        """Which spots have counts in these genes, shape (n_spots,).

        Raises
        ------
        LabelError
            None has.
        """
        filled = np.asarray(self.counts.sum(axis=1)).ravel() > 0
        if not filled.any():
            raise LabelError("no spot has counts in the shared genes", hint="Check the counts of this section")
        return filled

    def of_genes(self, genes: NDArray[np.intp]) -> MatchedCounts:
        """The same with only some genes of the reference, in their order; all are shared."""
        order = np.argsort(self.genes)
        columns = order[np.searchsorted(self.genes, genes, sorter=order)]
        return MatchedCounts(self.name, self.keys, self.counts[:, columns], genes, self.facts)


def matched_counts(section: Section, signatures: Signatures, min_genes: int | None) -> MatchedCounts:
    """Match the genes of a section with a reference.

    Raises
    ------
    LabelError
        Too few genes are shared, or the counts are not raw.
    """
    match = match_section(section.adata, signatures, min_genes)
    counts = check_counts(section.adata.X)
    matched = counts[:, match.in_section]
    mean = np.asarray(matched.mean(axis=0), dtype=np.float64).ravel()
    refuse_logarithms(mean, signatures.table.to_numpy()[match.in_reference], signatures.source)
    total = counts.sum()
    facts = {
        "genes": counts.shape[1],
        "genes_shared": len(match.in_section),
        "genes_shared_same_name": match.exact,
        "share_of_reference_genes": len(match.in_section) / len(signatures.table),
        "share_of_counts": float(matched.sum() / total) if total else 0.0,
    }
    return MatchedCounts(section.name, section.adata.obs_names.astype(str), matched, match.in_reference, facts)


def digest_counts(section: Section) -> str:
    """Digest of the keys, genes and counts of a section.

    Raises
    ------
    LabelError
        It has no counts, or the same spot or gene more than once.
    """
    adata = section.adata
    if adata.X is None or not adata.n_vars:
        raise LabelError("has no counts", where=section.where, hint="Name its table of counts in the column counts")
    for names, kind in ((adata.obs_names, "spot"), (adata.var_names, "gene")):
        if not names.is_unique:
            repeated = names[names.duplicated()]
            raise LabelError(
                f"has the {kind} '{repeated[0]}' more than once ({len(repeated)} such)",
                where=section.where,
                hint=f"Keep each {kind} once",
            )
    counts = sparse.csr_matrix(adata.X)
    counts.sum_duplicates()
    parts = ["\n".join(adata.obs_names).encode(), "\n".join(adata.var_names).encode()]
    parts += [array.tobytes() for array in (counts.indptr, counts.indices, counts.data)]
    return digest_bytes(b"\0".join(parts))
