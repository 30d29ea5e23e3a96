"""Cohort tables against plain loops, other packages, and small maps whose answers are known."""

from __future__ import annotations

import itertools
import json
import math
from importlib.util import find_spec
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from histomix.cli.app import app
from histomix.cohort import (
    DEFINITIONS,
    TlsRule,
    cohort_tables,
    getis_ord,
    joins,
    map_rows,
    mixing,
    morisita_horn,
    shannon,
    write_cohort,
)
from histomix.cohort.clinical import patient_of, read_clinical
from histomix.cohort.lattice import neighbour_pairs
from histomix.common.words import RESEARCH_USE
from histomix.errors import InputError

from .conftest import manifest_of
from .extras import extra_module

TYPES = ["B", "T", "Tumour", "Stroma"]
RULE = TlsRule(("B",), ("T",))


def _map(
    values: np.ndarray,
    *,
    side: int,
    cell_um: float = 100.0,
    mpp: float = 0.5,
    positions: str = "grid",
    head: str = "h1",
) -> ad.AnnData:
    """A map on a square of ``side`` tiles; values (side * side, 4)."""
    row, column = np.divmod(np.arange(len(values)), side)
    cell_px = cell_um / mpp
    xy = np.stack([column + 0.5, row + 0.5], axis=1) * cell_px
    obs = pd.DataFrame(
        {
            "x_px": xy[:, 0], "y_px": xy[:, 1], "tissue": 1.0, "novelty": np.float32(0.5), "in_scope": True,
            "read_ok": np.isfinite(values).all(axis=1),
        },
        index=[f"{c}x{r}" for c, r in zip(column, row, strict=True)],
    )  # fmt: skip
    found = ad.AnnData(values.astype(np.float32), obs=obs, var=pd.DataFrame(index=TYPES))
    found.obsm["spatial"] = xy
    area = {"cells_per_map_cell": cell_um**2 / (math.pi / 4 * 55**2)}
    manifest = {
        "slide": {"mpp": mpp}, "places": positions, "cell_px": cell_px, "unit": "cells per spot",
        "head": {"digest": head},
        "area": area,
    }  # fmt: skip
    found.uns["manifest"] = json.dumps(manifest)
    return found


def _random(side: int = 9, seed: int = 0) -> ad.AnnData:
    return _map(np.random.default_rng(seed).gamma(0.7, 2, (side * side, 4)), side=side)


def _value(
    rows: list[dict] | pd.DataFrame, measure: str, a: str = "", b: str = "", level: str = "slide", part: str = ""
):
    table = pd.DataFrame(rows)
    found = table[
        (table["measure"] == measure) & (table["cell_type"] == a) & (table["other_type"] == b)
        & (table["level"] == level) & (table["part"] == part)
    ]  # fmt: skip
    assert len(found) == 1, f"{measure} {a} {b} {level} {part}: {len(found)} rows"
    return found["value"].iloc[0]


def _pairs_by_loop(side: int) -> list[tuple[int, int]]:
    found = []
    for row, column in itertools.product(range(side), range(side)):
        if column + 1 < side:
            found.append((row * side + column, row * side + column + 1))
        if row + 1 < side:
            found.append((row * side + column, (row + 1) * side + column))
    return sorted(found)


def test_neighbours_share_a_side() -> None:
    xy = np.array([(column, row) for row in range(7) for column in range(7)], float) * 200 + 31
    assert neighbour_pairs(xy, 200).tolist() == [list(pair) for pair in _pairs_by_loop(7)]
    hexagon = np.array([(0, 0), *[(math.cos(a), math.sin(a)) for a in np.arange(6) * math.pi / 3]])
    pairs = neighbour_pairs(hexagon, 1.0)
    assert len(pairs) == 12 and (pairs[:, 0] == 0).sum() == 6


