"""Heads that count cells: correlation, error beside the training mean's, and how well the cells of a spot are told.

Labels are the true cells of each spot of the phantom, with donors and with sections held out, and where HISTOMIX_DATA
is set the annotated nuclei of MoNuSAC's tiles, with patients held out. What a head says of spots held out is compared
with the mean of the spots that it was trained on. Totals (all cells of a spot) are those of a card: their error, and
how many times too low or high a donor is read; a head whose error is above the mean's answers in relative abundance.

    python benchmarks/totals.py [FOLDER] [--heads ridge,average] [--only phantom,monusac]

What was embedded is kept in FOLDER, and not made again (`heads.py --cache` shares it).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from heads import embedded, interval, read_monusac

import histomix as hm
from histomix.common.metrics import pearson_by_section, rmse
from histomix.common.resampling import mean_and_interval, resample_weights
from histomix.datasets import phantom_truth
from histomix.evaluation import make_folds
from histomix.heads import TrainingSet, assemble, inner_groups, make_estimator
from histomix.heads.trust.levels import held_out_totals


def held_out(training: TrainingSet, head: str, protocol: str) -> tuple[np.ndarray, np.ndarray]:
    """Predictions of every row by a head that was trained without its fold, and the training mean in their place."""
    values, constant = np.full_like(training.Y, np.nan, dtype=float), np.empty(training.Y.shape)
    for fold in make_folds(training.section, training.donor, protocol):
        here, there = fold.train, fold.test
        section, donor = training.section[here], training.donor[here]
        groups, X = inner_groups(section, donor, training.xy_um[here]), training.seen_from(here).X
        fit = make_estimator(head, training.unit)
        fit.fit(X[here], training.Y[here], groups=groups, positions=training.positions[here])
        values[there] = fit.predict(X[there], training.positions[there])
        constant[there] = training.Y[here].mean(axis=0)
    return values, constant


def tell(title: str, training: TrainingSet, heads: list[str], protocol: str) -> None:
    """Print a table."""
    names, donor = np.unique(training.donor, return_inverse=True)
    sections, first = np.unique(training.section, return_index=True)
    weights = resample_weights(donor[first], 0)
    print(f"\n### {title}, {protocol} held out: {len(names)} donors, {len(sections)} sections, {len(donor)} spots\n")
    columns = ("head", "Pearson", "error of a type, over the mean's", "error of totals, cells", "over the mean's")
    columns += ("Pearson of totals, within sections", "a donor's total, times the true one")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for head in heads:
        values, constant = held_out(training, head, protocol)
        every = pearson_by_section(training.Y, values, training.section)
        places = np.array([row[np.isfinite(row)].mean() if np.isfinite(row).any() else np.nan for row in every])
        error = np.mean(rmse(training.Y, values)) / np.mean(rmse(training.Y, constant))
        told = held_out_totals(training.Y, values, constant, training.donor)
        ours, true = (table.sum(axis=1, keepdims=True) for table in (values, training.Y))
        total = np.nanmean(pearson_by_section(true, ours, training.section))
        print(
            f"| {head} | {interval(mean_and_interval(places, weights, donor[first]))} | {error:.2f} | "
            f"{told['rmse']:.2f} | {told['rmse'] / told['rmse_constant']:.2f} | {total:.3f} | "
            f"{told['least']:.2f} to {told['most']:.2f} |",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="where what was made is kept")
    parser.add_argument("--heads", default="ridge,average", help="names, with commas between them")
    parser.add_argument("--only", default="phantom,monusac", help="cohorts, with commas between them")
    args = parser.parse_args()
    heads = args.heads.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if "phantom" in args.only:
            place = folder / "phantom"
            cohort = hm.read_cohort(hm.make_phantom(place))
            features = embedded(cohort, folder / "phantom-features")
            training = assemble(cohort, features, phantom_truth(place))
            for protocol in ("donor", "section"):
                tell("Phantom, true cells", training, heads, protocol)
        if "monusac" in args.only and os.environ.get("HISTOMIX_DATA"):
            cohort, features, _, counts = read_monusac(folder)
            tell("MoNuSAC, nuclei in a tile", assemble(cohort, features, counts), heads, "donor")


if __name__ == "__main__":
    main()
