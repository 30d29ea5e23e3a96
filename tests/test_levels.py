"""How well slides are told apart by their means: against values computed here by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

import histomix as hm
from histomix.common.anonymity.pseudonyms import open_pseudonyms
from histomix.datasets import phantom_truth
from histomix.evaluation.folds import Fold
from histomix.evaluation.protocols import score_folds
from histomix.evaluation.scores.bootstrap import describe_folds, summarise
from histomix.evaluation.scores.levels import slide_errors
from histomix.evaluation.text import level_words
from histomix.heads import TrainingSet, assemble, levels_of, load_head, make_estimator, private_card, train
from histomix.heads.cards.levels_text import level_lines
from histomix.heads.cards.text import card_markdown
from histomix.heads.trust.levels import (
    BETWEEN,
    NEITHER,
    WITHIN,
    across_slides,
    answered_unit,
    good_for,
    held_out_levels,
    held_out_totals,
)
from histomix.maps.units import label_area_um2
from histomix.sharing import head_facts
from histomix.spots import RELATIVE

from .conftest import Job
from .test_evaluation import COHORT, MakeData, linear, make_data
from .test_head_files import cohort_of, features_of, labels_of

pytestmark = pytest.mark.once

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


# in the card of a head


def training_set(donors: dict[str, str], n: int = 8, seed: int = 0) -> TrainingSet:
    """Sections of donors whose labels rise with the donor's number, and of `TYPES`."""
    rng = np.random.default_rng(seed)
    section = np.repeat(list(donors), n)
    donor = np.array([donors[name] for name in section.tolist()])
    level = np.unique(donor, return_inverse=True)[1] / 10
    first = level + 0.1 + rng.uniform(0, 0.05, len(section))
    return TrainingSet(
        X=rng.normal(size=(len(section), 4)).astype(np.float32),
        Y=np.column_stack([first, np.full(len(section), 0.25)]),
        keys=np.arange(len(section)).astype(str),
        section=section,
        donor=donor,
        xy_um=rng.uniform(0, 500, (len(section), 2)),
        cell_types=TYPES,
        unit="cells per spot",
        features={},
    )


SIX = {"s1": "D1", "s2": "D1", "s3": "D2", "s4": "D3", "s5": "D3", "s6": "D4"}


def test_a_card_says_of_held_out_predictions_what_an_evaluation_would() -> None:
    """The same predictions, through the tables of an evaluation by donor and through `held_out_levels`."""
    training = training_set(SIX)
    rng = np.random.default_rng(1)
    folds = [
        Fold(name, np.flatnonzero(training.donor != name), np.flatnonzero(training.donor == name))
        for name in np.unique(training.donor)
    ]
    for noise in (0.02, 0.5):
        held_out = training.Y + rng.normal(scale=noise, size=training.Y.shape) + np.where(noise > 0.1, 0.4, 0)
        constant = np.empty_like(training.Y)
        for fold in folds:
            constant[fold.test] = training.Y[fold.train].mean(axis=0)
        scored = {"label": (training.Y, {"mean": constant, "mlp": held_out})}
        table = score_folds("donor", folds, training, scored)
        scores = summarise(table, describe_folds(folds, training), seed=3)["label"]["mlp"]
        scores |= across_slides(training.Y, held_out, training.section, training.donor, TYPES, 3)
        found = held_out_levels(training, held_out, seed=3)
        assert found is not None
        assert (found["protocol"], found["donors_unseen"], found["n_donors"]) == ("held-out donor", True, 4)
        assert (found["n_sections"], found["level"]) == (6, 0.9)
        words = good_for(scores, donors_unseen=True)
        for name, facts in found["by_type"].items():
            assert facts["good_for"] == words[name]
            for metric in ("slide_mae", "slide_spearman", "spread_kept"):
                expected = scores[metric]["types"][name]["mean"]
                assert facts[metric] == (None if expected is None else pytest.approx(expected, abs=1e-5)), metric
            expected = scores["slide_mae_constant"]["types"][name]["mean"]
            assert facts["slide_mae_constant"] == pytest.approx(expected, abs=1e-5)
        assert found["by_type"]["a"]["good_for"] == (BETWEEN if noise < 0.1 else NEITHER)


