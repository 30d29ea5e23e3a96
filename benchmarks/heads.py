"""Heads beside ridge on the same features: correlation with the labels on unseen donors or sections, and cost.

The phantom is scored with donors held out, against its labels and against its truth. Where HISTOMIX_DATA is set, her2st
C2, C3 and C4 are scored with sections held out (one patient: optimistic), against the published proportions of 8 types.
Every head is run with 5 seeds; figures are the median over seeds, with the least and the greatest in brackets.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

import histomix as hm
from histomix.datasets import phantom_truth

SEEDS = range(5)
HEADS = ("mean", "ridge", "knn", "mlp")


def spread(values: list[float], digits: int = 3) -> str:
    """Median, and the range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def run(title: str, cohort: hm.Cohort, labels: Any, folds: str, truth: Any = None) -> None:
    """Print one table."""
    features = hm.embed(cohort)
    results = [hm.evaluate(cohort, features, labels, HEADS, folds, truth, seed=seed).summary for seed in SEEDS]
    first = results[0]
    counts = f"{first['n_donors']} donors, {first['n_sections']} sections, {first['n_spots']} spots"
    print(f"\n{title}: {folds} folds ({first['protocol_means']}); {counts}, {len(first['cell_types'])} types")
    print(f"{len(results)} seeds: median (least to greatest)")
    rows = {}
    for head in first["scores"].get("truth", first["scores"]["label"]):
        row = {}
        for target in first["scores"]:
            scores = [result["scores"][target].get(head) for result in results]
            if scores[0] is not None:
                row[f"Pearson, {target}"] = spread([score["pearson"]["mean"] for score in scores])
                if "vs_ridge" in scores[0]["pearson"]:
                    paired = scores[0]["pearson"]["vs_ridge"]
                    row[f"minus ridge, {target}"] = (
                        f"{paired['mean']:+.3f} ({paired['low']:+.3f} to {paired['high']:+.3f})"
                    )
        if head in first["cost"]:
            row["fit, s"] = spread([result["cost"][head]["fit_seconds"] for result in results], 1)
        rows[head] = row
    print(pd.DataFrame.from_dict(rows, orient="index").fillna("").to_string())
    print(f"minus ridge: paired, seed 0, with its interval ({first['interval']['method']})")


def her2st(folder: Path, data: Path) -> hm.Cohort:
    """C2, C3 and C4 with the published proportions."""
    rows = [
        {
            "section": name,
            "donor": name[0],
            "spots": data / "spots" / f"{name}_selection.tsv",
            "image": data / "images" / f"{name}.jpg",
            "mpp": 0.69,
            "labels": data / "proportions" / "major" / f"{name}.tsv.gz",
            "label_unit": "proportion",
        }
        for name in ("C2", "C3", "C4")
    ]
    pd.DataFrame(rows).to_csv(folder / "her2st.csv", index=False)
    return hm.read_cohort(folder / "her2st.csv")


def main() -> None:
    """Run both cohorts."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cohort = hm.read_cohort(hm.make_phantom(folder / "phantom"))
        labels = hm.label(cohort, reference=folder / "phantom" / "reference.csv")
        run("phantom", cohort, labels, "donor", phantom_truth(folder / "phantom"))
        data = os.environ.get("HISTOMIX_DATA")
        if data:
            real = her2st(folder, Path(data).resolve() / "her2st")
            run("her2st C2, C3, C4", real, hm.label(real, method="table"), "section")
        else:
            print("\nher2st: skipped, HISTOMIX_DATA is not set")


if __name__ == "__main__":
    main()
