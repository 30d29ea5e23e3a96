"""`histomix.run_benchmark`: encoders x heads x cohorts on the same spots and folds, resumable, as one table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..abundance import Abundance
from ..common.naming import file_key, file_name_fault
from ..common.paths import as_list
from ..errors import InputError
from ..evaluation.folds import PROTOCOLS, make_folds
from ..evaluation.statement import protocol_statement
from ..heads import DEFAULT, head_name
from ..progress import Progress, progress_bars
from ..provenance import versions
from .cells import LIBRARIES, PLUS, TRANSFER, Run
from .page import write_benchmark_page
from .paired import compare
from .parts import BenchmarkCohort, benchmark_cohorts, encoder_facts
from .ranking import rank
from .result import Benchmark, write_benchmark

if TYPE_CHECKING:
    from ..spots import Cohort

_Path = str | os.PathLike[str]
_Tables = Mapping[str, Abundance] | str | os.PathLike[str]


def run_benchmark(
    cohorts: BenchmarkCohort | Cohort | _Path | Sequence[BenchmarkCohort | Cohort | _Path],
    out: _Path,
    encoders: str | Sequence[str] = ("builtin",),
    heads: str | Sequence[str] = ("ridge", DEFAULT),
    folds: str | Sequence[str] = ("donor",),
    *,
    labels: _Tables | Sequence[_Tables] | None = None,
    truth: _Tables | Sequence[_Tables] | None = None,
    weights: Mapping[str, _Path] | None = None,
    trust_code: bool = False,
    nuclei: bool = True,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | bool = True,
) -> Benchmark:
    """Score every head on every encoder's features, on the same spots in the same folds.

    Only spots that all encoders could read take part, so that every number of one cohort and protocol is over the same
    spots. The same call again makes only what is missing or stale; a cell (cohort, encoder, protocol) that fails does
    not stop the others.

    Parameters
    ----------
    cohorts
        Cohorts or their sheets, one or several, of different names.
    out
        Folder for ``features/``, ``evaluations/``, ``results.csv`` (and ``.parquet`` where pyarrow is installed),
        ``ranking.csv``, ``tests.csv``, ``protocol.md``, ``benchmark.json`` and ``page/index.html``.
    encoders
        Names of encoders; ``"uni+conch"`` puts the features of two side by side.
    heads
        Names of heads; the baselines always stand beside them.
    folds
        Names in `histomix.evaluation.PROTOCOLS`; ``"transfer"`` trains on each cohort and tests on each other, as the
        cohort ``"<training> to <test>"``.
    labels, truth
        Abundances by section, or their folder; one for each cohort, in their order. Without labels those of the sheet
        are taken.
    weights
        Local weights by the name of the encoder.
    trust_code
        Let an encoder run code of its own, see `histomix.load_encoder`.
    nuclei
        Count nuclei in the slides, for the baseline of cellularity.
    seed, threads
        Seed of everything random; CPU threads of the encoders.
    progress
        Bars in a terminal or notebook; False for none, or a function that is told of the cells done, and of the work
        inside each.

    Returns
    -------
    Benchmark

    Raises
    ------
    InputError
        Nothing to do, a name stands twice, there are more or fewer labels than cohorts, or a protocol is unknown.
    SheetError, LabelError
        A cohort or its labels cannot be read.
    HistomixError
        No cell at all could be scored: the first failure.

    Examples
    --------
    It takes a while.

    >>> found = hm.run_benchmark("sheet.csv", "benchmark", labels="labels", heads="ridge")  # doctest: +SKIP
    >>> found.page  # doctest: +SKIP
    PosixPath('benchmark/page/index.html')
    """
    given = benchmark_cohorts(as_list(cohorts), labels, truth)
    encoders, regressors = as_list(encoders), [head_name(name) for name in as_list(heads)]
    protocols = [name.strip() for text in as_list(folds) for name in text.split(",")]
    _check(given, encoders, regressors, protocols)
    _check_folds(given, protocols, seed)
    pairs = len(given) * (len(given) - 1) if TRANSFER in protocols else 0
    total = (len(given) * len(set(protocols) - {TRANSFER}) + pairs) * len(encoders)
    singles = list(dict.fromkeys(name for joined in encoders for name in joined.split(PLUS)))
    with progress_bars(progress) as report:
        run = Run(Path(out), tuple(regressors), seed, report, total, nuclei, trust_code)
        for one in given:
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
    methods = {one.name: _method(one) for one in given if one.name in run.spots}
    statement = protocol_statement(told, encoders=encoder_facts(run.facts), labels=methods)
    summary = {
        "cohorts": [one.name for one in given],
        "encoders": encoders,
        "heads": regressors,
        "protocols": {name: PROTOCOLS[name] for name in protocols},
        "seed": seed,
        "spots": run.spots,
        "costs": run.costs,
        "robustness": run.robust,
        "encoder_facts": encoder_facts(run.facts),
        "failures": [str(error) for error in run.failures],
        "versions": versions(*LIBRARIES),
    }
    tests = compare([(cell.cohort, cell.encoder, cell.evaluation) for cell in run.cells], seed)
    benchmark = Benchmark(table, ranking, summary, statement, tests, run.failures)
    write_benchmark(benchmark, Path(out))
    return replace(benchmark, page=write_benchmark_page(benchmark, out))


def _method(one: BenchmarkCohort) -> str:
    """How the labels of a cohort were made, as far as they say it."""
    facts = next(iter(one.labels.values())).provenance
    words = [str(facts.get("method") or "made elsewhere, by a method that they do not name")]
    if facts.get("reference"):
        words.append(f"with the reference {str(facts['reference'])[:19]}")
    if facts.get("vocabulary"):
        words.append("cell types merged or renamed by a vocabulary")
    return ", ".join(words)


def _check_folds(cohorts: Sequence[BenchmarkCohort], protocols: Sequence[str], seed: int) -> None:
    """Refuse, before anything is embedded, where no cohort can be folded by any protocol: the first reason."""
    reasons = []
    for one in cohorts:
        rows = one.cohort.rows
        sections, donors = [row.section for row in rows], [row.donor for row in rows]
        sites = [row.site or "" for row in rows]
        for name in protocols:
            if name in (TRANSFER, "random"):
                return
            try:
                make_folds(sections, donors, name, seed=seed, site=sites if any(sites) else None)
                return
            except InputError as error:
                reasons.append(error)
    raise reasons[0]


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
