"""How robust an encoder's features are: whether spots are near others of their kind, or of their donor.

Two indices of Grisi, van der Laak & Litjens (the library croma 1.0, Apache-2.0; our own code after its definitions, and
the same numbers): of the nearest neighbours of a spot, by cosine distance, those of its label and another donor (SO)
speak for biology, those of another label and its donor (OS) for the confounder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..heads.dataset import join_blocks

if TYPE_CHECKING:
    from anndata import AnnData

    from ..abundance import Abundance
    from ..spots import Cohort

#: Neighbours that the robustness index may look at; the number that tells the labels best is taken.
_CANDIDATES = (5, 10, 20, 50, 100)
#: Neighbours of each kind that the margin averages.
_MARGIN = 5
#: Spots at most, evenly among all: distances are of all pairs.
_MOST = 3000
#: A label that fewer spots have is left out.
_FEWEST = 10


@dataclass(frozen=True)
class Robustness:
    """The two indices of one encoder on one cohort.

    Parameters
    ----------
    ri
        Robustness index, 0 to 1: SO / (SO + OS) among the ``k`` nearest neighbours of all spots. Above .5 biology
        weighs more than the confounder. None where no spot has a neighbour of either kind.
    croma
        Cross-confounder robustness margin, -1 to 1: median over spots of (d_OS - d_SO) / (d_OS + d_SO), the mean
        distances to the five nearest neighbours of each kind. Above 0 biology is nearer. None where no spot has five
        of each.
    k
        Neighbours that the first looks at.
    n_spots, n_margin
        How many spots were looked at, and how many have a margin.
    """

    ri: float | None
    croma: float | None
    k: int
    n_spots: int
    n_margin: int


def robustness(
    features: np.ndarray,
    labels: np.ndarray,
    confounder: np.ndarray,
    group: np.ndarray,
    candidates: Sequence[int] = _CANDIDATES,
    m: int = _MARGIN,
) -> Robustness:
    """The indices of spots.

    Parameters
    ----------
    features
        (n, dim).
    labels, confounder
        (n,) what is to be told, and what is not.
    group
        (n,) spots of one group are no neighbours: they are not independent.
    candidates
        Numbers of neighbours to choose from.
    m
        Neighbours of each kind that the margin averages.
    """
    X = np.asarray(features, np.float64)
    X = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), np.finfo(float).tiny)
    codes = [np.unique(values, return_inverse=True)[1] for values in (labels, confounder, group)]
    label, donor, unit = codes
    n, deepest = len(X), max(candidates)
    nearest = np.full((n, deepest), -1)
    margins = np.full(n, np.nan)
    for row in range(n):
        distance = 1.0 - X @ X[row]
        other = unit != unit[row]
        order = np.flatnonzero(other)[np.argsort(distance[other], kind="stable")]
        found = order[:deepest]
        nearest[row, : len(found)] = found
        same_label, same_donor = label[order] == label[row], donor[order] == donor[row]
        so, os = order[same_label & ~same_donor][:m], order[~same_label & same_donor][:m]
        if len(so) == m and len(os) == m:
            d_so, d_os = distance[so].mean(), distance[os].mean()
            margins[row] = (d_os - d_so) / (d_os + d_so) if d_os + d_so > 0 else np.nan
    k = max(candidates, key=lambda one: (_accuracy(label, nearest[:, :one]), -one))
    some = nearest[:, :k]
    there = some >= 0
    same_label, same_donor = label[some] == label[:, None], donor[some] == donor[:, None]
    so_count = int((there & same_label & ~same_donor).sum())
    os_count = int((there & ~same_label & same_donor).sum())
    defined = np.isfinite(margins)
    return Robustness(
        so_count / (so_count + os_count) if so_count + os_count else None,
        float(np.median(margins[defined])) if defined.any() else None,
        int(k),
        n,
        int(defined.sum()),
    )


def _accuracy(label: np.ndarray, nearest: np.ndarray) -> float:
    """Balanced accuracy of the commonest label among the neighbours; of labels as common, the first."""
    votes = np.zeros((len(label), label.max() + 1))
    for column in nearest.T:
        there = column >= 0
        votes[np.flatnonzero(there), label[column[there]]] += 1
    used = votes.any(axis=1)
    if not used.any():
        return 0.0
    right = votes.argmax(axis=1) == label
    return float(np.mean([right[used & (label == one)].mean() for one in np.unique(label[used])]))


def encoder_robustness(
    cohort: Cohort, blocks: Sequence[Mapping[str, AnnData]], labels: Mapping[str, Abundance]
) -> dict[str, Any]:
    """The indices of the features of a cohort, with what they are of.

    A spot's label is its commonest cell type. The confounder is the site, where the sheet names several, else the
    donor. Spots of one section are no neighbours where every donor (site) has several sections; else they are.

    Returns
    -------
    dict
        ``ri``, ``croma`` (None where they are not defined), ``k``, ``n_spots``, ``n_margin``, ``n_labels``,
        ``confounder`` and ``neighbours``: ``"other sections"`` or ``"other spots"``.
    """
    rows = {row.section: row for row in cohort.rows}
    sites = {row.site for row in cohort.rows}
    confounder = "site" if len(sites) > 1 and None not in sites else "donor"
    parts = []
    for name, table in labels.items():
        keys, X = join_blocks([block[name] for block in blocks])
        places = keys.get_indexer(table.values.index)
        known = np.flatnonzero(places >= 0)
        values = table.values.to_numpy(float)[known]
        kinds = np.asarray(table.values.columns, str)[values.argmax(axis=1)]
        owner = rows[name].site if confounder == "site" else rows[name].donor
        parts.append((X[places[known]], kinds, np.full(len(known), str(owner)), np.full(len(known), name)))
    X, kinds, whose, section = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    names, counts = np.unique(kinds, return_counts=True)
    rows_kept = np.flatnonzero(np.isin(kinds, names[counts >= _FEWEST]) & np.isfinite(X).all(axis=1))
    if len(rows_kept) > _MOST:
        rows_kept = rows_kept[np.linspace(0, len(rows_kept) - 1, _MOST).round().astype(int)]
    X, kinds, whose, section = X[rows_kept], kinds[rows_kept], whose[rows_kept], section[rows_kept]
    several = all(len(np.unique(section[whose == one])) > 1 for one in np.unique(whose))
    group = section if several else np.arange(len(X))
    facts = {"confounder": confounder, "neighbours": "other sections" if several else "other spots"}
    if len(np.unique(whose)) < 2 or len(np.unique(kinds)) < 2:
        return {"ri": None, "croma": None, "k": None, "n_spots": len(X), "n_margin": 0, "n_labels": 0, **facts}
    found = robustness(X, kinds, whose, group)
    return {**vars(found), "n_labels": len(np.unique(kinds)), **facts}
