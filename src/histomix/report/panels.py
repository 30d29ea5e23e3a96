"""The parts of a report that further analyses of an evaluation bring: each there if the summary has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ..common.naming import shortened
from ..common.palette import FRACTION_MAP
from ..evaluation import Evaluation
from ..pages.page import Drawer
from ..pl.charts import ALPHA, draw_calibration, draw_forest
from ..pl.matrices import draw_matrix
from ..pl.scores import against, number
from ..pl.tables import confusion_table, detectability_table, percent
from .panel_parts import (
    Panel,
    as_number,
    interval_words,
    p_value,
    panel,
    plain_table,
    short,
    shown_figure,
    signed,
    spaced,
)
from .panels_spatial import colocalisation_panel, inflation_panel, structure_panel

_SEVERITIES = ("error", "warning", "note")
#: More cell types than this are judged by their groups.
_MOST_CONFUSED = 14


def evaluation_panels(evaluation: Evaluation, shown: str, target: str, draw: Drawer) -> list[Panel]:
    """Panels in the order of the page; ``shown`` is the head whose maps are drawn."""
    makers: tuple[Callable[[Evaluation, str, str, Drawer], Panel | None], ...] = (
        _audit,
        _tests,
        _detectability,
        _calibration,
        _confusion,
        colocalisation_panel,
        structure_panel,
        inflation_panel,
    )
    panels = [make(evaluation, shown, target, draw) for make in makers]
    return [panel(**one) for one in panels if one is not None]


def _audit(evaluation: Evaluation, shown: str, target: str, draw: Drawer) -> Panel | None:
    findings, probe = evaluation.summary.get("audit"), evaluation.summary.get("probe")
    if findings is None and not probe:
        return None
    ranked = sorted(
        findings or [], key=lambda one: _SEVERITIES.index(one["severity"]) if one["severity"] in _SEVERITIES else 1
    )
    shown_findings = [
        {
            "severity": one["severity"],
            "rule": str(one.get("rule", "")).replace("_", " "),
            "message": str(one["message"]),
            "numbers": ", ".join(
                f"{spaced(name)} {short(value)}" for name, value in (one.get("numbers") or {}).items()
            ),
        }
        for one in ranked
    ]
    if probe:
        numbers = f"accuracy {number(probe.get('accuracy'))}, chance {number(probe.get('chance'))}"
        shown_findings.append(
            {
                "severity": "warning" if probe.get("strong") else "note",
                "rule": "probe of the features",
                "message": str(probe.get("statement", "")),
                "numbers": numbers,
            }
        )
    lead = (
        "Rules that were checked before the scores were believed."
        if shown_findings
        else "Every rule was kept; there is nothing to report."
    )
    return {"title": "Audit", "lead": lead, "findings": shown_findings, "key": "audit"}


def _tests(evaluation: Evaluation, shown: str, target: str, draw: Drawer) -> Panel | None:
    tests = evaluation.summary.get("tests")
    if not tests:
        return None
    of_target = [one for one in tests if one.get("metric") == "pearson" and one.get("target") == target]
    # The constant is beaten by all, and its distance would flatten the differences that matter.
    drawn = [one for one in of_target if "mean" not in (one["a"], one["b"])] or of_target or list(tests)
    rows = pd.DataFrame(
        {
            "value": [as_number(one["difference"]) for one in drawn],
            "low": [as_number(one.get("low")) for one in drawn],
            "high": [as_number(one.get("high")) for one in drawn],
            "sure": [as_number(one.get("p_adjusted")) < ALPHA for one in drawn],
        },
        index=[f"{one['a']} − {one['b']}" for one in drawn],
    )
    figure = Figure(figsize=(6.6, 1.3 + 0.34 * len(rows)), layout="constrained")
    draw_forest(figure.subplots(), rows, xlabel="difference in mean Pearson, paired by donor", zero="no difference")
    table = plain_table(
        ["comparison", "metric", "against", "difference", "p", "p adjusted", "donors"],
        [
            [
                f"{one['a']} − {one['b']}",
                spaced(str(one["metric"])),
                against(str(one.get("target", "label"))),
                (signed(one["difference"]), interval_words(one.get("low"), one.get("high"), sign=True)),
                p_value(one.get("p")),
                p_value(one.get("p_adjusted")),
                str(one.get("n_donors", "")),
            ]
            for one in tests
        ],
        "The unit of each test is the donor. Filled dots: adjusted p below 0.05.",
        fold=len(tests) > 6,
    )
    told = [one for one in drawn if shown in (one["a"], one["b"])] or drawn
    words = " ".join(str(one["statement"]).rstrip(".") + "." for one in told[:2] if one.get("statement"))
    figures = [
        shown_figure(draw.chart(figure, "paired-tests"), "Paired differences between heads with their intervals")
    ]
    return {
        "title": "Is one head better than another?",
        "lead": words,
        "figures": figures,
        "tables": [table],
        "key": "tests",
    }


def _detectability(evaluation: Evaluation, shown: str, target: str, draw: Drawer) -> Panel | None:
    table = detectability_table(evaluation)
    if table is None:
        return None
    order = table.sort_values("pearson", ascending=False)
    rows = order.rename(columns={"pearson": "value", "detectable": "sure"})[["value", "low", "high", "sure"]]
    if order["ceiling"].notna().any():
        rows["bound"] = order["ceiling"]
    figure = Figure(figsize=(6.6, 1.3 + 0.32 * len(rows)), layout="constrained")
    draw_forest(figure.subplots(), rows, xlabel="Pearson, with its interval; bar: bound of the labels", zero="chance")
    told = int(order["detectable"].fillna(False).sum())
    cells = [
        [
            str(name),
            shortened(str(row["group"] or "–")),
            (number(row["pearson"]), interval_words(row["low"], row["high"])),
            number(row["ceiling"]),
            percent(row["share_of_ceiling"]),
            p_value(row["p_adjusted"]),
            "yes" if row["detectable"] else "no",
        ]
        for name, row in order.iterrows()
    ]
    columns = ["cell type", "group", "Pearson", "bound", "of the bound", "p adjusted", "detectable"]
    caption = "Filled: detectable, adjusted p below 0.05. A type that is not should not be read from a map."
    unseen = "donors" if evaluation.summary["protocol"] == "donor" else "spots"
    return {
        "title": "Which cell types can be read from H&E?",
        "lead": f"{told} of {len(order)} cell types are told from chance on unseen {unseen}.",
        "figures": [
            shown_figure(draw.chart(figure, "detectability"), "Pearson of each cell type with interval and bound")
        ],
        "tables": [plain_table(columns, cells, caption)],
        "key": "detectability",
    }


def _calibration(evaluation: Evaluation, shown: str, target: str, draw: Drawer) -> Panel | None:
    curves = {
        str(head): one
        for head, one in (evaluation.summary.get("calibration") or {}).items()
        if one and one.get("levels")
    }
    if not curves:
        return None
    figure = Figure(figsize=(4.6, 4.3), layout="constrained")
    draw_calibration(figure.subplots(), curves)
    rows = []
    for head, one in curves.items():
        gaps = [abs(as_number(c) - as_number(level)) for level, c in zip(one["levels"], one["coverage"], strict=True)]
        place = int(np.argmin([abs(as_number(level) - 0.9) for level in one["levels"]]))
        rows.append(
            [
                head,
                f"{percent(one['coverage'][place])} at {percent(one['levels'][place])}",
                percent(max(gaps)),
                number(_width(one, place)),
            ]
        )
    words = curves[shown if shown in curves else next(iter(curves))].get("statement", "")
    table = plain_table(["head", "inside", "largest gap", "mean width"], rows, "Width: in the unit of the labels.")
    return {
        "title": "Do the intervals hold what they say?",
        "lead": str(words or ""),
        "figures": [shown_figure(draw.chart(figure, "calibration"), "Coverage of intervals against their level")],
        "tables": [table],
        "key": "calibration",
    }


def _width(one: Mapping[str, Any], place: int) -> float:
    width = one.get("width")
    return as_number(width[place] if isinstance(width, Sequence) and len(width) > place else width)


def _confusion(evaluation: Evaluation, shown: str, target: str, draw: Drawer) -> Panel | None:
    groups = _groups(evaluation)
    counts = confusion_table(evaluation, shown, target, groups)
    if counts.to_numpy().sum() == 0 or len(counts) < 2:
        return None
    total = counts.to_numpy().sum()
    right, largest = np.trace(counts.to_numpy()) / total, counts.sum(axis=1).max() / total
    fractions = counts.div(counts.sum(axis=1).replace(0, np.nan), axis=0)
    side = 1.9 + 0.42 * len(counts)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    draw_matrix(
        figure.subplots(), fractions, norm=Normalize(0, 1), cmap=FRACTION_MAP, xlabel=f"predicted ({shown})",
        ylabel=f"{'true composition' if target == 'truth' else 'label'}", bar=False,
    )  # fmt: skip
    what = "group of cell types" if groups else "cell type"
    return {
        "title": "What is taken for what?",
        "lead": f"The most abundant {what} of each held-out spot is right in {percent(right)}; naming the commonest "
        f"one everywhere would be right in {percent(largest)}. Rows sum to 1.",
        "figures": [shown_figure(draw.chart(figure, "confusion"), f"Confusion of the most abundant {what}")],
        "key": "confusion",
    }


def _groups(evaluation: Evaluation) -> dict[str, str] | None:
    """Cell type -> group, where the user named the groups or the types are too many for a matrix that can be read."""
    groups = evaluation.summary.get("groups") or {}
    many = len(evaluation.summary["cell_types"]) > _MOST_CONFUSED
    if groups.get("source") != "user" and not many:
        return None
    owner = {str(name): str(group) for group, types in (groups.get("groups") or {}).items() for name in types}
    return owner or None
