from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import histomix as hm
from histomix.embedding import feature_manifest, read_features, scale_sample
from histomix.embedding.other_scales import FACTORS, KEY, SAMPLE, embed_other_scales
from histomix.embedding.samples import sample_rows
from histomix.encoders import load_encoder
from histomix.errors import FeatureError, HeadError
from histomix.heads.trust.scale import ScaleModel, fit_scale
from histomix.maps import CompositionMap
from histomix.slides import open_slide

from .conftest import Job

_FEATURES = 40


def _donor(number: int, factor: float = 1.0, differ: float = 0.05, tiles: int = 60) -> np.ndarray:
    """Tiles of a donor at a scale: two directions follow it, and donors lie apart along one of them and all others."""
    rng = np.random.default_rng(number)
    X = rng.normal(0, 1, (tiles, _FEATURES)) + rng.normal(0, 0.5, _FEATURES)
    X[:, 0] = 3 * np.log(factor) + rng.normal(0, 1.5) + rng.normal(0, 0.5, tiles)
    X[:, 1] = 3 * np.log(factor) + rng.normal(0, differ) + rng.normal(0, 0.5, tiles)
    return X.astype(np.float32)


def _fitted(donors: int) -> ScaleModel:
    samples = [np.stack([_donor(one, factor) for factor in FACTORS], axis=1) for one in range(donors)]
    levels = [_donor(one) for one in range(donors)]
    model = fit_scale(samples, np.array(FACTORS), levels, [f"d{one}" for one in range(donors)])
    assert model is not None
    return model


def _told(model: ScaleModel, factor: float) -> float:
    checks = [model.check(model(_donor(number, factor))) for number in range(100, 140)]
    return float(np.mean([check is not None and check["told"] for check in checks]))


def test_wrong_scales_of_unseen_donors_are_told_and_right_ones_are_not() -> None:
    model = _fitted(12)
    assert _told(model, 1.0) <= 0.05
    for factor in (0.5, 0.64, 1.6, 2.0):
        assert _told(model, factor) >= 0.8
    assert model.facts()["limit"] < model.facts()["least"] < 1.6


def test_few_donors_tell_less() -> None:
    assert _fitted(1).facts()["limit"] > 1.5 > 1.35 > _fitted(12).facts()["limit"]


def test_features_that_say_nothing_of_scale_make_no_check() -> None:
    rng = np.random.default_rng(0)
    samples = [rng.normal(size=(10, len(FACTORS), 8)).astype(np.float32) for _ in range(4)]
    assert fit_scale(samples, np.array(FACTORS), [one[:, 2] for one in samples], list("abcd")) is None


def test_estimates_are_the_same_in_any_stretches() -> None:
    model, X = _fitted(3), _donor(7)
    assert np.array_equal(model(X), np.concatenate([model(X[:1]), model(X[1:17]), model(X[17:])]))
    assert model.check(np.empty(0)) is None


def test_what_is_out_of_focus_looks_larger_and_the_scale_alone_is_not_blamed() -> None:
    model = _fitted(12)
    for factor, words in ((2.0, "larger"), (0.5, "smaller")):
        checks = [model.check(model(_donor(200, factor)), out_of_focus) for out_of_focus in (False, True)]
        assert all(check is not None and words in check["words"] for check in checks)
        assert ["the focus" in check["words"] for check in checks if check] == [False, words == "larger"]


def test_a_size_that_cannot_be_is_told() -> None:
    model = _fitted(3)
    assert all(model.check(np.full(4, size))["told"] for size in (-1e4, 1e4))  # type: ignore[index]


def test_saved_checks_are_looked_at() -> None:
    model = _fitted(3)
    again = ScaleModel.restored(model.arrays(), _FEATURES, model.facts())
    assert np.array_equal(again(_donor(7)), model(_donor(7)))
    for arrays, facts in (
        ({**model.arrays(), "weights": np.full(_FEATURES, np.nan)}, model.facts()),
        ({**model.arrays(), "weights": np.zeros(_FEATURES + 1)}, model.facts()),
        ({"weights": model.weights}, model.facts()),
        (model.arrays(), {**model.facts(), "limit": 0.5}),
        (model.arrays(), {}),
    ):
        with pytest.raises(HeadError):
            ScaleModel.restored(arrays, _FEATURES, facts)


def test_features_keep_a_sample_at_other_scales(job: Job) -> None:
    for table in read_features(job.features).values():
        found = scale_sample(table, feature_manifest(table))
        assert found is not None
        sample, factors = found
        assert factors.tolist() == list(FACTORS) and sample.shape[1:] == (len(FACTORS), table.n_vars)
        rows = sample.reshape(-1, table.n_vars)
        assert np.isfinite(sample).all() and len({row.tobytes() for row in rows}) == len(rows) == 16 * len(FACTORS)
        table.uns[KEY] = np.zeros_like(table.uns[KEY])
        with pytest.raises(FeatureError, match="digest"):
            scale_sample(table, feature_manifest(table))


def test_tiles_are_changed_alike_whatever_their_batch(job: Job) -> None:
    with open_slide(job.image) as slide:
        encoder, section = load_encoder("builtin"), next(iter(read_features(job.features).values()))
        tiles = section.obs[["x_px", "y_px", "tissue"]]
        one, other = (embed_other_scales(slide, tiles, [encoder], "float32", batch_size)[0] for batch_size in (3, 16))
    assert one is not None and other is not None and np.allclose(one, other, atol=1e-3)
    assert len(one) == len(sample_rows(tiles["tissue"].to_numpy(), SAMPLE)) <= SAMPLE


def test_features_without_a_sample_make_a_head_without_the_check(job: Job, tmp_path: Path) -> None:
    features: dict[str, Any] = {}
    for name, table in read_features(job.features).items():
        features[name] = table.copy()
        del features[name].uns[KEY]
        features[name].uns["manifest"] = json.dumps({**feature_manifest(table), KEY: None})
    head = hm.train(hm.read_cohort(job.sheet), features, job.labels, head="mean", out=tmp_path / "head", progress=False)
    assert head.card["scale_check"] is None and hm.load_head(tmp_path / "head").scale_model is None


def test_a_slide_with_a_wrong_scale_is_said_to_have_one(job: Job) -> None:
    head = hm.load_head(job.head)
    assert head.card["scale_check"]["n_donors"] == 2
    assert head.card["scale_check"]["words"] in head.card_markdown()
    right, wrong = (hm.predict(job.image, head, mpp=mpp, progress=False) for mpp in (None, 1.25))
    for adata, told in ((right, False), (wrong, True)):
        one = CompositionMap.of(adata)
        check = one.manifest["scale_check"]
        assert check["told"] is told
        assert bool(one.reading.scale) is told
        assert any("um per px" in note for note in one.reading.notes) is told