def test_the_error_of_a_slides_mean_is_that_of_a_next_donor() -> None:
    """Donors weigh equally, and one more as bad as the worst is added: here 10 of 11 weights are needed for .9."""
    donors = {f"s{i:02}": f"D{i // 2:02}" for i in range(20)}  # ten donors of two sections
    training = training_set(donors)
    off = {name: 0.01 * (1 + number // 2) for number, name in enumerate(donors)}
    off["s19"] = 0.3  # half of the worst donor
    held_out = training.Y + np.array([off[name] for name in training.section.tolist()])[:, None]
    levels = held_out_levels(training, held_out)
    assert levels is not None
    # Nine donors whole and half of the tenth, twice (it stands for the next one): 10 of 11 at .10; without it 9 of 11.
    assert levels["by_type"]["a"]["slide_error"] == pytest.approx(0.1)
    assert held_out_levels(training, held_out, level=0.95)["by_type"]["b"]["slide_error"] == pytest.approx(0.3)  # type: ignore[index]
    assert held_out_levels(training, held_out, level=0.5)["by_type"]["b"]["slide_error"] == pytest.approx(0.06)  # type: ignore[index]


def test_sections_of_known_donors_tell_no_levels_and_one_section_nothing() -> None:
    two = training_set({"s1": "D1", "s2": "D1", "s3": "D2", "s4": "D2"})
    levels = held_out_levels(two, two.Y + 1e-3 * two.X[:, :2])
    assert levels is not None and levels["protocol"] == "held-out section" and levels["donors_unseen"] is False
    assert levels["by_type"]["a"]["good_for"] == WITHIN and levels["by_type"]["a"]["slide_error"] is None
    assert levels["by_type"]["a"]["slide_spearman"] == pytest.approx(1)
    one = training_set({"s1": "D1"})
    assert held_out_levels(one, one.Y) is None
    assert held_out_levels(two, np.full_like(two.Y, np.nan)) is None


def test_rows_that_were_never_held_out_are_no_part_of_the_levels() -> None:
    training = training_set(SIX)
    held_out = training.Y.copy()
    held_out[training.donor == "D1"] = np.nan
    levels = held_out_levels(training, held_out)
    assert levels is not None and (levels["n_donors"], levels["n_sections"]) == (3, 4)
    held_out[training.donor == "D2"] = np.nan
    levels = held_out_levels(training, held_out)
    assert levels is not None and levels["by_type"]["a"]["slide_error"] is None


def test_train_puts_levels_into_the_card_and_every_surface_reads_them(tmp_path: Path) -> None:
    donors = {"A1": "A", "B1": "B", "C1": "C", "C2": "C"}
    features = {name: features_of(name) for name in donors}
    labels = {name: labels_of(table) for name, table in features.items()}
    head = train(cohort_of(donors), features, labels, head="ridge", out=tmp_path / "head")
    training = assemble(cohort_of(donors), features, labels)
    fit = make_estimator("ridge").fit(training.X, training.Y, groups=training.donor)
    assert fit.held_out_ is not None
    assert head.card["levels"] == held_out_levels(training, fit.held_out_)
    levels = levels_of(load_head(tmp_path / "head").card)
    assert levels is not None and (levels.n_donors, levels.n_sections, levels.donors_unseen) == (3, 4, True)
    facts = head.card["levels"]["by_type"]["T cell"]
    assert levels.word("T cell") == facts["good_for"] and levels.slide_error("T cell") == facts["slide_error"] > 0
    assert levels.word("B cell") == "not known" and levels.slide_error("B cell") is None
    text = head.card_markdown()
    assert "## Levels of slides" in text and "Means of slides, 3 donors held out (4 sections)." in text
    assert f"| T cell | {facts['good_for']} | {facts['slide_mae']:.3f} | {facts['slide_mae_constant']:.3f} |" in text
    shown = head_facts(tmp_path / "head").text()
    assert "means of slides, 3 donors held out (4 sections):" in shown
    assert f"T cell  {facts['good_for']}; error {facts['slide_mae']:.3f}" in shown
    assert f"90% within {facts['slide_error']:.3f}" in shown
    private = private_card(head.card, open_pseudonyms(True, tmp_path / "key", tmp_path / "out", []))  # type: ignore[arg-type]
    assert private["levels"] == head.card["levels"]


def test_a_card_without_levels_or_from_a_stranger_is_read() -> None:
    assert levels_of({}) is None and levels_of({"levels": None}) is None and levels_of({"levels": "all"}) is None
    assert level_lines({"cell_types": ["a"]}) == ["means of slides: not known"]
    by_type = {
        "a": {"good_for": "<b>everything</b>", "slide_error": "0.1"},
        "b": ["neither"],
        "c": {"slide_error": True},
    }
    levels = levels_of({"levels": {"protocol": "<b>", "level": "high", "n_donors": "many", "by_type": by_type}})
    assert levels is not None and not levels.donors_unseen and levels.protocol == "held-out section"
    for name in by_type:
        assert levels.word(name) == "not known" and levels.slide_error(name) is None
    assert levels_of({"levels": {"by_type": 3}}).word("a") == "not known"  # type: ignore[union-attr]
    for levels_said in ({"by_type": by_type}, {}, None):
        card = {"cell_types": ["a", "b"], "levels": levels_said}
        assert "<b>" not in "".join(level_lines(card))


def test_totals_of_cells_are_told_where_they_beat_the_training_mean() -> None:
    rng = np.random.default_rng(0)
    donor = np.repeat(["a", "b"], [30, 60])
    observed = rng.gamma(2.0, 2.0, (90, 3))
    constant = np.tile(observed.mean(axis=0), (90, 1))
    good, low = observed * 1.1, 0.4 * observed
    found = held_out_totals(observed, good, constant, donor)
    total = observed.sum(axis=1)
    by_donor = [np.square(0.1 * total[donor == name]).mean() for name in "ab"]
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean(by_donor)), abs=1e-5) and found["told"] is True
    assert found["least"] == found["most"] == pytest.approx(1.1)
    apart = [np.square(total[donor == name] - constant.sum(axis=1)[0]).mean() for name in "ab"]
    assert found["rmse_constant"] == pytest.approx(np.sqrt(np.mean(apart)), abs=1e-5)
    found = held_out_totals(observed, low, constant, donor)
    assert found["told"] is False and found["most"] == pytest.approx(0.4)


