"""The heads' estimators, against scikit-learn and computations by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import gammaln, huber
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from histomix.errors import HeadError
from histomix.heads import HEADS, MLPRegressor, NoveltyModel, RidgeRegressor, inner_groups, make_estimator
from histomix.heads.inner_folds import inner_folds, inner_splits
from histomix.heads.models import linear, mlp
from histomix.heads.models.gram import components_without
from histomix.heads.models.network import (
    abundance_loss,
    averaged,
    dirichlet_loss,
    forward,
    kl_loss,
    new_layers,
    poisson_loss,
)
from histomix.heads.models.preprocess import principal_components, rotate, spectrum, standardise, standardise_without

UNITS = ("proportion", "cells per spot")
QUICK: dict[str, dict[str, Any]] = {
    "mlp": {"members": 2, "max_epochs": 4, "hidden": (16,), "n_components": 8},
    "sun2025": {"hidden": (16, 8), "max_epochs": 3},
    "gbm": {"n_components": 6, "max_iter": 3},
    "average": {"heads": ("ridge", "knn")},
}
#: Those on the graph of the spots need places, and have tests of their own.
WITHOUT_PLACES = [name for name in HEADS if not name.startswith("hist2cell")]
Data = tuple[np.ndarray, np.ndarray, np.ndarray]


def make(name: str, unit: str, **parameters: Any) -> Any:
    return make_estimator(name, unit, **{**QUICK.get(name, {}), **parameters})


def simulate(unit: str, n: int = 240, n_features: int = 30, n_types: int = 4, seed: int = 0) -> Data:
    """Embeddings that tell log abundances up to noise, in four donors, on columns of very different scale."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((n, 6))
    X = latent @ rng.standard_normal((6, n_features)) + 0.3 * rng.standard_normal((n, n_features))
    X = X * np.geomspace(0.01, 100, n_features) + np.linspace(-50, 50, n_features)
    cells = np.exp(latent[:, :n_types] + 0.3 * rng.standard_normal((n, n_types)))
    Y = cells / cells.sum(axis=1, keepdims=True) if unit == "proportion" else cells
    return X.astype(np.float32), Y, np.repeat(list("abcd"), n // 4)


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T, strict=True)]))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", WITHOUT_PLACES)
class TestEveryHead:
    """The contract that every entry of the registry keeps."""

    def test_predictions_are_in_the_unit(self, name: str, unit: str) -> None:
        X, Y, groups = simulate(unit)
        head = make(name, unit).fit(X, Y, groups=groups)
        predicted = head.predict(np.concatenate([X, 40 * X, -40 * X]))
        assert predicted.shape == (3 * len(X), Y.shape[1])
        assert np.isfinite(predicted).all() and (predicted >= 0).all()
        if unit == "proportion":
            np.testing.assert_allclose(predicted.sum(axis=1), 1, atol=1e-9)

    def test_a_type_without_labels_is_predicted_as_zero_and_does_not_change_the_others(
        self, name: str, unit: str
    ) -> None:
        X, Y, groups = simulate(unit)
        wide = np.insert(Y, 1, 0.0, axis=1)
        predicted = make(name, unit).fit(X, wide, groups=groups).predict(X)
        assert not predicted[:, 1].any()
        np.testing.assert_array_equal(np.delete(predicted, 1, axis=1), make(name, unit).fit(X, Y, groups).predict(X))

    def test_it_is_a_scikit_learn_estimator(self, name: str, unit: str) -> None:
        X, Y, groups = simulate(unit)
        head = make(name, unit)
        with pytest.raises(NotFittedError):
            head.predict(X)
        copy = clone(head.fit(X, Y, groups))
        assert copy.get_params() == head.get_params() and not hasattr(copy, "present_")
        assert all(key.endswith("_") for key in set(vars(head)) - set(head.get_params()))
        assert cross_val_predict(copy, X, Y, cv=3).shape == Y.shape
        assert np.isfinite(head.score(X, Y))

    def test_the_same_seed_gives_the_same_numbers_and_leaves_global_generators_alone(
        self, name: str, unit: str
    ) -> None:
        X, Y, groups = simulate(unit)
        before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        one, two = (make(name, unit).fit(X, Y, groups).predict(X) for _ in range(2))
        np.testing.assert_array_equal(one, two)
        assert torch.equal(before[0], torch.get_rng_state())
        np.testing.assert_array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002

    def test_rows_of_weight_zero_do_not_count(self, name: str, unit: str) -> None:
        X, Y, groups = simulate(unit)
        weight = (np.arange(len(X)) % 3 > 0).astype(float)
        kept = weight > 0
        weighted = make(name, unit).fit(X, Y, groups, sample_weight=weight).predict(X)
        np.testing.assert_array_equal(weighted, make(name, unit).fit(X[kept], Y[kept], groups[kept]).predict(X))

    def test_what_it_was_fitted_to_restores_it(self, name: str, unit: str) -> None:
        X, Y, groups = simulate(unit)
        head = make(name, unit).fit(X, Y, groups)
        arrays, numbers = head.fitted()
        np.testing.assert_array_equal(make(name, unit).restore(arrays, numbers).predict(X), head.predict(X))
        for key in arrays:
            with pytest.raises(HeadError, match="saved arrays"):
                make(name, unit).restore({k: v for k, v in arrays.items() if k != key}, numbers)
            with pytest.raises(HeadError, match=f"{key} has shape"):
                make(name, unit).restore({**arrays, key: arrays[key][None]}, numbers)
        with pytest.raises(HeadError, match="n_features_in_ is None"):
            make(name, unit).restore(arrays, {})

    def test_few_spots_and_constant_features_are_used_or_named(self, name: str, unit: str) -> None:
        X, Y, _ = simulate(unit)
        assert np.isfinite(make(name, unit).fit(X[:10], Y[:10]).predict(X)).all()
        flat = make(name, unit)
        if name in ("mean", "ridge"):
            expected = np.broadcast_to(Y.mean(axis=0), Y.shape)
            np.testing.assert_allclose(flat.fit(np.ones_like(X), Y).predict(X), expected)
        else:
            with pytest.raises(HeadError, match="same in every training spot"):
                flat.fit(np.ones_like(X), Y)

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda X, Y: (X[:-1], Y), "X has 239 rows and y has 240"),
            (lambda X, Y: (X[:, 0], Y), "X must be a table"),
            (lambda X, Y: (X[:0], Y[:0]), "X must be a table"),
            (lambda X, Y: (np.where(X[7, 3] == X, np.nan, X), Y), r"X holds NaN .* 1 of 240 rows \(first: row 7\)"),
            (lambda X, Y: (X, np.where(Y[9, 1] == Y, np.inf, Y)), "y holds NaN or infinite .*row 9"),
            (lambda X, Y: (X, Y - 1), "negative abundances"),
            (lambda X, Y: (X.astype(str), Y), "X must hold numbers"),
            (lambda X, Y: (X[:9], Y[:9]), "9 training spots; at least 10"),
        ],
    )
    def test_bad_input_is_named(self, name: str, unit: str, spoil: Callable[..., Any], message: str) -> None:
        X, Y, _ = simulate(unit)
        with pytest.raises(HeadError, match=message):
            make(name, unit).fit(*spoil(X, Y))

    def test_other_bad_arguments_are_named(self, name: str, unit: str) -> None:
        X, Y, groups = simulate(unit)
        for arguments, message in (
            ({"groups": groups[:5]}, "groups must have one value per spot"),
            ({"sample_weight": -np.ones(len(X))}, "sample_weight must be finite and non-negative"),
            ({"sample_weight": np.zeros(len(X))}, "not all zero"),
        ):
            with pytest.raises(HeadError, match=message):
                make(name, unit).fit(X, Y, **arguments)
        with pytest.raises(HeadError, match="the unit is 'percent'"):
            make(name, "percent").fit(X, Y)
        with pytest.raises(HeadError, match=r"X has 29 features, but .* is expecting 30 features"):
            make(name, unit).fit(X, Y).predict(X[:, 1:])
        with pytest.raises(HeadError, match="do not sum to 1" if unit == "proportion" else "every label is zero"):
            make(name, unit).fit(X, 0 * Y)


