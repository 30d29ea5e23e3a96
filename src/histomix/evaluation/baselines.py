"""What stands beside every head: the training mean, ridge, nuclei counted in the tile, and the section mean."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..common.cache import cache_folder
from ..common.metrics import Array
from ..embedding import feature_manifest
from ..errors import FeatureError, InputError, ScaleWarning, StorageError
from ..heads import TrainingSet, inner_groups, make_estimator
from ..progress import Progress, silent
from ..provenance import digest_json, read_json, write_json
from .folds import Fold

if TYPE_CHECKING:
    from anndata import AnnData

    from ..slides import Nuclei
    from ..spots import Cohort

_log = logging.getLogger(__name__)

#: A regression on the number of nuclei in the tile: what cellularity alone tells.
NUCLEI = "nuclei"
#: The mean of a section's own test labels: what a head that knew the level of the section, and nothing of its spots,
#: would score. It reads the test labels, so it is not to be ranked.
ORACLE = "section mean (oracle)"
#: Raised when the same slide gives other counts.
_FORMAT = 2


def section_mean(training: TrainingSet, folds: list[Fold]) -> Array:
    """Mean of the observed labels over the test spots of each section, for each of them; NaN for untested rows."""
    values = np.full(training.Y.shape, np.nan)
    for fold in folds:
        section = training.section[fold.test]
        for name in np.unique(section):
            rows = fold.test[section == name]
            values[rows] = training.Y[rows].mean(axis=0)
    return values


def nuclei_predictions(training: TrainingSet, folds: list[Fold], counts: Array, seed: int) -> Array:
    """Predict each fold's test rows by ridge regression on the number of nuclei and its square root.

    Parameters
    ----------
    training
        The rows.
    folds
        Their splits.
    counts
        Nuclei in the tile of each row, ``(n,)``; a row without a count (NaN) is taken to have the mean of the training
        rows.
    seed
        Of the regression.
    """
    values = np.full(training.Y.shape, np.nan)
    for fold in folds:
        known = counts[fold.train]
        filled = np.where(np.isfinite(counts), counts, known[np.isfinite(known)].mean())
        X = np.column_stack([filled, np.sqrt(filled)])
        rows = fold.train
        groups = inner_groups(training.section[rows], training.donor[rows], training.xy_um[rows])
        estimator = make_estimator("ridge", training.unit, seed).fit(X[rows], training.Y[rows], groups=groups)
        values[fold.test] = estimator.predict(X[fold.test])
    return values


def count_in_tiles(
    cohort: Cohort,
    features: Mapping[str, AnnData],
    progress: Progress = silent,
) -> tuple[dict[str, pd.Series], list[str]]:
    """Count the nuclei in every tile of a cohort (see `histomix.slides.find_nuclei`).

    Counts are kept in ``nuclei`` in the cache, and taken from there while slide and tiles are the same.

    Parameters
    ----------
    cohort
        Whose slides are opened.
    features
        Section -> features, which say where the tiles are and how large.
    progress
        Told ``"nuclei <section>"``.

    Returns
    -------
    Section -> nuclei by spot key (NaN where the slide cannot be read), and remarks on sections that have none.
    """
    counts: dict[str, pd.Series] = {}
    missing: dict[str, str] = {}
    for row in cohort.rows:
        table = features[row.section]
        if row.image is None:
            missing[row.section] = "the sheet names no image"
            continue
        try:
            values = _section_counts(cohort, row.section, table, progress)
        except InputError as error:
            missing[row.section] = error.what
            continue
        counts[row.section] = pd.Series(values, table.obs_names.astype(str), dtype=np.float64)
    if not missing:
        return counts, []
    first, why = next(iter(missing.items()))
    return counts, [f"no nuclei were counted in {len(missing)} of {len(cohort)} sections (such as {first}: {why})"]


def _section_counts(
    cohort: Cohort,
    name: str,
    table: AnnData,
    progress: Progress,
) -> list[float | None]:
    try:
        manifest = feature_manifest(table)
        slide_facts, tile = manifest["slide"], manifest["tile"]
        side_um = float(tile["size_px"]) * float(tile["mpp"])
    except (FeatureError, KeyError, TypeError) as error:
        raise InputError(f"the features do not say of which slide and tile they are ({error})") from error
    xy_px = table.obs[["x_px", "y_px"]].to_numpy(np.float64)
    made_from = [
        _FORMAT,
        slide_facts["fingerprint"],
        slide_facts["mpp"],
        side_um,
        list(table.obs_names),
        xy_px.tolist(),
    ]
    identity = digest_json(made_from)
    path = _place(identity)
    kept = _kept(path, identity, len(xy_px)) if path is not None and path.is_file() else None
    if kept is not None:
        return kept
    with cohort.section(name, counts=False).slide() as slide, warnings.catch_warnings():
        warnings.simplefilter("ignore", ScaleWarning)
        counts = _find(slide, xy_px, side_um, name, progress).in_squares(xy_px, side_um)
    values = [float(one) if np.isfinite(one) else None for one in counts]
    if path is not None:
        try:
            write_json(path, {"identity": identity, "nuclei": values})
        except StorageError as error:  # the counts are still good
            _log.warning("the nuclei of section %s are not kept: %s", name, error)
    return values


def _place(identity: str) -> Path | None:
    """Where counts of that identity are kept; None where the cache cannot be used."""
    try:
        return cache_folder("nuclei") / f"{identity.removeprefix('sha256:')}.json"
    except StorageError as error:
        _log.warning("counts of nuclei are not kept: %s", error)
        return None


def _find(slide: Any, xy_px: np.ndarray, side_um: float, name: str, progress: Progress) -> Nuclei:
    from ..slides import find_nuclei

    return find_nuclei(slide, xy_px, side_um, lambda _task, done, total: progress(f"nuclei {name}", done, total))


def _kept(path: Path, identity: str, n: int) -> list[float | None] | None:
    """Counts of an earlier call; None where they are of other tiles, or cannot be read and so are made again."""
    try:
        kept = read_json(path)
    except InputError as error:
        _log.info("%s It is made again", error)
        return None
    values = kept.get("nuclei")
    return values if kept.get("identity") == identity and isinstance(values, list) and len(values) == n else None


def nuclei_of_rows(training: TrainingSet, counts: Mapping[str, pd.Series]) -> Array:
    """Nuclei of each row, ``(n,)``; NaN where there is no count."""
    values = np.full(len(training.Y), np.nan)
    keys = np.asarray(training.keys).astype(str)
    for name, series in counts.items():
        rows = training.section == name
        values[rows] = series.reindex(keys[rows]).to_numpy(np.float64)
    return values
