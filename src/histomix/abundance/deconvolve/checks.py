"""What counts and signatures must be before any method sees them."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from ...errors import LabelError

#: What is left unexplained of a section's mean counts by a reference that is read as log1p, as a share of what is by
#: the reference as it is: below these it is refused, or warned of. Raw references of five kinds gave 1.0 or more
#: (phantom, her2st), their logarithms 0.6 to 0.8 with two of them and 1.0 with others, which nothing here can tell.
_LOGARITHMS, _LIKE_LOGARITHMS = 0.8, 0.95
#: No spot, and no cell, has a hundred million transcripts of one gene.
_MOST_COUNTS = 1e8
#: No log1p of counts per cell, or of counts per million, is larger.
_LARGEST_LOGARITHM = 20.0
#: Sums of cell types that differ by less of themselves are one sum.
_SAME_SUM = 1e-3
#: A gene with a greater share of a sum decides it alone.
_MOST_OF_SUM = 0.5
#: Shares of a type's values that are multiples of one step: above, they are; below, they are not. Of any numbers 4 %
#: come as near to a multiple as 0.02 of a step, and so do 20 to 50 % of those that are printed with two decimals.
_MOST_ON_STEPS, _FEW_ON_STEPS, _OFF_A_STEP = 0.9, 0.6, 0.02
#: Multiples that are looked at: of smaller steps the rounding hides them, and of fewer nothing can be said.
_MOST_STEPS, _FEWEST_STEPS = 1000, 20
_log = logging.getLogger(__name__)
_RAW = "Give raw counts: not normalised, scaled, log-transformed or corrected"


def check_counts(counts: ArrayLike | sparse.csr_matrix, integers: bool = True) -> sparse.csr_matrix:
    """Return counts (n_spots, n_genes) as csr.

    Raises
    ------
    LabelError
        Counts are missing, negative, beyond what a spot can have or, with ``integers``, fractions.
    """
    table = sparse.csr_matrix(counts if sparse.issparse(counts) else np.asarray(counts))
    data = table.data
    # Written so that NaN is caught too.
    for wrong, kind in (
        (~(np.isfinite(data) & (data >= 0)), "negative or missing"),
        (data > _MOST_COUNTS, f"above {_MOST_COUNTS:,.0f}"),
        (data != np.rint(data), "fractions"),
    ):
        if wrong.any() and (integers or kind != "fractions"):
            raise LabelError(f"{wrong.sum():,} of the counts are {kind} (such as {data[wrong][0]:.6g})", hint=_RAW)
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


def says_logarithms(signatures: np.ndarray) -> str | None:
    """Why signatures are logarithms, by themselves; None where nothing tells.

    Means of counts over cells, or as printed, are multiples of one step, each type's own; where it is their ``expm1``
    that are, they were logarithms. And where the ``expm1`` of each type add up to one sum, it was that of every cell.

    Parameters
    ----------
    signatures
        Genes x cell types, none negative.
    """
    if not 0 < signatures.max(initial=0) <= _LARGEST_LOGARITHM:
        return None
    powers = np.expm1(signatures)
    sums, own = powers.sum(axis=0), signatures.sum(axis=0)
    same = np.ptp(sums) <= _SAME_SUM * sums.max() and np.ptp(own) > 10 * _SAME_SUM * own.max()
    # Where one gene is most of a sum, sums are the same as soon as its values are.
    if same and (powers.max(axis=0) < _MOST_OF_SUM * sums).all():
        return f"the exponentials of each cell type add up to the same {sums.mean():,.0f}"
    steps = [np.median([_on_steps(column) for column in table.T]) for table in (signatures, powers)]
    if steps[1] > _MOST_ON_STEPS and steps[0] < _FEW_ON_STEPS:
        return "it is their exponentials that are multiples of one step, as means of counts are"
    return None


def _on_steps(values: np.ndarray) -> float:
    """Share of values that are multiples of a half or third of the smallest, or of it; 0 where there are few."""
    positive = values[values > 0]
    shares = [0.0]
    for part in (1, 2, 3) if len(positive) else ():
        steps = positive * (part / positive.min())
        steps = steps[(steps > 1.5) & (steps < _MOST_STEPS)]
        if len(steps) >= _FEWEST_STEPS:
            shares.append(float((np.abs(steps - np.rint(steps)) < _OFF_A_STEP).mean()))
    return max(shares)


def refuse_logarithms(mean_counts: np.ndarray, signatures: np.ndarray, source: str) -> None:
    """Refuse signatures that explain the counts of a section far better when they are read as ``log1p`` of counts.

    Where they do so a little better, a warning is logged.

    Parameters
    ----------
    mean_counts
        Mean counts per spot (n_genes,).
    signatures
        The reference in the same genes (n_genes, n_types).
    source
        What errors name.

    Raises
    ------
    LabelError
        They do.
    """
    if signatures.max(initial=0) > _LARGEST_LOGARITHM or not mean_counts.any():
        return
    left = [_unexplained(mean_counts, table) for table in (signatures, np.expm1(signatures))]
    what = (
        f"looks like logarithms of counts: as they are, the signatures leave {left[0]:.0%} of the section's mean "
        f"counts unexplained, and {left[1]:.0%} when they are read as log1p"
    )
    hint = "Give mean raw counts per cell: not normalised, scaled or log-transformed"
    if left[1] < _LOGARITHMS * left[0]:
        raise LabelError(what, where=source, hint=hint)
    if left[1] < _LIKE_LOGARITHMS * left[0]:
        _log.warning("%s: %s. %s", source, what, hint)


def _unexplained(mean_counts: np.ndarray, signatures: np.ndarray) -> float:
    """Share of the length of a mean profile that no mixture of signatures reaches, by non-negative least squares."""
    from scipy.optimize import nnls

    length = np.linalg.norm(signatures, axis=0)
    return float(nnls(signatures / np.where(length > 0, length, 1.0), mean_counts)[1] / np.linalg.norm(mean_counts))
