"""cell2location: one fit of the spots of one or more sections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from ...common.memory import available_memory
from ...errors import InputError, LabelError
from ...progress import Progress
from ...provenance import digest_bytes, digest_json
from .checks import check_counts, check_signatures
from .svi import Checkpoint, Plan, at_deviate, fit_guide, isolated_torch, moments

Array = NDArray[np.float64]

#: Memory of a fit, measured: this many arrays of spots x genes, and of spots x types, in single precision.
_ARRAYS, _SMALL_ARRAYS = 28, 60
_GROUPS = 50
#: Standard normal deviate of the 5 % quantile.
_Q05 = -1.6448536269514722
#: Draws for the spread of a proportion: its relative error is 1/20.
_DRAWS = 200
#: Least weight that a fit begins from, as a share of the mean weight: the logarithm of 0 is nowhere.
_LEAST_START = 0.01


@dataclass(frozen=True)
class Posterior:
    """Cells of each type at each spot, all (n_spots, n_types): summaries of the posterior, and the loss by epoch."""

    q05: Array
    median: Array
    sd: Array
    proportion_sd: Array
    losses: list[float]


def fit_spots(
    counts: sparse.csr_matrix,
    signatures: Array,
    batches: NDArray[np.intp],
    start: Array,
    cells_per_spot: float,
    *,
    detection_alpha: float = 20.0,
    plan: Plan | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress,
    task: str = "cell2location",
    checkpoint: Checkpoint | None = None,
) -> Posterior:
    """Fit cell2location [1]_ to the spots of one or more sections.

    The model, its priors and its guide are cell2location's own; all spots make one batch. The posterior is a product of
    independent distributions whose quantiles are known, so nothing is sampled for them.

    Parameters
    ----------
    counts
        Raw counts, shape (n_spots, n_genes).
    signatures
        Mean counts per cell, shape (n_genes, n_types).
    batches
        Number of the section of each spot, from 0, shape (n_spots,).
    start
        Weights to begin from, shape (n_spots, n_types), such as those of `poisson_deconvolve`; they are scaled to
        ``cells_per_spot``.
    cells_per_spot
        Cells that a spot is expected to have (``N_cells_per_location``).
    detection_alpha
        How alike the spots of a section detect RNA (see `histomix.abundance.label`).
    plan
        Learning rate and stopping; None: `Plan` as it stands.
    seed, threads
        The same seed and number of threads give the same bits.
    progress, task, checkpoint
        See `histomix.abundance.deconvolve.svi.fit_guide`.

    Raises
    ------
    MissingExtraError
        cell2location is not installed.
    LabelError
        Counts or signatures cannot be used, or the fit lost its way.
    InputError
        There is too little memory.

    References
    ----------
    .. [1] V. Kleshchevnikov et al., Nat. Biotechnol. 40, 661 (2022), doi:10.1038/s41587-021-01139-4.
    """
    table = check_counts(counts)
    signature = check_signatures(signatures, table.shape[1])
    if signature.shape[1] < 2:
        raise LabelError("one cell type cannot be told from others", hint="Give a reference of two types or more")
    n_spots, n_genes = table.shape[0], table.shape[1]
    needed, available = memory_needed(n_spots, n_genes, signature.shape[1]), available_memory()
    if available is not None and needed > available:
        raise InputError(
            f"cell2location on {n_spots:,} spots x {n_genes:,} genes needs about {needed / 1e9:.2g} GB of memory, and "
            f"{available / 1e9:.2g} GB are available",
            hint='Use fewer genes (n_genes), or fit sections one by one (fit="section")',
        )
    if checkpoint is not None:
        # A state that came of another start is of another fit.
        identity = digest_json([checkpoint.identity, digest_bytes(np.ascontiguousarray(start).tobytes())])
        checkpoint = replace(checkpoint, identity=identity)
    with isolated_torch(seed, threads):
        import torch

        module = _module(table, signature, batches, start, cells_per_spot, detection_alpha)
        whole = (
            torch.from_numpy(table.toarray().astype(np.float32)),
            torch.arange(table.shape[0]),
            torch.from_numpy(np.asarray(batches, dtype=np.int64))[:, None],
        )
        losses = fit_guide(module, lambda: [whole], plan or Plan(), progress, task, checkpoint)
        _, sd = moments(module.guide, "w_sf")
        at = _summaries(module.guide)
        return Posterior(at(_Q05), at(0.0), sd, _proportion_sd(at, sd.shape, seed), losses)


def memory_needed(n_spots: int, n_genes: int, n_types: int) -> int:
    """Bytes that a fit takes at its peak."""
    return 4 * n_spots * (_ARRAYS * n_genes + _SMALL_ARRAYS * (n_types + _GROUPS))


def most_specific_genes(signatures: Array, count: int) -> NDArray[np.intp]:
    """Positions, in order, of the genes that tell most about the cell type.

    A gene's score is its part in the mutual information between the gene of a transcript and the type of its cell,
    all types taken as equally frequent and equally deep: how much of the transcriptome it is, times how far (as a
    Kullback-Leibler divergence) the types that have it differ from all types.
    """
    n_genes, n_types = signatures.shape
    if count >= n_genes:
        return np.arange(n_genes)
    joint = signatures / signatures.sum(axis=0) / n_types
    gene = joint.sum(axis=1, keepdims=True)
    ratio = np.divide(joint * n_types, gene, out=np.ones_like(joint), where=joint > 0)
    score = (joint * np.log(ratio)).sum(axis=1)
    return np.sort(np.argsort(-score, kind="stable")[:count])


def _module(
    counts: sparse.csr_matrix,
    signatures: Array,
    batches: NDArray[np.intp],
    start: Array,
    cells_per_spot: float,
    detection_alpha: float,
) -> Any:
    from anndata import AnnData
    from cell2location.models import Cell2location

    adata = AnnData(
        counts.astype(np.float32),
        obs=pd.DataFrame({"section": np.asarray(batches).astype(str)}, index=np.arange(counts.shape[0]).astype(str)),
        var=pd.DataFrame(index=np.arange(counts.shape[1]).astype(str)),
    )
    Cell2location.setup_anndata(adata, batch_key="section")
    weights = start * (cells_per_spot / np.median(start.sum(axis=1)))
    weights = np.maximum(weights, _LEAST_START * weights.mean()).astype(np.float32)
    return Cell2location(
        adata,
        pd.DataFrame(signatures, index=adata.var_names),
        N_cells_per_location=float(cells_per_spot),
        detection_alpha=float(detection_alpha),
        # As is its default, but not the one dictionary that all models would write into.
        detection_hyp_prior={"mean_alpha": 10.0},
        init_vals={"w_sf": weights},
    ).module


def _summaries(guide: Any) -> Callable[[float | NDArray[np.float32]], Array]:
    return lambda deviate: at_deviate(guide, "w_sf", deviate).astype(np.float64)


def _proportion_sd(at: Callable[[Any], Array], shape: tuple[int, ...], seed: int) -> Array:
    """Standard deviation of the proportions, from draws of the posterior (in which the types are independent)."""
    rng = np.random.default_rng(seed)
    total, square = np.zeros(shape), np.zeros(shape)
    for _ in range(_DRAWS):
        cells = at(rng.standard_normal(shape).astype(np.float32))
        proportions = cells / cells.sum(axis=1, keepdims=True)
        total, square = total + proportions, square + proportions**2
    return np.sqrt(np.maximum(square / _DRAWS - (total / _DRAWS) ** 2, 0))
