"""Intervals: the quantile by hand, coverage of donors that were not there, and honesty about how few there were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import lsq_linear, nnls

from histomix.errors import HeadError
from histomix.heads import Intervals, calibrate, calibrate_levels, held_out_predictions, make_estimator
from histomix.heads.trust import intervals as intervals_module
from histomix.heads.trust.intervals import WIDENED, WIDENED_BY
from histomix.maps.reading import interval_caution

Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def cohort(n_donors: int, seed: int, *, between: float = 0.3, n: int = 120, n_types: int = 3) -> Data:
    """Labels, predictions, spreads and donors: errors grow with the spread, and donors differ in how large they are."""
    rng = np.random.default_rng(seed)
    donor = np.repeat(np.arange(n_donors), n)
    values = rng.gamma(2.0, 1.0, (len(donor), n_types))
    spread = rng.uniform(0.1, 1.0, values.shape)
    size = np.exp(between * rng.standard_normal(n_donors))[donor][:, None]
    return np.maximum(values + size * spread * rng.standard_normal(values.shape), 0), values, spread, donor


def inside(intervals: Intervals, data: Data) -> np.ndarray:
    Y, values, spread, _ = data
    lower, upper = intervals.bounds(values, spread)
    return (lower <= Y) & (upper >= Y)


def strata(found: Intervals, values: np.ndarray, column: int) -> list[np.ndarray]:
    """Rows of each stratum of a type, by the edges."""
    low, high = found.edges[:, column]
    own = values[:, column]
    return [own <= low, (own > low) & (own <= high), own > high]


def test_the_multiplier_by_hand() -> None:
    Y, values, _, donor = cohort(4, 0, n=75)
    donor = np.where(np.arange(len(donor)) < 100, 0, donor)  # donors of unequal size
    found = calibrate(Y, values, None, donor, 0.8, unit="cells per spot")
    assert not found.needs_spread and found.multiplier.shape == (3, 3)
    weight = (1 / np.bincount(donor)[donor]).astype(float)
    for column in range(3):
        a, b, _, least = found.variance[:, column]
        scores = np.abs(Y - values)[:, column] / np.sqrt(np.maximum(a + b * values[:, column], least))
        edges = np.quantile(values[:, column], [1 / 3, 2 / 3], weights=weight, method="inverted_cdf")
        np.testing.assert_array_equal(found.edges[:, column], edges)
        for number, rows in enumerate(strata(found, values, column)):
            score, who = scores[rows], donor[rows]

            def share(limit: float, score: np.ndarray = score, who: np.ndarray = who) -> float:
                own = [(score[who == name] <= limit).mean() for name in np.unique(who)]
                return float((sum(own) + min(own)) / (len(own) + 1))

            assert found.multiplier[number, column] == pytest.approx(min(s for s in score if share(s) >= 0.8))
            each = [np.quantile(score[who == name], 0.8, method="inverted_cdf") for name in np.unique(who)]
            assert min(each) <= found.multiplier[number, column] <= max(each)


def test_low_and_high_predictions_are_covered_alike() -> None:
    """Errors that grow faster with the prediction than the expected error can: each third holds the level still."""
    rng = np.random.default_rng(0)
    donor = np.repeat(np.arange(24), 300)
    values = rng.gamma(2.0, 1.0, (len(donor), 1))
    Y = np.maximum(values + 0.2 * values**1.5 * rng.standard_normal(values.shape), 0)
    train = donor < 12
    found = calibrate(Y[train], values[train], None, donor[train], 0.8, unit="cells per spot")
    lower, upper = found.bounds(values[~train], None)
    held = ((lower <= Y[~train]) & (upper >= Y[~train]))[:, 0]
    third = values[~train, 0].argsort().argsort() * 3 // (~train).sum()
    assert [held[third == number].mean() for number in range(3)] == pytest.approx([0.8] * 3, abs=0.03)
    # A multiplier for all of them, as heads of before have it, does not.
    old = Intervals.restored(
        {"variance": found.variance, "multiplier": np.array([1.15])}, "cells per spot", 1, found.facts()
    )
    lower, upper = old.bounds(values[~train], None)
    held = ((lower <= Y[~train]) & (upper >= Y[~train]))[:, 0]
    assert held[third == 0].mean() - held[third == 2].mean() > 0.1


def test_a_stratum_that_one_donor_has_alone_is_calibrated_with_the_rest() -> None:
    Y, values, _, donor = cohort(3, 0, n=60)
    values, Y = values % 1 + 3 * (donor == 0)[:, None], Y % 1 + 3 * (donor == 0)[:, None]
    found = calibrate(Y, values, None, donor, unit="cells per spot")
    for column in range(3):
        a, b, _, least = found.variance[:, column]
        score = np.abs(Y - values)[:, column] / np.sqrt(np.maximum(a + b * values[:, column], least))
        assert found.multiplier[2, column] == pytest.approx(by_the_book(score, donor, 0.9)[0])


def test_a_donor_with_more_spots_weighs_no_more() -> None:
    data = cohort(4, 0, between=0.8)
    donor = data[-1]
    rows = np.concatenate([np.arange(len(donor)), *[np.flatnonzero(donor == 0)] * 6])
    once, often = (calibrate(*part, unit="cells per spot") for part in (data, tuple(one[rows] for one in data)))
    np.testing.assert_allclose(often.variance, once.variance, rtol=1e-6)
    np.testing.assert_allclose(often.multiplier, once.multiplier, rtol=1e-6)
    for name in ("coverage", "width"):
        assert often.facts()[name] == once.facts()[name]


def test_the_expected_error_has_a_floor() -> None:
    """Errors that go to nothing with the prediction: the fitted variance is 0 at 0, the expected error is not."""
    rng = np.random.default_rng(0)
    values = rng.uniform(1, 9, (400, 1))
    Y = values + np.sqrt(values) * rng.choice([-1.0, 1.0], values.shape)
    fit = calibrate(Y, values, None, np.arange(400) % 4, unit="cells per spot")
    assert fit.variance[0, 0] == pytest.approx(0, abs=1e-6) and fit.variance[1, 0] == pytest.approx(1)
    level = np.square(Y - values).mean()
    assert fit.variance[3, 0] == pytest.approx(0.01 * level)
    _, upper = fit.bounds(np.zeros((1, 1)), None)
    assert upper[0, 0] == pytest.approx(fit.multiplier[0, 0] * np.sqrt(0.01 * level))
    # Rows that are predicted and observed as nothing weigh much, not without end.
    nothing = np.arange(400) < 40
    values[nothing] = Y[nothing] = 0.0
    fit = calibrate(Y, values, None, np.arange(400) % 4, unit="cells per spot")
    assert fit.variance[1, 0] == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("level", [0.8, 0.9])
@pytest.mark.parametrize("n_donors", [2, 3, 8, 30])
def test_new_donors_are_covered_within_five_points(n_donors: int, level: float) -> None:
    coverage = []
    for seed in range(40):
        fitted = calibrate(*cohort(n_donors, seed), level, unit="cells per spot")
        coverage.append(inside(fitted, cohort(20, 1000 + seed)).mean())
    assert level - 0.05 < np.mean(coverage) < level + 0.05
    assert np.mean(coverage) > level * n_donors / (n_donors + 1)


def test_intervals_are_wider_the_fewer_and_the_more_different_the_donors_are() -> None:
    def width(n_donors: int, between: float) -> float:
        fits = [calibrate(*cohort(n_donors, seed, between=between), unit="cells per spot") for seed in range(30)]
        *_, values, spread, _ = cohort(5, 99)
        return float(np.mean([np.subtract(*fit.bounds(values, spread)[::-1]) for fit in fits]))

    assert width(3, 0.5) > width(3, 0.1)
    # Against the pooled quantile of as many donors, which is what the intervals tend to.
    Y, values, spread, donor = cohort(3, 1, between=0.8)
    fit = calibrate(Y, values, spread, donor, unit="cells per spot")
    assert inside(fit, (Y, values, spread, donor)).mean() > 0.91
    Y, values, spread, donor = cohort(60, 1, between=0.8)
    many = calibrate(Y, values, spread, donor, unit="cells per spot")
    assert inside(many, (Y, values, spread, donor)).mean() == pytest.approx(0.9, abs=0.01)


def test_the_width_follows_what_tells_the_error() -> None:
    data = cohort(8, 0)
    Y, values, spread, donor = data
    informed, blind = (calibrate(Y, values, s, donor, unit="cells per spot") for s in (spread, None))
    assert informed.needs_spread and not blind.needs_spread
    narrow, wide = (np.subtract(*fit.bounds(values, spread)[::-1]).mean() for fit in (informed, blind))
    assert narrow < 0.97 * wide
    low = spread < np.median(spread)
    spread_coverage = [inside(informed, data)[rows].mean() for rows in (low, ~low)]
    blind_coverage = [inside(blind, data)[rows].mean() for rows in (low, ~low)]
    assert abs(np.subtract(*spread_coverage)) < 0.03 < abs(np.subtract(*blind_coverage))
    with pytest.raises(HeadError, match="spread of a committee"):
        informed.bounds(values, None)


def test_ends_stay_in_the_unit_and_an_absent_type_has_no_width() -> None:
    rng = np.random.default_rng(0)
    Y = np.insert(rng.dirichlet(np.ones(3), 300), 1, 0.0, axis=1)
    values = np.insert(rng.dirichlet(np.ones(3), 300), 1, 0.0, axis=1)
    fit = calibrate(Y, values, None, np.arange(300) % 3)
    lower, upper = fit.bounds(values, None)
    assert (lower >= 0).all() and (upper <= 1).all() and (lower <= values).all() and (values <= upper).all()
    assert not upper[:, 1].any() and (upper[:, 0] > 0).all()
    cells = calibrate(50 * Y, 50 * values, None, np.arange(300) % 3, unit="cells per spot")
    assert cells.bounds(50 * values, None)[1].max() > 1
    # A tile that is predicted as nothing is not certain.
    assert (fit.bounds(np.zeros((1, 4)), None)[1][0, [0, 2, 3]] > 0).all()


def test_rows_without_held_out_predictions_are_left_out() -> None:
    Y, values, spread, donor = cohort(4, 0)
    holes = values.copy()
    holes[donor == 2] = np.nan
    some, kept = calibrate(Y, holes, spread, donor, unit="cells per spot"), donor != 2
    same = calibrate(Y[kept], values[kept], spread[kept], donor[kept], unit="cells per spot")
    np.testing.assert_array_equal(some.multiplier, same.multiplier)
    assert some.facts() == same.facts() and some.facts()["n_donors"] == 3


def test_facts_say_how_many_donors_and_what_they_guarantee() -> None:
    few = calibrate(*cohort(3, 0), unit="cells per spot").facts()
    assert (few["level"], few["n_donors"], few["n_spots"], few["guaranteed"]) == (0.9, 3, 360, 0.675)
    assert "calibrated on 3 donors (360 spots)" in few["statement"]
    assert "a guarantee of 0.90 needs at least 9 donors, so with 3 they are widened" in few["statement"]
    assert "widened" not in calibrate(*cohort(9, 0), unit="cells per spot").facts()["statement"]
    sections = calibrate(*cohort(3, 0), unit="cells per spot", kind="section").facts()
    assert sections["n_donors"] == 1 and sections["n_groups"] == 3
    assert "3 sections of one donor" in sections["statement"] and "nothing of the spread" in sections["statement"]


def test_intervals_of_one_or_two_donors_sections_are_widened_and_say_so() -> None:
    data = cohort(4, 0)
    plain = calibrate(*data, unit="cells per spot")
    for n_donors, factor in WIDENED.items():
        wide = calibrate(*data, unit="cells per spot", kind="section", n_donors=n_donors)
        np.testing.assert_allclose(wide.multiplier, factor * plain.multiplier)
        facts = wide.facts()
        assert facts["widened"] == {"factor": factor, "source": WIDENED_BY}
        assert facts["width"]["mean"] > plain.facts()["width"]["mean"]
        assert facts["coverage"] == plain.facts()["coverage"]
        assert f"{factor:g} times wider" in facts["statement"] and WIDENED_BY in facts["statement"]
        assert f"{factor:g} times wider" in interval_caution(facts)
    assert "widened" not in plain.facts()


def test_a_donor_in_the_facts_is_judged_by_the_others() -> None:
    data = cohort(5, 3, between=0.6)
    Y, values, spread, donor = data
    facts = calibrate(*data, unit="cells per spot").facts()
    found = []
    for name in range(5):
        rest = donor != name
        others = calibrate(Y[rest], values[rest], spread[rest], donor[rest], unit="cells per spot")
        found.append(inside(others, tuple(part[~rest] for part in data)).mean())  # type: ignore[arg-type]
    # The expected error is fitted once, on all donors, so the two differ a little.
    assert facts["coverage"]["mean"] == pytest.approx(np.mean(found), abs=0.01)
    assert facts["coverage"]["least"] == pytest.approx(min(found), abs=0.02)
    assert len(facts["coverage"]["by_type"]) == len(facts["width"]["by_type"]) == 3


def test_too_few_donors_and_strange_levels_are_refused() -> None:
    Y, values, spread, donor = cohort(2, 0)
    with pytest.raises(HeadError, match="at least two donors; there are those of 1"):
        calibrate(Y, values, spread, np.zeros(len(Y)))
    with pytest.raises(HeadError, match="those of 0"):
        calibrate(Y, np.full_like(values, np.nan), spread, donor)
    for level in (0.2, 1.0, 90):
        with pytest.raises(HeadError, match=r"from 0\.5 to 0\.99"):
            calibrate(Y, values, spread, donor, level)


def test_many_spots_are_thinned_on_the_safe_side() -> None:
    data = cohort(4, 0, n=5000, n_types=1)
    Y, values, spread, donor = data
    found = calibrate(*data, unit="cells per spot")
    a, b, c, least = found.variance[:, 0]
    score = np.abs(Y - values)[:, 0] / np.sqrt(np.maximum(a + b * values[:, 0] + c * spread[:, 0] ** 2, least))
    for number, rows in enumerate(strata(found, values, 0)):
        own = [(score[rows & (donor == name)] <= found.multiplier[number, 0]).mean() for name in range(4)]
        assert 0.9 <= (sum(own) + min(own)) / 5 < 0.902


def by_the_book(score: np.ndarray, group: np.ndarray, level: float) -> tuple[float, list[float]]:
    """The quantile of a new group, and each group's coverage by the others: every score tried in turn."""
    names = np.unique(group).tolist()

    def at(kept: list[int]) -> float:
        for candidate in np.sort(score):
            held = [(score[group == name] <= candidate).mean() for name in kept]
            if (sum(held) + min(held)) / (len(held) + 1) >= level - 1e-12:
                return float(candidate)
        raise AssertionError("the greatest score holds all")

    def others(name: int) -> float:
        return float((score[group == name] <= at([one for one in names if one != name])).mean())

    return at(names), [others(name) for name in names]


