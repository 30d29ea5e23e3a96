"""The cells of a benchmark (cohort, encoder, protocol): made once, kept, and made again when stale."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..abundance import Abundance
from ..common.naming import safe_file_name
from ..embedding import embed, feature_manifest, read_features
from ..errors import HistomixError
from ..evaluation.data import CohortData
from ..evaluation.evaluate import evaluate
from ..evaluation.result import Evaluation
from ..progress import Progress
from ..provenance import digest_json, read_json, sealed, versions, write_json
from .parts import BenchmarkCohort, common_spots, finished, kept_note, parameters, table_digest
from .robustness import encoder_robustness

if TYPE_CHECKING:
    from anndata import AnnData

#: Joins the names of encoders whose features stand side by side.
PLUS = "+"
#: The protocol that takes two cohorts.
TRANSFER = "transfer"
LIBRARIES = ("numpy", "scipy", "scikit-learn", "torch", "onnxruntime")


@dataclass(frozen=True)
class Cell:
    """One evaluation, and what its features cost."""

    cohort: str
    encoder: str
    evaluation: Evaluation
    embedding: dict[str, Any]
    dim: int
    parameters: float | None
    robustness: Mapping[str, Any]

    def rows(self) -> pd.DataFrame:
        """The metrics of the evaluation, with the cohort and the encoder as first columns."""
        table = self.evaluation.metrics.copy()
        table.insert(0, "cohort", self.cohort)
        table.insert(1, "encoder", self.encoder)
        return table

    def costs(self) -> dict[str, Any]:
        """Width and robustness of the features, parameters of the encoder, and tiles per second where it was timed."""
        return {
            "cohort": self.cohort,
            "encoder": self.encoder,
            "protocol": self.evaluation.summary["protocol"],
            "dim": self.dim,
            "parameters": self.parameters,
            "tiles_per_second": self.embedding.get("tiles_per_second"),
            "ri": self.robustness.get("ri"),
            "croma": self.robustness.get("croma"),
        }


@dataclass(frozen=True)
class _Ready:
    """A cohort that is embedded: its features by encoder, and the labels of the spots that every encoder could read."""

    one: BenchmarkCohort
    features: dict[str, dict[str, AnnData]]
    labels: dict[str, Abundance]

    def has(self, encoder: str) -> bool:
        """Whether every part of an encoder could be used."""
        return all(single in self.features for single in encoder.split(PLUS))

    def blocks(self, encoder: str) -> list[dict[str, AnnData]]:
        """Features of an encoder, or of several that are joined."""
        return [self.features[single] for single in encoder.split(PLUS)]

    def identity(self, encoder: str) -> dict[str, Any]:
        """What a score on these features and labels depends on."""
        rows = self.one.cohort.rows
        return {
            "features": [
                [feature_manifest(block[name])["identity"] for name in self.labels] for block in self.blocks(encoder)
            ],
            "labels": {name: table_digest(table) for name, table in self.labels.items()},
            "truth": {name: table_digest(table) for name, table in (self.one.truth or {}).items()},
            "donors": self.one.cohort.donors,
            "sites": {row.section: row.site for row in rows},
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
    trust_code: bool = False
    done: int = 0
    cells: list[Cell] = field(default_factory=list)
    failures: list[HistomixError] = field(default_factory=list)
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)
    spots: dict[str, dict[str, int]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    ready: dict[str, _Ready] = field(default_factory=dict)
    robust: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

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
            tables = self._attempt(work, one.name, name)
            if tables is not None:
                features[name] = tables
        within = [protocol for protocol in protocols if protocol != TRANSFER]
        if not features:
            self._step(len(encoders) * len(within))
            return
        labels, left_out = common_spots(one, list(features.values()))
        self.spots[one.name] = {"scored": sum(len(table.values) for table in labels.values()), "left_out": left_out}
        ready = self.ready[one.name] = _Ready(one, features, labels)
        for encoder in encoders:
            for protocol in within:
                self._score(one.name, ready, encoder, protocol)

    def transfers(self, encoders: Sequence[str], total: int) -> None:
        """Train on each cohort and test on each other one; ``total`` cells are counted whether or not they can be."""
        before = self.done
        for train in self.ready.values():
            for test in self.ready.values():
                if train is not test:
                    for encoder in encoders:
                        self._score(f"{train.one.name} to {test.one.name}", train, encoder, TRANSFER, test)
        self._step(total - (self.done - before))

    def _score(self, name: str, ready: _Ready, encoder: str, protocol: str, test: _Ready | None = None) -> None:
        if ready.has(encoder) and (test is None or test.has(encoder)):
            cell = self._attempt(partial(self._cell, name, ready, encoder, protocol, test), name, encoder, protocol)
            if cell is not None:
                self.cells.append(cell)
        self._step(1)

    def _embed(
        self, one: BenchmarkCohort, name: str, weights: str | os.PathLike[str] | None, threads: int | None
    ) -> dict[str, AnnData]:
        folder = self.out / "features" / one.name / safe_file_name(name)
        before = time.perf_counter()
        embed(one.cohort, name, weights, folder, threads=threads, trust_code=self.trust_code, progress=self.progress)
        seconds = time.perf_counter() - before
        # Read back, so that a first run and a resumed one score the very same numbers.
        features = read_features(folder)
        manifest = read_json(folder / "manifest.json")
        tiles = sum(table.n_obs for table in features.values())
        note = folder.with_name(f"{folder.name}.cost.json")
        if not manifest["kept"]:
            # Only a whole, uninterrupted embedding says what it costs.
            speed = {"seconds": round(seconds, 2), "tiles": tiles, "tiles_per_second": round(tiles / seconds, 2)}
            write_json(note, sealed(speed))
        self.costs.setdefault(one.name, {})[name] = kept_note(note)
        self.facts[name] = {**manifest["encoder"], **manifest["tile"]}
        return features

    def _cell(self, name: str, ready: _Ready, encoder: str, protocol: str, test: _Ready | None) -> Cell:
        folder = self.out / "evaluations" / name / safe_file_name(encoder) / protocol
        wanted = digest_json(
            {
                "parts": [part.identity(encoder) for part in (ready, test) if part is not None],
                "heads": self.heads,
                "protocol": protocol,
                "nuclei": self.nuclei,
                "seed": self.seed,
                "versions": versions(*LIBRARIES),
            }
        )
        note = folder.with_name(f"{protocol}.json")
        evaluation = finished(folder, note, wanted)
        tested = test or ready
        if evaluation is None:
            note.unlink(missing_ok=True)
            evaluation = evaluate(
                ready.one.cohort.subset(list(ready.labels)),
                ready.blocks(encoder),
                ready.labels,
                self.heads,
                protocol,
                tested.one.truth,
                folder,
                self.seed,
                self.progress,
                test=None if test is None else self._data(test, encoder),
                nuclei=self.nuclei,
                spatial=False,
                features_folders=self._data(ready, encoder).folders,
            )
            write_json(note, {"identity": wanted})
        one = tested.one
        costs = [self.costs[one.name][part] for part in encoder.split(PLUS)]
        seconds = [cost.get("seconds") for cost in costs]
        joined = dict(costs[0])
        if len(costs) > 1:
            joined = {}
            if all(value is not None for value in seconds):
                joined["tiles_per_second"] = round(costs[0]["tiles"] / sum(seconds), 2)
        known = [parameters(part) for part in encoder.split(PLUS)]
        total = sum(count for count in known if count is not None) if None not in known else None
        dim = sum(next(iter(block.values())).n_vars for block in ready.blocks(encoder))
        # Of two cohorts there is no one confounder.
        robust = self._robustness(ready, encoder) if test is None else {}
        return Cell(name, encoder, evaluation, joined, dim, total, robust)

    def _robustness(self, ready: _Ready, encoder: str) -> dict[str, Any]:
        """How robust the features of an encoder are on a cohort: found once, and kept."""
        known = self.robust.setdefault(ready.one.name, {})
        if encoder not in known:
            note = self.out / "evaluations" / ready.one.name / safe_file_name(encoder) / "robustness.json"
            wanted = digest_json(ready.identity(encoder))
            kept = kept_note(note)
            if kept.get("identity") != wanted:
                found = encoder_robustness(ready.one.cohort, ready.blocks(encoder), ready.labels)
                kept = {"identity": wanted, "found": found}
                write_json(note, sealed(kept))
            known[encoder] = kept["found"]
        return known[encoder]

    def _data(self, ready: _Ready, encoder: str) -> CohortData:
        """A cohort with its features, for `evaluate`."""
        folders = [self.out / "features" / ready.one.name / safe_file_name(single) for single in encoder.split(PLUS)]
        return CohortData(ready.one.cohort.subset(list(ready.labels)), ready.blocks(encoder), ready.labels, folders)

    def _attempt(self, work: Callable[[], Any], *names: str) -> Any:
        """Let one encoder or cell fail without the others; what cannot be mended by going on is raised."""
        try:
            return work()
        except HistomixError as error:
            self.failures.append(HistomixError(f"{', '.join(names)}: {error.what}", where=error.where, hint=error.hint))
            return None

    def _step(self, count: int) -> None:
        self.done += count
        self.progress("benchmark", self.done, self.total)
