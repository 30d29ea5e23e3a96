"""The Poisson method written out on dense tables, zeros and all: what the method on non-zeros is measured against.

It shares no code with `histomix.abundance.deconvolve` but the thinning of molecules, so that it says whether the
numbers are the same; it is slow, and knows one thread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from histomix.abundance.deconvolve.reliability import thin

Single = NDArray[np.float32]
_TINY, _PILOT, _MOST, _BLOCK = 1e-30, 15, 300, 1 << 19


@dataclass
class Dense:
    """What a section has taught: signatures at its scales, over-dispersion, and updates."""

    signatures: Single
    dispersion: Single
    updates: int = _MOST

    def weighting(self, counts: Single) -> Single:
        return 1 / (1 + self.dispersion * (climb(counts, self.signatures, None, _PILOT)[-1] @ self.signatures.T))


def climb(counts: Single, signatures: Single, weighting: Single | None, updates: int) -> list[Single]:
    """Weights after each update."""
    depth = np.maximum(signatures.sum(axis=0), _TINY)
    weighted, total = (counts, depth) if weighting is None else (counts * weighting, weighting @ signatures)
    found = [counts.sum(axis=1, keepdims=True) / (len(depth) * depth)]
    for _ in range(updates):
        mean = np.maximum(found[-1] @ signatures.T, _TINY)
        found.append(found[-1] * ((weighted / mean) @ signatures) / np.maximum(total, _TINY))
    return found[1:]


def learn(counts: sparse.csr_matrix, signatures: NDArray[np.float64], seed: int = 0) -> Dense:
    """Scales, over-dispersion and updates, from 500 spots that all have counts."""
    rng = np.random.default_rng(seed)
    counts = counts[rng.permutation(counts.shape[0])[:500]]
    dense = counts.toarray().astype(np.float32)
    model = Dense(signatures.astype(np.float32), np.zeros(len(signatures), dtype=np.float32))
    if len(dense) >= 30:
        fitted = climb(dense, model.signatures, None, _PILOT)[-1] @ model.signatures.T
        scale = (dense.sum(axis=0, dtype=np.float64) + 10) / (fitted.sum(axis=0, dtype=np.float64) + 10)
        fitted *= scale.astype(np.float32)
        excess = ((dense - fitted) ** 2 - fitted).sum(axis=0, dtype=np.float64)
        excess /= np.maximum((fitted**2).sum(axis=0, dtype=np.float64), _TINY)
        model.signatures = model.signatures * np.sqrt(scale).astype(np.float32)[:, None]
        model.dispersion = np.maximum(excess, 0).astype(np.float32)
    trial = counts[:200]
    times = -(-200 // (2 * trial.shape[0]))
    weighting = np.tile(model.weighting(trial.toarray().astype(np.float32)), (times, 1))
    half = sparse.vstack([thin(trial, 0.5, rng) for _ in range(times)]).toarray().astype(np.float32)
    held = (np.tile(trial.toarray(), (times, 1)) - half) * weighting
    total, before = weighting @ model.signatures, None
    found = [half.sum(axis=1, keepdims=True) / (model.signatures.shape[1] * model.signatures.sum(axis=0))]
    for done in range(_MOST):
        mean = np.maximum(found[-1] @ model.signatures.T, _TINY)
        found = [found[-1] * ((half * weighting / mean) @ model.signatures) / total]
        mean = np.maximum((found[-1] @ model.signatures.T).astype(np.float64), _TINY)
        level = (held * np.log(mean)).sum() - (found[-1] * total).sum(dtype=np.float64)
        if before is not None and level - before < 0.01 * len(weighting):
            model.updates = min(2 * done, _MOST)
            break
        before = level
    return model


def dense_labels(
    counts: sparse.csr_matrix, signatures: NDArray[np.float64], n_boot: int = 8, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64], Dense]:
    """Weights, and the spread of the proportions over halves of the genes."""
    model = learn(counts, signatures, seed)
    rng, genes = np.random.default_rng([seed, 1]), len(signatures)
    halves = [np.sort(rng.permutation(genes)[: (genes + 1) // 2]) for _ in range(n_boot)]
    weights, spread = [], []
    step = max(1, _BLOCK // genes)
    for start in range(0, counts.shape[0], step):
        block = counts[start : start + step].toarray().astype(np.float32)
        light = model.weighting(block)
        weights.append(climb(block, model.signatures, light, model.updates)[-1].astype(np.float64))
        draws = np.stack(
            [climb(block[:, half], model.signatures[half], light[:, half], model.updates)[-1] for half in halves]
        ).astype(np.float64)
        spread.append((draws / draws.sum(axis=2, keepdims=True)).std(axis=0, ddof=1))
    return np.concatenate(weights), np.concatenate(spread), model
