"""Levels of one block under two donors' names: how often the audit finds them. `honesty.py --only audit` runs it.

Intervals of rates are Wilson's, at 95 %. her2st and MoNuSAC are used where HISTOMIX_DATA names their folder.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy.spatial import cKDTree
from scipy.stats import binomtest

from histomix.abundance import read_abundance
from histomix.datasets.phantom.levels import make_level
from histomix.evaluation.leakage.adjacent import adjacent_levels, picture
from histomix.evaluation.leakage.registration import SectionPoints

HER2ST_MPP, MONUSAC_MPP = 0.69, 0.25
Row = dict[str, Any]


def rate(cohort: str, what: str, hits: int, n: int) -> Row:
    """A share with its 95 % interval."""
    interval = binomtest(hits, n).proportion_ci(0.95, "wilson")
    return {
        "cohort": cohort,
        "what": what,
        "value": f"{hits / n:.3f} ({interval.low:.3f} to {interval.high:.3f})",
        "n": n,
    }


def audit_rows(folder: Path, data: Path | None, quick: bool) -> Iterator[Row]:
    """Adjacent levels of the phantom that are found, and pairs of different donors that are taken for such."""
    for seed, size_um in ((0, 1600.0),) if quick else ((0, 1600.0), (1, 1000.0), (2, 1300.0)):
        labels, pictures, owner = {}, {}, {}
        for donor, number in itertools.product(range(4 if quick else 12), range(2)):
            name, level = f"P{donor}L{number}", make_level(seed, donor, number, (size_um, size_um))
            small = Image.fromarray(level.picture).reduce(4)
            small.save(folder / "level.jpg", quality=88)
            labels[name], pictures[name] = _labels(level.xy_um, level.truth), picture(folder / "level.jpg", 8.0)
            owner[name] = str(donor)
        where = f"phantom, {size_um:.0f} um"
        yield from _audit_rates(where, labels, pictures, owner)
        yield from _audit_rates(f"{where}, labels alone", labels, {}, owner)


def patient_rows(folder: Path, data: Path | None, quick: bool) -> Iterator[Row]:
    """The same on sections of patients; her2st has up to six levels of each."""
    if data is None:
        return
    labels, pictures, owner = her2st_points(data)
    began = time.process_time()
    yield from _audit_rates("her2st, 31 label maps of 8 patients", labels, {}, owner)
    yield {"cohort": "her2st", "what": "seconds for all 465 pairs", "value": time.process_time() - began, "n": 1}
    inside = {name: labels[name] for name in ("C2", "C3", "C4")}
    yield from _audit_rates("her2st C2, C3, C4 with pictures", inside, pictures, owner)
    labels, pictures, owner = monusac_points(data)
    yield from _audit_rates("MoNuSAC, patients", labels, pictures, owner, hits=False)


def _audit_rates(
    where: str,
    labels: Mapping[str, SectionPoints],
    pictures: Mapping[str, SectionPoints],
    owner: Mapping[str, str],
    hits: bool = True,
) -> Iterator[Row]:
    """Levels of each donor entered under names of their own, in a cohort of all the others."""
    every = list(itertools.combinations(sorted(labels), 2))
    same = [pair for pair in every if owner[pair[0]] == owner[pair[1]]]
    told = adjacent_levels(labels, pictures, every)
    found = {(one["section"], one["with"]) for one in told["pairs"]}
    if hits and same:
        yield rate(where, "found", len(found & set(same)), len(same))
    others = [pair for pair in every if pair not in set(same)]
    if others:
        honest = adjacent_levels(labels, pictures, others)
        row = rate(where, "false alarms", len(honest["pairs"]), len(others))
        yield row | {"what": f"{row['what']} ({honest['n_compared']} alike enough in area to be compared)"}


def _labels(xy_um: np.ndarray, values: np.ndarray) -> SectionPoints:
    share = values / np.maximum(values.sum(axis=1, keepdims=True), 1e-12)
    return SectionPoints.of(np.asarray(xy_um, dtype=np.float64), np.sqrt(share))


Points = dict[str, SectionPoints]


def her2st_points(data: Path) -> tuple[Points, Points, dict[str, str]]:
    """Label maps of all sections (stereoscope, 8 types) and pictures of those that have one."""
    Image.MAX_IMAGE_PIXELS = None
    root, labels, pictures = data / "her2st", {}, {}
    for path in sorted((root / "proportions" / "major").glob("*.tsv*")):
        name = path.name.split(".")[0]
        table = read_abundance(path, "proportion").values
        spots = pd.read_csv(root / "spots" / f"{name}_selection.tsv", sep="\t")
        spots.index = pd.Index([f"{x:.0f}x{y:.0f}" for x, y in zip(spots["x"], spots["y"], strict=True)])
        known = table.index.intersection(spots.index)
        xy_um = spots.loc[known, ["pixel_x", "pixel_y"]].to_numpy() * HER2ST_MPP
        labels[name] = _labels(xy_um, table.loc[known].to_numpy())
        image = root / "images" / f"{name}.jpg"
        if image.is_file():
            pictures[name] = picture(image, HER2ST_MPP)
    return labels, pictures, {name: name[0] for name in labels}


def monusac_points(data: Path, pitch_um: float = 20.0) -> tuple[Points, Points, dict[str, str]]:
    """Types of the nuclei within 30 um of places that lie 20 um apart, of images large enough for 60 of them."""
    table = pd.read_csv(data / "monusac" / "images.csv")
    types = ["Epithelial", "Lymphocytes", "Macrophages", "Neutrophils"]
    labels, pictures, owner = {}, {}, {}
    for row in table.itertuples():
        name = str(row.image).removesuffix(".jpg")
        cells = pd.read_csv(data / "monusac" / "cells" / f"{name}.csv")
        size_um = np.array([row.width, row.height]) * MONUSAC_MPP
        grid = np.stack(np.meshgrid(*(np.arange(pitch_um / 2, side, pitch_um) for side in size_um)), -1).reshape(-1, 2)
        tree = cKDTree(cells[["x_px", "y_px"]].to_numpy() * MONUSAC_MPP)
        kinds = np.stack([(cells["cell_type"] == one).to_numpy(float) for one in types], axis=1)
        counts = np.array([kinds[near].sum(axis=0) for near in tree.query_ball_point(grid, 30.0)])
        filled = counts.sum(axis=1) > 0
        if filled.sum() >= 60:
            labels[name] = _labels(grid[filled], counts[filled])
            owner[name] = str(row.patient)
            one = picture(data / "monusac" / "images" / str(row.image), MONUSAC_MPP, 8.0)
            if len(one.xy_um) >= 60:
                pictures[name] = one
    return labels, pictures, owner
