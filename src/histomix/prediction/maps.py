"""A head over the features of a whole slide, a stretch at a time; overlapping tiles combined."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd

from ..common.storage.facts import stored_facts
from ..common.words import RESEARCH_USE, head_limits
from ..maps.areas import AREAS_FILE, BLUR, DAMAGED, OUT_OF_SCOPE, READ, areas_mm2, write_areas
from ..maps.composition import geojson_bytes
from ..maps.reading import calibrated_on, refers_to, type_facts
from ..maps.scverse import add_scverse, thumbnail_of
from ..maps.streaming import composition_writer
from ..maps.tissue import PREVIEW_FILE, read_picture
from ..maps.units import label_area_um2, unit_facts
from ..slides.focus import OUT_OF_FOCUS
from .answers import answer_columns, answer_facts
from .areas import final_areas
from .chunks import disk_array, release, sharpness_beside
from .focus import focus_facts
from .plan import Plan, manifest_of
from .remarks import remarks_of

if TYPE_CHECKING:
    from ..heads import Head
    from ..heads.answers.rule import AnswerRule

logger = logging.getLogger(__name__)

#: Rows that a head is applied to at once, and that the outputs are written by.
BLOCK = 4096
#: About 3,000 tiles of 80 cell types with intervals.
LARGE_GEOJSON = 20_000_000
COMBINED, DENSITY = "super_resolved", "density per mm2"

#: Makes an array of a name, shape and dtype: in memory, or on disk.
Make = Callable[[str, tuple[int, ...], str], np.ndarray]


def in_memory(_name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """The `Make` of small slides."""
    return np.empty(shape, dtype)


@dataclass(frozen=True, eq=False)
class Maps:
    """What a head says of each tile of a plan, in the plan's order; ``None`` where it does not say it.

    Parameters
    ----------
    values, lower, upper, combined
        float32 (n, types): the prediction, its interval, and the super-resolved map.
    novelty
        float64 (n,), NaN where a tile could not be read.
    read_ok, in_scope
        bool (n,).
    blurred
        bool (n,), out of focus; None where the sharpness is not known.
    scale
        What the head says of the slide's um per px (`histomix.heads.trust.scale`); None where it cannot.
    focus
        How sharp the slide is (`histomix.prediction.focus.focus_facts`); None where it is not known.
    """

    values: np.ndarray
    lower: np.ndarray | None
    upper: np.ndarray | None
    combined: np.ndarray | None
    novelty: np.ndarray
    read_ok: np.ndarray
    in_scope: np.ndarray
    blurred: np.ndarray | None = None
    scale: dict[str, Any] | None = None
    focus: dict[str, Any] | None = None


def apply_head(head: Head, X: np.ndarray, plan: Plan, make: Make = in_memory, sharp: np.ndarray | None = None) -> Maps:
    """Apply a head to the features of a slide.

    A head that looks around its tiles gets each stretch with all tiles within its reach, so that the result is that of
    the whole slide at once; memory follows the stretch.

    Parameters
    ----------
    head
        The head.
    X
        (n, features) in the order of the plan; an array on disk is read in stretches. A row with NaN is unreadable.
    plan
        The tiles.
    make
        Where the results live.
    sharp
        (n,) sharpness of the tiles, NaN where it is not known; None: of none.
    """
    n, types = len(plan), len(head.card["cell_types"])
    values = make("values", (n, types), "float32")
    novelty, scope = make("novelty", (n,), "float64"), make("in_scope", (n,), "bool")
    sizes = None if head.scale_model is None else make("log_scale", (n,), "float64")
    bounds: dict[str, np.ndarray] = {}
    for start, stop, low, high in _chunks(plan, _context_um(head)):
        output = head.apply(X[low:high], plan.xy_um[low:high])
        core = slice(start - low, stop - low)
        values[start:stop], novelty[start:stop] = output.values[core], output.novelty[core]
        scope[start:stop] = output.in_scope[core]
        if sizes is not None and output.log_scale is not None:
            sizes[start:stop] = output.log_scale[core]
        for name in ("lower", "upper"):
            bound = getattr(output, name)
            if bound is not None:
                bounds.setdefault(name, make(name, (n, types), "float32"))[start:stop] = bound[core]
    read_ok = np.isfinite(novelty)
    combined = _combined(plan, values, make) if _overlap(plan) > 1 else None
    blurred = None if sharp is None or np.isnan(sharp).all() else sharp < OUT_OF_FOCUS
    scale = None
    if sizes is not None and head.scale_model is not None:
        most_blurred = blurred is not None and bool(2 * blurred[read_ok].sum() > read_ok.sum())
        scale = head.scale_model.check(sizes[read_ok], most_blurred)
    ends = bounds.get("lower"), bounds.get("upper")
    focus = focus_facts(sharp, read_ok)
    return Maps(values, *ends, combined, novelty, read_ok, scope, blurred, scale, focus)


def _context_um(head: Head) -> float:
    """How far a head looks; infinite for one on the graph of all tiles."""
    return float("inf") if head.estimator.needs_positions else float(head.context_um)


def _chunks(plan: Plan, context_um: float) -> Iterator[tuple[int, int, int, int]]:
    """(start, stop) of each stretch and (low, high) of what must be seen for it; tiles run from top to bottom."""
    n, y_um = len(plan), plan.tiles["y_px"] * plan.facts["slide"]["mpp"]
    if not np.isfinite(context_um):
        yield 0, n, 0, n
        return
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        if context_um == 0:
            yield start, stop, start, stop
            continue
        low = int(np.searchsorted(y_um, y_um[start] - context_um, "left"))
        high = int(np.searchsorted(y_um, y_um[stop - 1] + context_um, "right"))
        yield start, stop, low, high


def _overlap(plan: Plan) -> float:
    """How many tiles of a row of the grid lie over one another."""
    if plan.at_spots:
        return 1.0
    tile = plan.facts["tile"]
    side_um: float = tile["size_px"] * tile["mpp"]
    overlap: float = side_um / (tile["stride_um"] or side_um)
    return overlap


def tent(overlap: float) -> np.ndarray:
    """Weights of the tiles 0, 1, 2, ... strides from a cell's centre, along one axis, one side.

    A tile weighs by the share of the cell that it covers, times ``1 - distance / half a tile``, so that tiles centred
    on the cell, which see it whole and amid its surroundings, count most.
    """
    half = overlap / 2
    distance = np.arange(int(np.ceil(half + 0.5)))
    covered = np.clip(half - distance + 0.5, 0, 1)
    # The mean distance of the covered part from the tile's centre, so that a cell on a tile's edge keeps some weight.
    weights: np.ndarray = covered * np.clip(1 - np.maximum(distance - (1 - covered) / 2, 0) / half, 0, 1)
    return weights


def _combined(plan: Plan, values: np.ndarray, make: Make) -> np.ndarray:
    """The weighted mean, in every cell of the grid that has a tile of its own, of all tiles that cover it."""
    from scipy.ndimage import convolve1d

    side = tent(_overlap(plan))
    kernel = np.concatenate([side[:0:-1], side])
    reach = len(side) - 1
    columns = plan.facts["grid"][0]
    row, column = np.asarray(plan.tiles["row"]), np.asarray(plan.tiles["column"])
    result = make(COMBINED, values.shape, "float32")
    step = max(1, BLOCK * 8 // columns)
    for top in range(int(row[0]), int(row[-1]) + 1, step):
        first, last = np.searchsorted(row, (top, top + step))
        if first == last:
            continue
        low, high = np.searchsorted(row, (top - reach, top + step + reach))
        dense = np.zeros((step + 2 * reach, columns, values.shape[1]))
        known = np.zeros((*dense.shape[:2], 1))
        place = row[low:high] - top + reach, column[low:high]
        some = np.asarray(values[low:high], float)
        ok = np.isfinite(some).all(axis=1)
        dense[place] = np.where(ok[:, None], some, 0)
        known[place] = ok[:, None]
        for axis in (0, 1):
            dense = convolve1d(dense, kernel, axis=axis, mode="constant")
            known = convolve1d(known, kernel, axis=axis, mode="constant")
        here = row[first:last] - top + reach, column[first:last]
        weight = known[here]
        result[first:last] = np.where(weight > 0, dense[here] / np.where(weight > 0, weight, 1), np.nan)
    return result


def areas_of(plan: Plan, maps: Maps) -> np.ndarray:
    """The raster of what became of the slide's tissue (`histomix.prediction.areas.final_areas`)."""
    state = np.full(len(plan), READ, np.uint8)
    state[~np.asarray(maps.in_scope)] = OUT_OF_SCOPE
    if maps.blurred is not None:
        state[np.asarray(maps.blurred)] = BLUR
    state[~np.asarray(maps.read_ok)] = DAMAGED
    return final_areas(plan.areas, plan.tiles, plan.facts, state)


