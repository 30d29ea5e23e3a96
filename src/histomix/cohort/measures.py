"""What one map says of its slide, its pieces of tissue and its regions, as rows of a tidy table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from anndata import AnnData

from ..common.geometry.pitch import nearest_pitch
from ..common.words import NO_ANSWERS
from ..maps import CompositionMap
from ..maps.areas import REASONS
from ..maps.reading import LEAST_IN_SCOPE
from .hotspots import HotSpots, TlsRule, tls_like
from .indices import evenness, joins, mixing, morisita_horn, one_hot, shannon
from .lattice import neighbour_pairs
from .levels import slide_levels

#: A tile more novel than this share of the held-out training tiles is novel; 5 % are, on tissue like the training's.
NOVEL = 0.95
#: Measure -> (unit, what it is, formula, source). What a table holds, in the words that go into its manifest.
DEFINITIONS: dict[str, tuple[str, str]] = {
    "tiles": ("tiles", "tiles of the map"),
    "tiles_used": (
        "tiles",
        "readable tiles in scope (with all_tiles: all), which what has no other word is made of; none of a slide, "
        "fragment or region of which less than half is in scope: that has no composition",
    ),
    "unreadable_share": ("share of tiles", "tiles that could not be read"),
    "in_scope_share": ("share of readable tiles", "tiles no more novel than 99 % of held-out training tiles"),
    "novel_share": ("share of readable tiles", f"tiles more novel than {NOVEL:.0%} of held-out training tiles"),
    "novelty_mean": ("percentile, 0 to 1", "mean novelty of the readable tiles; 0.5 on tissue like the training's"),
    "cell_um": ("um", "side of a cell of the map; indices of neighbours compare only between equal ones"),
    "tissue_mm2": ("mm2", "tissue under the tiles used: sum of tissue share times area of a cell of the map"),
    "in_scope_mm2": ("mm2", "tissue under the readable tiles in scope"),
    "tissue_found_mm2": ("mm2", "all tissue of the slide, read or not: the sum of the areas that follow (slides)"),
    **{f"{reason.name}_mm2": ("mm2", f"tissue {reason.title}: {reason.what} (slides)") for reason in REASONS},
    "proportion": (
        "mean share of a tile",
        "mean over tiles of x_a / sum_b x_b, x clipped at 0: tiles count alike, so it is no share of the slide's cells",
    ),
    "proportion_low": (
        "mean share of a tile",
        "lower end of the interval of a slide's mean, from slides of held-out donors",
    ),
    "proportion_high": ("mean share of a tile", "upper end of it"),
    "proportion_shrunk": (
        "mean share of a tile",
        "m + s (proportion - m), m: mean of the training labels, s: slope, 0 to 1, of true on predicted means of "
        "slides of held-out donors; errs less than proportion where the head tells the levels of slides poorly",
    ),
    "proportion_shrunk_low": ("mean share of a tile", "lower end of its interval, from slides of held-out donors"),
    "proportion_shrunk_high": ("mean share of a tile", "upper end of it"),
    "proportion_all": ("mean share of a tile", "proportion over all readable tiles, in scope or not"),
    "cells": ("cells", "sum over tiles of the predicted cells in a cell of the map (heads that count cells, grids)"),
    "density": ("cells per mm2", "cells / tissue_mm2"),
    "density_low": (
        "cells per mm2",
        "lower end of the interval of a slide's density, from held-out donors",
    ),
    "density_high": ("cells per mm2", "upper end of it"),
    "density_shrunk": ("cells per mm2", "density drawn to that of the training labels, as proportion_shrunk"),
    "density_shrunk_low": ("cells per mm2", "lower end of its interval, from slides of held-out donors"),
    "density_shrunk_high": ("cells per mm2", "upper end of it"),
    "dominant_share": ("share of tiles", "tiles in which the type has the largest share"),
    "answered_share": (
        "share of tiles",
        "tiles that are answered with a cell type or a group; the rest is not told",
    ),
    "shannon": ("nats", "-sum p ln p of the mean proportions (Shannon 1948)"),
    "evenness": ("0 to 1", "shannon / ln k (Pielou 1966)"),
    "shannon_tile": ("nats", "mean over tiles of the Shannon entropy of the tile"),
    "pairs": ("pairs of tiles", "tiles that share a side (four neighbours on a square grid, six on a hexagonal one)"),
    "mixing": ("share of pairs", "neighbouring tiles of different dominant types (join counts, Cliff and Ord 1981)"),
    "mixing_expected": ("share of pairs", "mixing if the tiles were laid out at random: 1 - sum n_a (n_a-1) / n (n-1)"),
    "joins": ("pairs of tiles", "neighbouring tiles of which one is dominated by each type (Cliff and Ord 1981)"),
    "joins_expected": ("pairs of tiles", "joins if the tiles were laid out at random"),
    "interface": ("mm per mm2", "joins of two types times the side of a cell, over tissue_mm2 (grids)"),
    "contact_ratio": ("ratio", "joins of shares instead of dominant types, over their expectation; 1: as at random"),
    "morisita_horn": (
        "0 to 1",
        "2 sum p_ia p_ib / sum (p_ia^2 + p_ib^2), p_ia: part of all of a in tile i (Horn 1966)",
    ),
    "tls_like": (
        "hot spots",
        "connected tiles hot for B and T lineage (Gi*, Ord and Getis 1995): no diagnosis of a TLS",
    ),
    "tls_like_mm2": ("mm2", "area of the TLS-like hot spots"),
    "tls_like_largest_mm2": ("mm2", "area of the largest one"),
    "tls_like_share": ("share of tissue", "tls_like_mm2 / tissue_mm2"),
    "tls_like_density": ("hot spots per mm2", "tls_like / tissue_mm2"),
}


@dataclass(frozen=True, eq=False)
class Tissue:
    """A map ready to be measured: only the tiles that are used, with their neighbours.

    Parameters
    ----------
    types
        Names of the k cell types.
    proportions
        float64 (n, k), each row adds up to 1.
    cells
        float64 (n, k), cells in a cell of the map; None where the head predicts no counts, or at spots.
    xy_px
        float64 (n, 2), centres in level-0 px.
    mm2
        float64 (n,), tissue under each tile.
    pairs
        int64 (pairs, 2).
    answer
        str (n,), what each tile is answered with; None for a map without answers.
    hot
        TLS-like hot spots; None where no lineages were declared.
    """

    types: list[str]
    proportions: np.ndarray
    cells: np.ndarray | None
    xy_px: np.ndarray
    mm2: np.ndarray
    pairs: np.ndarray
    cell_mm: float
    on_grid: bool
    answer: np.ndarray | None = field(default=None)
    hot: HotSpots | None = field(default=None)

    def part(self, rows: np.ndarray) -> Tissue:
        """Some of the tiles (bool (n,)), and the pairs among them; hot spots stay those of the slide."""
        place = np.cumsum(rows) - 1
        inside = rows[self.pairs].all(axis=1) if len(self.pairs) else np.zeros(0, bool)
        hot = None if self.hot is None else HotSpots(self.hot.label[rows], len(set(self.hot.label[rows]) - {0}))
        cells, answer = (None if one is None else one[rows] for one in (self.cells, self.answer))
        return Tissue(
            self.types, self.proportions[rows], cells, self.xy_px[rows], self.mm2[rows],
            place[self.pairs[inside]], self.cell_mm, self.on_grid, answer, hot,
        )  # fmt: skip


def map_rows(
    composition: AnnData | CompositionMap,
    rule: TlsRule | None = None,
    in_scope_only: bool = True,
    pairs_by_fragment: bool = True,
) -> list[dict[str, Any]]:
    """Measure a map: as a whole (``level`` "slide"), and by its pieces and regions where it has several.

    Parameters
    ----------
    composition
        A map from `histomix.predict`.
    rule
        Which types are of the B and T lineage, and what is hot; None: no hot spots.
    in_scope_only
        Use only tiles in scope; otherwise all that are readable.
    pairs_by_fragment
        Measure pairs of cell types in each fragment of tissue too.

    Returns
    -------
    Rows with ``level, part, measure, cell_type, other_type, value``; see `DEFINITIONS`.

    Raises
    ------
    InputError
        The rule names a type that the map does not have.
    """
    one = CompositionMap.of(composition)
    obs = one.adata.obs
    tissue, used = tissue_of(one, rule, in_scope_only)
    all_used = not in_scope_only or bool(one.in_scope[one.read_ok].all())
    every = (tissue, used) if all_used else tissue_of(one, None, False)

    def rows_of(level: str, part: str, here: np.ndarray, pairs: bool = True) -> Iterator[dict[str, Any]]:
        some = used & here
        if in_scope_only and one.in_scope[here & one.read_ok].sum() < LEAST_IN_SCOPE * (here & one.read_ok).sum():
            some = np.zeros_like(used)  # what is out of scope has no composition
        whole = every[0].part(here[every[1]]), every[1] & here
        return _rows(level, part, one, here, tissue.part(some[used]), some, whole, pairs)

    rows = list(rows_of("slide", "", np.ones(len(obs), bool)))
    for level in ("fragment", "region"):
        if level not in obs:
            continue
        names = obs[level].astype(object).where(obs[level].notna(), None)
        present = list(dict.fromkeys(sorted(filter(_named, names), key=str)))
        if level == "fragment":
            present.sort(key=float)
        if level == "fragment" and len(present) < 2:
            continue
        for name in present:
            here = (names == name).to_numpy(bool)
            rows += rows_of(level, str(name), here, level == "region" or pairs_by_fragment)
    return rows


def tissue_of(one: CompositionMap, rule: TlsRule | None, in_scope_only: bool) -> tuple[Tissue, np.ndarray]:
    """The tiles of a map that are used, and which they are (bool (n,)). Raises as `map_rows`."""
    obs, types, on_grid = one.adata.obs, one.cell_types, not one.at_spots
    cell_mm = one.cell_px * one.mpp / 1000
    values = np.clip(one.values().to_numpy(float), 0, None)
    total = values.sum(axis=1)
    used = one.read_ok & np.isfinite(total) & (total > 0)
    if in_scope_only:
        used &= one.in_scope
    xy = one.xy_px[used]
    coverage = obs["tissue"].to_numpy(float)[used] if "tissue" in obs else np.ones(len(xy))
    per_cell = one.manifest.get("area", {}).get("cells_per_map_cell")
    pairs = neighbour_pairs(xy, one.cell_px if on_grid else nearest_pitch(xy))
    proportions = values[used] / total[used, None]
    hot = None if rule is None else tls_like(proportions, types, pairs, cell_mm**2, rule)
    counts = values[used] * float(per_cell) if per_cell is not None else None
    answer = None if one.answer is None else one.answer[used]
    return Tissue(types, proportions, counts, xy, coverage * cell_mm**2, pairs, cell_mm, on_grid, answer, hot), used


def _rows(
    level: str,
    part: str,
    one: CompositionMap,
    here: np.ndarray,
    tissue: Tissue,
    used: np.ndarray,
    every: tuple[Tissue, np.ndarray],
    pairs: bool = True,
) -> Iterator[dict[str, Any]]:
    def row(measure: str, value: float, a: str = "", b: str = "") -> dict[str, Any]:
        return {
            "level": level, "part": part, "measure": measure, "cell_type": a, "other_type": b, "value": float(value)
        }  # fmt: skip

    state = _state(one, here, used, tissue) | {"in_scope_mm2": every[0].mm2[one.in_scope[every[1]]].sum()}
    if level == "slide" and one.areas_mm2:
        state["tissue_found_mm2"] = sum(one.areas_mm2.values())
        state |= {f"{name}_mm2": area for name, area in one.areas_mm2.items()}
    yield from (row(measure, value) for measure, value in state.items())
    whole = every[0].proportions
    of_all = {"proportion_all": whole.mean(axis=0)} if len(whole) else {}
    if not len(tissue.proportions):
        for measure, values in of_all.items():
            yield from (row(measure, value, name) for name, value in zip(tissue.types, values, strict=True))
        return
    by_type = _by_type(tissue)
    levels = slide_levels(one, by_type) if level == "slide" else {}
    for measure, values in (by_type | levels | of_all).items():
        yield from (row(measure, value, name) for name, value in zip(tissue.types, values, strict=True))
    yield from (row(measure, value) for measure, value in _of_all(tissue).items())
    for measure, table in (_by_pair(tissue) if pairs else {}).items():
        diagonal = measure not in ("morisita_horn", "interface")
        for a, name in enumerate(tissue.types):
            for b in range(a if diagonal else a + 1, len(tissue.types)):
                if np.isfinite(table[a, b]):
                    yield row(measure, table[a, b], name, tissue.types[b])
    if tissue.hot is not None:
        yield from (row(measure, value) for measure, value in _hot(tissue, tissue.hot).items())


def _state(one: CompositionMap, here: np.ndarray, used: np.ndarray, tissue: Tissue) -> dict[str, float]:
    ok = one.read_ok[here]
    novelty = one.novelty[here][ok]
    fractions = {"unreadable_share": 1 - ok.mean() if len(ok) else np.nan}
    if ok.any():
        fractions["in_scope_share"] = one.in_scope[here][ok].mean()
        fractions["novel_share"] = (novelty > NOVEL).mean()
        fractions["novelty_mean"] = float(np.nanmean(novelty)) if np.isfinite(novelty).any() else np.nan
    sizes = {"cell_um": tissue.cell_mm * 1000, "tissue_mm2": tissue.mm2.sum()}
    return {"tiles": len(ok), "tiles_used": int(used.sum()), **fractions, **sizes}


def _by_type(tissue: Tissue) -> dict[str, np.ndarray]:
    measures = {"proportion": tissue.proportions.mean(axis=0)}
    if tissue.cells is not None:
        cells = tissue.cells.sum(axis=0)
        if tissue.on_grid:
            measures["cells"] = cells
        if tissue.mm2.sum() > 0:
            measures["density"] = cells / tissue.mm2.sum()
    dominant = tissue.proportions.argmax(axis=1)
    measures["dominant_share"] = np.bincount(dominant, minlength=len(tissue.types)) / len(dominant)
    return measures


def _of_all(tissue: Tissue) -> dict[str, float]:
    mean = tissue.proportions.mean(axis=0)
    dominant = one_hot(tissue.proportions.argmax(axis=1), len(tissue.types))
    measures = {"shannon": shannon(mean), "evenness": evenness(mean)}
    measures["shannon_tile"] = float(np.mean([shannon(composition) for composition in tissue.proportions]))
    if tissue.answer is not None:
        measures["answered_share"] = float(np.mean(~np.isin(tissue.answer, NO_ANSWERS)))
    measures["pairs"] = len(tissue.pairs)
    if len(tissue.pairs):
        observed, expected = joins(dominant, tissue.pairs)
        measures["mixing"], measures["mixing_expected"] = mixing(observed), mixing(expected)
    return measures


def _by_pair(tissue: Tissue) -> dict[str, np.ndarray]:
    measures = {"morisita_horn": morisita_horn(tissue.proportions if tissue.cells is None else tissue.cells)}
    if not len(tissue.pairs):
        return measures
    dominant = one_hot(tissue.proportions.argmax(axis=1), len(tissue.types))
    observed, expected = joins(dominant, tissue.pairs)
    # Types that dominate nowhere have no joins to speak of.
    there = np.outer(dominant.any(axis=0), dominant.any(axis=0))
    measures["joins"], measures["joins_expected"] = (np.where(there, table, np.nan) for table in (observed, expected))
    if tissue.on_grid and tissue.mm2.sum() > 0:
        measures["interface"] = measures["joins"] * tissue.cell_mm / tissue.mm2.sum()
    observed, expected = joins(tissue.proportions, tissue.pairs)
    measures["contact_ratio"] = np.divide(observed, expected, out=np.full_like(observed, np.nan), where=expected > 0)
    return measures


def _hot(tissue: Tissue, hot: HotSpots) -> dict[str, float]:
    sizes = np.bincount(hot.label)[1:] * tissue.cell_mm**2
    area, mm2 = float(sizes.sum()), float(tissue.mm2.sum())
    measures = {"tls_like": float(hot.count), "tls_like_mm2": area, "tls_like_largest_mm2": float(sizes.max(initial=0))}
    if mm2 > 0:
        measures |= {"tls_like_share": area / mm2, "tls_like_density": hot.count / mm2}
    return measures


def hot_spot_rows(tissue: Tissue, rule: TlsRule) -> list[dict[str, Any]]:
    """One row for each TLS-like hot spot: number, centre (level-0 px), tiles, area, mean shares of both lineages."""
    if tissue.hot is None:
        return []
    b, t = rule.columns(tissue.types)
    hot_spots = []
    for number in range(1, tissue.hot.count + 1):
        rows = tissue.hot.label == number
        x, y = tissue.xy_px[rows].mean(axis=0)
        proportions = tissue.proportions[rows]
        hot_spots.append(
            {
                "hot_spot": number,
                "x_px": float(x),
                "y_px": float(y),
                "tiles": int(rows.sum()),
                "area_mm2": float(rows.sum() * tissue.cell_mm**2),
                "b_share": float(proportions[:, b].sum(axis=1).mean()),
                "t_share": float(proportions[:, t].sum(axis=1).mean()),
            }
        )
    return hot_spots


def _named(value: object) -> bool:
    """Whether a piece or a region is one: pieces count from 1, and a tile in no region has no name."""
    return value is not None and value != "" and not (isinstance(value, (int, np.integer)) and value < 1)
