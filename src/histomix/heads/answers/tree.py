"""A tree of cell types from the labels, where nobody has given one: types that go together are told together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ...abundance import Abundance
from ...common.hierarchy import Hierarchy, joined_names, read_hierarchy
from ...common.metrics import MIN_SPOTS, Array, unit_deviations
from ..dataset import TrainingSet

#: With fewer cell types that vary there is no group that is finer than everything.
_FEWEST = 3


def tree_of(
    hierarchy: Mapping[str, str] | str | os.PathLike[str] | None,
    training: TrainingSet,
    labels: Mapping[str, Abundance],
) -> tuple[Hierarchy, str]:
    """The hierarchy of a head's answers, and whose it is: "user", "reference" or "labels".

    Parameters
    ----------
    hierarchy
        Of the user: name -> name of its group, or a file; None: what the labels were made with, if it says one, else a
        tree of the labels' correlation.
    training, labels
        The training rows, and the labels they are of.

    Raises
    ------
    InputError
        The user's cannot be read, or is none of these cell types.
    """
    types = training.cell_types
    if isinstance(hierarchy, Mapping):
        return Hierarchy.of(hierarchy, types), "user"
    if hierarchy is not None:
        return Hierarchy.of(read_hierarchy(hierarchy), types, hierarchy), "user"
    told = [labels[name].provenance.get("hierarchy") for name in np.unique(training.section).tolist()]
    first = told[0]
    if isinstance(first, Mapping) and all(one == first for one in told):
        parents = {str(name): str(group) for name, group in first["parents"].items()}
        return Hierarchy.of(parents, types, "hierarchy of the labels"), str(first["source"])
    return tree_from_labels(training.Y, training.section, types), "labels"


def tree_from_labels(Y: Array, section: NDArray[np.str_], cell_types: Sequence[str]) -> Hierarchy:
    """Average linkage on 1 - r, with r the correlation of two types over the spots of a section, mean over sections.

    No prediction has a part in it. The root, which is everything, is no group. Types that vary nowhere stand by
    themselves. A group is called by its cell types, the most abundant first.

    Parameters
    ----------
    Y
        Labels, ``(n, n_types)``.
    section
        Of each row, ``(n,)``.
    cell_types
        Names of the columns.
    """
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    types = [str(name) for name in cell_types]
    varies = np.flatnonzero(np.ptp(Y, axis=0) > 0) if len(Y) else np.zeros(0, np.intp)
    if len(varies) < _FEWEST:
        return Hierarchy.of({}, types)
    distance = 1 - _correlation(Y[:, varies], section)
    np.fill_diagonal(distance, 0.0)
    merges = linkage(squareform(np.clip(distance, 0, 2), checks=False), method="average")
    abundant = np.argsort(-Y.mean(axis=0), kind="stable").tolist()
    rank = {column: place for place, column in enumerate(abundant)}
    members: list[list[int]] = [[int(column)] for column in varies]
    names = [types[column] for column in varies]
    taken = set(types)
    parents: dict[str, str] = {}
    for left, right, *_ in merges[:-1]:
        pair = (int(left), int(right))
        both = sorted(members[pair[0]] + members[pair[1]], key=rank.__getitem__)
        name = joined_names(types[column] for column in both)
        while name in taken:  # a cell type may be called like a group
            name = f"({name})"
        taken.add(name)
        members.append(both)
        names.append(name)
        parents |= {names[one]: name for one in pair}
    return Hierarchy.of(parents, types)


def _correlation(Y: Array, section: NDArray[np.str_]) -> Array:
    """Of the columns over the rows of a section, mean over the sections in which both vary; 0 where there is none."""
    total, known = np.zeros((Y.shape[1],) * 2), np.zeros((Y.shape[1],) * 2)
    for name in np.unique(section):
        part = Y[section == name]
        if len(part) < MIN_SPOTS:
            continue
        unit = unit_deviations(part)
        present = unit.any(axis=0)
        total += unit.T @ unit
        known += np.outer(present, present)
    r = np.divide(total, known, out=np.zeros_like(total), where=known > 0)
    return np.asarray((r + r.T) / 2)
