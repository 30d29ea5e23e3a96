"""Which cell types a head tells at all, against a null that keeps how types are spread in space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...common.geometry.toroidal_null import random_shifts
from ...common.metrics import MIN_SPOTS, Array, pearson, unit_deviations
from ..scores.paired_tests import ALPHA, adjusted

#: Shifts tried, fewer where a cohort is large, and the work (shifts x spots x types) that they may cost.
MOST_SHIFTS, FEWEST_SHIFTS, _WORK = 999, 199, 2e9


def shift_null(
    observed: Array, predicted: Array, xy_um: Array, section: NDArray[np.str_], seed: int = 0, shifts: int | None = None
) -> tuple[Array, Array]:
    """Test whether predictions follow labels in place, or only in how smooth they are.

    Two smooth maps correlate by chance far more often than spots drawn at random would. So the predictions of a section
    are moved as a whole (`random_shifts`): they keep their values' smoothness and lose their place. The null is of the
    mean over sections.

    Parameters
    ----------
    observed, predicted
        ``(n_spots, n_types)``.
    xy_um
        Centres of the spots, ``(n_spots, 2)``.
    section
        Of each spot; the correlation is per section, as in the metric ``pearson``.
    seed
        Of the shifts.
    shifts
        How many; None: 999, or fewer in a large cohort.

    Returns
    -------
    Mean over sections of the correlation, and its one-sided p, each ``(n_types,)``; NaN for a type that varies in no
    section.
    """
    n_types = observed.shape[1]
    if shifts is None:
        shifts = int(np.clip(_WORK / max(observed.size, 1), FEWEST_SHIFTS, MOST_SHIFTS))
    rng = np.random.default_rng(seed)
    null, count = np.zeros((shifts, n_types)), np.zeros(n_types)
    real = np.zeros(n_types)
    for name in dict.fromkeys(section.tolist()):
        rows = section == name
        r = pearson(observed[rows], predicted[rows])
        known = np.isfinite(r)
        if rows.sum() < MIN_SPOTS or not known.any():
            continue
        real += np.where(known, r, 0.0)
        count += known
        null += np.where(known, _shifted(observed[rows], predicted[rows], xy_um[rows], shifts, rng), 0.0)
    with np.errstate(invalid="ignore"):
        p = (1 + (null >= real - 1e-12).sum(axis=0)) / (1 + shifts)
        return np.where(count > 0, real / count, np.nan), np.where(count > 0, p, np.nan)


def _shifted(observed: Array, predicted: Array, xy: Array, shifts: int, rng: np.random.Generator) -> Array:
    """Correlation after each shift, ``(shifts, n_types)``."""
    unit = unit_deviations(observed)
    moved = (unit_deviations(predicted[source]) for source in random_shifts(xy, shifts, rng))
    return np.stack([(unit * deviation).sum(axis=0) for deviation in moved])


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
