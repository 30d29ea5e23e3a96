"""Intervals and novelty on donors that were not there: coverage, width, and how many foreign tiles are flagged.

Heads are trained on some donors of a phantom cohort of twelve (that of `heads.py --only donors`), calibrated on the
same, and judged on the others; where HISTOMIX_DATA is set, on patients of MoNuSAC too, each in turn unseen.
For each level: coverage with an interval that draws donors; the least and greatest of a donor; that of the low,
middle and high predictions that are calibrated apart; the mean width; whether the width goes with the error (Spearman
correlation over the tiles of a donor, mean over types); and of slides' means, their error as a share of that of the
training mean, and how many lie within a card's `slide_error`.

There too, novelty is fitted on two sections of a her2st patient and asked about the third, about pictures of other
tissue and stain, and about the third's own tiles with pen, blur and another stain drawn on them.

    python benchmarks/intervals.py [FOLDER] [--heads ridge,average] [--draws 4] [--only phantom,monusac,novelty]

What was embedded is kept in FOLDER, and not made again.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from donors import phantom
from heads import interval, read_monusac
from PIL import Image

from histomix.common.metrics import slide_means, spearman
from histomix.common.resampling import mean_and_interval, resample_weights
from histomix.encoders import load_encoder
from histomix.heads import (
    IN_SCOPE_PERCENTILE,
    NoveltyModel,
    TrainingSet,
    assemble,
    calibrate_levels,
    held_out_predictions,
    make_estimator,
)
from histomix.heads.trust.intervals import STRATA
from histomix.heads.trust.quantiles import group_quantile
from histomix.slides import TileSpec, open_slide, read_tile

#: Levels that are calibrated; donors of the phantom that heads are trained on.
LEVELS, SIZES = (0.8, 0.9), (3, 8)
HEADS = "mean,ridge,knn,average"
#: What is found of each donor; of slides: error of their means, that of the training mean, and share that is held.
ENTRIES = ("coverage", "width", "follows", "slide", "constant", "slides")


def tell(title: str, training: TrainingSet, heads: list[str], draws: dict[str, list[np.ndarray]]) -> None:
    """Print a table of intervals on donors that were not drawn."""
    n_donors, n_types = len(np.unique(training.donor)), len(training.cell_types)
    print(f"\n### Intervals, {title}: {n_donors} donors, {len(training.Y)} spots, {n_types} types\n")
    names = ("head", "training donors", "level", "coverage of unseen donors", "least, greatest donor")
    names += ("low, middle, high predictions", "width", "width with error", "slide means, share of a constant's error")
    names += ("slide means held",)
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for size, chosen in draws.items():
        for head in heads:
            for level, found in zip(LEVELS, coverage(training, chosen, head), strict=True):
                names, donor = np.unique(found.pop("donor"), return_inverse=True)
                weights = resample_weights(donor, 0)
                shown = {name: mean_and_interval(np.array(values), weights, donor) for name, values in found.items()}
                by_donor = [np.mean(np.array(found["coverage"])[donor == one]) for one in range(len(names))]
                strata = "" if head == "mean" else ", ".join(f"{shown[str(one)]['mean']:.2f}" for one in range(STRATA))
                follows = "" if head == "mean" else interval(shown["follows"])
                print(
                    f"| {head} | {size} | {level:g} | {interval(shown['coverage'])} | "
                    f"{min(by_donor):.2f}, {max(by_donor):.2f} | {strata} | {shown['width']['mean']:.3f} | {follows} | "
                    f"{np.mean(found['slide']) / np.mean(found['constant']):.2f} | {interval(shown['slides'])} |",
                    flush=True,
                )


def coverage(training: TrainingSet, draws: Iterable[np.ndarray], head: str) -> list[dict[str, list[float]]]:
    """For each level: an entry of each draw and unseen donor, by what it is."""
    result: list[dict[str, list[float]]] = [
        {name: [] for name in ("donor", *ENTRIES, *map(str, range(STRATA)))} for _ in LEVELS
    ]
    for chosen in draws:
        here = np.isin(training.donor, chosen)
        X, positions, there = training.seen_from(np.flatnonzero(here)).X, training.positions[here], ~here
        part = X[here], training.Y[here], training.donor[here]
        fitted = make_estimator(head, training.unit).fit(*part, positions=positions)
        held_out, spread = held_out_predictions(fitted, *part, positions)
        values = fitted.predict(X[there], training.positions[there])
        around = fitted.predict_spread(X[there], training.positions[there])
        made = calibrate_levels(part[1], held_out, spread, part[2], LEVELS, unit=training.unit)
        truth, donor, section = training.Y[there], training.donor[there], training.section[there]
        # Means of slides as `histomix.heads.trust.levels` has them.
        first = np.unique(training.section[here], return_index=True)[1]
        owners, group = np.unique(part[2][first], return_inverse=True)
        errors = means_apart(part[1], held_out, training.section[here])
        for found, intervals, level in zip(result, made, LEVELS, strict=True):
            half = np.array([group_quantile(of_type, group, len(owners), level)[0] for of_type in errors.T])
            lower, upper = intervals.bounds(values, around if intervals.needs_spread else None)
            inside = (truth >= lower - 1e-9) & (truth <= upper + 1e-9)
            stratum = (values[None] > intervals.edges[:, None]).sum(axis=0)
            for name in np.unique(donor):
                own = donor == name
                found["donor"].append(name)
                found["coverage"].append(inside[own].mean())
                found["width"].append((upper - lower)[own].mean())
                apart = means_apart(truth[own], values[own], section[own])
                constant = np.tile(part[1].mean(axis=0), (int(own.sum()), 1))
                found["slide"].append(apart.mean())
                found["constant"].append(means_apart(truth[own], constant, section[own]).mean())
                found["slides"].append((apart <= half).mean())
                follows = spearman(np.abs(truth - values)[own], (upper - lower)[own])
                found["follows"].append(follows[np.isfinite(follows)].mean() if np.isfinite(follows).any() else np.nan)
                for one in range(STRATA):
                    rows = stratum[own] == one
                    found[str(one)].append(inside[own][rows].mean() if rows.any() else np.nan)
    return result


def means_apart(truth: np.ndarray, values: np.ndarray, section: np.ndarray) -> np.ndarray:
    """Error of the mean of each slide, (n_slides, n_types)."""
    return np.abs(slide_means(values, section)[1] - slide_means(truth, section)[1])


def run_phantom(folder: Path, args: argparse.Namespace) -> None:
    """Some donors of the phantom in training, the others unseen."""
    training, rng = phantom(folder, args.quick), np.random.default_rng(0)
    names = np.unique(training.donor)
    draws = {str(size): [rng.choice(names, size, replace=False) for _ in range(args.draws)] for size in SIZES}
    tell(f"phantom, Poisson labels, {args.draws} draws of training donors", training, args.heads, draws)


def run_monusac(folder: Path, args: argparse.Namespace) -> None:
    """Each patient of MoNuSAC read by a head of all others."""
    if not os.environ.get("HISTOMIX_DATA"):
        print("\nMoNuSAC: skipped, HISTOMIX_DATA is not set")
        return
    cohort, features, shares, counts = read_monusac(folder)
    for title, labels in (("MoNuSAC, shares", shares), ("MoNuSAC, nuclei in a tile", counts)):
        training = assemble(cohort, features, labels)
        names = np.unique(training.donor)
        every = {f"{len(names) - 1}, each in turn": [names[names != one] for one in names]}
        tell(title, training, args.heads, every)


def run_novelty(_folder: Path, _args: argparse.Namespace) -> None:
    """What novelty says of tiles that are not of its kind."""
    if not os.environ.get("HISTOMIX_DATA"):
        print("\nnovelty: skipped, HISTOMIX_DATA is not set")
        return
    print("\n### Novelty fitted on her2st C2 and C3\n")
    print(foreign(Path(os.environ["HISTOMIX_DATA"])).to_string(index=False, float_format="{:.2f}".format))


def foreign(data: Path) -> pd.DataFrame:
    """Share of tiles flagged by novelty fitted on C2 and C3: of C4, and of what is none of its kind."""
    from skimage import color
    from skimage import data as pictures

    encoder, rng = load_encoder("builtin"), np.random.default_rng(0)
    spec, side = encoder.tile_spec(), encoder.tile_spec().size_px

    def tiles(path: Path, mpp: float, positions: np.ndarray | None = None) -> np.ndarray:
        with open_slide(path, mpp) as slide:
            size = np.array([slide.width_px, slide.height_px])
            half = np.minimum(spec.size_um / mpp / 2, size / 2)
            chosen = (
                rng.uniform(half, np.maximum(size - half, half + 1e-6), (40, 2)) if positions is None else positions
            )
            return np.stack([read_tile(slide, x, y, TileSpec(side, spec.mpp)) for x, y in chosen])

    def section(name: str) -> np.ndarray:
        spots = pd.read_csv(data / "her2st" / "spots" / f"{name}_selection.tsv", sep="\t")
        return tiles(data / "her2st" / "images" / f"{name}.jpg", 0.69, spots[["pixel_x", "pixel_y"]].to_numpy(float))

    training = {name: encoder.embed(section(name)).astype(np.float32) for name in ("C2", "C3")}
    model = NoveltyModel().fit(
        np.concatenate([*training.values()]), np.repeat(list(training), [len(X) for X in training.values()])
    )
    own = section("C4")
    some = own[rng.choice(len(own), 40, replace=False)]
    stain = color.rgb2hed(some)
    stain[..., 2], stain[..., 1] = stain[..., 1] + 0.02, 0
    pen = some.copy()
    pen[:, :, : side // 2] = np.array([30, 120, 80]) * 0.85 + 0.15 * pen[:, :, : side // 2]
    small = [np.asarray(Image.fromarray(tile).resize((side // 12, side // 12))) for tile in some]
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(pictures.immunohistochemistry()).save(Path(folder) / "ihc.png")
        kinds = {
            "C4, the held-out section": own,
            "immunohistochemistry (scikit-image)": tiles(Path(folder) / "ihc.png", 0.5),
            "mouse brain, H&E": tiles(data / "he_images" / "squidpy_mousebrain_crop.jpg", 1.0),
            "H&E of another laboratory": tiles(data / "he_images" / "tiatoolbox_target_image.png", 0.5),
            "whole slide at 4 um/px": tiles(data / "he_images" / "TCGA-A1-A0SB-DX1_level2.jpg", 4.0),
            "glass": np.clip(244 + rng.normal(0, 2, (40, side, side, 3)), 0, 255).astype(np.uint8),
            "C4 with pen on half of each tile": pen,
            "C4 out of focus": np.stack([np.asarray(Image.fromarray(t).resize((side, side))) for t in small]),
            "C4 with eosin turned brown": np.clip(255 * color.hed2rgb(stain), 0, 255).astype(np.uint8),
        }
    rows = []
    for name, pixels in kinds.items():
        novelty = model(encoder.embed(pixels).astype(np.float32))
        in_scope = novelty <= IN_SCOPE_PERCENTILE
        verdict = model.scope(in_scope)["verdict"]
        rows.append({"tiles": name, "n": len(pixels), "flagged": 1 - in_scope.mean(), "verdict": verdict})
    return pd.DataFrame(rows)


PARTS = {"phantom": run_phantom, "monusac": run_monusac, "novelty": run_novelty}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="where what was made is kept")
    parser.add_argument("--heads", default=HEADS, help="names, with commas between them")
    parser.add_argument("--draws", type=int, default=4, help="of the phantom's training donors")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--quick", action="store_true", help="a smaller phantom")
    args = parser.parse_args()
    args.heads = args.heads.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in args.only.split(","):
            PARTS[name](folder, args)


if __name__ == "__main__":
    main()