def test_make_estimator_says_which_heads_there_are() -> None:
    for name in ("sun", "MLP"):
        with pytest.raises(HeadError, match=f"no head named '{name}'.*mean, ridge, knn, mlp"):
            make_estimator(name)
    with pytest.raises(HeadError, match="no parameter alpha"):
        make_estimator("mlp", alpha=1)
    assert make_estimator("mlp", "cells per spot", seed=7).get_params()["seed"] == 7


# inner splits


def test_inner_folds_keep_groups_whole_and_cover_all_rows() -> None:
    rng = np.random.default_rng(0)
    for n_groups in (2, 3, 5, 9, 40):
        groups = rng.integers(n_groups, size=300)
        folds = inner_folds(300, groups)
        assert len(folds) == min(5, len(np.unique(groups)))
        np.testing.assert_array_equal(np.sort(np.concatenate(folds)), np.arange(300))
        for train, test in inner_splits(300, groups):
            assert not set(groups[train]) & set(groups[test])
            np.testing.assert_array_equal(np.sort([*train, *test]), np.arange(300))
        assert max(map(len, folds)) < 2 * min(map(len, folds)) + 300 / n_groups


def test_a_split_that_trains_on_next_to_nothing_is_left_out() -> None:
    groups = np.repeat(["huge", "small", "tiny"], [90, 7, 3])
    held_out = [set(groups[test]) for _, test in inner_splits(100, groups)]
    assert held_out == [{"small"}, {"tiny"}]
    X, Y, _ = simulate("proportion", n=100)
    head = make("mlp", "proportion").fit(X, Y, groups)
    assert len(head.mean_) == 2 and np.isfinite(head.predict(X)).all()


