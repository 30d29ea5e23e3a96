"""What the Poisson method learns from a section before it fits the spots: gene scales, gene weights, when to stop."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ...common.threads import Map
from .climb import TINY, Single, Spots, padded, row_of_each
from .reliability import thin

Array = NDArray[np.float64]

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
#: Updates between two looks at the held-out counts of all spots.
_TRIAL_UPDATES = 12
#: Counts that a gene's scale is shrunk to 1 by.
_PRIOR_COUNTS = 10.0

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

    def spots(self, counts: sparse.csr_matrix, parts: NDArray[np.bool_] | None = None) -> Spots:
        """Spots as they are to be fitted.

        A gene counts in a spot with the share of Poisson noise in the variance that is expected of it there.

        Parameters
        ----------
        counts
            In single precision, shape (n_spots, n_genes).
        parts
            Which genes have a part, shape (n_parts, n_genes); None: one part, of all.
        """
        plain = Spots.of(counts, self.signatures, parts)
        wild = np.flatnonzero(self.dispersion)
        if not len(wild):
            return plain
        expected = Spots.of(counts, self.signatures).climb(PILOT)[:, 0] @ self.signatures[wild].T
        expected *= self.dispersion[wild]
        expected += 1
        weighting = np.reciprocal(expected, out=expected)
        # Genes without over-dispersion count in full, in every spot.
        total = [
            weighting @ (self.signatures[wild] * part[wild, None])
            + (part & (self.dispersion == 0)).astype(np.float32) @ self.signatures
            for part in plain.parts
        ]
        place = np.full(counts.shape[1], -1)
        place[wild] = np.arange(len(wild))
        return replace(plain, counts=_weighed(counts, weighting, place), total=np.stack(total, axis=1))


def calibrate(
    counts: sparse.csr_matrix,
    signatures: Array,
    seed: int,
    gene_weights: bool,
    updates: int | None,
    share_out: Map = map,
) -> Calibration:
    """Learn gene scales, over-dispersion and the number of updates from spots that all have counts."""
    rng = np.random.default_rng(seed)
    counts = counts[rng.permutation(counts.shape[0])[:MOST_SPOTS]]
    single = signatures.astype(np.float32)
    model = Calibration(single, np.zeros(len(single), dtype=np.float32), updates or MOST_UPDATES)
    if gene_weights and counts.shape[0] >= FEWEST_SPOTS:
        model = _weigh_genes(counts.astype(np.float32), model, share_out)
    if updates is not None or not counts.shape[0]:
        return model
    return replace(model, updates=_stop(counts, model, rng, share_out))


def _weigh_genes(counts: sparse.csr_matrix, plain: Calibration, share_out: Map) -> Calibration:
    fitted = Spots.of(counts, plain.signatures).climb(PILOT, share_out)[:, 0] @ plain.signatures.T
    pool, pooled_fit = (np.asarray(table.sum(axis=0, dtype=np.float64)).ravel() for table in (counts, fitted))
    scale = (pool + _PRIOR_COUNTS) / (pooled_fit + _PRIOR_COUNTS)
    fitted *= scale.astype(np.float32)
    squares = (fitted**2).sum(axis=0, dtype=np.float64)
    fitted_at = fitted[row_of_each(counts), counts.indices]
    # The sum of (counts - fitted) ** 2 - fitted is that where all counts are 0, and what changes where they are not.
    change = ((counts.data - fitted_at) ** 2).astype(np.float64) - fitted_at**2
    excess = squares - fitted.sum(axis=0, dtype=np.float64)
    excess += np.bincount(counts.indices, change, minlength=len(excess))
    excess /= np.maximum(squares, TINY)
    # The root takes half of a gene's misfit for its capture, and leaves half to what the tissue expresses.
    half_way = np.sqrt(scale).astype(np.float32)[:, None]
    return replace(plain, signatures=plain.signatures * half_way, dispersion=np.maximum(excess, 0).astype(np.float32))


def _stop(counts: sparse.csr_matrix, model: Calibration, rng: np.random.Generator, share_out: Map) -> int:
    """Twice the updates on one half of the molecules after which the likelihood of the other hardly rises, or falls."""
    counts = counts[:_TRIAL_SPOTS]
    times = -(-_TRIAL_SPOTS // (2 * counts.shape[0]))
    whole = model.spots(counts.astype(np.float32))
    # What each count weighs, at the places of the counts.
    share = whole.counts.copy()
    share.data = whole.counts.data / counts.data.astype(np.float32)
    half = sparse.vstack([thin(counts, 0.5, rng) for _ in range(times)], format="csr")
    rest = sparse.vstack([counts] * times, format="csr") - half
    rest.eliminate_zeros()
    share = sparse.vstack([share] * times, format="csr")
    spots = replace(
        Spots.of(half.astype(np.float32), model.signatures),
        counts=half.multiply(share).tocsr().astype(np.float32),
        total=np.tile(whole.total, (times, 1, 1)),
    )
    held = rest.multiply(share).tocsr().astype(np.float32)
    weights, levels = spots.start.copy(), np.zeros(0)

    def climb(rows: NDArray[np.intp], updates: int) -> Array:
        """Climb on with a few spots; the log-likelihood of what they did not see, after each update."""
        group = spots.group(rows)
        genes, unseen = padded(held, rows, int(np.diff(held.indptr)[rows].max()))
        signatures, reached = np.ascontiguousarray(model.signatures[genes].transpose(0, 2, 1)), np.empty(updates)
        for number in range(updates):
            weights[rows] = found = group.update(weights[rows])
            mean = np.matmul(found, signatures)[:, 0].astype(np.float64)
            reached[number] = (unseen * np.log(np.maximum(mean, TINY))).sum()
            reached[number] -= np.einsum("npk,npk->", found, spots.total[rows], dtype=np.float64)
        return reached

    while len(levels) < model.updates:
        more = partial(climb, updates=min(_TRIAL_UPDATES, model.updates - len(levels)))
        levels = np.append(levels, sum(share_out(more, spots.few())))
        little = np.flatnonzero(np.diff(levels) < GAIN * len(weights))
        if len(little):
            return int(min(2 * (little[0] + 1), model.updates))
    _log.info("the held-out likelihood still rises after update %d: stopped there", model.updates)
    return model.updates


def _weighed(counts: sparse.csr_matrix, weighting: Single, place: NDArray[np.intp]) -> sparse.csr_matrix:
    """Counts times the weights of genes; ``place`` is the column of a gene among the weights, or -1."""
    at = place[counts.indices]
    weight = np.where(at >= 0, weighting[row_of_each(counts), at], np.float32(1))
    return sparse.csr_matrix((counts.data * weight, counts.indices, counts.indptr), counts.shape)
