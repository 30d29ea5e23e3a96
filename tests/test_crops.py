"""Crop stability: a tile's prediction does not depend on how much of its slide is read beyond its neighbourhood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import histomix as hm
from histomix.heads import HEADS, Positions, TrainingSet, assemble, load_head, make_estimator, train
from histomix.heads.cards.crops import crop_stability

from .conftest import Job
from .extras import heads_here
from .test_head_contract import QUICK
from .test_head_files import cohort_of, features_of, labels_of

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def phantom(job: Job) -> TrainingSet:
    cohort = hm.read_cohort(job.sheet)
    return assemble(cohort, hm.embedding.read_features(job.features), hm.read_labels(job.labels))


def fitted(name: str, phantom: TrainingSet, rows: np.ndarray, **parameters: Any) -> Any:
    head = make_estimator(name, phantom.unit, **{**QUICK.get(name, {}), **parameters})
    groups, positions = phantom.section[rows], phantom.positions[rows]
    return head.fit(phantom.X[rows], phantom.Y[rows], groups=groups, positions=positions)


@pytest.mark.parametrize("name", heads_here(HEADS))
def test_no_head_depends_on_what_lies_beyond_the_neighbourhood_it_names(name: str, phantom: TrainingSet) -> None:
    of_pixels = name == "hist2cell-tiles"  # slow: trained on the tiles of a corner, and cropped once
    corner = np.argsort(phantom.xy_um[: len(phantom.X) // 2].sum(axis=1))[:12]
    # Sections of 800 um have no tile left whose widest rings and smoothing lie within a crop.
    narrow = {"rings_um": (150.0,), "smooth_um": 50.0} if name == "mlp" else {}
    head = fitted(name, phantom, corner if of_pixels else np.arange(len(phantom.X)), **narrow)
    if name.startswith("hist2cell"):
        assert head.context_um > 200  # two steps of a lattice of 100 um
    options: dict[str, Any] = {"n_sections": 1, "n_rounds": 1} if of_pixels else {"n_rounds": 4}
    found = crop_stability(head, phantom.X, phantom.Y, phantom.positions, **options)
    assert found is not None and found["n_tiles"] >= (1 if of_pixels else 10)
    assert found["beyond_um"] == pytest.approx(head.reach_um, abs=0.1) and head.reach_um == head.context_um
    # Sums differ in their last digits with the size of a batch, and two neighbours as near as one another may swap.
    assert found["sd"] <= (5e-4 if name.startswith("hist2cell") else 1e-4) and found["largest"] <= 0.01


@pytest.mark.parametrize("name", ["ridge", "knn", "mlp"])
def test_a_statistic_of_the_slide_is_found_out(name: str, phantom: TrainingSet) -> None:
    head = fitted(name, phantom, np.arange(len(phantom.X)), slide_scale=True, rings_um=(), smooth_um=0.0)
    assert np.isinf(head.context_um) and np.isfinite(head.reach_um)
    found = crop_stability(head, phantom.X, phantom.Y, phantom.positions)
    assert found is not None and found["sd"] > found["tolerated"] and found["largest"] > found["sd"]


class Shifted:
    """Predicts how many tiles it was given: 0.01 more of each type for each tile that is missing of forty."""

    reach_um = 100.0

    def predict(self, X: np.ndarray, positions: Positions) -> np.ndarray:
        return np.full((len(X), 2), 0.01 * (40 - len(X)))


def test_the_change_is_told_in_standard_deviations_of_the_labels() -> None:
    xy_um = np.column_stack([np.arange(40) * 100.0, np.zeros(40)])
    Y = np.column_stack([np.tile([0.0, 0.2], 20), np.full(40, 0.5)])  # one type varies, with an SD of .1
    positions = Positions(np.zeros(40, int), xy_um)
    X = np.zeros((40, 3), np.float32)
    found = crop_stability(Shifted(), X, Y, positions)  # type: ignore[arg-type]
    assert found is not None
    lost = found["largest"] * 0.1 / 0.01  # tiles that the smallest crop had lost
    assert lost == pytest.approx(round(lost)) and 4 <= lost < 40 and found["sd"] < found["largest"]
    assert found["sd"] >= 0.1 * 4
    assert crop_stability(Shifted(), X, np.ones_like(Y), positions) is None  # type: ignore[arg-type]
    far = Shifted()
    far.reach_um = 1e5
    assert crop_stability(far, X, Y, positions) is None  # type: ignore[arg-type]
    assert crop_stability(Shifted(), X, Y, positions, seed=1) != found  # type: ignore[arg-type]
    assert crop_stability(Shifted(), X, Y, positions) == found  # type: ignore[arg-type]


def test_the_card_tells_it(tmp_path: Path) -> None:
    donors = {"A1": "A", "B1": "B", "C1": "C"}
    features = {name: features_of(name, n=300) for name in donors}
    labels = {name: labels_of(table) for name, table in features.items()}
    head = train(cohort_of(donors), features, labels, head="ridge", out=tmp_path / "head")
    facts = head.card["crop_stability"]
    assert facts["sd"] == facts["largest"] == 0.0 and facts["n_tiles"] > 50
    assert load_head(tmp_path / "head").card["crop_stability"] == facts
    assert "at tiles that were kept but for 0.000 standard deviations of the labels" in head.card_markdown()
    parameters = {"slide_scale": True, "rings_um": (400.0,)}
    scaled = train(cohort_of(donors), features, labels, head="ridge", parameters=parameters)
    text = scaled.card_markdown()
    assert "farther than 400 um from what was cut away" in text and "depend on how much of a slide is read" in text
    del scaled.card["crop_stability"]
    assert "Cropped at random" not in scaled.card_markdown()


def test_few_tiles_of_a_large_cohort_are_predicted() -> None:
    counted = []

    class Counted(Shifted):
        def predict(self, X: np.ndarray, positions: Positions) -> np.ndarray:
            counted.append(len(X))
            return np.zeros((len(X), 1))

    n = 20_000
    rng = np.random.default_rng(0)
    positions = Positions(np.repeat(np.arange(4), n // 4), rng.uniform(0, 10_000, (n, 2)))
    found = crop_stability(Counted(), np.zeros((n, 2), np.float32), rng.random((n, 1)), positions)  # type: ignore[arg-type]
    assert found is not None and found["sd"] == 0 and sum(counted) < 8000
