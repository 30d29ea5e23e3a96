"""What a head sees around a tile: the same at the spots of a lattice and on a slide's grid, whatever its stride."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from histomix.errors import HeadError
from histomix.heads import KNNRegressor, Positions, RidgeRegressor
from histomix.heads.neighbourhood import Neighbourhood, smooth, with_rings

PITCH_UM, SIDE_UM = 100.0, 1600.0
_WAVES = np.random.default_rng(11).standard_normal((2, 24)) / 350
_PHASES = np.random.default_rng(12).uniform(0, 2 * np.pi, 24)


def field(xy_um: np.ndarray, seed: int) -> np.ndarray:
    """Features of tiles: waves over the tissue, seen with noise."""
    clean = np.sin(xy_um @ _WAVES + _PHASES + seed)
    return (clean + 0.5 * np.random.default_rng(seed).standard_normal(clean.shape)).astype(np.float32)


def composition(xy_um: np.ndarray, seed: int) -> np.ndarray:
    cells = np.exp(1.5 * np.sin(xy_um @ _WAVES + _PHASES + seed)[:, :3])
    return cells / cells.sum(axis=1, keepdims=True)


def grid(step_um: float, hexagonal: bool = False) -> np.ndarray:
    height = step_um * (np.sqrt(3) / 2 if hexagonal else 1)
    y, x = np.meshgrid(np.arange(0, SIDE_UM, height), np.arange(0, SIDE_UM, step_um), indexing="ij")
    x = x + (step_um / 2 * (np.arange(len(x)) % 2)[:, None] if hexagonal else 0)
    return np.column_stack([x.ravel(), y.ravel()])


@pytest.mark.parametrize("hexagonal", [False, True])
@pytest.mark.parametrize("context", [{"rings_um": (150.0,)}, {"rings_um": (150.0, 250.0)}, {"smooth_um": 80.0}])
@pytest.mark.parametrize("kind", [RidgeRegressor, KNNRegressor])
def test_a_head_trained_at_spots_reads_a_dense_grid_alike(kind: Any, context: Any, hexagonal: bool) -> None:
    lattice = grid(PITCH_UM, hexagonal)
    section = np.repeat(np.arange(4), len(lattice))
    X, Y = (np.concatenate([make(lattice, seed) for seed in range(4)]) for make in (field, composition))
    head = kind(**context).fit(X, Y, groups=section, positions=Positions(section, np.tile(lattice, (4, 1))))
    truth = composition(lattice, 9)

    def at_spots(xy_um: np.ndarray) -> np.ndarray:
        """Predict a new slide at these places, of which the first are those of the lattice, with the same pixels."""
        features = np.concatenate([field(lattice, 9), field(xy_um, 10_000 + len(xy_um))])
        # Noise is a tile's own; the tissue is that of section 9 everywhere.
        features[len(lattice) :] += (
            np.sin(xy_um @ _WAVES + _PHASES + 9) - np.sin(xy_um @ _WAVES + _PHASES + 10_000 + len(xy_um))
        ).astype(np.float32)
        positions = np.concatenate([lattice, xy_um])
        found: np.ndarray = head.predict(features, Positions(np.zeros(len(positions), int), positions))[: len(lattice)]
        return found

    def error(values: np.ndarray) -> float:
        return float(np.sqrt(np.square(values - truth).mean()))

    alone = at_spots(np.zeros((0, 2)))
    for step in (50.0, 33.0):
        dense = grid(step) + 7.0
        found = at_spots(dense)
        assert np.corrcoef(found.ravel(), alone.ravel())[0, 1] > 0.97
        np.testing.assert_allclose(found.mean(axis=0), alone.mean(axis=0), atol=0.02)
        np.testing.assert_allclose(found.std(axis=0), alone.std(axis=0), rtol=0.1)
        assert error(found) < error(alone) + 0.006  # more tiles around may help, and must not hurt


def test_rings_are_means_of_the_tiles_between_their_radii() -> None:
    rng = np.random.default_rng(0)
    xy_um, section = rng.uniform(0, 600, (80, 2)), np.repeat(["a", "b"], 40)
    X = rng.standard_normal((80, 3)).astype(np.float32)
    found = with_rings(X, np.arange(80), Neighbourhood(Positions(section, xy_um)), (60.0, 200.0))
    distance = np.where(section[:, None] == section, cdist(xy_um, xy_um), np.inf)
    for row in range(80):
        inner = (distance[row] > 0) & (distance[row] <= 60)
        outer = (distance[row] > 60) & (distance[row] <= 200)
        first = X[inner].mean(axis=0) if inner.any() else X[row]
        second = X[outer].mean(axis=0) if outer.any() else first
        np.testing.assert_allclose(found[row], np.concatenate([X[row], first, second]), atol=1e-5)


def test_smoothing_is_a_renormalised_gaussian() -> None:
    rng = np.random.default_rng(0)
    xy_um, section = rng.uniform(0, 600, (80, 2)), np.repeat(["a", "b"], 40)
    values = rng.uniform(size=(80, 3))
    values[5] = np.nan
    found = smooth(values, Neighbourhood(Positions(section, xy_um)), 70.0)
    distance = np.where(section[:, None] == section, cdist(xy_um, xy_um), np.inf)
    weight = np.where(distance <= 3 * 70, np.exp(-0.5 * np.square(distance / 70)), 0)
    weight[:, 5] = 0
    expected = weight @ np.nan_to_num(values) / weight.sum(axis=1, keepdims=True)
    expected[5] = np.nan
    np.testing.assert_allclose(found, expected)


def test_places_that_are_none_are_refused() -> None:
    with pytest.raises(HeadError, match="one finite position"):
        Positions(np.array(["a", "a"]), np.array([[0.0, np.nan], [1.0, 1.0]]))
    with pytest.raises(HeadError, match="one finite position"):
        Positions(np.array(["a"]), np.zeros((2, 2)))
