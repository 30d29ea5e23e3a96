"""How baselines choose their settings: inside the training donors, with as many trials each, and told in the card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histomix.common.metrics import within_sections
from histomix.heads import HEADS, MeanRegressor, Positions, held_out_predictions, load_head, make_estimator, train
from histomix.heads.inner_folds import inner_splits
from histomix.heads.models import boosting, hist2cell, knn, pcr
from histomix.heads.models.search import JUDGED_BY, N_TRIALS, Search, crossed, settings_to_try

from .extras import heads_here
from .test_evaluation import COHORT, MakeData, linear, make_data
from .test_head_contract import lattice
from .test_head_files import MPP, TYPES, cohort_of, features_of, labels_of
from .test_heads import simulate

pytestmark = pytest.mark.once

__all__ = ["make_data"]  # a fixture
SEARCHED = ("ridge", "knn", "pcr", "gbm", "sun2025", "hist2cell")
QUICK: dict[str, dict[str, Any]] = {
    "gbm": {"n_components": 6},
    "sun2025": {"hidden": (8, 4), "max_epochs": 3},
    "hist2cell": {"epochs": 1},
}
UNIT = "cells per spot"


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray, Positions]:
    X, Y, donor = simulate(UNIT, n=96)
    return X, Y, donor, Positions(donor, np.tile(lattice(24) * MPP, (4, 1)))


def fit(name: str, rows: Any, **parameters: Any) -> Any:
    X, Y, donor, positions = rows
    head = make_estimator(name, UNIT, **{**QUICK.get(name, {}), **parameters})
    return head.fit(X, Y, groups=donor, positions=positions)


@pytest.mark.parametrize("name", heads_here(SEARCHED))
def test_every_baseline_has_as_many_trials_and_says_what_they_gave(name: str, rows: Any) -> None:
    head = fit(name, rows)
    found = head.search_
    assert found["n_trials"] == len(found["trials"]) == N_TRIALS and found["n_splits"] >= 1
    tried = [repr({key: value for key, value in one.items() if key != "score"}) for one in found["trials"]]
    assert len(set(tried)) == N_TRIALS
    best = max(found["trials"], key=lambda one: one["score"])  # of trials that do alike the first one
    assert {key: best[key] for key in found["chosen"]} == found["chosen"]
    if name != "ridge":
        assert found["judged_by"] == JUDGED_BY
    assert fit(name, rows).search_ == found  # the same seed, the same choice
    again = head.as_chosen()
    assert {key: value for key, value in found["chosen"].items() if key in again.get_params()}.items() <= dict(
        again.get_params()
    ).items()


@pytest.mark.parametrize("name", ["mean", "mlp", "average", "hist2cell-tiles"])
def test_other_heads_search_nothing(name: str, rows: Any) -> None:
    parameters = {"mlp": {"members": 2, "max_epochs": 2}, "average": {"heads": ("knn", "mean")}}.get(name, {})
    if name == "hist2cell-tiles":
        head = make_estimator(name)
        assert (head.get_params()["learning_rate"], head.get_params()["epochs"]) == (1e-4, 20)  # their authors'
    else:
        assert fit(name, rows, **parameters).search_ is None


def test_the_average_keeps_the_settings_of_its_members() -> None:
    members = make_estimator("average")._make()  # type: ignore[attr-defined]
    assert {name: one.get_params().get("learning_rate") for name, one in members.items()} == {
        "ridge": None,
        "mlp": make_estimator("mlp").get_params()["learning_rate"],
        "sun2025": 1e-3,
    }
    assert members["sun2025"].get_params()["dropout"] == 0.3


@pytest.mark.parametrize(("name", "settings"), [("knn", {"n_neighbors": 5}), ("pcr", {"alpha": 0.3})])
def test_what_is_given_is_not_searched(name: str, settings: dict[str, Any], rows: Any) -> None:
    head = fit(name, rows, **settings)
    assert settings.items() <= head.search_["chosen"].items() and head.search_["n_trials"] == N_TRIALS
    fixed = fit(name, rows, n_components=8, **settings)
    assert fixed.search_ is None
    rates = fit("gbm", rows, learning_rate=0.2, max_iter=20).search_
    assert [one["learning_rate"] for one in rates["trials"]] == [0.2, 0.2] and rates["n_trials"] == 2


def planted(smooth: bool, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Five donors in which the nearest spots say all, or in which only many of them together say anything."""
    rng = np.random.default_rng(1)
    donor = np.repeat(list("abcde"), n)
    X = rng.normal(size=(len(donor), 3)).astype(np.float32)
    if smooth:
        Y = 5 + 3 * np.sin(4 * X[:, :1]) * np.cos(3 * X[:, 1:2])
    else:
        Y = 5 + 0.3 * X[:, :1] + 2 * rng.normal(size=(len(donor), 1))
    return X, np.maximum(np.column_stack([Y, 10 - Y]), 0), donor


