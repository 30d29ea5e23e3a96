"""Levels of one block under the names of two donors: sections that fit onto each other as no two donors' do."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import HistomixError
from ...heads import TrainingSet
from ...slides import open_slide, tissue_mask
from .registration import Fit, SectionPoints, fit_pairs

_log = logging.getLogger(__name__)

#: Pairs that fit at least so well are told. Sections of two patients of her2st reach 1.30; of two donors of the
#: phantom, which are small and have few domains, 1 or 2 in a hundred pass (``benchmarks/honesty.py --only audit``).
FIT = 1.48
#: Where at least so many pairs are compared, a pair must also stand so many robust deviations above their median:
#: organs of one anatomy (brains, kidneys) fit onto each other whoever they are of.
COHORT_PAIRS, DEVIATIONS = 15, 3.0
#: Sections of fewer spots, or pixels of the preview, than this have no shape to be told by.
LEAST_SPOTS = 60
#: Sections of other donors that one is laid onto, at most: levels of one block are of like composition.
MOST_OTHERS = 40
_PICTURE_UM = 24.0


def label_points(training: TrainingSet) -> dict[str, SectionPoints]:
    """Label maps by section: square roots of the shares of the cell types, which evens out rare and common types."""
    section = np.asarray(training.section, dtype=str)
    points = {}
    for name in dict.fromkeys(section.tolist()):
        rows = section == name
        Y = np.maximum(np.asarray(training.Y[rows], dtype=np.float64), 0.0)
        xy_um = np.asarray(training.xy_um[rows], dtype=np.float64)
        if len(np.unique(xy_um, axis=0)) >= LEAST_SPOTS:
            points[name] = SectionPoints.of(xy_um, np.sqrt(Y / np.maximum(Y.sum(axis=1, keepdims=True), 1e-12)))
    return {name: one for name, one in points.items() if one.pitch_um > 0}


def picture_points(folders: Sequence[Path], mpp: Mapping[str, float]) -> dict[str, SectionPoints]:
    """Haematoxylin on the tissue of the previews that ``embed`` left beside features; damaged ones are left out.

    Parameters
    ----------
    mpp
        Of each section's preview.
    """
    points: dict[str, SectionPoints] = {}
    for folder in folders:
        for name, scale in mpp.items():
            path = folder / "previews" / f"{name}.jpg"
            if name in points or not path.is_file():
                continue
            try:
                one = picture(path, scale)
            except HistomixError as error:
                _log.info("the preview %s cannot be read (%s): it is not compared", path, error)
                continue
            if len(one.xy_um) >= LEAST_SPOTS:
                points[name] = one
    return points


def picture(path: Path, mpp: float, pixel_um: float = _PICTURE_UM) -> SectionPoints:
    """Haematoxylin of the tissue of a small picture, on squares of ``pixel_um``."""
    from skimage.color import rgb2hed

    with open_slide(path, mpp) as slide:
        tissue = tissue_mask(slide)
        rgb = slide.thumbnail(tissue.mpp)
    mask = tissue.mask
    haematoxylin = np.where(mask, rgb2hed(rgb)[..., 0], 0.0)
    size = max(1, round(pixel_um / tissue.mpp))
    covered, sums = (_blocks(one, size) for one in (mask.astype(np.float64), haematoxylin))
    rows, columns = np.nonzero(covered >= size**2 / 2)
    pitch_um = size * tissue.mpp
    values = (sums[rows, columns] / covered[rows, columns])[:, None]
    places = np.column_stack([columns, rows]).astype(np.float64) * pitch_um
    return SectionPoints(places, values, pitch_um)


def _blocks(image: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Sums over squares; what is left over at the right and the bottom is added as if it went on in zeros."""
    height, width = (-(-side // size) for side in image.shape)
    whole = np.pad(image, [(0, height * size - image.shape[0]), (0, width * size - image.shape[1])])
    sums: NDArray[np.float64] = whole.reshape(height, size, width, size).sum(axis=(1, 3))
    return sums


def adjacent_levels(
    labels: Mapping[str, SectionPoints], pictures: Mapping[str, SectionPoints], pairs: Collection[tuple[str, str]]
) -> dict[str, Any]:
    """Compare sections of different donors.

    Parameters
    ----------
    labels, pictures
        Label maps and pictures by section; either may lack some.
    pairs
        Sections to compare.

    Returns
    -------
    dict
        ``pairs`` (those found: ``section, with, score``, the highest first), ``n_compared``, ``threshold`` and
        ``likest`` (`MOST_OTHERS` where pairs of unlike composition were left out, else None). A score is the mean of
        what label maps and pictures give (`Fit.score`), or of label maps alone; pairs without these, or of very
        different areas, are not compared.
    """
    every = [pair for pair in pairs if pair[0] in labels and pair[1] in labels]
    known = _likest(labels, every)
    seen = fit_pairs(pictures, [pair for pair in known if pair[0] in pictures and pair[1] in pictures])
    fits = {pair: [one, seen.get(pair, one)] for pair, one in fit_pairs(labels, known).items()}
    compared = {pair: _mean(both) for pair, both in fits.items() if None not in both}
    threshold = FIT
    if len(compared) >= COHORT_PAIRS:
        values = np.array(list(compared.values()))
        middle = np.median(values)
        threshold = max(FIT, float(middle + DEVIATIONS * 1.4826 * np.median(np.abs(values - middle))))
    found = [
        {"section": a, "with": b, "score": score}
        for (a, b), score in sorted(compared.items(), key=lambda one: -one[1])
        if score >= threshold
    ]
    likest = MOST_OTHERS if len(known) < len(every) else None
    return {"pairs": found, "n_compared": len(compared), "threshold": threshold, "likest": likest}


def _likest(labels: Mapping[str, SectionPoints], pairs: Sequence[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    """Pairs of which one section is among the `MOST_OTHERS` that the other's mean composition is nearest to."""
    others: dict[str, list[str]] = {}
    for a, b in pairs:
        others.setdefault(a, []).append(b)
        others.setdefault(b, []).append(a)
    if max(map(len, others.values()), default=0) <= MOST_OTHERS:
        return pairs
    means = {name: labels[name].values.mean(axis=0) for name in others}
    chosen: set[frozenset[str]] = set()
    for name, partners in others.items():
        distance = np.linalg.norm(np.stack([means[other] for other in partners]) - means[name], axis=1)
        chosen |= {frozenset((name, partners[at])) for at in np.argsort(distance, kind="stable")[:MOST_OTHERS]}
    return [pair for pair in pairs if frozenset(pair) in chosen]


def _mean(fits: Sequence[Fit | None]) -> float:
    return float(np.mean([one.score for one in fits if one is not None]))
