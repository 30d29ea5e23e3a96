"""Deconvolution by non-negative least squares."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.optimize import nnls

from .checks import check_counts, check_signatures


def nnls_deconvolve(counts: ArrayLike | sparse.csr_matrix, signatures: ArrayLike) -> NDArray[np.float64]:
    """Weights of cell types by weighted non-negative least squares on depth-normalised counts.

    A gene's squared error counts with one over its mean signature, in proportion to the variance of Poisson counts:
    without this the few most expressed genes decide. The problem of each spot is rotated into as many equations as
    types, which changes nothing but the speed.

    Parameters
    ----------
    counts
        Shape (n_spots, n_genes), not negative.
    signatures
        Mean counts per cell, shape (n_genes, n_types); every type must have some.

    Returns
    -------
    ndarray, shape (n_spots, n_types)
        Number of cells of the reference's depth; all 0 where a spot has no counts.

    Raises
    ------
    LabelError
        Counts or signatures are negative or missing, or a type has no signature.
    """
    table = check_counts(counts, integers=False)
    signature = check_signatures(signatures, table.shape[1])
    used = np.flatnonzero(signature.any(axis=1))
    table, signature = table[:, used].astype(np.float64), signature[used]
    scale = 1 / np.sqrt(signature.mean(axis=1))
    rotation, triangle = np.linalg.qr(signature * scale[:, None])
    depth = np.asarray(table.sum(axis=1)).ravel()
    targets = (table @ (scale[:, None] * rotation)) / np.maximum(depth, 1)[:, None]
    fractions = np.array([nnls(triangle, target)[0] for target in targets]).reshape(-1, signature.shape[1])
    abundance: NDArray[np.float64] = fractions * depth[:, None]
    return abundance
