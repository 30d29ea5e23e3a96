"""Novelty against error, and intervals of one donor's sections on others: `honesty.py --only novelty,coverage`.

Heads are ridge. The error of a tile is the mean over cell types of its absolute error over the standard deviation of
the training labels; that of the phantom is against its truth.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

import histomix as hm
from histomix.abundance import labels_of
from histomix.datasets import phantom_truth
from histomix.embedding import read_features
from histomix.encoders import load_encoder
from histomix.heads import (
    IN_SCOPE_PERCENTILE,
    NoveltyModel,
    TrainingSet,
    assemble,
    calibrate,
    held_out_predictions,
    inner_groups,
    make_estimator,
)
from histomix.heads.trust.intervals import WIDENED
from histomix.slides import TileSpec, open_slide, read_tile, tissue_mask

Row = dict[str, Any]
Change = Callable[[np.ndarray], np.ndarray]
HER2ST = ("C2", "C3", "C4")
#: Spots of a section that are changed.
CHANGED = 24
_DYES = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])


def stained(haematoxylin: float, eosin: float) -> Change:
    """Factors on the dyes."""
    dyes = _DYES / np.linalg.norm(_DYES, axis=1, keepdims=True)

    def change(tiles: np.ndarray) -> np.ndarray:
        amounts = -np.log(np.maximum(tiles.astype(float), 1) / 255) @ np.linalg.inv(dyes)
        return np.clip(255 * np.exp(-(amounts * (haematoxylin, eosin, 1.0)) @ dyes), 0, 255).astype(np.uint8)

    return change


def compressed(tiles: np.ndarray) -> np.ndarray:
    """JPEG of quality 20."""
    files = [io.BytesIO() for _ in tiles]
    for file, tile in zip(files, tiles, strict=True):
        Image.fromarray(tile).save(file, "JPEG", quality=20)
    return np.stack([np.asarray(Image.open(file)) for file in files])


def blurred(tiles: np.ndarray) -> np.ndarray:
    """Out of focus, 2 px."""
    return np.asarray(ndimage.gaussian_filter(tiles.astype(np.float32), (0, 2, 2, 0)).astype(np.uint8))


def coloured(tiles: np.ndarray) -> np.ndarray:
    """The colours of another scanner."""
    return np.asarray((255 * (tiles / 255.0) ** (0.8, 1.0, 1.25)).astype(np.uint8))


CHANGES: dict[str, Change] = {
    "haematoxylin x .7": stained(0.7, 1.0),
    "eosin x 1.6": stained(1.0, 1.6),
    "scanner colour": coloured,
    "JPEG quality 20": compressed,
    "blur of 2 um": blurred,
}
SCALES = (0.5, 0.8, 1.25, 2.0)


@lru_cache(maxsize=1)
def phantom(folder: Path, quick: bool) -> tuple[TrainingSet, hm.Cohort]:
    """Eight donors with two sections each (quick: five small ones), labelled with their truth."""
    place = folder / ("donors-quick" if quick else "donors")
    donors, side = (5, 600.0) if quick else (8, 800.0)
    cohort = hm.read_cohort(hm.make_phantom(place, seed=0, donors=donors, size_um=(side, side)))
    hm.embed(cohort, out=folder / f"{place.name}-features", progress=False)
    return assemble(cohort, read_features(folder / f"{place.name}-features"), phantom_truth(place)), cohort


@lru_cache(maxsize=1)
def her2st(folder: Path, data: Path) -> tuple[TrainingSet, hm.Cohort]:
    """C2, C3 and C4 with the published proportions."""
    place = data / "her2st"
    rows = [
        {
            "section": name,
            "donor": "C",
            "spots": place / "spots" / f"{name}_selection.tsv",
            "image": place / "images" / f"{name}.jpg",
            "mpp": 0.69,
            "labels": place / "proportions" / "major" / f"{name}.tsv.gz",
            "label_unit": "proportion",
        }
        for name in HER2ST
    ]
    pd.DataFrame(rows).to_csv(folder / "her2st.csv", index=False)
    cohort = hm.read_cohort(folder / "her2st.csv")
    hm.embed(cohort, out=folder / "her2st-features", progress=False)
    return assemble(cohort, read_features(folder / "her2st-features"), labels_of(None, cohort)), cohort


class Trained:
    """A ridge head on some rows: its novelty, and the errors that it makes."""

    def __init__(self, training: TrainingSet, rows: np.ndarray) -> None:
        X, self.Y = training.X[rows], training.Y[rows]
        groups = inner_groups(training.section[rows], training.donor[rows], training.xy_um[rows])
        self.estimator = make_estimator("ridge", training.unit).fit(X, self.Y, groups=groups)
        held_out, _ = held_out_predictions(self.estimator, X, self.Y, groups)
        self.novelty = NoveltyModel().fit(X, groups, held_out, self.Y)

    def __call__(self, X: np.ndarray, Y: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Novelty and error of tiles."""
        values = self.estimator.predict(X)
        error = np.zeros(len(X))
        if Y is not None:
            sd = self.Y.std(axis=0)
            error = (np.abs(values - Y)[:, sd > 0] / sd[sd > 0]).mean(axis=1)
        return self.novelty(X, values), error


