"""The tissue mask against truth: cells and spots outside it, glass taken for tissue, fat, and what it costs.

    HISTOMIX_DATA=... python benchmarks/tissue.py [--phantom FOLDER]

The phantom is that of seed 0, one section of each of four donors, 1600 um, made where FOLDER has none. Prints Markdown.
`mask_rows` gives the same as rows for other tables.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

import histomix as hm
from histomix.slides import Slide, TissueMask, open_slide, tissue_mask
from histomix.slides.tissue import FAT, FOLD

#: So far from every spot (um) lies glass on her2st.
GLASS_UM = 300.0
HER2ST_MPP, MONUSAC_MPP = 0.69, 0.25


def mask_rows(phantom: Path, data: Path | None) -> Iterator[dict[str, Any]]:
    """Rows of cohort, what, share or mm2, and n; her2st and MoNuSAC only where their folder is given."""
    outside: dict[str, list[int]] = {}
    for image in sorted((phantom / "images").glob("*.tif")):
        cells = pd.read_csv(phantom / "truth" / f"{image.stem}.cells.csv.gz")
        with open_slide(image) as slide:
            off = ~tissue_mask(slide).contains(cells[["x_px", "y_px"]], slide.mpp)
        for name, some in pd.Series(off).groupby(cells["type"]):
            outside.setdefault(str(name), []).extend(some.astype(int))
    for name, some in {**outside, "all cells": [*itertools.chain(*outside.values())]}.items():
        yield {"cohort": "phantom", "what": f"{name} outside the mask", "value": np.mean(some), "n": len(some)}
    if data is None:
        return
    for section in ("C2", "C3", "C4"):
        spots = pd.read_csv(data / "her2st" / "spots" / f"{section}_selection.tsv", sep="\t")
        with open_slide(data / "her2st" / "images" / f"{section}.jpg", HER2ST_MPP) as slide:
            mask, seconds = _timed(slide)
        xy_px, cohort = spots[["pixel_x", "pixel_y"]].to_numpy(), f"her2st {section}"
        glass = _distance_um(mask, xy_px, HER2ST_MPP) > GLASS_UM
        yield {"cohort": cohort, "what": "spots outside the mask", "n": len(spots),
               "value": 1 - mask.contains(xy_px, HER2ST_MPP).mean()}  # fmt: skip
        yield {"cohort": cohort, "what": "glass taken for tissue", "value": mask.mask[glass].mean(), "n": glass.sum()}
        for kind, what in ((FAT, "fat, mm2"), (FOLD, "folds, mm2")):
            yield {"cohort": cohort, "what": what, "value": mask.mm2(kind), "n": 1}
        yield {"cohort": cohort, "what": "seconds of CPU", "value": seconds, "n": 1}
    off = []
    for table in sorted((data / "monusac" / "cells").glob("*.csv")):
        with open_slide(data / "monusac" / "images" / f"{table.stem}.jpg", MONUSAC_MPP) as slide:
            off += (~tissue_mask(slide).contains(pd.read_csv(table)[["x_px", "y_px"]], MONUSAC_MPP)).tolist()
    yield {"cohort": "MoNuSAC", "what": "nuclei outside the mask", "value": np.mean(off), "n": len(off)}


def _timed(slide: Slide) -> tuple[TissueMask, float]:
    began = time.process_time()
    return tissue_mask(slide), time.process_time() - began


def _distance_um(mask: TissueMask, xy_px: np.ndarray, mpp: float) -> np.ndarray:
    """Distance of each pixel of the mask to the nearest spot."""
    away = np.ones(mask.mask.shape, bool)
    column, row = np.clip((xy_px * mpp / mask.mpp).astype(int), 0, np.array(away.shape[::-1]) - 1).T
    away[row, column] = False
    distance: np.ndarray = ndimage.distance_transform_edt(away) * mask.mpp
    return distance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantom", type=Path)
    given = parser.parse_args()
    data = os.environ.get("HISTOMIX_DATA")
    with tempfile.TemporaryDirectory() as name:
        folder = given.phantom or Path(name) / "phantom"
        hm.make_phantom(folder, seed=0, donors=4, sections_per_donor=1, size_um=(1600, 1600))
        print("| cohort | what | value | n |\n|---|---|---|---|")
        for row in mask_rows(folder, Path(data) if data else None):
            print(f"| {row['cohort']} | {row['what']} | {row['value']:.4g} | {row['n']} |")


if __name__ == "__main__":
    main()
