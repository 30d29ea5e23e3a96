"""What stopping cell2location early costs: short fits of her2st sections against a long one.

    HISTOMIX_DATA=... python benchmarks/cell2location_stopping.py [--sections D5,B1] [--epochs 100,300,600]
        [--long 3000] [--genes 300,1000,3000] [--seeds 2] [--threads 1]

The long run takes steps a quarter as large. Prints, per section, number of genes, start, epochs and seed: epochs taken,
seconds, nanoseconds per spot, gene and epoch, the Pearson correlation with the long run (mean over the types) of
proportions and of 5 % quantiles, the median total abundance and its ratio to that of the long run. What two seeds agree
is the noise that no length of the fit removes. The peak memory is that of the whole process, libraries included.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from histomix.abundance import fit_spots, most_specific_genes, poisson_deconvolve, read_reference
from histomix.abundance.cells import expected_cells
from histomix.abundance.deconvolve.cell2location import Posterior
from histomix.abundance.deconvolve.svi import Plan
from histomix.abundance.sections import matched_counts
from histomix.progress import silent
from histomix.spots import Section, read_cohort

LONG = Plan(lr=0.005, max_epochs=3000, patience=10**9)


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T, strict=True)]))


def shares(values: np.ndarray) -> np.ndarray:
    return values / values.sum(axis=1, keepdims=True)


class Bench:
    """One section with some genes of the reference."""

    def __init__(self, section: Section, reference: Path, n_genes: int, threads: int) -> None:
        signatures = read_reference(reference)
        shared = matched_counts(section, signatures, None)
        table = signatures.table.to_numpy()
        genes = np.sort(shared.genes)
        genes = genes[most_specific_genes(table[genes], n_genes)]
        shared = shared.of_genes(genes)
        self.counts, self.signatures = shared.counts[shared.filled], table[genes]
        self.fast = poisson_deconvolve(self.counts, self.signatures)
        self.cells = expected_cells(section.spot_diameter_um)
        self.threads = threads

    def fit(self, plan: Plan, seed: int, fast_start: bool = True) -> tuple[Posterior, float]:
        began = time.perf_counter()
        start = self.fast if fast_start else np.ones_like(self.fast)
        batches = np.zeros(len(start), dtype=np.intp)
        posterior = fit_spots(
            self.counts, self.signatures, batches, start, self.cells, plan=plan, seed=seed, threads=self.threads,
            progress=silent,
        )  # fmt: skip
        return posterior, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", default="D5")
    parser.add_argument("--epochs", default="100,300,600")
    parser.add_argument("--genes", default="3000")
    parser.add_argument("--long", type=int, default=LONG.max_epochs)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    root = Path(os.environ["HISTOMIX_DATA"])
    names = given.sections.split(",")
    with tempfile.TemporaryDirectory() as folder:
        sheet = Path(folder) / "sheet.csv"
        data = root / "her2st"
        rows = [f"{n},{n[0]},{data}/spots/{n}_selection.tsv,{data}/counts/{n}.tsv.gz," for n in names]
        sheet.write_text("\n".join(["section,donor,spots,counts,image", *rows]))
        sections = list(read_cohort(sheet))
    print("section  genes start   epochs seed  took seconds  ns/step  shares    q05  total ratio")
    for section in sections:
        for n_genes in map(int, given.genes.split(",")):
            bench = Bench(section, root / "reference" / "wu2021_brca_major_dwls.csv", n_genes, given.threads)
            size = bench.counts.shape[0] * bench.counts.shape[1]
            long, seconds = bench.fit(Plan(LONG.lr, given.long, LONG.patience), 0)
            total = float(np.median(long.median.sum(axis=1)))
            named = f"{section.name:8} {bench.counts.shape[1]:5}"
            print(f"{named} fast   long {given.long} in {seconds:.0f} s, total {total:.2f}")
            print(
                f"{'':14} fast weights against the long run: {agreement(shares(bench.fast), shares(long.median)):.3f}"
            )
            runs = [(epochs, seed, True) for epochs in map(int, given.epochs.split(",")) for seed in range(given.seeds)]
            runs.append((300, 0, False))
            medians: dict[tuple[int, int, bool], np.ndarray] = {}
            for epochs, seed, fast_start in runs:
                found, seconds = bench.fit(Plan(max_epochs=epochs), seed, fast_start)
                medians[epochs, seed, fast_start] = shares(found.median)
                level = float(np.median(found.median.sum(axis=1)))
                taken = len(found.losses)
                pace = seconds / taken / size * 1e9
                begun = "fast" if fast_start else "even"
                close = agreement(shares(found.median), shares(long.median))
                print(
                    f"{named} {begun:5} {epochs:7} {seed:4} {taken:5} {seconds:7.1f} {pace:8.0f} "
                    f"{close:7.3f} {agreement(found.q05, long.q05):6.3f} {level:6.2f} {level / total:5.2f}",
                    flush=True,
                )
                if seed == 1:
                    print(f"{'':14} two seeds, {epochs}: {agreement(*(medians[epochs, s, True] for s in (0, 1))):.3f}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