@lru_cache(maxsize=64)
def changed(image: Path, mpp: float, xy_um: bytes) -> dict[str, np.ndarray]:
    """Embeddings of places (float64 pairs, um) by what was done to their pixels."""
    encoder = load_encoder("builtin", threads=1)
    spec, found = encoder.tile_spec(), {}
    with open_slide(image, mpp) as slide:
        places = np.frombuffer(xy_um).reshape(-1, 2) / slide.mpp

        def read(factor: float) -> np.ndarray:
            return np.stack([read_tile(slide, x, y, TileSpec(spec.size_px, spec.mpp / factor)) for x, y in places])

        tiles = read(1.0)
        found = {name: encoder.embed(change(tiles)) for name, change in CHANGES.items()}
        found |= {f"um per px wrong by {factor:g}": encoder.embed(read(factor)) for factor in SCALES}
    return found


def judged(head: Trained, training: TrainingSet, cohort: hm.Cohort, section: str) -> tuple[Row, pd.DataFrame]:
    """Novelty of a section that was not there, and of its changed tiles."""
    rows = np.flatnonzero(training.section == section)
    novelty, error = head(training.X[rows], training.Y[rows])
    severe = error > np.quantile(error, 0.9)
    whole = {"auroc": roc_auc_score(severe, novelty), "alarms": np.mean(novelty > IN_SCOPE_PERCENTILE)}
    some = rows[np.linspace(0, len(rows) - 1, min(CHANGED, len(rows))).round().astype(int)]
    row = next(row for row in cohort.rows if row.section == section)
    assert row.image is not None
    own = head(training.X[some], training.Y[some])[1].mean()
    table = []
    for name, X in changed(Path(row.image), row.mpp, training.xy_um[some].tobytes()).items():
        there, wrong = head(X, training.Y[some])
        table.append({"change": name, "flagged": np.mean(there > IN_SCOPE_PERCENTILE), "error": wrong.mean() / own})
    return whole, pd.DataFrame(table)


def _summary(cohort: str, found: list[tuple[Row, pd.DataFrame]]) -> Iterator[Row]:
    whole = pd.DataFrame([one for one, _ in found])
    n = len(whole)
    yield {
        "cohort": cohort,
        "what": "AUROC of an error above the 90th percentile",
        "value": whole["auroc"].mean(),
        "n": n,
    }
    yield {"cohort": cohort, "what": "tiles out of scope", "value": whole["alarms"].mean(), "n": n}
    yield {"cohort": cohort, "what": "tiles out of scope, worst section", "value": whole["alarms"].max(), "n": n}
    for name, some in pd.concat([table for _, table in found]).groupby("change", sort=False):
        what = f"{name}: out of scope (error is {some['error'].mean():.2f} times)"
        yield {"cohort": cohort, "what": what, "value": some["flagged"].mean(), "n": n}


