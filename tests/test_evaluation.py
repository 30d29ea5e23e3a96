"""Folds without leaks, heads fitted inside them, honest summaries, and a folder that reads back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.stats import pearsonr
from sklearn.base import BaseEstimator
from threadpoolctl import threadpool_limits

from histomix.abundance import Abundance
from histomix.common.resampling import DRAWS, resample_weights
from histomix.errors import HeadError, InputError, LabelError
from histomix.evaluation import PROTOCOLS, CohortData, Evaluation, evaluate, make_folds, read_evaluation
from histomix.evaluation.baselines import NUCLEI, ORACLE
from histomix.evaluation.data import evaluation_data
from histomix.heads import TrainingSet, calibrate, make_estimator
from histomix.slides import find_nuclei
from histomix.spots import Cohort
from histomix.spots.sheet import SheetRow

from .conftest import Job, manifest_of

FOLDS = [name for name in PROTOCOLS if name != "transfer"]
TYPES = ["T cell", "B cell", "Tumour"]
CELLS = "cells per spot"


class Data(SimpleNamespace):
    """What `evaluate` is given, and the arrays it was made from."""

    def run(self, **options: Any) -> Evaluation:
        options = {"heads": (), "spatial": False, **options}
        return evaluate(self.cohort, self.features, self.labels, **options)


MakeData = Callable[..., Data]


@pytest.fixture
def make_data(monkeypatch: pytest.MonkeyPatch) -> MakeData:
    """Make features and labels of sections ``{name: (donor, n_spots)}``; assembling them is another room's work."""

    def make(
        sections: dict[str, tuple[str, int]], label: Callable[[np.ndarray, str], np.ndarray], unit: str = CELLS
    ) -> Data:
        rng = np.random.default_rng(0)
        frames, features, labels = [], {}, {}
        for name, (donor, count) in sections.items():
            X = rng.normal(size=(count, 8))
            keys = [f"{i}x{i + 1}" for i in range(count)]
            places = pd.DataFrame(rng.random((count, 2)) * 1000, keys, ["x_px", "y_px"])
            Y = label(X, donor)
            labels[name] = Abundance(pd.DataFrame(Y, keys, TYPES[: Y.shape[1]]), unit)
            features[name] = AnnData(X.astype(np.float32), obs=places)
            features[name].uns["manifest"] = json.dumps(
                {
                    "section": name,
                    "identity": name,
                    "slide": {"fingerprint": name, "mpp": 0.5},
                    "encoder": {"name": "fake", "digest": "x", "dim": 8, "views": 1},
                    "tile": {"size_px": 224, "mpp": 0.5},
                }
            )
            frames.append((X, Y, keys, [name] * count, [donor] * count, places.to_numpy() / 2))
        X, Y, keys, section, donor_, xy = (np.concatenate(part) for part in zip(*frames, strict=True))
        training = TrainingSet(
            X=X,
            Y=Y,
            keys=keys,
            section=section,
            donor=donor_,
            xy_um=xy,
            cell_types=TYPES[: Y.shape[1]],
            unit=unit,
            features={"encoder": {"name": "fake"}},
        )
        monkeypatch.setattr("histomix.common.geometry.shift_null.MOST_SHIFTS", 49)  # what they find is told elsewhere
        monkeypatch.setattr("histomix.common.geometry.shift_null.FEWEST_SHIFTS", 49)
        monkeypatch.setattr("histomix.evaluation.data.assemble", lambda *_: training)
        rows = [SheetRow(name, donor, Path(), None, "csv", "", site=donor) for name, (donor, _) in sections.items()]
        return Data(cohort=Cohort(Path("sheet.csv"), rows), features=features, labels=labels, training=training)

    return make


def linear(noise: float) -> Callable[[np.ndarray, str], np.ndarray]:
    """Cells that follow the first features in the same way in every donor."""
    rng = np.random.default_rng(1)
    return lambda X, _: np.clip(3 + X[:, :3] + noise * rng.normal(size=(len(X), 3)), 0, None)


COHORT = {"a1": ("A", 60), "a2": ("A", 50), "b1": ("B", 70), "c1": ("C", 40)}


class Spy(BaseEstimator):
    """Remembers what it was fitted on; predicts zeros, or what ``answer`` says."""

    fits: list[tuple[np.ndarray, np.ndarray]] = []  # noqa: RUF012
    answer: Callable[[np.ndarray], np.ndarray] | None = None

    def fit(self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray) -> Spy:
        type(self).fits.append((X, groups))
        self.n_types_ = Y.shape[1]
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        answer = type(self).answer
        return np.zeros((len(X), self.n_types_)) if answer is None else answer(X)


@pytest.fixture(autouse=True)
def _fresh_spy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Spy, "fits", [])
    monkeypatch.setattr(Spy, "answer", None)


# --- folds


@pytest.mark.parametrize("protocol", FOLDS)
@pytest.mark.parametrize("n", [None, 2])
def test_every_row_is_tested_once_and_never_trained_on(protocol: str, n: int | None) -> None:
    section = np.repeat(["s1", "s2", "s3", "s4", "s5"], [30, 3, 20, 9, 50])
    donor = np.repeat(["d1", "d1", "d2", "d3", "d3"], [30, 3, 20, 9, 50])
    site = np.repeat(["north", "north", "south", "east", "east"], [30, 3, 20, 9, 50])
    folds = make_folds(section, donor, protocol, n, site=site)
    assert len(folds) == (n or {"donor": 3, "site": 3, "section": 5, "random": 5}[protocol])
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(112))
    for fold in folds:
        assert sorted([*fold.train, *fold.test]) == list(range(112))
        if protocol != "random":
            assert not set(section[fold.train]) & set(section[fold.test])
        if protocol == "site":
            assert not set(site[fold.train]) & set(site[fold.test])
        if protocol in ("donor", "site"):
            assert not set(donor[fold.train]) & set(donor[fold.test])


def test_folds_are_named_balanced_and_seeded() -> None:
    donor = np.repeat(["d1", "d2", "d3", "d4"], [10, 40, 30, 20])
    assert [fold.name for fold in make_folds(donor, donor, "donor")] == ["d1", "d2", "d3", "d4"]
    assert [len(fold.test) for fold in make_folds(donor, donor, "donor", 2)] == [50, 50]
    first, again, other = (make_folds(donor, donor, "random", seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a.test, b.test) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a.test, b.test) for a, b in zip(first, other, strict=True))
    # Each random fold has its share of each donor's spots.
    assert all(np.unique(donor[fold.test], return_counts=True)[1].tolist() == [2, 8, 6, 4] for fold in first)


