"""Maps scored against what was measured otherwise: single cells with types, or regions that a pathologist named."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ...abundance import Abundance, Vocabulary, read_vocabulary
from ...common.metrics import RULES
from ...common.naming import identity_key, safe_file_name
from ...errors import InputError
from ...maps import CompositionMap
from ...progress import Progress, progress_bars
from ...provenance import digest_file, versions
from ...spots import PROPORTION, RELATIVE
from ..folds import ORTHOGONAL
from ..result import Evaluation
from ..scores.bootstrap import summarise
from ..scores.scoring import score
from ..spatial.summary import add_spatial
from .blocks import BLOCKS, block_interval, block_of
from .cells import cells_in_tiles, check_near, read_cells
from .places import doubt_of_places
from .read_regions import read_regions
from .regions import score_regions

if TYPE_CHECKING:
    from anndata import AnnData

#: The rows of the map, and of the same composition everywhere (the mean of the map).
MAP, CONSTANT = "map", "constant"
#: What the protocol means, in every file that carries its scores.
MEANING = "against cells or regions that were measured without the labels, on one slide"
_COLUMNS = ["head", "protocol", "fold", "donor", "section", "cell_type", "metric", "value", "target", "n_spots"]

#: What is told of: reading cells, counting them, their types and places, agreement, scores and their summary.
_TASK, _STEPS = "look at a map beside cells (steps)", 7


def score_map(
    composition: AnnData | CompositionMap | str | os.PathLike[str],
    *,
    cells: str | os.PathLike[str] | None = None,
    regions: str | os.PathLike[str] | None = None,
    expect: Mapping[str, Sequence[str]] | None = None,
    vocabulary: Vocabulary | str | os.PathLike[str] | None = None,
    map_vocabulary: Vocabulary | str | os.PathLike[str] | None = None,
    size_um: float | None = None,
    spot_um: float | None = None,
    min_cells: int = 1,
    donor: str | None = None,
    spatial: bool = True,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | bool = True,
) -> Evaluation:
    """Score a composition map against single cells, against regions, or both.

    Parameters
    ----------
    composition
        A map from `histomix.predict`, its folder, or its ``composition.h5ad``.
    cells
        See `histomix.evaluation.measured.cells.read_cells`. They are counted in the tiles of the map and scored by the
        metrics of every evaluation: shares where the map is in proportions or relative abundances, cells where it is in
        cells per spot.
    regions
        See `histomix.evaluation.measured.read_regions.read_regions`; QuPath's coordinates count from the slide's
        bounds.
    expect
        Region -> cell types whose sum should be higher in it than in the other regions; say it before you look. Several
        regions under one name are joined by commas; a class of QuPath stands for the regions of that class.
    vocabulary, map_vocabulary
        How the cell types of the cells, and of the map, are merged, renamed or dropped.
    size_um
        Side of the square around each tile's centre in which cells are counted; that of the map's tiles when left out,
        even where they lie on a denser grid.
    spot_um
        Diameter of the spots that a map in cells per spot counts in: cells of a tile are scaled to that area. Left
        out: the area that the map names.
    min_cells
        Tiles with fewer typed cells are left out.
    donor
        Whose tissue it is: the summary says when the head was trained on it.
    spatial
        Where there are cells, add patterns and neighbours against them (see `histomix.evaluation.spatial_summary`).
    seed
        Of the bootstrap and the clusters.
    out
        Folder to write, as of `Evaluation.save`.
    progress
        Bars in a terminal or notebook; False for none, or a function that is told how far the spatial scores are.

    Returns
    -------
    Evaluation
        Protocol ``"orthogonal"``, heads ``"map"`` and ``"constant"``, scores against ``"truth"``; ``labels`` and
        ``truth`` are the cells counted in the tiles; ``summary["orthogonal"]`` has ``cells`` and ``regions``.

    Raises
    ------
    InputError
        Nothing was given to score against, a file cannot be used, no cell type or tile is shared, or a region or type
        of ``expect`` does not exist.

    Examples
    --------
    >>> score = hm.score_map("maps/patient-9", cells="cells.csv.gz")
    >>> score.summary["protocol"]
    'orthogonal'
    """
    if cells is None and regions is None:
        raise InputError("there is nothing to score the map against", hint="Give cells, regions or both")
    if expect and regions is None:
        raise InputError("expectations need regions", hint="Give --regions with --expect")
    for length, value in (("size_um", size_um), ("spot_um", spot_um)):
        if value is not None and not 0 < value < np.inf:
            raise InputError(f"{length} must be a positive number, not {value!r}")
    with progress_bars(progress) as report:
        report(_TASK, 0, _STEPS)
        one = CompositionMap.of(composition)
        manifest, name, where = one.manifest, safe_file_name(one.folder_name or "slide"), one.where
        values = one.values()
        read_ok = one.read_ok & np.isfinite(values.to_numpy()).all(axis=1)
        if not read_ok.any():
            raise InputError("holds no tile that could be read", where=where, hint="Predict the slide again")
        mpp, unit = one.mpp, one.unit
        width_px, height_px = (float(manifest["slide"].get(side, np.inf)) for side in ("width_px", "height_px"))
        size_px = width_px, height_px
        relative = unit == RELATIVE and cells is not None
        if relative:
            unit = PROPORTION
        values = _mapped(values[read_ok].astype(np.float64), map_vocabulary, where)
        positions = one.adata.obs.loc[read_ok, ["x_px", "y_px"]].astype(np.float64).rename_axis("spot")
        side_um = one.cell_px * mpp
        blocks = block_of(positions.to_numpy() * mpp, side_um)
        notes = _seen(manifest, donor)
        if relative:
            notes.append(
                "the map is in relative abundance: its totals are no cells, so shares of the cells counted are "
                "compared with shares of the map, and nothing is said of numbers of cells"
            )
        facts: dict[str, Any] = {"map": where, "map_unit": one.unit, "tile_um": one.tile_um, "interval": BLOCKS}
        metrics: list[pd.DataFrame] = []
        predictions = {head: {name: values} for head in (CONSTANT, MAP)}
        truth = pd.DataFrame(index=values.index)
        if cells is not None:
            # The map's values answer for its tiles, however densely they lie.
            count_um = one.tile_um if size_um is None else size_um
            report(_TASK, 1, _STEPS)
            annotated, more = read_cells(cells, mpp)
            report(_TASK, 2, _STEPS)
            check_near(annotated[["x_px", "y_px"]].to_numpy(), size_px, "cells", os.fspath(cells))
            counted = cells_in_tiles(annotated, positions, count_um / mpp, min_cells=min_cells)
            notes += [*more, *counted.notes]

            def compared(counts: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
                mapped = _mapped(counts.astype(np.float64), vocabulary, os.fspath(cells))
                return _shared(mapped, values.loc[mapped.index], unit, os.fspath(cells))

            report(_TASK, 3, _STEPS)
            truth, predicted, more = compared(counted.counts)
            notes += more
            notes += doubt_of_places(
                annotated,
                lambda some: compared(cells_in_tiles(some, positions, count_um / mpp, min_cells=min_cells).counts)[:2],
                size_px,
                mpp,
            )
            report(_TASK, 4, _STEPS)
            scaled_to = None
            if unit != "proportion":
                area = manifest.get("area") or {}
                truth, scaled_to, more = _scaled(truth, count_um, spot_um, area.get("label_um2"))
                notes += more
            constant = predicted * 0 + predicted.mean(axis=0)
            predictions = {CONSTANT: {name: constant}, MAP: {name: predicted}}
            rows = values.index.get_indexer(truth.index)
            facts["cells"] = {
                "file": _file(cells),
                "n_cells": counted.n_cells,
                "n_counted": counted.n_counted,
                "n_tiles": len(truth),
                "counted_in_um": count_um,
                "scaled_to_spots_of_um": spot_um if unit != "proportion" else None,
                "scaled_to_um2": scaled_to,
                "cell_types": list(truth.columns),
                "pearson": block_interval(truth.to_numpy(), predicted.to_numpy(), blocks[rows], seed),
            }
            report(_TASK, 5, _STEPS)
            for head, tables in predictions.items():
                metrics.append(_scored(truth, tables[name], name, donor or "", unit).assign(head=head))
        if regions is not None:
            bounds = tuple(manifest["slide"].get("bounds_px", (0.0, 0.0)))[:2]
            drawn = read_regions(regions)
            check_near(drawn.positions_px, size_px, "places", os.fspath(regions))
            names = drawn.at(values.index, positions.to_numpy(), side_um / mpp / 2, bounds)
            part, found_rows = score_regions(values, names, expect or {}, blocks, seed, where, drawn)
            notes += part.pop("notes")
            facts["regions"] = {"file": _file(regions), **part}
            metrics.append(found_rows.assign(section=name, donor=donor or "", head=MAP))
        report(_TASK, 6, _STEPS)
        result = _evaluation(name, donor, metrics, predictions, truth, positions, notes, facts, manifest, seed)
        report(_TASK, _STEPS, _STEPS)
        if spatial and cells is not None:
            result = add_spatial(result, seed=seed, progress=report)
        if out is not None:
            result.save(out)
    return result


def _mapped(
    values: pd.DataFrame, vocabulary: Vocabulary | str | os.PathLike[str] | None, where: str | None
) -> pd.DataFrame:
    if vocabulary is None:
        return values
    known = vocabulary if isinstance(vocabulary, Vocabulary) else read_vocabulary(vocabulary)
    # Shares are taken over the shared types afterwards, so nothing needs to be renormalised here.
    plain = replace(known, renormalise=False)
    clipped = values.clip(lower=0.0)
    return plain.apply(Abundance(clipped, "cells per spot", provenance={"file": where})).values


def _shared(
    truth: pd.DataFrame, predicted: pd.DataFrame, unit: str, where: str
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Both over the cell types that both have, in the map's unit."""
    types = [name for name in predicted.columns if name in truth.columns]
    if not types:
        raise InputError(
            f"the cells have none of the map's cell types: they are {', '.join(truth.columns[:8])}, those of the map "
            f"{', '.join(map(str, predicted.columns[:8]))}",
            where=where,
            hint="Map their names with a vocabulary (YAML: merge, rename, drop)",
        )
    notes = []
    for what, table in (("the cells have no", predicted), ("the map has no", truth)):
        absent = [str(name) for name in table.columns if name not in types]
        if absent:
            notes.append(f"{what} {', '.join(absent)}: left out on both sides")
    truth, predicted = truth[types], predicted[types].clip(lower=0.0)
    if unit != "proportion":
        return truth, predicted, notes
    total, own = truth.sum(axis=1), predicted.sum(axis=1)
    kept = total > 0
    if not kept.any():
        raise InputError("no tile holds a cell of a shared type", where=where, hint="Map the names with a vocabulary")
    if not kept.all():
        notes.append(f"{int((~kept).sum()):,} tiles hold no cell of a shared type and are left out")
    if len(notes):
        notes.append(f"shares are over the {len(types)} shared cell types")
    shares = predicted[kept].div(own[kept].where(own[kept] > 0, 1.0), axis=0)
    return truth[kept].div(total[kept], axis=0), shares, notes


