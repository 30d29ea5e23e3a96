"""Labels of generated sections of the size that people have: time, memory, and a pair with the method on dense tables.

Counts are over-dispersed (a gamma of shape 2 on every mean), spots unequally deep, genes lognormal over five orders of
magnitude, one gene in thirty a marker of a type.
"""

from __future__ import annotations

import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from dense_poisson import dense_labels
from numpy.typing import NDArray
from scipy import sparse

from histomix.abundance import label
from histomix.abundance.deconvolve.poisson import poisson_labels
from histomix.spots import read_cohort

#: Sections, spots of each, and counts of a spot.
SIZES = {"visium": (1, 4000, 6000), "hd": (1, 100_000, 250), "visium10": (10, 5000, 6000)}
GENES, TYPES = 18_000, 40


def made_signatures(n_genes: int = GENES, n_types: int = TYPES) -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    table = rng.lognormal(0, 2, (n_genes, 1)) * np.exp(rng.normal(0, 0.7, (n_genes, n_types)))
    table *= 1 + 9 * (rng.random(table.shape) < 1 / 30)
    return table / table.sum(axis=0) * 8000


def made_counts(n_spots: int, depth: float, signatures: NDArray[np.float64], seed: int) -> sparse.csr_matrix:
    rng = np.random.default_rng([seed, 1])
    blocks = []
    for start in range(0, n_spots, 500):
        shares = rng.dirichlet(np.full(signatures.shape[1], 0.2), min(500, n_spots - start))
        mean = shares @ signatures.T
        mean *= (depth * rng.lognormal(0, 0.4, len(mean)) / mean.sum(axis=1))[:, None]
        blocks.append(sparse.csr_matrix(rng.poisson(mean * rng.gamma(2, 0.5, mean.shape)).astype(np.float32)))
    return sparse.vstack(blocks, format="csr")


def measure_made(size: str, spots: int | None, pair: int, rounds: int) -> None:
    """Print the pair, then what `label` takes for all sections, again after that, and the peak of the memory."""
    n_sections, n_spots, depth = SIZES[size]
    n_spots = spots or n_spots
    signatures = made_signatures()
    few = made_counts(pair, depth, signatures, 99)
    ratios, cost = [], []
    for _ in range(rounds):
        start, used = time.perf_counter(), _used()
        weights, spread, model = dense_labels(few, signatures)
        middle, half = time.perf_counter(), _used()
        ours, sd = poisson_labels(few, signatures)
        end, full = time.perf_counter(), _used()
        ratios.append((middle - start) / (end - middle))
        cost.append((half - used) / (full - half))
    apart = np.abs(ours / ours.sum(axis=1, keepdims=True) - weights / weights.sum(axis=1, keepdims=True)).max()
    print(
        f"{pair} spots ({few.nnz / pair:.0f} of {GENES} genes a spot, {model.updates} updates): dense tables took "
        f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}) times the time and "
        f"{statistics.median(cost):.1f} times the processor time; shares differ by {apart:.1e}, spreads by "
        f"{np.abs(sd - spread).max():.1e} at most",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        names = [f"S{number}" for number in range(n_sections)]
        sheet = _written(Path(folder), names, n_spots, depth, signatures)
        reference = pd.DataFrame(signatures, [f"G{gene}" for gene in range(GENES)], [f"T{one}" for one in range(TYPES)])
        for again in ("labelled", "resumed"):
            start, used = time.perf_counter(), _used()
            label(read_cohort(sheet), "poisson", reference, out=Path(folder) / "labels")
            wall, own = time.perf_counter() - start, _used() - used
            print(f"{n_sections} x {n_spots:,} spots {again}: {wall:.1f} s, {own:.1f} s of processor time", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MiB; load of the machine {os.getloadavg()[0]:.1f}")


def _written(folder: Path, names: list[str], n_spots: int, depth: float, signatures: NDArray[np.float64]) -> Path:
    side = int(np.ceil(np.sqrt(n_spots)))
    for number, name in enumerate(names):
        adata = anndata.AnnData(
            made_counts(n_spots, depth, signatures, number),
            obs=pd.DataFrame(index=[f"{at % side}x{at // side}" for at in range(n_spots)]),
            var=pd.DataFrame(index=[f"G{gene}" for gene in range(GENES)]),
        )
        adata.obsm["spatial"] = np.stack(np.divmod(np.arange(n_spots), side), axis=1)[:, ::-1] * 100.0
        adata.write_h5ad(folder / f"{name}.h5ad")
    rows = {"section": names, "donor": names, "spots": [folder / f"{name}.h5ad" for name in names], "image": ""}
    pd.DataFrame(rows).to_csv(folder / "sheet.csv", index=False)
    return folder / "sheet.csv"


def _used() -> float:
    own = os.times()
    return own.user + own.system
