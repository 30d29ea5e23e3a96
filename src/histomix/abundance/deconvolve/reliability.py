"""How well labels agree with themselves: the ceiling that count noise sets to every score against them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from ...common.metrics import Array, pearson
from ...errors import InputError
from ...progress import Progress, silent
from .checks import check_counts

#: Spots that are enough: from them a correlation of .8 is known to .008, one of .25 to .02.
_MOST_SPOTS = 2000
#: Splits at most. Many spots need fewer: the noise of a split falls as one over their root, as if there were more.
_MOST_SPLITS = 3


def label_reliability(
    counts: ArrayLike | sparse.csr_matrix,
    signatures: ArrayLike,
    deconvolve: Callable[[Any, Any], Array],
    seed: int = 0,
    repeats: int | None = None,
    *,
    proportions: bool = True,
    most_spots: int | None = _MOST_SPOTS,
    progress: Progress = silent,
    task: str = "reliability",
) -> Array:
    """Reliability of the labels of one section, per cell type.

    The molecules of each spot (of ``most_spots`` at most) are dealt at random into two
    halves (binomial thinning [1]_), each half is deconvolved, and the two results are correlated over the spots. The
    mean ``r`` of ``repeats`` such splits is what labels from half the counts agree; the formula of Spearman [2]_ and
    Brown [3]_, ``2 r / (1 + r)``, gives that of labels from all counts. A perfect predictor of the label's expectation
    then correlates with the label by the square root of the reliability, and nothing but the noise of the label itself
    can be predicted better than that.

    Parameters
    ----------
    counts
        Raw counts, shape (n_spots, n_genes).
    signatures
        Mean counts per cell, shape (n_genes, n_types).
    deconvolve
        ``deconvolve(counts, signatures)`` gives weights, shape (n_spots, n_types).
    seed
        Seed of the splits.
    repeats
        How many splits. On sections of 200 to 500 spots one split is off by .02 to .08, the mean of three by less.
        None: three of few spots, two of 1,000, one of 2,000: these know as much.
    proportions
        Correlate shares of each spot's total (labels in proportions), or the weights themselves (cells per spot). The
        two differ: the depth of a spot is known almost without noise and is common to both halves, so weights agree
        better than shares wherever depth varies. Take the one that the labels are.
    most_spots
        Of more spots than these, so many are drawn at random; None: all.
    progress, task
        Told splits done and splits in all.

    Returns
    -------
    ndarray, shape (n_types,)
        From 0 to 1; NaN where a type is constant over the spots, or fewer than three spots have counts in both halves.

    Raises
    ------
    InputError
        ``repeats`` is no positive number.
    LabelError
        The counts or signatures cannot be used (see `poisson_deconvolve`).

    Notes
    -----
    The formula assumes that the halves have the same expectation, independent noise of equal variance, and that the
    label of all counts is as good as the mean of the two. The first two hold by the thinning. The third holds for
    estimators that are linear in the counts; limits at 0 and early stopping depart from it a little. Negative ``r``,
    for which the formula has no sense, counts as 0.

    Only the noise of counting is seen. What both halves share passes for signal: a reference that does not fit the
    tissue, types that are mistaken for each other, molecules that diffused from other spots. The reliability says how
    repeatable a label is, not how true.

    References
    ----------
    .. [1] A. Neufeld et al., Biostatistics 25, 270 (2024), doi:10.1093/biostatistics/kxac047.
    .. [2] C. Spearman, Br. J. Psychol. 3, 271 (1910).
    .. [3] W. Brown, Br. J. Psychol. 3, 296 (1910).
    """
    if repeats is not None and repeats < 1:
        raise InputError(f"{repeats} splits give no reliability", hint="Use 1 or more")
    table = check_counts(counts)
    rng = np.random.default_rng(seed)
    if most_spots is not None and table.shape[0] > most_spots:
        table = table[np.sort(rng.choice(table.shape[0], most_spots, replace=False))]
    if repeats is None:
        repeats = min(_MOST_SPLITS, -(-_MOST_SPOTS // max(table.shape[0], 1)))
    splits = []
    for number in range(repeats):
        splits.append(_half_agreement(table, signatures, deconvolve, rng, proportions))
        progress(task, number + 1, repeats)
    agreement = np.array(splits)
    defined = np.isfinite(agreement)
    total = np.where(defined, agreement, 0.0).sum(axis=0)
    r = np.divide(total, defined.sum(axis=0), out=np.full(agreement.shape[1], np.nan), where=defined.any(axis=0))
    r = np.clip(r, 0.0, 1.0)
    reliability: Array = 2 * r / (1 + r)
    return reliability


def _half_agreement(
    counts: sparse.csr_matrix,
    signatures: ArrayLike,
    deconvolve: Callable[[Any, Any], Array],
    rng: np.random.Generator,
    proportions: bool,
) -> Array:
    first = thin(counts, 0.5, rng)
    halves = [np.asarray(deconvolve(half, signatures), dtype=np.float64) for half in (first, counts - first)]
    # Without any weight a spot has no shares, and without counts no label either.
    filled = np.logical_and(*(half.sum(axis=1) > 0 for half in halves))
    a, b = (half[filled] for half in halves)
    if proportions:
        a, b = (half / half.sum(axis=1, keepdims=True) for half in (a, b))
    # Neither half is the truth: a type is undefined only where both are constant, and scores 0 where one is.
    r = pearson(a, b)
    return np.where(np.isnan(r), pearson(b, a), r)


def thin(counts: sparse.csr_matrix, fraction: float, rng: np.random.Generator) -> sparse.csr_matrix:
    """Keep each counted molecule with probability ``fraction``.

    What is kept and what is left, ``counts - thin(counts, fraction, rng)``, are independent where counts are Poisson
    given the expression of the spot, and both have that expression.
    """
    kept = counts.copy()
    kept.data = rng.binomial(counts.data.astype(np.int64), fraction).astype(counts.dtype)
    kept.eliminate_zeros()
    return kept
