"""Arrays and numbers of every kind of head, altered: refused, or numbers for every tile; never anything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from histomix.errors import HeadError
from histomix.heads import HEADS, CompositionRegressor, StainDamping, make_estimator
from histomix.heads.neighbourhood import Positions
from histomix.heads.saved import check_told
from histomix.heads.stain import fit_stain_damping
from histomix.heads.trust.intervals import Intervals, calibrate
from histomix.heads.trust.novelty import NoveltyModel
from histomix.heads.trust.scale import ScaleModel, fit_scale

from .extras import heads_here

#: Without that of pixels, and that of other heads.
KINDS = heads_here(name for name in HEADS if name not in ("hist2cell-tiles", "average"))
QUICK: dict[str, dict[str, Any]] = {
    "ridge": {"rings_um": (90.0,), "smooth_um": "auto", "slide_scale": True},
    "mlp": {"hidden": (4, 4), "members": 2, "max_epochs": 2, "n_components": 3},
    "sun2025": {"hidden": (4, 4), "learning_rate": 0.001, "dropout": 0.1, "max_epochs": 2},
    "gbm": {"max_iter": 5, "learning_rate": 0.1, "max_leaf_nodes": 4},
    "hist2cell": {"learning_rate": 0.001, "epochs": 1},
}
RNG = np.random.default_rng(0)
N, DIM = 60, 5
X = RNG.normal(size=(N, DIM)).astype(np.float32)
GROUPS = np.repeat(["A", "B", "C"], N // 3)
WHERE = Positions(np.repeat([0, 1, 2], N // 3), RNG.uniform(0, 400, (N, 2)))
Y = {unit: np.exp(X[:, :3]) for unit in ("proportion", "cells per spot")}
Y["proportion"] = Y["proportion"] / Y["proportion"].sum(axis=1, keepdims=True)


def _with(value: float, everywhere: bool = False) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        changed = array.copy()
        changed[... if everywhere else (slice(None, 1),) * array.ndim] = value
        return changed

    return change


ALTERED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    **{f"of {kind}": lambda array, kind=kind: array.astype(kind) for kind in ("f2", "f4", "f8", "i8", "u1", "?")},
    "NaN": _with(np.nan),
    "infinite": _with(np.inf),
    "1e14": lambda array: _with(1e14)(array.astype("f8")),
    "all 1e14": lambda array: _with(1e14, True)(array.astype("f8")),
    "all tiny": _with(1e-30, True),
    "far": lambda array: _with(100)(array),
    "zero": _with(0, True),
    "less": lambda array: array - 1,
    "backwards": lambda array: array[::-1],
    "short": lambda array: array[:-1],
    "long": lambda array: np.concatenate([array, array[-1:]]),
    "turned": lambda array: array.T if array.ndim > 1 else array[:, None],
    "empty": lambda array: array[:0],
    "narrow": lambda array: array[..., :0],
    "deeper": lambda array: array[None],
    "a number": lambda array: array.ravel()[:1].reshape(()),
}


def altered(arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Each array altered in each way, and absent."""
    for name, array in arrays.items():
        yield f"{name} absent", {key: value for key, value in arrays.items() if key != name}
        for way, change in ALTERED.items():
            if array.dtype.kind == "f" or way not in ("NaN", "infinite"):
                with np.errstate(all="ignore"):
                    changed = change(array) if array.dtype != bool or way != "less" else ~array
                yield f"{name} {way}", {**arrays, name: np.ascontiguousarray(changed)}


def told(restore: Callable[[], Callable[[], Any]], what: str) -> bool:
    """Whether it is taken; then it gives a finite number for each tile."""
    try:
        give = restore()
    except HeadError:
        return False
    with np.errstate(all="ignore"):
        values = np.asarray(give())
        try:
            check_told(values, what)
        except HeadError:
            return True  # told when tiles are read, by name
    assert values.dtype.kind == "f", what
    return True


