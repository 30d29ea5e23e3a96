"""Means of slides drawn to the training mean: slopes against values by hand, the card, an evaluation, the tables."""

from __future__ import annotations

import numpy as np
import pytest

from histomix.evaluation.folds import make_folds
from histomix.evaluation.scores.coverage import IntervalScores
from histomix.heads import make_estimator
from histomix.heads.trust.levels import held_out_levels
from histomix.heads.trust.shrinkage import HeldOutSlides, held_out_slides, level_slopes, shrunk_by_others

from .test_levels import SIX, training_set

pytestmark = pytest.mark.once


def slides_with_slopes(slopes: tuple[float, ...], donors: int, seed: int = 0) -> HeldOutSlides:
    """Two slides a donor, whose true means are the constant and a part of what is predicted, with noise."""
    rng = np.random.default_rng(seed)
    apart = rng.normal(size=(2 * donors, len(slopes)))
    constant = rng.uniform(1, 2, apart.shape)
    truth = constant + np.array(slopes) * apart + rng.normal(scale=0.01, size=apart.shape)
    return HeldOutSlides(truth, constant + apart, constant, np.repeat(np.arange(donors), 2))


def test_slopes_are_what_donors_say_drawn_to_all_types_and_to_nothing() -> None:
    many = level_slopes(slides_with_slopes((0.0, 0.5, 1.0, 1.5, -1.0), donors=400))
    np.testing.assert_allclose(many, [0.0, 0.5, 1.0, 1.0, 0.0], atol=0.02)
    # By hand: two donors with a slide each, of slope 1 and .5, and one type of the same size that does not vary.
    apart, right = np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([[1.0, 0.2], [1.0, -0.2]])
    few = HeldOutSlides(right, apart, np.zeros((2, 2)), np.arange(2))
    own = (1 * 1 + 2 * 1) / (1 + 4)
    pooled = own * 2 / (2 + 2)
    np.testing.assert_allclose(level_slopes(few), [(2 * own + 2 * pooled) / 4, 0.0])
    # A donor with many slides says no more than one with one.
    often = HeldOutSlides(right[[0, 1, 1, 1]], apart[[0, 1, 1, 1]], np.zeros((4, 2)), np.array([0, 1, 1, 1]))
    np.testing.assert_allclose(level_slopes(often), level_slopes(few))
    assert not level_slopes(HeldOutSlides(right, np.zeros((2, 2)), np.zeros((2, 2)), np.arange(2))).any()


def test_means_are_drawn_by_what_other_donors_say() -> None:
    slides = slides_with_slopes((0.3, 0.8), donors=6)
    drawn = shrunk_by_others(slides)
    rows = slides.donor == 2
    without = slides.donor != 2
    others = slides.donor[without] - (slides.donor[without] > 2)
    own = HeldOutSlides(slides.truth[without], slides.answer[without], slides.constant[without], others)
    expected = slides.constant[rows] + level_slopes(own) * (slides.answer[rows] - slides.constant[rows])
    np.testing.assert_allclose(drawn[rows], expected)
    assert np.abs(drawn - slides.truth).mean() < 0.5 * np.abs(slides.answer - slides.truth).mean()


def test_a_card_draws_means_from_three_donors_on_and_an_evaluation_scores_it() -> None:
    training = training_set(SIX)
    rng = np.random.default_rng(1)
    levels = {name: rng.normal(scale=0.2, size=2) for name in SIX}
    held_out = training.Y + np.array([levels[name] for name in training.section.tolist()])
    found = held_out_levels(training, held_out)
    assert found is not None
    slides = held_out_slides(training, held_out)
    for column, facts in enumerate(found["by_type"].values()):
        assert facts["training_mean"] == pytest.approx(training.Y[:, column].mean(), abs=1e-5)
        assert facts["slope"] == pytest.approx(level_slopes(slides)[column], abs=1e-5)
        left = np.abs(shrunk_by_others(slides) - slides.truth)[:, column]
        assert facts["shrunk_mae"] == pytest.approx(left.mean(), abs=1e-5) and facts["shrunk_error"] >= left.mean()
    two = training_set({"s1": "D1", "s2": "D1", "s3": "D2", "s4": "D2"})
    of_sections = held_out_levels(two, two.Y + 0.1)
    assert of_sections is not None and "slope" not in of_sections["by_type"]["a"]

    fold = next(one for one in make_folds(training.section, training.donor, "donor") if len(one.train))
    fit = make_estimator("ridge", training.unit).fit(
        training.X[fold.train], training.Y[fold.train], groups=training.donor[fold.train]
    )
    values = fit.predict(training.X[fold.test])
    measured = IntervalScores(training, "donor").measure(fit, training, fold, values)
    assert measured is not None and fit.held_out_ is not None
    slopes = level_slopes(held_out_slides(training, fit.held_out_, fold.train))
    constant = training.Y[fold.train].mean(axis=0)
    section = training.section[fold.test]
    for number, name in enumerate(dict.fromkeys(section.tolist())):
        mean, truth = (table[section == name].mean(axis=0) for table in (values, training.Y[fold.test]))
        expected = np.abs(constant + slopes * (mean - constant) - truth)
        np.testing.assert_allclose(measured["slide_mae_shrunk"][number], expected)
