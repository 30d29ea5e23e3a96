"""From a cohort with features and labels to a head with its card."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from sklearn.base import clone

from ..abundance import Abundance, labels_of
from ..common.storage.unfinished import say_recalled, unfinished_work
from ..common.threads import all_threads, single_thread
from ..common.words import training_limit
from ..embedding import FeatureSource, feature_blocks, feature_manifest, scale_sample
from ..errors import HeadError, SectionError
from ..progress import Progress, progress_bars
from ..provenance import read_sealed, require_writable
from ..spots import Cohort
from .answers.fit import held_out_answers
from .answers.tree import tree_of
from .base import CompositionRegressor
from .cards.card import evaluation_scores, inner_scores, make_card
from .cards.crops import crop_stability
from .cards.precision import require_precision
from .dataset import TrainingSet, assemble
from .head import Head, check_place, seal
from .inner_folds import held_out_kind, held_out_predictions, inner_groups
from .registry import DEFAULT, HEADS, make_estimator
from .trust.intervals import LEVEL, Intervals, calibrate
from .trust.levels import answered_unit, held_out_levels
from .trust.novelty import NoveltyModel
from .trust.scale import ScaleModel, fit_scale

if TYPE_CHECKING:
    from anndata import AnnData


@runtime_checkable
class Scored(Protocol):
    """What carries scores: an evaluation."""

    @property
    def summary(self) -> Mapping[str, Any]:
        """Protocol, rules and mean scores."""


_log = logging.getLogger(__name__)

NOT_CALIBRATED = "The head's predictions have no intervals: {}."


def train(
    cohort: Cohort | str | os.PathLike[str],
    features: FeatureSource,
    labels: Mapping[str, Abundance] | str | os.PathLike[str] | None = None,
    head: str | CompositionRegressor = DEFAULT,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    tissue: str | Sequence[str] | None = None,
    progress: Progress | bool = True,
    scores: Mapping[str, Any] | Scored | str | os.PathLike[str] | None = None,
    level: float | None = LEVEL,
    parameters: Mapping[str, Any] | None = None,
    damp_stain: bool = True,
    hierarchy: Mapping[str, str] | str | os.PathLike[str] | None = None,
) -> Head:
    """Train a head on all sections of a cohort.

    Hyper-parameters are chosen on inner splits of these sections: by donor (of three or more), else by section, else
    by strips of the one section. The same inputs, seed and thread count give the same head. With ``out``, the fits that
    are finished when a run is killed are kept beside it, and the same call goes on from them. A head that counts cells
    and does not tell their totals on held-out donors answers in relative abundance, with a warning and a note in its
    card (`heads.trust.levels.answered_unit`).

    Parameters
    ----------
    cohort
        Says which sections and donors; or its sheet.
    features
        Section -> features, or the folder that `histomix.embed` wrote. Of several encoders: what `embed` returned, or a
        list with the features or the folder of each.
    labels
        Section -> abundances, or their folder; None: the labels that the sheet names.
    head
        A name in `HEADS`, "default", or an unfitted estimator of `histomix.heads` (its own seed and unit count then).
    seed
        Of everything drawn at random.
    out
        Folder to save to; see `Head.save`.
    tissue
        Tissues that the head is for; those of the sheet when left out.
    progress
        Bars in a terminal or notebook; False for none, or a function that is told of its five steps, and of epochs.
    scores
        An evaluation, its ``summary`` or its folder, of which the scores of this head go into the card; or scores with
        their protocol. Without, the card carries the score of the inner splits.
    level
        Share of labels that the intervals of the head are to hold; None for a head without intervals, inner score and
        levels of slides. A head that makes no held-out predictions of its own is fitted once more on each inner split
        for them.
        Intervals are calibrated by donor; with one or two donors by section, which the card says; with one section
        there are none.
    parameters
        Of the head's constructor, where ``head`` is a name.
    damp_stain
        Look past what the stain alone does to features, where these tell it (see `histomix.heads.StainDamping`).
    hierarchy
        Groups of cell types that tiles may be answered with: name -> name of its group, or a file of them
        (`histomix.common.hierarchy.read_hierarchy`); None: those that the labels bring, else a tree of the labels'
        correlation. See the docs on answers.

    Returns
    -------
    Head

    Raises
    ------
    SheetError
        The sheet has faults; all are named.
    FeatureError, LabelError
        Features and labels cannot be read or joined; see `assemble`.
    InputError
        The hierarchy cannot be read, or is none of these cell types.
    InputError
        The folder of ``scores`` holds no evaluation.
    HeadError
        The head is unknown or cannot be fitted, or ``out`` holds other files. Or the features are in less than float32
        and that moves predictions by more than `heads.cards.precision.TOLERATED`.
    FolderBusyError
        Another process writes to ``out``.
    StorageError
        ``out`` cannot be written.

    Examples
    --------
    >>> head = hm.train("sheet.csv", "features", "labels", head="ridge", progress=False)
    >>> head.card["training"]["n_donors"]
    3
    """
    if out is not None:  # found wanting before the work, not after it
        check_place(out)
        require_writable(out)
    with progress_bars(progress) as report:
        cohort = Cohort.of(cohort)
        tables = labels_of(labels, cohort)
        blocks = feature_blocks(features)
        training = assemble(cohort, blocks, tables)
        estimator = (
            make_estimator(head, training.unit, seed, **(parameters or {})) if isinstance(head, str) else clone(head)
        )
        kind = next((name for name, cls in HEADS.items() if type(estimator) is cls), None)
        if kind is None:
            raise HeadError(
                f"a {type(estimator).__name__} cannot be saved as a head", hint=f"Use one of: {', '.join(HEADS)}"
            )
        if estimator.unit != training.unit:
            raise HeadError(f"the estimator predicts {estimator.unit}, but the labels are in {training.unit}")
        carried = _carried(scores)
        names = (
            [row.tissue for row in cohort.rows] if tissue is None else [tissue] if isinstance(tissue, str) else tissue
        )
        with single_thread():
            tree, source = tree_of(hierarchy, training, tables)
        # As in `histomix.evaluate`: fits take the threads that they need, the rest is small.
        with unfinished_work(out, "a head") as work, single_thread():
            report(f"train {kind}", 0, 5)
            groups = inner_groups(training.section, training.donor, training.xy_um)
            damping = training.stain_damping() if damp_stain else None
            seen = training.damped(damping).X
            with all_threads():
                estimator.fit(seen, training.Y, groups=groups, positions=training.positions)
            precision = require_precision(estimator, training, blocks, damping or np.asarray)
            report(f"train {kind}", 1, 5)
            scale_model = _scale_model(training, blocks[0])
            intervals, inner, levels, notes = None, None, None, [NOT_CALIBRATED.format("none were asked for")]
            held_out = answers = None
            if level is not None:
                with all_threads():
                    held_out, spread = held_out_predictions(estimator, seen, training.Y, groups, training.positions)
                apart = _held_apart(training)
                report(f"train {kind}", 2, 5)
                inner = inner_scores(training, held_out, apart)
                levels = held_out_levels(training, held_out, level, seed)
                answers = held_out_answers(training, held_out, tree, source, seed)
                unit, why = answered_unit(training.unit, levels)
                intervals, notes = _calibrated(replace(training, unit=unit), held_out, spread, level, apart)
                if why:
                    _log.warning("%s", why)
                    notes.append(why)
                    estimator.set_params(unit=unit)
            notes += filter(None, [training_limit(len(np.unique(training.donor)), len(np.unique(training.section)))])
            report(f"train {kind}", 3, 5)
            novelty_model = NoveltyModel().fit(training.X, groups, held_out, training.Y)
            report(f"train {kind}", 4, 5)
            with all_threads():
                stability = crop_stability(estimator, seen, training.Y, training.positions, seed)
            report(f"train {kind}", 5, 5)
            say_recalled(work, "fits")
            if carried is None:
                carried = inner
            elif "scores" in carried and "protocol_means" in carried:
                carried = evaluation_scores(carried, kind, training)
            card = make_card(
                replace(training, unit=estimator.unit),
                tables,
                kind,
                estimator,
                intervals,
                tissue=names,
                seed=seed,
                scores=carried,
                levels=levels,
                answers=answers,
                stability=stability,
                precision=precision,
                damping=None if damping is None else damping.facts(),
                scale_check=None if scale_model is None else scale_model.facts(),
                notes=notes,
            )
            card["training"]["spot_diameter_um"] = _spot_diameter_um(cohort)
            parts = estimator, novelty_model, intervals, damping, scale_model
            trained = Head(seal(card, *parts), *parts)
            if out is not None:
                trained.save(out)
    return trained


def _carried(scores: Mapping[str, Any] | Scored | str | os.PathLike[str] | None) -> Mapping[str, Any] | None:
    """Scores as they stand in the summary of an evaluation, or as they were given."""
    if isinstance(scores, str | os.PathLike):
        return read_sealed(Path(scores) / "summary.json", hint="Run histomix evaluate again")
    return scores.summary if isinstance(scores, Scored) else scores


def _scale_model(training: TrainingSet, block: Mapping[str, AnnData]) -> ScaleModel | None:
    """The scale check of the first encoder's features, where all sections have a sample at other scales."""
    names, first = np.unique(training.section, return_index=True)
    samples = []
    for name in names.tolist():
        found = scale_sample(block[name], feature_manifest(block[name]))
        if found is None or not len(found[0]):
            return None
        samples.append(found)
    factors = samples[0][1]
    if any(not np.array_equal(factors, one) for _, one in samples):
        return None  # kept by versions that looked at others
    levels = [training.X[training.section == name] for name in names]
    return fit_scale([sample for sample, _ in samples], factors, levels, training.donor[first].tolist())


