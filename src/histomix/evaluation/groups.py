"""Coarser groups of cell types: what can still be told where fine types cannot."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..common.hierarchy import read_hierarchy
from ..common.metrics import Array, pearson, unit_deviations
from ..common.resampling import mean_and_interval, resample_weights
from ..errors import InputError
from .scores.bootstrap import units_by_head

_LOG = logging.getLogger(__name__)
#: The metric of a group in the table; ``cell_type`` is the name of the group.
GROUP_METRIC = "pearson_group"
#: Cell types per group, at most, where the labels choose the groups.
_MOST_PER_GROUP = 4


def read_groups(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read which group each cell type belongs to: what `histomix.common.hierarchy.read_hierarchy` reads, and raises."""
    return read_hierarchy(path)


def check_groups(groups: Mapping[str, str], cell_types: Sequence[str]) -> dict[str, list[str]]:
    """Group -> its cell types among those of the labels; a type that no group names is left out, and said to be.

    Raises
    ------
    InputError
        No cell type of the labels is in any group.
    """
    members: dict[str, list[str]] = {}
    for name in cell_types:
        if name in groups:
            members.setdefault(groups[name], []).append(name)
    if not members:
        raise InputError(
            f"the groups name no cell type of the labels ({', '.join(cell_types[:5])})",
            hint="Spell cell types as the labels do",
        )
    # One file may serve several cohorts; a name that only looks like one of these leaves its type out of a sum.
    others = [name for name in groups if name not in {*cell_types, *groups.values()}]
    without = [name for name in cell_types if name not in groups]
    if others:
        _LOG.warning("the groups name no cell type of the labels by: %s", ", ".join(others[:5]))
    if without:
        _LOG.warning("cell types in no group, whose sums lack them: %s", ", ".join(without[:5]))
    return members


def groups_from_labels(Y: Array, section: NDArray[np.str_], cell_types: Sequence[str]) -> dict[str, list[str]]:
    """Put cell types whose labels go together into groups of at most four.

    Complete linkage on 1 - r, with r the correlation of two types over the spots of a section, averaged over sections.
    The tree is cut below its root, branch by branch, where no more than four types are left: at one height, one large
    group and many of one type would remain. No prediction has a part in it.

    Returns
    -------
    Group -> cell types; a group is called by its members. Empty with fewer than four types that vary.
    """
    from scipy.cluster.hierarchy import ClusterNode, linkage, to_tree
    from scipy.spatial.distance import squareform

    varies = np.flatnonzero(np.ptp(Y, axis=0) > 0)
    if len(varies) < 4:
        return {}
    total, known = np.zeros((len(varies), len(varies))), np.zeros((len(varies), len(varies)))
    for name in np.unique(section):
        part = Y[section == name][:, varies]
        if len(part) < 3:
            continue
        unit = unit_deviations(part)
        present = unit.any(axis=0)
        total += unit.T @ unit
        known += np.outer(present, present)
    r = np.divide(total, known, out=np.zeros_like(total), where=known > 0)
    distance = 1 - (r + r.T) / 2
    np.fill_diagonal(distance, 0.0)
    tree = to_tree(linkage(squareform(np.clip(distance, 0, 2), checks=False), method="complete"))

    def branches(node: ClusterNode) -> list[list[int]]:
        if node is not tree and node.count <= _MOST_PER_GROUP:
            return [sorted(node.pre_order())]
        return [*branches(node.left), *branches(node.right)]

    members = [[cell_types[varies[i]] for i in leaves] for leaves in sorted(branches(tree))]
    return {" + ".join(types): types for types in members}


def group_rows(
    observed: Array,
    predicted: Mapping[str, Array],
    groups: Mapping[str, Sequence[str]],
    cell_types: Sequence[str],
    *,
    section: NDArray[np.str_],
    donor: NDArray[np.str_],
    folds: Sequence[tuple[str, NDArray[np.intp]]],
) -> pd.DataFrame:
    """Pearson correlation of the sums over each group, per head, fold and section: rows of metric ``pearson_group``.

    Parameters
    ----------
    observed, predicted
        Abundances ``(n_spots, n_types)``; predictions by head.
    groups, cell_types
        Cell types of each group; names of the columns.
    section, donor
        Of each row.
    folds
        Name and test rows of each.

    Returns
    -------
    DataFrame with the columns of `Evaluation.metrics` but ``protocol`` and ``target``.
    """
    member = np.array([[name in types for types in groups.values()] for name in cell_types], dtype=np.float64)
    observed_sums = observed @ member
    parts = []
    for head, values in predicted.items():
        sums = values @ member
        for fold, test in folds:
            for name in dict.fromkeys(section[test].tolist()):
                rows = test[section[test] == name]
                parts.append(
                    pd.DataFrame(
                        {
                            "head": head,
                            "fold": fold,
                            "donor": str(donor[rows][0]),
                            "section": name,
                            "cell_type": list(groups),
                            "metric": GROUP_METRIC,
                            "value": pearson(observed_sums[rows], sums[rows]),
                            "n_spots": len(rows),
                        }
                    )
                )
    return pd.concat(parts, ignore_index=True)


def summarise_groups(rows: pd.DataFrame, groups: Mapping[str, Sequence[str]], source: str, seed: int) -> dict[str, Any]:
    """Mean over sections of each group's Pearson correlation, by head.

    Returns
    -------
    dict
        ``source`` (``"user"``, or ``"labels"``), ``groups`` (name -> cell types) and ``scores``: head -> group ->
        ``mean, low, high, n_units``.
    """
    scores: dict[str, Any] = {}
    for head, table in units_by_head(rows, GROUP_METRIC).items():
        codes = pd.factorize(table.index.get_level_values("donor"))[0].astype(np.intp)
        weights = resample_weights(codes, seed)
        scores[head] = {
            str(name): {
                **mean_and_interval(column.to_numpy(), weights, codes),
                "n_units": int(column.notna().sum()),
            }
            for name, column in table.items()
        }
    return {"source": source, "groups": {name: list(types) for name, types in groups.items()}, "scores": scores}
