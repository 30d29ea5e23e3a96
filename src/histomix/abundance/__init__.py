"""Labels: the abundance of each cell type at each spot, in a declared unit."""

from __future__ import annotations

from .abundance import UNITS, Abundance, join_spots
from .deconvolve.cell2location import fit_spots, most_specific_genes
from .deconvolve.nnls import nnls_deconvolve
from .deconvolve.poisson import poisson_deconvolve, poisson_spread
from .deconvolve.reliability import label_reliability
from .genes import match_genes
from .labelling import label
from .ready import cell_labels, cohort_labels, labels_of
from .signatures import Signatures, read_reference
from .tables import read_abundance, read_labels, write_abundance, write_labels
from .vocabulary import Vocabulary, read_vocabulary

__all__ = [
    "UNITS",
    "Abundance",
    "Signatures",
    "Vocabulary",
    "cell_labels",
    "cohort_labels",
    "fit_spots",
    "join_spots",
    "label",
    "label_reliability",
    "labels_of",
    "match_genes",
    "most_specific_genes",
    "nnls_deconvolve",
    "poisson_deconvolve",
    "poisson_spread",
    "read_abundance",
    "read_labels",
    "read_reference",
    "read_vocabulary",
    "write_abundance",
    "write_labels",
]
