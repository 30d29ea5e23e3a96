"""Wrong um per px, told from the picture: how often, and how often of right ones. `honesty.py --only scale` runs it.

A head is trained on some donors; every section of the others is read as if its um per px were wrong by a factor. Told
is what `predict` would say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import histomix as hm
from histomix.embedding.other_scales import FACTORS, embed_other_scales
from histomix.encoders import load_encoder
from histomix.heads.trust.scale import fit_scale
from histomix.slides import TileSpec, open_slide, read_tile, tiles_on_grid

#: How much larger things look.
ERRORS = (0.5, 0.64, 0.8, 1.0, 1.25, 1.6, 2.0)
Row = dict[str, Any]


def tiles_of(slide: Any, spec: TileSpec, most: int) -> pd.DataFrame:
    """Places on tissue, half a tile apart, at most so many, evenly."""
    tiles = tiles_on_grid(slide, TileSpec(spec.size_px, spec.mpp, spec.size_um / 2), min_tissue=0.7)
    return tiles.iloc[np.linspace(0, len(tiles) - 1, min(most, len(tiles))).round().astype(int)]


def section(path: Path, mpp: float | None, kept: Path, most: int) -> dict[str, np.ndarray]:
    """Embeddings of a slide's tiles by error, and its sample; nothing of a slide without whole tiles on tissue."""
    if kept.exists():
        return dict(np.load(kept))
    encoder, found = load_encoder("builtin", threads=1), {}
    spec = encoder.tile_spec()
    with open_slide(path, mpp) as slide:
        tiles = tiles_of(slide, spec, most) if min(slide.width_px, slide.height_px) * slide.mpp >= spec.size_um else []
        if len(tiles):
            size = np.array([slide.width_px, slide.height_px])
            sample = embed_other_scales(slide, tiles, [encoder], "float32")[0]
            found["sample"] = sample
            for error in ERRORS:
                seen = TileSpec(spec.size_px, spec.mpp / error)
                xy, half = tiles[["x_px", "y_px"]].to_numpy(), seen.size_um / slide.mpp / 2
                inside = ((xy >= half - 1) & (xy <= size - half + 1)).all(axis=1)
                pixels = [read_tile(slide, x, y, seen) for x, y in xy[inside]]
                if pixels:
                    found[str(error)] = encoder.embed(np.stack(pixels))
    np.savez(kept, **found)
    return found


def told(train: Sequence[dict[str, Any]], test: Sequence[dict[str, Any]]) -> Iterator[Row]:
    """What a check fitted on some sections says of slides (all sections of a donor in one)."""
    model = fit_scale(
        [one["sample"] for one in train],
        np.array(FACTORS),
        [one["1.0"] for one in train],
        [one["donor"] for one in train],
    )
    if model is None:
        return
    for name in sorted({one["slide"] for one in test}):
        for error in ERRORS:
            parts = [one[str(error)] for one in test if one["slide"] == name and str(error) in one]
            if parts:
                check = model.check(model(np.concatenate(parts)))
                assert check is not None
                yield {"error": error, "told": check["told"], "factor": check["factor"], **model.facts()}


def summary(cohort: str, rows: list[Row]) -> Iterator[Row]:
    """Rows of the table."""
    table = pd.DataFrame(rows)
    for error, some in table.groupby("error"):
        what = "right um per px said to be wrong" if error == 1 else f"um per px wrong by {error:g}: told"
        yield {"cohort": cohort, "what": what, "value": some["told"].mean(), "n": len(some)}
    right = np.log(table.loc[table["error"] == 1, "factor"])
    yield {"cohort": cohort, "what": "SD of the log factor, right um per px", "value": right.std(), "n": len(right)}
    yield {"cohort": cohort, "what": "least factor told, by the card", "value": table["least"].mean(), "n": len(table)}


def scale_rows(folder: Path, data: Path | None, quick: bool) -> Iterator[Row]:
    """Rows of the table."""
    place = folder / ("scale-quick" if quick else "scale")
    place.mkdir(exist_ok=True)
    most, donors, side = (24, 6, 600.0) if quick else (40, 12, 800.0)
    sheet = hm.make_phantom(place / "phantom", seed=11, donors=donors, sections_per_donor=1, size_um=(side, side))
    sections = [
        {
            **section(row.image, row.mpp, place / f"phantom-{row.section}.npz", most),
            "donor": row.donor,
            "slide": row.donor,
        }
        for row in hm.read_cohort(sheet).rows
    ]
    for size in (1, 3) if quick else (1, 3, 8):
        rows: list[Row] = []
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(donors)
            unseen = order[3:] if quick else order[8:]
            rows += told([sections[one] for one in order[:size]], [sections[one] for one in unseen])
        yield from summary(f"phantom, {size} training donor{'s' * (size > 1)}", rows)
    if data is None:
        return
    names = ("C2", "C3", "C4")
    her2st = [
        {
            **section(data / "her2st" / "images" / f"{name}.jpg", 0.69, place / f"{name}.npz", most),
            "donor": "C",
            "slide": name,
        }
        for name in names
    ]
    rows = [row for one in her2st for row in told([o for o in her2st if o is not one], [one])]
    yield from summary("her2st, another section of the patient", rows)
    images = pd.read_csv(data / "monusac" / "images.csv")
    monusac = []
    for image, patient in zip(images["image"], images["patient"], strict=True):
        found = section(data / "monusac" / "images" / image, 0.25, place / f"{Path(image).stem}.npz", most)
        if found.get("sample") is not None and "1.0" in found:
            monusac.append({**found, "donor": patient, "slide": patient})
    rows = []
    for patient in sorted({one["donor"] for one in monusac}):
        rows += told([o for o in monusac if o["donor"] != patient], [o for o in monusac if o["donor"] == patient])
    yield from summary("MoNuSAC, another patient (four organs)", rows)
