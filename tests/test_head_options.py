"""Every option of every recipe from training over a saved head to a slide: what was asked for is what is loaded."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from histomix.abundance import Abundance
from histomix.heads import HEADS, load_head, train

from .extras import heads_here
from .test_head_files import DIM, DONORS, cohort_of, features_of, labels_of

#: Recipes that set each option of a head to something else than it is by default.
RECIPES: dict[str, list[dict[str, Any]]] = {
    "mean": [{}],
    "ridge": [
        {"alpha": 3.0, "slide_scale": True},
        {"alphas": (0.5, 5.0), "rings_um": (250.0, 600.0), "smooth_um": 120.0, "slide_scale": True},
        {"rings_um": "auto", "smooth_um": "auto"},
    ],
    "knn": [
        {"n_neighbors": 3, "n_components": 4, "slide_scale": True},
        {"rings_um": (300.0,), "smooth_um": "auto", "slide_scale": True},
    ],
    "mlp": [
        {"hidden": (5, 4), "n_components": 3, "members": 2, "dropout": 0.1, "learning_rate": 0.01, "max_epochs": 3}
        | {"weight_decay": 0.1, "batch_size": 16, "patience": 2, "loss": "dirichlet-multinomial", "slide_scale": True},
        {"hidden": (4,), "epochs": 2, "pearson": 0.5, "rings_um": (), "smooth_um": 0.0, "slide_scale": True},
        {"hidden": (4,), "epochs": 1, "loss": "poisson", "rings_um": (300.0,), "smooth_um": 90.0},
        {"hidden": (4,), "epochs": 1, "loss": "huber", "rings_um": ()},
    ],
    "average": [{"heads": ("knn", "pcr", "gbm")}, {"heads": ("mean",)}],
    "sun2025": [
        {"hidden": (6, 4), "l1": 0.1, "l2": 0.9, "members": 2, "dropout": 0.2, "learning_rate": 0.01}
        | {"weight_decay": 0.1, "batch_size": 16, "max_epochs": 3, "patience": 2, "smooth_um": "auto"},
        {"hidden": (4,), "epochs": 2, "dropout": 0.1, "learning_rate": 0.01, "rings_um": (300.0,), "smooth_um": 60.0},
    ],
    "pcr": [{"n_components": 4, "alpha": 2.0}],
    "gbm": [
        {"n_components": 3, "max_iter": 4, "learning_rate": 0.2, "max_leaf_nodes": 4, "min_samples_leaf": 5},
    ],
    "hist2cell": [{"epochs": 1, "batch_size": 8, "learning_rate": 0.01, "weight_decay": 0.01, "predict_batch": 9}],
}
LOSSES_OF_THE_OTHER = {"proportion": ("poisson", "huber"), "cells per spot": ("dirichlet-multinomial",)}
#: That of pixels is tested with them (`test_head_contract`).
KINDS = [name for name in HEADS if name != "hist2cell-tiles"]


@pytest.mark.parametrize("kind", heads_here(KINDS))
def test_each_option_is_in_a_recipe(kind: str) -> None:
    """A new option without a round is found here."""
    options = {name: one.default for name, one in inspect.signature(HEADS[kind]).parameters.items()}
    changed = {name for recipe in RECIPES[kind] for name, value in recipe.items() if value != options[name]}
    assert changed == set(options) - {"unit", "seed"}


def slide_of(section: str) -> AnnData:
    """Another slide of 30 tiles, one of which could not be read."""
    slide = features_of(section, n=30)
    slide.X[4] = np.nan
    return slide


@pytest.mark.parametrize("unit", ["proportion", "cells per spot"])
@pytest.mark.parametrize("kind", heads_here(KINDS))
def test_a_recipe_from_training_over_a_file_to_a_slide(kind: str, unit: str, tmp_path: Path) -> None:
    features = {name: features_of(name, n=24) for name in DONORS}
    labels: dict[str, Abundance] = {name: labels_of(table, unit) for name, table in features.items()}
    for number, recipe in enumerate(RECIPES[kind]):
        if recipe.get("loss") in LOSSES_OF_THE_OTHER[unit]:
            continue
        place = tmp_path / f"head {number}"
        head = train(cohort_of(DONORS), features, labels, head=kind, parameters=recipe, seed=3, out=place)
        again = load_head(place)
        assert again.card == head.card
        assert again.estimator.get_params() == head.estimator.get_params()
        assert {name: again.estimator.get_params()[name] for name in recipe} == recipe
        assert again.context_um == head.context_um
        assert (again.context_um == np.inf) == recipe.get("slide_scale", False)
        for name, array in head.estimator.fitted()[0].items():
            np.testing.assert_array_equal(again.estimator.fitted()[0][name], array)

        slide = slide_of("S9")
        pd.testing.assert_frame_equal(again.predict_features(slide), head.predict_features(slide), check_exact=True)
        found, same = head.output(slide), again.output(slide)
        for part in ("values", "lower", "upper", "novelty", "in_scope"):
            np.testing.assert_array_equal(getattr(same, part), getattr(found, part))
        # Several slides at once are each on its own, as `predict` gives them.
        other = slide_of("S8")
        X = np.concatenate([slide.X, other.X]).astype(np.float32)
        xy_um = np.concatenate([slide.obsm["spatial"], other.obsm["spatial"]]) * 0.5
        both = again.apply(X, xy_um, np.repeat(["S9", "S8"], 30))
        np.testing.assert_allclose(both.values[:30], same.values, rtol=1e-4, atol=1e-6)
        assert (
            X.shape[1] == DIM
            and np.isnan(both.values[[4, 34]]).all()
            and np.isfinite(np.delete(both.values, [4, 34], 0)).all()
        )
