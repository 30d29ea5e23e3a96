"""Encoders x heads x cohorts on the same spots and folds, resumable, as one table."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ..common.naming import SPREADSHEET_NOTE, file_key, file_name_fault, spreadsheet_table
from ..errors import HistomixError, InputError
from ..evaluation.folds import PROTOCOLS
from ..evaluation.statement import protocol_statement
from ..progress import Progress, silent
from ..provenance import atomic_path, versions, write_json
from .cells import LIBRARIES, PLUS, TRANSFER, Run
from .paired import compare
from .parts import BenchmarkCohort, encoder_facts
from .ranking import rank

TABLE, RANKING, TESTS = "results.csv", "ranking.csv", "tests.csv"
STATEMENT, SUMMARY = "protocol.md", "benchmark.json"
#: Columns of the table of tests, in order.
_TESTS = (
    *("cohort", "protocol", "target", "compared", "fixed", "a", "b", "metric", "n_donors", "difference", "low", "high"),
    *("p", "p_adjusted", "smallest_p", "statement"),
)


@dataclass
class Benchmark:
    """What a benchmark found.

    Attributes
    ----------
    table
        Every score: the columns of `Evaluation.metrics` after ``cohort`` and ``encoder``.
    ranking
        One row per cohort, protocol, encoder and head, best first; see `histomix.benchmark.ranking.rank`.
    summary
        Settings, what each cell cost, and which failed.
    statement
        The protocol in words, Markdown, for a methods section.
    tests
        Paired tests between encoders with one head, and between heads on one encoder; see `compare`.
    failures
        Encoders and cells that failed.
    """

    table: pd.DataFrame
    ranking: pd.DataFrame
    summary: dict[str, Any]
    statement: str
    tests: list[dict[str, Any]] = field(default_factory=list)
    failures: list[HistomixError] = field(default_factory=list)


def benchmark(
    cohorts: Sequence[BenchmarkCohort],
    encoders: Sequence[str],
    heads: Sequence[str],
    out: str | os.PathLike[str],
    *,
    protocols: Sequence[str] = ("donor",),
    weights: Mapping[str, str | os.PathLike[str]] | None = None,
    trust_code: bool = False,
    nuclei: bool = True,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = silent,
) -> Benchmark:
    """Score every head on every encoder's features, on the same spots in the same folds.

    Only spots that all encoders could read take part, so that every number of one cohort and protocol is over the same
    spots. The same call again makes only what is missing or stale; a cell (cohort, encoder, protocol) that fails does
    not stop the others.

    Parameters
    ----------
    cohorts
        With different names.
    encoders
        Names of encoders; ``"uni+conch"`` puts the features of two side by side.
    heads
        Names of heads; the baselines always stand beside them.
    out
        Folder for ``features/``, ``evaluations/``, ``results.csv`` (and ``.parquet`` where pyarrow is installed),
        ``ranking.csv``, ``tests.csv``, ``protocol.md`` and ``benchmark.json``.
    protocols
        Names in `histomix.evaluation.PROTOCOLS`; ``"transfer"`` trains on each cohort and tests on each other, as the
        cohort ``"<training> to <test>"``.
    weights
        Local weights by the name of the encoder.
    trust_code
        Let an encoder run code of its own, see `histomix.encoders.load_encoder`.
    nuclei
        Count nuclei in the slides, for the baseline of cellularity.
    seed, threads
        Seed of everything random; CPU threads of the encoders.
    progress
        Told of the cells done, and of the work inside each.

    Raises
    ------
    InputError
        Nothing to do, a name stands twice, or a protocol is unknown.
    HistomixError
        No cell at all could be scored: the first failure.
    """
    _check(cohorts, encoders, heads, protocols)
    place = Path(out)
    pairs = len(cohorts) * (len(cohorts) - 1) if TRANSFER in protocols else 0
    total = (len(cohorts) * len(set(protocols) - {TRANSFER}) + pairs) * len(encoders)
    run = Run(place, tuple(heads), seed, progress, total, nuclei, trust_code)
    singles = list(dict.fromkeys(name for joined in encoders for name in joined.split(PLUS)))
    for one in cohorts:
        run.cohort(one, singles, encoders, protocols, weights or {}, threads)
    if pairs:
        run.transfers(encoders, pairs * len(encoders))
    if not run.cells:
        raise run.failures[0]
    table = pd.concat([cell.rows() for cell in run.cells], ignore_index=True)
    ranking = rank([(cell.cohort, cell.encoder, cell.evaluation) for cell in run.cells], seed)
    ranking = ranking.merge(
        pd.DataFrame([cell.costs() for cell in run.cells]), on=["cohort", "encoder", "protocol"], how="left"
    )
    # One encoder of each cohort and protocol stands for all: they share spots, folds and labels.
    told = {f"{cell.cohort}, {cell.evaluation.summary['protocol']} folds": cell.evaluation for cell in run.cells}
    labels = {one.name: _method(one) for one in cohorts if one.name in run.spots}
    statement = protocol_statement(told, encoders=encoder_facts(run.facts), labels=labels)
    summary = {
        "cohorts": [one.name for one in cohorts],
        "encoders": list(encoders),
        "heads": list(heads),
        "protocols": {name: PROTOCOLS[name] for name in protocols},
        "seed": seed,
        "spots": run.spots,
        "costs": run.costs,
        "encoder_facts": encoder_facts(run.facts),
        "failures": [str(error) for error in run.failures],
        "versions": versions(*LIBRARIES),
    }
    tests = compare([(cell.cohort, cell.encoder, cell.evaluation) for cell in run.cells], seed)
    found = Benchmark(table, ranking, summary, statement, tests, run.failures)
    _write(found, place)
    return found


def _method(one: BenchmarkCohort) -> str:
    """How the labels of a cohort were made, as far as they say it."""
    facts = next(iter(one.labels.values())).provenance
    words = [str(facts.get("method") or "made elsewhere, by a method that they do not name")]
    if facts.get("reference"):
        words.append(f"with the reference {str(facts['reference'])[:19]}")
    if facts.get("vocabulary"):
        words.append("cell types merged or renamed by a vocabulary")
    return ", ".join(words)


def _check(
    cohorts: Sequence[BenchmarkCohort], encoders: Sequence[str], heads: Sequence[str], protocols: Sequence[str]
) -> None:
    names = [one.name for one in cohorts]
    for what, values in (("cohort", names), ("encoder", encoders), ("head", heads), ("protocol", protocols)):
        if not values:
            raise InputError(f"no {what} was named", hint=f"Name at least one {what}")
        # An encoder may be named by the path of its card; its folder has a name made from that.
        keys = list(values) if what == "encoder" else [file_key(value) for value in values]
        for value, key in zip(values, keys, strict=True):
            if keys.count(key) > 1:
                raise InputError(f"the {what} {value!r} stands twice", hint="Name each once, in one case of letters")
            why = file_name_fault(value) if what != "encoder" or not value else None
            if why:
                raise InputError(f"a {what} cannot be called {value!r}, which becomes a folder: it {why}")
    for name in protocols:
        if name not in PROTOCOLS:
            raise InputError(f"there are no folds called {name!r}", hint=f"Choose from {', '.join(PROTOCOLS)}")
        if name == TRANSFER and len(cohorts) < 2:
            raise InputError("folds called 'transfer' need two cohorts", hint="Give the sheet of a second cohort")


def _write(found: Benchmark, place: Path) -> None:
    tests = pd.DataFrame(found.tests).reindex(columns=list(_TESTS))
    for name, table in ((TABLE, found.table), (RANKING, found.ranking), (TESTS, tests)):
        with atomic_path(place / name) as temporary:
            spreadsheet_table(table).to_csv(temporary, index=False, lineterminator="\n")
    if importlib.util.find_spec("pyarrow") is not None:
        with atomic_path((place / TABLE).with_suffix(".parquet")) as temporary:
            found.table.to_parquet(temporary, index=False)
    with atomic_path(place / STATEMENT) as temporary:
        temporary.write_text(found.statement, encoding="utf-8", newline="\n")
    write_json(place / SUMMARY, {**found.summary, "csv": SPREADSHEET_NOTE})
