"""From a head and a slide to a map: values, places, states, and what happens when a slide is bad."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import histomix as hm
from histomix.abundance import read_labels
from histomix.embedding import read_features
from histomix.encoders import load_encoder
from histomix.errors import HeadError, SectionError, SlideError, SlideReadError
from histomix.maps import composition_geojson
from histomix.prediction import load_head_encoders, predict_slides
from histomix.slides import open_slide, read_tile, tissue_mask

from .conftest import Job, manifest_of
from .test_encoders_user import _card, _onnx


@pytest.fixture(scope="module")
def at_spots(job: Job) -> ad.AnnData:
    return hm.predict(job.image, job.head, mpp=0.5, at=job.spots)


def test_a_map_at_spots_is_the_head_applied_to_the_tiles_of_those_spots(job: Job, at_spots: ad.AnnData) -> None:
    head, encoder = hm.load_head(job.head), load_encoder("builtin")
    spots = ad.read_h5ad(job.spots)
    assert list(at_spots.obs_names) == list(spots.obs_names)
    np.testing.assert_allclose(at_spots.obsm["spatial"], spots.obsm["spatial"])
    rows = [0, len(spots) // 2, len(spots) - 1]
    with open_slide(job.image, 0.5) as slide:
        tiles = np.stack([read_tile(slide, *spots.obsm["spatial"][row], encoder.tile_spec()) for row in rows])
    assert head.stain_damping is not None
    expected = head.estimator.predict(head.stain_damping(encoder.embed(tiles)))
    np.testing.assert_allclose(at_spots.X[rows], expected, atol=1e-5)
    assert list(at_spots.var_names) == head.card["cell_types"]
    np.testing.assert_allclose(at_spots.X.sum(axis=1), 1, atol=1e-5)
    assert at_spots.obs["read_ok"].all()


def test_training_tiles_are_in_scope_and_foreign_pixels_are_not(job: Job, at_spots: ad.AnnData, tmp_path: Path) -> None:
    assert at_spots.obs["in_scope"].mean() > 0.8
    noise = np.random.default_rng(0).integers(0, 255, (800, 800, 3)).astype(np.uint8)
    path = tmp_path / "noise.png"
    _save(path, noise)
    spots = tmp_path / "spots.csv"
    pd.DataFrame({"spot": ["a", "b"], "x_px": [300, 500], "y_px": [300, 500]}).to_csv(spots, index=False)
    # Two donors alone may differ so much that anything lies between them.
    sheet = hm.make_phantom(tmp_path / "three", seed=1, donors=3, sections_per_donor=1, size_um=(560, 560))
    cohort = hm.read_cohort(sheet)
    features = hm.embed(cohort)
    labels = hm.label(cohort, reference=sheet.parent / "reference.csv")
    strange = hm.predict(path, hm.train(cohort, features, labels, head="ridge"), mpp=0.5, at=spots)
    assert not strange.obs["in_scope"].any()
    assert (strange.obs["novelty"] > 0.99).all()


def test_a_head_on_another_field_of_view_predicts_on_it(job: Job, tmp_path: Path) -> None:
    cohort = hm.read_cohort(job.sheet)
    narrow = hm.embed(cohort, fov_um=55.0)
    head = hm.train(cohort, narrow, read_labels(job.labels), head="ridge")
    assert head.card["encoders"][0]["mpp"] == pytest.approx(55 / load_encoder("builtin").tile_spec().size_px)
    found = hm.predict(job.image, head, mpp=0.5, at=job.spots)
    expected = head.predict_features(narrow["P1S1"])
    np.testing.assert_allclose(found.X, expected.loc[found.obs_names], atol=2e-3)


def test_a_head_on_two_encoders_reads_the_slide_with_both(job: Job, tmp_path: Path) -> None:
    cohort, labels = hm.read_cohort(job.sheet), read_labels(job.labels)
    wide = read_features(job.features)
    narrow = hm.embed(cohort, fov_um=55.0)
    head = hm.train(cohort, [wide, narrow], labels, head="ridge")
    found = hm.predict(job.image, head, mpp=0.5, at=job.spots)
    expected = head.predict_features([wide["P1S1"], narrow["P1S1"]])
    np.testing.assert_allclose(found.X, expected.loc[found.obs_names], atol=2e-3)


def test_a_map_on_a_grid_covers_the_tissue_once(job: Job) -> None:
    composition = hm.predict(job.image, job.head, mpp=0.5)
    manifest = manifest_of(composition)
    positions = composition.obsm["spatial"]
    step = manifest["cell_px"]
    assert step == pytest.approx(load_encoder("builtin").tile_spec().size_um / 0.5)
    cells = np.floor(positions / step).astype(int)
    assert len(np.unique(cells, axis=0)) == len(cells)
    with open_slide(job.image, 0.5) as slide:
        area = tissue_mask(slide).area_mm2
    covered = len(cells) * (step * 0.5 / 1000) ** 2
    assert covered == pytest.approx(area, rel=0.35)
    denser = hm.predict(job.image, job.head, mpp=0.5, stride_um=80)
    assert denser.n_obs > 1.5 * composition.n_obs
    assert np.diff(np.unique(denser.obsm["spatial"][:, 0])).min() == pytest.approx(80 / 0.5)


def test_an_unreadable_tile_is_marked_and_the_rest_is_predicted(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    from histomix.embedding import engine

    def fail_left(slide: hm.Slide, x_px: float, y_px: float, spec: hm.TileSpec) -> np.ndarray:
        if x_px < 700:
            raise SlideReadError("broken", where=slide.path)
        return read_tile(slide, x_px, y_px, spec)

    monkeypatch.setattr(engine, "read_tile", fail_left)
    composition = hm.predict(job.image, job.head, mpp=0.5, at=job.spots)
    left = composition.obsm["spatial"][:, 0] < 700
    assert 0 < left.sum() < len(left)
    np.testing.assert_array_equal(composition.obs["read_ok"], ~left)
    assert np.isnan(composition.X[left]).all() and np.isfinite(composition.X[~left]).all()
    assert not composition.obs["in_scope"][left].any()
    geojson = composition_geojson(composition)
    assert ["measurements" in f["properties"] for f in geojson["features"]] == (~left).tolist()


def test_a_slide_without_tissue_is_an_error(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "blank.png"
    _save(path, np.full((600, 600, 3), 245, np.uint8))
    with pytest.raises(SlideError, match="no tissue was found"):
        hm.predict(path, job.head, mpp=1.0)


def test_many_slides_are_all_attempted_and_done_ones_kept(job: Job, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.tif", tmp_path / "bad.svs"
    shutil.copy(job.image, good)
    bad.write_text("this is no slide")
    results = predict_slides([bad, good], job.head, tmp_path / "out", mpp=0.5)
    assert [result.error is None for result in results] == [False, True]
    assert "bad.svs" in str(results[0].error)
    status = json.loads((tmp_path / "out" / "bad" / "status.json").read_text())
    assert status["state"] == "failed" and "bad.svs" in status["reason"]
    assert not (tmp_path / "out" / "bad" / "composition.csv").exists()

    good.touch()  # a new modification time alone changes nothing
    again = predict_slides([good], job.head, tmp_path / "out", mpp=0.5)
    assert again[0].kept and again[0].tiles == results[1].tiles
    other = predict_slides([good], job.head, tmp_path / "out", mpp=0.5, stride_um=200)
    assert not other[0].kept
    (tmp_path / "out" / "good" / "composition.csv").unlink()
    assert not predict_slides([good], job.head, tmp_path / "out", mpp=0.5, stride_um=200)[0].kept


def test_slides_that_would_share_a_folder_are_refused_before_work(job: Job, tmp_path: Path) -> None:
    with pytest.raises(HeadError, match="would both be written to"):
        predict_slides([tmp_path / "a" / "x.svs", tmp_path / "b" / "x.tif"], job.head, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_refusals_before_work(job: Job, tmp_path: Path) -> None:
    with pytest.raises(SectionError, match="no such file"):
        predict_slides([job.image], job.head, tmp_path / "out", at=tmp_path / "none.csv")
    with pytest.raises(HeadError, match="2 weights were given, and 0 of the head"):
        load_head_encoders(hm.load_head(job.head), [tmp_path / "a", tmp_path / "b"])


def _save(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(path)


def test_a_head_on_an_encoder_of_ones_own_needs_its_card_file(job: Job, tmp_path: Path) -> None:
    _onnx(tmp_path / "net.onnx")
    own = str(_card(tmp_path, model="net.onnx"))
    cohort = hm.read_cohort(job.sheet)
    features = hm.embed(cohort, encoder=own)
    head = hm.train(cohort, features, read_labels(job.labels), head="ridge")
    assert head.card["encoder_licences"][0]["licence"] == "our own"
    with pytest.raises(HeadError, match="none that histomix knows"):
        load_head_encoders(head)
    found = hm.predict(job.image, head, mpp=0.5, at=job.spots, weights=[own])
    expected = head.predict_features(features["P1S1"])
    np.testing.assert_allclose(found.X, expected.loc[found.obs_names], atol=2e-3)
