"""Speed of the labels on the shared her2st sections, and their agreement with the published stereoscope proportions.

    HISTOMIX_DATA=... python benchmarks/labels.py [--repeats 3] [--sections A2,B1]

Prints, per method, seconds for all sections with and without reading the counts (median, and least to most of the
repeats), the processor time of the labels alone, which other work on the machine changes less, and the Pearson
correlation with stereoscope's eight major types: per type, and per section (mean, least to most).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import pandas as pd

from histomix.abundance import Abundance, label, read_abundance
from histomix.spots import Cohort, Section, read_cohort

#: Names of the reference -> names of stereoscope; two types of the reference are one of stereoscope's.
NAMES = {
    "Cancer Epithelial": "Epithelial",
    "Normal Epithelial": "Epithelial",
    "Plasmablasts": "Plasma Cells",
}
METHODS = ("poisson", "nnls")


class InMemory:
    """A cohort whose sections were read beforehand, to time the labels alone."""

    def __init__(self, cohort: Cohort) -> None:
        self.sheet = cohort.sheet
        self.names = cohort.names
        self._sections = {section.name: section for section in cohort}

    def section(self, name: str, counts: bool = True) -> Section:
        return self._sections[name]


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


def agreement(labels: dict[str, Abundance], folder: Path) -> pd.DataFrame:
    """Pearson correlation over the spots of each section: sections x types."""
    rows = {}
    for name, table in labels.items():
        path = folder / f"{name}.tsv.gz"
        if path.exists():
            published = read_abundance(path, "proportion").values
            ours = table.values.rename(columns=NAMES).T.groupby(level=0).sum().T
            spots = ours.index.intersection(published.index)
            rows[name] = ours.loc[spots].corrwith(published.loc[spots])
    return pd.DataFrame(rows).T


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sections", help="names, with commas between; all by default")
    arguments = parser.parse_args()
    root = Path(os.environ["HISTOMIX_DATA"])
    data, reference = root / "her2st", root / "reference" / "wu2021_brca_major_dwls.csv"
    with tempfile.TemporaryDirectory() as folder:
        cohort = her2st(data, Path(folder), arguments.sections.split(",") if arguments.sections else None)
        loaded = InMemory(cohort)
        for method in METHODS:
            alone, whole, processor = [], [], []
            for _ in range(arguments.repeats):
                start, busy = time.perf_counter(), time.process_time()
                labels = label(loaded, method, reference)  # type: ignore[arg-type]
                alone.append(time.perf_counter() - start)
                processor.append(time.process_time() - busy)
                start = time.perf_counter()
                label(cohort, method, reference)
                whole.append(time.perf_counter() - start)
            spots = sum(len(table.values) for table in labels.values())
            found = agreement(labels, data / "proportions" / "major")
            per_section = found.mean(axis=1)
            print(f"{method}: {len(labels)} sections, {spots} spots, {arguments.repeats} repeats")
            print(f"  without reading: {spread(alone)}, {spots / statistics.median(alone):.0f} spots/s")
            print(f"  processor, without reading: {spread(processor)}")
            print(f"  with reading: {spread(whole)}, {spots / statistics.median(whole):.0f} spots/s")
            types = f"{len(found)} sections, {found.shape[1]} types"
            print(f"  Pearson with stereoscope ({types}): {per_section.mean():.3f}")
            print(f"    per section {per_section.min():.3f} to {per_section.max():.3f}, NaN {found.isna().sum().sum()}")
            print("    " + ", ".join(f"{cell_type} {value:.3f}" for cell_type, value in found.mean().items()))


if __name__ == "__main__":
    main()
