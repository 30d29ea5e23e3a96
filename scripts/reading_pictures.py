"""Draw the pictures of docs/reading-a-map.md, good and bad, from the phantom, and print their numbers.

Usage: python scripts/reading_pictures.py WORK docs
WORK keeps the phantom, the heads and the maps; the same command goes on with what is there.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from PIL import Image, ImageFilter

import histomix as hm
from histomix.common.metrics import pearson
from histomix.maps import CompositionMap
from histomix.pl.varying import map_canvas, scope_figure

matplotlib.use("agg")
SEED, DONORS, SIZE_UM, MPP = 7, 6, (1900.0, 1300.0), 0.5
SLIDE = f"P{DONORS}S1"
#: Width of a picture, px, and its quality as JPEG.
_WIDTH, _QUALITY = 1000, 72
TISSUE = "phantom breast"


def main(work: Path, docs: Path) -> None:
    """Make everything, draw, and print a table of what each map says against the truth."""
    sheet = hm.make_phantom(work / "phantom", SEED, DONORS, 1, SIZE_UM, MPP, progress=False)
    alone = hm.make_phantom(work / "one-patient", SEED, 1, 4, SIZE_UM, MPP, progress=False)
    many = _head(work / "many", sheet, [f"P{number}S1" for number in range(1, DONORS)])
    one = _head(work / "one", alone, ["P1S1", "P1S2", "P1S3"])
    slide = sheet.parent / "images" / f"{SLIDE}.tif"
    pixels, own = _pixels(slide), _pixels(alone.parent / "images" / "P1S4.tif")
    cells = pd.read_csv(sheet.parent / "truth" / f"{SLIDE}.cells.csv.gz")
    own_cells = pd.read_csv(alone.parent / "truth" / "P1S4.cells.csv.gz")
    foreign = _muscle(pixels.shape)
    half = np.where(np.arange(pixels.shape[1])[None, :, None] < 0.66 * pixels.shape[1], pixels, foreign)
    blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(7)))
    # Picture, head, um per px, true cells where they are known, and whether it is drawn.
    examples: dict[str, tuple[np.ndarray, Path, float, pd.DataFrame | None, bool]] = {
        "in-scope": (pixels, many, MPP, cells, True),
        "half-in-scope": (half, many, MPP, None, True),
        "wrong-tissue": (foreign, many, MPP, None, True),
        "wrong-mpp": (pixels, many, MPP * 1.25, cells, True),
        "wrong-mpp-twice": (pixels, many, MPP * 2, cells, False),
        "blurred": (blurred, many, MPP, cells, True),
        "one-patient": (own, one, MPP, own_cells, True),
        "another-patient": (pixels, one, MPP, cells, False),
    }
    rows = {}
    for name, (picture, head, mpp, known, drawn) in examples.items():
        image = work / "slides" / f"{name}.png"
        image.parent.mkdir(exist_ok=True)
        if not image.is_file():
            Image.fromarray(picture).save(image)
        hm.predict_slides([image], head, work / "maps" / name, mpp=mpp, progress=False)
        found = CompositionMap.open(work / "maps" / name / name)
        rows[name] = _numbers(found, known)
        if drawn:
            _draw(found, docs / f"reading-{name}.jpg")
    print(pd.DataFrame(rows).T.to_string())
    plain = CompositionMap.open(work / "maps" / "in-scope" / "in-scope")
    print("a tile of 112 um beside the spot in its middle:", _spot_and_tile(cells, plain))


def _head(folder: Path, sheet: Path, sections: list[str]) -> Path:
    if not (folder / "head" / "card.json").is_file():
        cohort = hm.read_cohort(sheet)
        cohort = cohort.subset(sections)
        labels = hm.label(cohort, reference=sheet.parent / "reference.csv", out=folder / "labels", progress=False)
        features = hm.embed(cohort, out=folder / "features", progress=False)
        hm.train(cohort, features, labels, head="ridge", tissue=TISSUE, out=folder / "head", progress=False)
    return folder / "head"


def _pixels(path: Path) -> np.ndarray:
    with hm.open_slide(path) as slide:
        return slide.read(0, 0, slide.width_px, slide.height_px, slide.mpp)


def _muscle(shape: tuple[int, ...]) -> np.ndarray:
    """Another tissue: pink fibres side by side with thin, sparse nuclei, on white."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    bend = 40 * np.sin(x / 600) + 0.15 * x
    fibre = np.sin((y + bend) / 9) + 0.3 * np.sin((y + bend) / 2.7 + x / 40)
    tint = np.array([226, 110, 150], np.float32) + fibre[..., None] * np.array([10, 26, 18], np.float32)
    for _ in range(900):
        row, column = random.uniform(0, shape[0]), random.uniform(0, shape[1])
        along, across = (x - column) + 0.2 * (y - row), (y - row) - 0.2 * (x - column)
        top, left = max(0, int(row) - 24), max(0, int(column) - 40)
        part = np.s_[top : top + 48, left : left + 80]
        inside = (along[part] / 26) ** 2 + (across[part] / 4) ** 2 < 1
        tint[part][inside] = (92, 62, 130)
    middle, radius = np.array(shape[:2]) / 2, np.array(shape[:2]) * 0.46
    tint[((y - middle[0]) / radius[0]) ** 2 + ((x - middle[1]) / radius[1]) ** 2 > 1] = 245
    return np.clip(tint + random.normal(0, 6, shape), 0, 255).astype(np.uint8)


