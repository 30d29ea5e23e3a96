"""How well slides are told apart by their means: against values computed here by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from histomix.evaluation.scores.levels import BETWEEN, NEITHER, WITHIN, across_slides, good_for, slide_errors
from histomix.evaluation.text import level_words

from .test_evaluation import COHORT, MakeData, linear, make_data

__all__ = ["make_data"]  # a fixture
TYPES = ["a", "b"]


@pytest.fixture
def slides() -> dict[str, Any]:
    """Four slides of three donors with known levels, predicted at half their distance from 0.5, in turned order."""
    rng = np.random.default_rng(0)
    level = {"s1": 0.2, "s2": 0.8, "s3": 0.4, "s4": 0.6}
    section = np.repeat(list(level), [5, 7, 9, 11])
    donor = np.where(section == "s1", "D1", np.where(section == "s2", "D2", "D3"))
    wobble = rng.normal(scale=0.01, size=len(section))
    first = np.array([level[name] for name in section]) + wobble
    observed = np.column_stack([first, 1 - first])
    predicted = np.column_stack([0.5 + (first - 0.5) / 2, 0.5 + (first - 0.5) / 2])
    return {"observed": observed, "predicted": predicted, "section": section, "donor": donor}


def test_errors_are_those_of_each_slides_mean(slides: dict[str, Any]) -> None:
    constant = np.full_like(slides["observed"], 0.3)
    args = slides["observed"], slides["predicted"], constant, slides["section"], slides["donor"]
    table = slide_errors(*args, TYPES).set_index(["metric", "section", "cell_type"])
    frame = pd.DataFrame(slides["observed"], columns=TYPES).groupby(slides["section"]).mean()
    answer = pd.DataFrame(slides["predicted"], columns=TYPES).groupby(slides["section"]).mean()
    for name in frame.index:
        for kind in TYPES:
            truth = frame.at[name, kind]
            assert table.at[("slide_mae", name, kind), "value"] == pytest.approx(abs(answer.at[name, kind] - truth))
            assert table.at[("slide_mae_constant", name, kind), "value"] == pytest.approx(abs(0.3 - truth))
    assert table["n_spots"].groupby("section").first().tolist() == [5, 7, 9, 11]
    assert table["donor"].groupby("section").first().tolist() == ["D1", "D2", "D3", "D3"]


def test_order_and_spread_are_over_all_slides(slides: dict[str, Any]) -> None:
    entries = across_slides(**slides, cell_types=TYPES, seed=0)
    means = pd.DataFrame(slides["observed"], columns=TYPES).groupby(slides["section"]).mean()
    answer = pd.DataFrame(slides["predicted"], columns=TYPES).groupby(slides["section"]).mean()
    for kind in TYPES:
        order, spread = (entries[name]["types"][kind]["mean"] for name in ("slide_spearman", "spread_kept"))
        assert order == pytest.approx(spearmanr(means[kind], answer[kind]).statistic)
        assert spread == pytest.approx(answer[kind].std() / means[kind].std())
    assert [entries["slide_spearman"]["types"][kind]["mean"] for kind in TYPES] == pytest.approx([1, -1])
    assert entries["spread_kept"]["mean"] == pytest.approx(0.5)
    assert entries["spread_kept"]["n_donors"] == 3 and entries["spread_kept"]["n_sections"] == 4
    kept = entries["spread_kept"]["types"]["a"]
    assert kept["low"] == pytest.approx(0.5, abs=1e-6) and kept["high"] == pytest.approx(0.5, abs=1e-6)


def test_spots_without_truth_and_few_slides_are_left_out(slides: dict[str, Any]) -> None:
    observed = slides["observed"].copy()
    observed[slides["section"] == "s4"] = np.nan
    left = across_slides(**{**slides, "observed": observed}, cell_types=TYPES, seed=0)
    assert left["slide_spearman"]["n_sections"] == 3
    observed[slides["section"] == "s3"] = np.nan
    assert across_slides(**{**slides, "observed": observed}, cell_types=TYPES, seed=0) == {}


def test_a_type_without_levels_has_no_spread(slides: dict[str, Any]) -> None:
    observed = slides["observed"].copy()
    observed[:, 1] = 0.25
    entries = across_slides(**{**slides, "observed": observed}, cell_types=TYPES, seed=0)
    assert entries["spread_kept"]["types"]["b"]["mean"] is None
    assert entries["spread_kept"]["n_types"] == 1 and entries["spread_kept"]["mean"] == pytest.approx(0.5)


def entry(low: float | None, high: float | None) -> dict[str, float | None]:
    return {"mean": 0.0, "low": low, "high": high}


@pytest.mark.parametrize(
    ("level", "place", "word"),
    [
        (entry(-0.2, -0.1), entry(0.1, 0.2), BETWEEN),
        (entry(-0.2, -0.1), entry(-0.1, 0.2), BETWEEN),
        (entry(-0.2, 0.1), entry(0.1, 0.2), WITHIN),
        (entry(-0.2, 0.1), entry(-0.1, 0.2), NEITHER),
        (entry(None, None), entry(None, None), NEITHER),
        (entry(None, None), entry(0.1, 0.2), WITHIN),
    ],
)
def test_what_a_type_is_good_for(level: dict[str, Any], place: dict[str, Any], word: str) -> None:
    scores = {"slide_mae": {"minus_constant": {"a": level}}, "pearson": {"types": {"a": place}}}
    assert good_for(scores, donors_unseen=True) == {"a": word}
    # Of donors that were in training, or of one, nothing is known about the next one's level.
    known = WITHIN if (place["low"] or 0) > 0 else NEITHER
    assert good_for(scores, donors_unseen=False) == {"a": known}


def test_the_training_mean_is_its_own_constant(make_data: MakeData) -> None:
    result = make_data(COHORT, linear(0.1)).run()
    rows = result.metrics[(result.metrics["target"] == "label") & (result.metrics["head"] == "mean")]
    errors = {name: rows[rows["metric"] == name]["value"].to_numpy() for name in ("slide_mae", "slide_mae_constant")}
    assert len(errors["slide_mae"]) == 12
    np.testing.assert_allclose(errors["slide_mae"], errors["slide_mae_constant"])
    scores = result.summary["scores"]["label"]
    assert set(scores["ridge"]["good_for"]) == {"T cell", "B cell", "Tumour"}
    across = result.metrics[(result.metrics["metric"] == "spread_kept") & (result.metrics["head"] == "ridge")]
    assert across["section"].eq("").all() and len(across) == 3


def test_a_head_says_what_each_type_is_good_for() -> None:
    scores = {
        "slide_mae": {"mean": 0.1},
        "slide_mae_constant": {"mean": 0.2},
        "slide_spearman": {"mean": 0.25},
        "good_for": {"a": BETWEEN, "b": WITHIN, "c": WITHIN},
    }
    assert level_words({"mean": scores, "mlp": scores, "old": {"pearson": {}}}) == [
        "mlp, means of slides: error 0.50 of a constant's, order (Spearman) 0.25; between slides: a; "
        "within a slide only: b, c"
    ]


def test_levels_of_donors_are_told_where_features_hold_them(make_data: MakeData) -> None:
    """Ten donors whose level is in the features: ridge tells slides apart by it."""

    def label(X: np.ndarray, donor: str) -> np.ndarray:
        X[:, 0] = int(donor[1:])
        return np.column_stack([X[:, 0] / 10 + X[:, 1] / 10 + 1, np.full(len(X), 2.0)])

    data = make_data({f"s{i}": (f"D{i}", 20) for i in range(10)}, label)
    scores = data.run().summary["scores"]["label"]["ridge"]
    assert scores["good_for"]["T cell"] == BETWEEN
    seen = data.run(folds="random").summary["scores"]["label"]["ridge"]
    assert seen["slide_mae"]["minus_constant"]["T cell"]["high"] < 0 and seen["good_for"]["T cell"] != BETWEEN
    assert scores["slide_spearman"]["types"]["T cell"]["mean"] > 0.95
    assert scores["spread_kept"]["types"]["T cell"]["mean"] > 0.7
    assert (
        scores["slide_mae"]["types"]["T cell"]["mean"] < 0.3 * scores["slide_mae_constant"]["types"]["T cell"]["mean"]
    )
