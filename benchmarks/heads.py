"""Heads beside ridge on the same features: correlation with labels on unseen donors and sections, and cost.

The phantom is scored with donors held out and with sections held out, against its labels and its truth. Where
HISTOMIX_DATA is set, her2st C2, C3 and C4 (one patient: optimistic) are scored with sections held out, against the
published proportions of 8 types, and MoNuSAC (12 patients, four organs) with patients held out, against nuclei that
people annotated: its images are small, so tiles of 112 um overlap (every 28 um), with at least five annotated nuclei;
sixteen images of nine patients hold such tiles. Heads that draw random numbers are run with several seeds, and their
scores averaged before intervals are made, which draw donors, then sections (see `histomix.evaluation`).

`--only donors` trains on one, two, four and eight donors of the phantom (`donors.py`).

The cost table fits each head in a process of its own, and counts parameters, multiply-adds and tiles.

    python benchmarks/heads.py [--quick] [--seeds 5] [--heads mlp,knn] [--only phantom|her2st|monusac|donors|cost|speed]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from donors import run_donors

import histomix as hm
from histomix.datasets import phantom_truth
from histomix.embedding import read_features
from histomix.evaluation.scores.bootstrap import summarise
from histomix.heads import DEFAULT, HEADS, Positions, make_estimator

COMPARED = ("mean", "ridge", "knn", "pcr", "gbm", "sun2025", "hist2cell", "mlp", "average")
QUICK_HEADS = ("mean", "ridge", "knn", "pcr", "mlp", "average")
#: Heads that draw nothing at random.
FIXED = ("mean", "ridge", "knn", "pcr", "gbm")
#: Multiply-adds of a ResNet18 on one tile of 224 px, and of a step of training over a pass forward.
RESNET18_FLOP, TRAINING_PASSES = 3.63e9, 3
PITCH_UM = 100.0


def accuracy(
    title: str, cohort: hm.Cohort, features: Any, labels: Any, folds: str, args: Any, truth: Any = None
) -> None:
    """Print one table."""
    parts, first = [], None
    for seed in range(args.seeds):
        heads = [name for name in args.heads if seed == 0 or name not in FIXED]
        result = hm.evaluate(cohort, features, labels, heads, folds, truth, seed=seed, spatial=False)
        keep = set(heads) | ({"label"} if seed == 0 else set())
        table = result.metrics[result.metrics["head"].isin(keep) & result.metrics["target"].isin(["label", "truth"])]
        parts.append(table)
        first = first or result.summary
    assert first is not None
    every = pd.concat(parts)
    value = every.groupby([c for c in every.columns if c != "value"], dropna=False, sort=False)["value"].mean()
    scores = summarise(value.reset_index(), first["folds"], 0)
    counts = f"{first['n_donors']} donors, {first['n_sections']} sections, {first['n_spots']} spots"
    print(f"\n### {title}, {folds} held out: {counts}, {len(first['cell_types'])} types, {args.seeds} seeds\n")
    print(
        "| head | target | Pearson | minus ridge (paired) | pooled | RMSE | error of slide means, share of a "
        "constant's; drawn to the training mean | coverage of 90 % intervals | their width | fit and predict, s |\n"
        "|---|---|---|---|---|---|---|---|---|---|"
    )
    for target, by_head in scores.items():
        for head, found in by_head.items():
            cost = first["cost"].get(head)
            seconds = f"{cost['fit_seconds'] + cost['predict_seconds']:.1f}" if cost and target == "label" else ""
            paired = found["pearson"].get("vs_ridge")
            rmse = found.get("rmse", {}).get("mean")
            covered = interval(found["coverage"]) if "coverage" in found else ""
            width = f"{found['width']['mean']:.3f}" if "width" in found else ""
            level = "; ".join(
                f"{found[name]['mean'] / found['slide_mae_constant']['mean']:.2f}"
                for name in ("slide_mae", "slide_mae_shrunk")
                if name in found
            )
            print(
                f"| {head} | {target} | {interval(found['pearson'])} | {interval(paired, '+') if paired else ''} | "
                f"{found['pearson_pooled']['mean']:.3f} | {'' if rmse is None else f'{rmse:.4f}'} | "
                f"{level} | {covered} | {width} | {seconds} |",
                flush=True,
            )
    print(f"\nIntervals: {first['interval']['method']}.")


def interval(found: dict[str, Any], sign: str = "") -> str:
    """Mean with its interval."""
    if found["mean"] is None:
        return ""
    if found.get("low") is None:
        return f"{found['mean']:{sign}.3f}"
    return f"{found['mean']:{sign}.3f} ({found['low']:{sign}.3f} to {found['high']:{sign}.3f})"


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


#: Side and pitch of MoNuSAC's tiles, um; um per px; annotated nuclei of a tile at least.
TILE_UM, EVERY_UM, MPP, FEWEST_NUCLEI = 112.0, 28.0, 0.25, 5


def monusac(folder: Path, data: Path) -> hm.Cohort:
    """Tiles wholly inside the images, labelled by the annotated nuclei whose centres they hold."""
    images = pd.read_csv(data / "images.csv")
    types = [name for name in images if name not in ("image", "patient", "width", "height")]
    folder.mkdir(exist_ok=True)
    rows, half = [], TILE_UM / MPP / 2
    for image in images.itertuples():
        section = Path(image.image).stem
        cells = pd.read_csv(data / "cells" / f"{section}.csv")
        axes = (np.arange(half, length - half + 0.01, EVERY_UM / MPP) for length in (image.width, image.height))
        places = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
        inside = (np.abs(cells[["x_px", "y_px"]].to_numpy()[None] - places[:, None]) < half).all(axis=2)
        counts = inside @ pd.get_dummies(cells["cell_type"]).reindex(columns=types, fill_value=0).to_numpy(int)
        kept = counts.sum(axis=1) >= FEWEST_NUCLEI
        if not kept.any():
            continue
        keys = pd.Index([f"t{number}" for number in np.flatnonzero(kept)], name="spot")
        pd.DataFrame(places[kept], keys, ["x_px", "y_px"]).to_csv(folder / f"{section}.spots.csv")
        pd.DataFrame(counts[kept], keys, types).to_csv(folder / f"{section}.cells.csv")
        files = {"spots": f"{section}.spots.csv", "labels": f"{section}.cells.csv", "label_unit": "cells per spot"}
        rows.append(
            {"section": section, "donor": image.patient, **files, "image": data / "images" / image.image, "mpp": MPP}
        )
    pd.DataFrame(rows).to_csv(folder / "monusac.csv", index=False)
    return hm.read_cohort(folder / "monusac.csv")


# cost


def lattice(n_sections: int, per_section: int) -> Positions:
    """Spots of Visium's lattice, 100 um apart, in near-square sections."""
    side = int(np.ceil(np.sqrt(per_section)))
    rows, columns = (grid.ravel()[:per_section] for grid in np.mgrid[:side, :side])
    xy = np.column_stack([(columns + 0.5 * (rows % 2)) * PITCH_UM, rows * PITCH_UM * np.sqrt(0.75)])
    return Positions(np.repeat(np.arange(n_sections), per_section), np.tile(xy, (n_sections, 1)))


