"""Maps against single cells and regions: counts, units, names, intervals, and the verb."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from typer.testing import CliRunner

import histomix as hm
from histomix.cli.app import app
from histomix.errors import InputError
from histomix.evaluation.measured.blocks import block_interval, block_of
from histomix.evaluation.measured.cells import cells_in_tiles, read_cells
from histomix.evaluation.measured.score_map import score_map
from histomix.evaluation.spatial.summary import add_spatial

from .conftest import Job, manifest_of

SIDE, MPP = 200.0, 0.5
TYPES = ["T", "B", "Tumour"]


def _map(values: np.ndarray, unit: str = "proportion", columns: int = 12, donors: tuple[str, ...] = ("P1",)) -> AnnData:
    """A map on a square grid of 100 um tiles."""
    rows, cols = np.divmod(np.arange(len(values)), columns)
    xy = np.stack([cols + 0.5, rows + 0.5], axis=1) * SIDE
    obs = pd.DataFrame({"x_px": xy[:, 0], "y_px": xy[:, 1], "read_ok": True}, index=[f"t{i}" for i in range(len(xy))])
    found = AnnData(values.astype(np.float32), obs=obs, var=pd.DataFrame(index=TYPES))
    slide = {"mpp": MPP, "bounds_px": [0, 0], "fingerprint": "f"}
    manifest = {"slide": slide, "cell_px": SIDE, "unit": unit, "places": "grid"}
    found.uns["manifest"] = json.dumps({**manifest, "head": {"training": {"donors": list(donors)}}})
    return found


@pytest.fixture
def counted(tmp_path: Path) -> tuple[np.ndarray, Path]:
    """Counts of 144 tiles, and the cells that make them."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(4.0, size=(144, 3))
    rows = []
    for tile, row in enumerate(counts):
        corner = np.array([tile % 12, tile // 12]) * SIDE
        for kind, count in zip(TYPES, row, strict=True):
            rows += [(*(corner + rng.uniform(1, SIDE - 1, 2)), kind) for _ in range(count)]
    path = tmp_path / "cells.csv"
    pd.DataFrame(rows, columns=["x_px", "y_px", "cell_type"]).to_csv(path, index=False)
    return counts, path


def test_cells_are_counted_in_the_tiles_that_hold_them(counted: tuple[np.ndarray, Path]) -> None:
    counts, path = counted
    cells, notes = read_cells(path, MPP)
    assert not notes
    found = cells_in_tiles(cells, _map(counts).obs, SIDE)
    pd.testing.assert_frame_equal(
        found.counts[TYPES], pd.DataFrame(counts, index=_map(counts).obs_names, columns=TYPES), check_names=False
    )
    assert found.n_cells == found.n_counted == counts.sum()


def test_a_perfect_map_is_perfect_and_a_shuffled_one_is_not(counted: tuple[np.ndarray, Path], tmp_path: Path) -> None:
    counts, path = counted
    shares = counts / counts.sum(axis=1, keepdims=True)
    found = score_map(_map(shares), cells=path, donor="Q9", out=tmp_path / "out")
    table = found.table("truth")
    assert table.loc["map", "pearson"] == pytest.approx(1) and table.loc["map", "rmse"] == pytest.approx(0, abs=1e-7)
    assert table.loc["constant", "pearson"] == 0
    # The whole map is one section of the ordinary metrics, under a protocol of its own.
    metrics = pd.read_csv(tmp_path / "out" / "metrics.csv")
    assert set(metrics["protocol"]) == {"orthogonal"} and {"pearson", "js_composition"} <= set(metrics["metric"])
    facts = found.summary["orthogonal"]["cells"]
    assert facts["n_tiles"] == 144 and facts["counted_in_um"] == 100 and facts["file"]["digest"].startswith("sha256:")
    turned = score_map(_map(np.random.default_rng(1).permutation(shares)), cells=path)
    assert abs(turned.table("truth").loc["map", "pearson"]) < 0.25
    expected = np.corrcoef(shares[:, 0], _map(shares).X[:, 0])[0, 1]
    row = found.metrics.query("head == 'map' and metric == 'pearson' and cell_type == 'T'")
    assert row["value"].item() == pytest.approx(expected)
    assert any("Q9 is not among" in note for note in found.summary["notes"])
    for donor in ("P1", "p01"):
        assert any("optimistic" in note for note in score_map(_map(shares), cells=path, donor=donor).summary["notes"])
    assert any("nothing shows" in note for note in turned.summary["notes"])


def test_counts_keep_their_unit_and_are_scaled_to_spots(counted: tuple[np.ndarray, Path]) -> None:
    counts, path = counted
    found = score_map(_map(counts, "cells per spot"), cells=path)
    assert found.table("truth").loc["map", "rmse"] == pytest.approx(0, abs=1e-6)
    assert any("another area" in note for note in found.summary["notes"])
    area = np.pi / 4 * 55**2 / 100**2
    scaled = score_map(_map(counts * area, "cells per spot"), cells=path, spot_um=55.0)
    assert scaled.table("truth").loc["map", "rmse"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["size_um", "spot_um"])
@pytest.mark.parametrize("value", [0.0, -5.0, math.nan, math.inf])
def test_lengths_that_are_none_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name} must be a positive number"):
        score_map("no map is needed", cells="cells.csv", **{name: value})


def test_relative_abundances_are_scored_by_shares_and_it_is_said(counted: tuple[np.ndarray, Path]) -> None:
    counts, path = counted
    scored = score_map(_map(0.1 * counts, "relative abundance"), cells=path)
    assert scored.summary["unit"] == "proportion" and scored.summary["orthogonal"]["map_unit"] == "relative abundance"
    assert any("its totals are no cells" in note for note in scored.summary["notes"])
    assert scored.table("truth").loc["map", "rmse"] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(scored.labels["slide"].sum(axis=1), 1)


def test_names_are_mapped_and_only_shared_types_are_scored(counted: tuple[np.ndarray, Path], tmp_path: Path) -> None:
    counts, path = counted
    cells = pd.read_csv(path)
    cells["cell_type"] = cells["cell_type"].replace({"T": "CD4", "Tumour": "Cancer"})
    cells.to_csv(path, index=False)
    shares = counts / counts.sum(axis=1, keepdims=True)
    partly = score_map(_map(shares), cells=path)
    assert partly.summary["cell_types"] == ["B"]
    assert any("no T, Tumour" in note for note in partly.summary["notes"])
    vocabulary = tmp_path / "names.yaml"
    vocabulary.write_text("rename: {CD4: T, Cancer: Tumour}\n")
    found = score_map(_map(shares), cells=path, vocabulary=vocabulary)
    assert found.summary["cell_types"] == TYPES
    assert found.table("truth").loc["map", "pearson"] == pytest.approx(1)
    merged = tmp_path / "merge.yaml"
    merged.write_text("merge: {Lymphoid: [T, B]}\n")
    both = tmp_path / "both.yaml"
    both.write_text("merge: {Lymphoid: [CD4, B]}\nrename: {Cancer: Tumour}\n")
    coarse = score_map(_map(shares), cells=path, vocabulary=both, map_vocabulary=merged)
    assert set(coarse.summary["cell_types"]) == {"Lymphoid", "Tumour"}
    assert coarse.table("truth").loc["map", "pearson"] == pytest.approx(1)
    cells["cell_type"] = "other"
    cells.to_csv(path, index=False)
    with pytest.raises(InputError, match="none of the map's cell types"):
        score_map(_map(shares), cells=path)


def test_tiles_beyond_the_cells_are_not_measured_and_empty_ones_are(tmp_path: Path) -> None:
    tiles = _map(np.ones((36, 3)), columns=6).obs
    centres = tiles[["x_px", "y_px"]].to_numpy()
    left = centres[:, 0] < 600
    kept = centres[left & (np.arange(36) != 7)]
    cells = pd.DataFrame(np.repeat(kept, 4, axis=0), columns=["x_px", "y_px"])
    cells["cell_type"] = "T"
    found = cells_in_tiles(cells, tiles, SIDE, min_cells=0)
    # Row 7 is an empty tile beside cells; columns 3 to 5 are off the measured part, but for the one beside it.
    assert found.counts.loc["t7", "T"] == 0 and not {"t4", "t5", "t10"} & set(found.counts.index)
    assert "t7" not in cells_in_tiles(cells, tiles, SIDE).counts.index
    cells["cell_type"] = [None if i % 4 else "T" for i in range(len(cells))]
    with pytest.raises(InputError, match="no tile of the map"):
        cells_in_tiles(cells, tiles, SIDE)
    with pytest.raises(InputError, match="level-0 px"):
        cells_in_tiles(cells.assign(x_px=cells["x_px"] + 1e7, cell_type="T"), tiles, SIDE)


def test_cells_in_um_and_of_xenium_are_read(tmp_path: Path) -> None:
    path = tmp_path / "cells.tsv"
    table = pd.DataFrame({"x_um": [10.0, 20.0], "y_um": [5.0, 6.0], "cluster": ["a", "unassigned"]})
    table.to_csv(path, sep="\t", index=False)
    cells, notes = read_cells(path, MPP)
    assert cells["x_px"].tolist() == [20.0, 40.0] and cells["cell_type"].tolist() == ["a", None]
    assert "um from the slide's corner" in notes[0]
    outs = tmp_path / "outs"
    outs.mkdir()
    pd.DataFrame({"cell_id": ["c1", "c2"], "x_centroid": [10.0, 20.0], "y_centroid": [5.0, 6.0]}).to_csv(
        outs / "cells.csv", index=False
    )
    pd.DataFrame({"cell_id": ["c1", "c2"], "group": ["a", "b"]}).to_csv(outs / "types.csv", index=False)
    cells, _ = read_cells(f"{outs}#types=types.csv;um_per_px=0.5", MPP)
    assert cells["x_px"].tolist() == [20.0, 40.0] and cells["cell_type"].tolist() == ["a", "b"]
    for text, message in (
        ("x,y\n1,2\n", "no table of cells"),
        ("x_px,y_px,cell_type\n1,2,NA\n", "no cell with a type"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_cells(path, MPP)
    with pytest.raises(InputError, match="no such file"):
        read_cells(tmp_path / "none.csv", MPP)


def test_blocks_give_wider_intervals_than_single_tiles() -> None:
    rng = np.random.default_rng(0)
    positions = np.stack(np.meshgrid(np.arange(40), np.arange(40)), axis=-1).reshape(-1, 2) * 100.0
    blocks = block_of(positions, 100.0)
    assert len(np.unique(blocks)) == 64 and np.bincount(blocks).max() == 25
    truth, noise = (rng.normal(size=64)[blocks] + 0.1 * rng.normal(size=1600) for _ in range(2))
    predicted = (truth + noise)[:, None]
    wide = block_interval(truth[:, None], predicted, blocks, 0)
    tight = block_interval(truth[:, None], predicted, np.arange(1600), 0)
    assert wide["high"] - wide["low"] > 2 * (tight["high"] - tight["low"])
    assert wide["low"] < wide["mean"] < wide["high"] and wide["mean"] == pytest.approx(
        np.corrcoef(truth, predicted[:, 0])[0, 1]
    )
    assert block_interval(truth[:, None], predicted, np.zeros(1600, int), 0)["low"] is None


def test_types_are_found_in_their_regions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tumour = (np.arange(144) % 12) < 5
    values = rng.dirichlet(np.ones(3), 144) + np.where(tumour[:, None], [0, 0, 1.0], [1.0, 0, 0])
    values /= values.sum(axis=1, keepdims=True)
    path = tmp_path / "regions.csv"
    names = np.where(tumour, "invasive cancer", "stroma")
    pd.DataFrame({"spot": [f"t{i}" for i in range(144)], "label": names}).iloc[:-4].to_csv(path, index=False)
    found = score_map(_map(values), regions=path, expect={"invasive cancer": ["Tumour"]}, out=tmp_path / "out")
    facts = found.summary["orthogonal"]["regions"]
    from sklearn.metrics import roc_auc_score

    expected = roc_auc_score(tumour[:-4], values[:-4, 2].astype(np.float32))
    one = facts["expected"][0]
    assert one["auroc"] == pytest.approx(expected) and one["n_inside"] == tumour[:-4].sum()
    assert facts["auroc"]["invasive cancer"]["Tumour"] == pytest.approx(expected)
    assert facts["auroc"]["stroma"]["Tumour"] == pytest.approx(1 - expected)
    assert facts["ari"] > 0.7
    rows = pd.read_csv(tmp_path / "out" / "metrics.csv")
    assert set(rows["metric"]) == {"auroc_region", "ari_regions"}
    for expect, message in (
        ({"cancer": ["Tumour"]}, "no region 'cancer'"),
        ({"stroma": ["Fibroblast"]}, "no cell type 'Fibroblast'"),
    ):
        with pytest.raises(InputError, match=message):
            score_map(_map(values), regions=path, expect=expect)
    lone = pd.DataFrame({"spot": [f"t{i}" for i in np.flatnonzero(tumour)], "region": "tumour"})
    lone.to_csv(path, index=False)
    alone = score_map(_map(values), regions=path, expect={"tumour": ["Tumour"]}).summary["orthogonal"]["regions"]
    assert alone["expected"][0]["n_outside"] == (~tumour).sum() and alone["ari"] is None


def test_polygons_count_from_the_bounds_of_the_slide(tmp_path: Path) -> None:
    """QuPath's origin is the corner of the scanned part, that of the map the corner of level 0."""
    tumour = (np.arange(144) % 12) < 5
    values = np.where(tumour[:, None], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1])
    left, top = 4 * SIDE, 3 * SIDE
    one = _map(values)
    manifest = manifest_of(one)
    one.uns["manifest"] = json.dumps({**manifest, "slide": {**manifest["slide"], "bounds_px": [left, top, 9999, 9999]}})

    def square(x0: float, x1: float) -> dict[str, object]:
        ring = [[x0 - left, -top], [x1 - left, -top], [x1 - left, 12 * SIDE - top], [x0 - left, 12 * SIDE - top]]
        return {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}

    features = [
        {"type": "Feature", "geometry": square(*edges), "properties": {"classification": {"name": name}}}
        for name, edges in (("tumour", (0, 5 * SIDE)), ("stroma", (5 * SIDE, 12 * SIDE)))
    ]
    path = tmp_path / "regions.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    facts = score_map(one, regions=path, expect={"tumour": ["Tumour"]}).summary["orthogonal"]["regions"]
    assert facts["expected"][0]["auroc"] == 1.0 and facts["expected"][0]["n_inside"] == tumour.sum()
    assert facts["expected"][0]["n_outside"] == (~tumour).sum()


def test_what_cannot_be_scored_is_refused(counted: tuple[np.ndarray, Path], tmp_path: Path) -> None:
    counts, path = counted
    with pytest.raises(InputError, match="nothing to score"):
        score_map(_map(counts))
    with pytest.raises(InputError, match="need regions"):
        score_map(_map(counts), cells=path, expect={"a": ["T"]})
    with pytest.raises(InputError, match="no composition map"):
        score_map(tmp_path, cells=path)
    broken = _map(counts)
    broken.obs["read_ok"] = False
    with pytest.raises(InputError, match="no tile that could be read"):
        score_map(broken, cells=path)


def test_patterns_against_cells(counted: tuple[np.ndarray, Path]) -> None:
    counts, path = counted
    found = add_spatial(score_map(_map(counts, "cells per spot"), cells=path))
    spatial = found.summary["spatial"]
    assert spatial["radius_um"] == pytest.approx(100.0)
    rows = [row for row in spatial["moran"] if row["head"] == "map"]
    assert all(row["label"] == pytest.approx(row["prediction"], abs=1e-6) for row in rows)


def test_the_verb_scores_a_phantom_against_its_cells(job: Job, tmp_path: Path) -> None:
    composition = hm.predict(job.image, job.head, stride_um=112.0)
    hm.write_composition(tmp_path / "map", composition)
    cells = job.image.parent.parent / "truth" / f"{job.image.stem}.cells.csv.gz"
    arguments = ["score", str(tmp_path / "map"), "--cells", str(cells), "--out", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)["summary"]
    assert summary["protocol"] == "orthogonal" and summary["orthogonal"]["cells"]["n_counted"] > 500
    assert summary["scores"]["truth"]["map"]["pearson"]["mean"] > 0.2
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["spatial"]["moran"]
    refused = CliRunner().invoke(app, [*arguments[:2], "--out", str(tmp_path / "none")])
    assert refused.exit_code == 2 and "nothing to score" in refused.output


@pytest.mark.parametrize("text", ["abc", "", "1,5", "inf", "nan"])
def test_a_cell_without_a_place_is_named_and_not_dropped(counted: tuple[np.ndarray, Path], text: str) -> None:
    counts, path = counted
    cells = pd.read_csv(path).astype(object)
    cells.loc[4, "x_px"] = text
    cells.to_csv(path, index=False)
    with pytest.raises(InputError, match=r"cells\.csv: row 6, column 'x_px': .* is not a number"):
        score_map(_map(counts / counts.sum(axis=1, keepdims=True)), cells=path, spatial=False)


def test_a_cell_written_twice_counts_once(counted: tuple[np.ndarray, Path]) -> None:
    _counts, path = counted
    once, _ = read_cells(path, MPP)
    cells = pd.read_csv(path)
    pd.concat([cells, cells.iloc[:3]]).to_csv(path, index=False)
    twice, notes = read_cells(path, MPP)
    pd.testing.assert_frame_equal(once, twice)
    assert notes == ["3 rows repeat another and are dropped"]


@pytest.mark.parametrize("what", ["cells", "regions"])
def test_places_nowhere_near_the_slide_are_refused(tmp_path: Path, what: str) -> None:
    composition = _map(np.full((24, 3), 1 / 3))
    manifest = manifest_of(composition)
    manifest["slide"] |= {"width_px": 2400, "height_px": 400}
    composition.uns["manifest"] = json.dumps(manifest)
    table = pd.DataFrame({"x_px": [100.0, 300.0, -9999.0], "y_px": 100.0, "cell_type": "T", "region": ["a", "b", "a"]})
    path = tmp_path / "places.csv"
    for beyond, wrong in ((-9999.0, False), (-1e9, True), (1e300, True)):
        table.loc[2, "x_px"] = beyond
        table.to_csv(path, index=False)
        if not wrong:  # a table may hold more than the slide shows
            score_map(composition, **{what: path}, spatial=False)  # type: ignore[arg-type]
            continue
        with pytest.raises(InputError, match=r"places\.csv: 1 of its .* nowhere near the slide of 2400 x 400 px"):
            score_map(composition, **{what: path}, spatial=False)  # type: ignore[arg-type]


def test_a_region_that_is_not_there_is_asked_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "regions.csv"
    pd.DataFrame({"x_px": [100.0, 300.0], "y_px": 100.0, "region": ["a", "b"]}).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"regions\.csv: there is no region 'c'"):
        score_map(_map(np.full((24, 3), 1 / 3)), regions=path, expect={"c": ["T"]})


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (lambda xy: xy, None),
        (lambda xy: xy[:, ::-1], "x and y swapped"),
        (lambda xy: [12 * SIDE, 0] + [-1, 1] * xy, "flipped left-right"),
        (lambda xy: 12 * SIDE - xy, "rotated by 180 degrees"),
        (lambda xy: xy * MPP, "as um"),
        (lambda xy: xy / MPP, "as px"),
    ],
)
def test_places_that_were_written_otherwise_are_told_and_the_score_stays(
    counted: tuple[np.ndarray, Path], written: Callable[[np.ndarray], np.ndarray], words: str | None
) -> None:
    counts, path = counted
    rng = np.random.default_rng(2)
    shares = (counts + rng.uniform(0, 3, counts.shape)) / 20
    composition = _map(shares / shares.sum(axis=1, keepdims=True))
    facts = manifest_of(composition)
    facts["slide"] |= {"width_px": 12 * SIDE, "height_px": 12 * SIDE}
    composition.uns["manifest"] = json.dumps(facts)
    cells = pd.read_csv(path)
    cells[["x_px", "y_px"]] = np.asarray(written(cells[["x_px", "y_px"]].to_numpy()))
    cells.to_csv(path, index=False)
    found = score_map(composition, cells=path, spatial=False)
    told = [note for note in found.summary["notes"] if "read otherwise" in note]
    assert len(told) == (words is not None)
    assert (found.table("truth").loc["map", "pearson"] > 0.6) == (words is None)
    assert words is None or f"({words}: Pearson 0." in told[0]
    # A map that has nothing to do with the cells agrees with no reading of them.
    composition.X = rng.permutation(composition.X)
    assert not any(
        "read otherwise" in note for note in score_map(composition, cells=path, spatial=False).summary["notes"]
    )
