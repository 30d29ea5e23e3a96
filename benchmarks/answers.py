"""Answers on donors that had no part in a head at all: how many of them are wrong, and how fine they are.

Each donor of the phantom is read at its spots by a head that was trained on the others, groups and all; where
HISTOMIX_DATA is set, each of her2st C2, C3 and C4 by a head of the other two (sections of one patient). Printed are
means over donors with their 95 % intervals: the share of spots that are answered; of the answers the share whose
interval misses the label (the false discovery rate, to be at most .10), and the share that hold the label's commonest
cell type; and how many cell types an answer stands for. Scope is left out of it: every spot may be answered.

    python benchmarks/answers.py [--head ridge] [--donors 8] [--size-um 1300] [--folder WORK]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from heads import her2st

import histomix as hm
from histomix.common.resampling import mean_and_interval, resample_weights
from histomix.embedding import read_features

PHANTOM = {
    **dict.fromkeys(["Cancer epithelial", "Normal epithelial"], "Epithelial"),
    **dict.fromkeys(["T cells", "B cells", "Macrophages"], "Immune"),
    **dict.fromkeys(["Fibroblasts", "Endothelial", "Adipocytes"], "Stroma"),
}
HER2ST = {
    **dict.fromkeys(["B-cells", "T-cells", "Plasma Cells", "Myeloid"], "Immune"),
    **dict.fromkeys(["CAFs", "Endothelial", "PVL"], "Stroma"),
}


def judged(
    sheet: Path, features: Mapping[str, Any], labels: Mapping[str, Any], by: str, head: str, parents: Any
) -> pd.DataFrame:
    """One row a held-out donor (or section): answered, missed, holds, types."""
    table = pd.read_csv(sheet)
    places = {
        name: (sheet.parent / table[name].astype(str)).astype(str)
        for name in ("spots", "image", "counts", "labels")
        if name in table
    }
    table = table.assign(**places)
    rows = []
    for left in dict.fromkeys(table[by]):
        part = sheet.with_name(f"without-{left}.csv")
        table[table[by] != left].to_csv(part, index=False)
        kept = hm.read_cohort(part).names
        trained = hm.train(
            part, {name: features[name] for name in kept}, {name: labels[name] for name in kept},
            head=head, hierarchy=parents, progress=False,
        )  # fmt: skip
        part.unlink()
        rule = trained.answer_rule
        for name in table.loc[table[by] == left, "section"]:
            values = trained.predict_features(features[name])
            label = labels[name].values.reindex(values.index).dropna()
            values = values.loc[label.index]
            found = rule.answers(values.to_numpy(), np.ones(len(values), bool))
            told = found.node >= 0
            share = label.to_numpy() / label.to_numpy().sum(axis=1, keepdims=True)
            truth = rule.hierarchy.sums(share)[np.flatnonzero(told), found.node[told]]
            missed = (truth < found.lower[told]) | (truth > found.upper[told])
            members = [rule.hierarchy.nodes[node].members for node in found.node[told]]
            holds = [one in group for one, group in zip(share[told].argmax(axis=1).tolist(), members, strict=True)]
            rows.append(
                {
                    "left out": left,
                    "answered": told.mean(),
                    "missed": missed.mean() if told.any() else np.nan,
                    "holds": np.mean(holds) if told.any() else np.nan,
                    "types": np.mean([len(group) for group in members]) if told.any() else np.nan,
                }
            )
    return pd.DataFrame(rows).groupby("left out", sort=False).mean()


def line(title: str, found: pd.DataFrame) -> str:
    """A row of the table."""
    groups = np.arange(len(found))
    weights, cells = resample_weights(groups, 0), []
    for name in ("answered", "missed", "holds", "types"):
        entry = mean_and_interval(found[name].to_numpy(float), weights, groups)
        low, high = entry["low"], entry["high"]
        cells.append(f"{entry['mean']:.3f}" + ("" if low is None else f" ({max(low, 0):.3f} to {high:.3f})"))
    return f"| {title} | {len(found)} | {' | '.join(cells)} | {found['missed'].max():.2f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head", default="ridge")
    parser.add_argument("--donors", type=int, default=8)
    parser.add_argument("--size-um", type=float, default=1300)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    print("| cohort and groups | held out | answered | missed | hold the commonest | types an answer | worst missed |")
    print("|---|---|---|---|---|---|---|")
    size = (args.size_um, args.size_um)
    sheet = hm.make_phantom(
        folder / "phantom", seed=11, donors=args.donors, sections_per_donor=1, size_um=size, progress=False
    )
    labels = hm.label(sheet, reference=sheet.parent / "reference.csv", out=folder / "labels", progress=False)
    hm.embed(sheet, out=folder / "features", progress=False)
    for words, parents in (("of the labels", None), ("of the user", PHANTOM)):
        found = judged(sheet, read_features(folder / "features"), labels, "donor", args.head, parents)
        print(line(f"phantom, groups {words}", found), flush=True)
    data = os.environ.get("HISTOMIX_DATA")
    if not data:
        return
    (folder / "her2st").mkdir(exist_ok=True)
    cohort = her2st(folder / "her2st", Path(data).resolve() / "her2st")
    hm.embed(cohort, out=folder / "her2st-features", progress=False)
    labels = hm.label(cohort, method="table", progress=False)
    sheet = folder / "her2st" / "her2st.csv"
    for words, parents in (("of the labels", None), ("of the user", HER2ST)):
        found = judged(sheet, read_features(folder / "her2st-features"), labels, "section", args.head, parents)
        print(line(f"her2st C2 to C4, one patient, groups {words}", found), flush=True)


if __name__ == "__main__":
    main()
