"""Charts of an evaluation, and of the training of a head."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from ..common.palette import FRACTION_MAP, SIGNED_MAP
from ..errors import InputError, UnknownNameError
from ..evaluation import Evaluation
from ._frame import finish, new_axes, new_grid
from .charts import draw_calibration, draw_forest, draw_protocols, draw_scores, draw_training
from .matrices import draw_matrix
from .scores import against, shown_head, type_intervals, type_scores
from .tables import colocalisation_tables, confusion_table, detectability_table

if TYPE_CHECKING:
    from ..heads import Head

#: An evaluation, or its folder.
_Scores = Evaluation | str | os.PathLike[str]
_Save = str | os.PathLike[str] | None


def scores(
    evaluation: _Scores,
    color: str | Sequence[str] | None = None,
    *,
    target: str = "label",
    intervals: bool = True,
    ax: Axes | None = None,
    show: bool | None = None,
    save: _Save = None,
) -> Axes:
    """Mean Pearson of each cell type, one colour a head, with the bound that the labels set.

    Parameters
    ----------
    evaluation
        From `histomix.evaluate`, or its folder.
    color
        Which heads; all but the training mean when left out.
    target
        ``"label"`` or ``"truth"``.
    intervals
        Draw the interval of the head that the report shows (its bootstrap over donors), where it is drawn.
    ax
        Where to draw; a new figure when left out.
    show, save
        Show the figure; write it to a file (.png, .svg, .pdf).

    Raises
    ------
    InputError
        There is no such head, or there are no scores against ``target``.
    """
    evaluation = Evaluation.of(evaluation)
    known = evaluation.summary["scores"]
    _require("target", target, known)
    table, bound = type_scores(evaluation, target)
    heads = list(table.columns) if color is None else [color] if isinstance(color, str) else list(color)
    for head in heads:
        _require("head", head, table.columns)
    axes = new_axes(ax, 6.6, 0.32 * len(table) + 1.2)
    spread = type_intervals(evaluation, target) if intervals and heads[0] == shown_head(evaluation) else None
    draw_scores(
        axes, table[heads], intervals=spread, bound=bound, metric=f"mean Pearson, against the {against(target)}"
    )
    return finish(axes, save, show)


def detectability(evaluation: _Scores, *, ax: Axes | None = None, show: bool | None = None, save: _Save = None) -> Axes:
    """Pearson of each cell type with its interval; filled where it is told from chance.

    Raises
    ------
    InputError
        The evaluation did not test it.
    """
    evaluation = Evaluation.of(evaluation)
    table = detectability_table(evaluation)
    if table is None:
        raise InputError(
            "the evaluation did not test which cell types are detectable", hint="Run it again with this version"
        )
    table = table.sort_values("pearson", ascending=False)
    rows = table.rename(columns={"pearson": "value", "detectable": "sure"})[["value", "low", "high", "sure"]]
    if table["ceiling"].notna().any():
        rows["bound"] = table["ceiling"]
    axes = new_axes(ax, 6.6, 1.0 + 0.32 * len(rows))
    draw_forest(axes, rows, xlabel="Pearson, with its interval", zero="chance")
    return finish(axes, save, show)


def calibration(
    evaluation: _Scores,
    color: str | Sequence[str] | None = None,
    *,
    ax: Axes | None = None,
    show: bool | None = None,
    save: _Save = None,
) -> Axes:
    """Share of held-out values inside their intervals against the level of the intervals.

    Parameters
    ----------
    evaluation, ax, show, save
        As for `scores`.
    color
        Which heads; all that were calibrated when left out.

    Raises
    ------
    InputError
        No head was calibrated, or not the one asked for.
    """
    evaluation = Evaluation.of(evaluation)
    curves = {
        head: one for head, one in (evaluation.summary.get("calibration") or {}).items() if one and one.get("levels")
    }
    if not curves:
        raise InputError("the evaluation has no intervals to judge", hint="Evaluate heads that give intervals")
    heads = list(curves) if color is None else [color] if isinstance(color, str) else list(color)
    for head in heads:
        _require("calibrated head", head, curves)
    axes = new_axes(ax, 4.4, 4.2)
    draw_calibration(axes, {head: curves[head] for head in heads})
    return finish(axes, save, show)


def confusion(
    evaluation: _Scores,
    head: str | None = None,
    *,
    target: str = "label",
    groups: Mapping[str, str] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: _Save = None,
) -> Axes:
    """How often the most abundant type of a spot (rows) is predicted as each type (columns); rows sum to 1.

    Parameters
    ----------
    evaluation, target, ax, show, save
        As for `scores`.
    head
        Which head; the one that the report shows when left out.
    groups
        Cell type -> group, to judge groups of types.
    """
    evaluation = Evaluation.of(evaluation)
    head = head or shown_head(evaluation)
    counts = confusion_table(evaluation, head, target, groups)
    fractions = counts.div(counts.sum(axis=1).replace(0, np.nan), axis=0)
    side = 1.9 + 0.42 * len(counts)
    axes = new_axes(ax, side + 0.8, side)
    draw_matrix(
        axes, fractions, norm=Normalize(0, 1), cmap=FRACTION_MAP, xlabel=f"predicted ({head})", ylabel=target, bar=False
    )
    return finish(axes, save, show)


def colocalisation(
    evaluation: _Scores,
    head: str | None = None,
    *,
    section: str | None = None,
    cmap: str = SIGNED_MAP,
    ax: Sequence[Axes] | None = None,
    show: bool | None = None,
    save: _Save = None,
) -> list[Axes]:
    """Co-localisation of cell types: labels and prediction beside each other on the scale of what is off the diagonal.

    Parameters
    ----------
    evaluation, show, save
        As for `scores`.
    head, section
        Which head (that of the report when left out), and which section (the mean of all when left out).
    cmap
        A diverging colour map.
    ax
        Two axes; a new figure when left out.

    Raises
    ------
    InputError
        The evaluation has no co-localisation of this head and section.
    """
    evaluation = Evaluation.of(evaluation)
    head = head or shown_head(evaluation)
    tables = colocalisation_tables(evaluation, head, section)
    if tables is None:
        where = "" if section is None else f" in section {section!r}"
        raise UnknownNameError(
            f"there is no co-localisation of head {head!r}{where}", hint="Evaluate with spatial statistics"
        )
    label, predicted, _ = tables
    off = ~np.eye(len(label), dtype=bool)
    most = float(np.nanmax(np.abs([label.to_numpy()[off], predicted.to_numpy()[off]]))) or 1.0
    side = 2.2 + 0.36 * len(label)
    panels = new_grid(ax, 2, 2, side + 0.5, side)
    for axes, table, words in zip(panels, (label, predicted), ("labels", f"prediction ({head})"), strict=True):
        draw_matrix(axes, table, norm=Normalize(-most, most), cmap=cmap, bar=axes is panels[-1])
        axes.set_title(words, fontsize=10)
    return finish(panels, save, show)


def inflation(evaluation: _Scores, *, ax: Axes | None = None, show: bool | None = None, save: _Save = None) -> Axes:
    """Mean Pearson of each head under each kind of folds that was asked for.

    Raises
    ------
    InputError
        The evaluation has one kind of folds.
    """
    evaluation = Evaluation.of(evaluation)
    rows = [one for one in evaluation.summary.get("inflation") or [] if one.get("metric", "pearson") == "pearson"]
    if not rows:
        raise InputError("the evaluation has one kind of folds", hint="Evaluate with several kinds of folds")
    axes = new_axes(ax, 5.2, 3.6)
    draw_protocols(axes, rows, list(dict.fromkeys(str(one["protocol"]) for one in rows)))
    axes.set_ylabel("mean Pearson")
    return finish(axes, save, show)


def training(
    head: Head | Sequence[float], *, ax: Axes | None = None, show: bool | None = None, save: _Save = None
) -> Axes:
    """Loss on inner held-out rows by epoch, and the epoch that was kept; of a head of heads, one line for each of them.

    Parameters
    ----------
    head
        A head that was just trained (a saved one keeps the epoch, not the curve), or the losses themselves.
    ax, show, save
        As for `scores`.

    Raises
    ------
    InputError
        The head was not trained epoch by epoch, or was loaded from a folder that keeps no curve.
    """
    estimator: Any = getattr(head, "estimator", None)
    curves: dict[str, tuple[Any, int | None]] = {"": (head, None)} if estimator is None else _curves(estimator)
    if not curves:
        what = "the head has no training curve: it has no epochs, or was loaded from its folder"
        raise InputError(what, hint="Draw it from the head that histomix.train returned")
    axes = new_axes(ax, 5.2, 3.2)
    draw_training(axes, curves)
    return finish(axes, save, show)


def _curves(estimator: Any) -> dict[str, tuple[Any, int | None]]:
    """Losses by epoch, and the epoch that was kept, of what was trained epoch by epoch: the head, or heads in it."""
    parts = getattr(estimator, "members_", None)
    members = parts if isinstance(parts, dict) else {"": estimator}
    return {
        name: (np.asarray(one.inner_loss_, dtype=float), one.n_epochs_)
        for name, one in members.items()
        if hasattr(one, "n_epochs_") and getattr(one, "inner_loss_", None) is not None
    }


def _require(what: str, name: str, known: object) -> None:
    names = list(known)  # type: ignore[call-overload]
    if name not in names:
        raise UnknownNameError(f"there is no {what} {name!r}", hint=f"Choose from {', '.join(map(str, names))}")
