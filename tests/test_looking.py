"""What heads see around a tile: slide scale, automatic rings and smoothing, and the views of the MLP's committee."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from histomix.common.metrics import within_sections
from histomix.errors import HeadError
from histomix.heads import KNNRegressor, MLPRegressor, Positions, RidgeRegressor, make_estimator
from histomix.heads.neighbourhood import (
    PRIOR_ROWS,
    SlideScale,
    choose_rings,
    choose_smoothing,
    spot_pitch_um,
)

QUICK: dict[str, Any] = {"members": 3, "max_epochs": 8, "hidden": (16,), "n_components": 8}


def tissue(n_sections: int = 4, side: int = 12, noise: float = 0.3, width: float = 2.0, seed: int = 0) -> Any:
    """Sections on a square lattice of 200 um whose types vary over a few spots; each has a stain of its own."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2).astype(float)
    near = np.exp(-0.5 * (np.linalg.norm(grid[:, None] - grid, axis=-1) / width) ** 2) if width else np.eye(len(grid))
    near /= np.sqrt(np.square(near).sum(axis=1, keepdims=True))
    axes = rng.standard_normal((4, 24))
    X, Y = [], []
    for _ in range(n_sections):
        field = near @ rng.standard_normal((len(grid), 4))
        clean = field @ axes + noise * 4 * rng.standard_normal((len(grid), 24))
        X.append(clean * rng.uniform(0.5, 2, 24) + 3 * rng.standard_normal(24))
        Y.append(np.exp(field[:, :3]))
    cells = np.concatenate(Y)
    section = np.repeat([f"s{i}" for i in range(n_sections)], len(grid))
    positions = Positions(section, np.tile(200 * grid, (n_sections, 1)))
    return np.concatenate(X).astype(np.float32), cells / cells.sum(axis=1, keepdims=True), section, positions


def test_slide_scale_is_that_of_each_slide_and_of_training_where_tiles_are_few() -> None:
    X, _, section, positions = tissue()
    scale = SlideScale.fitted(X, positions)
    code, mean, spread = scale.of(X, positions)
    for number, name in enumerate(np.unique(section)):
        rows = X[section == name].astype(float)
        assert (code[section == name] == number).all()
        share = len(rows) / (len(rows) + PRIOR_ROWS)
        np.testing.assert_allclose(mean[number], share * rows.mean(axis=0) + (1 - share) * scale.mean, rtol=1e-4)
        variance = share * rows.var(axis=0) + (1 - share) * scale.variance
        np.testing.assert_allclose(spread[number], np.sqrt(variance), rtol=1e-4)
    _, mean, spread = scale.of(X[:1], positions[:1])
    np.testing.assert_allclose(spread[0], np.sqrt(scale.variance * PRIOR_ROWS / (PRIOR_ROWS + 1)), rtol=1e-4)
    assert np.abs(mean[0] - scale.mean).max() < np.abs(X[0] - scale.mean).max() / PRIOR_ROWS


@pytest.mark.parametrize("kind", [RidgeRegressor, KNNRegressor])
def test_a_slide_of_another_stain_is_predicted_as_before(kind: Any) -> None:
    X, Y, section, positions = tissue()
    train = section != "s3"
    head = kind(slide_scale=True).fit(X[train], Y[train], section[train], positions=positions[train])
    there = positions[~train]
    expected = head.predict(X[~train], there)
    stained = X[~train] * 1.7 + 5  # one scanner for another
    plain = kind().fit(X[train], Y[train], section[train])
    ours, theirs = (
        np.abs(a - b).mean()
        for a, b in ((head.predict(stained, there), expected), (plain.predict(stained), plain.predict(X[~train])))
    )
    assert ours < 0.2 * theirs
    assert head.context_um == np.inf  # every tile of the slide has a part
    with pytest.raises(HeadError, match="no places were given"):
        head.predict(X[~train])
    assert kind(slide_scale=True).fit(X, Y, section).context_um == 0  # without places there are no slides


def test_pitch_and_rings_are_those_of_the_lattice() -> None:
    square = tissue(side=6)[3]
    assert spot_pitch_um(square) == 200 and choose_rings(square) == (300.0, 500.0)
    rows, columns = np.mgrid[:8, :8]
    hexagonal = np.column_stack([(columns + 0.5 * (rows % 2)).ravel() * 100, rows.ravel() * 100 * np.sqrt(0.75)])
    assert choose_rings(Positions(np.zeros(64), hexagonal)) == pytest.approx((150, 250), abs=0.1)
    assert choose_rings(Positions(np.arange(5), np.zeros((5, 2)))) == ()