def test_join_counts_and_their_expectation_are_those_of_counting_and_of_shuffling() -> None:
    rng = np.random.default_rng(0)
    dominant = rng.integers(0, 3, 36)
    pairs = np.array(_pairs_by_loop(6))
    observed, expected = joins(np.eye(3)[dominant], pairs)
    counted = np.zeros((3, 3))
    for i, j in pairs:
        a, b = sorted((dominant[i], dominant[j]))
        counted[a, b] += 1
    np.testing.assert_array_equal(np.triu(observed), counted)
    assert mixing(observed) == pytest.approx(np.mean([dominant[i] != dominant[j] for i, j in pairs]))
    shuffled = np.mean([np.triu(joins(np.eye(3)[rng.permutation(dominant)], pairs)[0]) for _ in range(4000)], axis=0)
    np.testing.assert_allclose(np.triu(expected), shuffled, atol=0.25)
    n = np.bincount(dominant)
    assert mixing(expected) == pytest.approx(1 - (n * (n - 1)).sum() / (36 * 35))


def test_joins_of_shares_are_the_sums_of_their_definition() -> None:
    rng = np.random.default_rng(1)
    shares = rng.dirichlet([0.5, 1, 2], 25)
    pairs = np.array(_pairs_by_loop(5))
    observed, expected = joins(shares, pairs)
    for a, b in itertools.combinations_with_replacement(range(3), 2):
        by_hand = sum(shares[i, a] * shares[j, b] + (shares[j, a] * shares[i, b] if a != b else 0) for i, j in pairs)
        assert observed[a, b] == pytest.approx(by_hand)
        ordered = [(i, j) for i in range(25) for j in range(25) if i != j]
        mean = np.mean([shares[i, a] * shares[j, b] for i, j in ordered])
        assert expected[a, b] == pytest.approx(len(pairs) * mean * (2 if a != b else 1))
    assert np.triu(observed).sum() == pytest.approx(len(pairs))


def test_the_join_counts_of_two_types_are_those_of_esda() -> None:
    esda, libpysal = extra_module("dev", "esda"), extra_module("dev", "libpysal")
    black = np.random.default_rng(2).integers(0, 2, 64)
    pairs = np.array(_pairs_by_loop(8))
    theirs = esda.Join_Counts(black, libpysal.weights.lat2W(8, 8), permutations=0)
    observed, _ = joins(np.eye(2)[black], pairs)
    assert (observed[1, 1], observed[0, 1], observed[0, 0]) == (theirs.bb, theirs.bw, theirs.ww)


def test_gi_star_is_that_of_esda() -> None:
    esda, libpysal = extra_module("dev", "esda"), extra_module("dev", "libpysal")
    values = np.random.default_rng(3).gamma(1, 1, 100)
    weights = libpysal.weights.fill_diagonal(libpysal.weights.lat2W(10, 10), 1.0)
    theirs = esda.G_Local(values, weights, transform="B", star=True, permutations=0)
    np.testing.assert_allclose(getis_ord(values, np.array(_pairs_by_loop(10))), theirs.Zs, rtol=1e-6)
    assert (getis_ord(np.ones(100), np.array(_pairs_by_loop(10))) == 0).all()


def test_morisita_horn_and_shannon_are_their_formulas() -> None:
    amounts = np.random.default_rng(4).gamma(0.5, 1, (30, 3))
    found = morisita_horn(amounts)
    for a, b in itertools.product(range(3), range(3)):
        x, y = amounts[:, a], amounts[:, b]
        simpson_x, simpson_y = (x**2).sum() / x.sum() ** 2, (y**2).sum() / y.sum() ** 2
        by_hand = 2 * (x * y).sum() / ((simpson_x + simpson_y) * x.sum() * y.sum())
        assert found[a, b] == pytest.approx(by_hand)
    apart = np.array([[1.0, 0], [0, 2]])
    np.testing.assert_allclose(morisita_horn(apart), np.eye(2))
    from scipy.stats import entropy

    assert shannon(amounts[0]) == pytest.approx(entropy(amounts[0]))
    assert shannon(np.array([3.0, 0, 0])) == 0