@pytest.mark.parametrize(
    ("donor", "options", "message"),
    [
        (["d"] * 4, {}, "1 donor cannot make 2 folds. Add donors, or use --folds section, which is optimistic"),
        (["d", "e", "e", "e"], {"n": 3}, "2 donors cannot make 3 folds. Use from 2 to 2 folds"),
        (["d", "e", "e", "e"], {"n": 1}, "1 is too few folds"),
        (["d", "", "e", "e"], {}, "some spots have no donor"),
        (
            ["d", "e", "e", "e"],
            {"protocol": "patient"},
            "no folds called 'patient'. Choose from donor, site, section",
        ),
        (["d", "e", "e", "e"], {"protocol": "transfer"}, "need a second cohort"),
        (["d", "e", "e", "e"], {"protocol": "site"}, "1 sections have no site (s)"),
        (["d", "e", "e", "e"], {"protocol": "site", "site": ["x"] * 4}, "1 site cannot make 2 folds"),
    ],
)
def test_folds_that_cannot_be(donor: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        make_folds(["s"] * 4, donor, **options)
    assert message in str(caught.value)


# --- what is fitted, and on what


def telling(steps: list[tuple[int, int]]) -> Callable[[str, int, int], None]:
    """Keeps what is told of the fits."""

    def told(task: str, done: int, total: int) -> None:
        if task == "evaluate":
            steps.append((done, total))

    return told


@pytest.mark.parametrize("protocol", FOLDS)
def test_no_head_sees_a_row_that_it_is_tested_on(make_data: MakeData, protocol: str) -> None:
    data = make_data(COHORT, linear(0.1))
    steps: list[tuple[int, int]] = []
    result = data.run(heads={"spy": Spy()}, folds=protocol, progress=telling(steps))
    X, section, donor = data.training.X, data.training.section, data.training.donor
    rows = {row.tobytes(): index for index, row in enumerate(X)}
    folds = result.summary["folds"]
    assert len(Spy.fits) == len(folds)
    tested = []
    for fold, (fitted, groups) in zip(folds, Spy.fits, strict=True):
        trained = np.array([rows[row.tobytes()] for row in fitted])
        test = np.setdiff1d(np.arange(len(X)), trained)
        tested += list(test)
        assert (fold["n_train"], fold["n_test"]) == (len(trained), len(test))
        assert fold["donors"] == sorted(set(donor[test])) and fold["sections"] == sorted(set(section[test]))
        assert (fold["test_donors_in_training"] == 0) == (not set(donor[test]) & set(donor[trained]))
        donors, sections = len(set(donor[trained])), len(set(section[trained]))
        apart = donor if donors > 2 or donors == sections == 2 else section
        np.testing.assert_array_equal(groups, apart[trained])
    assert sorted(tested) == list(range(len(X)))
    total = 3 * len(folds)
    assert steps == [(done, total) for done in range(total + 1)]


def test_inner_groups_are_sections_when_one_or_two_donors_are_left(make_data: MakeData) -> None:
    sections = {"a1": ("A", 30), "a2": ("A", 30), "b1": ("B", 30), "c1": ("C", 30)}
    spy = Spy()
    make_data({name: sections[name] for name in ("a1", "a2", "b1")}, linear(0.1)).run(heads={"spy": spy})
    assert not hasattr(spy, "n_types_"), "every fold fits a fresh copy"
    assert {frozenset(groups) for _, groups in Spy.fits} == {frozenset({"a1", "a2"}), frozenset(range(5))}
    Spy.fits.clear()
    make_data(sections, linear(0.1)).run(heads={"spy": Spy()}, folds="section")
    assert {frozenset(groups) for _, groups in Spy.fits} == {
        frozenset({"A", "B", "C"}),  # a1 or a2 is left out: three donors stay
        frozenset({"a1", "a2", "c1"}),
        frozenset({"a1", "a2", "b1"}),
    }


def test_baselines_are_always_there(make_data: MakeData) -> None:
    result = make_data(COHORT, linear(0.1)).run(heads="knn")
    assert list(result.predictions) == ["mean", "ridge", "knn"]
    mean = result.summary["scores"]["label"]["mean"]
    assert mean["pearson"]["mean"] == mean["pearson_pooled"]["mean"] == mean["pearson_within"]["mean"] == 0
    assert mean["auroc_present"]["mean"] in (0.5, None)
    assert result.summary["scores"]["label"]["ridge"]["pearson"]["mean"] > 0.9


@pytest.mark.parametrize("bad", ["label", "labels", "", "..", "a/b", "a:b", "CON", "Ridge"])
def test_names_that_no_head_may_have(make_data: MakeData, bad: str) -> None:
    with pytest.raises(InputError, match=r"cannot be called|would have one folder"):
        make_data(COHORT, linear(0.1)).run(heads={bad: Spy()})


def test_an_unknown_head_is_refused_before_any_fit(make_data: MakeData) -> None:
    with pytest.raises(HeadError, match="oracle"):
        make_data(COHORT, linear(0.1)).run(heads=["oracle"], progress=lambda *_: pytest.fail("work had begun"))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda X: np.where(X[:, :3] == X.min(), np.nan, 1.0), "1 of .* predicted spots are not finite"),
        (lambda X: np.ones((len(X), 2)), "shape"),
    ],
)
def test_a_bad_prediction_is_an_error(make_data: MakeData, answer: Any, message: str, tmp_path: Path) -> None:
    Spy.answer = staticmethod(answer)
    data = make_data(COHORT, lambda X, _: np.abs(X[:, :3]))
    data.training.X[65, 0] = -50
    with pytest.raises(HeadError, match=message) as caught:
        data.run(heads={"spy": Spy()}, out=tmp_path / "eval")
    assert caught.value.where == "head spy, fold A"
    assert not (tmp_path / "eval").exists()


# --- what the numbers say


