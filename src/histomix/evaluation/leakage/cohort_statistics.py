"""Signs that features, labels or estimators were fitted on more than the training donors of a fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...abundance import Abundance
from ...embedding import feature_manifest
from ...errors import FeatureError
from .coupled_labels import FITTED_WITH

if TYPE_CHECKING:
    from anndata import AnnData

#: Columns count as standardised when their mean and spread over all tiles are 0 and 1 to this tolerance; untouched
#: embeddings, and those standardised on a part of the cohort, are not so near.
TOLERANCE = 1e-3
_SHARE, _MOST_COLUMNS, _LEAST_TILES = 0.9, 96, 50


def features_fitted_with(features: Mapping[str, AnnData]) -> dict[str, list[str]]:
    """Section -> other sections that its features say they were normalised or fitted with (``fitted_with``).

    A pipeline that fits anything over slides (a stain target, a scaling, a projection) declares it so, at the top of
    the features' manifest or in its ``encoder`` or ``tile``.
    """
    partners = {}
    for name, table in features.items():
        try:
            manifest = feature_manifest(table)
        except FeatureError:
            continue  # told by whoever needs the manifest
        for part in (manifest, manifest.get("encoder") or {}, manifest.get("tile") or {}):
            others = part.get(FITTED_WITH) if isinstance(part, Mapping) else None
            if others:
                partners[name] = [str(one) for one in others if str(one) != name]
    return partners


def cohort_statistics(features: Mapping[str, AnnData], sections: Sequence[str]) -> dict[str, Any]:
    """Look for statistics of the whole cohort in the numbers of its features.

    Returns
    -------
    dict
        ``n_columns``, ``standardised`` (share of columns whose mean is 0 and spread 1 over all tiles),
        ``centred`` (share whose mean is 0) and ``decorrelated`` (the largest correlation between two of up to 96
        columns is 0: principal components).
    """
    blocks = [np.asarray(features[name].X) for name in sections]
    blocks = [block[np.isfinite(block).all(axis=1)] for block in blocks]
    n = sum(map(len, blocks))
    # Section by section, so that a large cohort is not copied whole in double precision.
    mean = np.sum([block.sum(axis=0, dtype=np.float64) for block in blocks], axis=0) / max(n, 1)
    spread = np.sqrt(np.sum([np.square(block - mean).sum(axis=0) for block in blocks], axis=0) / max(n, 1))
    varies = np.flatnonzero(spread > 0)
    if n < _LEAST_TILES or len(varies) < 2:
        return {"n_columns": len(varies), "standardised": 0.0, "centred": 0.0, "decorrelated": False}
    centred = np.abs(mean[varies]) < TOLERANCE * spread[varies]
    unit = np.abs(spread[varies] - 1) < TOLERANCE
    chosen = varies[np.unique(np.linspace(0, len(varies) - 1, _MOST_COLUMNS).astype(int))]
    few = np.concatenate([block[:, chosen] for block in blocks]).astype(np.float64)
    off = np.corrcoef(few, rowvar=False) - np.eye(len(chosen))
    return {
        "n_columns": len(varies),
        "standardised": float((centred & unit).mean()),
        "centred": float(centred.mean()),
        "decorrelated": bool(np.abs(off).max() < TOLERANCE),
    }


def is_fitted_on_cohort(facts: Mapping[str, Any]) -> str | None:
    """What the numbers of `cohort_statistics` show, in words; None for nothing."""
    if facts["decorrelated"] and facts["centred"] > _SHARE:
        return "are uncorrelated and centred over the whole cohort, as principal components fitted on all of it are"
    if facts["standardised"] > _SHARE:
        return "have mean 0 and spread 1 over the whole cohort, as features that were standardised on all of it have"
    return None


def scaled_labels(labels: Mapping[str, Abundance], sections: Sequence[str]) -> float | None:
    """The greatest value that every cell type shares over the cohort, where labels were scaled to it; else None.

    Proportions reach 1 by themselves, so only cells per spot are looked at.
    """
    if any(labels[name].unit == "proportion" for name in sections):
        return None
    top = np.max([labels[name].values.max(axis=0).to_numpy() for name in sections], axis=0)
    top = top[top > 0]
    return float(top[0]) if len(top) > 2 and np.ptp(top) <= 1e-9 * top[0] else None


def fitted_already(estimator: Any) -> list[str]:
    """What of an estimator was fitted before the folds were made, by name: itself, or a part that cloning keeps."""
    fitted = []
    parts = {"": estimator, **(estimator.get_params(deep=True) if hasattr(estimator, "get_params") else {})}
    for name, part in parts.items():
        if type(part).__name__ == "FrozenEstimator" or (
            hasattr(part, "get_params") and not isinstance(part, type) and _has_fitted(part)
        ):
            fitted.append(name or "the estimator")
    return fitted


def _has_fitted(estimator: Any) -> bool:
    names = vars(estimator) if hasattr(estimator, "__dict__") else {}
    return any(name.endswith("_") and not name.startswith("_") and names[name] is not None for name in names)