def test_composition_and_density_of_a_slide() -> None:
    composition = _random()
    composition.obs["tissue"] = np.linspace(0.5, 1, 81)
    composition.X[3] = np.nan
    composition.obs.loc[composition.obs_names[3], ["read_ok", "in_scope"]] = False
    composition.obs.loc[composition.obs_names[:8], "novelty"] = 0.999
    composition.obs.loc[composition.obs_names[:8], "in_scope"] = False
    rows = map_rows(composition, in_scope_only=False)
    ok = np.arange(81) != 3
    X = composition.X[ok].astype(float)
    for number, name in enumerate(TYPES):
        assert _value(rows, "proportion", name) == pytest.approx((X[:, number] / X.sum(axis=1)).mean())
        # Cells in a 55 um spot, times the 100 um cell of the map over the spot's area.
        cells = X[:, number].sum() * 100**2 / (math.pi * 27.5**2)
        area = composition.obs["tissue"].to_numpy()[ok].sum() * 0.01
        assert _value(rows, "cells", name) == pytest.approx(cells)
        assert _value(rows, "density", name) == pytest.approx(cells / area)
        assert _value(rows, "dominant_share", name) == pytest.approx((X.argmax(axis=1) == number).mean())
    assert _value(rows, "unreadable_share") == pytest.approx(1 / 81)
    assert _value(rows, "in_scope_share") == pytest.approx(1 - 7 / 80)
    assert _value(rows, "novel_share") == pytest.approx(7 / 80)
    assert _value(rows, "tissue_mm2") == pytest.approx(area)
    # Neighbours of a missing tile have no pair across it.
    assert _value(rows, "pairs") == 2 * 9 * 8 - 3
    # What is out of scope is in no number unless asked, and the mean of all stands beside it.
    strict = map_rows(composition)
    assert _value(strict, "tiles_used") == 73 and _value(strict, "in_scope_share") == pytest.approx(1 - 7 / 80)
    X = composition.X[8:].astype(float)
    for number, name in enumerate(TYPES):
        assert _value(strict, "proportion", name) == pytest.approx((X[:, number] / X.sum(axis=1)).mean())
        assert _value(strict, "proportion_all", name) == pytest.approx(_value(rows, "proportion", name))
    in_scope = composition.obs["tissue"].to_numpy()[8:].sum() * 0.01
    assert _value(strict, "in_scope_mm2") == pytest.approx(in_scope) == _value(rows, "in_scope_mm2")
    assert {row["measure"] for row in rows} <= set(DEFINITIONS)


def test_a_slide_out_of_scope_has_only_the_mean_of_all() -> None:
    composition = _random()
    composition.obs["in_scope"] = False
    composition.obs["fragment"] = np.where(np.arange(81) < 40, 1, 2)
    rows = map_rows(composition)
    assert _value(rows, "in_scope_mm2") == 0 and _value(rows, "in_scope_mm2", "", "", "fragment", "2") == 0
    measures = {row["measure"] for row in rows}
    assert {"proportion_all", "tiles"} <= measures and not {"proportion", "density", "mixing"} & measures
    X = composition.X[40:].astype(float)
    of_part = (X / X.sum(axis=1, keepdims=True)).mean(axis=0)
    assert _value(rows, "proportion_all", "T", "", "fragment", "2") == pytest.approx(of_part[1])


def _with_levels(unit: str = "proportion") -> ad.AnnData:
    composition = _random()
    composition.var["good_for"] = ["between slides", "within a slide only", "neither", "not known"]
    composition.var["slide_error"] = [0.05, 0.9, 0.01, np.nan]
    manifest = manifest_of(composition)
    if unit == "proportion":
        composition.X = composition.X / composition.X.sum(axis=1, keepdims=True)
        manifest |= {"unit": unit, "area": {"label_um2": None}}
    else:
        manifest["area"]["label_um2"] = 2500.0
    manifest["calibration"] = {"level": 0.9, "kind": "section", "n_donors": 1}
    composition.uns["manifest"] = json.dumps(manifest)
    return composition