def synthetic(n: int, d: int, types: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, Positions]:
    """Features of rank 40 with noise, proportions that depend on them, 8 donors, places."""
    rng = np.random.default_rng(0)
    positions = lattice(8, n // 8)
    latent = rng.standard_normal((len(positions), 40)).astype(np.float32)
    X = np.tanh(latent @ rng.standard_normal((40, d)).astype(np.float32) / 6)
    X += 0.3 * rng.standard_normal(X.shape).astype(np.float32)
    logits = latent @ rng.standard_normal((40, types)) / 3
    Y = np.exp(logits)
    return X, Y / Y.sum(axis=1, keepdims=True), positions.section, positions


def fit_one(name: str, n: int, d: int, types: int) -> None:
    """Fit one head and print what it cost; for a process of its own."""
    X, Y, groups, positions = synthetic(n, d, types)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parameters: dict[str, Any] = {"epochs": 1} if name.startswith("hist2cell") else {}
    if name == "hist2cell-tiles":
        pixels = np.random.default_rng(0).integers(0, 255, (64, 224, 224, 3)).astype(np.uint8)
        positions = Positions(positions.section, positions.xy_um, lambda rows: pixels[np.asarray(rows) % 64])
    head = make_estimator(name, **parameters)
    wall, cpu = time.perf_counter(), time.process_time()
    head.fit(X, Y, groups=groups, positions=positions)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    arrays, _ = head.fitted()
    facts = {
        "rows": len(X),
        "seconds": wall,
        "cpu": cpu,
        "parameters": sum(a.size for key, a in arrays.items() if learnt(key)),
        "flop": 0.0 if name in ("hist2cell-tiles", "mean") else flop(head, X, positions),
        "before": before / 2**20,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    print(json.dumps(facts))


def learnt(name: str) -> bool:
    """Whether an array is a parameter of the regressor, and neither a statistic of features nor remembered spots."""
    short = name.rsplit("/", 1)[-1]
    fixed = ("present_", "mean_", "scale_", "components_", "spots_", "labels_", "weight_", "target_", "views_")
    return short not in fixed and not short.startswith(("slide_", "rings_")) and "running_" not in short


def flop(head: Any, X: np.ndarray, positions: Positions) -> float:
    """Floating-point operations of predicting one spot from its features: torch's counted, matrix products by hand."""
    from torch.utils.flop_counter import FlopCounterMode

    rows = np.flatnonzero(positions.section == positions.section[0])
    with FlopCounterMode(display=False) as counter:
        head.predict(X[rows], positions[rows])
    found = counter.get_total_flops() / len(rows)
    arrays, _ = head.fitted()
    n_looks = 1 + len(head.context.rings_um)
    for key, array in arrays.items():
        short = key.rsplit("/", 1)[-1]
        if short in ("components_", "coef_", "spots_"):
            found += 2 * array.size * (n_looks if short == "components_" and array.ndim == 3 else 1)
    return float(found)


def cost(args: Any) -> None:
    """Print the cost of every head beside Hist2Cell."""
    n, d, types = (400, 256, 20) if args.quick else (4000, 1024, 80)
    rows: dict[str, dict[str, Any]] = {}
    names = [name for name in args.heads if name != "mean"] + ([] if args.quick else ["hist2cell-tiles"])
    for name in dict.fromkeys([*names, "hist2cell"]):
        size = min(n, 64) if name == "hist2cell-tiles" else n
        call = [sys.executable, __file__, "--fit", f"{name},{size},{d},{types}"]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: {done.stderr.strip().splitlines()[-1]}")
            continue
        rows[name] = json.loads(done.stdout.splitlines()[-1])
    whole, graph, tiles, single = published_size(types)
    encoder = args.encoder_gflop * args.views
    print(f"\n### Cost: {n} training spots, {d} features, {types} types, 8 donors\n")
    print(
        "| head | parameters | GFLOP a spot from features | with its encoder | training, s | CPU, s | peak GB |\n"
        "|---|---|---|---|---|---|---|"
    )
    for name, found in rows.items():
        per_spot = graph + RESNET18_FLOP if name == "hist2cell-tiles" else found["flop"]
        features = "" if name == "hist2cell-tiles" else f"{per_spot / 1e9:.4f}"
        total = per_spot / 1e9 + (0 if name == "hist2cell-tiles" else encoder)
        note = f" ({found['rows']} spots, 1 epoch)" if name.startswith("hist2cell") else ""
        print(
            f"| {name} | {found['parameters']:,} | {features} | {total:.2f} | {found['seconds']:.1f}{note} | "
            f"{found['cpu']:.1f} | {found['peak']:.2f} (data {found['before']:.2f}) |"
        )
    print(f"\nHist2Cell written here has {whole:,} parameters at {types} types; published at 80 types: 14,232,064.")
    for title, mean in tiles.items():
        per_epoch = mean * RESNET18_FLOP * TRAINING_PASSES / 1e9
        print(f"{title}: {mean:.1f} tiles a training spot and epoch within two steps, so {per_epoch:.0f} GFLOP.")
    print(
        f"Encoder of the frozen heads: {args.encoder_gflop} GFLOP a tile and view, {args.views} views, once. "
        f"Graph of one spot: {single / 1e9:.2f}."
    )


#: Spots, features and types of a large cohort.
LARGE = (50_000, 1536, 80)


def speed(args: Any) -> None:
    """Print how long a large cohort takes: each head once on all donors, and with each donor held out in turn."""
    print(f"\n### Speed: {LARGE[0]:,} synthetic spots, {LARGE[1]} features, {LARGE[2]} types, 8 donors\n")
    print("| head | training on all, s | CPU, s | peak GB |\n|---|---|---|---|")
    for name in ("ridge", "mlp", "sun2025", DEFAULT):
        call = [sys.executable, __file__, "--fit", ",".join(map(str, (name, *LARGE)))]
        found = json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        print(f"| {name} | {found['seconds']:.1f} | {found['cpu']:.1f} | {found['peak']:.2f} |", flush=True)
    if args.quick:
        return
    X, Y, donor, positions = synthetic(*LARGE)
    start = time.perf_counter()
    for one in np.unique(donor):
        train, test = np.flatnonzero(donor != one), np.flatnonzero(donor == one)
        for name in ("mean", "ridge", DEFAULT):
            head = make_estimator(name).fit(X[train], Y[train], groups=donor[train], positions=positions[train])
            head.predict(X[test], positions[test])
    print(f"\nEach of 8 donors held out, 3 heads, fitted and predicted: {time.perf_counter() - start:.0f} s")


def published_size(types: int) -> tuple[int, float, dict[str, float], float]:
    """Parameters, operations of the graph a spot, and tiles within two steps on two lattices."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from histomix.heads.models.hist2cell_network import BACKBONE, Hist2CellTiles, SpotGraph

    network = Hist2CellTiles(types).eval()
    positions = lattice(1, 900)
    graphs = SpotGraph.of(positions, PITCH_UM).around(np.array([465]))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.rest(torch.zeros(len(positions), BACKBONE), graphs, np.arange(len(positions)))
    spots = np.stack(np.meshgrid(np.arange(24), np.arange(24)), axis=-1).reshape(-1, 2) * 200.0
    square = Positions(np.zeros(len(spots)), spots)
    tiles = {
        "Hexagonal lattice (Visium), 900 spots": float(
            np.diff(SpotGraph.of(positions, PITCH_UM).within_two.indptr).mean()
        ),
        "Square lattice (legacy ST), 576 spots": float(np.diff(SpotGraph.of(square, 200.0).within_two.indptr).mean()),
    }
    single = float(counter.get_total_flops())
    return sum(p.numel() for p in network.parameters()), single, tiles, single


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, the fast heads, small tables")
    parser.add_argument("--seeds", type=int, default=None, help="5; 1 with --quick")
    parser.add_argument("--heads", default=None, help="names, separated by commas")
    parser.add_argument("--only", choices=("phantom", "her2st", "monusac", "donors", "cost", "speed"), action="append")
    parser.add_argument("--folds", choices=("donor", "section", "random"), action="append", help="of the phantom")
    parser.add_argument("--cache", type=Path, help="folder that keeps the phantom and all features")
    parser.add_argument("--encoder-gflop", type=float, default=0.12, help="of the frozen encoder, a tile and view")
    parser.add_argument("--views", type=int, default=4, help="rotations of a tile that are averaged")
    parser.add_argument("--fit", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.fit:
        name, *sizes = args.fit.split(",")
        fit_one(name, *map(int, sizes))
        return
    args.seeds = args.seeds or (1 if args.quick else 5)
    args.heads = args.heads.split(",") if args.heads else list(QUICK_HEADS if args.quick else COMPARED)
    unknown = sorted(set(args.heads) - set(HEADS))
    if unknown:
        parser.error(f"no head named {', '.join(unknown)}")
    parts: dict[str, Callable[[Path], None]] = {
        "phantom": lambda folder: run_phantom(folder, args),
        "her2st": lambda folder: run_her2st(folder, args),
        "monusac": lambda folder: run_monusac(folder, args),
        "donors": lambda folder: run_donors(folder, args),
        "cost": lambda _: cost(args),
        "speed": lambda _: speed(args),
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.cache or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in args.only or ("phantom", "her2st", "monusac", "cost"):
            parts[name](folder)


def embedded(cohort: hm.Cohort, folder: Path, **options: Any) -> Any:
    """Features, from the folder where they were made before."""
    return hm.embed(cohort, out=folder, **options) if not folder.exists() else read_features(folder)


def run_phantom(folder: Path, args: Any) -> None:
    """The phantom, with donors and with sections held out."""
    place = folder / ("phantom-quick" if args.quick else "phantom")
    size: dict[str, Any] = {"size_um": (800.0, 800.0), "donors": 3} if args.quick else {}
    cohort = hm.read_cohort(hm.make_phantom(place, **size))
    labels = hm.label(cohort, reference=place / "reference.csv")
    features = embedded(cohort, folder / f"{place.name}-features")
    for folds in args.folds or (["donor"] if args.quick else ["donor", "section"]):
        accuracy("Phantom", cohort, features, labels, folds, args, phantom_truth(place))


def run_her2st(folder: Path, args: Any) -> None:
    """Her2st, with sections of one patient held out."""
    data = os.environ.get("HISTOMIX_DATA")
    if not data:
        print("\nher2st: skipped, HISTOMIX_DATA is not set")
        return
    cohort = her2st(folder, Path(data).resolve() / "her2st")
    features = embedded(cohort, folder / "her2st-features")
    accuracy("her2st C2, C3, C4", cohort, features, hm.label(cohort, method="table"), "section", args)


def read_monusac(folder: Path) -> tuple[hm.Cohort, Any, dict[str, hm.Abundance], dict[str, hm.Abundance]]:
    """MoNuSAC's tiles: cohort, features, shares of the nuclei, and their numbers."""
    cohort = monusac(folder / "monusac", Path(os.environ["HISTOMIX_DATA"]).resolve() / "monusac")
    features = embedded(cohort, folder / "monusac-features", check_alignment=False)  # few tiles, at their image's edge
    counts = hm.label(cohort, method="table")
    shares = {
        name: hm.Abundance(one.values.div(one.values.sum(axis=1), axis=0), "proportion") for name, one in counts.items()
    }
    return cohort, features, shares, counts


def run_monusac(folder: Path, args: Any) -> None:
    """MoNuSAC, with patients held out: shares of the nuclei, and their numbers."""
    if not os.environ.get("HISTOMIX_DATA"):
        print("\nMoNuSAC: skipped, HISTOMIX_DATA is not set")
        return
    cohort, features, shares, counts = read_monusac(folder)
    accuracy("MoNuSAC, shares", cohort, features, shares, "donor", args)
    accuracy("MoNuSAC, nuclei in a tile", cohort, features, counts, "donor", args)


if __name__ == "__main__":
    main()