def test_scores_are_those_of_the_files_recomputed(make_data: MakeData, tmp_path: Path) -> None:
    make_data(COHORT, linear(1.0)).run(out=tmp_path / "eval", seed=3)
    metrics = pd.read_csv(tmp_path / "eval/metrics.csv", keep_default_na=False)
    expected = "head protocol fold donor section cell_type metric value target n_spots"
    assert list(metrics) == expected.split()
    assert set(metrics["protocol"]) == {"donor"} and set(metrics["target"]) == {"label"}
    values = pd.to_numeric(metrics.set_index(["head", "metric", "fold", "section", "cell_type"])["value"])
    found = []
    for section, fold in (("a1", "A"), ("a2", "A"), ("b1", "B"), ("c1", "C")):
        y = pd.read_csv(tmp_path / f"eval/labels/{section}.csv", index_col="spot")
        p = pd.read_csv(tmp_path / f"eval/predictions/ridge/{section}.csv", index_col="spot")
        assert list(p) == ["x_px", "y_px", *TYPES] and p.index.equals(y.index)
        for name in TYPES:
            found.append(pearsonr(y[name], p[name]).statistic)
            assert values["ridge", "pearson", fold, section, name] == pytest.approx(found[-1], abs=1e-10)
    summary = json.loads((tmp_path / "eval/summary.json").read_text())
    entry = summary["scores"]["label"]["ridge"]["pearson"]
    assert entry["mean"] == pytest.approx(np.mean(found), abs=1e-10)
    assert (entry["n_types"], entry["n_sections"], entry["n_donors"]) == (3, 4, 3)
    tumour = entry["types"]["Tumour"]
    assert (tumour["mean"], tumour["n_units"]) == (pytest.approx(np.mean(found[2::3])), 4)
    assert tumour["low"] <= tumour["mean"] <= tumour["high"]
    assert {name: one["n_units"] for name, one in entry["by_donor"].items()} == {"A": 2, "B": 1, "C": 1}
    assert entry["by_donor"]["A"]["mean"] == pytest.approx(np.mean(found[:6]), abs=1e-10)
    assert entry["by_donor"]["B"]["low"] is None
    assert entry["low"] < entry["mean"] < entry["high"]
    assert summary["scores"]["label"]["ridge"]["js_composition"]["n_types"] == 3
    assert summary["scores"]["label"]["mean"]["pearson"]["vs_ridge"]["mean"] == pytest.approx(-entry["mean"])
    assert "vs_ridge" not in entry
    assert summary["protocol_means"] == "held-out donors" and summary["unit"] == CELLS and summary["seed"] == 3
    assert summary["interval"]["caution"] == "the interval is rough: there are only 3 donors"
    assert (summary["scores"]["label"]["ridge"]["pearson_pooled"]["n_sections"]) == 4


def test_leaky_folds_score_higher_where_only_the_donor_can_be_learnt(make_data: MakeData) -> None:
    def own_rule(X: np.ndarray, donor: str) -> np.ndarray:
        # Each donor shows its own two features, and only those tell its cells.
        at = 2 * "ABCD".index(donor)
        X[:, [i for i in range(8) if i not in (at, at + 1)]] *= 0.01
        return 3 + np.clip(X[:, [at, at + 1]], -3, 3)

    data = make_data({"a1": ("A", 80), "b1": ("B", 80), "c1": ("C", 80), "d1": ("D", 80)}, own_rule)
    scores = {folds: data.run(folds=folds).summary["scores"]["label"]["ridge"]["pearson"]["mean"] for folds in FOLDS}
    assert scores["random"] > 0.9
    assert abs(scores["donor"]) < 0.5
    assert scores["section"] == pytest.approx(scores["donor"])


def test_shuffled_labels_score_nothing(make_data: MakeData) -> None:
    rng = np.random.default_rng(5)
    cohort = {f"{donor}1": (donor, 150) for donor in "ABCDEF"}
    result = make_data(cohort, lambda X, _: 3 + np.clip(rng.permutation(X)[:, :3], -3, None)).run(heads=["knn"])
    entries = result.summary["scores"]["label"]
    assert abs(entries["ridge"]["pearson"]["mean"]) < 0.06
    assert abs(entries["knn"]["pearson"]["mean"]) < 0.06
    assert result.summary["interval"]["caution"] is None


def test_pooled_and_within_tell_section_levels_from_spots(make_data: MakeData) -> None:
    cohort = {"a1": ("A", 50), "a2": ("A", 50), "b1": ("B", 50), "b2": ("B", 50)}
    data = make_data(cohort, lambda X, _: 3 + np.clip(X[:, :3], -3, 3))
    level = 20.0 * np.char.endswith(data.training.section.astype(str), "2")[:, None]
    data.training.Y[:] += level
    for name in ("a2", "b2"):
        data.labels[name] = Abundance(data.labels[name].values + 20, CELLS)
    data.training.X[:, 7:] = level
    Spy.answer = staticmethod(lambda X: np.repeat(X[:, 7:], 3, axis=1))
    entry = data.run(heads={"spy": Spy()}).summary["scores"]["label"]["spy"]
    assert entry["pearson_pooled"]["mean"] > 0.99
    assert entry["pearson"]["mean"] == entry["pearson_within"]["mean"] == 0


def test_an_absent_type_is_counted_not_averaged(make_data: MakeData) -> None:
    def label(X: np.ndarray, donor: str) -> np.ndarray:
        Y = 3 + np.clip(X[:, :3], -3, 3)
        Y[:, 2] *= donor == "A"
        return Y

    entry = make_data(COHORT, label).run().summary["scores"]["label"]["ridge"]["pearson"]
    assert entry["types"]["Tumour"]["n_units"] == 2 and entry["types"]["T cell"]["n_units"] == 4
    assert entry["n_types"] == 3
    # In A's sections the type is there, but no training donor has it: predicted constant, so 0 by rule.
    assert entry["types"]["Tumour"]["mean"] == 0
    t_cell, b_cell = (entry["types"][name]["mean"] for name in TYPES[:2])
    assert entry["mean"] < (t_cell + b_cell) / 2
    only_b = make_data({"b1": ("B", 40), "c1": ("C", 40)}, label).run().summary["scores"]["label"]["ridge"]["pearson"]
    assert only_b["n_types"] == 2 and only_b["types"]["Tumour"] == {
        "mean": None,
        "low": None,
        "high": None,
        "n_units": 0,
    }
    assert only_b["mean"] > 0.9


def test_a_donor_of_three_spots_and_a_cohort_of_one_type(make_data: MakeData) -> None:
    data = make_data({**COHORT, "d1": ("D", 3)}, linear(0.1))
    result = data.run()
    assert len(result.labels["d1"]) == 3
    assert any("section d1 has 3 spots" in note for note in result.summary["notes"])
    alone = make_data(COHORT, lambda X, _: np.ones((len(X), 1)), unit="proportion").run()
    entry = alone.summary["scores"]["label"]["ridge"]
    assert entry["pearson"]["mean"] is entry["pearson"]["low"] is None and entry["pearson"]["n_types"] == 0
    assert entry["js_composition"]["mean"] == pytest.approx(0, abs=1e-9)
    assert "-" in alone.text()


def test_one_donor_needs_optimistic_folds_and_says_so(make_data: MakeData) -> None:
    data = make_data({"a1": ("A", 40), "a2": ("A", 40), "a3": ("A", 40)}, linear(0.5))
    with pytest.raises(InputError, match="--folds section"):
        data.run()
    result = data.run(folds="section")
    assert result.summary["protocol_means"].startswith("optimistic")
    assert "says nothing about other donors" in result.text() and "optimistic" in result.text()
    assert all(fold["test_donors_in_training"] == 1 for fold in result.summary["folds"])


