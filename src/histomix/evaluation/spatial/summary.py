"""The spatial part of an evaluation: patterns, neighbours and domains of predictions beside those of the labels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ...common.geometry.pitch import nearest_pitch
from ...common.geometry.toroidal_null import random_shifts
from ...common.metrics import pearson
from ...common.resampling import mean_and_interval, resample_weights
from ...common.threads import side_by_side
from ...errors import InputError
from ...progress import Progress, silent
from ..measured.read_regions import Regions, read_section_regions
from ..result import Evaluation
from .domains import DOMAINS, best_domains, composition_domains, partition_agreement
from .moran import KERNELS, REACH, Array, SpatialWeights, colocalisation, moran, spatial_weights
from .null import NULL, SHIFTS, compare_colocalisation

#: A section with fewer spots has no spatial scores.
MIN_SPOTS = 20
PERMUTATIONS = 200
_Domains = tuple[NDArray[np.intp], NDArray[np.object_] | None, int]
_PARTS = ("moran", "moran_agreement", "colocalisation", "domains")
_SCORES = ("moran", "colocalisation", "ari_label", "ari_prediction", "ari_regions")

_RULES = {
    "weights": "Gaussian of the distance of two spots with standard deviation radius_um, cut off at three of them "
    "(band: 1 within radius_um); a spot is no neighbour of itself; where no radius is given it is the pitch of the "
    "spots (median distance to the nearest neighbour, median over sections)",
    "moran": "Moran's I per cell type and section of the values as they are; a constant prediction has 0, a type whose "
    "label is constant is left out; moran_agreement is the Pearson correlation of the I of labels and prediction "
    "across types, 0 for a prediction that is constant in every type",
    "colocalisation": "bivariate Moran's R of every pair of types, of values with the total of each spot taken out "
    "(adjust; share: divided by it; residual: a straight line on it taken out); correlation is that of the "
    "off-diagonal entries of labels and prediction, so that the diagonal (Moran's I) lends it nothing; 0 for a "
    "constant prediction",
    "domains": f"{DOMAINS}; ari_label: domains of the prediction against domains of the labels; ari_prediction: "
    "domains of the prediction against the given regions; ari_regions: domains of the labels against the given "
    "regions, which is what a perfect prediction of the labels would reach",
    "scores": "means over sections with the grouped bootstrap of the other scores (donors, then their sections)",
}


def spatial_summary(
    evaluation: Evaluation,
    radius_um: float | None = None,
    seed: int = 0,
    *,
    kernel: str = "gaussian",
    adjust: str = "share",
    n_permutations: int = PERMUTATIONS,
    n_domains: int | None = None,
    regions: str | os.PathLike[str] | None = None,
    sections_mpp: Mapping[str, float] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Compare the spatial patterns of every head's predictions with those of the labels.

    Parameters
    ----------
    evaluation
        With the positions of its spots.
    radius_um
        Length scale of the weights; by default the pitch of the spots.
    seed
        Of permutations, clusters and bootstrap.
    kernel, adjust
        See `spatial_weights` and `adjusted` of `histomix.evaluation.spatial.moran`.
    n_permutations
        Draws of the null of co-localisation, for every head and section.
    n_domains
        Clusters in every section; see `DOMAINS` for the default.
    regions
        Regions named by a pathologist; see `read_section_regions`.
    sections_mpp
        um per px of each section, where the evaluation does not carry them (``summary["sections_mpp"]``).
    progress
        Told of each section.

    Returns
    -------
    dict
        ``radius_um, kernel, adjust, n_permutations, seed, null, rules, notes``; ``moran`` (section, head, cell_type,
        label, prediction); ``moran_agreement`` (section, head, n_types, correlation, mean_label, mean_prediction);
        ``colocalisation`` (head, section, radius_um, cell_types, label, prediction, correlation, p, null_mean, ...);
        ``domains`` (head, section, n_domains, ari_label, ari_prediction, ari_regions); ``scores`` (by head, each with
        mean, low, high and n_sections). What is undefined is None.

    Raises
    ------
    InputError
        The um per px of a section are unknown, no section has enough spots, or an argument is none that is known.
    """
    scales = {**evaluation.summary.get("sections_mpp", {}), **(sections_mpp or {})}
    used = [name for name in evaluation.labels if len(evaluation.labels[name]) >= MIN_SPOTS]
    unknown = [name for name in used if not scales.get(name)]
    if unknown:
        raise InputError(
            f"the um per px of section {', '.join(unknown[:5])} are not known, so distances are not either",
            hint="Evaluate again with this version, which writes them, or give sections_mpp",
        )
    if not used:
        raise InputError(f"no section has {MIN_SPOTS} spots or more, too few for any spatial pattern")
    if kernel not in KERNELS:
        raise InputError(f"there is no kernel {kernel!r}", hint=f"Choose from {', '.join(KERNELS)}")
    small = [name for name in evaluation.labels if name not in used]
    notes = [f"sections with fewer than {MIN_SPOTS} spots are left out: {', '.join(small)}"] if small else []
    places = {name: _positions(evaluation, name, float(scales[name])) for name in used}
    if radius_um is None:
        radius_um = float(np.median([nearest_pitch(xy) for xy in places.values()]).round(1))
    named = {} if regions is None else read_section_regions(regions, used)
    parts: dict[str, list[dict[str, Any]]] = {name: [] for name in _PARTS}

    def of_section(name: str) -> tuple[list[str], dict[str, list[dict[str, Any]]]]:
        weights = spatial_weights(places[name], radius_um, kernel)
        section = _Section(evaluation, name, places[name], weights, seed)
        return section.notes(), section.compared(named.get(name), n_domains, adjust, n_permutations)

    progress("spatial", 0, len(used))
    with side_by_side() as each:
        for done, (more, found) in enumerate(each(of_section, used), start=1):
            notes += more
            for part, rows in found.items():
                parts[part] += rows
            progress("spatial", done, len(used))
    metrics = evaluation.metrics
    donors = dict(zip(metrics["section"], metrics["donor"], strict=True))
    return {
        "radius_um": radius_um,
        "kernel": kernel,
        "context_um": radius_um * (REACH if kernel == "gaussian" else 1.0),
        "adjust": adjust,
        "n_permutations": n_permutations,
        "seed": seed,
        "null": NULL,
        "rules": _RULES,
        "notes": notes,
        **parts,
        "scores": _scores(parts, donors, seed),
    }


