"""scikit-learn's contract: its own checks on every head, and its pipelines, searches and folds around them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted

from histomix.errors import HeadError
from histomix.heads import HEADS, Positions, make_estimator

from .extras import extra_module

UNITS = ("cells per spot", "proportion")
#: Settings with which a fit takes milliseconds, and still learns one line.
QUICK: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (16,), "members": 2, "epochs": 15, "learning_rate": 0.03},
    "average": {"heads": ("ridge", "pcr")},
    "sun2025": {"hidden": (16, 8), "epochs": 20, "learning_rate": 0.03},
    "gbm": {"max_iter": 30, "learning_rate": 0.2},
    "hist2cell": {"epochs": 1, "batch_size": 128},
    "hist2cell-tiles": {"epochs": 1},
}
#: What scikit-learn checks and a head does otherwise, for the reason given; at most 15 of about 60.
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": "9 spots have any weight there, and a head wants 10",
    "check_regressor_multioutput": "its labels are negative, whatever the tags say; no abundance is",
}
_LAST_DIGITS = {"check_methods_subset_invariance": "a network's float32 sums differ in the last digits with the batch"}
EXPECTED_OF: dict[str, dict[str, str]] = {
    "hist2cell": {**_LAST_DIGITS, "check_regressors_train": "one epoch of a large network learns no line"},
}


def with_what_the_checks_lack(name: str, unit: str) -> Any:
    """A head that takes the tables of scikit-learn's checks: as shares where it learns these, each row on a slide.

    The labels there are one column of any positive numbers y. As proportions they are y / (1 + y) and the rest.
    """
    kind = HEADS[name]

    class Head(kind):  # type: ignore[misc, valid-type]
        def __sklearn_tags__(self) -> Any:
            tags = super().__sklearn_tags__()
            tags.input_tags.two_d_array = True
            return tags

        def fit(self, X: Any, y: Any, groups: Any = None, sample_weight: Any = None) -> Any:
            labels = np.asarray(y)
            if unit == "proportion" and labels.ndim == 2 and labels.dtype.kind in "fiuO" and labels.min() >= 0:
                labels = np.concatenate([labels, np.ones((len(labels), 1))], axis=1).astype(float)
                with np.errstate(invalid="ignore"):
                    y = labels / labels.sum(axis=1, keepdims=True)
            return super().fit(X, y, groups, sample_weight, self._alone(X))

        def predict(self, X: Any) -> np.ndarray:
            values: np.ndarray = super().predict(X, self._alone(X))
            return values[:, :-1] / np.maximum(values[:, -1:], 1e-9) if unit == "proportion" else values

        def _alone(self, X: Any) -> Positions | None:
            if not self.needs_positions:
                return None
            rows = X.shape[0] if hasattr(X, "shape") else len(np.asarray(X))
            return Positions(np.arange(rows), np.zeros((rows, 2)))

    Head.__name__ = Head.__qualname__ = f"{kind.__name__}Of{unit.split()[0].title()}"
    globals()[Head.__name__] = Head  # where pickle looks for it
    return Head(unit=unit, **QUICK.get(name, {}))


def failures_of(estimator: Any, expected: dict[str, str]) -> tuple[set[str], set[str]]:
    """Names of the checks that an estimator fails, unexpected and expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check_estimator(estimator, expected_failed_checks=expected, on_fail=None, on_skip=None)
    assert len(found) > 50
    wrong = {f"{one['check_name']}: {one['exception']!r}" for one in found if one["status"] == "failed"}
    return wrong, {one["check_name"] for one in found if one["status"] == "xfail"}


@pytest.mark.parametrize(
    ("name", "unit"),
    [(name, unit) for name in HEADS if not name.startswith("hist2cell") for unit in UNITS]
    + [pytest.param("hist2cell", UNITS[0], marks=pytest.mark.slow)],
)
def test_a_head_passes_the_checks_of_scikit_learn(name: str, unit: str) -> None:
    if name == "hist2cell":
        extra_module("baselines", "torch_geometric")
    expected = EXPECTED | EXPECTED_OF.get(name, {})
    assert len(expected) <= 15
    plain = unit == "cells per spot" and name != "hist2cell"
    head = make_estimator(name, unit, **QUICK.get(name, {})) if plain else with_what_the_checks_lack(name, unit)
    wrong, known = failures_of(head, expected)
    assert not wrong
    assert known == set(expected), "a check that passes now needs no exception"


def test_tags_say_what_a_head_takes() -> None:
    for name in HEADS:
        head = make_estimator(name)
        tags = get_tags(head)
        assert tags.estimator_type == "regressor" and tags.target_tags.required and not tags.non_deterministic
        assert tags.target_tags.two_d_labels and tags.target_tags.multi_output and not tags.target_tags.single_output
        assert tags.target_tags.positive_only and not tags.input_tags.allow_nan and not tags.input_tags.sparse
        # For a graph of spots a table alone is not enough, and scikit-learn leaves such estimators alone.
        assert tags.input_tags.two_d_array != name.startswith("hist2cell")


