"""The cells of a benchmark (cohort, encoder, protocol): made once, kept, and made again when stale."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..abundance import Abundance
from ..embedding import embed, feature_manifest, read_features
from ..encoders import card
from ..errors import EncoderError, HistomixError, InputError, LabelError, MissingExtraError
from ..progress import Progress
from ..provenance import digest_json, read_json, versions, write_json
from .result import Evaluation, read_evaluation
from .run import evaluate

if TYPE_CHECKING:
    from anndata import AnnData

    from ..spots import Cohort

_LOG = logging.getLogger(__name__)
#: Joins the names of encoders whose features stand side by side.
PLUS = "+"
LIBRARIES = ("numpy", "scipy", "scikit-learn", "torch", "onnxruntime")


@dataclass(frozen=True)
class BenchmarkCohort:
    """A cohort with its labels.

    Parameters
    ----------
    name
        What it is called in tables and folders.
    cohort
        Sections with their slides.
    labels
        Section -> abundances.
    truth
        Known abundances, where there are any.
    """

    name: str
    cohort: Cohort
    labels: Mapping[str, Abundance]
    truth: Mapping[str, Abundance] | None = None


@dataclass(frozen=True)
class Cell:
    """One evaluation, and what its features cost."""

    cohort: str
    encoder: str
    evaluation: Evaluation
    embedding: dict[str, Any]
    dim: int
    parameters: float | None

    def rows(self) -> pd.DataFrame:
        table = self.evaluation.metrics.copy()
        table.insert(0, "cohort", self.cohort)
        table.insert(1, "encoder", self.encoder)
        return table

    def costs(self) -> dict[str, Any]:
        return {
            "cohort": self.cohort,
            "encoder": self.encoder,
            "protocol": self.evaluation.summary["protocol"],
            "dim": self.dim,
            "parameters": self.parameters,
            "tiles_per_second": self.embedding.get("tiles_per_second"),
        }


@dataclass
class Run:
    """The state of one call: what is done, what failed, what it cost."""

    out: Path
    heads: tuple[str, ...]
    seed: int
    progress: Progress
    total: int
    nuclei: bool = True
    done: int = 0
    cells: list[Cell] = field(default_factory=list)
    failures: list[HistomixError] = field(default_factory=list)
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)
    spots: dict[str, dict[str, int]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def cohort(
        self,
        one: BenchmarkCohort,
        singles: Sequence[str],
        encoders: Sequence[str],
        protocols: Sequence[str],
        weights: Mapping[str, str | os.PathLike[str]],
        threads: int | None,
    ) -> None:
        """Embed a cohort with every encoder, then score every cell of it."""
        features = {}
        for name in singles:
            work = partial(self._embed, one, name, weights.get(name), threads)
            found = self._attempt(work, one.name, name)
            if found is not None:
                features[name] = found
        if not features:
            self._step(len(encoders) * len(protocols))
            return
        labels, left_out = common_spots(one, list(features.values()))
        self.spots[one.name] = {"scored": sum(len(table.values) for table in labels.values()), "left_out": left_out}
        for encoder in encoders:
            parts = encoder.split(PLUS)
            for protocol in protocols:
                if all(part in features for part in parts):
                    blocks = [features[part] for part in parts]
                    score = partial(self._cell, one, labels, encoder, blocks, protocol)
                    cell = self._attempt(score, one.name, encoder, protocol)
                    if cell is not None:
                        self.cells.append(cell)
                self._step(1)

    def _embed(
        self, one: BenchmarkCohort, name: str, weights: str | os.PathLike[str] | None, threads: int | None
    ) -> dict[str, AnnData]:
        folder = self.out / "features" / one.name / _slug(name)
        before = time.perf_counter()
        embed(one.cohort, name, weights, folder, threads=threads, progress=self.progress)
        seconds = time.perf_counter() - before
        # Read back, so that a first run and a resumed one score the very same numbers.
        features = read_features(folder)
        manifest = read_json(folder / "manifest.json")
        tiles = sum(table.n_obs for table in features.values())
        note = folder.with_name(f"{folder.name}.cost.json")
        if not manifest["kept"]:
            # Only a whole, uninterrupted embedding says what it costs.
            speed = {"seconds": round(seconds, 2), "tiles": tiles, "tiles_per_second": round(tiles / seconds, 2)}
            write_json(note, speed)
        self.costs.setdefault(one.name, {})[name] = read_json(note) if note.is_file() else {}
        self.facts[name] = {**manifest["encoder"], **manifest["tile"]}
        return features

    def _cell(
        self,
        one: BenchmarkCohort,
        labels: Mapping[str, Abundance],
        encoder: str,
        blocks: Sequence[Mapping[str, AnnData]],
        protocol: str,
    ) -> Cell:
        folder = self.out / "evaluations" / one.name / _slug(encoder) / protocol
        sections = list(labels)
        wanted = digest_json(
            {
                "features": [[feature_manifest(block[name])["identity"] for name in sections] for block in blocks],
                "labels": {name: _digest(table) for name, table in labels.items()},
                "truth": {name: _digest(table) for name, table in (one.truth or {}).items()},
                "donors": one.cohort.donors,
                "sites": {row.section: row.site for row in one.cohort.rows},
                "heads": self.heads,
                "protocol": protocol,
                "nuclei": self.nuclei,
                "seed": self.seed,
                "versions": versions(*LIBRARIES),
            }
        )
        note = folder.with_name(f"{protocol}.json")
        found = _finished(folder, note, wanted)
        if found is None:
            note.unlink(missing_ok=True)
            cohort = one.cohort.subset(sections)
            places = [self.out / "features" / one.name / _slug(part) for part in encoder.split(PLUS)]
            found = evaluate(
                cohort,
                blocks,
                labels,
                self.heads,
                protocol,
                one.truth,
                folder,
                self.seed,
                self.progress,
                nuclei=self.nuclei,
                features_folders=places,
            )
            write_json(note, {"identity": wanted})
        costs = [self.costs[one.name][part] for part in encoder.split(PLUS)]
        seconds = [cost.get("seconds") for cost in costs]
        joined = dict(costs[0])
        if len(costs) > 1:
            joined = {}
            if all(value is not None for value in seconds):
                joined["tiles_per_second"] = round(costs[0]["tiles"] / sum(seconds), 2)
        known = [parameters(part) for part in encoder.split(PLUS)]
        total = sum(count for count in known if count is not None) if None not in known else None
        dim = sum(next(iter(block.values())).n_vars for block in blocks)
        return Cell(one.name, encoder, found, joined, dim, total)

    def _attempt(self, work: Callable[[], Any], *names: str) -> Any:
        """Let one encoder or cell fail without the others; what cannot be mended by going on is raised."""
        try:
            return work()
        except HistomixError as error:
            self.failures.append(HistomixError(f"{', '.join(names)}: {error.what}", where=error.where, mend=error.mend))
            return None

    def _step(self, count: int) -> None:
        self.done += count
        self.progress("benchmark", self.done, self.total)


def _finished(folder: Path, note: Path, wanted: str) -> Evaluation | None:
    """What an earlier call made of the same input; None where there is none, or it is damaged."""
    if not note.is_file():
        return None
    try:
        return read_evaluation(folder) if read_json(note).get("identity") == wanted else None
    except InputError as error:
        _LOG.warning("%s It is made again", error)
        return None


def _slug(encoder: str) -> str:
    """Name of an encoder as that of a folder (a card file is named by its path)."""
    return re.sub(r"[^A-Za-z0-9_.+:-]+", "_", encoder)


def common_spots(one: BenchmarkCohort, features: Sequence[Mapping[str, AnnData]]) -> tuple[dict[str, Abundance], int]:
    """Labels of the spots that every encoder could read, and how many spots that leaves out."""
    labels, left_out = {}, 0
    for name in one.cohort.names:
        if name not in one.labels:
            continue
        table = one.labels[name]
        keys = table.values.index
        kept = np.ones(len(keys), dtype=bool)
        anywhere = np.zeros(len(keys), dtype=bool)
        for block in features:
            found = block[name]
            readable = found.obs_names[np.isfinite(np.asarray(found.X, dtype=np.float32)).all(axis=1)]
            kept &= keys.isin(readable)
            anywhere |= keys.isin(readable)
        left_out += int((anywhere & ~kept).sum())
        if kept.any():
            rows = keys[kept]
            sd, median = (None if part is None else part.loc[rows] for part in (table.sd, table.median))
            labels[name] = replace(table, values=table.values.loc[rows], sd=sd, median=median)
    if not labels:
        raise LabelError(
            "no labelled spot was read by every encoder", where=one.name, mend="Check the labels and the features"
        )
    return labels, left_out


def _digest(table: Abundance) -> str:
    values = table.values
    reliability = None if table.reliability is None else table.reliability.tolist()
    return digest_json(
        [values.index.tolist(), values.columns.tolist(), values.to_numpy().tolist(), table.unit, reliability]
    )


def encoder_facts(run: Run) -> list[dict[str, Any]]:
    """Facts of every encoder that was used: name, revision, weights, licence, tile and parameters."""
    facts = []
    for name, one in run.facts.items():
        entry = {key: one.get(key) for key in ("name", "revision", "digest", "licence", "dim", "size_px", "mpp")}
        entry["parameters"] = parameters(name)
        facts.append(entry)
    return facts


def parameters(name: str) -> float | None:
    """Parameters of an encoder by its card; None for one that has no card here."""
    try:
        return card(name).parameters
    except (EncoderError, MissingExtraError):
        return None