def _scaled(
    truth: pd.DataFrame, count_um: float, spot_um: float | None, label_um2: float | None
) -> tuple[pd.DataFrame, float | None, list[str]]:
    """Counts in the area that the map's numbers are of, that area in um2 (None: not known), and remarks."""
    if spot_um is not None:
        label_um2 = np.pi / 4 * spot_um**2
    if label_um2 is None:
        what = f"cells are counted in squares of {count_um:g} um; where the head's spots had another area, rmse and mae"
        return truth, None, [f"{what} are of different things, correlations are not (--spot-um scales the counts)"]
    return truth * (label_um2 / count_um**2), label_um2, []


def _scored(truth: pd.DataFrame, predicted: pd.DataFrame, section: str, donor: str, unit: str) -> pd.DataFrame:
    types = [str(name) for name in truth.columns]
    rows = score(
        truth.to_numpy(np.float64),
        predicted.to_numpy(np.float64),
        section=[section] * len(truth),
        donor=[donor] * len(truth),
        cell_types=types,
        unit=unit,
    )
    return rows.assign(target="truth")


def _evaluation(
    name: str,
    donor: str | None,
    metrics: list[pd.DataFrame],
    predictions: dict[str, dict[str, pd.DataFrame]],
    truth: pd.DataFrame,
    positions: pd.DataFrame,
    notes: list[str],
    facts: dict[str, Any],
    manifest: Mapping[str, Any],
    seed: int,
) -> Evaluation:
    rows = pd.concat(metrics, ignore_index=True).assign(protocol=ORTHOGONAL, fold=name)
    rows = rows[_COLUMNS].astype({"value": np.float64, "n_spots": np.int64})
    folds = [{"name": name, "donors": [donor] if donor else [], "sections": [name], "n_test": len(truth)}]
    first = predictions[MAP][name]
    types = [str(one) for one in (truth.columns if len(truth.columns) else first.columns)]
    summary = {
        "protocol": ORTHOGONAL,
        "protocol_means": MEANING,
        "folds": folds,
        "heads": [CONSTANT, MAP],
        # Of the numbers that were compared; those of the map are in the unit that stands with it.
        "unit": PROPORTION if manifest["unit"] == RELATIVE and "cells" in facts else str(manifest["unit"]),
        "cell_types": types,
        "sections": [name] if len(truth.columns) else [],
        "sections_mpp": {name: float(manifest["slide"]["mpp"])},
        "donors": [donor] if donor else [],
        "n_sections": 1,
        "n_donors": 1,
        "n_spots": len(first),
        "truth": {"sections": [name], "n_spots": len(truth)} if len(truth.columns) else None,
        "head": manifest.get("head"),
        "seed": seed,
        "rules": RULES,
        "interval": {"level": 0.95, "method": BLOCKS, "caution": "one slide: nothing is known of other donors"},
        "notes": notes,
        ORTHOGONAL: facts,
        "scores": summarise(rows[rows["target"] == "truth"], folds, seed) if "cells" in facts else {},
        "versions": versions("numpy", "scipy", "scikit-learn"),
    }
    # What was measured stands in the place of labels as well, so that whatever reads an evaluation reads this one.
    labels = {name: truth} if len(truth.columns) else {}
    return Evaluation(rows, predictions, summary, labels, labels, {name: positions})


def _seen(manifest: Mapping[str, Any], donor: str | None) -> list[str]:
    """What can be said of whether the head was trained on this tissue."""
    training = (manifest.get("head") or {}).get("training") or {}
    donors = [str(one) for one in training.get("donors", [])]
    if training.get("this_slide") is True:
        return ["optimistic: the head was trained on this very slide"]
    if donor is None:
        return ["whose tissue this is was not said (--donor), so nothing shows that the head was not trained on it"]
    if not donors:
        return [f"the map does not say which donors its head was trained on, so nothing is known of donor {donor}"]
    if identity_key(donor) in map(identity_key, donors):  # P01 is P1
        return [f"optimistic: the head was trained on donor {donor}"]
    return [f"donor {donor} is not among the {len(donors)} donors that the head was trained on"]


def _file(path: str | os.PathLike[str]) -> dict[str, Any]:
    place = Path(os.fspath(path).partition("#")[0])
    return {"name": place.name, "digest": digest_file(place) if place.is_file() else None}
