"""What more donors in training do: planted where they help, where they harm, and what must not leak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator

from histomix.common.anonymity.pseudonyms import open_pseudonyms
from histomix.errors import InputError
from histomix.evaluation.more_donors import check_more_donors, more_donors, more_donors_words, n_fits
from histomix.heads import TrainingSet, card_markdown, make_estimator, private_card, train
from histomix.heads.cards.card import evaluation_scores

from .test_evaluation import MakeData, linear, make_data
from .test_head_files import cohort_of, features_of, labels_of

__all__ = ["make_data"]  # a fixture
TWO_EACH = {f"{donor}{number}": (donor, 30) for donor in "ABCD" for number in (1, 2)}


def cohort(slope: dict[str, float], noise: float, n: int = 30, n_sections: int = 2) -> TrainingSet:
    """Donors whose one cell type follows the first of six features with a slope of their own."""
    rng = np.random.default_rng(0)
    section = np.repeat([f"{donor}{i}" for donor in slope for i in range(n_sections)], n)
    donor = np.array([name[0] for name in section])
    X = rng.normal(size=(len(section), 6)).astype(np.float32)
    own = np.array([slope[name] for name in donor])
    first = 5 + own * X[:, 0] + noise * rng.normal(size=len(X))
    return TrainingSet(
        X=X,
        Y=np.column_stack([np.maximum(first, 0), np.maximum(5 - first / 2, 0)]),
        keys=np.arange(len(X)).astype(str),
        section=section,
        donor=donor,
        xy_um=rng.uniform(0, 900, (len(X), 2)),
        cell_types=["a", "b"],
        unit="cells per spot",
        features={},
    )


def ridge() -> dict[str, Any]:
    return {"ridge": make_estimator("ridge", "cells per spot")}


def test_donors_alike_help_one_another_and_unseen_ones() -> None:
    training = cohort(dict.fromkeys("ABCDE", 1.0), noise=3.0)
    found = more_donors(training, ridge())
    one = found["heads"]["ridge"]
    for name, sizes in (("same_donors", [1, 2, 4, 5]), ("other_donors", [1, 2, 4])):
        assert [point["n_donors"] for point in one[name]] == sizes
        means = [point["mean"] for point in one[name]]
        assert means[0] < means[1] and means[0] < means[-1]
        assert all(point["low"] < point["mean"] < point["high"] for point in one[name])
    assert one["second_donor"]["mean"] > 0
    assert (found["n_donors"], found["n_sections"], found["n_fits"]) == (5, 10, 2 * 16)
    assert found["n_fits"] == n_fits(training)


def test_a_donor_that_contradicts_the_others_harms_them() -> None:
    found = more_donors(cohort({"A": 1.0, "B": -1.0, "C": 1.0}, noise=0.5), ridge())
    one = found["heads"]["ridge"]
    assert one["second_donor"]["mean"] < -0.1
    assert one["same_donors"][0]["mean"] > 0.8 > one["same_donors"][-1]["mean"]


class Rows(BaseEstimator):
    """Remembers the rows that it was fitted on and read, and answers with the first feature."""

    fits: list[np.ndarray] = []  # noqa: RUF012
    reads: list[np.ndarray] = []  # noqa: RUF012

    def fit(self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray) -> Rows:
        self.fits.append(X)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        self.reads.append(X)
        return np.column_stack([X[:, 0], X[:, 0]])


def test_no_held_out_section_is_trained_on_and_every_set_of_donors_stands_once() -> None:
    Rows.fits, Rows.reads = [], []
    training = cohort(dict.fromkeys("ABCD", 1.0), noise=1.0, n_sections=3)
    steps: list[int] = []
    found = more_donors(training, {"rows": Rows()}, step=lambda: steps.append(1))
    row_of = {row.tobytes(): number for number, row in enumerate(training.X)}
    sets = []
    for fitted, read in zip(Rows.fits, Rows.reads, strict=True):
        train, test = ([row_of[row.tobytes()] for row in part] for part in (fitted, read))
        assert not set(training.section[train]) & set(training.section[test])
        assert sorted(training.donor[test]) == sorted("ABCD" * 30)
        assert len(train) == 60 * len(set(training.donor[train]))
        sets.append((frozenset(training.section[test]), frozenset(training.donor[train])))
    assert len(set(sets)) == len(sets) == len(steps) == found["n_fits"] == 2 * 13
    # The head does not learn, so more donors change nothing.
    assert found["heads"]["rows"]["second_donor"]["mean"] == found["heads"]["rows"]["last_donor"]["mean"] == 0


def test_the_same_seed_gives_the_same_figures_and_many_donors_are_drawn() -> None:
    training = cohort(dict.fromkeys("ABCDEFGH", 1.0), noise=2.0, n=12)
    one, two, other = (more_donors(training, ridge(), seed=seed) for seed in (0, 0, 1))
    assert one["heads"] == two["heads"] != other["heads"] and one["n_donors"] == 6


def test_too_few_donors_are_refused_before_any_fit(make_data: MakeData) -> None:
    two = {"a1": ("A", 20), "a2": ("A", 20), "b1": ("B", 20), "b2": ("B", 20), "c1": ("C", 20)}
    data = make_data(two, linear(0.1))
    with pytest.raises(InputError, match=r"at least 3 donors with two sections or more; there are 2\. Leave"):
        data.run(more_donors=True, progress=lambda *_: pytest.fail("work had begun"))
    assert check_more_donors(cohort(dict.fromkeys("ABC", 1.0), 1.0)) == ["A", "B", "C"]


def test_an_evaluation_tells_it_and_the_card_carries_it(make_data: MakeData, tmp_path: Path) -> None:
    data = make_data(TWO_EACH, linear(0.5))
    steps: list[tuple[int, int]] = []
    told = data.run(
        heads=["ridge", "knn"],
        more_donors=True,
        progress=lambda task, done, total: steps.append((done, total)) if task == "evaluate" else None,
    )
    facts = told.summary["more_donors"]
    assert list(facts["heads"]) == ["ridge", "knn"] and steps[-1] == (steps[-1][1], 3 * 4 + 2 * 2 * 13)
    text = told.text()
    assert "more donors, mean Pearson of 8 held-out sections of 4 donors (52 fits" in text
    assert "to sections of those before it the second donor adds" in text
    plain = data.run(heads=["ridge", "knn"])
    assert "more_donors" not in plain.summary and plain.summary["scores"] == told.summary["scores"]
    assert more_donors_words(None) == []
    training = data.training
    scores = evaluation_scores({**told.summary, "features": {}}, "knn", training)
    assert scores["more_donors"] == {**facts["heads"]["knn"], "n_donors": 4, "n_sections": 8}
    card = {"scores": {**scores, "more_donors": {**scores["more_donors"], "by": "Dr. Who"}}, "training": {}}
    parts = {name: features_of(name) for name in ("A1", "B1")}
    whole = train(
        cohort_of({"A1": "A", "B1": "B"}), parts, {name: labels_of(one) for name, one in parts.items()}, head="knn"
    )
    words = card_markdown(whole.card | {"scores": scores})
    added = facts["heads"]["knn"]["second_donor"]["mean"]
    assert "More donors in training: unseen donors" in words and f"the second donor adds {added:+.3f} (" in words
    private = private_card(card, open_pseudonyms(True, tmp_path / "key", tmp_path / "out", []))  # type: ignore[arg-type]
    assert private["scores"]["more_donors"] == scores["more_donors"]