def test_levels_that_are_found_together_are_those_found_alone() -> None:
    Y, values, spread, donor = cohort(5, 1, n=90)
    donor = donor[np.random.default_rng(0).permutation(len(donor))]
    levels = (0.5, 0.6, 0.8, 0.9, 0.95)
    together = calibrate_levels(Y, values, spread, donor, levels, unit="cells per spot")
    unjudged = calibrate_levels(Y, values, spread, donor, levels, unit="cells per spot", judged=False)
    for one, plain in zip(together, unjudged, strict=True):
        assert plain.facts() == {} != one.facts()
        assert all(np.array_equal(array, plain.arrays()[name]) for name, array in one.arrays().items())
    for level, found in zip(levels, together, strict=True):
        alone = calibrate(Y, values, spread, donor, level, unit="cells per spot")
        assert found.facts() == alone.facts()
        for name, array in found.arrays().items():
            np.testing.assert_array_equal(array, alone.arrays()[name])
        a, b, c, least = found.variance
        score = np.abs(Y - values) / np.sqrt(np.maximum(a + b * values + c * spread**2, least))
        by_type = []
        for column, own in enumerate(score.T):
            covered = np.zeros(5)
            for number, rows in enumerate(strata(found, values, column)):
                multiplier, coverage = by_the_book(own[rows], donor[rows], level)
                assert found.multiplier[number, column] == pytest.approx(multiplier, rel=1e-9)
                covered += np.array(coverage) * np.bincount(donor[rows], minlength=5)
            by_type.append(np.mean(covered / np.bincount(donor)))
        np.testing.assert_allclose(found.facts()["coverage"]["by_type"], by_type, atol=5e-5 + 1e-9)  # rounded there