@pytest.fixture(scope="module")
def table() -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Features and proportions of 90 spots of three donors, with names."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((90, 6))
    Y = np.exp(X @ rng.standard_normal((6, 3)) / 3)
    columns = [f"feature {i}" for i in range(6)]
    return (
        pd.DataFrame(X, columns=columns),
        pd.DataFrame(Y / Y.sum(axis=1, keepdims=True), columns=["T", "B", "Tumour"]),
        np.repeat(["a", "b", "c"], 30),
    )


@pytest.mark.parametrize("name", [name for name in HEADS if not name.startswith("hist2cell")])
def test_pipelines_searches_and_folds(name: str, table: Any) -> None:
    X, Y, donor = table
    pipe = make_pipeline(StandardScaler(), make_estimator(name, **QUICK.get(name, {})))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = cross_val_predict(pipe, X, Y, groups=donor, cv=GroupKFold(3))
        step = pipe.steps[-1][0]
        search = GridSearchCV(pipe, {f"{step}__unit": list(UNITS)}, cv=3, error_score="raise").fit(X, Y)
        values = search.predict(X)
    assert found.shape == values.shape == Y.shape and np.isfinite(search.cv_results_["mean_test_score"]).all()
    if name != "mean":
        assert search.best_score_ > 0.3 and np.corrcoef(found.ravel(), Y.to_numpy().ravel())[0, 1] > 0.6
    one, other = clone(pipe).fit(X, Y).predict(X), clone(pipe).fit(X.to_numpy(), Y.to_numpy()).predict(X.to_numpy())
    np.testing.assert_array_equal(one, other)


def test_donors_reach_a_head_inside_a_pipeline(table: Any) -> None:
    X, Y, donor = table
    pipe = make_pipeline(StandardScaler(), make_estimator("ridge"))
    pipe.fit(X, Y, ridgeregressor__groups=donor)
    direct = make_estimator("ridge").fit(StandardScaler().fit_transform(X), Y, donor)
    np.testing.assert_array_equal(pipe[-1].inner_loss_, direct.inner_loss_)
    with sklearn.config_context(enable_metadata_routing=True):
        head = make_estimator("ridge").set_fit_request(groups=True)
        folds = GroupKFold(3).set_split_request(groups=True)
        assert np.isfinite(cross_val_score(head, X, Y, cv=folds, params={"groups": donor})).all()


def test_names_of_columns_are_remembered(table: Any) -> None:
    X, Y, _ = table
    head = make_estimator("average", heads=("ridge", "knn"))
    assert not hasattr(head, "n_features_in_") and not hasattr(head, "feature_names_in_")
    head.fit(X, Y)
    assert head.n_features_in_ == 6 and head.feature_names_in_.tolist() == X.columns.tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head.predict(X)
    for other in (X[X.columns[::-1]], X.rename(columns={"feature 0": "another"})):
        with pytest.raises(HeadError, match="feature names should match"):
            head.predict(other)


def test_what_is_no_table_of_labels_is_refused(table: Any) -> None:
    X, Y, _ = table
    head = make_estimator("ridge")
    with pytest.raises(ValueError, match=r"y must be a table .*\(90,\)\. .*one column per cell type"):
        head.fit(X, Y["T"])
    with pytest.raises(ValueError, match="requires y to be passed"):
        head.fit(X, None)
    with pytest.raises(TypeError, match=r"[Ss]parse") as caught:
        head.fit(sparse.csr_array(X.to_numpy()), Y)
    assert isinstance(caught.value, HeadError)
    head.fit(X, Y)
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        head.predict(sparse.csr_array(X.to_numpy()))
    head.fit(X.to_numpy(), Y)
    with pytest.raises(ValueError, match="X has 3 features, but RidgeRegressor is expecting 6 features as input"):
        head.predict(X.to_numpy()[:, :3])


def test_an_unfitted_head_says_so_in_both_families(table: Any) -> None:
    X, _, _ = table
    for name in HEADS:
        head = make_estimator(name)
        with pytest.raises(NotFittedError):
            check_is_fitted(head)
        with pytest.raises(NotFittedError) as caught:
            head.predict(X)
        assert isinstance(caught.value, HeadError) and "Call fit first" in str(caught.value)


def test_places_of_other_rows_are_refused(table: Any) -> None:
    X, Y, _ = table
    few = Positions(np.zeros(5, int), np.zeros((5, 2)))
    for name in ("ridge", "mlp", "hist2cell"):
        with pytest.raises(HeadError, match="5 places and 90 rows"):
            make_estimator(name).fit(X, Y, positions=few)