def add_spatial(
    evaluation: Evaluation,
    radius_um: float | None = None,
    seed: int = 0,
    *,
    regions: str | os.PathLike[str] | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """The evaluation with ``summary["spatial"]`` (see `spatial_summary`); a remark where sections are too small."""
    if all(len(table) < MIN_SPOTS for table in evaluation.labels.values()):
        notes = [*evaluation.summary["notes"], f"no section has {MIN_SPOTS} spots, too few for spatial scores"]
        return replace(evaluation, summary={**evaluation.summary, "notes": notes})
    spatial = spatial_summary(evaluation, radius_um, seed, regions=regions, progress=progress)
    return replace(evaluation, summary={**evaluation.summary, "spatial": spatial})


class _Section:
    """One section: its labels, and what is computed from them once for all heads."""

    def __init__(self, evaluation: Evaluation, name: str, xy_um: Array, weights: SpatialWeights, seed: int) -> None:
        self.evaluation, self.name, self.xy_um, self.weights, self.seed = evaluation, name, xy_um, weights, seed
        self.labels = evaluation.labels[name]
        self.types = [str(one) for one in self.labels.columns]
        self.values = self.labels.to_numpy(np.float64)
        self._moran = moran(self.values, weights)
        self._matrix: dict[str, Array] = {}
        self._shifts = np.stack([*random_shifts(xy_um, max(SHIFTS, len(self.types)), seed)])

    def notes(self) -> list[str]:
        alone = self.weights.alone
        if not alone:
            return []
        return [f"section {self.name}: {alone:,} of {len(self.values):,} spots have no neighbour at this length scale"]

    def compared(
        self, regions: Regions | None, n_domains: int | None, adjust: str, n_permutations: int
    ) -> dict[str, list[dict[str, Any]]]:
        """Rows of each part of the summary, of every head that has predicted the section."""
        parts: dict[str, list[dict[str, Any]]] = {name: [] for name in _PARTS}
        domains = self.label_domains(regions, n_domains)
        for head in self.evaluation.predictions:
            values = self.prediction(head)
            if values is not None:
                rows, agreement = self.moran(head, values)
                parts["moran"] += rows
                parts["moran_agreement"].append(agreement)
                parts["colocalisation"].append(self.colocalisation(head, values, adjust, n_permutations))
                parts["domains"].append(self.domains(head, values, domains))
        return parts

    def prediction(self, head: str) -> Array | None:
        """Values of a head at the spots of the labels; None where it has not predicted them all."""
        table = self.evaluation.predictions[head].get(self.name)
        if table is None or not self.labels.index.isin(table.index).all():
            return None
        return np.asarray(table.loc[self.labels.index, self.labels.columns].to_numpy(np.float64))

    def moran(self, head: str, values: Array) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        autocorrelation = np.where(np.isfinite(self._moran), np.nan_to_num(moran(values, self.weights)), np.nan)
        where = {"section": self.name, "head": head}
        rows = [
            {**where, "cell_type": one, "label": _number(a), "prediction": _number(b)}
            for one, a, b in zip(self.types, self._moran, autocorrelation, strict=True)
        ]
        known = np.isfinite(self._moran)
        agreement = pearson(self._moran[known, None], autocorrelation[known, None])[0]
        means = (float(part[known].mean()) if known.any() else np.nan for part in (self._moran, autocorrelation))
        facts = dict(zip(("mean_label", "mean_prediction"), map(_number, means), strict=True))
        return rows, {**where, "n_types": int(known.sum()), "correlation": _number(agreement), **facts}

    def colocalisation(self, head: str, values: Array, adjust: str, n_permutations: int) -> dict[str, Any]:
        if adjust not in self._matrix:
            self._matrix[adjust] = colocalisation(self.values, self.weights, adjust)
        comparison = compare_colocalisation(
            self.values,
            values,
            self.xy_um,
            self.weights,
            adjust=adjust,
            n_permutations=n_permutations,
            seed=self.seed,
            label_matrix=self._matrix[adjust],
            shifts=self._shifts,
        )
        names = ("correlation", "p", "null_mean", "null_sd", "patchiness_kept")
        return {
            "head": head,
            "section": self.name,
            "radius_um": self.weights.radius_um,
            "cell_types": self.types,
            "label": _matrix(comparison.label),
            "prediction": _matrix(comparison.prediction),
            **{one: _number(getattr(comparison, one)) for one in names},
            "n_pairs": comparison.n_pairs,
            "n_permutations": comparison.n_permutations,
        }

    def label_domains(self, regions: Regions | None, n_domains: int | None) -> _Domains:
        """Domains of the labels, region of each spot, and how many domains there are."""
        names = None
        if regions is not None:
            positions = self.evaluation.positions[self.name].loc[self.labels.index].to_numpy(np.float64)
            reach = nearest_pitch(positions) / 2
            names = regions.at(self.labels.index, positions, reach)
        count = n_domains
        if count is None and names is not None:
            count = len({name for name in names if name is not None})
        if not count:
            count, domains = best_domains(self.values, self.seed)
            return domains, names, count
        return composition_domains(self.values, count, self.seed), names, count

    def domains(self, head: str, values: Array, given: _Domains) -> dict[str, Any]:
        ours, names, count = given
        theirs = composition_domains(values, count, self.seed)
        row: dict[str, Any] = {
            "head": head,
            "section": self.name,
            "n_domains": count,
            "ari_label": _number(partition_agreement(theirs, ours)),
            "ari_prediction": None,
            "ari_regions": None,
        }
        if names is not None:
            known = np.array([name is not None for name in names])
            row["ari_prediction"] = _number(partition_agreement(theirs[known], names[known]))
            row["ari_regions"] = _number(partition_agreement(ours[known], names[known]))
            row["n_region_spots"] = int(known.sum())
        return row


def _positions(evaluation: Evaluation, section: str, mpp: float) -> Array:
    table = evaluation.positions[section].loc[evaluation.labels[section].index]
    return np.asarray(table[["x_px", "y_px"]].to_numpy(np.float64) * mpp)


def _scores(parts: Mapping[str, list[dict[str, Any]]], donors: Mapping[str, str], seed: int) -> dict[str, Any]:
    """Mean over sections of each score of each head, with its interval."""
    columns = {
        "moran": ("moran_agreement", "correlation"),
        "colocalisation": ("colocalisation", "correlation"),
        **{name: ("domains", name) for name in _SCORES[2:]},
    }
    scores: dict[str, Any] = {}
    for score, (part, column) in columns.items():
        rows = pd.DataFrame(parts[part])
        if rows.empty:
            continue
        table = rows.pivot(index="section", columns="head", values=column).astype(np.float64)
        groups = pd.factorize(table.index.map(donors))[0].astype(np.intp)
        weights = resample_weights(groups, seed)
        for head in table:
            values = table[head].to_numpy(np.float64)
            entry: dict[str, Any] = mean_and_interval(values, weights, groups)
            scores.setdefault(str(head), {})[score] = {**entry, "n_sections": int(np.isfinite(values).sum())}
    return scores


def _matrix(values: Array) -> list[list[float | None]]:
    """Four digits: a matrix is looked at and correlated, never computed on."""
    return [[_number(round(float(value), 4)) for value in row] for row in values]


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