def test_the_mean_of_a_slide_has_the_interval_of_its_head() -> None:
    composition = _with_levels()
    composition.obs["region"] = pd.Categorical(np.where(np.arange(81) < 40, "core", None))
    rows = map_rows(composition)
    mean = _value(rows, "proportion", "B")
    assert _value(rows, "proportion_low", "B") == pytest.approx(mean - 0.05)
    assert _value(rows, "proportion_high", "B") == pytest.approx(mean + 0.05)
    assert (_value(rows, "proportion_low", "T"), _value(rows, "proportion_high", "T")) == (0, 1)
    assert math.isnan(_value(rows, "proportion_low", "Stroma"))
    assert {row["level"] for row in rows if row["measure"] == "proportion_low"} == {"slide"}, "no region was held out"
    assert "proportion_shrunk" not in {row["measure"] for row in rows}, "its head does not say how far"
    counted = map_rows(_with_levels("cells per spot"))
    density = _value(counted, "density", "B")
    assert _value(counted, "density_high", "B") == pytest.approx(density + 0.05 * 1e6 / 2500)
    assert not [row for row in map_rows(_random()) if row["measure"].endswith(("_low", "_high"))]


@pytest.mark.parametrize("unit", ["proportion", "cells per spot"])
def test_the_mean_of_a_slide_is_drawn_to_the_training_mean_as_its_head_says(unit: str) -> None:
    composition = _with_levels(unit)
    composition.var["training_mean"] = [0.4, 0.2, 0.1, np.nan]
    composition.var["slope"] = [0.25, 0.0, 1.0, np.nan]
    composition.var["shrunk_error"] = [0.03, 0.5, 0.01, np.nan]
    rows = map_rows(composition)
    measure, scale = ("proportion", 1.0) if unit == "proportion" else ("density", 1e6 / 2500)
    mean = _value(rows, measure, "B")
    drawn = 0.4 * scale + 0.25 * (mean - 0.4 * scale)
    assert _value(rows, f"{measure}_shrunk", "B") == pytest.approx(drawn)
    assert _value(rows, f"{measure}_shrunk_low", "B") == pytest.approx(drawn - 0.03 * scale)
    assert _value(rows, f"{measure}_shrunk_high", "B") == pytest.approx(drawn + 0.03 * scale)
    assert (
        _value(rows, f"{measure}_shrunk", "T") == pytest.approx(0.2 * scale)
        and _value(rows, f"{measure}_shrunk_low", "T") == 0
    )
    assert _value(rows, f"{measure}_shrunk", "Tumour") == pytest.approx(_value(rows, measure, "Tumour"))
    assert math.isnan(_value(rows, f"{measure}_shrunk", "Stroma"))
    assert {row["measure"] for row in rows} <= set(DEFINITIONS)


def test_relative_abundances_are_neither_cells_nor_given_intervals_of_shares() -> None:
    composition = _with_levels("relative abundance")
    manifest = manifest_of(composition)
    del manifest["area"]  # a map of such a head has none
    composition.uns["manifest"] = json.dumps(manifest | {"unit": "relative abundance"})
    measures = {row["measure"] for row in map_rows(composition)}
    assert "proportion" in measures and not measures & {"cells", "density", "density_low", "proportion_low"}


def test_types_that_tell_nothing_are_left_out_unless_asked(tmp_path: Path) -> None:
    folder = tmp_path / "maps" / "S1"
    folder.mkdir(parents=True)
    _with_levels().write_h5ad(folder / "composition.h5ad")
    result = CliRunner().invoke(app, ["cohort", str(folder), "--out", str(tmp_path / "some"), "--json"])
    assert result.exit_code == 0, result.output
    tidy, slides = (pd.read_csv(tmp_path / "some" / f"{name}.csv") for name in ("cohort", "slides"))
    assert "Tumour" not in set(tidy["cell_type"]) | set(tidy["other_type"]) and "proportion:Tumour" not in slides
    words = tidy[tidy["measure"] == "proportion"].set_index("cell_type")["good_for"]
    assert words.to_dict() == {"B": "between slides", "T": "within a slide only", "Stroma": "not known"}
    manifest = json.loads((tmp_path / "some" / "manifest.json").read_text())
    assert manifest["left_out"] == ["Tumour"] and manifest["use"] == slides["use"][0] == RESEARCH_USE
    assert slides["calibrated_on"].tolist() == ["sections of one patient"]
    everything = cohort_tables([folder], all_types=True, progress=False)
    assert "proportion_high:Tumour" in everything.slides and everything.facts["left_out"] == []


