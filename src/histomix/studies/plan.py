"""`histomix.plan`: what one more donor would bring of each cell type, and which slide to sequence next."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from .._version import __version__
from ..abundance import Abundance
from ..common.naming import spreadsheet_table
from ..common.paths import as_list
from ..common.storage.unfinished import unfinished_work
from ..embedding import FeatureSource
from ..embedding.slide_features import slide_features_together
from ..encoders import load_encoder
from ..errors import FeatureError, HistomixError
from ..evaluation.data import CohortData, evaluation_data
from ..heads import TrainingSet, make_estimator
from ..pages.page import content_policy, page_environment
from ..pl.scores import number
from ..prediction.inputs.sources import slide_jobs
from ..progress import Progress, progress_bars
from ..provenance import atomic_path, require_writable, write_json
from ..slides import open_slide
from ..slides.tiles import TileSpec, tiles_on_grid
from .donor_curve import MEAN, RULE, DonorCurve, donor_curve, n_fits, require_donors
from .next_slide import GAIN_OF_SCORE, slide_scores
from .next_slide import RULE as SLIDE_RULE

if TYPE_CHECKING:
    from ..spots import Cohort

_STYLE = "_benchmark_style.html.j2"
#: Tiles of a slide that are embedded, at most: enough to know what is on it.
_TILES = 200


@dataclass(frozen=True)
class Plan:
    """What to sequence next.

    Attributes
    ----------
    curve
        What one more donor brings, see `histomix.studies.donor_curve.DonorCurve`.
    slides
        slide, tiles, coverage, disagreement, variety, score, expected_gain (mean over cell types), the best first;
        empty where no slides were given.
    failures
        Slides that could not be read.
    page
        ``index.html``; None where nothing was written.
    """

    curve: DonorCurve
    slides: pd.DataFrame
    failures: list[HistomixError]
    page: Path | None = None

    def text(self) -> str:
        """For a terminal."""
        gains = self.curve.gains
        shown = gains.assign(interval=[_interval(row) for row in gains.to_dict("records")])
        table = shown[["cell_type", "score", "gain", "interval", "gain_of_doubling"]]
        lines = [
            f"{gains['n_donors'].iloc[0]} donors; what one more would add to the Pearson correlation of an unseen one:",
            table.to_string(index=False, float_format=lambda value: f"{value:+.3f}", na_rep="-"),
        ]
        if len(self.slides):
            lines += [
                "",
                "slides, the one to sequence next first:",
                self.slides.to_string(index=False, float_format=lambda value: f"{value:.3f}", na_rep="-"),
            ]
        return "\n".join(lines)


def plan(
    cohort: Cohort | str | os.PathLike[str],
    features: FeatureSource,
    out: str | os.PathLike[str] | None = None,
    *,
    labels: Mapping[str, Abundance] | str | os.PathLike[str] | None = None,
    slides: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    mpp: float | None = None,
    head: str = "ridge",
    weights: Sequence[str | os.PathLike[str]] | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | bool = True,
) -> Plan:
    """Tell what one more donor would bring, and which of the slides at hand to sequence next.

    Parameters
    ----------
    cohort, features, labels
        As for `histomix.train`; of four donors or more.
    out
        Folder for ``donors.csv``, ``curve.csv``, ``slides.csv``, ``plan.json`` and ``page/index.html``.
    slides
        Slides without spatial transcriptomics, folders of them, or sheets with a column ``slide``.
    mpp
        Um per px of the slides that do not say it.
    head
        The head that the curve is of; ridge, which is quick, is never far from the best.
    weights
        Local weights of the encoders of the features, one for each, for the slides.
    seed
        Of all that is drawn.
    threads
        CPU threads of the encoders.
    progress
        Bars in a terminal or notebook; False for none, or a function that is told of fits and slides.

    Returns
    -------
    Plan

    Raises
    ------
    InputError
        There are fewer than four donors: the message says why nothing is told then.
    SheetError, FeatureError, LabelError
        What was given cannot be read or joined.
    EncoderError
        An encoder of the features cannot be loaded, for the slides.

    Examples
    --------
    It needs four donors.

    >>> found = hm.plan("sheet.csv", "features", labels="labels")  # doctest: +SKIP
    >>> found.curve.gains["cell_type"].iloc[-1]  # doctest: +SKIP
    'mean over cell types'
    """
    if out is not None:
        require_writable(Path(out) / "plan.json")
    training = evaluation_data(CohortData.of(cohort, features, labels)).training
    donors = require_donors(training.donor)
    estimator = make_estimator(head, training.unit, seed)
    with unfinished_work(out, "a plan"), progress_bars(progress) as report:
        total, done = n_fits(len(donors)), 0
        report("plan: donors", 0, total)

        def step() -> None:
            nonlocal done
            done += 1
            report("plan: donors", done, total)

        curve = donor_curve(training, estimator, seed, step)
        table, failures = pd.DataFrame(), list[HistomixError]()
        if slides is not None:
            seen, failures = _slide_features(training, as_list(slides), mpp, weights, threads, report)
            table = slide_scores(training, seen, estimator, seed)
            gain = curve.gains.loc[curve.gains["cell_type"] == MEAN, "gain"].iloc[0]
            # Scores have the mean 0, so the mean of the slides is the gain of a donor drawn at random.
            share = (1 + GAIN_OF_SCORE * table["score"]).clip(lower=0.0)
            table["expected_gain"] = (0.0 if gain is None else float(gain)) * share
    found = Plan(curve, table, failures)
    return found if out is None else dataclasses.replace(found, page=_write(found, Path(out), head, seed))


def _slide_features(
    training: TrainingSet,
    slides: Sequence[str | os.PathLike[str]],
    mpp: float | None,
    weights: Sequence[str | os.PathLike[str]] | None,
    threads: int | None,
    progress: Progress,
) -> tuple[dict[str, np.ndarray], list[HistomixError]]:
    """Features of up to `_TILES` tiles of each slide, from the encoders of the training features."""
    facts = training.features["encoders"]
    files: Sequence[Any] = weights or [None] * len(facts)
    if len(files) != len(facts):
        raise FeatureError(f"{len(files)} weights were given for {len(facts)} encoders", hint="Give one for each")
    encoders = [load_encoder(one["name"], file, threads, one["views"]) for one, file in zip(facts, files, strict=True)]
    for one, encoder in zip(facts, encoders, strict=True):
        if encoder.digest != one["digest"]:
            raise FeatureError(
                f"the features are of other weights of {one['name']} than those here",
                hint="Embed the sections again, or name the weights with --weights",
            )
    found: dict[str, np.ndarray] = {}
    failures: list[HistomixError] = []
    jobs = slide_jobs(slides, "plan", mpp)
    for place, job in enumerate(jobs):
        progress("plan: slides", place, len(jobs))
        try:
            with open_slide(job.slide, job.mpp) as slide:
                spec = encoders[0].tile_spec()
                side_um = max(float(np.sqrt(slide.width_px * slide.height_px / _TILES) * slide.mpp), spec.size_um)
                tiles = tiles_on_grid(slide, TileSpec(spec.size_px, spec.mpp, side_um))
                tables = slide_features_together(slide, tiles, encoders)
            found[job.folder.name] = np.concatenate([np.asarray(one.X, dtype=np.float32) for one in tables], axis=1)
        except HistomixError as error:
            failures.append(error)
    progress("plan: slides", len(jobs), len(jobs))
    if not found and failures:
        raise failures[0]
    return found, failures


def _write(found: Plan, out: Path, head: str, seed: int) -> Path:
    tables = {"donors.csv": found.curve.gains, "curve.csv": found.curve.points, "slides.csv": found.slides}
    for name, table in tables.items():
        if len(table):
            with atomic_path(out / name) as temporary:
                spreadsheet_table(table).to_csv(temporary, index=False, lineterminator="\n")
    rules = {"donors": RULE, **({"slides": SLIDE_RULE} if len(found.slides) else {})}
    facts = {"head": head, "seed": seed, "rules": rules, "failures": [str(one) for one in found.failures]}
    records = {
        name.removesuffix(".csv"): table.astype(object).where(table.notna(), None).to_dict("records")
        for name, table in tables.items()
    }
    write_json(out / "plan.json", {**facts, **records})
    page = (
        page_environment("studies")
        .get_template("plan.html.j2")
        .render(
            policy=content_policy("benchmark", _STYLE),
            style=Markup(page_environment("benchmark").get_template(_STYLE).render()),
            version=__version__,
            head=head,
            rules=rules,
            failures=facts["failures"],
            gains=[_gain(row) for row in found.curve.gains.to_dict("records")],
            n_donors=int(found.curve.gains["n_donors"].iloc[0]),
            sizes=sorted({int(size) for size in found.curve.points["n_donors"]}),
            points=_points(found.curve),
            slides=[
                {key: number(value) if isinstance(value, float) else value for key, value in row.items()}
                for row in found.slides.to_dict("records")
            ],
        )
    )
    with atomic_path(out / "page") as folder:
        folder.mkdir()
        (folder / "index.html").write_text(page, encoding="utf-8", errors="replace", newline="\n")
    return out / "page" / "index.html"


def _gain(row: Mapping[Any, Any]) -> dict[str, str]:
    signed = {name: _signed(row[name]) for name in ("gain", "gain_of_doubling")}
    return {"name": row["cell_type"], "score": number(row["score"]), "interval": _interval(row), **signed}


def _points(curve: DonorCurve) -> list[dict[str, Any]]:
    table = curve.points.pivot(index="cell_type", columns="n_donors", values="mean")
    order = [name for name in curve.gains["cell_type"] if name in table.index]
    return [{"name": name, "cells": [number(value) for value in table.loc[name]]} for name in order]


def _interval(row: Mapping[Any, Any]) -> str:
    low, high = row["low"], row["high"]
    return "" if pd.isna(low) or pd.isna(high) else f"{_signed(low)} to {_signed(high)}"


def _signed(value: float | None) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:+.3f}".replace("-", "−")
