"""How well features tell the slide of a tile: a measure of batch effects."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...progress import tell

#: Spots that take part, at most and at least of a section, components of the features, strips of a section.
_ALL_SPOTS, _MOST, _LEAST, _COMPONENTS, _BLOCKS = 6000, 300, 60, 50, 5
#: From this share of the way from chance to certainty on, batch effects are warned of.
STRONG = 0.5


def batch_effect_probe(
    X: np.ndarray, section: NDArray[np.str_], donor: NDArray[np.str_], xy_um: np.ndarray, seed: int = 0
) -> dict[str, Any] | None:
    """Tell the section of a tile from its features, tested on parts of the sections that were not trained on.

    Every section is cut into strips along its longer side; each strip of all sections is held out in turn. Features are
    standardised and projected on principal components of the training strips, then told apart by logistic regression.
    Neighbouring tiles are alike whatever their slide, hence strips and not random tiles.

    Parameters
    ----------
    X
        Embeddings, ``(n, n_features)``.
    section, donor
        Of each row, ``(n,)``.
    xy_um
        Centres, ``(n, 2)``, um.
    seed
        Chooses the tiles of a section that take part: 300, or fewer where there are many sections.

    Returns
    -------
    dict
        ``accuracy`` (mean over sections of the share of their tiles that were told right), ``chance``, ``excess`` (the
        share of the way from chance to 1), ``within_donor`` (the share of wrong answers that name another section of
        the right donor; None where no donor has two), ``n_sections``, ``strong`` and a ``statement``. None with one
        section, or where every section is too small to be cut.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(seed)
    chosen, strips = [], []
    sections = np.unique(section)
    size = int(np.clip(_ALL_SPOTS // len(sections), _LEAST, _MOST))
    for name in sections:
        rows = np.flatnonzero(section == name)
        rows = np.sort(rng.permutation(rows)[:size])
        if len(rows) < 2 * _BLOCKS:
            continue
        chosen.append(rows)
        strips.append(_strips(xy_um[rows]))
    if len(chosen) < 2:
        return None
    rows, strip = np.concatenate(chosen), np.concatenate(strips)
    names, donors, values = section[rows], donor[rows], np.asarray(X[rows], dtype=np.float64)
    told = np.empty(len(rows), dtype=names.dtype)
    for block in range(_BLOCKS):
        tell("batch effects", block, _BLOCKS)
        test = strip == block
        components = min(_COMPONENTS, values.shape[1], int((~test).sum()) - 1)
        model = make_pipeline(
            StandardScaler(),
            PCA(components, svd_solver="randomized", random_state=seed),
            StandardScaler(),
            LogisticRegression(C=0.1, max_iter=300),
        )
        told[test] = model.fit(values[~test], names[~test]).predict(values[test])
    tell("batch effects", _BLOCKS, _BLOCKS)
    right = told == names
    accuracy = float(np.mean([right[names == name].mean() for name in np.unique(names)]))
    n = len(chosen)
    chance = 1 / n
    excess = (accuracy - chance) / (1 - chance)
    owner = dict(zip(names.tolist(), donors.tolist(), strict=True))
    several = len(set(owner.values())) < n
    wrong = ~right
    near = None
    if several and wrong.any():
        near = float(np.mean([owner[one] == own for one, own in zip(told[wrong], donors[wrong], strict=True)]))
    return {
        "accuracy": accuracy,
        "chance": chance,
        "excess": float(excess),
        "within_donor": near,
        "n_sections": n,
        "strong": bool(excess > STRONG),
        "statement": _statement(accuracy, chance, n, excess),
    }


def _strips(xy_um: np.ndarray) -> NDArray[np.intp]:
    """Cut places into strips of equal numbers across their longer side."""
    along = xy_um[:, np.ptp(xy_um, axis=0).argmax()]
    place = np.empty(len(along), dtype=np.intp)
    place[np.argsort(along, kind="stable")] = np.arange(len(along))
    return place * _BLOCKS // len(along)


def _statement(accuracy: float, chance: float, n: int, excess: float) -> str:
    words = f"features tell which of {n} sections a tile is from in {accuracy:.0%} of cases (chance {chance:.0%})"
    if excess > STRONG:
        return (
            f"{words}: differences between slides (stain, scanner, tissue) are strong in them, and a head may follow "
            "those; look at pearson_within, and at the section mean (oracle) beside pearson_pooled"
        )
    return f"{words}: differences between slides are moderate" if excess > 0.2 else f"{words}: they hardly differ"
