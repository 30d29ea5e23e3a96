"""Binomial thinning: counts of the same spots as if fewer molecules had been sequenced."""

from __future__ import annotations

import numpy as np
from scipy import sparse


def thin(counts: sparse.csr_matrix, share: float, rng: np.random.Generator) -> sparse.csr_matrix:
    """Keep each counted molecule with probability ``share``.

    What is kept and what is left, ``counts - thin(counts, share, rng)``, are independent where counts are Poisson given
    the expression of the spot, and both have that expression.
    """
    kept = counts.copy()
    kept.data = rng.binomial(counts.data.astype(np.int64), share).astype(counts.dtype)
    kept.eliminate_zeros()
    return kept
