"""Which cell types a head tells at all, against a null that keeps how types are spread in space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...common.geometry.shift_null import shift_null
from ...common.metrics import Array
from ..scores.paired_tests import ALPHA, adjusted


def detectability(
    head: str,
    observed: Array,
    predicted: Array,
    xy_um: Array,
    section: NDArray[np.str_],
    cell_types: Sequence[str],
    *,
    scores: Mapping[str, Mapping[str, Any]],
    ceiling: Mapping[str, Any] | None,
    groups: Mapping[str, Sequence[str]],
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Say of each cell type whether a head tells it: better than `shift_null`, corrected over the types.

    Parameters
    ----------
    head
        Whose predictions they are.
    observed, predicted, xy_um, section, cell_types, seed
        See `shift_null`.
    scores
        Mean, ``low`` and ``high`` of ``pearson`` by type (``summary["scores"][target][head]["pearson"]["types"]``).
    ceiling
        ``summary["ceiling"]``.
    groups
        Coarser groups to fall back on.

    Returns
    -------
    list
        Per type ``cell_type, head, pearson, low, high, p, p_adjusted`` (Benjamini-Hochberg), ``ceiling`` (reliability
        of the labels), ``bound`` (of pearson), ``share_of_ceiling`` (pearson over the bound), ``detectable`` (None
        where the type does not vary) and ``group``.
    """
    mean, p = shift_null(observed, predicted, xy_um, section, seed)
    owner = {name: group for group, types in groups.items() for name in types}
    rows = []
    for index, (name, corrected) in enumerate(zip(cell_types, adjusted(p), strict=True)):
        score = scores.get(name, {"mean": None, "low": None, "high": None})
        limits = {} if ceiling is None else ceiling["types"].get(name, {})
        bound = limits.get("bound")
        share = score["mean"] / bound if score["mean"] is not None and bound else None
        known = bool(np.isfinite(p[index]))
        rows.append(
            {
                "cell_type": name,
                "head": head,
                "pearson": score["mean"],
                "low": score["low"],
                "high": score["high"],
                "p": float(p[index]) if known else None,
                "p_adjusted": corrected,
                "ceiling": limits.get("mean"),
                "bound": bound,
                "share_of_ceiling": share,
                "detectable": bool(corrected < ALPHA and mean[index] > 0) if known and corrected is not None else None,
                "group": owner.get(name),
            }
        )
    return rows