@pytest.mark.parametrize("groups", [None, np.zeros(52)])
def test_without_groups_contiguous_blocks_are_held_out(groups: np.ndarray | None) -> None:
    folds = inner_folds(52, groups)
    assert [len(fold) for fold in folds] == [11, 11, 10, 10, 10]
    np.testing.assert_array_equal(np.concatenate(folds), np.arange(52))


def test_inner_groups_are_donors_else_sections_else_strips() -> None:
    xy = np.column_stack([np.tile(np.arange(10.0), 4), np.repeat(np.arange(4.0), 10)])
    section, donor = np.repeat(list("stuv"), 10), np.repeat(list("abcc"), 10)
    np.testing.assert_array_equal(inner_groups(section, donor, xy), donor)
    pair = np.repeat(list("ab"), 20)
    np.testing.assert_array_equal(inner_groups(np.repeat(list("st"), 20), pair, xy), pair)
    for few in (pair, np.repeat("a", 40)):  # of two, one would tell nothing of both
        np.testing.assert_array_equal(inner_groups(section, few, xy), section)
    strips = inner_groups(np.repeat("s", 40), np.repeat("a", 40), xy)
    np.testing.assert_array_equal(strips, np.tile(np.arange(10) // 2, 4))  # across the longer side


@pytest.mark.parametrize(("name", "module"), [("ridge", linear), ("mlp", mlp)])
def test_hyper_parameters_are_chosen_with_groups_held_out(
    name: str, module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A spy on every fit inside: no inner training set holds rows of the group that it is judged on."""
    X, Y, groups = simulate("proportion", n_features=300)  # more than the rows of a fold: ridge works on the rows
    donor_of = {row.tobytes(): donor for row, donor in zip(X, groups, strict=True)}
    seen: list[set[str]] = []
    inner = "_ridge_path" if name == "ridge" else "principal_components"
    original = getattr(module, inner)

    def spy(rows: np.ndarray, *rest: Any) -> Any:
        seen.append({donor_of[row.tobytes()] for row in rows})
        return original(rows, *rest)

    monkeypatch.setattr(module, inner, spy)
    make(name, "proportion").fit(X, Y, groups)
    everyone = set("abcd")
    assert seen[:4] == [everyone - {donor} for donor in "abcd"]
    assert seen[4:] == ([everyone] if name == "ridge" else [])


# steps before the regressors


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_standardising_without_some_rows_is_standardising_the_others(dtype: Any) -> None:
    X, _, names = simulate("proportion", n=200)
    X = X.astype(dtype)
    X[:, 3] = 7.3  # constant everywhere
    X[:, 4] = np.where(names == "b", X[:, 4], -2.7)  # and in all donors but one
    weight = np.random.default_rng(0).uniform(0.5, 2, len(X))
    sets = [np.arange(0), *(np.flatnonzero(names == name) for name in "abc")]  # no set has the rows of d
    for rows, (mean, scale) in zip(sets, standardise_without(X, weight, sets), strict=True):
        kept = np.setdiff1d(np.arange(len(X)), rows)
        expected = standardise(X[kept], weight[kept])
        np.testing.assert_allclose(mean, expected[0], rtol=1e-5 if dtype == np.float32 else 1e-9, atol=1e-6)
        np.testing.assert_allclose(scale, expected[1], rtol=1e-4 if dtype == np.float32 else 1e-9)


def test_standardise_is_scikit_learns_scaler() -> None:
    X, _, _ = simulate("proportion", n=5000)
    X[:, 4] = 0.1  # not a binary fraction
    weight = np.random.default_rng(0).uniform(size=len(X))
    scaler = StandardScaler().fit(X.astype(float), sample_weight=weight)
    mean, scale = standardise(X, weight)
    np.testing.assert_allclose(mean, scaler.mean_, rtol=1e-5)
    np.testing.assert_allclose(np.delete(scale, 4), np.delete(scaler.scale_, 4), rtol=1e-5)
    assert scale[4] == 1


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
def test_spectrum_is_that_of_the_svd(shape: tuple[int, int]) -> None:
    X = np.random.default_rng(0).standard_normal(shape)
    X -= X.mean(axis=0)
    vectors, values = spectrum(X)
    singular = np.linalg.svd(X, compute_uv=False)
    rank = 12 if shape[0] > shape[1] else 11
    np.testing.assert_allclose(values, singular[:rank] ** 2)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(rank), atol=1e-10)
    np.testing.assert_allclose((X @ vectors) @ vectors.T, X, atol=1e-10)


def test_components_of_all_folds_come_from_one_pass() -> None:
    X, _, groups = simulate("proportion", n=400)
    X[:, 4] = 3.0
    X[groups != "a", 5] = 7.0  # constant in one fold's training rows
    weight = np.random.default_rng(0).uniform(0.1, 2, len(X))
    splits = inner_splits(len(X), groups)
    shared = components_without(X, weight, [test for _, test in splits], 5)
    for (train, test), (mean, scale, axes) in zip(splits, shared, strict=True):
        expected = principal_components(X[train], weight[train], 5)
        np.testing.assert_allclose(mean, expected[0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(np.delete(scale, 5), np.delete(expected[1], 5), rtol=1e-3)
        rows = test[groups[test] != "a"]
        ours, theirs = (rotate(X[rows], *basis) for basis in ((mean, scale, axes), expected))
        np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=2e-2)


# ridge


@pytest.mark.parametrize("n_features", [30, 400])
@pytest.mark.parametrize("weighted", [False, True])
def test_ridge_is_scikit_learns(n_features: int, weighted: bool) -> None:
    X, Y, _ = simulate("cells per spot", n_features=n_features)
    X = X.astype(float)
    weight = np.random.default_rng(1).uniform(0.1, 2, size=len(X)) if weighted else np.ones(len(X))
    ours = RidgeRegressor("cells per spot", alpha=0.7).fit(X, Y, sample_weight=weight)
    # The trace of the standardised Gram matrix over the number of features is the sum of weights, here n.
    theirs = make_pipeline(StandardScaler(), Ridge(alpha=0.7 * len(X), solver="svd"))
    weight /= weight.mean()
    theirs.fit(X, Y, standardscaler__sample_weight=weight, ridge__sample_weight=weight)
    np.testing.assert_allclose(ours.predict(X), np.maximum(theirs.predict(X), 0), atol=1e-6)


def test_ridge_chooses_alpha_by_residuals_within_held_out_groups() -> None:
    X, Y, groups = simulate("cells per spot")
    alphas = (0.001, 0.1, 10.0)
    head = RidgeRegressor("cells per spot", alphas=alphas).fit(X, Y, groups)
    expected = np.zeros(3)
    for donor in "abcd":
        test = groups == donor
        scaler = StandardScaler().fit(X[~test].astype(float))
        for i, alpha in enumerate(alphas):
            ridge = Ridge(alpha=alpha * (~test).sum(), solver="svd").fit(scaler.transform(X[~test]), Y[~test])
            residual = ridge.predict(scaler.transform(X[test])) - Y[test]
            expected[i] += (residual.var(axis=0) / Y.var(axis=0)).mean() / 4
    np.testing.assert_allclose(head.inner_loss_, expected, rtol=1e-4)
    assert head.alpha_ == alphas[int(expected.argmin())]


def test_a_type_that_is_the_same_everywhere_does_not_choose_the_penalty() -> None:
    X, Y, groups = simulate("cells per spot")
    Y = np.column_stack([Y, np.full(len(Y), 2.1)])
    penalties = [make_estimator("ridge", "cells per spot").fit(X, labels, groups).alpha_ for labels in (Y, Y[:, :-1])]
    assert penalties[0] == penalties[1]


@pytest.mark.parametrize("precision", [np.float32, np.float64])
@pytest.mark.parametrize("grouped", [True, False])
def test_ridge_from_second_moments_is_ridge_from_the_rows(precision: type, grouped: bool) -> None:
    X, Y, groups = simulate("cells per spot", n_features=100)
    X, weight = X.astype(precision), np.random.default_rng(2).uniform(0.1, 2, len(X))
    # A donor in which a column is constant, and two donors that share a fold of the inner splits.
    X[groups != "a", 3] = 7.0
    names = np.where(groups == "d", np.where(np.arange(len(X)) % 2, "e", "f"), groups) if grouped else None
    alphas = np.array([0.01, 1.0, 100.0])
    slow, fast = (kind(X, Y, names, weight) for kind in (linear._Rows, linear._Sums))
    tolerance = 1e-3 if precision is np.float32 else 1e-7
    for fold, (train, test) in enumerate(slow.splits):
        one, two = slow.without(fold, alphas), fast.without(fold, alphas)
        predicted = [np.einsum("nd,adt->ant", X, coefs) + intercepts[:, None] for coefs, intercepts in (one, two)]
        for rows in (train, test[groups[test] != "a"]):
            np.testing.assert_allclose(predicted[0][:, rows], predicted[1][:, rows], atol=tolerance * Y.max())
        np.testing.assert_allclose(slow.squares(fold, *two), fast.squares(fold, *two), rtol=10 * tolerance)
    for one, two in zip(slow.whole(alphas), fast.whole(alphas), strict=True):
        np.testing.assert_allclose(one, two, rtol=100 * tolerance, atol=tolerance * np.abs(one).max())


def test_ridge_holds_out_its_training_rows() -> None:
    X, Y, groups = simulate("cells per spot")
    head = RidgeRegressor("cells per spot").fit(X, Y, groups)
    assert head.held_out_ is not None
    for donor in "abcd":
        test = groups == donor
        alone = RidgeRegressor("cells per spot", alpha=head.alpha_).fit(X[~test], Y[~test])
        np.testing.assert_allclose(head.held_out_[test], alone.predict(X[test]), rtol=1e-3, atol=1e-3)


def test_ridge_penalises_more_when_there_is_less_to_learn() -> None:
    X, Y, groups = simulate("proportion")
    shuffled = np.random.default_rng(0).permutation(Y)
    learnt, nothing = (make_estimator("ridge").fit(X, labels, groups) for labels in (Y, shuffled))
    assert learnt.alpha_ < 1 < nothing.alpha_
    for alphas in ((), (0.0, 1.0), (-1.0,), (np.nan, 1.0)):
        with pytest.raises(HeadError, match="penalty must be positive"):
            RidgeRegressor(alphas=alphas).fit(X, Y)


def test_ridge_of_proportions_is_only_clipped() -> None:
    X, Y, _ = simulate("proportion")
    raw = RidgeRegressor(alpha=1.0).fit(X, Y)
    linear_part = X @ raw.coef_ + raw.intercept_
    np.testing.assert_allclose(linear_part.sum(axis=1), 1, atol=1e-6)
    whole = (linear_part >= 0).all(axis=1)
    assert 0 < whole.sum() < len(X)
    np.testing.assert_allclose(raw.predict(X)[whole], linear_part[whole], atol=1e-6)
    assert abs(pearson(raw.predict(X), Y) - pearson(linear_part, Y)) < 0.02


# kNN


@pytest.mark.parametrize(("n_spots", "k"), [(5, 5), (90, 7), (1000, 7), (1003, 100)])
def test_the_nearest_are_those_of_a_full_sort_also_where_spots_are_equal(n_spots: int, k: int) -> None:
    from histomix.heads.models.knn import _largest

    values = np.random.default_rng(0).integers(0, 40, (20, n_spots)).astype(np.float32)
    values[0] = 3  # all alike
    values[1] += np.arange(n_spots)  # the largest side by side
    expected = np.argsort(-values, axis=1, kind="stable")[:, :k]
    columns, found = _largest(values, k)
    np.testing.assert_array_equal(columns, expected)
    np.testing.assert_array_equal(found, np.take_along_axis(values, expected, axis=1))


def test_knn_is_scikit_learns_on_the_same_components() -> None:
    X, Y, _ = simulate("cells per spot")
    ours = make_estimator("knn", "cells per spot", n_neighbors=7, n_components=6).fit(X, Y)
    mean, scale, components = principal_components(X, np.ones(len(X)), 6)
    Z = (X - mean) / scale @ components
    Z /= np.linalg.norm(Z, axis=1, keepdims=True)
    stored = Z.astype(np.float16).astype(np.float32)
    distances = np.sqrt(np.maximum(2 - 2 * Z @ stored.T, 1e-4))
    theirs = KNeighborsRegressor(7, weights="distance", metric="precomputed").fit(distances, Y)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(distances), rtol=1e-3)
    assert ours.spots_.dtype == np.float16
    with pytest.raises(HeadError, match="at least 1"):
        make_estimator("knn", n_neighbors=0).fit(X, simulate("proportion")[1])


# MLP


@pytest.mark.parametrize("unit", UNITS)
def test_the_mlp_learns(unit: str) -> None:
    X, Y, groups = simulate(unit, n=480)
    train = groups != "d"
    head = make_estimator("mlp", unit).fit(X[train], Y[train], groups[train])
    ridge = make_estimator("ridge", unit).fit(X[train], Y[train], groups[train])
    score, linear_score = (pearson(model.predict(X[~train]), Y[~train]) for model in (head, ridge))
    assert score > linear_score > 0.5
    assert head.n_epochs_ == head.inner_loss_.argmin() + 1
    assert len(head.inner_loss_) in (60, head.n_epochs_ + 11)
    assert head.inner_loss_.min() < head.inner_loss_[0]


def test_members_differ_and_are_averaged() -> None:
    X, Y, groups = simulate("proportion")
    head = make("mlp", "proportion", seed=3).fit(X, Y, groups)
    assert head.weight_0_.shape == (2 * 4, 8, 16)  # members x folds
    assert len({layer.tobytes() for layer in head.weight_0_}) == 8
    expected = np.zeros_like(Y)
    for member in range(8):
        fold = member // 2
        h = (X - head.mean_[fold]) / head.scale_[fold] @ head.components_[fold] @ head.weight_0_[member]
        h += head.bias_0_[member]
        h = (h - h.mean(axis=1, keepdims=True)) / np.sqrt(h.var(axis=1, keepdims=True) + 1e-5)
        h = h * head.gain_0_[member] + head.shift_0_[member]
        z = h / (1 + np.exp(-h)) @ head.weight_1_[member] + head.bias_1_[member]
        expected += np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) / 8
    np.testing.assert_allclose(head.predict(X), expected, atol=1e-5)
    other = make("mlp", "proportion", seed=4).fit(X, Y, groups)
    assert np.abs(head.predict(X) - other.predict(X)).max() > 1e-3


def test_a_fixed_number_of_epochs_trains_one_ensemble_on_all_rows() -> None:
    X, Y, groups = simulate("proportion")
    head = MLPRegressor(epochs=3, members=2).fit(X, Y, groups)
    assert head.n_epochs_ == 3 and len(head.weight_0_) == 2 and not hasattr(head, "inner_loss_")


def test_predicted_cells_do_not_exceed_the_largest_label() -> None:
    X, Y, groups = simulate("cells per spot")
    head = make("mlp", "cells per spot", epochs=20).fit(X, Y, groups)
    assert (head.predict(100 * X) <= Y.max(axis=0) + 1e-9).all()


def test_losses_by_hand() -> None:
    rng = np.random.default_rng(0)
    z, y, w = rng.standard_normal((2, 9, 3)), rng.dirichlet(np.ones(3), (2, 9)), rng.uniform(0.5, 2, (2, 9))
    tensors = tuple(torch.from_numpy(a) for a in (z, y, w))
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(kl_loss(*tensors), (-(y * np.log(p)).sum(axis=-1) * w).mean(axis=-1))
    for member in range(2):
        error = np.average((z - y)[member] ** 2, axis=0, weights=w[member]).mean()
        covariances = (np.cov(z[member, :, t], y[member, :, t], aweights=w[member]) for t in range(3))
        r = np.mean([c[0, 1] / np.sqrt(c[0, 0] * c[1, 1]) for c in covariances])
        assert abs(float(abundance_loss(0.7)(*tensors)[member]) - (error + 0.7 * (1 - r))) < 1e-9
    constant = torch.zeros(1, 9, 3, requires_grad=True)
    abundance_loss(1.0)(constant, tensors[1][:1].float(), tensors[2][:1].float()).sum().backward()
    assert constant.grad is not None and torch.isfinite(constant.grad).all()


def test_other_losses_by_hand_and_in_training() -> None:
    rng = np.random.default_rng(0)
    z, y, w = rng.standard_normal((1, 9, 3)), rng.dirichlet(np.ones(3), (1, 9)), rng.uniform(0.5, 2, (1, 9))
    tensors = tuple(torch.from_numpy(a) for a in (z, y, w))
    alpha = 20 * np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True) + 1e-4
    parts = gammaln(20 * y + alpha) - gammaln(alpha)
    np.testing.assert_allclose(dirichlet_loss(*tensors), (-parts.sum(axis=-1) * w).mean(axis=-1) / 20)
    expected = np.average(huber(1, z - y)[0], axis=0, weights=w[0]).mean() * 2
    assert float(abundance_loss(0.0, 1.0)(*tensors)) == pytest.approx(expected)
    mean, spread = np.full(3, 1.0), np.full(3, 0.5)
    cells = (np.expm1(np.clip(a * spread + mean, 1e-3, None)) for a in (y, z))
    deviance = np.array(
        [
            [2 * (t * np.log(t / m) - t + m) for t, m in zip(*pair, strict=True)]
            for pair in zip(*(a[0] for a in cells), strict=True)
        ]
    )
    expected = (np.average(deviance, axis=0, weights=w[0]) / np.expm1(1)).mean()
    assert float(poisson_loss(0.0, mean, spread)(*tensors)) == pytest.approx(expected, rel=1e-5)

    for unit, losses in mlp.LOSSES.items():
        X, Y, groups = simulate(unit, n=480)
        for loss in losses:
            head = make_estimator("mlp", unit, members=2, max_epochs=20, loss=loss)
            head.fit(X[groups != "d"], Y[groups != "d"], groups[groups != "d"])
            assert pearson(head.predict(X[groups == "d"]), Y[groups == "d"]) > 0.6
        with pytest.raises(HeadError, match="Choose one of: auto"):
            make("mlp", unit, loss="hinge").fit(X, Y)


def test_dropout_keeps_the_mean_and_is_off_without_a_generator() -> None:
    recipe = mlp_recipe(members=1, hidden=(2000,))
    rng = torch.Generator().manual_seed(0)
    layers = new_layers(recipe, 5, 1, rng)
    x = torch.randn(1, 5, generator=rng)
    still = forward(layers, x, 0.5)
    assert torch.equal(still, forward(layers, x, 0.5))
    noisy = torch.stack([forward(layers, x, 0.5, rng) for _ in range(400)])
    assert noisy.std() > 0.01
    assert abs(float(noisy.mean() - still)) < 4 * float(noisy.std()) / 20
    assert averaged(layers, x, proportion=True).exp().item() == pytest.approx(1)


def mlp_recipe(**changes: Any) -> Any:
    from histomix.heads.models.network import Recipe

    return Recipe(**{"dropout": 0.5, "learning_rate": 1e-3, "weight_decay": 0.0, "batch_size": 8, **changes})


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    X, Y, groups = simulate("cells per spot")
    with pytest.raises(HeadError, match=r"loss of the MLP is not finite.*learning_rate"):
        make("mlp", "cells per spot", learning_rate=1e30).fit(X, Y, groups)


def test_training_takes_one_thread_and_gives_the_others_back(monkeypatch: pytest.MonkeyPatch) -> None:
    X, Y, groups = simulate("proportion")
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        monkeypatch.setattr(
            MLPRegressor, "_loss", lambda self: lambda *a: seen.append(torch.get_num_threads()) or kl_loss(*a)
        )
        make("mlp", "proportion").fit(X, Y, groups)
        assert set(seen) == {1} and torch.get_num_threads() == 2
        with pytest.raises(HeadError):
            make("mlp", "proportion", learning_rate=1e30).fit(X, Y, groups)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "parameters",
    [{"members": 0}, {"hidden": (8, 0)}, {"epochs": 0}, {"batch_size": 1.5}, {"dropout": 1.0}, {"weight_decay": -1}],
)
def test_impossible_mlp_parameters_are_named(parameters: dict[str, Any]) -> None:
    X, Y, _ = simulate("proportion")
    with pytest.raises(HeadError, match=f"{next(iter(parameters))}.* must be|whole number"):
        MLPRegressor(**parameters).fit(X, Y)


# novelty


def test_novelty_is_a_percentile_among_held_out_tiles() -> None:
    X, _, groups = simulate("proportion", n=1200)
    train = groups != "d"
    model = NoveltyModel().fit(X[train], groups[train])
    seen = model(X[~train])
    assert 0.4 < np.mean(seen) < 0.6 and (seen >= 0).all() and (seen <= 1).all()
    rng = np.random.default_rng(1)
    assert (model(rng.permuted(X[~train], axis=0)) > 0.99).mean() > 0.9  # each column as seen, but not together


def test_novelty_is_the_mahalanobis_distance_of_probabilistic_pca() -> None:
    X, _, groups = simulate("proportion")
    model = NoveltyModel().fit(X, groups)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    values, vectors = np.linalg.eigh(np.cov(Z.T, bias=True))
    r = model.axes.shape[1]
    values[:-r] = values[:-r].mean()
    distance = np.einsum("nf,fg,ng->n", Z, vectors / values @ vectors.T, Z)
    np.testing.assert_allclose(model._distance(X), distance, rtol=1e-2)
