"""Files that other programs read: tables, AnnData, QuPath GeoJSON and the report."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import histomix as hm
from histomix.abundance import Abundance
from histomix.common.palette import type_colours
from histomix.errors import InputError
from histomix.maps import composition_geojson, write_composition
from histomix.maps.composition import OUT_OF_SCOPE
from histomix.report import write_report

from .conftest import Job, manifest_of

TYPES = ["Cancer", "<script>alert(1)</script>", "T & B"]


@pytest.fixture
def composition() -> ad.AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "x_px": [150.0, 250.0, 350.0],
            "y_px": [150.0, 150.0, 250.0],
            "tissue": [1.0, 0.8, 0.6],
            "novelty": np.float32([0.2, 0.999, np.nan]),
            "in_scope": [True, False, False],
            "read_ok": [True, True, False],
        },
        index=["0x0", "1x0", "2x1"],
    )
    values = rng.dirichlet(np.ones(3), 3).astype(np.float32)
    values[2] = np.nan
    found = ad.AnnData(values, obs=obs, var=pd.DataFrame(index=TYPES))
    found.obsm["spatial"] = obs[["x_px", "y_px"]].to_numpy()
    slide = {
        "bounds_px": [50, 20],
        "fingerprint": "abc",
        "mpp": 0.5,
        "width_px": 500,
        "height_px": 400,
        "file": "x.svs",
    }
    found.uns["manifest"] = json.dumps({"slide": slide, "cell_px": 100.0, "places": "grid", "unit": "proportion"})
    return found


def test_files_read_back(composition: ad.AnnData, tmp_path: Path) -> None:
    write_composition(tmp_path, composition, np.full((40, 50, 3), 200, np.uint8))
    assert {path.name for path in tmp_path.iterdir()} == {
        "composition.h5ad",
        "composition.csv",
        "tiles.geojson",
        "preview.jpg",
    }
    back = ad.read_h5ad(tmp_path / "composition.h5ad")
    np.testing.assert_array_equal(back.X, composition.X)
    table = pd.read_csv(tmp_path / "composition.csv")
    assert list(table.columns) == ["x_px", "y_px", *TYPES, "novelty", "in_scope", "tissue", "read_ok"]
    np.testing.assert_allclose(table[TYPES], composition.X, rtol=1e-5)


def test_a_map_at_spots_has_the_spot_key_first(composition: ad.AnnData, tmp_path: Path) -> None:
    manifest = manifest_of(composition) | {"places": "spots"}
    composition.uns["manifest"] = json.dumps(manifest)
    write_composition(tmp_path, composition)
    table = pd.read_csv(tmp_path / "composition.csv")
    assert table.columns[0] == "spot"
    assert table["spot"].tolist() == ["0x0", "1x0", "2x1"]


def test_geojson_is_what_qupath_reads(composition: ad.AnnData) -> None:
    found = json.loads(json.dumps(composition_geojson(composition), allow_nan=False))
    assert found["type"] == "FeatureCollection"
    first, second, unread = found["features"]
    assert first["properties"]["objectType"] == "tile"
    ring = first["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1] and len(ring) == 5
    # Level-0 px, less the bounds of the slide: 150 - 50 +- 50 and 150 - 20 +- 50.
    assert {tuple(corner) for corner in ring} == {(50, 80), (150, 80), (150, 180), (50, 180)}
    assert set(first["properties"]["measurements"]) == {*TYPES, "novelty"}
    dominant = TYPES[int(composition.X[0].argmax())]
    assert first["properties"]["classification"]["name"] == dominant
    assert second["properties"]["classification"]["name"] == OUT_OF_SCOPE
    assert first["properties"]["classification"]["color"] == [round(255 * c) for c in type_colours(TYPES)[dominant]]
    assert "measurements" not in unread["properties"] and "classification" not in unread["properties"]
    ids = [feature["id"] for feature in found["features"]]
    assert len(set(ids)) == 3
    assert ids == [feature["id"] for feature in composition_geojson(composition)["features"]]


def test_colours_differ_between_types() -> None:
    assert len(set(type_colours([str(i) for i in range(17)]).values())) == 17


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.images_without_words = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        self.sources += [str(facts[name]) for name in ("src", "href") if name in facts]
        self.ids += [str(facts["id"])] if "id" in facts else []
        self.targets += [str(facts[name]) for name in ("aria-controls", "aria-labelledby") if name in facts]
        # A cover of dark pages lies over a map that has words, and says that it has none.
        cover = facts.get("alt") == "" and "over" in str(facts.get("class")).split()
        self.images_without_words += tag == "img" and not facts.get("alt") and not cover


@pytest.fixture(scope="module")
def page(job: Job, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("report")
    cohort = hm.read_cohort(job.sheet)
    features, labels = hm.read_features(job.features), hm.read_labels(job.labels)
    truth = hm.datasets.phantom_truth(job.sheet.parent)
    hm.evaluate(cohort, features, labels, heads=("ridge",), truth=truth, spatial=False, out=folder / "evaluation")
    write_composition(
        folder / "map" / "slide", hm.predict(job.image, job.head, mpp=0.5), np.zeros((100, 100, 3), np.uint8)
    )
    folders = [folder / "evaluation", job.labels, job.features, job.head, folder / "map"]
    path = write_report(folders, folder / "report", title="A <b>title</b>", lead="Words & more")
    return path, path.read_text()


def test_the_report_is_whole_and_loads_nothing_remote(page: tuple[Path, str]) -> None:
    path, text = page
    links = _Links()
    links.feed(text)
    assert not [link for link in links.sources if re.match(r"(https?:)?//", link)]
    pictures = [link for link in links.sources if not link.startswith("#")]
    assert len(pictures) > 10
    # What a dark page lays over a map is a few shapes.
    assert all((path.parent / link).stat().st_size > (100 if "-over" in link else 1000) for link in pictures)
    assert set(links.targets) <= set(links.ids)
    assert {link[1:] for link in links.sources if link.startswith("#")} <= set(links.ids)
    assert links.images_without_words == 0


def test_the_report_says_the_protocol_and_the_scores(page: tuple[Path, str], job: Job) -> None:
    path, text = page
    summary = json.loads((path.parent.parent / "evaluation" / "summary.json").read_text())
    assert "held-out donors" in text
    for target in ("label", "truth"):
        assert f"{summary['scores'][target]['ridge']['pearson']['mean']:.3f}" in text
    assert "A &lt;b&gt;title&lt;/b&gt;" in text and "<b>title" not in text
    for cell_type in hm.load_head(job.head).card["cell_types"]:
        assert cell_type in text


@pytest.mark.parametrize("known", [True, False])
def test_the_report_shows_the_ceiling_beside_the_scores(job: Job, tmp_path: Path, known: bool) -> None:
    cohort, features = hm.read_cohort(job.sheet), hm.read_features(job.features)
    labels = {}
    for name, table in hm.read_labels(job.labels).items():
        reliability = pd.Series(np.linspace(0.36, 0.64, len(table.cell_types)), table.cell_types) if known else None
        together = {"fitted_with": list(cohort.names)} if known else {}
        labels[name] = Abundance(table.values, table.unit, provenance=together, reliability=reliability)
    found = hm.evaluate(cohort, features, labels, heads=("ridge",), spatial=False, out=tmp_path / "evaluation")
    text = write_report([tmp_path / "evaluation", job.features], tmp_path / "report").read_text()
    assert '<th scope="col">ceiling</th>' in text
    if known:
        bound = f"{found.summary['ceiling']['bound']:.3f}"
        assert f">0.500 <small>bound {bound}</small></td>" in text
        assert f"<b>{bound}</b>" in text and "the most that a perfect prediction could reach" in text
        assert re.search(r"<small>Pearson [^<]*, ceiling 0\.360</small>", text)
        assert "fitted together with sections of training donors" in text
        assert "Ceiling unknown" not in text
    else:
        assert ">unknown</td>" in text and "Ceiling unknown" in text and "could reach" not in text
        assert "The labels do not say with which sections they were fitted" in text


def test_the_report_refuses_folders_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        write_report([tmp_path / "none"], tmp_path / "report")
    (tmp_path / "stranger").mkdir()
    with pytest.raises(InputError, match="holds nothing that a report can show"):
        write_report([tmp_path / "stranger"], tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_the_report_says_when_a_map_is_older_than_a_failed_attempt(composition: ad.AnnData, tmp_path: Path) -> None:
    write_composition(tmp_path / "map" / "x", composition, np.full((40, 50, 3), 200, np.uint8))
    words = "This map is of an earlier run"
    for state, said in (("done", False), ("failed", True)):
        status = {"state": state, "reason": "x.svs: is truncated."}
        (tmp_path / "map" / "x" / "status.json").write_text(json.dumps(status))
        text = write_report([tmp_path / "map"], tmp_path / "report").read_text()
        assert (words in text) == said and ("is truncated" in text) == said


def test_the_report_never_replaces_a_folder_of_other_files(page: tuple[Path, str], job: Job, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"holds 'thesis\.txt'"):
        write_report([job.head], tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    path, _ = page
    assert write_report([job.head], path.parent) == path


def test_a_folder_of_another_command_is_not_written_over(job: Job, tmp_path: Path) -> None:
    """Labels and features each have a manifest.json, without which they are no longer what they were."""
    reference = job.sheet.parent / "reference.csv"
    for name, own in (("labels", {"encoder": {}}), ("features", {"unit": "proportion"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps(own))
    for use in (
        lambda: hm.label(job.sheet, reference=reference, out=tmp_path / "labels"),
        lambda: hm.embed(job.sheet, out=tmp_path / "features"),
    ):
        with pytest.raises(InputError, match="holds the results of another command"):
            use()
