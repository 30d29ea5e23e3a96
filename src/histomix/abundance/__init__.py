"""Labels: the abundance of each cell type at each spot, in a declared unit."""

from __future__ import annotations

from .abundance import UNITS, Abundance, join_spots
from .labelling import cohort_labels, label
from .nnls import nnls_deconvolve
from .poisson import poisson_deconvolve
from .signatures import Signatures, match_genes, read_reference
from .tables import read_abundance, read_labels, write_abundance, write_labels

__all__ = [
    "UNITS",
    "Abundance",
    "Signatures",
    "cohort_labels",
    "join_spots",
    "label",
    "match_genes",
    "nnls_deconvolve",
    "poisson_deconvolve",
    "read_abundance",
    "read_labels",
    "read_reference",
    "write_abundance",
    "write_labels",
]
