"""Heads fitted anew in each fold, and their predictions of its test rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from ..common.metrics import Array
from ..common.naming import file_key, file_name_fault
from ..common.storage.unfinished import UnfinishedWork, current_work, digest_array
from ..common.threads import all_threads
from ..errors import HeadError, InputError
from ..heads import DEFAULT, CompositionRegressor, TrainingSet, inner_groups, make_estimator
from ..heads.kept_fits import FITS
from .baselines import NUCLEI, ORACLE
from .folds import Fold
from .scores.bootstrap import REFERENCE
from .scores.ceiling import LABELS
from .scores.coverage import IntervalScores

MEAN = "mean"
#: Heads that stand beside every other.
BASELINES = (MEAN, REFERENCE)
#: Heads that keep the settings of their authors.
AUTHORS = ("hist2cell-tiles",)
#: The labels themselves, scored against the truth: the bar that a head trained on them may approach.
LABEL = "label"


@dataclass
class Fits:
    """Predictions of every row by the fold that tested it; NaN for rows that none did.

    ``searches`` has, for each head that chose its settings by trials, what it found in each fold. ``intervals`` measure
    each fitted estimator, before it is let go.
    """

    predicted: dict[str, Array] = field(default_factory=dict)
    cost: dict[str, dict[str, float]] = field(default_factory=dict)
    searches: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    intervals: IntervalScores | None = None


@dataclass(frozen=True)
class FoldFit:
    """What one head gave in one fold: predictions of its test rows, seconds, what it searched, and its intervals."""

    values: Array
    cost: dict[str, float]
    search: dict[str, Any] | None = None
    intervals: dict[str, Array] | None = None

    def to_part(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Arrays and facts, see `UnfinishedWork.keep`."""
        return {"values": self.values, **(self.intervals or {})}, {"cost": self.cost, "search": self.search}

    @classmethod
    def of_part(cls, arrays: dict[str, Array], facts: dict[str, Any]) -> Self:
        """What `to_part` returned."""
        values = arrays.pop("values")
        return cls(values, facts["cost"], facts["search"], arrays or None)


def prototypes(heads: Sequence[str] | Mapping[str, Any], unit: str, seed: int) -> dict[str, Any]:
    """Unfitted estimators by name, the baselines first.

    Raises
    ------
    InputError
        A name cannot be that of a head.
    HeadError
        There is no such head.
    """
    if isinstance(heads, Mapping):
        given = dict(heads)
    else:
        given = {
            DEFAULT if name == "default" else name: None for name in ([heads] if isinstance(heads, str) else heads)
        }
    for name in given:
        if name in (LABEL, LABELS, NUCLEI, ORACLE):
            raise InputError(f"a head cannot be called {name!r}", hint="Choose another name")
        if why := file_name_fault(name):
            raise InputError(f"a head cannot be called {name!r}, which becomes a folder: it {why}", hint="Rename it")
    if len({file_key(name) for name in {*BASELINES, *given}}) < len({*BASELINES, *given}):
        raise InputError(
            f"two of the heads {', '.join(given)} would have one folder where the case of letters makes no difference",
            hint="Rename one of them",
        )
    names = dict.fromkeys([*BASELINES, *given])
    return {name: make_estimator(name, unit, seed) if given.get(name) is None else given[name] for name in names}


def fit_folds(
    estimators: Mapping[str, Any], training: TrainingSet, folds: list[Fold], step: Callable[[], None], fits: Fits
) -> Fits:
    """Fit every head on the training rows of every fold and predict its test rows.

    Parameters
    ----------
    estimators
        Unfitted, by name; each is cloned for each fold.
    training, folds
        Rows and their splits.
    step
        Called after each head in each fold.
    fits
        Filled and returned.
    """
    for name in estimators:
        fits.predicted[name] = np.full(training.Y.shape, np.nan)
        fits.cost[name] = {"fit_seconds": 0.0, "predict_seconds": 0.0}
    for fold in folds:
        seen = training.seen_from(fold.train)
        for name, estimator in estimators.items():
            fits.predicted[name][fold.test] = fit_and_predict(name, estimator, seen, fold, fits)
            step()
    return fits