def test_the_better_value_is_found_by_inner_donors() -> None:
    few, many = (make_estimator("knn", UNIT).fit(*planted(smooth)).n_neighbors_ for smooth in (True, False))  # type: ignore[attr-defined]
    assert few <= 10 and many >= 60
    weak, strong = (
        make_estimator("pcr", UNIT).fit(X, Y, donor).search_["chosen"]["alpha"]  # type: ignore[index]
        for X, Y, donor in (_linear(noise=0.01), _linear(noise=30.0))
    )
    assert weak < strong


def _linear(noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 40)).astype(np.float32)
    Y = 50 + X @ rng.normal(size=(40, 2)) + noise * rng.normal(size=(150, 2))
    return X, np.maximum(Y, 0), np.repeat(list("abcde"), 30)


def test_the_choice_is_that_of_each_donors_absence() -> None:
    """Recomputed by hand: every donor is predicted by fits without it, and the best mean within donors wins."""
    X, Y, donor = planted(False)
    head: Any = make_estimator("knn", UNIT, n_components=3).fit(X, Y, donor)
    scores = {}
    for count in knn._NEIGHBOURS:
        held_out = np.full(Y.shape, np.nan)
        for name in np.unique(donor):
            alone = make_estimator("knn", UNIT, n_components=3, n_neighbors=count)
            held_out[donor == name] = alone.fit(X[donor != name], Y[donor != name]).predict(X[donor == name])
        scores[count] = within_sections(Y, held_out, donor)
    assert head.n_neighbors_ == max(scores, key=scores.__getitem__)
    assert head.search_["trials"][0]["score"] == pytest.approx(max(scores.values()), abs=1e-4)
    np.testing.assert_allclose(within_sections(Y, head.held_out_, donor), max(scores.values()), atol=1e-6)


def test_nothing_of_a_test_donor_is_seen(make_data: MakeData) -> None:
    """Labels of a tested donor changed: what heads chose without it, and predicted of it, stays."""
    first = make_data(COHORT, linear(1.0))
    one = first.run(heads=["knn", "pcr"])
    first.training.Y[first.training.donor == "C"] *= 7
    two = first.run(heads=["knn", "pcr"])
    fold = [facts["name"] for facts in one.summary["folds"]].index("C")
    for name in ("knn", "pcr", "ridge"):
        assert one.summary["searched"][name]["chosen"][fold] == two.summary["searched"][name]["chosen"][fold]
        for section in ("c1",):
            np.testing.assert_array_equal(one.predictions[name][section], two.predictions[name][section])


def test_an_evaluation_says_who_was_searched_and_what_it_cost(make_data: MakeData) -> None:
    result = make_data(COHORT, linear(0.5)).run(heads={"knn": None, "own": MeanRegressor(UNIT)})
    facts = result.summary["searched"]
    assert list(facts) == ["ridge", "knn"] and all(one["n_trials"] == N_TRIALS for one in facts.values())
    assert len(facts["knn"]["chosen"]) == len(facts["knn"]["n_splits"]) == 3
    text = result.text()
    assert "settings: 4 trials each inside the training donors: ridge, knn; their own: own" in text
    assert "seconds to fit and predict, all folds: ridge " in text


