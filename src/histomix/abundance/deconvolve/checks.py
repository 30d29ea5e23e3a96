"""What counts and signatures must be before any method sees them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from ...errors import LabelError

_RAW = "Give raw counts: not normalised, scaled, log-transformed or corrected"


def check_counts(counts: ArrayLike | sparse.csr_matrix, integers: bool = True) -> sparse.csr_matrix:
    """Return counts (n_spots, n_genes) as csr.

    Raises
    ------
    LabelError
        Counts are missing, negative or, with ``integers``, fractions.
    """
    table = sparse.csr_matrix(counts if sparse.issparse(counts) else np.asarray(counts))
    data = table.data
    # Written so that NaN is caught too.
    for wrong, kind in (
        (~(np.isfinite(data) & (data >= 0)), "negative or missing"),
        (data != np.rint(data), "fractions"),
    ):
        if wrong.any() and (integers or kind != "fractions"):
            raise LabelError(f"{wrong.sum()} of the counts are {kind} (such as {data[wrong][0]:.6g})", hint=_RAW)
    return table


def check_signatures(signatures: ArrayLike, n_genes: int) -> NDArray[np.float64]:
    """Return signatures (n_genes, n_types) as float64.

    Raises
    ------
    LabelError
        They are for another number of genes, missing, negative, or 0 for a whole type.
    """
    table = np.asarray(signatures, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] != n_genes:
        raise LabelError(
            f"signatures of shape {table.shape} do not fit counts of {n_genes} genes",
            hint="Give signatures as genes x cell types, for the genes of the counts",
        )
    if not (np.isfinite(table) & (table >= 0)).all():
        raise LabelError("signatures hold negative or missing values", hint="Give mean raw counts per cell type")
    if not table.any(axis=0).all():
        raise LabelError(
            f"{(~table.any(axis=0)).sum()} cell types have no counts in any of the genes",
            hint="Leave these types out of the reference, or give it more genes",
        )
    return table
