"""Hist2Cell trained end to end on tiles beside the default head on frozen features: one fold, the same spots.

    python benchmarks/hist2cell.py [--cohort her2st|phantom] [--epochs 20] [--minutes 60] [--folder FOLDER]

her2st: C2 and C3 train, C4 is held out (one patient: optimistic). The phantom: four donors, the last held out. After
each epoch of Hist2Cell the section held out is read, and a line printed. After so many minutes it is stopped; the table
says which figures are measured, and which extrapolated from the mean epoch to the whole schedule. The network starts
from random weights. Training that was stopped goes on from FOLDER. Operations are counted: of Hist2Cell those of the
ResNet18 on each tile and of the graph on each spot, three times as many in training as in a pass forward.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from heads import RESNET18_FLOP, TRAINING_PASSES, embedded, her2st, published_size

import histomix as hm
from histomix.common.metrics import pearson_by_section
from histomix.common.storage.unfinished import unfinished_work
from histomix.heads import DEFAULT, TrainingSet, assemble, inner_groups, make_estimator
from histomix.heads.models.hist2cell_network import SpotGraph
from histomix.heads.neighbourhood import spot_pitch_um

#: Multiply-adds of the built-in encoder on a tile, all views; of training the default: counted as nothing beside it.
ENCODER_FLOP = 0.5e9


def training_set(name: str, folder: Path) -> tuple[TrainingSet, dict[str, float]]:
    """The cohort's rows with their tiles, and what embedding them cost."""
    if name == "her2st":
        cohort = her2st(folder, Path(os.environ["HISTOMIX_DATA"]).resolve() / "her2st")
        labels = hm.label(cohort, method="table")
    else:
        place = folder / "phantom"
        cohort = hm.read_cohort(hm.make_phantom(place, donors=4, sections_per_donor=1, size_um=(900.0, 900.0)))
        labels = hm.label(cohort, reference=place / "reference.csv")
    fresh = not (folder / f"{name}-features").exists()
    wall, cpu = time.perf_counter(), _cpu()
    features = embedded(cohort, folder / f"{name}-features")
    cost = {"seconds": time.perf_counter() - wall, "cpu": _cpu() - cpu} if fresh else {}
    kept = folder / f"{name}-embedding.json"
    if fresh:
        kept.write_text(json.dumps(cost))
    return assemble(cohort, features, labels), json.loads(kept.read_text())


class _Cached:
    """Tiles that are read once."""

    def __init__(self, tiles: Any, n: int) -> None:
        self.pixels, self.digest = np.asarray(tiles(np.arange(n))), tiles.identity()

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return self.pixels[rows]

    def identity(self) -> str:
        return self.digest


def _cpu() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def score(rows: TrainingSet, test: np.ndarray, values: np.ndarray) -> float:
    """Mean Pearson correlation over cell types within the section held out; a constant prediction has none, so 0."""
    found = pearson_by_section(rows.Y[test], values, rows.section[test])
    return float(np.mean(np.nan_to_num(found)))


def end_to_end(rows: TrainingSet, train: np.ndarray, test: np.ndarray, args: Any, folder: Path) -> dict[str, Any]:
    """Train for as long as is allowed; what it took and came to."""
    assert rows.tiles is not None
    positions = replace(rows.positions, tiles=_Cached(rows.tiles, len(rows.Y)))
    head: Any = make_estimator("hist2cell-tiles", rows.unit, epochs=args.epochs)
    kept = folder / f"{args.cohort}-epochs.json"
    epochs: list[dict[str, float]] = json.loads(kept.read_text()) if kept.exists() else []
    begun, clock = time.perf_counter(), {"wall": time.perf_counter(), "cpu": _cpu()}

    def watch(network: Any) -> bool:
        took = {"seconds": time.perf_counter() - clock["wall"], "cpu": _cpu() - clock["cpu"]}
        values = head._read(network, rows.X[test], positions[test])
        epochs.append({**took, "pearson": score(rows, test, values)})
        kept.write_text(json.dumps(epochs))
        print(f"epoch {len(epochs)} of {args.epochs}: {epochs[-1]}", flush=True)
        clock.update(wall=time.perf_counter(), cpu=_cpu())
        return time.perf_counter() - begun > args.minutes * 60

    head.n_features_in_, head.present_ = rows.X.shape[1], np.ones(rows.Y.shape[1], bool)
    weight = np.ones(len(train))
    # Left where it stopped, the same command trains on.
    with contextlib.suppress(InterruptedError), unfinished_work(folder / f"{args.cohort}-hist2cell", "Hist2Cell"):
        if len(epochs) < args.epochs:
            head._train(rows.X[train], rows.Y[train], weight, positions[train], 1e-4, args.epochs, watch)
        raise InterruptedError
    graph = SpotGraph.of(positions[train], spot_pitch_um(positions[train]))
    tiles = int(np.diff(graph.within_two.indptr).sum())
    _, of_graph, _, _ = published_size(rows.Y.shape[1])
    per_epoch = (tiles * RESNET18_FLOP + len(train) * of_graph) * TRAINING_PASSES
    return {
        "epochs": epochs,
        "tiles": tiles,
        "flop": per_epoch,
        "peak": _peak_gb(),
        "parameters": published_size(rows.Y.shape[1])[0],
    }