def test_a_slide_out_of_scope_says_so_in_the_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    composition = _random()
    composition.obs["in_scope"] = np.arange(81) < 30
    tables = cohort_tables(composition, progress=False)
    (remark,) = tables.slides["remark"]
    assert remark.startswith("37 % of this slide") and "37 % of this slide" in caplog.text
    assert not any(name.split(":")[0] in ("proportion", "density", "mixing", "tls_like") for name in tables.slides)
    assert tables.slides["tiles_used"].tolist() == [0] and tables.slides["in_scope_mm2"].tolist() == [
        pytest.approx(0.3)
    ]
    assert "proportion_all:B" in tables.slides


def test_a_part_out_of_scope_has_no_composition_and_another_of_the_same_slide_has() -> None:
    composition = _random()
    first = np.arange(81) < 40
    composition.obs["fragment"] = np.where(first, 1, 2)
    composition.obs["in_scope"] = first
    rows = map_rows(composition, RULE)
    parts = {(row["level"], row["part"]) for row in rows if row["measure"] == "proportion"}
    assert parts == {("fragment", "1")}, "40 of the slide's 81 tiles are less than half"
    X = composition.X[first].astype(float)
    of_part = (X / X.sum(axis=1, keepdims=True)).mean(axis=0)
    assert _value(rows, "proportion", "B", "", "fragment", "1") == pytest.approx(of_part[0])
    assert _value(rows, "tiles_used", level="fragment", part="2") == 0
    everything = map_rows(composition, RULE, in_scope_only=False)
    assert _value(everything, "tiles_used") == 81 and {row["level"] for row in everything} == {"slide", "fragment"}
    composition.obs["in_scope"] = np.arange(81) < 41
    assert _value(map_rows(composition), "tiles_used") == 41


def test_answered_tiles_are_counted_with_the_rate_at_which_answers_miss(tmp_path: Path) -> None:
    composition = _random()
    answer = np.repeat(["Lymphoid", "B", "not told", "Lymphoid", "out of scope"], [20, 10, 31, 15, 5])
    composition.obs["answer"] = pd.Categorical(answer)
    composition.obs["answer_lower"] = composition.obs["answer_upper"] = 0.5
    composition.obs["in_scope"] = answer != "out of scope"
    composition.obs["fragment"] = np.where(np.arange(81) < 30, 1, 2)
    manifest = manifest_of(composition)
    manifest["answers"] = {"parents": {"B": "Lymphoid", "T": "Lymphoid"}, "fdr": 0.1, "statement": "One in ten misses."}
    composition.uns["manifest"] = json.dumps(manifest)
    rows = map_rows(composition)
    assert _value(rows, "answered_share") == pytest.approx(45 / 76)
    assert _value(rows, "answered_share", level="fragment", part="1") == 1
    tables = cohort_tables(composition, tmp_path, progress=False)
    assert tables.slides["answered_share"].tolist() == [pytest.approx(45 / 76)]
    about = json.loads((tmp_path / "manifest.json").read_text())["answers"]
    assert about == {"fdr": 0.1, "statement": "One in ten misses."}
    assert cohort_tables(_random(), progress=False).facts["answers"] == {}


def test_a_checkerboard_is_mixed_and_two_halves_are_not() -> None:
    side = 10
    row, column = np.divmod(np.arange(side * side), side)
    board, halves = (row + column) % 2, (column >= 5).astype(int)
    for dominant, share, joined in ((board, 1.0, 180), (halves, 10 / 180, 10)):
        rows = map_rows(_map(np.eye(4)[2 + dominant] * 5, side=side))
        assert _value(rows, "mixing") == pytest.approx(share)
        assert _value(rows, "mixing_expected") == pytest.approx(1 - 2 * 50 * 49 / (100 * 99))
        assert _value(rows, "joins", "Tumour", "Stroma") == joined
        assert _value(rows, "interface", "Tumour", "Stroma") == pytest.approx(joined * 0.1 / 1.0)  # mm per mm2
        expected = _value(rows, "joins_expected", "Tumour", "Stroma")
        assert _value(rows, "contact_ratio", "Tumour", "Stroma") == pytest.approx(joined / expected)


