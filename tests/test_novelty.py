"""Novelty: foreign tiles are flagged, tiles of a donor that was not there are not, and a slide gets a verdict."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree
from sklearn.metrics import roc_auc_score

from histomix.errors import HeadError
from histomix.heads import IN_SCOPE_PERCENTILE, NoveltyModel
from histomix.heads.trust.expected_error import ExpectedError
from histomix.heads.trust.novelty import _spread_over


def donors(n_donors: int, n: int = 150, seed: int = 0, shift: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Features of rank 12 with noise; every donor is shifted a little of its own."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).standard_normal((12, 40))
    donor = np.repeat(np.arange(n_donors), n)
    own = shift * rng.standard_normal((n_donors, 12))
    latent = rng.standard_normal((len(donor), 12)) + own[donor]
    X = latent @ mixing + 0.5 * rng.standard_normal((len(donor), 40))
    return X.astype(np.float32), donor


def flagged(model: NoveltyModel, X: np.ndarray) -> float:
    return float((model(X) > IN_SCOPE_PERCENTILE).mean())


def test_a_new_donor_is_in_scope_and_foreign_tiles_are_not() -> None:
    X, donor = donors(5)
    new = donor == 4
    model = NoveltyModel().fit(X[~new], donor[~new])
    assert flagged(model, X[new]) < 0.06
    rng = np.random.default_rng(1)
    assert flagged(model, rng.permuted(X[new], axis=0)) > 0.9  # each column as seen, but not together
    assert flagged(model, X[new] + 15) > 0.99
    assert flagged(model, 6 * X[new]) > 0.95


def test_a_tile_between_the_kinds_that_were_seen_is_found_by_its_neighbours() -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(2, size=600)
    X = (rng.standard_normal((600, 20)) + 12 * np.outer(2 * kind - 1, np.ones(20))).astype(np.float32)
    model = NoveltyModel().fit(X, np.arange(600) % 4)
    middle = rng.standard_normal((50, 20)).astype(np.float32)
    assert flagged(model, middle) > 0.95  # at the mean of all, where no Mahalanobis distance is great
    assert np.median(model._distance(middle)) < np.median(model._distance(X))


def test_a_few_strange_training_tiles_do_not_widen_the_scope() -> None:
    X, donor = donors(4)
    rng = np.random.default_rng(3)
    X[::20] += 30 * rng.standard_normal((30, 40)).astype(np.float32)  # one tile in twenty is a fold, or glass, or pen
    foreign = donors(1, seed=9)[0] + 12 * rng.standard_normal((150, 40)).astype(np.float32)
    model = NoveltyModel().fit(X, donor)
    assert flagged(model, foreign) > 0.9
    assert flagged(model, donors(1, seed=5)[0]) < 0.1


def test_the_percentile_is_of_the_greater_distance_among_held_out_tiles() -> None:
    X, donor = donors(4)
    model = NoveltyModel().fit(X, donor)
    assert model(X).min() >= 0 and model(X).max() <= 1
    log = np.log([model._distance(X), model._nearest(X)])
    greater = ((log - model.usual[:, :1]) / model.usual[:, 1:]).max(axis=0)
    np.testing.assert_allclose(model(X), np.interp(greater, model.quantiles, np.linspace(0, 1, 1001)))
    held_out = []
    for name in range(4):
        part = NoveltyModel()
        part._fit_distances(X[donor != name], donor[donor != name])
        held_out.append(part._distances(X[donor == name]))
    distances = np.concatenate(held_out, axis=1)
    np.testing.assert_allclose(model.usual[:, 0], np.median(distances, axis=1), rtol=0.01)


def test_the_neighbour_distance_is_that_of_the_fifth_nearest_tile() -> None:
    X, donor = donors(3)
    model = NoveltyModel().fit(X, donor)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    _, vectors = np.linalg.eigh(np.cov(Z.T, bias=True))
    r = model.prototypes.shape[1]
    P = Z @ vectors[:, ::-1][:, :r]
    expected = cKDTree(P).query(P[:50], 5)[0][:, 4]
    np.testing.assert_allclose(model._nearest(X[:50]), expected, rtol=0.02)


def test_the_rows_that_stand_for_all_are_bounded_and_shared_among_donors() -> None:
    groups = np.repeat(["a", "b", "c"], [9000, 1500, 300])
    rows = _spread_over(len(groups), groups, 2000)
    assert len(rows) == 2000 and len(np.unique(rows)) == 2000
    assert pd.Series(groups[rows]).value_counts().to_dict() == {"a": 850, "b": 850, "c": 300}
    np.testing.assert_array_equal(rows, _spread_over(len(groups), groups, 2000))
    np.testing.assert_array_equal(_spread_over(30, None, 2000), np.arange(30))


def errors(n_donors: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features, donors, predictions and labels: where more is predicted, more is wrong."""
    X, donor = donors(n_donors, seed=seed)
    rng = np.random.default_rng(seed + 100)
    values = rng.gamma(1.0, 1.0, (len(X), 3))
    return X, donor, values, values + 0.5 * values * rng.standard_normal(values.shape)


