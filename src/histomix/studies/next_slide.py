"""Which slide to sequence next: how much of the others it covers, and where heads disagree on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from sklearn.decomposition import PCA

from ..common.metrics import Array
from ..heads import TrainingSet, inner_groups

#: How much more than a donor drawn at random a slide with a score of 1 brings on the phantom.
GAIN_OF_SCORE = 0.25
#: Components in which distances are taken, and tiles of a slide and of the labelled ones that are looked at, at most.
_COMPONENTS, _TILES, _LABELLED = 20, 300, 3000
#: Components, each of variance 1, in which a slide is varied: of 5, 10, 20 and 40 the best on two phantoms.
_VARIETY_COMPONENTS = 10
RULE = (
    "coverage: by how much the distance of the tiles of the other slides to the nearest labelled tile shrinks once the "
    "slide is labelled (of its mean, in the leading components of the features); disagreement: the spread of heads "
    "that each leave one donor out, over that of the labels; variety: variance of the slide's own tiles in the leading "
    "components of the features; score: mean of the standardised disagreement and variety"
)


def slide_scores(training: TrainingSet, slides: Mapping[str, Array], estimator: Any, seed: int = 0) -> pd.DataFrame:
    """Score un-sequenced slides by what their labels would add, the best first.

    Parameters
    ----------
    training
        The labelled spots.
    slides
        Features of each slide's tiles, ``(n_tiles, n_features)``; rows with NaN are left out.
    estimator
        An unfitted head, fitted once without each donor.
    seed
        Of the tiles that are drawn.

    Returns
    -------
    DataFrame
        slide, tiles, coverage, disagreement, variety, score.
    """
    rng = np.random.default_rng(seed)
    tiles = {name: _drawn(X[np.isfinite(X).all(axis=1)], _TILES, rng) for name, X in slides.items()}
    tiles = {name: X for name, X in tiles.items() if len(X)}
    labelled = _drawn(np.asarray(training.X, dtype=np.float32), _LABELLED, rng)
    coverage, variety = _coverage(labelled, tiles), _variety(labelled, tiles)
    committee = _committee(training, estimator)
    scale = np.asarray(training.Y, dtype=np.float64).std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    rows = []
    for name, X in tiles.items():
        predicted = np.stack([one.predict(X if damping is None else damping(X)) for one, damping in committee])
        rows.append(
            {
                "slide": name,
                "tiles": len(X),
                "coverage": coverage[name],
                "disagreement": float((predicted.std(axis=0) / scale).mean()),
                "variety": variety[name],
            }
        )
    table = pd.DataFrame(rows, columns=["slide", "tiles", "coverage", "disagreement", "variety"])
    table["score"] = combined(table)
    return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def combined(table: pd.DataFrame) -> Array:
    """The mean of two measures, each standardised over the slides; 0 where all slides are alike.

    On the phantom coverage does not tell what a slide brings.
    """
    parts = []
    for name in ("disagreement", "variety"):
        values = table[name].to_numpy(float)
        spread = values.std()
        parts.append((values - values.mean()) / spread if spread > 0 else np.zeros(len(values)))
    return np.asarray(np.mean(parts, axis=0), dtype=np.float64)


def _drawn(X: Array, most: int, rng: np.random.Generator) -> NDArray[np.float32]:
    rows = np.sort(rng.choice(len(X), most, replace=False)) if len(X) > most else np.arange(len(X))
    return np.asarray(X[rows], dtype=np.float32)


def _coverage(labelled: np.ndarray, tiles: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Of each slide, the share by which it brings the tiles of the others closer to a labelled one."""
    known, places, _ = _components(labelled, tiles, _COMPONENTS)
    tree = cKDTree(known)
    before = {name: tree.query(where)[0] for name, where in places.items()}
    found = {}
    for name, where in places.items():
        mine = cKDTree(where)
        others = [other for other in places if other != name] or [name]
        gained = [np.maximum(before[other] - mine.query(places[other])[0], 0.0) for other in others]
        whole = np.concatenate([before[other] for other in others]).mean()
        found[name] = float(np.concatenate(gained).mean() / whole) if whole > 0 else 0.0
    return found


def _variety(labelled: np.ndarray, tiles: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Of each slide, the mean variance of its tiles over the leading components, each of variance 1 over all tiles."""
    _, places, variance = _components(labelled, tiles, _VARIETY_COMPONENTS)
    return {name: float((where.var(axis=0) / variance).mean()) for name, where in places.items()}


def _components(
    labelled: np.ndarray, tiles: Mapping[str, np.ndarray], most: int
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Labelled tiles and those of each slide on the leading components of all, and the variance of these."""
    everything = np.concatenate([labelled, *tiles.values()])
    centre, scale = everything.mean(axis=0), everything.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    components = PCA(min(most, *everything.shape), random_state=0).fit((everything - centre) / scale)
    places = {name: components.transform((X - centre) / scale) for name, X in tiles.items()}
    variance = np.maximum(components.explained_variance_, np.finfo(np.float32).tiny)
    return components.transform((labelled - centre) / scale), places, variance


def _committee(training: TrainingSet, estimator: Any) -> list[tuple[Any, Any]]:
    """A head for each donor that is left out, and what it does about the stain."""
    from sklearn.base import clone

    heads = []
    for donor in np.unique(training.donor):
        rows = np.flatnonzero(training.donor != donor)
        damping = training.stain_damping(rows)
        X = training.X[rows] if damping is None else damping(training.X[rows])
        groups = inner_groups(training.section[rows], training.donor[rows], training.xy_um[rows])
        heads.append((clone(estimator).fit(X, training.Y[rows], groups=groups), damping))
    return heads