def foreign(data: Path, folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Tiles of pictures that are no breast cancer of that laboratory, embedded."""
    from skimage import data as pictures

    Image.fromarray(pictures.immunohistochemistry()).save(folder / "ihc.png")
    monusac = data / "monusac" / "images"
    kinds: dict[str, tuple[Path, float | None]] = {
        "immunohistochemistry": (folder / "ihc.png", 0.5),
        "mouse brain": (data / "he_images" / "squidpy_mousebrain_crop.jpg", 1.0),
        "CMU-1": (data / "wsi" / "CMU-1-Small-Region.svs", None),
        "kidney (MoNuSAC)": (monusac / "TCGA-2Z-A9JN-01Z-00-DX1_2.jpg", 0.25),
        "prostate (MoNuSAC)": (monusac / "TCGA-G9-6356-01Z-00-DX1_1.jpg", 0.25),
        "H&E of another laboratory": (data / "he_images" / "tiatoolbox_target_image.png", 0.5),
    }
    encoder, rng = load_encoder("builtin", threads=1), np.random.default_rng(0)
    spec = encoder.tile_spec()
    for name, (path, mpp) in kinds.items():
        with open_slide(path, mpp) as slide:
            half = spec.size_um / slide.mpp / 2
            high = np.array([slide.width_px, slide.height_px]) - half
            places = rng.uniform(np.minimum(half, high), np.maximum(half, high), (200, 2))
            covered = tissue_mask(slide).fraction(places[:, 0], places[:, 1], spec.size_um, slide.mpp)
            places = places[np.argsort(covered < 0.5, kind="stable")][:14]
            yield name, encoder.embed(np.stack([read_tile(slide, x, y, spec) for x, y in places]))


def novelty_rows(folder: Path, data: Path | None, quick: bool) -> Iterator[Row]:
    """Rows of the table."""
    training, cohort = phantom(folder, quick)
    donors = np.unique(training.donor)
    for size in (1, 3) if quick else (1, 3, 4, 7):
        found = []
        for shift in range(len(donors)) if size == len(donors) - 1 else (0,) if quick else (0, 4):
            chosen = np.roll(donors, shift)[:size]
            head = Trained(training, np.isin(training.donor, chosen))
            sections = [s for s in np.unique(training.section[~np.isin(training.donor, chosen)]) if s.endswith("S2")]
            found += [judged(head, training, cohort, section) for section in sections]
        yield from _summary(f"phantom, {size} training donor{'s' * (size > 1)}, unseen donors", found)
    if data is None:
        return
    training, cohort = her2st(folder, data)
    heads = {name: Trained(training, training.section != name) for name in HER2ST}
    yield from _summary(
        "her2st, another section of the patient", [judged(head, training, cohort, name) for name, head in heads.items()]
    )
    for name, X in foreign(data, folder):
        shares = [np.mean(head(X)[0] > IN_SCOPE_PERCENTILE) for head in heads.values()]
        yield {
            "cohort": "her2st head",
            "what": f"{name}: tiles out of scope, least of three heads",
            "value": min(shares),
            "n": len(X),
        }


def coverage_rows(folder: Path, _data: Path | None, quick: bool) -> Iterator[Row]:
    """Rows of the table: intervals calibrated on sections of one or two donors, or on more donors, on other donors."""
    training, _ = phantom(folder, quick)
    donors = np.unique(training.donor)
    for size in (1, 2, len(donors) - 1):
        few = size in WIDENED
        for level in (0.8, 0.9):
            shares: dict[str, list[float]] = {"as calibrated": [], "widened": []}
            strata: dict[str, list[float]] = {"low": [], "middle": [], "high": []}
            for shift in range(len(donors)):
                chosen = np.roll(donors, -shift)[:size]
                here = np.isin(training.donor, chosen)
                X, Y, section = training.X[here], training.Y[here], training.section[here]
                group = section if few else training.donor[here]
                estimator = make_estimator("ridge", training.unit).fit(X, Y, groups=group)
                held_out, spread = held_out_predictions(estimator, X, Y, group)
                wide = calibrate(Y, held_out, spread, group, level, training.unit, "section" if few else "donor", size)
                values, truth, donor = estimator.predict(training.X[~here]), training.Y[~here], training.donor[~here]
                for name, factor in (("as calibrated", 1 / WIDENED.get(size, 1.0)), ("widened", 1.0)):
                    lower, upper = replace(wide, multiplier=wide.multiplier * factor).bounds(values, None)
                    inside = (lower <= truth + 1e-9) & (upper >= truth - 1e-9)
                    shares[name] += [float(inside[donor == one].mean()) for one in np.unique(donor)]
                rank = values.argsort(axis=0).argsort(axis=0) * 3 // len(values)
                for number, name in enumerate(strata):
                    strata[name].append(float(inside[rank == number].mean()))
            who = f"phantom, {'sections of ' * few}{size} donor{'s' * (size > 1)}, other donors"
            made = ", widened" if few else ""
            for name, found in shares.items() if few else [("as calibrated", shares["widened"])]:
                yield {
                    "cohort": who,
                    "what": f"coverage at {level:g}, {name}",
                    "value": np.mean(found),
                    "n": len(found),
                }
            yield {
                "cohort": who,
                "what": f"coverage at {level:g}{made}, worst",
                "value": min(found),
                "n": len(found),
            }
            for name, parts in strata.items():
                yield {
                    "cohort": who,
                    "what": f"coverage at {level:g}{made}, {name} predictions",
                    "value": np.mean(parts),
                    "n": len(parts),
                }