def searched(searches: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """What a summary says of heads that chose settings by trials: how many, by what, and the choice of each fold."""
    return {
        name: {
            **{fact: trials[0][fact] for fact in ("n_trials", "judged_by")},
            "n_splits": [one["n_splits"] for one in trials],
            "chosen": [one["chosen"] for one in trials],
        }
        for name, trials in searches.items()
    }


def fit_and_predict(name: str, prototype: Any, training: TrainingSet, fold: Fold, fits: Fits) -> Array:
    """Fit a clone of one head on the training rows of a fold and predict its test rows; its cost is added to ``fits``.

    What unfinished work has kept of the same head in the same fold is taken from there. ``training`` are the rows as a
    head of this fold sees them (`TrainingSet.seen_from`).

    Raises
    ------
    HeadError
        The head cannot be fitted, or its predictions are not those of the test rows.
    """
    work = current_work()
    # What estimators of other libraries are is not known from their parameters.
    key = _key(work, prototype, training, fold, fits) if isinstance(prototype, CompositionRegressor) and work else None
    part = None if work is None or key is None else work.recall(key)
    if part is not None:
        done = FoldFit.of_part(*part)
    else:
        done = _fit_fold(name, prototype, training, fold, fits.intervals)
        if work is not None and key is not None:
            work.keep(key, *done.to_part())
            work.forget(FITS)  # those that this one was made of
    for step, seconds in done.cost.items():
        fits.cost[name][step] += seconds
    if done.search:
        fits.searches.setdefault(name, []).append(done.search)
    if fits.intervals is not None:
        fits.intervals.add(name, fold, done.intervals)
    return done.values


def _fit_fold(
    name: str, prototype: Any, training: TrainingSet, fold: Fold, intervals: IntervalScores | None
) -> FoldFit:
    from sklearn.base import clone

    rows = fold.train
    groups = inner_groups(training.section[rows], training.donor[rows], training.xy_um[rows])
    # Estimators of other libraries do not know of places.
    known = isinstance(prototype, CompositionRegressor)
    here, there = ({"positions": training.positions[part]} if known else {} for part in (rows, fold.test))
    start = time.perf_counter()
    try:
        with all_threads():
            estimator = clone(prototype).fit(training.X[rows], training.Y[rows], groups=groups, **here)
            fitted = time.perf_counter()
            values = np.asarray(estimator.predict(training.X[fold.test], **there), dtype=np.float64)
    except HeadError as error:
        raise HeadError(error.what, where=f"head {name}, fold {fold.name}", hint=error.hint) from error
    cost = {"fit_seconds": fitted - start, "predict_seconds": time.perf_counter() - fitted}
    expected = (len(fold.test), len(training.cell_types))
    if values.shape != expected or not np.isfinite(values).all():
        what = f"the prediction has shape {values.shape}, not {expected}"
        if values.shape == expected:
            bad = int((~np.isfinite(values)).any(axis=1).sum())
            what = f"{bad:,} of {len(values):,} predicted spots are not finite"
        raise HeadError(what, where=f"head {name}, fold {fold.name}", hint="Check the head; nothing was scored")
    measured = None if intervals is None else intervals.measure(estimator, training, fold, values)
    return FoldFit(values, cost, getattr(estimator, "search_", None), measured)


def _key(work: UnfinishedWork, prototype: CompositionRegressor, training: TrainingSet, fold: Fold, fits: Fits) -> str:
    """Name of what one head gives in one fold, by all that it depends on."""
    return "fold-" + work.key(
        head=f"{type(prototype).__module__}.{type(prototype).__qualname__}",
        parameters=repr(sorted(prototype.get_params().items())),
        tables=training.digest,
        pixels=training.tiles.identity() if prototype.sees_pixels and training.tiles is not None else None,
        train=digest_array(fold.train),
        test=digest_array(fold.test),
        intervals=fits.intervals is not None,
    )
