"""Labels of the shared her2st sections: methods x sections, with agreement, ceiling, seconds and memory.

    HISTOMIX_DATA=... python benchmarks/labels.py [--sections A2,B1] [--methods poisson,nnls] [--cell2location]

    python benchmarks/labels.py --size visium|hd|visium10 [--spots N] [--pair N] [--rounds N]

Sections of generated counts need no data: `made_sections.py`.

Each method labels in a process of its own, from the table of signatures. Printed per section: the Pearson correlation
over its spots with the published stereoscope proportions (eight major types, mean), that between methods, and the
ceiling: the mean reliability of the labels over the types of the reference. Printed per method: the means over
sections, seconds in all (reading the counts, labels, spread and reliability), seconds of the labels alone (median of
the repeats, least to most; fast methods only) and the peak memory of the process. Then the agreement by type.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from made_sections import SIZES, measure_made
from scipy import sparse

from histomix.abundance import (
    Abundance,
    label,
    match_genes,
    nnls_deconvolve,
    poisson_deconvolve,
    read_abundance,
    read_reference,
)
from histomix.spots import Cohort, read_cohort

#: Names of the reference -> names of stereoscope; two types of the reference are one of stereoscope's.
NAMES = {
    "Cancer Epithelial": "Epithelial",
    "Normal Epithelial": "Epithelial",
    "Plasmablasts": "Plasma Cells",
}
SOLVERS = {"poisson": poisson_deconvolve, "nnls": nnls_deconvolve}


@dataclass
class Measured:
    """One method: its labels, and what they cost."""

    labels: dict[str, Abundance]
    seconds: float
    alone: list[float]
    peak_mb: float


def her2st(data: Path, folder: Path, names: list[str] | None) -> Cohort:
    """The shared sections as a cohort, with a sheet in ``folder``."""
    found = names or sorted(path.name.split(".")[0] for path in (data / "counts").glob("*.tsv.gz"))
    rows = [
        {
            "section": name,
            "donor": name[0],
            "spots": data / "spots" / f"{name}_selection.tsv",
            "counts": data / "counts" / f"{name}.tsv.gz",
            "image": "",
        }
        for name in found
    ]
    sheet = folder / "sheet.csv"
    pd.DataFrame(rows).to_csv(sheet, index=False)
    return read_cohort(sheet)


def measure(method: str, sheet: Path, reference: Path, repeats: int) -> Measured:
    """Label all sections; runs in a process of its own, so that the peak of its memory is that of the method."""
    cohort = read_cohort(sheet)
    start = time.perf_counter()
    # All in one unit: cell2location counts cells, of which proportions are derived.
    labels = label(cohort, method, reference, unit="proportion")
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Measured(labels, seconds, solve(method, cohort, reference, repeats) if method in SOLVERS else [], peak)


def solve(method: str, cohort: Cohort, reference: Path, repeats: int) -> list[float]:
    """Seconds of the labels alone: counts in memory, no spread and no reliability."""
    table = read_reference(reference).table
    work = []
    for name in cohort.names:
        adata = cohort.section(name).adata
        match = match_genes(adata.var_names, table.index)
        work.append((sparse.csr_matrix(adata.X)[:, match.in_section], table.to_numpy()[match.in_reference]))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        for counts, signatures in work:
            SOLVERS[method](counts, signatures)
        seconds.append(time.perf_counter() - start)
    return seconds


def major(table: Abundance) -> pd.DataFrame:
    """Labels by the names of stereoscope."""
    return table.values.rename(columns=NAMES).T.groupby(level=0).sum().T


def agreement(first: pd.DataFrame, second: pd.DataFrame) -> pd.Series:
    """Pearson correlation of each type over the common spots."""
    spots = first.index.intersection(second.index)
    return first.loc[spots].corrwith(second.loc[spots])


def with_published(labels: dict[str, Abundance], folder: Path) -> pd.DataFrame:
    """Agreement with stereoscope: sections x types."""
    published = {name: folder / f"{name}.tsv.gz" for name in labels}
    return pd.DataFrame(
        {
            name: agreement(major(labels[name]), read_abundance(path, "proportion").values)
            for name, path in published.items()
            if path.exists()
        }
    ).T


def ceiling(table: Abundance) -> float:
    return float("nan") if table.reliability is None else float(table.reliability.mean())


def show(title: str, table: pd.DataFrame) -> None:
    print(f"\n{title}\n{table.to_string(float_format=lambda value: f'{value:.3f}', na_rep='-')}")


def report(found: dict[str, Measured], published: Path) -> None:
    """Print the three tables."""
    scores = {method: with_published(one.labels, published) for method, one in found.items()}
    first = next(iter(found.values())).labels
    sections = pd.DataFrame({"spots": {name: len(table.values) for name, table in first.items()}})
    for method, one in found.items():
        sections[f"{method} - stereoscope"] = scores[method].mean(axis=1)
        sections[f"{method} ceiling"] = {name: ceiling(table) for name, table in one.labels.items()}
    for left, right in itertools.combinations(found, 2):
        a, b = found[left].labels, found[right].labels
        sections[f"{left} - {right}"] = {name: agreement(a[name].values, b[name].values).mean() for name in first}
    show(f"Pearson correlations by section ({len(first)} sections, {sections['spots'].sum()} spots)", sections)
    rows = {}
    for method, one in found.items():
        means = scores[method].mean(axis=1)
        rows[method] = {
            "stereoscope": means.mean(),
            "least": means.min(),
            "most": means.max(),
            "undefined": int(scores[method].isna().sum().sum()),
            "ceiling": sections[f"{method} ceiling"].mean(),
            "seconds": f"{one.seconds:.1f}",
            "alone": spread(one.alone),
            "peak MB": f"{one.peak_mb:.0f}",
        }
    show("Methods, means over sections", pd.DataFrame(rows).T)
    show("Agreement with stereoscope by type", pd.DataFrame({method: table.mean() for method, table in scores.items()}))


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})" if seconds else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", help="names, with commas between; all by default")
    parser.add_argument("--methods", default="poisson,nnls", help="fast methods, with commas between")
    parser.add_argument("--cell2location", action="store_true", help="that too (minutes per donor)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", choices=sorted(SIZES), help="generated sections of this size instead of her2st")
    parser.add_argument("--spots", type=int, help="with --size: fewer spots a section")
    parser.add_argument("--pair", type=int, default=200, help="with --size: spots that dense tables are measured on")
    parser.add_argument("--rounds", type=int, default=3, help="with --size: pairs")
    arguments = parser.parse_args()
    if arguments.size is not None:
        measure_made(arguments.size, arguments.spots, arguments.pair, arguments.rounds)
        return
    methods = arguments.methods.split(",") + (["cell2location"] if arguments.cell2location else [])
    root = Path(os.environ["HISTOMIX_DATA"])
    reference = root / "reference" / "wu2021_brca_major_dwls.csv"
    context = multiprocessing.get_context("spawn")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        names = arguments.sections.split(",") if arguments.sections else None
        cohort = her2st(root / "her2st", Path(folder), names)
        for method in methods:
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                found[method] = pool.submit(measure, method, cohort.sheet, reference, arguments.repeats).result()
    report(found, root / "her2st" / "proportions" / "major")


if __name__ == "__main__":
    main()