# --- truth


def test_the_label_is_the_bar_against_the_truth(make_data: MakeData) -> None:
    data = make_data(COHORT, linear(1.0))
    spots = np.split(data.training.X, np.cumsum([60, 50, 70]))
    truth = {}
    for (name, labels), X in zip(data.labels.items(), spots, strict=True):
        values = pd.DataFrame(np.clip(3 + X[:, :3], 0, None), labels.values.index, TYPES)
        # Order of spots and types is not to matter, nor sections that are not evaluated.
        truth[name] = Abundance(values.iloc[::-1, ::-1], CELLS)
    truth["elsewhere"] = truth["a1"]
    result = data.run(truth=truth)
    against = result.summary["scores"]["truth"]
    assert list(against) == ["mean", "ridge", ORACLE, "label"]
    found = [
        pearsonr(data.labels[s].values[name], truth[s].values.loc[data.labels[s].values.index, name]).statistic
        for s in COHORT
        for name in TYPES
    ]
    assert against["label"]["pearson"]["mean"] == pytest.approx(np.mean(found), abs=1e-10)
    # The labels' noise is independent of the features, so ridge comes closer to the truth than its own labels.
    assert against["ridge"]["pearson"]["mean"] > against["label"]["pearson"]["mean"] > 0.5
    assert against["label"]["pearson"]["vs_ridge"]["high"] < 0
    assert result.summary["scores"]["label"]["ridge"]["pearson"]["mean"] < 0.9
    assert "label" not in result.summary["scores"]["label"]
    assert "against the truth" in result.text()
    assert list(result.table("truth").index) == ["mean", "ridge", ORACLE, "label"]


def test_truth_in_cells_is_turned_into_proportions_never_back(make_data: MakeData) -> None:
    def share(X: np.ndarray, _: str) -> np.ndarray:
        weight = np.exp(X[:, :3])
        return weight / weight.sum(axis=1, keepdims=True)

    data = make_data(COHORT, share, unit="proportion")
    cells = {name: Abundance(a.values * np.arange(len(a.values))[:, None], CELLS) for name, a in data.labels.items()}
    result = data.run(truth=cells)
    # The first spot of each section holds no cells, so it has no proportions.
    assert result.summary["truth"] == {"sections": list(COHORT), "n_spots": 220 - 4}
    assert "4 of 220 spots have no truth, 4 of them because they hold no cells" in result.text()
    pd.testing.assert_frame_equal(result.truth["b1"], result.labels["b1"].iloc[1:])
    entry = result.summary["scores"]["truth"]["label"]
    assert entry["pearson"]["mean"] == pytest.approx(1) and entry["rmse"]["mean"] == pytest.approx(0, abs=1e-12)

    counted = make_data(COHORT, linear(0.5))
    proportions = {name: a.proportions() for name, a in counted.labels.items()}
    with pytest.raises(LabelError, match="never the reverse"):
        counted.run(truth=proportions)


def test_truth_of_some_sections_counts_only_those(make_data: MakeData) -> None:
    data = make_data(COHORT, linear(0.5))
    result = data.run(truth={"a1": data.labels["a1"]})
    for metric in ("pearson", "pearson_pooled"):
        entry = result.summary["scores"]["truth"]["ridge"][metric]
        assert (entry["n_sections"], entry["n_donors"], entry["low"]) == (1, 1, None)
    assert list(result.truth) == ["a1"]


def test_truth_that_does_not_fit(make_data: MakeData) -> None:
    data = make_data(COHORT, linear(0.5))
    values = data.labels["a1"].values
    with pytest.raises(LabelError, match=r"same cell types.*Mast"):
        data.run(truth={"a1": Abundance(values.rename(columns={"Tumour": "Mast"}), CELLS)})
    with pytest.raises(LabelError, match="covers none"):
        data.run(truth={"a1": Abundance(values.rename(index=lambda key: f"{key}-1"), CELLS)})


# --- the ceiling, and labels that share a fit


RELIABLE = {"a1": [0.81, 0.49, np.nan], "a2": [0.64, 0.25, 0.0], "b1": [1.0, 0.36, np.nan], "c1": [0.49, 0.16, np.nan]}


def with_facts(data: Data, reliability: dict[str, list[float]], fitted_with: dict[str, list[str]]) -> Data:
    for name, abundance in data.labels.items():
        data.labels[name] = replace(
            abundance,
            reliability=pd.Series(reliability[name], TYPES) if name in reliability else None,
            provenance={"fitted_with": fitted_with[name]} if name in fitted_with else {},
        )
    return data


@pytest.mark.parametrize("protocol", FOLDS)
def test_the_reliability_of_labels_stands_beside_the_scores(make_data: MakeData, protocol: str) -> None:
    data = make_data(COHORT, linear(0.5))
    plain = data.run(folds=protocol)
    result = with_facts(data, RELIABLE, {}).run(folds=protocol)
    rows = result.metrics[result.metrics["metric"] == "ceiling"]
    assert set(rows["head"]) == {"labels"} and set(rows["target"]) == {"label"} and set(rows["protocol"]) == {protocol}
    found = rows.pivot(index="section", columns="cell_type", values="value")[TYPES]
    np.testing.assert_array_equal(found.loc[list(COHORT)].to_numpy(), np.array(list(RELIABLE.values())))
    expected_fold = {"donor": "A", "site": "A", "section": "a2", "random": ""}[protocol]
    only = rows[rows["section"] == "a2"]
    assert set(only["fold"]) == {expected_fold} and set(only["donor"]) == {"A"} and set(only["n_spots"]) == {50}

    ceiling = result.summary["ceiling"]
    assert ceiling["mean"] == pytest.approx(np.mean([0.65, 0.89 / 3, 0.68, 0.325]))
    assert ceiling["bound"] == pytest.approx(np.mean([0.8, 1.3 / 3, 0.8, 0.55]))
    assert (ceiling["n_types"], ceiling["n_sections"]) == (3, 4)
    assert ceiling["types"]["T cell"]["mean"] == pytest.approx(np.mean([0.81, 0.64, 1.0, 0.49]))
    assert ceiling["types"]["T cell"]["bound"] == pytest.approx(np.mean([0.9, 0.8, 1.0, 0.7]))
    assert ceiling["types"]["Tumour"] == {"mean": 0.0, "bound": 0.0, "n_units": 1}
    assert (result.table()["ceiling"] == ceiling["mean"]).all()
    assert f"has a mean Pearson of {ceiling['bound']:.3f} at most" in result.text()
    assert "square root of the reliability" in result.summary["rules"]["ceiling"]
    # The ceiling is beside the scores: it changes none of them.
    assert result.summary["scores"] == plain.summary["scores"]
    pd.testing.assert_frame_equal(result.metrics.iloc[: len(plain.metrics)], plain.metrics)