def test_novelty_rises_with_the_error_of_unseen_donors_and_far_tiles_are_out_of_scope() -> None:
    X, donor, values, Y = errors(4, 0)
    model, alone = NoveltyModel().fit(X, donor, values, Y), NoveltyModel().fit(X, donor)
    there, _, predicted, labels = errors(2, 7)
    wrong = np.abs(predicted - labels).mean(axis=1)
    severe = wrong > np.quantile(wrong, 0.9)
    assert roc_auc_score(severe, model(there, predicted)) > 0.75 > 0.6 > roc_auc_score(severe, alone(there))
    assert np.mean(model(there, predicted) > IN_SCOPE_PERCENTILE) < 0.05
    little = np.full_like(predicted, 0.01)  # hardly an error is expected, but nothing is known of such tiles
    assert (model(there + 15, little) > IN_SCOPE_PERCENTILE).all()
    with pytest.raises(HeadError, match="depends on the predictions"):
        model(there)


def test_without_errors_to_learn_from_the_distance_alone_counts() -> None:
    X, donor, values, _ = errors(4, 0)
    alone = NoveltyModel().fit(X, donor)
    some = np.where(donor[:, None] == 2, np.nan, values)  # a donor that was never held out
    for held_out, labels in ((values, values), (some, values), (None, values)):
        model = NoveltyModel().fit(X, donor, held_out, labels)
        assert not model.needs_values
        np.testing.assert_array_equal(model(X), alone(X))


