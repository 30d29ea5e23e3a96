"""Intervals and novelty on donors that were not there: coverage, width, and how many foreign tiles are flagged.

Heads are trained on some donors of a phantom cohort of twelve, calibrated on the same, and judged on the others. Where
HISTOMIX_DATA is set, novelty is fitted on two sections of a her2st patient and asked about the third, about pictures of
other tissue and stain, and about the third's own tiles with pen, blur and another stain drawn on them.

Run with a folder to keep the phantom, its labels and its features in: python benchmarks/intervals.py FOLDER [HEAD ...]
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

import histomix as hm
from histomix.abundance import read_labels
from histomix.embedding import read_features
from histomix.encoders import load_encoder
from histomix.heads import (
    IN_SCOPE_PERCENTILE,
    NoveltyModel,
    TrainingSet,
    assemble,
    calibrate,
    held_out_predictions,
    make_estimator,
)
from histomix.slides import TileSpec, open_slide, read_tile

DONORS, LEVEL, DRAWS = 12, 0.9, 4
HEADS = ("mean", "ridge", "average")


def phantom(folder: Path) -> TrainingSet:
    """Features and labels of twelve donors, made once."""
    cohort = hm.read_cohort(hm.make_phantom(folder / "phantom", seed=5, donors=DONORS))
    labels, features = folder / "labels", folder / "features"
    if not labels.exists():
        hm.label(cohort, reference=folder / "phantom" / "reference.csv", out=labels)
    hm.embed(cohort, out=features)
    return assemble(cohort, read_features(features), read_labels(labels))


def coverage(training: TrainingSet, heads: list[str], sizes: tuple[int, ...] = (3, 8)) -> pd.DataFrame:
    """Coverage and width of intervals on unseen donors, one row per head and number of training donors."""
    rng, names, rows = np.random.default_rng(0), np.unique(training.donor), []
    for size in sizes:
        draws = [rng.choice(names, size, replace=False) for _ in range(DRAWS)]
        for head in heads:
            inside: list[float] = []
            width: list[float] = []
            for chosen in draws:
                here = np.isin(training.donor, chosen)
                seen = training.seen_from(np.flatnonzero(here)).X
                part = seen[here], training.Y[here], training.donor[here]
                positions, there = training.positions[here], training.positions[~here]
                fitted = make_estimator(head, training.unit).fit(*part, positions=positions)
                held_out, spread = held_out_predictions(fitted, *part, positions)
                intervals = calibrate(part[1], held_out, spread, part[2], LEVEL, unit=training.unit)
                values = fitted.predict(seen[~here], there)
                around = fitted.predict_spread(seen[~here], there) if intervals.needs_spread else None
                lower, upper = intervals.bounds(values, around)
                within = ((training.Y[~here] >= lower) & (training.Y[~here] <= upper)).mean(axis=1)
                inside += [float(within[training.donor[~here] == d].mean()) for d in names if d not in chosen]
                width.append(float((upper - lower).mean()))
            rows.append(
                {
                    "head": head,
                    "training donors": size,
                    "coverage": np.mean(inside),
                    "least donor": np.min(inside),
                    "greatest donor": np.max(inside),
                    "width": np.mean(width),
                }
            )
            print(rows[-1], file=sys.stderr, flush=True)
    return pd.DataFrame(rows)


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


def main() -> None:
    """Print both tables."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary)
        found = coverage(phantom(folder), sys.argv[2:] or list(HEADS))
        print(f"intervals of level {LEVEL} on unseen donors of the phantom, mean of {DRAWS} draws of training donors")
        print(found.to_string(index=False, float_format="{:.3f}".format))
    if os.environ.get("HISTOMIX_DATA"):
        print("\nnovelty fitted on her2st C2 and C3")
        print(foreign(Path(os.environ["HISTOMIX_DATA"])).to_string(index=False, float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
