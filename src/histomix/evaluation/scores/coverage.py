"""Do the intervals of a head, and its means of slides, hold what they promise, for donors that it did not see?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ...common.metrics import Array
from ...heads import CompositionRegressor, TrainingSet, calibrate_levels, held_out_kind
from ...heads.inner_folds import MIN_DONORS
from ...heads.trust.shrinkage import held_out_slides, level_slopes, shrunk
from ..folds import Fold
from .scoring import INTERVAL_METRICS, SHRUNK_METRIC

#: Levels of the curve, and the one whose coverage and width stand in the table.
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
LEVEL = 0.9


class IntervalScores:
    """What every head that can be calibrated says of itself, against what is so; measured while a fit is there.

    Intervals are calibrated in each fold on its training donors alone (see `histomix.heads.calibrate`), from the
    predictions that inner fits made of rows they had not seen. ``coverage`` is the share of labels of the test spots of
    a section inside their interval, ``width`` its mean width, in the unit of the labels; both per cell type. So is
    ``slide_mae_shrunk``, the error of a section's mean that is drawn to the training mean by what those predictions say
    of levels (`heads.trust.shrinkage.level_slopes`); it is there from three training donors on.

    Parameters
    ----------
    training
        The rows.
    protocol
        Name of the protocol.
    """

    def __init__(self, training: TrainingSet, protocol: str) -> None:
        self.training = training
        self.protocol = protocol
        self._rows: list[pd.DataFrame] = []
        self._curves: dict[str, list[Array]] = {}
        self._kinds: dict[str, str] = {}

    def measure(self, estimator: Any, training: TrainingSet, fold: Fold, values: Array) -> dict[str, Array] | None:
        """Coverage and width of a fitted head's intervals in a fold, and the error of drawn means; None without these.

        Parameters
        ----------
        estimator
            Fitted on the training rows of the fold.
        training
            All rows, as it saw them.
        fold
            Its rows.
        values
            Predictions of the test rows.

        Returns
        -------
        ``coverage`` and ``width``, ``(n_sections, n_types)``, of the test sections in their order, and the ``curve`` of
        the coverage at all levels, ``(n_sections, n_levels)``; ``slide_mae_shrunk`` where it is told.
        """
        if not isinstance(estimator, CompositionRegressor) or estimator.held_out_ is None:
            return None
        rows, test = fold.train, fold.test
        held_out, spread = estimator.held_out_, estimator.held_out_spread_
        known = np.isfinite(held_out).all(axis=1)
        kind = self._kind(fold)
        groups = (training.donor if kind == "donor" else training.section)[rows]
        if len(np.unique(groups[known])) < 2:
            return None
        n_donors = len(np.unique(training.donor[rows][known]))
        at_test = None if spread is None else estimator.predict_spread(training.X[test], training.positions[test])
        if at_test is None:
            spread = None
        names, sections = self._sections(fold)
        shape = (len(names), len(training.cell_types))
        found = {"coverage": np.empty(shape), "width": np.empty(shape), "curve": np.empty((len(names), len(LEVELS)))}
        fitted = calibrate_levels(
            training.Y[rows], held_out, spread, groups, LEVELS, training.unit, kind, n_donors, judged=False
        )
        for column, (level, intervals) in enumerate(zip(LEVELS, fitted, strict=True)):
            lower, upper = intervals.bounds(values, at_test)
            inside = (training.Y[test] >= lower) & (training.Y[test] <= upper)
            for number, section in enumerate(names):
                mine = sections == section
                coverage = inside[mine].mean(axis=0)
                found["curve"][number, column] = coverage.mean()
                if level == LEVEL:
                    found["coverage"][number] = coverage
                    found["width"][number] = (upper - lower)[mine].mean(axis=0)
        if kind == "donor" and n_donors >= MIN_DONORS:
            slopes = level_slopes(held_out_slides(training, held_out, rows))
            means = [[table[sections == one].mean(axis=0) for one in names] for table in (values, training.Y[test])]
            answer, truth = np.array(means)
            found[SHRUNK_METRIC] = np.abs(shrunk(answer, training.Y[rows].mean(axis=0), slopes) - truth)
        return found

    def add(self, name: str, fold: Fold, found: Mapping[str, Array] | None) -> None:
        """Take in what `measure` returned of the head ``name``."""
        if found is None:
            return
        names, sections = self._sections(fold)
        for number, section in enumerate(names):
            mine = sections == section
            owner = str(self.training.donor[fold.test][mine][0])
            told = (metric for metric in (*INTERVAL_METRICS, SHRUNK_METRIC) if metric in found)
            scores = {metric: found[metric][number] for metric in told}
            self._add(name, fold.name, owner, section, scores, int(mine.sum()))
        self._curves.setdefault(name, []).append(found["curve"])
        self._kinds[name] = self._kind(fold)

    def _kind(self, fold: Fold) -> str:
        return held_out_kind(self.training.section[fold.train], self.training.donor[fold.train])

    def _sections(self, fold: Fold) -> tuple[list[str], Array]:
        """Names of the test sections, in their order, and that of each test row."""
        sections = np.asarray(self.training.section, dtype=str)[fold.test]
        return list(dict.fromkeys(sections.tolist())), sections

    def _add(self, head: str, fold: str, donor: str, section: str, scores: dict[str, Array], n_spots: int) -> None:
        for metric, values in scores.items():
            columns = {
                "head": head,
                "protocol": self.protocol,
                "fold": fold,
                "donor": donor,
                "section": section,
                "cell_type": [str(name) for name in self.training.cell_types],
                "metric": metric,
                "value": values,
                "target": "label",
                "n_spots": n_spots,
            }
            self._rows.append(pd.DataFrame(columns))

    def rows(self) -> list[pd.DataFrame]:
        """Rows of metrics ``coverage``, ``width`` and ``slide_mae_shrunk``."""
        return self._rows

    def summary(self) -> dict[str, dict[str, Any]]:
        """By head: ``levels``, ``coverage`` (mean over sections), ``width`` at `LEVEL`, and a ``statement``."""
        facts: dict[str, dict[str, Any]] = {}
        if not self._rows:
            return facts
        table = pd.concat(self._rows, ignore_index=True)
        for head, curves in self._curves.items():
            curve = np.concatenate(curves)
            at = curve[:, LEVELS.index(LEVEL)]
            width = float(table.loc[(table["head"] == head) & (table["metric"] == "width"), "value"].mean())
            facts[head] = {
                "levels": list(LEVELS),
                "coverage": [float(one) for one in curve.mean(axis=0)],
                "width": width,
                "statement": f"intervals of level {LEVEL:.2f}, calibrated on training {self._kinds[head]}s, hold "
                f"{at.mean():.2f} of the labels ({at.min():.2f} to {at.max():.2f} by section); mean width {width:.3g}",
            }
        return facts
