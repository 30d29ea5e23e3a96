"""Differences, detectability, groups, the probe and baselines: against independent computations and nulls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, false_discovery_control, pearsonr, permutation_test, spearmanr
from sklearn.metrics import mean_absolute_error, roc_auc_score, root_mean_squared_error

from histomix.common.geometry.shift_null import section_null, shift_null
from histomix.common.geometry.toroidal_null import random_shifts
from histomix.common.resampling import DRAWS, mean_and_interval, resample_weights
from histomix.errors import InputError
from histomix.evaluation import make_folds, read_groups, score
from histomix.evaluation.baselines import ORACLE, nuclei_predictions, section_mean
from histomix.evaluation.groups import check_groups, group_rows, groups_from_labels, summarise_groups
from histomix.evaluation.leakage.batch_probe import batch_effect_probe
from histomix.evaluation.scores.bootstrap import summarise
from histomix.evaluation.scores.paired_tests import adjusted, paired_tests, sign_flip, smallest_p
from histomix.evaluation.spatial.detectability import detectability
from histomix.heads import TrainingSet

pytestmark = pytest.mark.once

TYPES = ["T cell", "B cell", "Tumour", "Stroma", "Vessel", "Fat"]


def rows_of(predictions: dict[str, np.ndarray], observed: np.ndarray, section: Any, donor: Any) -> pd.DataFrame:
    """Scores of some heads in leave-one-donor-out folds, as an evaluation has them."""
    section, donor = np.asarray(section), np.asarray(donor)
    types = TYPES[: observed.shape[1]]
    parts = []
    for fold in make_folds(section, donor):
        for head, values in predictions.items():
            test = fold.test
            part = score(
                observed[test],
                values[test],
                section=section[test],
                donor=donor[test],
                cell_types=types,
                unit="cells per spot",
            )
            parts.append(part.assign(head=head, fold=fold.name, target="label"))
    return pd.concat(parts, ignore_index=True)


# --- every metric, to 1e-8, from the table that is written


def test_every_metric_of_the_table_against_scipy_and_sklearn() -> None:
    rng = np.random.default_rng(0)
    section, donor = np.repeat(["a1", "a2", "b1"], [40, 55, 70]), np.repeat(["A", "B"], [95, 70])
    y = rng.gamma(0.8, size=(165, 4))
    p = np.clip(0.5 * y + rng.normal(0, 0.6, y.shape), 0, None)
    scores = rows_of({"head": p}, y, section, donor)
    table = scores[scores["section"] != ""].set_index(["metric", "section", "cell_type"])["value"].sort_index()
    for name in ("a1", "a2", "b1"):
        rows = section == name
        for index, cell_type in enumerate(TYPES[:4]):
            a, b = y[rows, index], p[rows, index]
            expected = {
                "pearson": pearsonr(a, b).statistic,
                "spearman": spearmanr(a, b).statistic,
                "rmse": root_mean_squared_error(a, b),
                "mae": mean_absolute_error(a, b),
                "auroc_present": roc_auc_score(a >= 0.5, b),
            }
            for metric, value in expected.items():
                assert table[metric, name, cell_type] == pytest.approx(value, abs=1e-8), metric
    folds = {"A": donor == "A", "B": donor == "B"}
    pooled = scores[scores["section"] == ""].set_index(["metric", "fold", "cell_type"])["value"].sort_index()
    for fold, rows in folds.items():
        frame = pd.DataFrame({"s": section[rows], "y": y[rows, 1], "p": p[rows, 1]})
        within = frame[["y", "p"]] - frame.groupby("s")[["y", "p"]].transform("mean")
        assert pooled["pearson_pooled", fold, "B cell"] == pytest.approx(
            pearsonr(frame["y"], frame["p"]).statistic, abs=1e-8
        )
        assert pooled["pearson_within", fold, "B cell"] == pytest.approx(
            pearsonr(within["y"], within["p"]).statistic, abs=1e-8
        )


# --- intervals


def test_shuffled_labels_give_intervals_that_cover_zero_95_times_in_100() -> None:
    repeats, covered = 100, 0
    donor = np.repeat([f"d{i}" for i in range(10)], 50)
    section = np.repeat([f"s{i}" for i in range(20)], 25)
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        y = rng.gamma(1.0, size=(500, 3))
        signal = y + 0.1 * rng.normal(size=y.shape)
        shuffled = np.concatenate([rng.permutation(y[section == name]) for name in np.unique(section)])
        table = score(shuffled, signal, section=section, donor=donor, cell_types=TYPES[:3], unit="cells per spot")
        table = table[table["metric"] == "pearson"].assign(head="ridge", fold="all", target="label")
        entry = summarise(table, [], seed)["label"]["ridge"]["pearson"]
        covered += entry["low"] <= 0 <= entry["high"]
    # As many as an interval of 95 % gives in 100 tries, but for one time in 500.
    assert binomtest(covered, repeats, 0.95).pvalue > 0.002, covered
    assert covered >= 90


def test_intervals_of_few_donors_are_as_wide_as_students() -> None:
    # Of normal values the 95 % interval should hold the mean in 95 % of cases, also with four donors.
    rng = np.random.default_rng(0)
    for n in (4, 8):
        groups = np.arange(n)
        weights = resample_weights(groups, 0)
        entries = [mean_and_interval(rng.normal(size=n), weights, groups) for _ in range(600)]
        covered = np.mean([entry["low"] <= 0 <= entry["high"] for entry in entries])
        assert covered > (0.86 if n == 4 else 0.92), (n, covered)
    plain = np.mean([np.ptp(np.quantile(weights @ rng.normal(size=8) / 8, [0.025, 0.975])) for _ in range(200)])
    wide = np.mean([entry["high"] - entry["low"] for entry in entries])
    assert wide > 1.2 * plain
    assert weights.shape == (DRAWS, 8)


def test_one_value_has_no_interval() -> None:
    groups = np.array([0, 1])
    entry = mean_and_interval(np.array([0.3, np.nan]), resample_weights(groups, 0), groups)
    assert entry == {"mean": 0.3, "low": None, "high": None}


# --- paired tests


def test_sign_flips_are_those_of_scipy() -> None:
    values = np.random.default_rng(0).normal(0.4, 1, size=(9, 4))
    exact = [
        permutation_test(
            (column,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
        ).pvalue
        for column in values.T
    ]
    np.testing.assert_allclose(sign_flip(values, np.arange(9)), exact, atol=1e-12)
    # Sections of a donor flip together: two copies of each say no more than one.
    twice = np.repeat(values, 2, axis=0)
    np.testing.assert_allclose(sign_flip(twice, np.repeat(np.arange(9), 2)), exact, atol=1e-12)
    many = np.random.default_rng(1).normal(0.3, 1, size=(30, 1))
    sampled = permutation_test((many[:, 0],), np.mean, permutation_type="samples", n_resamples=20000, rng=0).pvalue
    assert sign_flip(many, np.arange(30))[0] == pytest.approx(sampled, abs=0.02)


def test_the_smallest_p_is_reached_and_missing_values_are_left_out() -> None:
    same = np.ones((4, 1))
    assert sign_flip(same, np.arange(4))[0] == smallest_p(4) == 2 / 16
    assert smallest_p(1) is None
    gaps = np.array([[1.0, np.nan], [1, np.nan], [1, np.nan], [np.nan, np.nan]])
    np.testing.assert_allclose(sign_flip(gaps, np.arange(4)), [2 / 8, np.nan])
    assert adjusted([0.01, None, 0.04]) == [pytest.approx(0.02), None, pytest.approx(0.04)]
    p = np.random.default_rng(0).random(12)
    np.testing.assert_allclose(adjusted(p), false_discovery_control(p), atol=1e-12)


def heads(n_donors: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    donor = np.repeat([f"d{i}" for i in range(n_donors)], 60)
    y = rng.gamma(1.0, size=(len(donor), 3))
    good, poor = y + 0.5 * rng.normal(size=y.shape), y + 3 * rng.normal(size=y.shape)
    return rows_of({"good": good, "poor": poor, "twin": good}, y, donor, donor)


def test_heads_are_compared_over_donors() -> None:
    tests = paired_tests(heads(8), ["good", "poor", "twin", "absent"], 0)
    assert [(one["a"], one["b"]) for one in tests] == [("good", "poor"), ("good", "twin"), ("poor", "twin")]
    first = tests[0]
    assert first["p"] == 2 / 2**8 and first["p_adjusted"] == pytest.approx(1.5 * first["p"])
    assert first["low"] < first["difference"] < first["high"] and first["low"] > 0
    assert set(first["types"]) == set(TYPES[:3]) and first["types"]["Tumour"]["p_adjusted"] == 2 / 2**8
    assert "over 8 donors" in first["statement"] and first["statement"].endswith("a difference")
    assert tests[1]["difference"] == 0 and tests[1]["p"] == 1
    assert tests[1]["statement"].endswith("no difference shown")
    json.dumps(tests, allow_nan=False)


def test_too_few_donors_are_said_to_be() -> None:
    words = paired_tests(heads(4), ["good", "poor"], 0)[0]["statement"]
    assert "4 donors are too few to tell: the smallest two-sided p that they can give is 2/16 = 0.125" in words
    table = heads(2)
    alone = paired_tests(table[table["donor"] == "d0"].assign(section="s"), ["good", "poor"], 0)[0]
    assert alone["p"] is None and "one donor cannot tell" in alone["statement"]


# --- detectability


def lattice(side: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2) * 100.0


def smooth_field(rng: np.random.Generator, side: int, n: int) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    noise = rng.normal(size=(n, side, side))
    return np.stack([gaussian_filter(one, 2.0, mode="wrap").ravel() for one in noise], axis=1)


def test_smooth_maps_that_have_nothing_in_common_are_not_detected() -> None:
    # A test that takes spots for independent calls about half of such pairs significant.
    naive, ours = 0, 0
    xy, section = lattice(16), np.repeat("s", 256)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        a, b = smooth_field(rng, 16, 6), smooth_field(rng, 16, 6)
        _, p = shift_null(a, b, xy, section, seed, shifts=99)
        ours += (p < 0.05).sum()
        naive += sum(pearsonr(a[:, i], b[:, i], alternative="greater").pvalue < 0.05 for i in range(6))
    assert naive > 30
    assert binomtest(int(ours), 120, 0.05, alternative="greater").pvalue > 0.002, ours


def test_what_is_told_is_detected_and_what_is_not_falls_back_on_its_group() -> None:
    rng = np.random.default_rng(0)
    y = np.exp(np.concatenate([smooth_field(rng, 16, 5), smooth_field(rng, 16, 5)]) * 3)
    p = y + 0.3 * rng.normal(size=y.shape)
    p[:, 3] = np.exp(np.concatenate([smooth_field(rng, 16, 1), smooth_field(rng, 16, 1)])[:, 0])
    y, p = (np.column_stack([values, np.ones(512)]) for values in (y, p))
    xy, section = np.concatenate([lattice(16)] * 2), np.repeat(["s1", "s2"], 256)
    scores = {name: {"mean": 0.6, "low": 0.5, "high": 0.7} for name in TYPES}
    ceiling = {"types": {name: {"mean": 0.64, "bound": 0.8} for name in TYPES[:5]}}
    rows = detectability(
        "mlp", y, p, xy, section, TYPES, scores=scores, ceiling=ceiling, groups={"Stroma + Vessel": TYPES[3:5]}
    )
    assert [row["detectable"] for row in rows] == [True, True, True, False, True, None]
    assert rows[0]["share_of_ceiling"] == pytest.approx(0.75) and rows[5]["ceiling"] is None
    assert (rows[0]["ceiling"], rows[0]["bound"]) == (0.64, 0.8)
    assert rows[3]["group"] == "Stroma + Vessel" and rows[0]["group"] is None
    p_values = [row["p"] for row in rows[:5]]
    np.testing.assert_allclose([row["p_adjusted"] for row in rows[:5]], false_discovery_control(p_values))
    mean, _ = shift_null(y, p, xy, section, shifts=9)
    expected = np.mean([pearsonr(y[section == s, 0], p[section == s, 0]).statistic for s in ("s1", "s2")])
    assert mean[0] == pytest.approx(expected, abs=1e-10)
    json.dumps(rows, allow_nan=False)


def test_a_constant_prediction_detects_nothing() -> None:
    y = np.random.default_rng(0).gamma(1.0, size=(100, 2))
    mean, p = shift_null(y, np.ones_like(y), lattice(10), np.repeat("s", 100), shifts=19)
    assert (mean == 0).all() and (p == 1).all()


def test_the_null_is_the_correlation_after_each_motion() -> None:
    rng = np.random.default_rng(0)
    xy = lattice(12)
    y, p = rng.gamma(0.5, size=(2, 144, 5))
    p[:, 1] = 1e6 + 1e-3 * p[:, 1]  # hardly varies, far from 0
    p[:, 2], p[0, 2] = 0.0, 3.0  # one spot alone, which a motion may lose
    p[:, 3] = 0.25
    y[:, 4] = 2.0
    found = section_null(y, p, xy, np.repeat("s", 144), seed=3, shifts=40)
    generator = np.random.default_rng(3)
    for number, source in enumerate(random_shifts(xy, 40, generator)):
        for kind in range(3):
            moved = p[source, kind]
            expected = 0.0 if np.ptp(moved) == 0 else pearsonr(y[:, kind], moved).statistic
            tolerance = 1e-6 if kind == 1 else 1e-9  # of what is left of the digits after 1e6
            assert found.null[0, number, kind] == pytest.approx(expected, abs=tolerance)
    assert not found.null[0, :, 3:].any() and np.isnan(found.real[0, 4])


# --- groups


def test_types_that_go_together_are_grouped_by_the_labels() -> None:
    rng = np.random.default_rng(0)
    section = np.repeat(["a", "b"], 200)
    parts = rng.gamma(1.0, size=(400, 2))
    y = np.column_stack([parts[:, [0, 0, 0, 1, 1, 1]] + 0.2 * rng.gamma(1.0, size=(400, 6)), np.zeros(400)])
    groups = groups_from_labels(y, section, [*TYPES, "Mast"])
    assert groups == {"T cell + B cell + Tumour": TYPES[:3], "Stroma + Vessel + Fat": TYPES[3:]}
    assert groups_from_labels(y[:, :3], section, TYPES[:3]) == {}


def test_a_group_is_scored_by_the_sum_of_its_types() -> None:
    rng = np.random.default_rng(0)
    section, donor = np.repeat(["a", "b", "c"], 50), np.repeat(["A", "B", "C"], 50)
    total = rng.gamma(2.0, size=150)
    share = rng.random((2, 150))  # how the sum is split is told wrongly
    y, p = (np.column_stack([total * one, total * (1 - one)]) for one in share)
    folds = [(fold.name, fold.test) for fold in make_folds(section, donor)]
    rows = group_rows(y, {"mlp": p}, {"Lymphoid": TYPES[:2]}, TYPES[:2], section=section, donor=donor, folds=folds)
    assert set(rows["metric"]) == {"pearson_group"} and set(rows["cell_type"]) == {"Lymphoid"}
    np.testing.assert_allclose(rows["value"], 1, atol=1e-10)
    assert abs(pearsonr(y[:50, 0], p[:50, 0]).statistic) < 0.9
    summary = summarise_groups(rows, {"Lymphoid": TYPES[:2]}, "user", 0)
    assert summary["scores"]["mlp"]["Lymphoid"]["mean"] == pytest.approx(1) and summary["source"] == "user"


def test_groups_of_the_user_are_read_from_csv_and_yaml(tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text("cell_type,group\nT cell,Lymphoid\nB cell,Lymphoid\nFat,Stroma\n")
    (tmp_path / "g.yaml").write_text("Lymphoid: [T cell, B cell]\nStroma:\n  - Fat\n")
    expected = {"T cell": "Lymphoid", "B cell": "Lymphoid", "Fat": "Stroma"}
    assert read_groups(tmp_path / "g.csv") == read_groups(tmp_path / "g.yaml") == expected
    assert check_groups(expected, TYPES) == {"Lymphoid": TYPES[:2], "Stroma": ["Fat"]}
    with pytest.raises(InputError, match="name no cell type"):
        check_groups({"Mast": "x"}, TYPES)


def test_names_in_groups_that_are_no_cell_types_are_told(caplog: pytest.LogCaptureFixture) -> None:
    check_groups({TYPES[0]: "Lymphoid", TYPES[1].upper(): "Lymphoid"}, TYPES[:2])
    assert TYPES[1].upper() in caplog.text and f"in no group, whose sums lack them: {TYPES[1]}" in caplog.text
    caplog.clear()
    check_groups(dict.fromkeys(TYPES, "Lymphoid") | {"Lymphoid": "Immune"}, TYPES)
    assert not caplog.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("g.csv", "type,group\nT,L\n", "lacks the columns"),
        ("g.csv", "cell_type,group\nT,L\nT,M\n", "is in 'L' and in 'M'"),
        ("g.csv", "cell_type,group\n", "names no group"),
        ("g.yaml", "- T\n- B\n", "line 1 must hold a list of cell types, or groups of them, under each group"),
        ("g.yaml", "a: [b\n", "cannot be read"),
        ("g.csv", None, "no such file"),
    ],
)
def test_groups_that_cannot_be_read(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_groups(tmp_path / name)


# --- the probe, and baselines


def test_the_probe_tells_a_stain_and_nothing_where_there_is_none() -> None:
    rng = np.random.default_rng(0)
    section, donor = np.repeat(["a1", "a2", "b1", "c1"], 100), np.repeat(["A", "B", "C"], [200, 100, 100])
    xy = np.concatenate([lattice(10)] * 4)
    X = rng.normal(size=(400, 30))
    none = batch_effect_probe(X, section, donor, xy)
    assert none is not None and none["chance"] == 0.25 and none["accuracy"] < 0.4 and not none["strong"]
    stain = 2 * rng.normal(size=(4, 30))
    found = batch_effect_probe(X + np.repeat(stain, 100, axis=0), section, donor, xy)
    assert found is not None and found["accuracy"] > 0.95 and found["strong"]
    assert "differences between slides" in found["statement"]
    # A stain of the donor alone: what is taken for another section is one of the same donor.
    shared = batch_effect_probe(X + np.repeat(stain[[0, 0, 1, 2]], 100, axis=0), section, donor, xy)
    assert shared is not None and shared["within_donor"] > 0.9 and 0.4 < shared["accuracy"] < 0.9
    assert batch_effect_probe(X[:100], section[:100], donor[:100], xy[:100]) is None


def training_set(n: int = 60) -> tuple[TrainingSet, np.ndarray]:
    rng = np.random.default_rng(0)
    counts = rng.poisson(20, size=3 * n).astype(float)
    Y = np.column_stack([0.3 * counts + rng.normal(0, 0.3, 3 * n), np.repeat([1.0, 4, 9], n)]).clip(0)
    section = np.repeat(["a", "b", "c"], n)
    training = TrainingSet(
        rng.normal(size=(3 * n, 4)),
        Y,
        np.tile(np.arange(n).astype(str), 3),
        section,
        np.char.upper(section),
        np.tile(rng.random((n, 2)) * 1000, (3, 1)),
        TYPES[:2],
        "cells per spot",
        {},
    )
    return training, counts


def test_nuclei_predict_what_follows_cellularity() -> None:
    training, counts = training_set()
    folds = make_folds(training.section, training.donor)
    found = nuclei_predictions(training, folds, counts, 0)
    assert np.isfinite(found).all()
    assert pearsonr(found[:, 0], training.Y[:, 0]).statistic > 0.95
    missing = np.where(np.arange(180) % 7 == 0, np.nan, counts)
    again = nuclei_predictions(training, folds, missing, 0)
    assert np.isfinite(again).all() and pearsonr(again[:, 0], training.Y[:, 0]).statistic > 0.7


def test_the_section_mean_knows_levels_and_no_spots() -> None:
    training, _ = training_set()
    folds = make_folds(training.section, training.donor)
    found = section_mean(training, folds)
    for name in ("a", "b", "c"):
        rows = training.section == name
        np.testing.assert_allclose(found[rows], np.broadcast_to(training.Y[rows].mean(axis=0), (60, 2)))
    assert "oracle" in ORACLE