def test_a_perfect_prediction_of_noisy_labels_scores_their_bound(make_data: MakeData) -> None:
    # Labels = signal + noise, with variances 3 and 1: reliability 3/4, and the signal correlates by its root.
    rng = np.random.default_rng(0)
    data = make_data(
        {"a1": ("A", 1500), "b1": ("B", 1500)},
        lambda X, _: 20 + np.sqrt(3) * X[:, :3] + rng.normal(size=(len(X), 3)),
    )
    with_facts(data, {"a1": [0.75] * 3, "b1": [0.75] * 3}, {})
    Spy.answer = staticmethod(lambda X: X[:, :3])
    result = data.run(heads={"spy": Spy()})
    assert result.summary["scores"]["label"]["spy"]["pearson"]["mean"] == pytest.approx(
        result.summary["ceiling"]["bound"], abs=0.02
    )


def test_an_unknown_ceiling_is_said_to_be(make_data: MakeData) -> None:
    data = make_data(COHORT, linear(0.5))
    result = data.run()
    assert result.summary["ceiling"] is None
    assert not (result.metrics["metric"] == "ceiling").any()
    assert result.table()["ceiling"].isna().all()
    assert "ceiling unknown: the labels carry no reliability" in result.text()
    some = with_facts(data, {"b1": RELIABLE["b1"]}, {}).run()
    assert some.summary["ceiling"]["n_sections"] == 1
    assert "the ceiling is that of 1 of 4 sections" in some.text()
    # A label that never varies has no reliability at all.
    none = with_facts(data, {"b1": [np.nan] * 3}, {}).run()
    assert none.summary["ceiling"] is None and "ceiling unknown" in none.text()


def test_the_truth_has_no_ceiling(make_data: MakeData) -> None:
    data = with_facts(make_data(COHORT, linear(0.5)), RELIABLE, {})
    result = data.run(truth={"b1": data.labels["b1"]})
    assert "ceiling" not in result.table("truth")
    assert set(result.metrics.loc[result.metrics["metric"] == "ceiling", "target"]) == {"label"}


def test_labels_fitted_together_across_a_fold_are_named(make_data: MakeData) -> None:
    data = make_data(COHORT, linear(0.5))

    def found(fitted_with: dict[str, list[str]], folds: str = "donor") -> tuple[dict[str, Any], str]:
        result = with_facts(data, {}, fitted_with).run(folds=folds)
        return result.summary["coupled_labels"], result.text()

    alone = {name: [name] for name in COHORT}
    facts, text = found(alone)
    assert facts == {"count": 0, "n_sections": 4, "unknown": 0, "examples": []}
    assert "fitted" not in text

    # A donor's sections together: harmless when the donor is held out, not when one of them is.
    by_donor = {**alone, "a1": ["a1", "a2"], "a2": ["a1", "a2"]}
    assert found(by_donor)[0]["count"] == 0
    facts, text = found(by_donor, "section")
    assert facts["count"] == 2
    assert facts["examples"][0] == {"fold": "a1", "section": "a1", "with": ["a2"]}
    assert found(by_donor, "random")[0]["count"] == 2

    facts, text = found({name: list(COHORT) for name in COHORT})
    assert facts["count"] == 4 and len(facts["examples"]) == 3
    assert facts["examples"][0] == {"fold": "A", "section": "a1", "with": ["b1", "c1"]}
    assert "the labels of 4 of 4 test sections were fitted together with sections of training donors" in text
    assert "(such as a1 with b1, c1)" in text

    # It takes one side to say so; a section that is not in the cohort trains no head.
    facts, _ = found({**alone, "c1": ["c1", "b1", "z9"]})
    assert {example["section"] for example in facts["examples"]} == {"b1", "c1"}

    facts, text = found({})
    assert (facts["count"], facts["unknown"]) == (0, 4)
    assert "note: the labels do not say with which sections they were fitted" in text
    facts, text = found({name: alone[name] for name in ("a1", "a2")})
    assert facts["unknown"] == 2 and "the labels of 2 sections do not say" in text


# --- intervals


def test_bootstrap_draws_donors_then_their_sections() -> None:
    groups = np.array([0, 0, 0, 1, 2])
    weights = resample_weights(groups, seed=0)
    assert weights.shape == (DRAWS, 5)
    per_donor = np.stack([weights[:, groups == g].sum(axis=1) for g in range(3)], axis=1)
    # A donor drawn k times brings k times as many sections as it has.
    times = per_donor / [3, 1, 1]
    assert (times == times.round()).all() and (times.sum(axis=1) == 3).all()
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.1)
    # Variance of a mean over donors with one section each: sigma^2 / n, as in theory.
    means = resample_weights(np.arange(40), seed=0) @ np.arange(40) / 40
    assert means.std() == pytest.approx(np.arange(40).std() / np.sqrt(40), rel=0.1)


def test_sections_of_one_donor_do_not_make_the_interval_narrow() -> None:
    # Ten copies of each donor's value carry no more information than one.
    values = np.array([0.1, 0.5, 0.9, 0.3])
    once = resample_weights(np.arange(4), seed=0) @ values / 4
    copied = resample_weights(np.repeat(np.arange(4), 10), seed=0) @ np.repeat(values, 10) / 40
    assert copied.std() == pytest.approx(once.std(), rel=0.1)


# --- files