@pytest.mark.parametrize("unit", ["cells per spot", "proportion"])
def test_a_card_says_whether_totals_are_told(job: Job, unit: str) -> None:
    cohort = hm.read_cohort(job.sheet)
    truth = phantom_truth(job.sheet.parent)
    labels = {}
    for name, one in truth.items():
        cells = one.values[one.values.sum(axis=1) > 0]
        shares = cells.div(cells.sum(axis=1), axis=0)
        labels[name] = hm.Abundance(cells if unit == "cells per spot" else shares, unit)
    card = hm.train(cohort, job.features, labels, head="ridge").card
    text = card_markdown(card)
    if unit == "proportion":
        assert "totals" not in card["levels"] and "Cells in a spot" not in text
        return
    totals = card["levels"]["totals"]
    assert totals["told"] is (totals["rmse"] <= totals["rmse_constant"]) and totals["least"] <= totals["most"]
    assert ("So totals are told" in text) is totals["told"] and "Cells in a spot, all types together" in text


def _train_on_donors(factors: tuple[float, ...], out: Path | None = None) -> Any:
    """Ridge on donors whose cells are so many times those that features tell; features tell the donors, too."""
    donors = {f"s{number}": f"D{number}" for number in range(len(factors))}
    features, labels = {}, {}
    for number, name in enumerate(donors):
        features[name] = features_of(name)
        cells = labels_of(features[name], "cells per spot")
        labels[name] = hm.Abundance(factors[number] * cells.values, "cells per spot")
        features[name].X[:, -1] += 6 * number
    return train(cohort_of(donors), features, labels, head="ridge", out=out, progress=False)


def test_a_head_that_does_not_tell_totals_answers_in_relative_abundance_and_says_why(tmp_path: Path) -> None:
    head = _train_on_donors((1.0, 9.0, 1.0, 9.0), tmp_path / "head")
    totals = head.card["levels"]["totals"]
    assert totals["told"] is False and totals["rmse"] > totals["rmse_constant"]
    assert head.card["unit"] == head.card["head"]["parameters"]["unit"] == head.estimator.unit == RELATIVE
    assert head.card["training"]["labels"][0]["unit"] == "cells per spot"
    text = card_markdown(head.card)
    assert "so it answers in relative abundance" in head.card["limits"] and f"{totals['rmse']:.3g}" in text
    assert "the head answers in relative abundance" in text
    again, tiles = load_head(tmp_path / "head"), features_of("s1")
    values = head.predict_features(tiles)
    pd.testing.assert_frame_equal(again.predict_features(tiles), values)
    assert values.sum(axis=1).std() > 0.1, "the numbers are amounts, no shares"
    assert label_area_um2(again) is None


def test_cells_stay_where_totals_are_told_or_too_few_donors_show_that_they_are_not() -> None:
    assert _train_on_donors((1.0, 1.0, 1.0, 1.0)).card["unit"] == "cells per spot"
    two = _train_on_donors((1.0, 9.0)).card
    assert two["unit"] == "cells per spot" and "read its numbers relative" in card_markdown(two)
    levels = {"totals": {"told": False, "rmse": 3.0, "rmse_constant": 2.0}, "donors_unseen": True, "n_donors": 3}
    assert answered_unit("cells per spot", levels)[0] == RELATIVE
    for unit, found in (
        ("proportion", levels),
        ("cells per spot", None),
        ("cells per spot", levels | {"donors_unseen": False}),
        ("cells per spot", levels | {"n_donors": 2}),
        ("cells per spot", levels | {"totals": levels["totals"] | {"told": True}}),
    ):
        assert answered_unit(unit, found) == (unit, "")
