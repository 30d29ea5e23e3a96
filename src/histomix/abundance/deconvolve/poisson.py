"""Deconvolution by Poisson likelihood: weighted genes, multiplicative updates, stopped by held-out counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from ...errors import InputError
from ...progress import Progress, silent
from .checks import check_counts, check_signatures
from .climb import workers
from .poisson_fit import calibrate

Array = NDArray[np.float64]

#: Weights of genes worked on at once (8 MB), spots times genes.
_BLOCK = 1 << 21


def poisson_deconvolve(
    counts: ArrayLike | sparse.csr_matrix,
    signatures: ArrayLike,
    *,
    seed: int = 0,
    gene_weights: bool = True,
    updates: int | None = None,
    threads: int | None = None,
) -> Array:
    """Weights of cell types from the counts of the spots of one section.

    With ``mu = signatures @ weights``, the count of gene g is taken as Poisson with mean ``mu[g]``. Its likelihood is
    climbed by the multiplicative updates of Richardson [1]_ and Lucy [2]_ from equal counts for all types, with three
    things learned from the section (from 500 of its spots at most), and from no other:

    - *Gene weights.* A first fit gives each gene's over-dispersion ``phi`` about its expected counts. The gene then
      counts with ``1 / (1 + phi * mu)``, the share of Poisson noise in the variance ``mu + phi * mu ** 2``: the
      quasi-likelihood [3]_ of a negative binomial.
    - *Gene scales.* Each gene of the signatures is multiplied by the square root of (pooled counts / pooled fit),
      since genes are not captured in the tissue as in the reference. (Without weights such a scale changes nothing:
      Poisson likelihood depends on it through the totals of the signatures only.)
    - *When to stop.* Climbed to the top, the likelihood fits the noise of the counts. The molecules are split into two
      halves by binomial thinning, and a fit to one half is stopped when an update gains less than 0.01 per spot in the
      log-likelihood of the other. The fit to all molecules makes twice as many updates: their number is to early
      stopping what the inverse of a penalty is to ridge regression, and the best penalty per count falls as one over
      the counts.

    On 31 sections of HER2+ breast cancer, mean Pearson correlation with published proportions is .780 (converged, with
    all genes alike, it was .747), and with the truth of the phantom .944 (.927).

    Parameters
    ----------
    counts
        Raw counts, shape (n_spots, n_genes).
    signatures
        Mean counts per cell, shape (n_genes, n_types); every type must have some.
    seed
        Seed of the thinning, and of the choice of 500 spots where a section has more.
    gene_weights
        Weigh and scale genes; never done with fewer than 30 spots.
    updates
        This many updates instead of those that held-out counts choose. Without gene weights, many updates reach the
        maximum likelihood.
    threads
        CPU threads; None: one for each core. They change no bit.

    Returns
    -------
    ndarray, shape (n_spots, n_types)
        Number of cells of the reference's depth; all 0 where a spot has no counts. Divide by the total for proportions.

    Raises
    ------
    LabelError
        Counts are negative, missing or not integers; signatures are negative, missing, or 0 for a whole type.
    InputError
        ``updates`` is no positive number.

    References
    ----------
    .. [1] W. H. Richardson, J. Opt. Soc. Am. 62, 55 (1972).
    .. [2] L. B. Lucy, Astron. J. 79, 745 (1974).
    .. [3] R. W. M. Wedderburn, Biometrika 61, 439 (1974).
    """
    return _estimate(counts, signatures, 0, seed, False, gene_weights, updates, threads, silent, "")[0]


def poisson_spread(
    counts: ArrayLike | sparse.csr_matrix,
    signatures: ArrayLike,
    *,
    n_boot: int = 8,
    seed: int = 0,
    proportions: bool = True,
    gene_weights: bool = True,
    updates: int | None = None,
    threads: int | None = None,
) -> Array:
    """Standard deviation of what `poisson_deconvolve` finds, by resampling the genes.

    Each draw repeats the fit with a random half of the genes, with the same gene weights, scales and number of updates:
    so the spread is that of the estimate, early stopping included. Most updates are made in strides, which moves the
    spread by 1 % (root mean square; eight draws know it to 27 %). Half-samples [1]_ have the variance of a bootstrap
    (every gene counts 0 or 2 times, variance 1, as in draws with replacement) at half the cost. The spread holds the
    noise of counts and also the misfit between reference and tissue, as far as genes misfit independently of each
    other.

    It is smaller than the true error, which also has parts that genes share, such as a donor's cells unlike those of
    the reference: on the phantom, root mean squared errors are 1.5 to 4.0 times the spread. Use it to tell better known
    spots and types from worse known ones.

    Parameters
    ----------
    counts, signatures, seed, gene_weights, updates, threads
        As for `poisson_deconvolve`.
    n_boot
        Draws; the relative error of a standard deviation from n of them is about ``1 / sqrt(2 n - 2)``.
    proportions
        Spread of the shares of each spot, or of the weights.

    Returns
    -------
    ndarray, shape (n_spots, n_types)
        0 where a spot has no counts.

    Raises
    ------
    LabelError
        As `poisson_deconvolve`.
    InputError
        ``n_boot`` is below 2, or ``updates`` is no positive number.

    References
    ----------
    .. [1] P. J. McCarthy, Rev. Int. Stat. Inst. 37, 239 (1969).
    """
    if n_boot < 2:
        raise InputError(f"{n_boot} draws have no spread", hint="Use 2 or more")
    return _estimate(counts, signatures, n_boot, seed, proportions, gene_weights, updates, threads, silent, "")[1]


def poisson_labels(
    counts: ArrayLike | sparse.csr_matrix,
    signatures: ArrayLike,
    *,
    n_boot: int = 8,
    seed: int = 0,
    proportions: bool = True,
    threads: int | None = None,
    progress: Progress = silent,
    task: str = "poisson",
) -> tuple[Array, Array]:
    """What `poisson_deconvolve` and `poisson_spread` find, of one calibration; ``task`` is told in spots.

    The fit and its draws are one product of matrices, so that weights differ from those of `poisson_deconvolve` by
    roundings of single precision.
    """
    return _estimate(counts, signatures, n_boot, seed, proportions, True, None, threads, progress, task)


def poisson_in_strides(
    counts: ArrayLike | sparse.csr_matrix, signatures: ArrayLike, *, seed: int = 0, threads: int | None = None
) -> Array:
    """Nearly what `poisson_deconvolve` finds, sooner: for a reliability, which has an error of its own."""
    return _estimate(counts, signatures, 0, seed, False, True, None, threads, silent, "", exact=0)[0]


def _estimate(
    counts: ArrayLike | sparse.csr_matrix,
    signatures: ArrayLike,
    n_boot: int,
    seed: int,
    proportions: bool,
    gene_weights: bool,
    updates: int | None,
    threads: int | None,
    progress: Progress,
    task: str,
    exact: int = 1,
) -> tuple[Array, Array]:
    table, signature, filled = _prepare(counts, signatures, updates)
    weights, spread = (np.zeros((table.shape[0], signature.shape[1])) for _ in range(2))
    parts = np.ones((n_boot + 1, len(signature)), dtype=bool)
    rng = np.random.default_rng([seed, 1])
    for part in parts[1:]:
        part[rng.permutation(len(signature))[(len(signature) + 1) // 2 :]] = False
    size = max(1, _BLOCK // max(1, len(signature)))
    blocks = [filled[start : start + size] for start in range(0, len(filled), size)]
    with workers(threads) as share_out:
        model = calibrate(table[filled], signature, seed, gene_weights, updates, share_out)

        def fit(rows: NDArray[np.intp]) -> tuple[Array, Array | None]:
            spots = model.spots(table[rows].astype(np.float32), parts)
            found = spots.climb(model.updates, exact=exact).astype(np.float64)
            first, draws = found[:, 0], found[:, 1:]
            if not n_boot:
                return first, None
            if proportions:
                draws /= np.maximum(draws.sum(axis=2, keepdims=True), np.finfo(np.float64).tiny)
            return first, draws.std(axis=1, ddof=1)

        done = 0
        for rows, (first, sd) in zip(blocks, share_out(fit, blocks), strict=True):
            weights[rows] = first
            if sd is not None:
                spread[rows] = sd
            done += len(rows)
            progress(task, done, len(filled))
    return weights, spread


def _prepare(
    counts: ArrayLike | sparse.csr_matrix, signatures: ArrayLike, updates: int | None
) -> tuple[sparse.csr_matrix, Array, NDArray[np.intp]]:
    """Checked counts and signatures of the genes that any type expresses, and the rows that have counts."""
    if updates is not None and updates < 1:
        raise InputError(f"{updates} updates cannot be made", hint="Use 1 or more, or None")
    table = check_counts(counts)
    signature = check_signatures(signatures, table.shape[1])
    used = signature.any(axis=1)
    table, signature = table[:, np.flatnonzero(used)], signature[used]
    table.sum_duplicates()
    table.eliminate_zeros()
    return table, signature, np.flatnonzero(np.asarray(table.sum(axis=1)).ravel())
