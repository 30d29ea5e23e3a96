"""What the mean of a slide is worth: its interval, its words, and the types whose predictions tell nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..common.words import NEITHER, RESEARCH_USE
from ..maps import CompositionMap
from ..spots import RELATIVE

logger = logging.getLogger(__name__)
#: Columns of words at the end of the table of slides.
WORDS = ("remark", "calibrated_on", "limits", "head_unit", "use")


def slide_levels(one: CompositionMap, means: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The interval of a slide's means, and these drawn to the training mean: ``<measure>_low`` and the like, each (k,).

    The half-widths, the training mean and the slope by which means are drawn to it are those of the map's head
    (`histomix.heads.Levels`), from slides of donors that were held out, in the unit of its labels: of proportions
    around ``proportion``, of cells around ``density``. A map of relative abundances has none: its error is in no unit
    of the table.

    Parameters
    ----------
    one
        The map.
    means
        Measure -> means of the whole slide, (k,).

    Returns
    -------
    ``<measure>_low`` and ``<measure>_high``; ``<measure>_shrunk`` with its own ends, ``<measure>_shrunk_low`` and
    ``<measure>_shrunk_high``. What the head does not tell of any type is left out.
    """
    if one.unit == RELATIVE:
        return {}
    reading, measure, greatest, per_mm2 = one.reading, "proportion", 1.0, 1.0
    label_um2 = (one.manifest.get("area") or {}).get("label_um2")
    if label_um2 is not None:
        measure, greatest, per_mm2 = "density", np.inf, 1e6 / float(label_um2)
    if measure not in means:
        return {}
    error, shrunk_error = reading.levels[["slide_error", "shrunk_error"]].to_numpy(float).T * per_mm2
    mean = means[measure]
    shrunk = reading.shrunk(pd.Series(mean / per_mm2, one.cell_types)).to_numpy(float) * per_mm2
    found = {
        "low": mean - error,
        "high": mean + error,
        "shrunk": shrunk,
        "shrunk_low": shrunk - shrunk_error,
        "shrunk_high": shrunk + shrunk_error,
    }
    return {
        f"{measure}_{what}": np.clip(values, 0.0, greatest)
        for what, values in found.items()
        if np.isfinite(values).any()
    }


def slide_words(one: CompositionMap, name: str) -> dict[str, str]:
    """The `WORDS` of a slide; one out of scope, or with a wrong um per px or focus, is said aloud as well."""
    reading = one.reading
    remark = " ".join(filter(None, (reading.statement, *reading.remarks)))
    if remark:
        logger.warning("%s: %s", name, remark)
    told = (remark, reading.calibrated_on, reading.limits, one.unit, RESEARCH_USE)
    return dict(zip(WORDS, told, strict=True))


def answer_facts(one: CompositionMap) -> dict[str, Any]:
    """What answers are: the share of them that may miss (``fdr``) and the ``statement``; {} for a map without them."""
    if not one.answer_statement:
        return {}
    return {"fdr": one.manifest["answers"].get("fdr"), "statement": one.answer_statement}


def types_not_told(good_for: Mapping[str, str]) -> list[str]:
    """Types that are left out since the word of the head for them (cell type -> word) is "neither"; said aloud."""
    poor = [name for name, word in good_for.items() if word == NEITHER]
    if poor:
        logger.warning("left out, since the head tells them neither between slides nor within one: %s", _names(poor))
    return poor


def types_told(tidy: pd.DataFrame, good_for: Mapping[str, str], left_out: Sequence[str]) -> pd.DataFrame:
    """Tidy rows with the word of their type as ``good_for``, without those of some types.

    Parameters
    ----------
    tidy
        With ``cell_type`` and ``other_type``.
    good_for
        Cell type -> word.
    left_out
        Types that no row is to tell of.
    """
    alone = tidy["other_type"] == ""
    told = tidy.assign(good_for=tidy["cell_type"].map(dict(good_for)).where(alone, "").fillna(""))
    if not left_out:
        return told
    return told[~told["cell_type"].isin(left_out) & ~told["other_type"].isin(left_out)].reset_index(drop=True)


def _names(names: Sequence[str]) -> str:
    return f"{', '.join(names)}; --all-types keeps them"