def _held_apart(training: TrainingSet) -> str:
    """What `inner_groups` keeps together in these rows, in words."""
    kind = held_out_kind(training.section, training.donor)
    return "strips of the one section" if kind == "strip" else f"{kind}s"


def _calibrated(
    training: TrainingSet, held_out: np.ndarray, spread: np.ndarray | None, level: float, apart: str
) -> tuple[Intervals | None, list[str]]:
    """Intervals, or none and the sentence that says why."""
    if apart not in ("donors", "sections"):
        return None, [NOT_CALIBRATED.format("one section cannot tell how far other sections err")]
    groups = training.donor if apart == "donors" else training.section
    held = len(np.unique(groups[np.isfinite(held_out).all(axis=1)]))
    if held < 2:
        return None, [NOT_CALIBRATED.format(f"only {held} of the {apart} could be held out")]
    n_donors = len(np.unique(training.donor[np.isfinite(held_out).all(axis=1)]))
    kind = apart.removesuffix("s")
    return calibrate(training.Y, held_out, spread, groups, level, training.unit, kind, n_donors), []


def _spot_diameter_um(cohort: Cohort) -> float | None:
    """Median diameter of the spots that labels are of; None where neither sheet nor spots files tell it."""
    diameters = []
    for row in cohort.rows:
        diameter = row.spot_diameter_um
        if diameter is None:
            try:
                diameter = cohort.section(row.section, counts=False).spot_diameter_um
            except SectionError:  # features and labels are enough to train on: the spots may have been put away
                continue
        if diameter is not None:
            diameters.append(float(diameter))
    return float(np.median(diameters)) if diameters else None