def describe(
    plan: Plan,
    maps: Maps,
    head: Head,
    areas: Mapping[str, float],
    *,
    name: str | None = None,
    facts: Any = None,
    anonymised: str | None = None,
) -> dict[str, Any]:
    """The manifest of a map: what it was made of, its unit and areas, and how much of it is in scope.

    Parameters
    ----------
    plan, maps, head
        The tiles, what the head says of them, and the head.
    areas
        What became of the tissue, mm2 (`histomix.maps.areas.areas_mm2`).
    name, facts
        The slide's name, and what a sheet says of it.
    anonymised
        The key of the pseudonyms, where the slide is not to be named.
    """
    more: dict[str, Any] = {}
    if facts is not None:
        more["facts"] = facts
    if name is not None:
        more["name"] = name
    more |= {**unit_facts(head, plan.facts), "scope": head.scope(maps.in_scope[maps.read_ok]), "use": RESEARCH_USE}
    more["refers_to"] = refers_to({**plan.facts, **more})
    if head.card.get("calibration"):
        more["calibrated_on"] = calibrated_on(head.card["calibration"])
    if limits := head_limits(head.card):
        more["limits"] = " ".join(limits)
    if maps.scale is not None:
        more["scale_check"] = maps.scale
    if maps.focus is not None:
        more["focus"] = maps.focus
    more |= answer_facts(head.card)
    more["tissue_areas"] = {**plan.facts["tissue_areas"], "mm2": dict(areas)}
    if anonymised is not None:
        more["anonymised"] = anonymised
    return manifest_of(plan, head, more)


