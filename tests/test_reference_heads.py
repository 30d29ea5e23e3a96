"""The heads to compare with, against scikit-learn and the loss by hand."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from histomix.errors import HeadError, UnknownHeadError
from histomix.heads import DEFAULT, HEADS, head_name, held_out_predictions, make_estimator
from histomix.heads.models.network import sun2025_loss
from histomix.heads.models.preprocess import rotate

from .test_heads import pearson, simulate


@pytest.mark.parametrize("unit", ["proportion", "cells per spot"])
def test_boosted_trees_predict_what_scikit_learns_objects_do(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X, Y, _ = simulate(unit, n=400)
    head: Any = make_estimator("gbm", unit, n_components=10, max_iter=25, learning_rate=0.05, max_leaf_nodes=8)
    kept: list[Any] = []
    original = head._boost
    monkeypatch.setattr(head, "_boost", lambda *data: kept.extend(original(*data)) or kept, raising=False)
    head.fit(X[:300], Y[:300])
    Z = rotate(X, head.mean_, head.scale_, head.components_)
    theirs = np.maximum(np.column_stack([model.predict(Z) for model in kept]), 0)
    if unit == "proportion":
        theirs /= theirs.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.predict(X), theirs, rtol=1e-9)
    assert pearson(head.predict(X[300:]), Y[300:]) > 0.5
    with pytest.raises(HeadError, match="trees cannot be grown"):
        make_estimator("gbm", unit, learning_rate=-1.0).fit(X, Y)


def test_pcr_is_ridge_on_principal_components() -> None:
    X, Y, groups = simulate("cells per spot")
    head: Any = make_estimator("pcr", "cells per spot", n_components=5, alpha=0.01).fit(X, Y, groups)
    Z = PCA(5, svd_solver="full").fit_transform(StandardScaler().fit_transform(X.astype(float)))
    penalty = 0.01 * len(X) * np.square(Z).mean()
    theirs = Ridge(alpha=penalty, solver="svd").fit(Z, Y).predict(Z)
    np.testing.assert_allclose(head.predict(X), np.maximum(theirs, 0), atol=1e-3)
    for donor in "abcd":
        test = groups == donor
        alone = make_estimator("pcr", "cells per spot", n_components=5, alpha=0.01).fit(X[~test], Y[~test])
        np.testing.assert_allclose(head.held_out_[test], alone.predict(X[test]), atol=1e-5)


def test_sun2025_has_seven_layers_and_says_what_is_ours() -> None:
    X, Y, groups = simulate("cells per spot", n=480)
    head: Any = make_estimator("sun2025", "cells per spot", max_epochs=30, learning_rate=1e-3, dropout=0.3)
    head.fit(X[groups != "d"], Y[groups != "d"])
    layers = [name for name in head.fitted()[0] if name.startswith("weight_")]
    assert len(layers) == 7 and not any(name.startswith("gain_") for name in head.fitted()[0])
    assert pearson(head.predict(X[groups == "d"]), Y[groups == "d"]) > 0.5
    assert head.n_epochs_ == head.inner_loss_.argmin() + 1
    assert np.isfinite(head.held_out_).all()
    assert {"hidden", "l1", "l2", "optimiser", "epochs"} <= set(head.own_choices)
    outputs = []
    arrays = head.fitted()[0]
    for network in range(6):  # of all rows, and of five splits
        h = (X - head.mean_[network]) / head.scale_[network]
        for i in range(7):
            h = h @ arrays[f"weight_{i}_"][network] + arrays[f"bias_{i}_"][network]
            h = h / (1 + np.exp(-h)) if i < 6 else h
        outputs.append(h * head.target_[network][1] + head.target_[network][0])
    expected = outputs[0] / 2 + np.mean(outputs[1:], axis=0) / 2
    np.testing.assert_allclose(head.predict(X), np.maximum(expected, 0), atol=1e-3)
    seen = Y[groups != "d"]
    np.testing.assert_allclose(head.target_[0], [seen.mean(axis=0), seen.std(axis=0)], rtol=1e-9)
    for network, rows in enumerate(np.array_split(np.arange(len(seen)), 5), start=1):  # each saw nothing of its block
        np.testing.assert_allclose(head.target_[network][0], np.delete(seen, rows, axis=0).mean(axis=0), rtol=1e-9)
        held_out = np.maximum(outputs[network][groups != "d"][rows], 0)
        np.testing.assert_allclose(head.held_out_[rows], held_out, atol=1e-3)


def test_the_loss_of_sun2025_by_hand() -> None:
    rng = np.random.default_rng(0)
    z, y, w = rng.standard_normal((1, 9, 3)), rng.random((1, 9, 3)), np.ones((1, 9))
    r = np.mean([np.corrcoef(z[0, :, t], y[0, :, t])[0, 1] for t in range(3)])
    expected = np.square(z - y).mean() + 0.3 * np.abs(z - y).mean() + 0.7 * (1 - r)
    assert float(sun2025_loss(0.3, 0.7)(*(torch.from_numpy(a) for a in (z, y, w)))) == pytest.approx(expected)


def test_an_average_is_the_mean_of_its_heads() -> None:
    X, Y, names = simulate("proportion")
    average: Any = make_estimator("average", heads=("ridge", "knn")).fit(X, Y, names)
    parts = [make_estimator(name).fit(X, Y, names) for name in ("ridge", "knn")]
    predicted = np.stack([part.predict(X) for part in parts])
    np.testing.assert_allclose(average.predict(X), predicted.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(average.predict_spread(X), predicted.std(axis=0), atol=1e-9)
    held_out = np.stack([held_out_predictions(part, X, Y, names)[0] for part in parts])
    np.testing.assert_allclose(average.held_out_, held_out.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(average.held_out_spread_, held_out.std(axis=0), atol=1e-9)
    with pytest.raises(HeadError, match="different heads"):
        make_estimator("average", heads=("ridge", "ridge")).fit(X, Y)


def test_the_default_has_a_name() -> None:
    assert DEFAULT in HEADS and head_name("default") == DEFAULT
    assert type(make_estimator("default")) is HEADS[DEFAULT]
    with pytest.raises(UnknownHeadError, match="no head named 'stack'"):
        head_name("stack")


def test_the_list_of_heads_imports_no_torch() -> None:
    code = "import sys; import histomix.heads as h; list(h.HEADS); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {"mean", "ridge", "knn", "mlp", "sun2025", "pcr", "gbm", "hist2cell"} <= set(HEADS)
