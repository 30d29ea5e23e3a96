"""What more donors of the phantom do; `heads.py --only donors` runs it.

Twelve donors with two sections each. In each draw (a seed) the donors of training are put into an order; a head is
trained on one section of the first one, two, four and eight of them, and read on the other section of the first donor
(which is in training every time) and on both sections of four donors that are in none. Draws share the phantom; their
standard deviation says how much the order and the head's own seed matter.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

import histomix as hm
from histomix.common.metrics import pearson_by_section
from histomix.embedding import read_features
from histomix.heads import assemble, inner_groups, make_estimator

SIZES = (1, 2, 4, 8)
N_UNSEEN = 4


def phantom(folder: Path, quick: bool) -> Any:
    """Rows of twelve donors with two sections each."""
    place = folder / ("donors-quick" if quick else "donors")
    side_um = 600.0 if quick else 1000.0
    sheet = hm.make_phantom(place, seed=5, donors=max(SIZES) + N_UNSEEN, size_um=(side_um, side_um))
    cohort = hm.read_cohort(sheet)
    labels = hm.label(cohort, reference=place / "reference.csv")
    kept = folder / f"{place.name}-features"
    features = read_features(kept) if kept.exists() else hm.embed(cohort, out=kept)
    return assemble(cohort, features, labels)


def draw(training: Any, head: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean correlation by number of donors, on the first donor's other section and on unseen donors, (n_sizes,)."""
    order = np.random.default_rng(seed).permutation(np.unique(training.donor))
    unseen = np.isin(training.donor, order[max(SIZES) :])
    first = {donor: np.unique(training.section[training.donor == donor])[seed % 2] for donor in order}
    same, other = np.empty(len(SIZES)), np.empty(len(SIZES))
    held = (training.donor == order[0]) & (training.section != first[order[0]])
    for place, size in enumerate(SIZES):
        rows = np.flatnonzero(np.isin(training.section, [first[donor] for donor in order[:size]]))
        section, donor = training.section[rows], training.donor[rows]
        groups = inner_groups(section, donor, training.xy_um[rows])
        X = training.seen_from(rows).X
        fit = make_estimator(head, training.unit, seed)
        fit.fit(X[rows], training.Y[rows], groups=groups, positions=training.positions[rows])
        for test, into in ((held, same), (unseen, other)):
            values = fit.predict(X[test], training.positions[np.flatnonzero(test)])
            into[place] = np.nanmean(pearson_by_section(training.Y[test], values, training.section[test]))
    return same, other


def run_donors(folder: Path, args: Any) -> None:
    """Print the curves and the paired differences."""
    training = phantom(folder, args.quick)
    heads = [name for name in args.heads if name in ("ridge", "average", "mlp", "sun2025")]
    print(
        f"\n### More donors: phantom, one section of each, Poisson labels, {args.seeds} draws, mean (SD over draws)\n"
    )
    steps = [f"{after} less {before}" for before, after in pairwise(SIZES)]
    head_row = ["head", "read on", *(f"{size} donor{'s' * (size > 1)}" for size in SIZES), *steps]
    print(f"| {' | '.join(head_row)} |\n|{'---|' * len(head_row)}")
    for head in heads:
        drawn = [draw(training, head, seed) for seed in range(args.seeds)]
        for part, words in enumerate(("the first donor's other section", f"{N_UNSEEN} unseen donors")):
            table = np.stack([one[part] for one in drawn])
            cells = [f"{mean:.3f} ({sd:.3f})" for mean, sd in zip(table.mean(axis=0), table.std(axis=0), strict=True)]
            paired = np.diff(table, axis=1)
            cells += [f"{mean:+.3f} ({sd:.3f})" for mean, sd in zip(paired.mean(0), paired.std(0), strict=True)]
            print(f"| {head} | {words} | {' | '.join(cells)} |", flush=True)
