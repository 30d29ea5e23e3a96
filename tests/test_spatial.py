"""Spatial patterns: Moran's I and R against esda, the permutation null, domains and regions."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import histomix as hm
from histomix.cli.app import app
from histomix.common.geometry.pitch import nearest_pitch
from histomix.common.geometry.toroidal_null import random_shifts
from histomix.errors import InputError
from histomix.evaluation import Evaluation
from histomix.evaluation.measured.read_regions import read_regions, read_section_regions
from histomix.evaluation.spatial import null as spatial_null
from histomix.evaluation.spatial.domains import best_domains, choose_domains, composition_domains, partition_agreement
from histomix.evaluation.spatial.moran import adjusted, colocalisation, moran, off_diagonal, spatial_weights
from histomix.evaluation.spatial.null import compare_colocalisation
from histomix.evaluation.spatial.summary import spatial_summary

from .conftest import Job
from .extras import extra_module


def _lattice(rows: int, columns: int, pitch: float = 100.0) -> np.ndarray:
    """A hexagonal lattice, as of Visium."""
    row, column = np.mgrid[:rows, :columns]
    x = (column + (row % 2) / 2) * pitch
    return np.stack([x, row * pitch * np.sqrt(3) / 2], axis=-1).reshape(-1, 2)


def _patchy(xy: np.ndarray, types: int, seed: int, scale: float = 250.0) -> np.ndarray:
    """Abundances that vary smoothly over the section."""
    rng = np.random.default_rng(seed)
    distance = np.hypot(*(xy[:, None] - xy[None]).T)
    field = np.exp(-0.5 * (distance / scale) ** 2) @ rng.normal(size=(len(xy), types))
    return np.exp(field / field.std(axis=0))


XY = _lattice(12, 11)
VALUES = _patchy(XY, 6, 1)


@pytest.mark.parametrize(("kernel", "radius"), [("gaussian", 80.0), ("band", 210.0)])
def test_moran_is_that_of_esda(kernel: str, radius: float) -> None:
    esda = extra_module("dev", "esda")
    weights = spatial_weights(XY, radius, kernel)
    w = _pysal(weights)
    found = moran(VALUES, weights)
    expected = [esda.Moran(VALUES[:, one], w, transformation="o", permutations=0).I for one in range(6)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
    both = colocalisation(VALUES, weights, adjust="none")
    for a in range(6):
        for b in range(6):
            pair = esda.Moran_BV(VALUES[:, a], VALUES[:, b], w, transformation="o", permutations=0).I
            assert both[a, b] == pytest.approx(pair, abs=1e-8)


def _pysal(weights):
    return extra_module("dev", "libpysal.weights").WSP(weights.matrix).to_W(silence_warnings=True)


def test_the_weights_are_those_of_the_distances_in_um() -> None:
    weights = spatial_weights(XY, 80.0)
    distance = np.hypot(*(XY[:, None] - XY[None]).T)
    expected = np.where((distance <= 240) & (distance > 0), np.exp(-0.5 * (distance / 80) ** 2), 0.0)
    np.testing.assert_allclose(weights.matrix.toarray(), expected * len(XY) / expected.sum(), atol=1e-12)
    band = spatial_weights(XY, 100.5, "band").matrix.toarray()
    assert (band > 0).sum(axis=1).max() == 6 and np.unique(band[band > 0]).size == 1
    assert nearest_pitch(XY) == pytest.approx(100.0)
    far = spatial_weights(XY * 100, 80.0)
    assert far.alone == len(XY) and np.isnan(moran(VALUES, far)).all()


def test_totals_are_taken_out() -> None:
    rng = np.random.default_rng(0)
    depth = _patchy(XY, 1, 9)
    independent = rng.gamma(2.0, size=(len(XY), 6)) * depth
    weights = spatial_weights(XY, 100.0)
    raw = off_diagonal(colocalisation(independent, weights, "none"))
    for how in ("share", "residual"):
        out = off_diagonal(colocalisation(independent, weights, how))
        assert raw.min() > 0.05 and abs(out).max() < 0.6 * raw.min(), how
    total = independent.sum(axis=1)
    slopes = [np.polyfit(total, column, 1) for column in independent.T]
    expected = np.stack([y - np.polyval(s, total) for y, s in zip(independent.T, slopes, strict=True)], axis=1)
    found = adjusted(independent, "residual")
    np.testing.assert_allclose(found - found.mean(axis=0), expected, atol=1e-10)
    shares = adjusted(np.vstack([independent, np.zeros((1, 6))]), "share")
    np.testing.assert_allclose(shares[:-1], independent / total[:, None])
    np.testing.assert_allclose(shares[-1], shares[:-1].mean(axis=0))
    proportions = VALUES / VALUES.sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(adjusted(proportions, "residual"), proportions)


def test_a_shift_keeps_the_patches_and_moves_them() -> None:
    weights = spatial_weights(XY, 100.0)
    maps = np.stack([*random_shifts(XY, 40, seed=3)])
    np.testing.assert_array_equal(maps, [*random_shifts(XY, 40, seed=3)])
    kept = np.mean([moran(VALUES[one], weights) for one in maps], axis=0) / moran(VALUES, weights)
    scrambled = moran(VALUES[np.random.default_rng(0).permutation(len(XY))], weights) / moran(VALUES, weights)
    assert (kept > 0.65).all() and (abs(scrambled) < 0.2).all()
    alike = [np.corrcoef(VALUES[one, 0], VALUES[:, 0])[0, 1] for one in maps]
    assert abs(np.mean(alike)) < 0.2


def test_a_shift_is_a_rigid_motion_on_the_torus_and_all_mirror_images_come() -> None:
    grid = np.stack(np.mgrid[:5, :4], axis=-1).reshape(-1, 2).astype(float)
    turned: Counter[tuple[int, ...]] = Counter()
    first: Counter[int] = Counter()
    for source in random_shifts(grid, 400, seed=1):
        # Neighbours stay neighbours in each of the two directions, whether they keep their order or turn it.
        x, y = grid[source].T.reshape(2, 5, 4)
        steps = (np.diff(x, axis=0, append=x[:1]) % 5, np.diff(y, axis=1, append=y[:, :1]) % 4)
        assert all((step == step.flat[0]).all() for step in steps)
        turned[tuple(int(step.flat[0]) for step in steps)] += 1
        first[int(source[0])] += 1
    # As often one as the other, and from each spot to each: 100 and 20 times, give or take four standard deviations.
    assert set(turned) == {(1, 1), (1, 3), (4, 1), (4, 3)} and all(65 < count < 135 for count in turned.values())
    assert len(first) == 20 and all(2 < count < 38 for count in first.values())
    assert next(iter(random_shifts(np.zeros((3, 2)), 1))).shape == (3,)  # all in one place
    # Wherever the spots lie and in whatever unit.
    here = [*random_shifts(grid, 20, seed=1)]
    for scale in (0.01, 300.0):
        np.testing.assert_array_equal(here, [*random_shifts(grid * scale + (40, -7), 20, seed=1)])


@pytest.mark.parametrize("layout", ["lattice", "holes", "anywhere", "two rows", "one place"])
def test_each_spot_takes_the_value_that_comes_to_lie_nearest(layout: str) -> None:
    """All distances on the torus are looked at, for many motions (a raster of candidates) and for few (a tree)."""
    rng = np.random.default_rng(0)
    row, column = np.divmod(np.arange(360), 20)
    lattice = np.stack([100.0 * column + 50 * (row % 2), 86.6 * row], axis=1)
    xy = {
        "lattice": lattice,
        "holes": lattice[(np.hypot(*(lattice - 800).T) > 400) & (rng.random(360) > 0.1)],
        "anywhere": 2000 * rng.random((200, 2)),
        "two rows": lattice[:40],
        "one place": np.zeros((9, 2)),
    }[layout]
    many, few = ([*random_shifts(xy, count, seed=4)] for count in (120, 12))
    np.testing.assert_array_equal(many[:12], few)
    generator = np.random.default_rng(4)
    at, pitch = xy - xy.min(axis=0), nearest_pitch(xy)
    box = np.ptp(xy, axis=0) + (pitch or 1.0)
    for source in many:
        mirror, shift = generator.integers(2, size=2).astype(bool), generator.random(2) * box
        gap = np.abs((np.where(mirror, -at, at) + shift)[:, None] - at[None]) % box
        distance = np.hypot(*np.moveaxis(np.minimum(gap, box - gap), -1, 0))
        np.testing.assert_allclose(distance[np.arange(len(xy)), source], distance.min(axis=1), rtol=1e-9, atol=1e-6)


def test_agreement_is_found_where_it_is_and_not_where_it_is_not() -> None:
    weights = spatial_weights(XY, 100.0)
    rng = np.random.default_rng(4)
    good = VALUES * np.exp(0.4 * rng.normal(size=VALUES.shape))
    found = compare_colocalisation(VALUES, good, XY, weights, n_permutations=99)
    expected = np.corrcoef(off_diagonal(colocalisation(VALUES, weights)), off_diagonal(colocalisation(good, weights)))[
        0, 1
    ]
    assert found.correlation == pytest.approx(expected, abs=1e-12)
    assert found.p <= 0.05 and found.n_pairs == 15 and found.n_permutations == 99
    # Shares are tied to each other by their sum: maps that know nothing of each other agree too, and the null says so.
    assert found.patchiness_kept > 0.7 and 0.2 < found.null_mean < found.correlation - 2 * found.null_sd
    again = compare_colocalisation(VALUES, good, XY, weights, n_permutations=99)
    assert again.p == found.p and again.null_mean == found.null_mean
    constant = compare_colocalisation(VALUES, np.ones_like(VALUES), XY, weights)
    assert constant.correlation == 0.0 and np.isnan(constant.p)


@pytest.mark.parametrize("adjust", ["share", "residual", "none"])
def test_a_draw_of_the_null_is_the_matrix_of_shifted_maps(adjust: str) -> None:
    weights = spatial_weights(XY, 100.0)
    values = VALUES.copy()
    values[5] = 0.0
    maps = np.stack([*random_shifts(XY, 6, seed=2)])
    chosen = np.array([np.arange(6), np.arange(6)[::-1]])
    found = spatial_null._Null(values, weights, adjust).draws(maps, chosen)
    for matrix, numbers in zip(found, chosen, strict=True):
        moved = np.stack([values[maps[source], one] for one, source in enumerate(numbers)], axis=1)
        np.testing.assert_allclose(matrix, colocalisation(moved, weights, adjust), atol=1e-5)


def test_the_null_holds_its_level() -> None:
    """Maps that know the mean abundances but not the places are called significant as often as the level says."""
    weights = spatial_weights(XY, 100.0)
    maps = np.stack([*random_shifts(XY, 128, seed=0)])
    ps = []
    for seed in range(120):
        scale = np.random.default_rng(seed).gamma(0.7, size=6) + 0.02
        a, b = (_patchy(XY, 6, 1000 * part + seed) * scale for part in (1, 2))
        ps.append(compare_colocalisation(a, b, XY, weights, n_permutations=39, seed=seed, shifts=maps).p)
    # Of 120 draws at a level of 0.1, more than 22 come in 1 of 1000 cases.
    assert np.mean(np.array(ps) <= 0.1) <= 22 / 120
    assert 0.4 < np.mean(ps) < 0.65


def test_domains_are_those_that_were_planted() -> None:
    rng = np.random.default_rng(0)
    planted = np.repeat([0, 1, 2], 60)
    values = rng.gamma(4.0, size=(180, 5)) + 30 * np.eye(5)[planted]
    assert choose_domains(values) == 3
    assert partition_agreement(composition_domains(values, 3), planted) > 0.95
    assert abs(partition_agreement(composition_domains(values, 3), rng.permutation(planted))) < 0.1
    assert set(composition_domains(np.ones((20, 4)), 3)) == {0}
    assert np.isnan(partition_agreement(planted, np.zeros(180)))
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    # Starts drawn from distances that are known are those of scikit-learn, small and large.
    for part in (values, rng.gamma(0.3, size=(500, 12)), rng.gamma(0.3, size=(1100, 4))):
        points = np.sqrt(part / part.sum(axis=1, keepdims=True))
        for count in (2, 5):
            theirs = KMeans(count, n_init=10, random_state=7).fit_predict(points)
            np.testing.assert_array_equal(composition_domains(part, count, seed=7), theirs)
    assert best_domains(values)[0] == 3
    np.testing.assert_array_equal(best_domains(values)[1], composition_domains(values, 3))
    other = composition_domains(values, 5, seed=2)
    assert partition_agreement(other, planted) == adjusted_rand_score(planted, other)


@pytest.fixture(scope="module")
def scores(job: Job) -> Evaluation:
    cohort = hm.read_cohort(job.sheet)
    return hm.evaluate(cohort, hm.read_features(job.features), hm.read_labels(job.labels), heads=["ridge"])


def test_the_summary_has_every_head_section_and_type(scores: Evaluation, tmp_path: Path) -> None:
    assert set(scores.summary["sections_mpp"].values()) == {0.5}
    found = spatial_summary(scores, n_permutations=19)
    sections, types = scores.summary["sections"], scores.summary["cell_types"]
    assert found["radius_um"] == pytest.approx(100.0, abs=1.0)
    assert {(r["section"], r["head"]) for r in found["domains"]} == {
        (s, h) for s in sections for h in ("mean", "ridge")
    }
    assert {r["cell_type"] for r in found["moran"]} == set(types)
    row = next(r for r in found["moran"] if r["head"] == "ridge" and r["label"] is not None)
    name, place = row["section"], types.index(row["cell_type"])
    xy = scores.positions[name].to_numpy() * 0.5
    expected = moran(scores.predictions["ridge"][name].to_numpy(), spatial_weights(xy, found["radius_um"]))[place]
    assert row["prediction"] == pytest.approx(expected)
    mean = [r for r in found["colocalisation"] if r["head"] == "mean"]
    assert all(r["correlation"] == 0.0 and r["p"] is None for r in mean)
    assert all(r["ari_label"] == 0.0 for r in found["domains"] if r["head"] == "mean")
    one = next(r for r in found["colocalisation"] if r["head"] == "ridge")
    assert np.shape(one["label"]) == np.shape(one["prediction"]) == (len(types), len(types))
    assert 0 < one["p"] <= 1 and -1 <= one["correlation"] <= 1
    score = found["scores"]["ridge"]["colocalisation"]
    values = [r["correlation"] for r in found["colocalisation"] if r["head"] == "ridge"]
    assert score["mean"] == pytest.approx(np.mean(values)) and score["n_sections"] == len(sections)
    words = dataclasses.replace(scores, summary={**scores.summary, "spatial": found}).text()
    assert "space, weights of 100 um" in words and f"co-localisation {score['mean']:.2f} (" in words
    assert words.count("by chance") == 1, "a constant has no line"
    text = json.dumps(found, allow_nan=False)
    assert json.dumps(spatial_summary(scores, n_permutations=19), allow_nan=False) == text


def test_regions_stand_beside_the_domains(scores: Evaluation, tmp_path: Path) -> None:
    name = scores.summary["sections"][0]
    labels = scores.labels[name]
    regions = composition_domains(labels.to_numpy(), 3)
    table = pd.DataFrame({"spot": labels.index, "region": [f"region {one}" for one in regions]})
    table.loc[0, "region"] = "undetermined"
    table.to_csv(tmp_path / f"{name}_regions.csv", index=False)
    rows = spatial_summary(scores, n_permutations=0, regions=tmp_path)["domains"]
    mine = [r for r in rows if r["section"] == name]
    assert all(r["n_domains"] == 3 and r["ari_regions"] == 1.0 and r["n_region_spots"] == len(labels) - 1 for r in mine)
    assert all(r["ari_prediction"] is None for r in rows if r["section"] != name)


def test_what_cannot_be_measured_is_refused(scores: Evaluation, tmp_path: Path) -> None:
    unscaled = dataclasses.replace(scores, summary={**scores.summary, "sections_mpp": {}})
    with pytest.raises(InputError, match="um per px"):
        spatial_summary(unscaled)
    name = scores.summary["sections"][0]
    assert spatial_summary(unscaled, n_permutations=0, sections_mpp=dict.fromkeys(scores.labels, 0.5))["moran"]
    for options, message in (
        ({"radius_um": -1.0}, "length scale"),
        ({"kernel": "cone"}, "no kernel 'cone'"),
        ({"adjust": "log"}, "no adjustment 'log'"),
        ({"regions": tmp_path / "none"}, "no such file"),
        ({"regions": tmp_path}, "no file that begins"),
    ):
        with pytest.raises(InputError, match=message):
            spatial_summary(scores, n_permutations=0, **options)
    few = {one: table.iloc[:10] for one, table in scores.labels.items()}
    with pytest.raises(InputError, match="too few"):
        spatial_summary(dataclasses.replace(scores, labels=few))
    assert name


def test_polygons_with_holes(tmp_path: Path) -> None:
    square = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]
    hole = [[40, 40], [60, 40], [60, 60], [40, 60], [40, 40]]
    island = [[[200, 200], [220, 200], [220, 220], [200, 220], [200, 200]]]
    features = [
        _feature("tumour", "MultiPolygon", [[square, hole], island]),
        {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}, "properties": {}},
    ]
    path = tmp_path / "regions.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    keys = pd.Index(["in", "hole", "island", "out"])
    xy = np.array([[10.0, 10.0], [50.0, 50.0], [210.0, 210.0], [150.0, 150.0]])
    assert read_regions(path).at(keys, xy).tolist() == ["tumour", None, "tumour", None]
    moved = read_regions(path).at(keys, xy + np.array([7, 9]), bounds_px=(7, 9))
    assert moved.tolist() == ["tumour", None, "tumour", None]
    with pytest.raises(InputError, match="lies in a region"):
        read_regions(path).at(keys, xy + 1e6)
    path.write_text("{")
    with pytest.raises(InputError, match="JSON"):
        read_regions(path)
    path.write_text("[]")
    with pytest.raises(InputError, match="no polygon"):
        read_regions(path)


def _feature(name: str, kind: str, coordinates: list) -> dict:
    properties = {"classification": {"name": name}}
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


def test_tables_of_regions_by_place_and_by_key(tmp_path: Path) -> None:
    path = tmp_path / "P1.tsv"
    pd.DataFrame({"x_px": [10.0, 50.0], "y_px": [10.0, 50.0], "annotation": ["a", "b"]}).to_csv(path, sep="\t")
    keys, xy = pd.Index(["p", "q", "r"]), np.array([[11.0, 10.0], [50.0, 49.0], [90.0, 90.0]])
    assert read_regions(path).at(keys, xy, reach_px=5).tolist() == ["a", "b", None]
    pd.DataFrame({"x": [9.004, 8.98], "y": [26.9, 17.1], "label": ["a", "b"]}).to_csv(path, sep="\t", index=False)
    assert read_regions(path).at(pd.Index(["9x27", "9x17", "1x1"]), xy).tolist() == ["a", "b", None]
    pd.DataFrame({"x": [1], "y": [2]}).to_csv(path, sep="\t")
    with pytest.raises(InputError, match="no column of regions"):
        read_regions(path)
    with pytest.raises(InputError, match="none of the sections"):
        read_section_regions(path, ["Q1", "Q2"])


def test_the_pathologists_regions_of_her2st(data_dir: Path) -> None:
    folder = data_dir / "her2st" / "pathologist"
    found = read_section_regions(folder, ["B1", "C1", "D1", "E1", "F1", "G2"])
    assert set(found) == {"B1", "C1", "D1", "E1", "F1", "G2"}
    spots = hm.spots.read_spots(data_dir / "her2st" / "spots" / "C1_selection.tsv")
    names = found["C1"].at(spots.index, spots.to_numpy())
    named = [name for name in names if name is not None]
    assert len(named) > 100 and {"invasive cancer", "connective tissue"} <= set(named)


def test_the_verb_writes_the_spatial_scores(job: Job, tmp_path: Path) -> None:
    labels = hm.read_labels(job.labels)
    regions = tmp_path / "regions"
    regions.mkdir()
    name, table = next(iter(labels.items()))
    named = np.where(table.values.iloc[:, 0] > table.values.iloc[:, 0].median(), "tumour", "stroma")
    pd.DataFrame({"spot": table.values.index, "region": named}).to_csv(regions / f"{name}.tsv", sep="\t", index=False)
    arguments = ["evaluate", str(job.sheet), "--features", str(job.features), "--labels", str(job.labels)]
    arguments += ["--heads", "ridge", "--no-nuclei", "--quiet", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--regions", str(regions), "--radius-um", "150"])
    assert result.exit_code == 0, result.output
    spatial = json.loads((tmp_path / "out" / "summary.json").read_text())["spatial"]
    assert spatial["radius_um"] == 150 and {one["radius_um"] for one in spatial["colocalisation"]} == {150}
    with_regions = {one["section"] for one in spatial["domains"] if one["ari_regions"] is not None}
    assert with_regions == {name}
    wrong = CliRunner().invoke(app, [*arguments[:-1], str(tmp_path / "none"), "--regions", str(tmp_path)])
    assert wrong.exit_code == 2 and not (tmp_path / "none").exists()
    plain = CliRunner().invoke(app, [*arguments[:-1], str(tmp_path / "plain"), "--no-spatial"])
    assert plain.exit_code == 0
    assert "spatial" not in json.loads((tmp_path / "plain" / "summary.json").read_text())