def test_pieces_and_regions_are_slides_of_their_own() -> None:
    values = np.random.default_rng(5).gamma(0.7, 2, (64, 4))
    whole = _map(values, side=8)
    left = whole.obsm["spatial"][:, 0] < 4 * 200
    whole.obs["fragment"] = np.where(left, 1, 2)
    whole.obs["region"] = pd.Categorical(np.where(left, "core", None))
    rows = map_rows(whole, RULE)
    alone = map_rows(whole[left].copy())
    for level, part in (("fragment", "1"), ("region", "core")):
        for measure, a, b in (
            ("proportion", "B", ""),
            ("mixing", "", ""),
            ("contact_ratio", "B", "T"),
            ("pairs", "", ""),
        ):
            assert _value(rows, measure, a, b, level, part) == pytest.approx(_value(alone, measure, a, b))
    assert {(row["level"], row["part"]) for row in rows} == {
        ("slide", ""), ("fragment", "1"), ("fragment", "2"), ("region", "core")
    }  # fmt: skip


def _with_follicle(b_share: float = 0.5) -> ad.AnnData:
    """20 x 20 tiles of tumour with a 3 x 3 and a 1 x 1 area of B and T cells, and a T zone without B cells."""
    side = 20
    values = np.tile([0.0, 0.05, 0.75, 0.2], (side * side, 1)).reshape(side, side, 4)
    mixed = [b_share, 0.35, 0.05, 0.1]
    values[4:7, 4:7] = mixed
    values[14, 14] = mixed
    values[10:13, 2:5] = [0.0, 0.9, 0.05, 0.05]
    return _map(values.reshape(-1, 4), side=side)


def test_tls_like_hot_spots_are_where_b_and_t_cells_are_together() -> None:
    rows = map_rows(_with_follicle(), RULE)
    # T cells alone are none, and neither is a single tile amid tumour.
    assert _value(rows, "tls_like") == 1
    assert _value(rows, "tls_like_mm2") == pytest.approx(0.09)
    assert _value(rows, "tls_like_largest_mm2") == pytest.approx(0.09)
    assert _value(rows, "tls_like_share") == pytest.approx(0.09 / 4)
    assert _value(rows, "tls_like_density") == pytest.approx(1 / 4)
    both = map_rows(_with_follicle(), TlsRule(("B",), ("T",), min_z=0.5, min_area_mm2=0.01))
    assert _value(both, "tls_like") == 2
    # The hottest place of a slide without B cells is none.
    assert _value(map_rows(_with_follicle(0.01), RULE), "tls_like") == 0
    assert not [row for row in map_rows(_with_follicle()) if row["measure"].startswith("tls")]


@pytest.mark.parametrize(
    ("around", "within", "count"),
    [
        ([0.0, 0.3, 0.5, 0.2], [0.5, 0.3, 0.1, 0.1], 0),  # B cells where T cells are as many as everywhere
        ([0.3, 0.0, 0.5, 0.2], [0.3, 0.5, 0.1, 0.1], 0),  # and the other way round
        ([0.0, 0.0, 0.8, 0.2], [0.1, 0.05, 0.65, 0.2], 0),  # hot for both on a slide that has hardly any
        ([0.0, 0.0, 0.8, 0.2], [0.04, 0.4, 0.46, 0.1], 0),  # too few B cells
        ([0.0, 0.0, 0.8, 0.2], [0.1, 0.15, 0.55, 0.2], 1),
    ],
)
def test_a_hot_spot_is_hot_for_both_lineages_and_has_enough_of_them(
    around: list[float], within: list[float], count: int
) -> None:
    values = np.tile(around, (20, 20, 1))
    values[4:7, 4:7] = within
    assert _value(map_rows(_map(values.reshape(-1, 4), side=20), RULE), "tls_like") == count


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (TlsRule(("B cells",), ("T",)), "B cells of the B lineage is no cell type"),
        (TlsRule(("B",), ()), "no cell type is declared to be of the T lineage"),
        (TlsRule(("B",), ("B", "T")), "cannot be of both"),
    ],
)
def test_lineages_are_checked(rule: TlsRule, words: str) -> None:
    with pytest.raises(InputError, match=words):
        map_rows(_random(), rule)


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    for number, name in enumerate(("P1-a", "P1-b", "P12-a")):
        folder = tmp_path / "maps" / name
        folder.mkdir(parents=True)
        (_with_follicle() if number == 0 else _random(20, number)).write_h5ad(folder / "composition.h5ad")
    return tmp_path / "maps"


