"""What stain alone does to features is learnt on some tiles of the training sections, and looked past."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from scipy.linalg import sqrtm

import histomix as hm
from histomix.embedding import feature_manifest, read_features, stain_shifts
from histomix.embedding.restaining import VERSIONS, restain
from histomix.errors import FeatureError, HeadError
from histomix.evaluation.fit_folds import Fits, fit_and_predict
from histomix.evaluation.folds import Fold
from histomix.heads import StainDamping, assemble, load_head, make_estimator
from histomix.heads.stain import STRENGTH, Damped, fit_stain_damping

from .conftest import Job


def test_a_tile_in_another_stain_is_the_same_tissue(job: Job) -> None:
    slide = hm.open_slide(job.reference.parent / "images" / "P1S1.tif", mpp=0.5)
    with slide:
        tile = slide.read(200, 200, 224, 224, 0.5)
    others = [restain(tile, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(others[0], others[1])
    assert others[0].dtype == np.uint8 and others[0].shape == tile.shape
    assert np.abs(others[0].astype(int) - others[2]).mean() > 1
    # Dark stays dark: places keep their order, colours move.
    dark = [image.mean(axis=2).ravel() for image in (tile, others[0], others[2])]
    assert all(np.corrcoef(dark[0], other)[0, 1] > 0.9 for other in dark[1:])
    white = np.full((8, 8, 3), 255, np.uint8)
    assert restain(white, np.random.default_rng(3)).mean() > 225


def test_directions_are_damped_as_the_formula_says() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 6)) * [1, 2, 3, 4, 5, 6] + 40
    moved = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6))
    damping = fit_stain_damping(X, [[moved[:30]], None, [moved[30:]]])
    assert damping is not None
    assert damping.facts() == {"shifts": 50, "sections": 2, "directions": 6, "strength": STRENGTH}
    mean, scale = X.mean(axis=0), X.std(axis=0)
    inner = np.eye(6) + STRENGTH * (moved / scale).T @ (moved / scale) / len(moved)
    expected = ((X - mean) / scale) @ np.linalg.inv(np.real(sqrtm(inner))) * scale + mean
    np.testing.assert_allclose(damping(X), expected, rtol=1e-5)
    # In chunks, and where a tile could not be read.
    holed = X.astype(np.float32)
    holed[7] = np.nan
    seen = damping(holed)
    assert np.isnan(seen[7]).all() and np.isfinite(np.delete(seen, 7, axis=0)).all()
    np.testing.assert_array_equal(Damped(X, damping)[np.arange(5, 9)], damping(X[5:9]))


def test_encoders_side_by_side_are_damped_each_for_itself() -> None:
    rng = np.random.default_rng(1)
    X, first, second = rng.normal(size=(80, 5)), rng.normal(size=(20, 3)), rng.normal(size=(12, 2))
    both = fit_stain_damping(X, [[first, second]])
    parts = [fit_stain_damping(X[:, :3], [[first]]), fit_stain_damping(X[:, 3:], [[second]])]
    assert both is not None and parts[0] is not None and parts[1] is not None
    np.testing.assert_allclose(both(X), np.hstack([parts[0](X[:, :3]), parts[1](X[:, 3:])]), rtol=1e-6)


def test_of_little_nothing_is_learnt() -> None:
    X = np.random.default_rng(0).normal(size=(20, 4))
    assert fit_stain_damping(X, []) is None and fit_stain_damping(X, [None, None]) is None
    assert fit_stain_damping(X, [[X[:7]]]) is None and fit_stain_damping(X, [[X[:8]]]) is not None
    still = fit_stain_damping(X, [[np.zeros((9, 4))]])
    assert still is not None
    np.testing.assert_array_equal(still(X), X.astype(np.float32))


def test_a_head_reads_another_stain_better_for_it() -> None:
    """Tissue moves some directions and stain others, which in three donors go along with the labels by chance."""
    ratios = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        n, d = 300, 100
        tissue, stain = rng.normal(size=(3, d)), rng.normal(size=(2, d))
        donor = np.repeat(np.arange(6), n // 6)
        state, dye = rng.normal(size=(n, 3)) + 0.7 * rng.normal(size=(6, 3))[donor], 5 * rng.normal(size=(6, 2))[donor]
        X = state @ tissue + dye @ stain + 3 * rng.normal(size=(n, d))
        Y = np.exp(state) / np.exp(state).sum(axis=1, keepdims=True)
        shifts = 2 * rng.normal(size=(20, 2)) @ stain + 0.05 * rng.normal(size=(20, d))
        errors = []
        for damping in (None, fit_stain_damping(X[donor < 3], [[shifts]])):
            seen = X if damping is None else damping(X)
            head = make_estimator("ridge").fit(seen[donor < 3], Y[donor < 3], groups=donor[donor < 3])
            errors.append(float(np.abs(head.predict(seen[donor > 2]) - Y[donor > 2]).mean()))
        ratios.append(errors[1] / errors[0])
    assert np.mean(ratios) < 0.92 and max(ratios) < 1.05


class TestOfACohort:
    def test_features_tell_it_and_heads_use_it(self, job: Job, tmp_path: Path) -> None:
        features = read_features(job.features)
        shifts = {name: stain_shifts(one, feature_manifest(one)) for name, one in features.items()}
        assert all(one is not None and len(one) >= 4 * VERSIONS and one.any() for one in shifts.values())
        head = load_head(job.head)
        assert head.card["stain_damping"]["sections"] == 2 and head.stain_damping is not None
        assert "directions in which stain alone moves features" in hm.heads.card_markdown(head.card)
        one = features["P1S1"]
        whole = head.predict_features(one).to_numpy()
        seen = head.stain_damping(np.asarray(one.X))
        from histomix.heads.dataset import positions_um
        from histomix.heads.neighbourhood import Positions

        places = Positions(np.zeros(len(seen), int), positions_um(one, one.obs_names))
        np.testing.assert_allclose(whole, head.estimator.predict(seen, places), atol=1e-6)
        np.testing.assert_allclose(whole, head.output(one).values, atol=1e-6)
        plain = hm.train(job.sheet, job.features, job.labels, head="ridge", damp_stain=False, out=tmp_path / "plain")
        assert plain.card["stain_damping"] is None and not (tmp_path / "plain" / "stain.safetensors").exists()
        assert not np.allclose(load_head(tmp_path / "plain").predict_features(one), whole, atol=1e-4)

    def test_what_is_tested_teaches_nothing(self, job: Job) -> None:
        """A fold's damping comes from its training sections: those of the tested ones may be anything."""
        cohort = hm.read_cohort(job.sheet)
        training = assemble(cohort, read_features(job.features), hm.abundance.read_labels(job.labels))
        fold = Fold("P2", np.flatnonzero(training.donor == "P1"), np.flatnonzero(training.donor == "P2"))
        ridge = make_estimator("ridge")
        answers = []
        for shifts in (training.shifts, {**training.shifts, "P2S1": [100 + training.shifts["P2S1"][0]]}, {}):
            fits = Fits(cost={"ridge": {"fit_seconds": 0.0, "predict_seconds": 0.0}})
            seen = replace(training, shifts=shifts).seen_from(fold.train)
            answers.append(fit_and_predict("ridge", ridge, seen, fold, fits))
        np.testing.assert_array_equal(answers[0], answers[1])
        assert np.abs(answers[0] - answers[2]).max() > 1e-3

    def test_features_without_it_serve_too(self, job: Job, tmp_path: Path) -> None:
        features = read_features(job.features)
        for one in features.values():
            manifest = {key: value for key, value in feature_manifest(one).items() if key != "stain_shifts"}
            one.uns["manifest"] = json.dumps(manifest)
        head = hm.train(job.sheet, features, job.labels, head="ridge")
        assert head.card["stain_damping"] is None
        assert "Nothing was learnt of what another stain does" in hm.heads.card_markdown(head.card)

    def test_an_alignment_check_that_is_made_up_for_keeps_it(self, job: Job, tmp_path: Path) -> None:
        found = []
        for check in (False, True):
            one = hm.embed(job.sheet, out=tmp_path / "features", check_alignment=check)["P1S1"]
            assert (feature_manifest(one)["alignment"] is not None) is check
            found.append(stain_shifts(one, feature_manifest(one)))
        np.testing.assert_array_equal(*found)
        np.testing.assert_array_equal(found[0], stain_shifts(*_of(read_features(job.features)["P1S1"])))

    def test_an_altered_sample_is_refused(self, job: Job, tmp_path: Path) -> None:
        folder = tmp_path / "features"
        shutil.copytree(job.features, folder)
        import h5py

        with h5py.File(folder / "P1S1.h5ad", "r+") as file:
            file["uns/stain_shifts"][0, 0] += 1
        with pytest.raises(FeatureError, match="in other stains are not those that were written"):
            read_features(folder)

    @pytest.mark.parametrize("what", ["missing", "shape", "nan"])
    def test_an_altered_head_is_refused(self, job: Job, what: str) -> None:
        damping = load_head(job.head).stain_damping
        assert damping is not None
        arrays = damping.arrays()
        if what == "missing":
            del arrays["give"]
        elif what == "shape":
            arrays["take"] = arrays["take"][:, 1:]
        else:
            arrays["offset"] = np.full_like(arrays["offset"], np.nan)
        with pytest.raises(HeadError):
            StainDamping.restored(arrays, len(damping.take), damping.facts())


def _of(features: AnnData) -> tuple[AnnData, dict[str, Any]]:
    return features, feature_manifest(features)