def _numbers(found: CompositionMap, cells: pd.DataFrame | None) -> dict[str, Any]:
    """How much is in scope, and what is known to be wrong; only where the truth is known."""
    reading = found.reading
    facts: dict[str, Any] = {"tiles": len(found), "in scope": round(reading.in_scope_share, 3)}
    if cells is None:
        return facts
    truth = _truth(cells, found, found.cell_px, square=True)
    rows = np.isfinite(truth).all(axis=1) & found.read_ok
    predicted, true = found.values().to_numpy(float)[rows], truth[rows]
    facts["pearson"] = round(float(np.nanmean(pearson(true, predicted))), 3)
    facts["slide mae"] = round(float(np.abs(predicted.mean(axis=0) - true.mean(axis=0)).mean()), 3)
    if found.lower is not None and found.upper is not None:
        lower, upper = found.lower.to_numpy(float)[rows], found.upper.to_numpy(float)[rows]
        facts["coverage"] = round(float(((lower <= true) & (true <= upper)).mean()), 3)
        facts["width"] = round(float((upper - lower).mean()), 3)
    facts["calibrated on"] = reading.calibrated_on
    return facts


def _truth(cells: pd.DataFrame, found: CompositionMap, side_px: float, *, square: bool) -> np.ndarray:
    """True composition around each tile's centre, in a square or a disc of this width; NaN without a cell."""
    places, types = cells[["x_px", "y_px"]].to_numpy(float), pd.Categorical(cells["type"], found.cell_types).codes
    counts = np.zeros((len(found), len(found.cell_types)))
    for row, centre in enumerate(found.xy_px):
        off = np.abs(places - centre)
        inside = (off.max(axis=1) if square else np.hypot(*off.T)) <= side_px / 2
        counts[row] = np.bincount(types[inside], minlength=counts.shape[1])
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(axis=1, keepdims=True)


def _spot_and_tile(cells: pd.DataFrame, found: CompositionMap) -> dict[str, float]:
    """How the true composition of a tile differs from that of the spot in its middle."""
    tile = _truth(cells, found, found.cell_px, square=True)
    spot = _truth(cells, found, 55 / found.mpp, square=False)
    rows = np.isfinite(tile).all(axis=1) & np.isfinite(spot).all(axis=1)
    difference = np.abs(tile - spot)[rows].mean()
    with np.errstate(invalid="ignore"):  # of a type that is nowhere in the spots there is no correlation
        each = [np.corrcoef(a, b)[0, 1] for a, b in zip(tile[rows].T, spot[rows].T, strict=True)]
    return {"mean absolute difference": round(float(difference), 4), "pearson": round(float(np.nanmean(each)), 3)}


def _draw(found: CompositionMap, target: Path) -> None:
    """The first picture of the map, or where it is out of scope the H&E and where."""
    if found.reading.statement:
        figure = scope_figure(map_canvas(found, None)[0], found, 4.0)
        words = textwrap.fill(found.reading.statement, 52)
        figure.axes[0].set_title(words, fontsize=8, color="#9b1c31")
    else:
        figure = hm.pl.composition(found)[0].get_figure(root=True)
    temporary = target.with_suffix(".png")
    figure.savefig(temporary, dpi=200, bbox_inches="tight", facecolor="white")
    with Image.open(temporary) as image:
        width = min(_WIDTH, round(_WIDTH * figure.get_figwidth() / 9))
        small = image.convert("RGB").resize(
            (width, round(image.height * width / image.width)), Image.Resampling.LANCZOS
        )
    small.save(target, quality=_QUALITY, optimize=True)
    temporary.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