def write_map(
    folder: Path, scratch: Path, features: Path, plan: Plan, head: Head, *, gzip: bool, **named: Any
) -> dict[str, Any]:
    """Apply a head to features on disk and stream the map to its files; memory does not grow with the slide.

    Parameters
    ----------
    folder
        Where the map goes.
    scratch
        An empty folder for arrays on disk. They live in here alone: Windows neither renames nor removes a file that
        is mapped.
    features
        ``features.npy`` of the plan.
    plan, head
        The tiles, and the head.
    gzip
        Compress the GeoJSON, which one of more than `LARGE_GEOJSON` bytes is in any case.
    named
        What `describe` is told of the slide.

    Returns
    -------
    dict
        ``tiles``, ``unreadable_tiles``, ``in_scope_tiles``, ``areas_mm2`` and ``remarks``, as `SlideResult.of` takes
        them.

    Raises
    ------
    StorageError
        A file cannot be written.
    """
    X = np.load(features, mmap_mode="r", allow_pickle=False)
    maps = apply_head(
        head,
        X,
        plan,
        lambda name, shape, dtype: disk_array(scratch / f"{name}.npy", shape, dtype),
        sharpness_beside(features, len(plan)),
    )
    raster, mpp = areas_of(plan, maps), plan.facts["tissue_areas"]["mpp"]
    areas = areas_mm2(raster, mpp)
    manifest = describe(plan, maps, head, areas, **named)
    unreadable = in_scope = 0
    size = geojson_bytes(len(plan), len(head.card["cell_types"]), maps.lower is not None)
    if size > LARGE_GEOJSON and not gzip:
        logger.info("tiles.geojson would take about %s; it is written as tiles.geojson.gz", f"{size / 1e6:.0f} MB")
    with composition_writer(folder, gzip or size > LARGE_GEOJSON) as append:
        for block in blocks(plan, maps, head, manifest, thumbnail_of(read_picture(folder / PREVIEW_FILE))):
            append(block)
            unreadable += int((~block.obs["read_ok"]).sum())
            in_scope += int(block.obs["in_scope"].sum())
            for array in (maps.values, maps.lower, maps.upper, maps.combined):
                if array is not None:
                    release(array)
    write_areas(folder / AREAS_FILE, raster, mpp)
    return {
        "tiles": len(plan),
        "unreadable_tiles": unreadable,
        "in_scope_tiles": in_scope,
        "areas_mm2": areas,
        "remarks": remarks_of(plan, head, areas, unreadable, in_scope, maps.scale, maps.focus),
    }