def test_a_clinical_table_joins_by_slide_or_by_patient(maps: Path, tmp_path: Path) -> None:
    by_patient = tmp_path / "patients.csv"
    by_patient.write_text("Patient ID,stage,mixing\nP1,II,9\nP12,III,8\nP3,I,7\n")
    tables = cohort_tables([maps], clinical=by_patient, rule=RULE)
    slides = tables.slides.set_index("slide")
    assert slides["patient"].to_dict() == {"P1-a": "P1", "P1-b": "P1", "P12-a": "P12"}
    assert slides["stage"].tolist() == ["II", "II", "III"]
    assert slides["clinical_mixing"].tolist() == [9, 9, 8]
    assert slides.loc["P1-a", "tls_like"] == 1
    assert slides.loc["P1-b", "joins:B:T"] == _value(map_rows(_random(20, 1)), "joins", "B", "T")
    assert tables.facts["clinical_without_slide"] == ["P3"]
    of_a_portal = tmp_path / "clinical.tsv"  # its case_id is no part of a slide's name
    of_a_portal.write_text("case_id\tcase_submitter_id\tstage\n0f1e\tP1\tII\n9a8b\tP12\tIII\n")
    tables = cohort_tables([maps], clinical=of_a_portal)
    assert tables.slides.set_index("slide")["stage"].to_dict() == {"P1-a": "II", "P1-b": "II", "P12-a": "III"}
    by_slide = tmp_path / "slides.tsv"
    by_slide.write_text("slide\tage\nP1-b.svs\t71\nP12-a\t52\n")
    tables = cohort_tables([maps], clinical=by_slide)
    assert tables.slides["age"].tolist()[1:] == [71, 52] and math.isnan(tables.slides["age"][0])
    assert tables.facts["slides_without_clinical"] == ["P1-a"]


def test_the_sheet_of_the_prediction_knows_the_patient_best(maps: Path, tmp_path: Path) -> None:
    status = {"state": "done", "name": "P1-a", "facts": {"Patient": "Q9"}}
    (maps / "P1-a" / "status.json").write_text(json.dumps(status))
    tables = cohort_tables([maps])
    assert tables.slides["patient"].tolist() == ["Q9", "", ""]
    tables = cohort_tables([maps], patient_pattern=r"^(P\d+)-")
    assert tables.slides["patient"].tolist() == ["P1", "P1", "P12"]
    assert patient_of("TCGA-A1-X.svs", ["TCGA-A", "TCGA-A1"], None) == "TCGA-A1"


def test_rows_of_files_of_one_name_are_no_rows_of_a_slide(maps: Path, tmp_path: Path) -> None:
    (tmp_path / "clinical.csv").write_text("slide,age\nP1-a.svs,71\nP1-a.tif,40\nP1-b.rescan,9\nP12-a,52\n")
    ages = cohort_tables([maps], clinical=tmp_path / "clinical.csv").slides.set_index("slide")["age"]
    assert ages.dropna().to_dict() == {"P12-a": 52}


def test_rows_without_an_id_are_told_and_ids_stay_what_they_are(
    maps: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "clinical.csv").write_text("patient,age\nP1,71\nNA,40\n,30\nP12,52\n")
    assert cohort_tables([maps], clinical=tmp_path / "clinical.csv").slides["age"].tolist() == [71, 71, 52]
    assert "2 rows without a patient left out" in caplog.text
    extra_module("st", "pyarrow")
    pd.DataFrame({"patient": [7.0, np.nan], "age": [3, 4]}).to_parquet(tmp_path / "clinical.parquet")
    assert read_clinical(tmp_path / "clinical.parquet").ids == ["7"]


