"""Means of slides against a constant, and what of a slide is not read: `honesty.py --only slides,areas`.

Heads are ridge but where they are named. Donors are held out (of her2st sections of one patient, which says nothing of
another).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from heads import embedded, interval, monusac
from honesty_novelty import her2st, phantom
from tissue import mask_rows

import histomix as hm
from histomix.datasets import phantom_truth
from histomix.encoders import load_encoder
from histomix.heads import DEFAULT
from histomix.maps import CompositionMap

Row = dict[str, Any]


def slide_rows(folder: Path, data: Path | None, quick: bool) -> Iterator[Row]:
    """Error of slides' means beside that of the training mean, their order, and the spread that is kept."""
    cohort = phantom(folder, quick)[1]
    name = "donors-quick" if quick else "donors"
    yield from _levels("phantom", cohort, folder / f"{name}-features", phantom_truth(folder / name), "donor")
    if data is None:
        return
    cohort = her2st(folder, data)[1]
    labels = hm.label(cohort, method="table", progress=False)
    yield from _levels("her2st, sections of one patient", cohort, folder / "her2st-features", labels, "section")
    cohort = monusac(folder / "monusac", data / "monusac")
    features = embedded(cohort, folder / "monusac-features", check_alignment=False)
    counts = hm.label(cohort, method="table", progress=False)
    shares = {
        section: hm.Abundance(one.values.div(one.values.sum(axis=1), axis=0), "proportion")
        for section, one in counts.items()
    }
    yield from _levels("MoNuSAC, shares of nuclei", cohort, features, shares, "donor")


def _levels(where: str, cohort: hm.Cohort, features: Any, labels: Any, folds: str) -> Iterator[Row]:
    result = hm.evaluate(cohort, features, labels, ["mean", "ridge"], folds, spatial=False, progress=False)
    scores = result.summary["scores"]["label"]["ridge"]
    words = {
        "slide_mae": "error of a slide's mean",
        "slide_mae_constant": "error of the training mean in its place",
        "slide_spearman": "order of the slides by their means (Spearman)",
        "spread_kept": "spread of the means that is kept",
    }
    n = result.summary["n_sections"]
    for metric, what in words.items():
        if metric in scores:
            yield {"cohort": where, "what": what, "value": interval(scores[metric]), "n": n}
    less = scores["slide_mae"].get("minus_constant")
    if less:
        ends = [one for one in less.values() if one and one.get("high") is not None]
        better = sum(one["high"] < 0 for one in ends)
        what = "types whose slide means are told better than the constant"
        yield {"cohort": where, "what": what, "value": f"{better} of {len(less)}", "n": n}


def area_rows(folder: Path, data: Path | None, quick: bool) -> Iterator[Row]:
    """What lies outside the tissue mask; adipocytes of unseen donors, on the map and counted by it."""
    _, cohort = phantom(folder, quick)
    place = folder / ("donors-quick" if quick else "donors")
    for row in mask_rows(place, data):
        known = row["cohort"] == "phantom" and row["what"].split(" ")[0] not in ("all", "Adipocytes")
        if not known and row["what"] != "seconds of CPU":
            yield row | {"value": float(row["value"])}
    yield from _adipocytes(folder, place, cohort)


def _adipocytes(folder: Path, place: Path, cohort: hm.Cohort) -> Iterator[Row]:
    """Of the donors of either half, by the default head of the other half, which counts cells, and by ridge."""
    for name in (DEFAULT, "ridge"):
        yield from _adipocytes_of(name, folder, place, cohort)


def _adipocytes_of(name: str, folder: Path, place: Path, cohort: hm.Cohort) -> Iterator[Row]:
    encoder, truth = load_encoder("builtin", threads=1), phantom_truth(place)
    donors = sorted({row.donor for row in cohort.rows})
    read, counted, real = 0, 0.0, 0
    for half in (donors[::2], donors[1::2]):
        others = cohort.subset([row.section for row in cohort.rows if row.donor not in half])
        head = hm.train(others, folder / f"{place.name}-features", truth, head=name, progress=False)
        for row in (row for row in cohort.rows if row.donor in half and row.section.endswith("S1")):
            one = CompositionMap(hm.predict(str(row.image), head, mpp=row.mpp, encoders=[encoder], progress=False))
            cells = pd.read_csv(place / "truth" / f"{row.section}.cells.csv.gz")
            xy_px = cells.loc[cells["type"] == "Adipocytes", ["x_px", "y_px"]].to_numpy()
            away = np.abs(xy_px[:, None] - one.xy_px[None]).max(axis=2).min(axis=1, initial=np.inf)
            read += int((away <= one.cell_px / 2).sum())
            share = np.clip(one.values().to_numpy(float), 0, None)
            mean = share[one.read_ok][:, one.cell_types.index("Adipocytes")].mean()
            counted += float(mean) * len(one) * float(one.manifest["area"].get("cells_per_map_cell") or np.nan)
            real += len(xy_px)
    where = f"phantom, {len(donors)} unseen donors, {name} of the other half"
    yield {"cohort": where, "what": "adipocytes under a tile of the map", "value": read / max(real, 1), "n": real}
    what = "adipocytes counted by the map, over the true number"
    yield {"cohort": where, "what": what, "value": counted / max(real, 1), "n": real}