def test_the_card_carries_the_search_and_the_head_is_restored(tmp_path: Path) -> None:
    donors = {"A1": "A", "B1": "B", "C1": "C"}
    features = {name: features_of(name) for name in donors}
    labels = {name: labels_of(table) for name, table in features.items()}
    head = train(cohort_of(donors), features, labels, head="knn", out=tmp_path / "head")
    found = head.card["head"]["search"]
    assert found == head.estimator.search_ and head.card["head"]["parameters"]["n_neighbors"] is None
    again = load_head(tmp_path / "head")
    assert again.estimator.n_neighbors_ == found["chosen"]["n_neighbors"]  # type: ignore[attr-defined]
    X = np.random.default_rng(0).standard_normal((20, 12)).astype(np.float32)
    np.testing.assert_array_equal(again.estimator.predict(X), head.estimator.predict(X))
    text = head.card_markdown()
    assert f"n\\_neighbors {found['chosen']['n_neighbors']}" in text or "n_neighbors" in text
    assert "4 trials on 3 inner splits, by the mean Pearson correlation within held-out sections" in text
    assert text.count("  - tried: `{'n_components'") == N_TRIALS and head.card["cell_types"] == TYPES
    assert "search" not in train(cohort_of(donors), features, labels, head="mean").card["head"]


def test_a_head_of_an_older_version_is_restored() -> None:
    """Before there was a search, the number of neighbours stood among the parameters alone."""
    X, Y, donor = planted(True)
    old: Any = make_estimator("knn", UNIT, n_neighbors=7, n_components=3).fit(X, Y, donor)
    arrays, numbers = old.fitted()
    del numbers["n_neighbors_"]
    again = make_estimator("knn", UNIT, n_neighbors=7, n_components=3).restore(arrays, numbers)
    np.testing.assert_array_equal(again.predict(X), old.predict(X))


def test_held_out_predictions_do_not_search_again(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    X, Y, donor, positions = rows
    head = fit("gbm", rows)
    assert head.held_out_ is None
    monkeypatch.setattr(boosting, "Search", lambda *_: pytest.fail("searched inside an inner split"))
    held_out, _ = held_out_predictions(head, X, Y, donor, positions)
    train_rows, test = inner_splits(len(X), donor)[0]
    alone = make_estimator("gbm", UNIT, n_components=6, **head.search_["chosen"]).fit(X[train_rows], Y[train_rows])
    np.testing.assert_allclose(held_out[test], alone.predict(X[test]), atol=1e-9)


def test_trials_and_their_path() -> None:
    assert crossed(a=(1, 2), b=(3, 4)) == [{"a": 1, "b": 3}, {"a": 1, "b": 4}, {"a": 2, "b": 3}, {"a": 2, "b": 4}]
    head = make_estimator("gbm", learning_rate=0.3)
    assert settings_to_try(head, boosting._TRIALS) == [
        {"learning_rate": 0.3, "max_leaf_nodes": 8},
        {"learning_rate": 0.3, "max_leaf_nodes": 4},
    ]
    Y = np.random.default_rng(0).random((20, 2))
    noise = np.random.default_rng(1).random((20, 2))
    search = Search(Y, np.repeat([0, 1], 10), None)
    assert search.trial({"a": 1}, [({"k": 1}, noise), ({"k": 2}, Y + noise)])
    assert not search.trial({"a": 2}, [({"k": 1}, noise)])
    assert search.trial({"a": 3}, [({"k": 3}, Y)]) and not search.trial({"a": 4}, [({"k": 3}, Y)])
    nothing = np.full(Y.shape, np.nan)
    assert not search.trial({"a": 5}, [({"k": 1}, nothing)]) and not search.trial({"a": 6}, [])
    facts = search.facts(2)
    assert facts["chosen"] == {"a": 3, "k": 3} and facts["trials"][0]["k"] == 2 and facts["trials"][2]["score"] == 1.0
    assert facts["trials"][4] == {"a": 5, "k": 1, "score": None} and facts["trials"][5] == {"a": 6, "score": None}
    alone = Search(Y, None, None)
    assert alone.trial({"a": 1}, [({}, nothing)]) and alone.settings == {"a": 1}


def test_every_head_with_values_to_try_has_the_authors_or_the_old_ones_first() -> None:
    assert set(SEARCHED) <= set(HEADS)
    assert pcr._COMPONENTS[0] == 256 and pcr._ALPHAS[0] == 0.01  # HEST-bench's
    assert hist2cell._TRIALS[0] == {"learning_rate": 1e-4} and knn._NEIGHBOURS[0] == 30