@pytest.mark.parametrize("unit", ["proportion", "cells per spot"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_head_of_altered_arrays_or_numbers(kind: str, unit: str) -> None:
    def made() -> CompositionRegressor:
        return make_estimator(kind, unit, **QUICK.get(kind, {}))

    fitted = made().fit(X, Y[unit], GROUPS, positions=WHERE)
    arrays, numbers = fitted.fitted()

    def restored(arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]) -> Callable[[], Any]:
        head = made().restore(arrays, numbers)
        return lambda: head.predict(X, WHERE)

    np.testing.assert_array_equal(restored(arrays, numbers)(), fitted.predict(X, WHERE))
    # Hist2Cell has hundreds of arrays of a few kinds.
    some = dict(list(arrays.items())[1:4]) if kind == "hist2cell" else arrays
    rest = {name: array for name, array in arrays.items() if name not in some}
    taken = [what for what, one in altered(some) if told(lambda one=one: restored({**rest, **one}, numbers), what)]
    never = ("absent", "of i8", "NaN", "infinite", "deeper")
    whole = tuple(fitted._whole_arrays)
    assert not [what for what in taken if what.endswith(never) and not what.startswith(whole)]
    for name in numbers:
        for value in (None, "text", -1, True, 0.5, float("nan"), float("inf"), 1e300, 10**30, [], {}):
            what = f"{name} {value!r}"
            assert not told(lambda name=name, value=value: restored(arrays, {**numbers, name: value}), what) or (
                value == 0.5 and name in ("alpha_", "pitch_um_", "smooth_um_")
            ), what


def _novelty() -> tuple[dict[str, np.ndarray], Callable[[Mapping[str, np.ndarray]], Callable[[], Any]]]:
    values = np.abs(Y["proportion"] + RNG.normal(0, 0.1, (N, 3)))
    fitted = NoveltyModel().fit(X, GROUPS, values, Y["proportion"])

    def restored(arrays: Mapping[str, np.ndarray]) -> Callable[[], Any]:
        model = NoveltyModel.restored(arrays, DIM, 3)
        return lambda: model(X, values)

    return fitted.arrays(), restored


def _intervals() -> tuple[dict[str, np.ndarray], Callable[[Mapping[str, np.ndarray]], Callable[[], Any]]]:
    fitted = calibrate(Y["proportion"], Y["proportion"][::-1], None, GROUPS)

    def restored(arrays: Mapping[str, np.ndarray]) -> Callable[[], Any]:
        model = Intervals.restored(arrays, "proportion", 3, fitted.facts())
        return lambda: model.bounds(Y["proportion"], np.zeros((N, 3)))

    return fitted.arrays(), restored


def _stain() -> tuple[dict[str, np.ndarray], Callable[[Mapping[str, np.ndarray]], Callable[[], Any]]]:
    fitted = fit_stain_damping(X, [[RNG.normal(size=(20, DIM))]])
    assert fitted is not None

    def restored(arrays: Mapping[str, np.ndarray]) -> Callable[[], Any]:
        model = StainDamping.restored(arrays, DIM, fitted.facts())
        return lambda: model(X)

    return fitted.arrays(), restored


def _scale() -> tuple[dict[str, np.ndarray], Callable[[Mapping[str, np.ndarray]], Callable[[], Any]]]:
    factors, way = np.array([0.7, 1.0, 1.4]), RNG.normal(size=DIM)
    levels = [X[name == GROUPS].astype(float) for name in "ABC"]
    samples = [np.stack([one + 3 * np.log(factor) * way for factor in factors], axis=1) for one in levels]
    fitted = fit_scale(samples, factors, levels, list("ABC"))
    assert fitted is not None

    def restored(arrays: Mapping[str, np.ndarray]) -> Callable[[], Any]:
        model = ScaleModel.restored(arrays, DIM, fitted.facts())
        return lambda: model(X)

    return fitted.arrays(), restored


@pytest.mark.parametrize("part", [_novelty, _intervals, _stain, _scale])
def test_a_part_of_altered_arrays(part: Callable[[], Any]) -> None:
    arrays, restored = part()
    assert np.isfinite(restored(arrays)()).all()
    taken = [what for what, one in altered(arrays) if told(lambda one=one: restored(one), what)]
    never = ("absent", "of i8", "of u1", "of ?", "NaN", "infinite", "deeper", "empty")
    assert not [what for what in taken if what.endswith(never) and what != "edges empty"]
