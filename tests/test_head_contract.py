"""What every head of the registry does from training to a slide: one test for all of them, on features with pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.base import clone

from histomix.errors import HeadError
from histomix.heads import HEADS, Positions, assemble, held_out_predictions, load_head, make_estimator, train

from .extras import heads_here
from .test_head_files import DONORS, MPP, TYPES, cohort_of, features_of, labels_of

QUICK: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (8,), "members": 2, "max_epochs": 3},
    "sun2025": {"hidden": (8, 4), "max_epochs": 2},
    "gbm": {"n_components": 4, "max_iter": 3},
    "hist2cell": {"epochs": 1},
    "hist2cell-tiles": {"epochs": 1},
}
N, SIDE_PX, TILE_PX = 12, 1200, 32


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """Three sections of two donors on a lattice, each with a slide that tells the abundance of the first type."""
    folder, rng = tmp_path_factory.mktemp("slides"), np.random.default_rng(0)
    cohort = cohort_of(DONORS)
    features = {name: features_of(name, n=N, tile={"size_px": TILE_PX}) for name in DONORS}
    for row in cohort.rows:
        row.image = folder / f"{row.section}.png"
        Image.fromarray(rng.integers(0, 255, (SIDE_PX, SIDE_PX, 3)).astype(np.uint8)).save(row.image)
        features[row.section].obsm["spatial"] = lattice(N)
    return cohort, features, {name: labels_of(table) for name, table in features.items()}


def lattice(n: int) -> np.ndarray:
    """Places 200 um apart, in rows of four, level-0 px."""
    return np.column_stack([np.arange(n) % 4, np.arange(n) // 4]) * 200 / MPP / 1.6 + 100


@pytest.mark.parametrize("name", heads_here(HEADS))
def test_a_head_from_training_to_a_slide(parts: Any, name: str, tmp_path: Path) -> None:
    # The graph networks have torch's sums, which may differ in the last bits with the size of a batch.
    exact = 1e-4 if name.startswith("hist2cell") else 1e-6
    head = train(*parts, head=name, parameters=QUICK.get(name), out=tmp_path / "head")
    assert head.card["head"]["kind"] == name and head.card["cell_types"] == TYPES
    again = load_head(tmp_path / "head")
    assert again.card == head.card
    estimator = head.estimator
    unfitted = clone(again.estimator)
    assert repr(unfitted.get_params()) == repr(estimator.get_params()) and not hasattr(unfitted, "present_")

    # A slide of 24 tiles, of which one cannot be read.
    rng = np.random.default_rng(5)
    X, xy_um = rng.standard_normal((24, 12)).astype(np.float32), lattice(24) * MPP
    X[7] = np.nan
    pixels = rng.integers(0, 255, (24, TILE_PX, TILE_PX, 3)).astype(np.uint8)
    found, same = (one.apply(X, xy_um, tiles=lambda rows: pixels[rows]) for one in (head, again))
    assert found.values.shape == (24, 3) and found.values.dtype == np.float32
    for part in ("values", "lower", "upper", "novelty", "in_scope"):
        np.testing.assert_allclose(getattr(same, part), getattr(found, part), atol=exact)
    readable = np.delete(np.arange(24), 7)
    assert np.isnan(found.values[7]).all() and np.isnan(found.novelty[7]) and not found.in_scope[7]
    assert found.lower is not None and found.upper is not None and np.isnan(found.lower[7]).all()
    values, lower, upper = (part[readable] for part in (found.values, found.lower, found.upper))
    np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-5)
    assert (lower <= values).all() and (values <= upper).all() and lower.min() >= 0 and upper.max() <= 1
    # The unreadable tile is not there for anybody.
    without = head.apply(X[readable], xy_um[readable], tiles=lambda rows: pixels[readable[rows]])
    np.testing.assert_allclose(without.values, values, atol=exact)

    # The same seed, the same head; and every training row is predicted by a fit without its section.
    training = assemble(*parts)
    assert training.tiles is not None
    twin = make_estimator(name, **QUICK.get(name, {}))
    groups, positions = training.section, training.positions
    twin.fit(training.X, training.Y, groups=groups, positions=positions)
    slide = X[readable]
    there = Positions(np.zeros(len(slide), int), xy_um[readable], lambda rows: pixels[readable[rows]])
    np.testing.assert_allclose(twin.predict(slide, there), estimator.predict(slide, there), atol=exact)
    held_out, spread = held_out_predictions(twin, training.X, training.Y, groups, positions)
    assert held_out.shape == training.Y.shape and np.isfinite(held_out).all()
    if spread is not None:
        around = twin.predict_spread(slide, there)
        assert around is not None and around.shape == (len(slide), 3) and (spread >= 0).all()

    # Without places it predicts the same, or says that it needs them.
    if estimator.needs_positions or head.context_um:
        with pytest.raises(HeadError, match="no places were given"):
            estimator.predict(slide)
    else:
        np.testing.assert_allclose(estimator.predict(slide), estimator.predict(slide, there), atol=exact)