def test_predictions_that_are_the_same_everywhere_tell_no_error() -> None:
    values = np.tile([[1.0, 0.0, 3.0]], (50, 1)) + 1e-13 * np.arange(150).reshape(50, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error = ExpectedError.fit(values, np.linspace(0.1, 1, 50))
    assert not error.weights.any() and np.ptp(error(values)) == 0


def test_a_score_that_was_saved_before_there_were_errors_is_what_it_was() -> None:
    X, donor = donors(4)
    model = NoveltyModel().fit(X, donor)
    earlier = {name: array for name, array in model.arrays().items() if name != "far" and not name.startswith("error")}
    np.testing.assert_array_equal(NoveltyModel.restored(earlier, X.shape[1], 3)(X), model(X))


def test_a_saved_score_with_errors_is_the_same() -> None:
    X, donor, values, Y = errors(4, 0)
    model = NoveltyModel().fit(X, donor, values, Y)
    arrays = model.arrays()
    again = NoveltyModel.restored(arrays, X.shape[1], 3)
    assert again.needs_values
    np.testing.assert_array_equal(again(X, values), model(X, values))
    with pytest.raises(HeadError, match="above 0"):
        NoveltyModel.restored({**arrays, "error_scale": np.zeros(3)}, X.shape[1], 3)


def test_a_slide_is_judged_beside_held_out_donors() -> None:
    X, donor = donors(4)
    model = NoveltyModel().fit(X, donor)
    assert model.shares.shape == (4,) and model.shares.min() > 0.8
    verdicts = {share: model.scope(np.arange(100) < 100 * share)["verdict"] for share in (1.0, 0.92, 0.6, 0.3)}
    assert verdicts == {1.0: "in scope", 0.92: "in scope", 0.6: "partly in scope", 0.3: "out of scope"}
    assert "30.0% of the tiles are in scope" in model.scope(np.arange(10) < 3)["words"]
    nothing = model.scope(np.zeros(0, bool))
    assert nothing["share"] is None and nothing["verdict"] == "unreadable"
    model.shares = np.array([0.2, 0.99])  # where donors are strange among themselves, half is still asked for
    assert model.scope(np.arange(10) < 4)["verdict"] == "out of scope"
    assert model.scope(np.arange(10) < 6)["verdict"] == "in scope"


@pytest.mark.parametrize("groups", [None, np.zeros(40, int), np.arange(40) % 2])
def test_few_tiles_and_few_groups_are_enough(groups: np.ndarray | None) -> None:
    X = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    model = NoveltyModel().fit(X, groups)
    assert np.isfinite(model(X)).all() and flagged(model, X + 50) == 1
    arrays = model.arrays()
    np.testing.assert_array_equal(NoveltyModel.restored(arrays, 6, 3)(X), model(X))
    for name in arrays:
        with pytest.raises(HeadError, match="novelty score have shapes"):
            NoveltyModel.restored({key: value for key, value in arrays.items() if key != name}, 6, 3)


def test_real_pictures_of_other_kinds_are_flagged(data_dir: Path, tmp_path: Path) -> None:
    """Trained on two sections of one patient: the third is in scope, and hardly a tile of anything else is."""
    from PIL import Image
    from skimage import data

    from histomix.encoders import load_encoder
    from histomix.slides import open_slide, read_tile

    encoder, rng = load_encoder("builtin"), np.random.default_rng(0)
    spec = encoder.tile_spec()

    def embed(path: Path, mpp: float, positions: np.ndarray | None = None, n: int = 8) -> np.ndarray:
        with open_slide(path, mpp) as slide:
            if positions is None:
                size = np.array([slide.width_px, slide.height_px])
                half = np.minimum(spec.size_px * spec.mpp / mpp / 2, size / 2)
                positions = rng.uniform(half, np.maximum(size - half, half + 1e-6), (n, 2))
            return encoder.embed(np.stack([read_tile(slide, x, y, spec) for x, y in positions])).astype(np.float32)

    parts = {}
    for name in ("C2", "C3", "C4"):
        spots = pd.read_csv(data_dir / "her2st" / "spots" / f"{name}_selection.tsv", sep="\t")
        positions = spots.sample(60, random_state=0)[["pixel_x", "pixel_y"]].to_numpy(float)
        parts[name] = embed(data_dir / "her2st" / "images" / f"{name}.jpg", 0.69, positions)
    X, section = np.concatenate([parts["C2"], parts["C3"]]), np.repeat(["C2", "C3"], 60)
    model = NoveltyModel().fit(X, section)
    assert flagged(model, parts["C4"]) < 0.1
    Image.fromarray(data.immunohistochemistry()).save(tmp_path / "ihc.png")
    others = {tmp_path / "ihc.png": 0.5, data_dir / "he_images" / "squidpy_mousebrain_crop.jpg": 1.0}
    for path, mpp in others.items():
        assert flagged(model, embed(path, mpp)) > 0.8, path.name
    tiles = np.stack([np.full((spec.size_px, spec.size_px, 3), 244, np.uint8), np.zeros((112, 112, 3), np.uint8)])
    assert flagged(model, encoder.embed(tiles).astype(np.float32)) == 1
