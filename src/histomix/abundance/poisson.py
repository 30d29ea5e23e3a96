"""Deconvolution by Poisson maximum likelihood, with accelerated multiplicative updates."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from threadpoolctl import threadpool_limits

from .checks import check_counts, check_signatures

Array = NDArray[np.float64]

#: Elements of counts worked on at once (4 MB): the working set stays in the processor's cache.
_BLOCK = 1 << 19
_TINY = 1e-200
#: An extrapolated weight keeps at least this share of the plain update: a weight of 0 could never come back.
_KEEP = 1e-3

_log = logging.getLogger(__name__)


def poisson_deconvolve(
    counts: ArrayLike | sparse.csr_matrix,
    signatures: ArrayLike,
    max_iter: int = 1000,
    tol: float = 1e-9,
) -> Array:
    """Weights of cell types that make the counts of each spot most likely.

    With ``mu = signatures @ weights``, counts of gene g are Poisson with mean ``mu[g]``. The likelihood is concave; it
    is climbed by the multiplicative updates of Richardson [1]_ and Lucy [2]_, extrapolated by SQUAREM [3]_. An
    extrapolation is taken only where it does not lower the likelihood, so the likelihood of each spot never falls.

    Genes that are captured with another efficiency in the tissue than in the reference need no correction fitted to
    the cohort, such as that of RCTD: the likelihood depends on a scale per gene only through the total of each
    signature, and a scale fitted by Poisson likelihood to the pooled counts leaves those totals as they are.

    Parameters
    ----------
    counts
        Raw counts, shape (n_spots, n_genes).
    signatures
        Mean counts per cell, shape (n_genes, n_types); every type must have some.
    max_iter
        Cycles (of three updates) at most. Spots that need more are counted in a logged warning.
    tol
        A spot is done when a cycle raises its log-likelihood by less than this share.

    Returns
    -------
    ndarray, shape (n_spots, n_types)
        Number of cells of the reference's depth; all 0 where a spot has no counts. Divide by the total for proportions.

    Raises
    ------
    LabelError
        Counts are negative, missing or not integers; signatures are negative, missing, or 0 for a whole type.

    References
    ----------
    .. [1] W. H. Richardson, J. Opt. Soc. Am. 62, 55 (1972).
    .. [2] L. B. Lucy, Astron. J. 79, 745 (1974).
    .. [3] R. Varadhan and C. Roland, Scand. J. Stat. 35, 335 (2008), with step length S3.
    """
    table = check_counts(counts)
    signature = check_signatures(signatures, table.shape[1])
    used = signature.any(axis=1)
    # Genes that no type expresses only add a constant. Columns of sum 1 turn weights into counts per type.
    table, signature = table[:, np.flatnonzero(used)], signature[used]
    depth = signature.sum(axis=0)
    signature = signature / depth
    weights = np.zeros((table.shape[0], signature.shape[1]))
    unfinished = 0
    rows = max(1, _BLOCK // max(1, table.shape[1]))
    for start in range(0, len(weights), rows):
        block = table[start : start + rows].toarray().astype(np.float64)
        filled = np.flatnonzero(block.sum(axis=1))
        # One thread: on products as slim as these, several only wait for each other (20 times slower on busy cores).
        with threadpool_limits(1, user_api="blas"):
            weights[start + filled], left = _solve(block[filled], signature, max_iter, tol)
        unfinished += left
    if unfinished:
        _log.warning("%d of %d spots had not converged after %d cycles", unfinished, len(weights), max_iter)
    return weights / depth


def _solve(counts: Array, signature: Array, max_iter: int, tol: float) -> tuple[Array, int]:
    """Weights of spots that all have counts, and how many did not converge; ``signature`` has columns of sum 1."""
    n_types = signature.shape[1]
    solution = np.repeat(counts.sum(axis=1, keepdims=True) / n_types, n_types, axis=1)
    active = np.arange(len(counts))
    previous = np.full(len(counts), -np.inf)
    weights = solution
    for _ in range(max_iter):
        if not len(active):
            break
        first, level = _update(weights, counts, signature, with_level=True)
        done = level - previous <= tol * (1 + np.abs(level))
        if done.any():
            solution[active[done]] = first[done]
            left = ~done
            active, counts, weights, first, level = active[left], counts[left], weights[left], first[left], level[left]
        second, _ = _update(first, counts, signature)
        leap = _extrapolate(weights, first, second)
        third, leap_level = _update(leap, counts, signature, with_level=True)
        weights = np.where((leap_level >= level)[:, None], third, second)
        previous = level
    solution[active] = weights
    return solution, len(active)


def _update(weights: Array, counts: Array, signature: Array, with_level: bool = False) -> tuple[Array, Array]:
    """One multiplicative update, and the log-likelihood of ``weights`` (without the constant) if asked for."""
    mean = weights @ signature.T
    np.maximum(mean, _TINY, out=mean)
    level = np.einsum("ng,ng->n", counts, np.log(mean)) - weights.sum(axis=1) if with_level else np.empty(0)
    return weights * (np.divide(counts, mean, out=mean) @ signature), level


def _extrapolate(start: Array, first: Array, second: Array) -> Array:
    step = first - start
    bend = second - first - step
    length = np.linalg.norm(step, axis=1) / np.maximum(np.linalg.norm(bend, axis=1), _TINY)
    length = np.clip(length, 1, 1e4)[:, None]
    return np.maximum(start + 2 * length * step + length**2 * bend, _KEEP * second)