def test_the_variance_is_fitted_once_for_all_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(intervals_module, "nnls", lambda *table: calls.append(1) or nnls(*table))
    calibrate_levels(*cohort(4, 0), (0.5, 0.7, 0.9, 0.95), unit="cells per spot")
    assert len(calls) == 3 * 2  # types, each fitted and fitted again with its weights


@pytest.mark.parametrize(("name", "parameters"), [("mean", {}), ("knn", {}), ("ridge", {"alpha": 1.0})])
def test_held_out_predictions_know_nothing_of_their_donor(name: str, parameters: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 6)).astype(np.float32)
    Y, groups = rng.dirichlet(np.ones(3), 200), np.repeat(list("abcd"), 50)
    head = make_estimator(name, **parameters).fit(X, Y, groups)
    values, spread = held_out_predictions(head, X, Y, groups)
    assert values.shape == Y.shape and np.isfinite(values).all() and spread is None
    if head.held_out_ is None:
        for one in "abcd":
            rest = groups != one
            expected = make_estimator(name, **parameters).fit(X[rest], Y[rest], groups[rest]).predict(X[~rest])
            np.testing.assert_array_equal(values[~rest], expected)
    # Labels of a donor have no part in its own predictions.
    changed: Any = Y.copy()
    changed[groups == "a"] = Y[groups == "a"][:, ::-1]
    again, _ = held_out_predictions(make_estimator(name, **parameters).fit(X, changed, groups), X, changed, groups)
    np.testing.assert_allclose(again[groups == "a"], values[groups == "a"], atol=1e-6)