def test_smoothing_is_chosen_where_neighbours_are_alike_and_only_there() -> None:
    for width, smooths in ((2.0, True), (0.0, False)):
        _, Y, section, positions = tissue(width=width)
        noisy = Y + 0.15 * np.random.default_rng(1).standard_normal(Y.shape)
        noisy[:5] = np.nan  # rows without a held-out prediction
        assert (choose_smoothing(noisy, Y, positions) > 0) == smooths
        assert 0 < within_sections(Y, noisy, section) < 1


def test_the_mlp_looks_around_and_a_saved_one_does_too() -> None:
    X, Y, section, positions = tissue(noise=1.0)
    train = section != "s3"
    head = MLPRegressor(**{**QUICK, "max_epochs": 30}).fit(
        X[train], Y[train], section[train], positions=positions[train]
    )
    alone = MLPRegressor(**{**QUICK, "max_epochs": 30}).fit(X[train], Y[train], section[train])
    there = positions[~train]
    assert head.context.rings_um == (300.0, 500.0) and not head.context.slide and np.isfinite(head.context_um)
    assert len(head.weight_0_) == 3 * len(head.views_)
    score, without = (
        within_sections(Y[~train], values, section[~train])
        for values in (head.predict(X[~train], there), alone.predict(X[~train]))
    )
    assert score > without + 0.05
    restored = make_estimator("mlp", **QUICK).restore(*head.fitted())
    np.testing.assert_array_equal(restored.predict(X[~train], there), head.predict(X[~train], there))
    assert restored.context == head.context
    assert alone.context.context_um == 0 and alone.fitted()[0]["rings_um_"].size == 0


def test_members_that_see_no_rings_have_no_weights_for_them() -> None:
    X, Y, section, positions = tissue()
    head = MLPRegressor(**QUICK, smooth_um=0.0, epochs=2).fit(X, Y, section, positions=positions)
    assert head.views_.tolist() == [0, 1, 2] and head.weight_0_.shape == (3, 24, 16)
    assert not head.weight_0_[0, 8:].any() and not head.weight_0_[1, 16:].any()
    assert head.weight_0_[1, :16].all() and head.weight_0_[2].all()


def test_held_out_predictions_and_spread_are_of_members_that_did_not_see_the_row() -> None:
    X, Y, section, positions = tissue()
    head = MLPRegressor(**QUICK, smooth_um=0.0).fit(X, Y, section, positions=positions)
    assert head.held_out_ is not None and head.held_out_spread_ is not None
    np.testing.assert_allclose(head.held_out_.sum(axis=1), 1, atol=1e-6)
    seen = within_sections(Y, head.predict(X, positions), section)
    assert within_sections(Y, head.held_out_, section) < seen
    spread = head.predict_spread(X, positions)
    assert spread is not None and spread.shape == Y.shape and (spread > 0).all()
    # Labels of one section changed: its own held-out predictions come from the others, and stay as they were.
    other = Y.copy()
    other[section == "s1"] = other[section == "s1"][:, ::-1]
    fixed = {**QUICK, "max_epochs": 1, "smooth_um": 0.0}
    one, two = (MLPRegressor(**fixed).fit(X, labels, section, positions=positions) for labels in (Y, other))
    rows = section == "s1"
    if one.views_.tolist() == two.views_.tolist():
        np.testing.assert_allclose(one.held_out_[rows], two.held_out_[rows], atol=1e-6)
    assert np.abs(one.held_out_[~rows] - two.held_out_[~rows]).max() > 1e-3


@pytest.mark.parametrize("name", ["mlp", "average"])
def test_a_prediction_does_not_depend_on_how_the_slide_was_cropped(name: str) -> None:
    """Tiles whose neighbourhood is inside a crop are predicted as in the whole slide, whatever the rest looks like."""
    X, Y, section, positions = tissue(side=20, noise=1.0)
    train, test = section != "s3", np.flatnonzero(section == "s3")
    settings: dict[str, Any] = QUICK if name == "mlp" else {"heads": ("ridge", "mlp")}
    head = make_estimator(name, **settings).fit(X[train], Y[train], section[train], positions=positions[train])
    whole, xy = head.predict(X[test], positions[test]), positions.xy_um[test]
    left = np.flatnonzero(xy[:, 0] <= np.median(xy[:, 0]))
    crop = head.predict(X[test][left], positions[test][left])
    inside = xy[left, 0] < np.median(xy[:, 0]) - head.context_um
    assert inside.sum() >= 5
    np.testing.assert_allclose(crop[inside], whole[left][inside], atol=1e-6)
    damaged = X[test].copy()
    far = np.flatnonzero(np.hypot(*(xy - xy[0]).T) > head.context_um)
    damaged[far] = 1e3
    np.testing.assert_allclose(head.predict(damaged, positions[test])[0], whole[0], atol=1e-6)