def test_another_patient_than_the_prediction_was_told_is_remarked(
    maps: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    status = {"state": "done", "name": "P1-a", "facts": {"patient": "Q9"}}
    (maps / "P1-a" / "status.json").write_text(json.dumps(status))
    clinical = tmp_path / "clinical.csv"
    for patient, told in (("q9", False), ("P1", True)):
        clinical.write_text(f"slide,patient,age\nP1-a,{patient},71\nP12-a,P12,52\n")
        caplog.clear()
        cohort_tables([maps], clinical=clinical)
        assert ("another patient for 1 slide" in caplog.text) == told


def test_two_maps_of_one_slide_are_remarked(maps: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("P1-a", "P1-b"):
        place = maps / name / "composition.h5ad"
        adata = ad.read_h5ad(place)
        manifest = json.loads(adata.uns["manifest"])
        manifest["slide"] = {**manifest.get("slide", {}), "fingerprint": "sha256:same"}
        adata.uns["manifest"] = json.dumps(manifest)
        adata.write_h5ad(place)
    cohort_tables([maps])
    assert "P1-a and P1-b are maps of one slide" in caplog.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("who,age\nP1,3\n", "names no slides and no patients"),
        ("slide,age\nP1-a,3\nP1-a,4\n", "names slide P1-a in several rows"),
        ("slide,age\nX,3\n", "none of the 3 slides"),
        ("patient,age\nX,3\n", "--patient-pattern"),
    ],
)
def test_clinical_tables_that_fit_nothing_are_refused(maps: Path, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "clinical.csv").write_text(text)
    with pytest.raises(InputError) as raised:
        cohort_tables([maps], clinical=tmp_path / "clinical.csv")
    assert words in str(raised.value)


def test_maps_that_do_not_compare_are_refused(maps: Path) -> None:
    (maps / "P2").mkdir()
    _map(np.ones((4, 4)), side=2, head="h2").write_h5ad(maps / "P2" / "composition.h5ad")
    with pytest.raises(InputError, match="2 heads"):
        cohort_tables([maps])


def test_maps_with_cells_of_other_sizes_are_remarked(maps: Path, caplog: pytest.LogCaptureFixture) -> None:
    (maps / "P2").mkdir()
    _map(np.ones((4, 4)), side=2, cell_um=50).write_h5ad(maps / "P2" / "composition.h5ad")
    assert cohort_tables([maps]).facts["cell_um"] == [50, 100]
    assert "do not compare" in caplog.text


def test_the_verb_writes_tables_that_read_back_and_names_broken_maps(maps: Path, tmp_path: Path) -> None:
    (maps / "broken").mkdir()
    (maps / "broken" / "composition.h5ad").write_bytes(b"nothing")
    out = tmp_path / "out"
    command = ["cohort", str(maps), "--out", str(out), "--b-cells", "B", "--t-cells", "T", "--json"]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 1
    answer = json.loads(ran.stdout)
    assert answer["slides"] == 3 and "broken" in answer["failures"][0]
    tidy = pd.read_csv(out / "cohort.csv", keep_default_na=False, dtype={"part": str})
    if find_spec("pyarrow") is not None:
        same = pd.read_parquet(out / "cohort.parquet")
        assert list(tidy.columns) == list(same.columns) and len(tidy) == len(same)
        np.testing.assert_allclose(tidy["value"].astype(float), same["value"], rtol=1e-6)
    assert not tidy.duplicated(["slide", "level", "part", "measure", "cell_type", "other_type"]).any()
    assert set(tidy["unit"]) == {DEFINITIONS[name][0] for name in tidy["measure"]}
    spots = pd.read_csv(out / "tls_like.csv")
    first = spots[spots["slide"] == "P1-a"].iloc[0]
    assert (first["x_px"], first["y_px"]) == pytest.approx((5.5 * 200, 5.5 * 200))
    assert first["b_share"] == pytest.approx(0.5)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["measures"]["mixing"]["what"] and manifest["tls_like"]["b_types"] == ["B"]
    again = write_cohort(cohort_tables([maps], rule=RULE), tmp_path / "again")
    assert again["cohort"].read_bytes() == (out / "cohort.csv").read_bytes()
    assert CliRunner().invoke(app, ["cohort", str(tmp_path / "none"), "--out", str(out)]).exit_code == 2
