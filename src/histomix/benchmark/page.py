"""A benchmark as one static page: what can be said, the ranking, the tests, the costs and the protocol."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from .._version import __version__
from ..common.words import counted
from ..pages.page import content_policy, page_environment
from ..pages.statement import statement_html
from ..pl.scores import against, number
from ..provenance import atomic_path
from .forest import Axis
from .result import Benchmark
from .slide_means import HEADINGS, slide_table

PAGE = "page"
#: What each protocol is worth, in a class of the style and in words.
BADGES = {
    "transfer": ("honest", "honest: another cohort"),
    "site": ("honest", "honest: held-out sites"),
    "donor": ("honest", "honest: held-out donors"),
    "section": ("optimistic", "optimistic: other sections of the same donor are in training"),
    "random": ("leaky", "leaky: neighbouring spots are in training; a diagnostic only"),
}
_ENCODER_COLUMNS = ("encoder", "features", "parameters", "tile", "licence", "revision", "weights")
_COST_COLUMNS = ("encoder", "head", "features", "encoder parameters", "encoder tiles/s", "all fits, s", "predict, s")


def write_benchmark_page(benchmark: Benchmark, out: str | os.PathLike[str], *, title: str = "Benchmark") -> Path:
    """Write ``out/page/index.html``, one file.

    Returns
    -------
    Path
        The page. It opens from disk, runs no script and loads nothing remote; it is light or dark as the reader's
        system is, and prints.

    Raises
    ------
    StorageError
        The page cannot be written.
    """
    summary, ranking = benchmark.summary, benchmark.ranking
    several = len(summary["cohorts"]) > 1
    groups = [
        _group(str(cohort), str(protocol), str(target), rows, benchmark.tests, several)
        for (cohort, protocol, target), rows in ranking.groupby(["cohort", "protocol", "target"], sort=False)
    ]
    page = (
        page_environment("benchmark")
        .get_template("benchmark.html.j2")
        .render(
            policy=content_policy("benchmark", "_benchmark_style.html.j2"),
            title=title,
            lead=f"{counted(len(summary['encoders']), 'encoder')} and {counted(len(summary['heads']), 'head')} on "
            f"{counted(len(summary['cohorts']), 'cohort')}: every number of a table is over the same spots and folds.",
            version=__version__,
            groups=groups,
            protocols=_protocols(ranking),
            failures=summary["failures"],
            left_out={name: one["left_out"] for name, one in summary["spots"].items() if one["left_out"]},
            encoder_columns=_ENCODER_COLUMNS,
            encoders=[_encoder(one) for one in summary["encoder_facts"]],
            cost_columns=_COST_COLUMNS,
            slide_columns=HEADINGS,
            robustness=_robustness_words(summary.get("robustness", {})),
            statement=statement_html(benchmark.statement),
        )
    )
    with atomic_path(Path(out) / PAGE) as folder:
        folder.mkdir()
        (folder / "index.html").write_text(page, encoding="utf-8", errors="replace", newline="\n")
    return Path(out) / PAGE / "index.html"


def _group(
    cohort: str, protocol: str, target: str, rows: pd.DataFrame, tests: Sequence[Mapping[str, Any]], several: bool
) -> dict[str, Any]:
    badge, words = BADGES.get(protocol, ("optimistic", protocol))
    records = rows.to_dict("records")
    first = records[0]
    axis = Axis([row[name] for row in records for name in ("pearson", "low", "high")])
    mine = [t for t in tests if (t["cohort"], t["protocol"], t["target"]) == (cohort, protocol, target)]
    # That a head is better than no head is no finding; all pairs are in tests.csv.
    mine = [t for t in mine if "mean" not in (t["a"], t["b"])]
    families = []
    for kind, caption in (("encoders", "Encoders, with the same head"), ("heads", "Heads, on the same encoder")):
        comparisons = [_test(one) for one in mine if one["compared"] == kind]
        families += [{"name": caption, "rows": comparisons}] if comparisons else []
    return {
        "name": f"{cohort + ': ' if several else ''}{protocol} folds, against the {against(target)}",
        "protocol": words,
        "protocol_class": badge,
        "text": f"{counted(first['n_sections'], 'section')} of {counted(first['n_donors'], 'donor')}, "
        f"{counted(first['n_types'], 'cell type')}.",
        "findings": _findings(records, badge),
        "axis": axis.header(),
        "rows": [_row(row, axis) for row in records],
        "slides": slide_table(records),
        "families": families,
        "too_few": families and all(one["p"] is None or one["smallest_p"] > 0.05 for one in mine),
        "n_donors": first["n_donors"],
        "costs": [_cost(row) for row in records if row["encoder"]],
    }


def _findings(records: Sequence[Mapping[Any, Any]], badge: str) -> list[str]:
    """What the ranking shows, in sentences that say no more than it does."""
    first = records[0]
    lines = [f"Highest mean Pearson: {_name(first)}, {_with_interval(first['pearson'], first['low'], first['high'])}."]
    level = [_name(row) for row in records[1:] if row["level_with_best"]]
    if level:
        shown = ", ".join(level[:4]) + (f" and {len(level) - 4} more" if len(level) > 4 else "")
        lines.append(f"Not told apart from it (the interval of the paired difference holds 0): {shown}.")
    elif len(records) > 1 and first["n_donors"] > 1:
        lines.append("The interval of the paired difference to every other row leaves out 0.")
    ridge = next((row for row in records if row["head"] == "ridge"), None)
    if ridge is not None and first["head"] != "ridge":
        gap = first["pearson"] - ridge["pearson"]
        lines.append(f"Best ridge: {_name(ridge)}, {ridge['pearson']:.3f}; the first row is {gap:+.3f} from it.")
    if badge != "honest":
        lines.append("These folds are not honest: the numbers say nothing of a new donor.")
    return [line.replace("-0.", "−0.") for line in lines]


def _row(row: Mapping[Any, Any], axis: Axis) -> dict[str, Any]:
    strong, scored = row["rank"] == 1, _with_interval(row["pearson"], row["low"], row["high"])
    level = not strong and bool(row["level_with_best"])
    gap = "" if strong else f"{row['minus_best']:+.3f}".replace("-", "−")
    return {
        "rank": row["rank"],
        "encoder": row["encoder"] or "no features",
        "head": row["head"],
        "strong": strong,
        "level": level,
        "forest": axis.row(row["pearson"], row["low"], row["high"], strong=strong, words=f"{_name(row)}: {scored}"),
        "pearson": number(row["pearson"]),
        "interval": "constant" if row["head"] == "mean" else _interval(row["low"], row["high"]),
        "gap": gap,
        "gap_interval": "" if strong else _interval(row["minus_best_low"], row["minus_best_high"], "+"),
        "others": [number(row.get(name)) for name in ("pearson_within", "pearson_pooled", "rmse", "js_composition")],
        "n_types": row["n_types"],
        "robust": [number(row.get(name)) if row["encoder"] else "" for name in ("ri", "croma")],
    }


def _test(one: Mapping[str, Any]) -> dict[str, Any]:
    adjusted = one["p_adjusted"]
    verdict = "one donor cannot tell"
    if one["p"] is not None:
        verdict = "too few donors to tell"
        if one["smallest_p"] <= 0.05:
            verdict = "a difference" if adjusted < 0.05 else "no difference shown"
    return {
        "fixed": one["fixed"],
        "pair": f"{one['a']} − {one['b']}",
        "difference": "–" if one["difference"] is None else f"{one['difference']:+.3f}".replace("-", "−"),
        "interval": _interval(one["low"], one["high"], "+"),
        "p": _p(one["p"]),
        "p_adjusted": _p(adjusted),
        "verdict": verdict,
        "shown": verdict == "a difference",
    }


def _cost(row: Mapping[Any, Any]) -> list[str]:
    return [
        str(row["encoder"]),
        str(row["head"]),
        _whole(row.get("dim")),
        _millions(row.get("parameters")),
        _plain(row.get("tiles_per_second")),
        _plain(row.get("fit_seconds")),
        _plain(row.get("predict_seconds")),
    ]


def _encoder(one: Mapping[str, Any]) -> list[str]:
    return [
        str(one["name"]),
        str(one["dim"]),
        _millions(one.get("parameters")),
        f"{one['size_px']} px at {one['mpp']:g} µm/px",
        str(one.get("licence") or "–"),
        str(one.get("revision") or "–")[:12],
        str(one.get("digest") or "–").removeprefix("sha256:")[:12],
    ]


def _robustness_words(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """What the columns RI and CRoMa are of."""
    first = next((facts for encoders in found.values() for facts in encoders.values()), None)
    if first is None:
        return ""
    return (
        "RI and CRoMa say whether spots are near others of their commonest cell type rather than of their "
        f"{first['confounder']} (neighbours from {first['neighbours']}): above .5 and above 0 the type weighs more. "
        "They are of the encoder's features alone, whatever the head."
    )


def _protocols(ranking: pd.DataFrame) -> dict[str, Any] | None:
    """Mean Pearson of every encoder and head by protocol, side by side, where there are several."""
    names = list(dict.fromkeys(ranking["protocol"]))
    if len(names) < 2:
        return None
    rows = []
    for (cohort, target, encoder, head), part in ranking.groupby(["cohort", "target", "encoder", "head"], sort=False):
        scores = part.set_index("protocol")["pearson"].reindex(names)
        label = " · ".join(str(one) for one in (cohort, encoder or "no features", head, against(str(target))))
        rows.append([label, *(number(value) for value in scores)])
    return {"columns": ["cohort · encoder · head · against", *names], "rows": rows}


def _name(row: Mapping[Any, Any]) -> str:
    return " · ".join(filter(None, (row["encoder"], row["head"])))


def _with_interval(value: float, low: float | None, high: float | None) -> str:
    interval = _interval(low, high)
    return number(value) + (f" ({interval})" if interval else ", without an interval")


def _interval(low: float | None, high: float | None, sign: str = "") -> str:
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{low:{sign}.3f} to {high:{sign}.3f}".replace("-", "−")


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _plain(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:,.1f}"


def _whole(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:,.0f}"


def _millions(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:,.1f} M"
