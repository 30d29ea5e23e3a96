"""Nuclei counted in H&E beside those that people annotated (MoNuSAC) and beside the cells of the phantom.

A nucleus is found where one of the truth lies within 3 um, one to one. People annotated epithelium, lymphocytes,
macrophages and neutrophils alone, so what is found in MoNuSAC's stroma counts as false: its F1 compares counters, and
says little of one. Counts are those of squares of 56 um, side by side; correlations over all squares, and the mean of
those within images with six squares or more.

    python benchmarks/nuclei.py
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from heads import MPP, monusac
from scipy.spatial import cKDTree

import histomix as hm
from histomix.slides import Slide, find_nuclei

NEAR_UM, SQUARE_UM, FEWEST_SQUARES = 3.0, 56.0, 6


def matched(found: np.ndarray, truth: np.ndarray) -> int:
    """How many pairs lie within `NEAR_UM`, the nearest first, each point in one pair at most."""
    near = cKDTree(found).sparse_distance_matrix(cKDTree(truth), NEAR_UM, output_type="coo_matrix")
    free = np.ones(len(found), bool), np.ones(len(truth), bool)
    count = 0
    for pair in np.argsort(near.data):
        one, other = near.row[pair], near.col[pair]
        if free[0][one] and free[1][other]:
            free[0][one] = free[1][other] = False
            count += 1
    return count


def squares(xy_um: np.ndarray, size_um: np.ndarray) -> np.ndarray:
    """Points in each square wholly inside the image."""
    columns, rows = (size_um // SQUARE_UM).astype(int)
    edges = [np.arange(number + 1) * SQUARE_UM for number in (columns, rows)]
    return np.histogram2d(*xy_um.T, bins=edges)[0].ravel()


def phantom_images(folder: Path) -> Iterator[tuple[Slide, np.ndarray]]:
    """Slides of the phantom and the centres of its cells, um, without fat cells, whose nucleus lies elsewhere."""
    cohort = hm.read_cohort(hm.make_phantom(folder, counts=False, size_um=(1000.0, 1000.0)))
    for section in cohort:
        cells = pd.read_csv(folder / "truth" / f"{section.name}.cells.csv.gz")
        with section.slide() as slide:
            yield slide, cells.loc[cells["type"] != "Adipocytes", ["x_px", "y_px"]].to_numpy() * slide.mpp


def monusac_images(folder: Path, data: Path) -> Iterator[tuple[Slide, np.ndarray]]:
    """The images that hold tiles (see `heads.py`), and annotated nuclei in um."""
    for row in monusac(folder, data).rows:
        cells = pd.read_csv(data / "cells" / f"{row.section}.csv")
        with hm.open_slide(row.image, MPP) as slide:
            yield slide, cells[["x_px", "y_px"]].to_numpy() * MPP


def measure(title: str, images: Iterator[tuple[Slide, np.ndarray]]) -> None:
    """Print one row."""
    pairs, counted, within, seconds, area = [], [], [], 0.0, 0.0
    for slide, truth in images:
        size_px = np.array([slide.width_px, slide.height_px])
        start = time.process_time()
        found = find_nuclei(slide, size_px[None] / 2, float(size_px.max()) * slide.mpp).xy_px * slide.mpp
        seconds += time.process_time() - start
        area += float(np.prod(size_px * slide.mpp)) / 1e6
        pairs.append((matched(found, truth), len(found), len(truth)))
        both = np.stack([squares(points, size_px * slide.mpp) for points in (found, truth)])
        counted.append(both)
        if both.shape[1] >= FEWEST_SQUARES and both.std(axis=1).all():
            within.append(np.corrcoef(both)[0, 1])
    hit, answers, wanted = np.sum(pairs, axis=0)
    every = np.concatenate(counted, axis=1)
    error = np.sqrt(np.mean(np.square(every[0] - every[1])))
    print(
        f"| {title}: {len(pairs)} images, {wanted:,} nuclei | {2 * hit / (answers + wanted):.3f} | "
        f"{hit / answers:.2f} | {hit / wanted:.2f} | {np.corrcoef(every)[0, 1]:.3f} | {np.mean(within):.3f} | "
        f"{error:.1f} ({every[1].std():.1f}) | {seconds / area:.2f} |",
        flush=True,
    )


def main() -> None:
    """Measure both."""
    print(
        "| images | F1 | precision | recall | r of counts | within images | RMSE (of the mean) | s of CPU a mm2 |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        measure("phantom", phantom_images(Path(folder) / "phantom"))
        if data := os.environ.get("HISTOMIX_DATA"):
            measure("MoNuSAC", monusac_images(Path(folder) / "monusac", Path(data).resolve() / "monusac"))


if __name__ == "__main__":
    main()