def test_the_same_seed_gives_the_same_numbers(make_data: MakeData) -> None:
    data = make_data(COHORT, linear(1.0))

    def run(seed: int) -> Evaluation:
        return data.run(
            heads={"mlp": make_estimator("mlp", CELLS, seed, epochs=1, members=2)}, folds="random", seed=seed
        )

    first, again, other = (run(seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first.metrics, again.metrics, check_exact=True)
    for result in (first, again, other):
        assert set(result.summary.pop("cost")) == {"mean", "ridge", "mlp"}
    assert first.summary == again.summary
    assert first.summary["scores"] != other.summary["scores"]


def test_the_folder_reads_back_number_for_number(make_data: MakeData, tmp_path: Path) -> None:
    # "NA" and "" are the names that tables lose most easily.
    data = make_data({"NA": ("None", 30), "b1": ("B", 30), "007": ("1e5", 30)}, linear(1.0))
    folder = tmp_path / "deep" / "eval"
    data.labels["007"] = replace(data.labels["007"], reliability=pd.Series([0.5, np.nan, 0.25], TYPES))
    result = data.run(out=folder, truth={"007": data.labels["007"]})
    read = read_evaluation(folder)
    pd.testing.assert_frame_equal(read.metrics, result.metrics, check_exact=True)
    assert read.summary == result.summary
    for ours, theirs in (
        (result.labels, read.labels),
        (result.truth, read.truth),
        (result.positions, read.positions),
        *((result.predictions[head], read.predictions[head]) for head in result.predictions),
    ):
        assert list(ours) == list(theirs)
        for name in ours:
            pd.testing.assert_frame_equal(ours[name], theirs[name], check_exact=True)
    assert read.text() == result.text()


def test_a_rerun_replaces_the_folder_and_nothing_else(make_data: MakeData, tmp_path: Path) -> None:
    data = make_data(COHORT, linear(1.0))
    folder = tmp_path / "eval"
    data.run(out=folder, heads=["knn"])
    data.run(out=folder)
    assert sorted(path.name for path in (folder / "predictions").iterdir()) == ["mean", "ridge"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eval"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt"):
        data.run(out=folder, progress=lambda *_: pytest.fail("work had begun"))
    with pytest.raises(InputError, match=r"notes\.txt"):
        data.run().save(folder)
    assert (folder / "notes.txt").read_text() == "mine"
    with pytest.raises(InputError, match="not a folder"):
        data.run(out=folder / "notes.txt")


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("summary.json", "{}"),
        ("summary.json", None),
        ("metrics.csv", "a,b\n1,2\n"),
        ("metrics.csv", None),
        ("predictions/ridge/b1.csv", "spot,x_px\n1x1,2\n"),
        ("labels/a1.csv", None),
        ("labels/a1.csv", ""),
    ],
)
def test_a_damaged_folder_names_the_file(make_data: MakeData, tmp_path: Path, file: str, damage: str | None) -> None:
    make_data(COHORT, linear(1.0)).run(out=tmp_path / "eval")
    path = tmp_path / "eval" / file
    path.unlink()
    if damage is not None:
        path.write_text(damage)
    with pytest.raises(InputError) as caught:
        read_evaluation(tmp_path / "eval")
    assert caught.value.where == str(path)


def test_an_edited_evaluation_is_refused_and_an_older_one_is_read(make_data: MakeData, tmp_path: Path) -> None:
    folder = tmp_path / "eval"
    found = make_data(COHORT, linear(1.0)).run(out=folder)
    summary = folder / "summary.json"
    whole = summary.read_text()
    for name in found.summary:
        for value in (None, "words", 1e300, [], {}):
            facts = json.loads(whole)
            if name == "cost" or facts[name] == value:
                continue
            summary.write_text(json.dumps(facts | {name: value}))
            with pytest.raises(InputError, match="was changed since it was written") as caught:
                read_evaluation(folder)
            assert caught.value.where == str(summary)
    summary.write_text(whole)
    for file in sorted(folder.rglob("*.csv")):
        text = file.read_text()
        row = text.splitlines(keepends=True)[-1]
        for changed in (text.removesuffix(row), text + row, text.replace("1", "2", 1), text.replace("0.", "0.5", 1)):
            if changed == text:
                continue
            file.write_text(changed)
            with pytest.raises(InputError) as caught:
                read_evaluation(folder)
            assert caught.value.where == str(file) and caught.value.hint == "Run histomix evaluate again"
        file.write_text(text)
    read_evaluation(folder)
    facts = {name: value for name, value in json.loads(whole).items() if name not in ("digest", "files")}
    summary.write_text(json.dumps(facts))  # as versions before wrote it
    assert read_evaluation(folder).summary == facts
    for file in ("predictions/ridge/a1.csv", "labels/a1.csv", "metrics.csv"):
        table = pd.read_csv(folder / file, dtype=str)
        for cell in ("many", "inf", "1e999"):
            table.assign(**{table.columns[-1 if file != "metrics.csv" else 7]: cell}).to_csv(folder / file, index=False)
            with pytest.raises(InputError, match="something else than numbers") as caught:
                read_evaluation(folder)
            assert caught.value.where == str(folder / file)
        table.to_csv(folder / file, index=False)
    read_evaluation(folder)


def test_the_table_is_numbers_and_asks_for_a_target_it_has(make_data: MakeData) -> None:
    result = make_data(COHORT, linear(1.0)).run()
    table = result.table()
    assert list(table)[:4] == ["pearson", "interval", "pearson_pooled", "pearson_within"]
    assert list(table)[4:] == ["rmse", "js_composition", "ceiling", "share", "n_types"]
    assert table.loc["ridge", "pearson"] == result.summary["scores"]["label"]["ridge"]["pearson"]["mean"]
    with pytest.raises(InputError, match="against 'truth'"):
        result.table("truth")


# --- several protocols, two cohorts, and what stands beside the scores


