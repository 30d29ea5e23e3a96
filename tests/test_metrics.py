"""Metrics against scipy and scikit-learn, and the rules where those give no number."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, roc_auc_score, root_mean_squared_error

from histomix.common.metrics import (
    auroc,
    centre_within,
    is_present,
    js_distance,
    mae,
    pearson,
    pearson_by_section,
    rmse,
    slide_means,
    spearman,
    spread_kept,
    within_sections,
)
from histomix.errors import InputError
from histomix.evaluation import RULES, score


@pytest.fixture(params=[0, 1, 2], ids=["smooth", "ties", "far from zero"])
def pair(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(request.param)
    y = rng.gamma(0.7, size=(83, 6))
    p = 0.3 * y + rng.gamma(1.0, size=y.shape)
    if request.param == 1:
        y, p = np.floor(2 * y), np.floor(2 * p)
    return (y + 1e4, p + 1e4) if request.param == 2 else (y, p)


def _each(function: object, y: np.ndarray, p: np.ndarray) -> list[float]:
    return [function(a, b) for a, b in zip(y.T, p.T, strict=True)]  # type: ignore[operator]


def test_correlations_are_those_of_scipy(pair: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = pair
    np.testing.assert_allclose(pearson(y, p), _each(lambda a, b: pearsonr(a, b).statistic, y, p), rtol=0, atol=1e-10)
    np.testing.assert_allclose(spearman(y, p), _each(lambda a, b: spearmanr(a, b).statistic, y, p), rtol=0, atol=1e-10)


def test_errors_and_auroc_are_those_of_sklearn(pair: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = pair
    np.testing.assert_allclose(rmse(y, p), _each(root_mean_squared_error, y, p), rtol=0, atol=1e-10)
    np.testing.assert_allclose(mae(y, p), _each(mean_absolute_error, y, p), rtol=0, atol=1e-10)
    present = y > np.median(y, axis=0)
    np.testing.assert_allclose(auroc(present, p), _each(roc_auc_score, present, p), rtol=0, atol=1e-10)


def test_js_distance_is_that_of_scipy(pair: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = pair
    filled = (y.sum(axis=1) > 0) & (p.sum(axis=1) > 0)
    y, p = y[filled], p[filled]
    expected = [jensenshannon(a, b, base=2) for a, b in zip(y, p, strict=True)]
    # The square root turns a rounding error of 1e-16 into 1e-8, in scipy as here.
    np.testing.assert_allclose(js_distance(y, p) ** 2, np.square(expected), rtol=0, atol=1e-10)


def test_js_distance_at_its_ends() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(5), size=200)
    assert np.isfinite(js_distance(p, p * 3.7)).all()
    np.testing.assert_allclose(js_distance(p, p * 3.7), 0, atol=1e-7)
    observed = np.array([[1.0, 0], [1, 0], [0, 0], [1, 0]])
    predicted = np.array([[0, 2.0], [0, 0], [1, 0], [3, -4]])
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(js_distance(observed, predicted), [1, 1, np.nan, 0])


@pytest.mark.parametrize("metric", [pearson, spearman])
def test_constants_by_rule(metric: object) -> None:
    rng = np.random.default_rng(3)
    varied = rng.random((50, 1))
    # A mean differs from itself in the last bit when it is summed in another order: still constant.
    constant = np.full((50, 1), 0.1) + np.tile([0.0, 1e-17, 2e-17, 3e-17, 1.4e-17], 10)[:, None]
    y = np.hstack([varied, varied, constant, constant, np.zeros((50, 1))])
    p = np.hstack([varied, constant, varied, constant, varied])
    np.testing.assert_allclose(metric(y, p), [1, 0, np.nan, np.nan, np.nan], atol=1e-12)  # type: ignore[operator]
    assert "scores 0" in RULES["constant_prediction"]


def test_two_spots_have_no_correlation_and_three_have() -> None:
    y, p = np.array([[1.0], [2.0], [4.0]]), np.array([[1.0], [3.0], [2.0]])
    assert np.isnan(pearson(y[:2], p[:2])).all()
    np.testing.assert_allclose(pearson(y, p), pearsonr(y[:, 0], p[:, 0]).statistic)


@pytest.mark.parametrize("scale", [1e-200, 1e-9, 1e150])
def test_pearson_does_not_depend_on_the_scale(scale: float) -> None:
    rng = np.random.default_rng(4)
    y, p = rng.random((40, 3)), rng.random((40, 3))
    np.testing.assert_allclose(pearson(y * scale, p / scale), pearson(y, p), atol=1e-10)


def test_no_correlation_passes_one_by_rounding() -> None:
    y = np.random.default_rng(0).random((50, 200))
    with np.errstate(all="raise"):
        assert pearson(y, y).min() > 1 - 1e-12 and pearson(y, y).max() <= 1
        assert pearson(y, -y).min() >= -1 and pearson(y, -y).max() < 1e-12 - 1


def test_auroc_of_a_constant_and_of_one_class() -> None:
    present = np.array([[True, True], [False, True], [True, True], [False, True]])
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(auroc(present, np.full((4, 2), 0.3)), [0.5, np.nan])
        np.testing.assert_array_equal(auroc(present[:2], np.array([[2.0, 2.0], [1.0, 1.0]])), [1, np.nan])


def test_presence_has_a_threshold_for_each_unit() -> None:
    np.testing.assert_array_equal(is_present(np.array([0.05, 0.0501, 0.5]), "proportion"), [False, True, True])
    np.testing.assert_array_equal(is_present(np.array([0.05, 0.4999, 0.5]), "cells per spot"), [False, False, True])
    with pytest.raises(InputError, match="'percent'"):
        is_present(np.array([0.1]), "percent")


def test_centring_takes_away_what_only_sections_differ_in() -> None:
    rng = np.random.default_rng(5)
    section = np.repeat(["a", "b"], 200)
    level = np.where(section == "a", 0.0, 10.0)[:, None]
    y, p = rng.random((400, 1)) + level, rng.random((400, 1)) + level
    assert pearson(y, p)[0] > 0.9
    within = pearson(centre_within(y, section), centre_within(p, section))[0]
    by_hand = [values - np.repeat([values[:200].mean(), values[200:].mean()], 200)[:, None] for values in (y, p)]
    assert within == pytest.approx(pearsonr(*(values[:, 0] for values in by_hand)).statistic, abs=1e-10)
    assert abs(within) < 0.2
    # One constant per section knows nothing within sections.
    assert pearson(centre_within(y, section), centre_within(level / 3, section))[0] == 0


def _score(y: np.ndarray, p: np.ndarray, section: np.ndarray, unit: str = "cells per spot") -> object:
    donor = np.char.add("donor ", section)
    return score(y, p, section=section, donor=donor, cell_types=["T cell", "B cell"], unit=unit)


def test_correlations_of_each_section_keep_the_rules_and_pass_over_unpredicted_rows() -> None:
    rng = np.random.default_rng(4)
    y, p = rng.random((13, 3)), rng.random((13, 3))
    section = np.array(["b"] * 5 + ["a"] * 5 + ["two"] * 2 + ["none"])
    y[:5, 1], p[:5, 2], p[3, 0], p[12] = 0.5, 0.1 + 0.2, np.nan, np.nan
    whole = np.array([0, 1, 2, 4])
    expected = [pearson(y[5:10], p[5:10]), [pearson(y[whole], p[whole])[0], np.nan, 0.0], [np.nan] * 3]
    np.testing.assert_array_equal(pearson_by_section(y, p, section), expected)
    assert within_sections(y, p, section) == np.mean([expected[0].mean(), expected[1][0] / 2])
    assert within_sections(y, np.full_like(p, np.nan), section) == 0
    assert pearson_by_section(y, np.full_like(p, np.nan), section).shape == (0, 3)


def test_score_has_a_row_for_every_type_section_and_metric() -> None:
    rng = np.random.default_rng(6)
    section = np.repeat(["s1", "s2"], [30, 12])
    y, p = rng.gamma(1.0, size=(42, 2)), rng.gamma(1.0, size=(42, 2))
    y[30:, 1] = 0
    y[0] = 0
    table = _score(y, p, section)
    assert list(table) == ["donor", "section", "cell_type", "metric", "value", "n_spots"]
    assert len(table) == 2 * (5 * 2 + 1) + 2 * 2
    rows = table.set_index(["metric", "section", "cell_type"])
    assert rows.loc[("pearson", "s1", "B cell"), "value"] == pytest.approx(pearsonr(y[:30, 1], p[:30, 1]).statistic)
    assert np.isnan(rows.loc[("pearson", "s2", "B cell"), "value"])
    assert np.isnan(rows.loc[("auroc_present", "s2", "B cell"), "value"])
    assert rows.loc[("pearson_pooled", "", "T cell"), "value"] == pytest.approx(pearsonr(y[:, 0], p[:, 0]).statistic)
    assert rows.loc[("js_composition", "s1", ""), "n_spots"] == 29
    mean_distance = np.mean([jensenshannon(a, b, base=2) for a, b in zip(y[1:30], p[1:30], strict=True)])
    assert rows.loc[("js_composition", "s1", ""), "value"] == pytest.approx(mean_distance)
    assert rows.loc[("pearson", "s1", "T cell"), "donor"] == "donor s1"
    assert rows.loc[("pearson_pooled", "", "T cell"), "donor"] == ""


def test_score_refuses_what_it_would_have_to_skip() -> None:
    rng = np.random.default_rng(7)
    y, section = rng.random((10, 2)), np.repeat("s", 10)
    holed = y.copy()
    holed[3, 1] = np.nan
    with pytest.raises(InputError, match="1 of 10 spots have predicted values that are not finite"):
        _score(y, holed, section)
    with pytest.raises(InputError, match="observed values that are not finite"):
        _score(holed, y, section)
    with pytest.raises(InputError, match="do not agree"):
        _score(y, y[:9], section)


def test_slides_are_summed_up_by_themselves(pair: tuple[np.ndarray, np.ndarray]) -> None:
    y, p = pair
    section = np.array(["b", "a", "c"])[np.random.default_rng(1).integers(3, size=len(y))]
    by_pandas = pd.DataFrame(y).groupby(section).mean()
    names, means = slide_means(y, section)
    assert names.tolist() == ["a", "b", "c"] == by_pandas.index.tolist()
    np.testing.assert_allclose(means, by_pandas.to_numpy())
    centred = centre_within(y, section)
    np.testing.assert_allclose(centred, y - by_pandas.loc[section].to_numpy(), atol=1e-11)
    assert np.abs(centred).max() > 0.1
    np.testing.assert_allclose(spread_kept(y, p), np.std(p, axis=0) / np.std(y, axis=0))
    one = np.column_stack([np.full(4, 0.3), np.arange(4.0)])
    kept = spread_kept(one, one / 2)
    assert np.isnan(kept[0]) and kept[1] == 0.5
