"""Sections and tiles that stand twice in a cohort: found by their embeddings, their image files and their looks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...common.threads import side_by_side
from ...heads import TrainingSet
from ...progress import told
from ..folds import Fold

_log = logging.getLogger(__name__)

#: A test tile is a near copy of a training tile when it is nearer to it than this share of the usual distance between
#: nearest tiles within its own section, and of its own distance to those. With the built-in encoder a tile saved again
#: as JPEG lies at .10 (quality 90) or .32 (quality 60, moved by one pixel); tiles of other sections of the same patient
#: at .85 at least, of other donors at 1.2.
NEAR = 0.5
#: Near copies of fewer tiles of a section than this are not told: two empty tiles may well be alike.
LEAST_TILES, LEAST_SHARE = 3, 0.02
#: Two pictures are near copies when at most this share of the bits of their hashes differ (about .5 if unrelated).
HASH_DIFFERENCE = 0.18
_COMPONENTS, _CHUNK = 64, 1024
#: Tiles of a section that look for their copies, at most and at least, and of all sections together.
_SAMPLE, _LEAST_SAMPLE, _ALL_SAMPLES = 200, 60, 20_000
_HASH_PX, _HASH_SIDE = 64, 12


def near_tiles(training: TrainingSet, folds: list[Fold], seed: int = 0) -> list[dict[str, Any]]:
    """Find test sections with tiles that are near copies of training tiles.

    Distances are between standardised embeddings: first in 64 principal components, where at most 200 tiles of each
    test section (fewer where more than 100 sections are tested, 60 at least) look for their nearest training tile,
    then, for tiles that are near by `NEAR`, in all of them. Nothing found here is used to score.

    Returns
    -------
    list
        Per fold and test section with near copies: ``fold, section, with`` (the training section that most of them are
        in), ``n_near``, ``n_checked`` and ``ratio`` (median over the near copies of their distance over the usual one).
    """
    X = _standardised(training.X)
    section = np.asarray(training.section, dtype=str)
    reduced = _components(X, seed)
    square = (reduced**2).sum(axis=1)
    tested = [(fold, name) for fold in folds for name in dict.fromkeys(section[fold.test].tolist())]
    sample = int(np.clip(_ALL_SAMPLES // max(len(tested), 1), _LEAST_SAMPLE, _SAMPLE))

    def copied(one: tuple[Fold, str]) -> dict[str, Any] | None:
        fold, name = one
        train = fold.train
        own = np.flatnonzero(section == name)
        rows = np.random.default_rng(seed).permutation(fold.test[section[fold.test] == name])[:sample]
        other = train[section[train] != name]  # neighbours in one section are alike without being copies
        if len(own) < LEAST_TILES or not len(other):
            return None
        found = _near_in(X, (reduced, square), rows, own, other)
        if found is None:
            return None
        with_section, counts = np.unique(section[found.pop("rows")], return_counts=True)
        partner = str(with_section[counts.argmax()])
        return {"fold": fold.name, "section": name, "with": partner, "n_checked": len(rows), **found}

    with side_by_side() as each:
        found = each(copied, told("look for copied tiles (sections)", tested))
        return [one for one in found if one is not None]


def _near_in(
    X: np.ndarray,
    reduced: tuple[np.ndarray, np.ndarray],
    rows: NDArray[np.intp],
    own: NDArray[np.intp],
    other: NDArray[np.intp],
) -> dict[str, Any] | None:
    own_distance, own_row = _nearest(*reduced, rows, own, exclude_self=True)
    distance, row = _nearest(*reduced, rows, other)
    usual = float(np.median(own_distance))
    candidates = np.flatnonzero(distance < NEAR * np.minimum(own_distance, usual))
    if not len(candidates):
        return None
    # The same in all dimensions: a projection brings tiles together that are apart.
    across = np.linalg.norm(X[rows[candidates]] - X[row[candidates]], axis=1)
    alone = np.linalg.norm(X[rows] - X[own_row], axis=1)
    usual = float(np.median(alone))
    near = across < NEAR * np.minimum(alone[candidates], usual)
    if near.sum() < max(LEAST_TILES, LEAST_SHARE * len(rows)):
        return None
    ratio = float(np.median(across[near]) / usual) if usual > 0 else 0.0
    return {"n_near": int(near.sum()), "ratio": ratio, "rows": row[candidates][near]}


def _standardised(X: np.ndarray) -> np.ndarray:
    spread = X.std(axis=0)
    return np.asarray((X - X.mean(axis=0)) / np.where(spread > 0, spread, 1.0), dtype=np.float32)


def _components(X: np.ndarray, seed: int) -> np.ndarray:
    if X.shape[1] <= _COMPONENTS:
        return X
    sample = np.random.default_rng(seed).permutation(len(X))[: 4 * _CHUNK]
    _, vectors = np.linalg.eigh(X[sample].T @ X[sample])
    return np.asarray(X @ vectors[:, -_COMPONENTS:])


def _nearest(
    X: np.ndarray, square: np.ndarray, rows: NDArray[np.intp], among: NDArray[np.intp], exclude_self: bool = False
) -> tuple[np.ndarray, NDArray[np.intp]]:
    """Distance to, and row of, the nearest of some rows; ``square`` is the squared length of each row."""
    A = -2 * X[rows]
    best, place = np.full(len(rows), np.inf, dtype=X.dtype), np.zeros(len(rows), dtype=np.intp)
    for start in range(0, len(among), _CHUNK):
        part = among[start : start + _CHUNK]
        squared = A @ X[part].T
        squared += square[part]  # the rows' own squares make none of the others nearer
        if exclude_self:
            squared[rows[:, None] == part[None]] = np.inf
        least = squared.argmin(axis=1)
        value = squared[np.arange(len(rows)), least]
        better = value < best
        best[better], place[better] = value[better], part[least[better]]
    return np.sqrt(np.maximum(best + square[rows], 0.0)), place


def picture_hash(image: np.ndarray) -> NDArray[np.bool_]:
    """Perceptual hash of a picture of a section: signs of its lowest cosine frequencies, cropped to the tissue.

    The crop makes it independent of the margin; 64 px of grey and 143 frequencies of how brighter and darker parts lie
    are the same after another compression, size or brightness (Zauner 2010, perceptual image hash functions).
    """
    from PIL import Image
    from scipy.fft import dctn

    grey = np.asarray(Image.fromarray(image).convert("L"), dtype=np.float64)
    tissue = grey < np.quantile(grey, 0.98) - 12
    if tissue.mean() > 0.01:
        # Ends of the tissue without the outermost hundredth, which may be a speck of dust.
        rows, columns = (np.cumsum(tissue.sum(axis=axis)) / tissue.sum() for axis in (1, 0))
        top, bottom = np.searchsorted(rows, [0.01, 0.99])
        left, right = np.searchsorted(columns, [0.01, 0.99])
        grey = grey[top : bottom + 1, left : right + 1]
    small = Image.fromarray(grey.astype(np.float32)).resize((_HASH_PX, _HASH_PX), Image.Resampling.BOX)
    frequencies = dctn(np.asarray(small, dtype=np.float64), norm="ortho")[:_HASH_SIDE, :_HASH_SIDE].ravel()[1:]
    bits: NDArray[np.bool_] = frequencies > np.median(frequencies)
    return bits


def near_pictures(sections: Mapping[str, NDArray[np.bool_]], pairs: list[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """Of pairs (fold, test, training section) those that are near copies, with the share of bits that differ."""
    copies = []
    for fold, test, train in pairs:
        if test in sections and train in sections:
            # As it lies, against the other turned and mirrored in every way.
            difference = float((sections[test][0] != sections[train]).mean(axis=1).min())
            if difference <= HASH_DIFFERENCE:
                copies.append({"fold": fold, "section": test, "with": train, "difference": difference})
    return copies


def read_previews(folders: list[Path], names: list[str]) -> dict[str, NDArray[np.bool_]]:
    """Hashes of the previews that ``embed`` left beside features, by section; one that is damaged is left out.

    Each is bool ``(8, 143)``: of the picture as it lies, turned by quarters, and mirrored.
    """
    from PIL import Image

    pictures: dict[str, NDArray[np.bool_]] = {}
    for folder in folders:
        for name in names:
            path = folder / "previews" / f"{name}.jpg"
            if name in pictures or not path.is_file():
                continue
            try:
                with Image.open(path) as image:
                    picture = np.asarray(image.convert("RGB"))
                    pictures[name] = np.stack(
                        [
                            picture_hash(np.rot90(one, turns))
                            for one in (picture, picture[:, ::-1])
                            for turns in range(4)
                        ]
                    )
            except OSError as error:
                _log.info("the preview %s cannot be read (%s): it is not compared", path, error)
    return pictures