def ours(name: str, cohort: str, folder: Path) -> dict[str, Any]:
    """Fit a head on the features and read the section held out; for a process of its own."""
    rows, _ = training_set(cohort, folder)
    train, test = split(rows)
    X = rows.seen_from(train).X
    groups = inner_groups(rows.section[train], rows.donor[train], rows.xy_um[train])
    wall, cpu = time.perf_counter(), _cpu()
    head = make_estimator(name, rows.unit).fit(X[train], rows.Y[train], groups=groups, positions=rows.positions[train])
    took = {"seconds": time.perf_counter() - wall, "cpu": _cpu() - cpu}
    return {**took, "pearson": score(rows, test, head.predict(X[test], rows.positions[test])), "peak": _peak_gb()}


def split(rows: TrainingSet) -> tuple[np.ndarray, np.ndarray]:
    """Rows of training, and of the last section."""
    held = rows.section == np.unique(rows.section)[-1]
    return np.flatnonzero(~held), np.flatnonzero(held)


def main() -> None:
    """Train both, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", choices=("her2st", "phantom"), default="her2st")
    parser.add_argument("--epochs", type=int, default=20, help="the whole schedule")
    parser.add_argument("--minutes", type=float, default=60, help="after which Hist2Cell is stopped")
    parser.add_argument("--folder", type=Path, help="keeps features and unfinished training")
    parser.add_argument("--ours", help=argparse.SUPPRESS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if args.ours:
            print(json.dumps(ours(args.ours, args.cohort, folder)))
            return
        rows, embedding = training_set(args.cohort, folder)
        train, test = split(rows)
        found: dict[str, Any] = {}
        for name in ("ridge", DEFAULT):
            call = [sys.executable, __file__, "--cohort", args.cohort, "--folder", str(folder), "--ours", name]
            done = subprocess.run(call, capture_output=True, text=True, check=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
        deep = end_to_end(rows, train, test, args, folder)
    report(args, rows, train, embedding, found, deep)


def report(
    args: Any,
    rows: TrainingSet,
    train: np.ndarray,
    embedding: dict[str, float],
    found: dict[str, Any],
    deep: dict[str, Any],
) -> None:
    """Print the table."""
    held = np.unique(rows.section)[-1]
    n, epochs = len(rows.Y), deep["epochs"]
    print(
        f"\n### {args.cohort}: {len(train)} spots train, {n - len(train)} of {held} are held out, "
        f"{rows.Y.shape[1]} types, pitch {spot_pitch_um(rows.positions):.0f} um\n"
    )
    print("| | TFLOP | seconds | CPU, s | peak GB | Pearson | |\n|---|---|---|---|---|---|---|")
    share = len(train) / n
    frozen = len(train) * ENCODER_FLOP / 1e12
    for name, one in found.items():
        seconds, cpu = (embedding[key] * share + one[key] for key in ("seconds", "cpu"))
        print(
            f"| built-in encoder and `{name}` | {frozen:.2f} | {seconds:.1f}, {one['seconds']:.1f} of them the head | "
            f"{cpu:.1f} | {one['peak']:.2f} | {one['pearson']:.3f} | measured |"
        )
    seconds, cpu = (sum(epoch[key] for epoch in epochs) for key in ("seconds", "cpu"))
    whole = args.epochs / len(epochs)
    print(
        f"| `hist2cell-tiles`, {len(epochs)} of {args.epochs} epochs | {deep['flop'] * len(epochs) / 1e12:,.0f} | "
        f"{seconds:,.0f} | {cpu:,.0f} | {deep['peak']:.2f} | {epochs[-1]['pearson']:.3f} | measured |"
    )
    if whole > 1:
        print(
            f"| the whole schedule | {deep['flop'] * args.epochs / 1e12:,.0f} | {seconds * whole:,.0f} | "
            f"{cpu * whole:,.0f} | | | extrapolated |"
        )
    print(
        f"\n{deep['tiles'] / len(train):.1f} tiles a training spot and epoch; {deep['parameters']:,} parameters. "
        f"Correlation after each epoch: {', '.join(format(epoch['pearson'], '.3f') for epoch in epochs)}."
    )


if __name__ == "__main__":
    main()
