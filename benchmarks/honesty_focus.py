"""Slides a little out of focus: how often they are told, and how often sharp ones are. `honesty.py --only focus`.

Slides are blurred as a whole, by a Gaussian. `predict` says of one that it is soft or out of focus by the median of its
tiles' sharpness; an image of MoNuSAC takes part where it holds four whole tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

import histomix as hm
from histomix.slides import TileSpec, open_slide, read_tile, tiles_on_grid
from histomix.slides.focus import OUT_OF_FOCUS, SOFT, sharpness

Row = dict[str, Any]
BLURS_UM = (0.0, 0.8, 1.0, 1.2, 1.5, 2.0)
_SPEC, _MOST, _LEAST = TileSpec(224, 0.5, 56.0), 24, 4


def focus_rows(folder: Path, data: Path | None, quick: bool) -> Iterator[Row]:
    """Rows of the table."""
    donors, side = (5, 600.0) if quick else (8, 800.0)
    cohorts = {"phantom (the limit was set on it)": _phantom(folder / "focus-0", 0, donors, side)}
    cohorts["another phantom"] = _phantom(folder / "focus-11", 11, 4 if quick else 12, side)
    for name, sheet in cohorts.items():
        yield from _told(name, [(row.image, row.mpp) for row in hm.read_cohort(sheet).rows])
    if data is None:
        return
    yield from _told("her2st", [(data / "her2st" / "images" / f"{name}.jpg", 0.69) for name in ("C2", "C3", "C4")])
    images = pd.read_csv(data / "monusac" / "images.csv")["image"]
    yield from _told("MoNuSAC", [(data / "monusac" / "images" / name, 0.25) for name in images])


def _told(cohort: str, slides: list[tuple[Any, float | None]]) -> Iterator[Row]:
    found = [one for one in (_medians(*slide) for slide in slides) if one is not None]
    medians = np.array(found)
    for column, blur in enumerate(BLURS_UM):
        what = f"blurred by {blur:g} um" if blur else "as they are"
        for said, limit in (("soft or out of focus", SOFT), ("most of it out of focus", OUT_OF_FOCUS)):
            share = float(np.mean(medians[:, column] < limit))
            yield {"cohort": cohort, "what": f"{what}: {said}", "value": share, "n": len(medians)}


def _medians(path: Any, mpp: float | None) -> list[float] | None:
    """Median sharpness of a slide's tiles by blur; None of one too small."""
    with open_slide(path, mpp) as slide:
        if min(slide.width_px, slide.height_px) * slide.mpp < _SPEC.size_um:
            return None
        table = tiles_on_grid(slide, _SPEC, min_tissue=0.7)
        if len(table) < _LEAST:
            return None
        some = table.iloc[np.linspace(0, len(table) - 1, min(_MOST, len(table))).round().astype(int)]
        tiles = np.stack([read_tile(slide, x, y, _SPEC) for x, y in some[["x_px", "y_px"]].to_numpy()])
    medians = []
    for blur in BLURS_UM:
        sd = blur / _SPEC.mpp
        seen = ndimage.gaussian_filter(tiles.astype(np.float32), (0, sd, sd, 0)).round().astype(np.uint8)
        known = sharpness(seen, _SPEC.mpp)
        medians.append(float(np.median(known[np.isfinite(known)])) if np.isfinite(known).any() else np.nan)
    return medians


def _phantom(folder: Path, seed: int, donors: int, side_um: float) -> Path:
    return hm.make_phantom(folder, seed, donors, 1, (side_um, side_um), counts=False, workers=1, progress=False)