def blocks(
    plan: Plan,
    maps: Maps,
    head: Head,
    manifest: Mapping[str, Any],
    thumbnail: np.ndarray | None = None,
    size: int | None = BLOCK,
) -> Iterator[ad.AnnData]:
    """The composition map in the order of its outputs, ``size`` tiles at a time (None: all at once).

    ``thumbnail`` is a picture of the slide that goes into the map.
    """
    density_of_um2 = label_area_um2(head)
    types, rule = type_facts(head.card), head.answer_rule
    place = np.asarray(plan.tiles["place"])
    # On a grid the output's order is the plan's; spots are given back in their own.
    order = np.argsort(place) if plan.at_spots else None
    size = size or max(1, len(plan))
    for start in range(0, len(plan), size):
        rows = np.arange(start, min(start + size, len(plan))) if order is None else order[start : start + size]
        block = _block(plan, maps, types, rule, manifest, density_of_um2, rows)
        add_scverse(block, thumbnail)
        yield block


def _block(
    plan: Plan,
    maps: Maps,
    types: pd.DataFrame,
    rule: AnswerRule | None,
    manifest: Mapping[str, Any],
    density_of_um2: float | None,
    rows: np.ndarray,
) -> ad.AnnData:
    some = np.asarray(plan.tiles[rows])
    obs: dict[str, Any] = {name: np.array(some[name]) for name in ("x_px", "y_px")}
    obs["tissue"] = some["tissue"].astype(float)
    obs["novelty"] = maps.novelty[rows].astype(np.float32)
    obs["in_scope"], obs["read_ok"] = np.array(maps.in_scope[rows]), np.array(maps.read_ok[rows])
    if maps.blurred is not None:
        obs["in_focus"] = ~np.array(maps.blurred[rows])
    obs["fragment"] = np.array(some["fragment"])
    regions = plan.facts["regions"]
    if regions:
        obs["region"] = pd.Categorical.from_codes(some["region"], categories=regions)
    if rule is not None:
        obs |= answer_columns(rule, maps.values[rows], obs["read_ok"], obs["in_scope"], obs.get("in_focus"))
    table = pd.DataFrame(obs, index=pd.Index(plan.names(rows), name="spot"))
    block = ad.AnnData(np.array(maps.values[rows]), obs=table, var=types.copy())
    for name, layer in (("lower", maps.lower), ("upper", maps.upper), (COMBINED, maps.combined)):
        if layer is not None:
            block.layers[name] = np.array(layer[rows])
    if density_of_um2 is not None:
        block.layers[DENSITY] = (block.X * (1e6 / density_of_um2)).astype(np.float32)
    block.obsm["spatial"] = table[["x_px", "y_px"]].to_numpy(float)
    block.uns["manifest"] = stored_facts(manifest)
    return block