def test_protocols_side_by_side_keep_the_honest_one_as_the_result(make_data: MakeData, tmp_path: Path) -> None:
    data = make_data(COHORT, linear(1.0))
    alone = data.run(seed=2)
    result = data.run(folds="random,section,donor", seed=2, out=tmp_path / "eval")
    assert result.summary["protocol"] == "donor" and alone.summary["inflation"] == []
    assert result.summary["scores"] == alone.summary["scores"]
    pd.testing.assert_frame_equal(result.metrics, alone.metrics)
    for protocol in ("donor", "section", "random"):
        expected = data.run(folds=protocol, seed=2).summary["scores"]["label"]
        found = {
            (one["head"], one["metric"]): (one["mean"], one["low"], one["high"])
            for one in result.summary["inflation"]
            if one["protocol"] == protocol
        }
        assert set(found) == {
            (head, metric) for head in expected for metric in ("pearson", "pearson_pooled", "pearson_within")
        }
        for (head, metric), numbers in found.items():
            assert numbers == tuple(expected[head][metric][name] for name in ("mean", "low", "high"))
    written = pd.read_csv(tmp_path / "eval/metrics.csv", keep_default_na=False)
    assert list(written.columns[:8]) == ["head", "protocol", "fold", "donor", "section", "cell_type", "metric", "value"]
    assert list(dict.fromkeys(written["protocol"])) == ["donor", "section", "random"]
    read = read_evaluation(tmp_path / "eval")
    pd.testing.assert_frame_equal(read.metrics, result.metrics)
    pd.testing.assert_frame_equal(read.others, result.others)
    assert set(read.others["protocol"]) == {"section", "random"}
    assert read.text() == result.text() and "what the protocol adds" in result.text()


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ("donor,donor", "stand twice"),
        ("donor,patient", "no folds called 'patient'"),
        ("transfer", "need a second cohort"),
    ],
)
def test_protocols_that_cannot_be(make_data: MakeData, folds: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_data(COHORT, linear(0.1)).run(folds=folds, progress=lambda *_: pytest.fail("work had begun"))


def test_long_steps_are_told_of_and_end_and_the_summary_alone_is_written_again(
    make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, list[tuple[int, int]]] = {}
    written: list[str] = []
    write = Evaluation._write
    monkeypatch.setattr(
        Evaluation, "_write", lambda self, folder, tables: written.append(folder.name) or write(self, folder, tables)
    )
    data = make_data(COHORT, linear(0.1))
    out, heads = tmp_path / "out", ["mean", "ridge"]
    data.run(heads=heads, out=out, spatial=True, progress=lambda task, *step: told.setdefault(task, []).append(step))
    for task in ("look for copied tiles (sections)", "write labels (sections)", "write ridge (sections)"):
        assert told[task] == [(done, 4) for done in range(5)]
    assert sorted(written) == ["labels", *heads]
    assert "spatial" in read_evaluation(out).summary


def test_an_evaluation_is_the_same_on_one_thread_and_on_two(
    make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histomix.common.threads.cores", lambda: 2)
    data = make_data(COHORT, linear(0.5))
    summaries = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            result = data.run(heads=["ridge"], spatial=True, out=tmp_path / str(threads))
        summaries.append({name: value for name, value in result.summary.items() if name != "cost"})
    tables = [{path.name: path.read_bytes() for path in tmp_path.glob(f"{threads}/**/*.csv")} for threads in (1, 2)]
    assert tables[0] == tables[1] != {} and summaries[0] == summaries[1]


def test_strict_refuses_before_any_fit_and_else_the_audit_stands_in_the_summary(make_data: MakeData) -> None:
    data = with_facts(make_data(COHORT, linear(0.5)), {}, {name: list(COHORT) for name in COHORT})
    with pytest.raises(InputError, match="label coupling: the labels of 4 of 4 test sections"):
        data.run(strict=True, progress=lambda task, *_: task.startswith("look ") or pytest.fail(f"begun: {task}"))
    result = data.run()
    assert [(one["rule"], one["severity"]) for one in result.summary["audit"]] == [("label coupling", "warning")]
    assert result.text().count("were fitted together with sections") == 1
    clean = with_facts(data, {}, {name: [name] for name in COHORT}).run(strict=True)
    assert clean.summary["audit"] == []


def test_a_type_that_no_training_donor_has_is_reported(make_data: MakeData) -> None:
    def label(X: np.ndarray, donor: str) -> np.ndarray:
        Y = 3 + np.clip(X[:, :3], -3, 3)
        Y[:, 2] *= donor == "A"
        return Y

    result = make_data(COHORT, label).run()
    assert [fold["types_not_in_training"] for fold in result.summary["folds"]] == [["Tumour"], [], []]
    assert "Tumour is absent from the training donors in 1 of 3 folds" in result.text()


def test_groups_of_the_user_are_scored_beside_the_types(make_data: MakeData, tmp_path: Path) -> None:
    groups = {"T cell": "Lymphoid", "B cell": "Lymphoid"}
    result = make_data(COHORT, linear(1.0)).run(groups=groups, out=tmp_path / "eval")
    assert result.summary["groups"]["groups"] == {"Lymphoid": ["T cell", "B cell"]}
    rows = result.metrics[(result.metrics["metric"] == "pearson_group") & (result.metrics["head"] == "ridge")]
    assert set(rows["cell_type"]) == {"Lymphoid"} and set(rows["section"]) == set(COHORT)
    y, p = (tables["b1"][["T cell", "B cell"]].sum(axis=1) for tables in (result.labels, result.predictions["ridge"]))
    assert rows.set_index("section")["value"]["b1"] == pytest.approx(pearsonr(y, p).statistic, abs=1e-10)
    by_type = {row["cell_type"]: row["group"] for row in result.summary["detectability"]}
    assert by_type == {"T cell": "Lymphoid", "B cell": "Lymphoid", "Tumour": None}


def test_shares_of_the_ceiling_are_over_the_same_sections_and_types(make_data: MakeData) -> None:
    data = with_facts(make_data(COHORT, linear(1.0)), {"a1": RELIABLE["a1"], "b1": RELIABLE["b1"]}, {})
    result = data.run()
    pearson = result.metrics[(result.metrics["metric"] == "pearson") & (result.metrics["head"] == "ridge")]
    found = pearson.set_index(["section", "cell_type"])["value"]
    bounds = {("a1", "T cell"): 0.9, ("a1", "B cell"): 0.7, ("b1", "T cell"): 1.0, ("b1", "B cell"): 0.6}
    expected = sum(found[key] for key in bounds) / sum(bounds.values())
    assert result.summary["ceiling"]["shares"]["ridge"] == pytest.approx(expected)
    assert result.table().loc["ridge", "share"] == pytest.approx(expected)


def two_cohorts(job: Job, tmp_path: Path) -> tuple[CohortData, CohortData]:
    """The donors of a phantom, as two cohorts whose sections and donors have the same names."""
    import histomix as hm

    cohort, labels, features = hm.read_cohort(job.sheet), hm.read_labels(job.labels), hm.read_features(job.features)
    first, second = (cohort.subset([name]) for name in cohort.names)
    again = Cohort(cohort.sheet, [replace(second.rows[0], section=first.names[0], donor=first.rows[0].donor)])
    return (
        CohortData(first, features, labels),
        CohortData(again, {first.names[0]: features[second.names[0]]}, {first.names[0]: labels[second.names[0]]}),
    )


def test_train_on_one_cohort_and_test_on_another(job: Job, tmp_path: Path) -> None:
    train, test = two_cohorts(job, tmp_path)
    name = train.cohort.names[0]
    result = evaluate(
        train.cohort,
        train.features,
        train.labels,
        heads=["ridge"],
        test=test,
        nuclei=False,
        spatial=False,
        out=tmp_path / "eval",
    )
    facts = result.summary
    assert (facts["protocol"], facts["sections"], facts["n_donors"]) == ("transfer", [name], 1)
    assert len(facts["folds"]) == 1 and facts["folds"][0]["sections"] == [name]
    assert facts["folds"][0]["n_train"] == len(train.labels[name].values)
    assert set(result.predictions["ridge"]) == {name} and set(result.labels) == {name}
    # Two cohorts that both have a donor of one name: it may be one donor.
    assert "donors across folds" in {one["rule"] for one in facts["audit"]}
    # The same numbers as heads trained on the one donor and tested on the other in one cohort.
    import histomix as hm

    whole = evaluate(
        hm.read_cohort(job.sheet),
        train.features,
        train.labels,
        heads=["ridge"],
        folds="donor",
        nuclei=False,
        spatial=False,
    )
    other = next(one for one in whole.predictions["ridge"] if one != name)
    np.testing.assert_allclose(result.predictions["ridge"][name], whole.predictions["ridge"][other], rtol=1e-9)
    assert read_evaluation(tmp_path / "eval").summary == json.loads(json.dumps(facts))
    # Pixels, for heads that read them, are those of the row's own cohort.
    training, (first, second) = (
        evaluation_data(train, test).training,
        (evaluation_data(one).training for one in (train, test)),
    )
    assert training.tiles is not None and first.tiles is not None and second.tiles is not None
    n, rows = len(first.Y), np.array([0, 7])
    np.testing.assert_array_equal(training.tiles(rows), first.tiles(rows))
    np.testing.assert_array_equal(training.tiles(n + rows), second.tiles(rows))
    assert (training.tiles(rows) != training.tiles(n + rows)).any()
    with pytest.raises(InputError, match="not in donor folds"):
        evaluate(train.cohort, train.features, train.labels, folds="donor", test=test)


def test_only_types_of_both_cohorts_are_scored(job: Job, tmp_path: Path) -> None:
    train, test = two_cohorts(job, tmp_path)
    name = train.cohort.names[0]
    table = test.labels[name]
    lacking = table.values.drop(columns=table.cell_types[0])
    lacking = lacking.div(lacking.sum(axis=1), axis=0).rename(columns={table.cell_types[1]: "Mast"})
    test = replace(test, labels={name: Abundance(lacking, "proportion", provenance=table.provenance)})
    result = evaluate(train.cohort, train.features, train.labels, heads=(), test=test, nuclei=False, spatial=False)
    assert result.summary["cell_types"] == table.cell_types[2:]
    assert f"training cohort alone and are not scored: {table.cell_types[0]}" in result.text()
    assert "test cohort alone and are not scored: Mast" in result.text()
    np.testing.assert_allclose(result.labels[name].sum(axis=1), 1)
    none = Abundance(pd.DataFrame({"Mast": 1.0}, index=lacking.index), "proportion")
    with pytest.raises(LabelError, match="no cell type in common"):
        evaluate(train.cohort, train.features, train.labels, test=replace(test, labels={name: none}))
    counted = Abundance(table.values, CELLS)
    with pytest.raises(LabelError, match="in cells per spot"):
        evaluate(train.cohort, train.features, train.labels, test=replace(test, labels={name: counted}))


def test_nuclei_are_counted_once_and_kept_in_the_cache(
    small_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import histomix as hm

    monkeypatch.setenv("HISTOMIX_CACHE", str(tmp_path / "cache"))
    cohort, labels, features = (
        hm.read_cohort(small_job.sheet),
        hm.read_labels(small_job.labels),
        hm.read_features(small_job.features),
    )
    tasks: list[str] = []

    def run(**options: Any) -> Evaluation:
        tasks.clear()
        options = {"spatial": False, "progress": lambda task, *_: tasks.append(task), **options}
        return evaluate(cohort, features, labels, (), **options)

    first = run()
    assert first.summary["baselines"] == ["mean", "ridge", NUCLEI] and "nuclei" not in first.predictions
    assert {f"nuclei {name}" for name in cohort.names} <= set(tasks)
    kept = sorted((tmp_path / "cache" / "nuclei").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    counts = json.loads(kept[0].read_text())["nuclei"]
    table = features[cohort.names[0]]
    tile = manifest_of(table)["tile"]
    side = tile["size_px"] * tile["mpp"]
    with cohort.section(cohort.names[0]).slide() as slide:
        xy = table.obs[["x_px", "y_px"]].to_numpy()
        expected = find_nuclei(slide, xy, side).in_squares(xy, side)
    np.testing.assert_allclose(np.array(counts, dtype=float), expected)
    # Again: read, not counted; a damaged file is made again; and without pixels it is said.
    again = run()
    assert "evaluate" in tasks and not any(task.startswith("nuclei") for task in tasks)
    pd.testing.assert_frame_equal(again.metrics, first.metrics)
    kept[0].write_text("{")
    run()
    assert f"nuclei {cohort.names[0]}" in tasks and f"nuclei {cohort.names[1]}" not in tasks
    blind = Cohort(cohort.sheet, [replace(row, image=None) for row in cohort.rows])
    result = evaluate(blind, features, labels, (), spatial=False)
    assert result.summary["baselines"] == ["mean", "ridge"]
    assert "no nuclei were counted in 2 of 2 sections" in result.text()
    assert NUCLEI not in run(nuclei=False).summary["scores"]["label"]


# --- intervals of heads


def test_coverage_and_width_are_of_intervals_calibrated_on_training_donors(make_data: MakeData) -> None:
    cohort = {f"{donor}1": (donor, 150) for donor in "ABCDEF"}
    data = make_data(cohort, linear(0.7))
    result = data.run()
    curve = result.summary["calibration"]["ridge"]
    assert curve["levels"] == [0.5, 0.6, 0.7, 0.8, 0.9, 0.95] and sorted(curve["coverage"]) == curve["coverage"]
    # The donors are alike, so the intervals hold about what they promise.
    np.testing.assert_allclose(curve["coverage"], curve["levels"], atol=0.06)
    rows = result.metrics[(result.metrics["head"] == "ridge") & (result.metrics["section"] == "C1")]
    rows = rows.set_index(["metric", "cell_type"])["value"].sort_index()
    training = data.training
    fold = next(fold for fold in make_folds(training.section, training.donor) if fold.name == "C")
    train, test = fold.train, fold.test
    fitted = make_estimator("ridge", CELLS).fit(training.X[train], training.Y[train], groups=training.donor[train])
    intervals = calibrate(training.Y[train], fitted.held_out_, None, training.donor[train], 0.9, unit=CELLS)
    lower, upper = intervals.bounds(fitted.predict(training.X[test]), None)
    inside = ((training.Y[test] >= lower) & (training.Y[test] <= upper)).mean(axis=0)
    for index, name in enumerate(TYPES):
        assert rows["coverage", name] == pytest.approx(inside[index], abs=1e-12)
        assert rows["width", name] == pytest.approx((upper - lower)[:, index].mean(), abs=1e-12)
    entry = result.summary["scores"]["label"]["ridge"]
    assert entry["coverage"]["mean"] == pytest.approx(curve["coverage"][4]) and entry["coverage"]["n_donors"] == 6
    assert entry["width"]["mean"] == pytest.approx(curve["width"])
    assert "ridge: intervals of level 0.90, calibrated on training donors, hold 0." in result.text()
    # A head of another library has none, and neither has one that is calibrated on a single donor's one section.
    assert "coverage" not in data.run(heads={"spy": Spy()}).summary["scores"]["label"]["spy"]
    two = make_data({"a1": ("A", 60), "b1": ("B", 60)}, linear(0.7)).run()
    assert "ridge" not in two.summary["calibration"]