def test_intervals_are_restored_from_what_they_gave() -> None:
    data = cohort(4, 0)
    _, values, spread, _ = data
    found = calibrate(*data, unit="cells per spot")
    again = Intervals.restored(found.arrays(), "cells per spot", 3, found.facts())
    for one, two in zip(again.bounds(values, spread), found.bounds(values, spread), strict=True):
        np.testing.assert_array_equal(one, two)
    assert again.facts() == found.facts()
    # An absent type has no error at all: a variance and a multiplier of 0 are as they should be; below is not.
    zero = {name: np.zeros_like(array) for name, array in found.arrays().items()}
    assert not Intervals.restored(zero, "cells per spot", 3, {}).multiplier.any()
    for name in zero:
        with pytest.raises(HeadError, match="negative values"):
            Intervals.restored({**zero, name: zero[name] - 0.5}, "cells per spot", 3, {})


def test_the_width_in_words_is_that_of_the_intervals() -> None:
    data = cohort(4, 0)
    Y, values, spread, donor = data
    found = calibrate(Y, values, spread, donor, 0.8, unit="cells per spot")
    lower, upper = found.bounds(values, spread)
    by_donor = [(upper - lower)[donor == name].mean(axis=0) for name in np.unique(donor)]
    width = found.facts()["width"]
    np.testing.assert_allclose(width["by_type"], np.mean(by_donor, axis=0), atol=1e-4)
    assert width["mean"] == pytest.approx(np.mean(by_donor), abs=1e-4)


