"""From shared counts to labels in a unit: spot by spot (the fast methods), or sections together (cell2location)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from ..common.words import counted
from ..errors import LabelError
from ..progress import Progress
from .deconvolve.cell2location import Posterior, fit_spots, most_specific_genes
from .deconvolve.nnls import nnls_deconvolve
from .deconvolve.poisson import poisson_deconvolve, poisson_in_strides, poisson_labels
from .deconvolve.reliability import label_reliability, thin
from .deconvolve.svi import Checkpoint
from .genes import gene_floor
from .options import Options
from .sections import MatchedCounts
from .signatures import Signatures

Array = NDArray[np.float64]

#: Methods that fit the spots of a section by themselves: counts (spots x genes), signatures (genes x types) -> weights.
FAST = ("poisson", "nnls")
#: The fits of one group of sections: all counts, and two halves of them for a reliability of its own.
PASSES = ("all counts", "first half", "second half")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of one section before they are in `Abundance`; tables of spots x cell types."""

    values: pd.DataFrame
    sd: pd.DataFrame | None
    median: pd.DataFrame | None
    reliability: pd.Series
    facts: dict[str, Any] = field(default_factory=dict)

    def scaled(self, factor: float) -> Labels:
        """The same with all weights times a factor."""
        return replace(self, values=self.values * factor, sd=None if self.sd is None else self.sd * factor)


def deconvolver(
    method: str, seed: int, threads: int | None = None, *, in_strides: bool = False
) -> Callable[[Any, Any], Array]:
    """A fast method by its name; Poisson ``in_strides`` for what has more error than that costs: a reliability."""
    if method == "nnls":
        return nnls_deconvolve
    return partial(poisson_in_strides if in_strides else poisson_deconvolve, seed=seed, threads=threads)


def label_fast(
    method: str,
    matched: MatchedCounts,
    signatures: Signatures,
    unit: str,
    seed: int,
    threads: int | None,
    progress: Progress,
) -> Labels:
    """Labels of one section by a fast method: proportions, or weights whose scale is still to come."""
    filled = _filled(matched)
    counts, signature = matched.counts[filled], signatures.table.to_numpy()[matched.genes]
    proportions = unit == "proportion"
    table = partial(pd.DataFrame, index=matched.keys[filled], columns=signatures.table.columns)
    spread = None
    if method == "poisson":
        weights, sd = poisson_labels(
            counts,
            signature,
            seed=seed,
            proportions=proportions,
            threads=threads,
            progress=progress,
            task=f"label {matched.name}",
        )
        spread = table(sd)
    else:
        weights = deconvolver(method, seed, threads)(counts, signature)
    values = table(weights / weights.sum(axis=1, keepdims=True) if proportions else weights)
    reliability = label_reliability(
        counts,
        signature,
        deconvolver(method, seed, threads, in_strides=True),
        seed,
        proportions=proportions,
        progress=progress,
        task=f"reliability of {matched.name}",
    )
    return Labels(
        values,
        spread,
        None,
        pd.Series(reliability, signatures.table.columns),
        {**matched.facts, "spots_without_counts": list(matched.keys[~filled]), "reliability_of": method},
    )


