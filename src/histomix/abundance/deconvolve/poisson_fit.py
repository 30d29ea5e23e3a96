"""What the Poisson method learns from a section before it fits the spots: gene scales, gene weights, when to stop."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .reliability import thin

Array = NDArray[np.float64]
#: Single precision is ample for a few hundred updates, and twice as fast.
Single = NDArray[np.float32]

#: Updates of the first, unweighted fit, whose expected counts set the weights of genes.
PILOT = 15
#: Updates at most.
MOST_UPDATES = 300
#: Stop when an update raises the held-out log-likelihood of a spot by less than this on average.
GAIN = 0.01
#: Spots that a section is calibrated on at most (drawn at random), and at least, for the scales and weights of genes.
MOST_SPOTS, FEWEST_SPOTS = 500, 30
#: Spots to judge the stop by; fewer are thinned again and again until there are half as many.
_TRIAL_SPOTS = 200
#: Counts that a gene's scale is shrunk to 1 by.
_PRIOR_COUNTS = 10.0
_TINY = 1e-30

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Calibration:
    """How to fit the spots of one section.

    Attributes
    ----------
    signatures
        Mean counts per cell at the gene scales of the section, shape (n_genes, n_types).
    dispersion
        Over-dispersion of each gene: its variance is ``mean + dispersion * mean ** 2``. Shape (n_genes,).
    updates
        Number of multiplicative updates.
    """

    signatures: Single
    dispersion: Single
    updates: int

    def gene_weighting(self, counts: Single) -> Single:
        """Weight of each gene in each spot: the share of Poisson noise in the variance that is expected of it."""
        expected = nth(multiplicative_updates(counts, self.signatures), PILOT) @ self.signatures.T
        expected *= self.dispersion
        expected += 1
        weights: Single = np.reciprocal(expected, out=expected)
        return weights


def multiplicative_updates(
    counts: Single, signatures: Single, gene_weighting: Single | None = None
) -> Iterator[Single]:
    """Weights (n_spots, n_types) after each multiplicative update, without end, from equal counts for all types.

    ``gene_weighting`` (n_spots, n_genes) weighs the log-likelihood of each count.
    """
    depth = np.maximum(signatures.sum(axis=0), _TINY)
    weighted, total = (
        (counts, depth) if gene_weighting is None else (counts * gene_weighting, gene_weighting @ signatures)
    )
    total = np.maximum(total, _TINY)
    weights = counts.sum(axis=1, keepdims=True) / (len(depth) * depth)
    while True:
        mean = weights @ signatures.T
        np.maximum(mean, _TINY, out=mean)
        weights = weights * (np.divide(weighted, mean, out=mean) @ signatures) / total
        yield weights


def nth(path: Iterator[Single], updates: int) -> Single:
    """Where a path stands after some updates (1 or more)."""
    return next(islice(path, updates - 1, None))


def calibrate(
    counts: sparse.csr_matrix, signatures: Array, seed: int, gene_weights: bool, updates: int | None
) -> Calibration:
    """Learn gene scales, over-dispersion and the number of updates from spots that all have counts."""
    rng = np.random.default_rng(seed)
    counts = counts[rng.permutation(counts.shape[0])[:MOST_SPOTS]]
    dense = counts.toarray().astype(np.float32)
    single = signatures.astype(np.float32)
    model = Calibration(single, np.zeros(len(single), dtype=np.float32), updates or MOST_UPDATES)
    if gene_weights and len(dense) >= FEWEST_SPOTS:
        model = _weigh_genes(dense, model)
    return model if updates is not None or not len(dense) else replace(model, updates=_stop(counts, dense, model, rng))


def _weigh_genes(counts: Single, plain: Calibration) -> Calibration:
    fitted = nth(multiplicative_updates(counts, plain.signatures), PILOT) @ plain.signatures.T
    pool, pooled_fit = counts.sum(axis=0, dtype=np.float64), fitted.sum(axis=0, dtype=np.float64)
    scale = (pool + _PRIOR_COUNTS) / (pooled_fit + _PRIOR_COUNTS)
    fitted *= scale.astype(np.float32)
    excess = ((counts - fitted) ** 2 - fitted).sum(axis=0, dtype=np.float64)
    excess /= np.maximum((fitted**2).sum(axis=0, dtype=np.float64), _TINY)
    # The root takes half of a gene's misfit for its capture, and leaves half to what the tissue expresses.
    half_way = np.sqrt(scale).astype(np.float32)[:, None]
    return replace(plain, signatures=plain.signatures * half_way, dispersion=np.maximum(excess, 0).astype(np.float32))


def _stop(counts: sparse.csr_matrix, dense: Single, model: Calibration, rng: np.random.Generator) -> int:
    """Twice the updates on one half of the molecules after which the likelihood of the other hardly rises, or falls."""
    counts, dense = counts[:_TRIAL_SPOTS], dense[:_TRIAL_SPOTS]
    times = -(-_TRIAL_SPOTS // (2 * len(dense)))
    gene_weighting = np.tile(model.gene_weighting(dense), (times, 1))
    half = sparse.vstack([thin(counts, 0.5, rng) for _ in range(times)], format="csr")
    rest = sparse.vstack([counts] * times, format="csr") - half
    rest.eliminate_zeros()
    spots, genes = rest.nonzero()
    held = np.asarray(rest[spots, genes]).ravel() * gene_weighting[spots, genes]
    total = gene_weighting @ model.signatures

    def level(weights: Single) -> float:
        mean = (weights @ model.signatures.T)[spots, genes].astype(np.float64)
        return float(held @ np.log(np.maximum(mean, _TINY)) - np.einsum("nk,nk->", weights, total, dtype=np.float64))

    path = islice(
        multiplicative_updates(half.toarray().astype(np.float32), model.signatures, gene_weighting), model.updates
    )
    for done, (before, after) in enumerate(pairwise(map(level, path)), start=1):
        if after - before < GAIN * len(gene_weighting):
            return min(2 * done, model.updates)
    _log.info("the held-out likelihood still rises after %d updates: stopped there", model.updates)
    return model.updates