def test_the_expected_error_is_that_of_two_weighted_regressions() -> None:
    """Against scipy's bounded least squares, on errors that vanish with the prediction, where the floor matters."""
    rng = np.random.default_rng(5)
    values = np.where(rng.random((300, 1)) < 0.4, 0.0, rng.uniform(0.5, 3.0, (300, 1)))
    Y = values * (1 + 0.25 * rng.standard_normal(values.shape))
    spread, donor = rng.uniform(0.1, 0.4, values.shape), rng.integers(3, size=300)
    found = calibrate(Y, values, spread, donor, unit="cells per spot")
    square, weight = np.square(Y - values)[:, 0], 1 / (np.bincount(donor)[donor] * 3)
    level = weight @ square
    table = np.column_stack([np.ones(300), values[:, 0], np.square(spread[:, 0])])
    fitted = np.full(300, level)
    for _ in range(2):
        row = np.sqrt(weight) / np.maximum(fitted, 0.01 * level)
        solved = lsq_linear(table * row[:, None], square * row, (0, np.inf), tol=1e-14).x
        fitted = table @ solved
    np.testing.assert_allclose(found.variance[:, 0], [*solved, 0.01 * level], atol=1e-6, rtol=1e-4)


def test_what_is_told_of_the_groups_is_theirs() -> None:
    """Coverage of each group by the others, over its cell types; not of each type over the groups."""
    Y, values, spread, donor = cohort(4, 3, between=0.9)
    facts = calibrate(Y, values, spread, donor, unit="cells per spot").facts()
    assert facts["method"].startswith("conformal, every group held out whole")
    by_group = []
    for name in range(4):
        mine = donor == name
        others = calibrate(Y[~mine], values[~mine], spread[~mine], donor[~mine], unit="cells per spot")
        by_group.append(inside(others, (Y[mine], values[mine], spread[mine], donor[mine])).mean())
    # The variance is fitted without the group here, and with it there.
    assert facts["coverage"]["greatest"] == pytest.approx(max(by_group), abs=0.03)
    assert facts["coverage"]["least"] == pytest.approx(min(by_group), abs=0.03)
    assert facts["coverage"]["greatest"] > max(facts["coverage"]["by_type"]) + 0.02