def label_together(
    sections: list[MatchedCounts],
    signatures: Signatures,
    options: Options,
    unit: str,
    cells_per_spot: float,
    *,
    min_genes: int | None,
    seed: int,
    threads: int | None,
    progress: Progress,
    checkpoint: Callable[[str], Checkpoint | None],
) -> list[Labels]:
    """Labels of sections by one fit of cell2location, each section a batch, in the order given.

    ``checkpoint`` gives the file that keeps the state of each of the `PASSES`.
    """
    sections, signature, genes = _common(sections, signatures, options.n_genes, min_genes)
    filled = [_filled(section) for section in sections]
    counts = [section.counts[rows] for section, rows in zip(sections, filled, strict=True)]
    sizes = [table.shape[0] for table in counts]
    named = ", ".join(section.name for section in sections[:3]) + (", ..." if len(sections) > 3 else "")
    fast = deconvolver("poisson", seed, threads)

    def fit(tables: list[sparse.csr_matrix], kind: str) -> Posterior:
        start = [_start(fast(table, signature)) for table in tables]
        return fit_spots(
            sparse.vstack(tables, format="csr"),
            signature,
            np.repeat(np.arange(len(sizes)), sizes),
            np.concatenate(start),
            cells_per_spot,
            detection_alpha=options.detection_alpha,
            plan=options.plan,
            seed=seed,
            threads=threads,
            progress=progress,
            task=f"cell2location {named} ({kind})",
            checkpoint=checkpoint(kind),
        )

    posterior = fit(counts, PASSES[0])
    proportions = unit == "proportion"
    if options.reliability == "own":
        rng = np.random.default_rng(seed)
        firsts = [thin(table, 0.5, rng) for table in counts]
        rests = [table - first for table, first in zip(counts, firsts, strict=True)]
        halves = [fit(firsts, PASSES[1]), fit(rests, PASSES[2])]
    labels = []
    for number, (section, rows) in enumerate(zip(sections, filled, strict=True)):
        own = slice(sum(sizes[:number]), sum(sizes[: number + 1]))
        if options.reliability == "own":
            # The halves were fitted with the other sections, so their results are handed over, one after the other.
            results = iter([_summary(half, options, proportions)[own] for half in halves])
            reliability = label_reliability(
                counts[number], signature, partial(_next, results), seed, 1, proportions=proportions
            )
        else:
            deconvolve = deconvolver("poisson", seed, threads, in_strides=True)
            reliability = label_reliability(counts[number], signature, deconvolve, seed, proportions=proportions)
        table = partial(pd.DataFrame, index=section.keys[rows], columns=signatures.table.columns)
        values = _summary(posterior, options, proportions)[own]
        facts = {
            **section.facts,
            "spots_without_counts": list(section.keys[~rows]),
            "genes_used": len(genes),
            "cells_per_spot_expected": cells_per_spot,
            "epochs": len(posterior.losses),
            "elbo": -posterior.losses[-1],
            "reliability_of": "cell2location" if options.reliability == "own" else "poisson",
        }
        labels.append(
            Labels(
                table(values / values.sum(axis=1, keepdims=True) if proportions else values),
                table((posterior.proportion_sd if proportions else posterior.sd)[own]),
                None if proportions else table(posterior.median[own]),
                pd.Series(reliability, signatures.table.columns),
                facts,
            )
        )
    return labels


def _common(
    sections: list[MatchedCounts], signatures: Signatures, n_genes: int, min_genes: int | None
) -> tuple[list[MatchedCounts], Array, NDArray[np.intp]]:
    """The sections in the most specific of the genes that all share, and the signatures in these."""
    genes = reduce(np.intersect1d, [section.genes for section in sections])
    floor = gene_floor(signatures, min_genes)
    if len(genes) < floor:
        raise LabelError(
            f"the {len(sections)} sections that are fitted together share {len(genes)} genes with the reference and "
            f"each other; {floor} are needed",
            hint='Fit sections one by one (fit="section"), or give sections with the same genes',
        )
    table = signatures.table.to_numpy()
    # A type without counts in these genes is refused by the fit, with its own words; here it only has no score.
    seen = table[genes][:, table[genes].any(axis=0)]
    genes = genes[most_specific_genes(seen, n_genes)]
    return [section.of_genes(genes) for section in sections], table[genes], genes


def _filled(matched: MatchedCounts) -> NDArray[np.bool_]:
    filled = matched.filled
    if not filled.all():
        lost = counted(int((~filled).sum()), "spot")
        _log.info("%s: no label for %s without counts in the shared genes", matched.name, lost)
    return filled


def _start(weights: Array) -> Array:
    # Sections differ in depth, which the fit explains by detection, not by cells. A half may have spots without counts.
    total = weights.sum(axis=1)
    return weights / (np.median(total[total > 0]) if (total > 0).any() else 1.0)


def _summary(posterior: Posterior, options: Options, proportions: bool) -> Array:
    # Shares of 5 % quantiles would favour the types that are known best.
    return posterior.median if proportions or options.summary == "median" else posterior.q05


def _next(results: Any, counts: Any, signatures: Any) -> Array:
    return next(results)
