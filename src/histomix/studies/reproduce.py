"""`histomix.reproduce`: a published table made anew, step by step, each of which is kept."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ..abundance import Abundance, label, labels_of
from ..benchmark import run_benchmark
from ..benchmark.parts import BenchmarkCohort
from ..benchmark.result import Benchmark
from ..common.memory import peak_bytes
from ..common.naming import safe_file_name, spreadsheet_table
from ..common.words import counted
from ..errors import HistomixError, InputError
from ..evaluation.result import read_evaluation
from ..heads import DEFAULT, head_name, train
from ..progress import Progress, progress_bars
from ..provenance import atomic_path, read_json, require_writable, write_json
from ..sharing import push_head, sharing_fault, with_licences
from ..spots import Cohort
from .data import find_cohort, find_means, study_reference
from .page import write_study_page
from .study import Study, read_study
from .table import study_table

_Path = str | os.PathLike[str]
TRANSFER = "transfer"
#: What is left of folds by donor where one donor is.
_OPTIMISTIC = "section"


@dataclass(frozen=True)
class Reproduction:
    """A published table made anew.

    Attributes
    ----------
    study
        Its facts.
    table
        Published figure and ours, see `histomix.studies.table.study_table`.
    costs
        What each head took: seconds, tiles per second, memory; and what was published of that.
    missing
        What was not here, in sentences; empty where the study is whole.
    page
        ``index.html``.
    heads
        Archives that are ready to push, where asked for.
    failures
        What failed.
    """

    study: Study
    table: pd.DataFrame
    costs: pd.DataFrame
    missing: list[str]
    page: Path
    heads: list[Path] = field(default_factory=list)
    failures: list[HistomixError] = field(default_factory=list)


def reproduce(
    name: str,
    out: _Path,
    *,
    data: _Path | None = None,
    labels: _Path | Sequence[_Path] | None = None,
    reference: _Path | None = None,
    method: str | None = None,
    encoders: Sequence[str] | None = None,
    weights: Mapping[str, _Path] | None = None,
    heads: Sequence[str] | None = None,
    partial: bool = False,
    publish: bool = False,
    mirror: str | None = None,
    trust_code: bool = False,
    threads: int | None = None,
    progress: Progress | bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Reproduction:
    """Make a published table anew: fetch, label, embed, evaluate, and set ours beside what was published.

    Each step is kept in ``out``, and the same call goes on where an earlier one stopped. What is missing (weights,
    libraries, donors) is found before any work.

    Parameters
    ----------
    name
        Of a study, see `histomix.studies.list_studies`.
    out
        Folder for ``labels/``, ``bench/``, ``table.csv``, ``costs.csv``, ``methods.md`` and ``page/index.html``.
    data
        Folder with the cohorts, as published or with a sheet; None: they are fetched.
    labels
        Folder of labels that are there, one for each cohort; None: they are made.
    reference
        Of the cell types, instead of the study's: a file, or ``"hub:NAME"``.
    method
        Of the labels, instead of the study's.
    encoders, heads
        Instead of the study's; ``"uni+conch"`` joins two encoders.
    weights
        Local weights by the name of the encoder.
    partial
        Go on with what is here, and say what is missing.
    publish
        Train the default head (of ``heads`` without it, the last one) on each cohort, and pack it for
        `histomix.push_head`.
    mirror
        As for `histomix.fetch_cohort`.
    trust_code
        Let an encoder run code of its own, see `histomix.load_encoder`.
    threads
        CPU threads of the encoders.
    progress
        Bars in a terminal or notebook; False for none, or a function that is told how far each step is.
    say
        Told what is missing, and each step's result, in a line.

    Returns
    -------
    Reproduction

    Raises
    ------
    InputError
        There is no such study, its cohorts are not whole, its reference is not here, or the licence of the data does
        not allow a head to be published.
    EncoderError, MissingExtraError
        Weights or a library are missing, and ``partial`` was not asked for.
    DownloadError
        A cohort cannot be fetched.

    Examples
    --------
    Not run here, since it fetches a cohort:

    >>> found = hm.reproduce("sun2025-her2st", "her2st", partial=True)  # doctest: +SKIP
    >>> found.table[["row", "column", "published", "ours"]]  # doctest: +SKIP
    """
    study, folder = read_study(name), Path(out)
    fault = sharing_fault(study.licence) if publish else None
    if fault is not None:
        raise InputError(f"no head of {name} may be published: {fault}", hint="Leave --publish out")
    given = [] if labels is None else [labels] if isinstance(labels, str | os.PathLike) else list(labels)
    if given and len(given) != len(study.cohorts):
        raise InputError(
            f"{len(given)} folders of labels were given for {len(study.cohorts)} cohorts",
            hint=f"Give --labels once for each, in the order {', '.join(one.name for one in study.cohorts)}",
        )
    means = find_means(study, encoders, heads, method, list(weights or {}), bool(given), partial)
    signatures = None if given else study_reference(study, reference, data)
    require_writable(folder / "table.csv")
    with progress_bars(progress) as report:
        cohorts, missing = _cohorts(study, data, folder, partial, mirror, report, list(means.missing))
        for text in missing:
            say(f"missing: {text}")
        members, seconds = [], {}
        for number, (key, cohort) in enumerate(cohorts.items()):
            if given:
                tables = labels_of(given[number], cohort)
            else:
                tables, seconds[key] = _labels(cohort, key, means.method, signatures, study, folder, report)
            members.append(BenchmarkCohort(key, cohort, tables))
            say(f"labels of {key}: {len(tables)} sections, {_method(tables)}")
        folds = _folds(study, cohorts)
        bench = run_benchmark(
            members,
            folder / "bench",
            means.encoders,
            means.heads,
            folds,
            weights=weights,
            trust_code=trust_code,
            nuclei=False,
            seed=study.seed,
            threads=threads,
            progress=report,
        )
        scored = _scored(study, folder / "bench", bench, folds)
        note = _note(study, means.encoders, members, folds)
        table = study_table(study, scored, note)
        costs = _costs(study, bench, seconds)
        ours = [head_name(one) for one in means.heads]
        kind = DEFAULT if DEFAULT in ours else ours[-1]
        archives = _publish(study, members, folder, means.encoders[0], kind, report) if publish else []
    for path, one in ((folder / "table.csv", table), (folder / "costs.csv", costs)):
        with atomic_path(path) as temporary:
            spreadsheet_table(one).to_csv(temporary, index=False, lineterminator="\n")
    methods = _methods(study, missing, members, bench)
    with atomic_path(folder / "methods.md") as temporary:
        temporary.write_text(methods, encoding="utf-8", newline="\n")
    facts = {"missing": missing, "encoders": list(means.encoders), "heads": list(means.heads), "folds": folds}
    write_json(
        folder / "study.json", {**study.to_dict(), "run": facts, "failures": [str(one) for one in bench.failures]}
    )
    page = write_study_page(study, table, costs, missing, methods, folder, [str(one) for one in bench.failures])
    return Reproduction(study, table, costs, missing, page, archives, bench.failures)


def _cohorts(
    study: Study,
    data: _Path | None,
    folder: Path,
    partial: bool,
    mirror: str | None,
    progress: Progress,
    missing: list[str],
) -> tuple[dict[str, Cohort], list[str]]:
    cohorts: dict[str, Cohort] = {}
    for one in study.cohorts:
        try:
            cohorts[one.name], absent = find_cohort(one, data, folder, partial, mirror, progress)
        except HistomixError as error:
            # Of several cohorts, the others can be had without this one.
            if not partial or len(study.cohorts) == 1:
                raise
            absent = [f"the cohort {one.name}: {error}"]
        missing += absent
    if not cohorts:
        raise InputError(f"no cohort of {study.name} is here", hint=f"Missing: {'; '.join(missing)}")
    return cohorts, missing


def _labels(
    cohort: Cohort, key: str, method: str, reference: Path | None, study: Study, folder: Path, progress: Progress
) -> tuple[dict[str, Abundance], float | None]:
    """Labels of a cohort, kept by section, and the seconds that they took where one call made them all."""
    unit = study.labels.get("unit") if method == "cell2location" else None
    note = folder / "labels" / f"{key}.cost.json"
    begun = (folder / "labels" / key).exists()
    before = time.perf_counter()
    tables = label(cohort, method, reference, folder / "labels" / key, unit, study.seed, progress)
    if not begun:
        write_json(note, {"seconds": round(time.perf_counter() - before, 1)})
    return tables, read_json(note).get("seconds") if note.is_file() else None


def _folds(study: Study, cohorts: Mapping[str, Cohort]) -> str:
    if study.folds == TRANSFER and len(cohorts) > 1:
        return TRANSFER
    donors = min(len(set(cohort.donors.values())) for cohort in cohorts.values())
    return _OPTIMISTIC if donors < 2 else "donor" if study.folds == TRANSFER else study.folds


def _scored(study: Study, place: Path, bench: Benchmark, folds: str) -> list[tuple[str, str, Any]]:
    """Cohort, encoder and evaluation of each cell that was scored."""
    keys = bench.table[["cohort", "encoder"]].drop_duplicates().itertuples(index=False)
    return [
        (
            str(cohort),
            str(encoder),
            read_evaluation(place / "evaluations" / str(cohort) / safe_file_name(str(encoder)) / folds),
        )
        for cohort, encoder in keys
    ]


def _method(tables: Mapping[str, Abundance]) -> str:
    first = next(iter(tables.values()))
    return f"{first.provenance.get('method') or 'made elsewhere'}, {first.unit}"


def _note(study: Study, encoders: Sequence[str], members: Sequence[BenchmarkCohort], folds: str) -> str:
    """How a run differs from the study."""
    parts = []
    if set(encoders) != set(study.encoders):
        parts.append(f"encoder {', '.join(encoders)} instead of {', '.join(study.encoders)}")
    methods = {str(next(iter(one.labels.values())).provenance.get("method")) for one in members}
    if methods != {study.labels["method"]}:
        parts.append(f"labels by {', '.join(sorted(methods))} instead of {study.labels['method']}")
    for one, asked in zip(members, study.cohorts, strict=False):
        here = len(set(one.cohort.donors.values()))
        if asked.donors is not None and here < asked.donors:
            parts.append(f"{here} of {asked.donors} donors")
    if folds != study.folds:
        parts.append(f"{folds} folds instead of {study.folds}")
    return f" ({'; '.join(parts)})" if parts else ""


def _costs(study: Study, bench: Benchmark, labelling: Mapping[str, float | None]) -> pd.DataFrame:
    rows = []
    ranking = bench.ranking[bench.ranking["target"] == "label"]
    for one in ranking.to_dict("records"):
        told = [cost for cost in study.costs if cost["row"] == one["head"]]
        rows.append(
            {
                "row": f"{one['head']} on {one['encoder']}" if one["encoder"] else one["head"],
                "cohort": one["cohort"],
                "fit_seconds": one["fit_seconds"],
                "predict_seconds": one["predict_seconds"],
                "encoder_tiles_per_second": one.get("tiles_per_second"),
                "label_seconds": labelling.get(one["cohort"]),
                "published": "; ".join(f"{cost['words']} ({cost['source']})" for cost in told),
            }
        )
    peak = peak_bytes()
    rows.append({"row": "this run, all steps", "peak_memory_mb": None if peak is None else round(peak / 2**20)})
    return pd.DataFrame(rows)


def _methods(study: Study, missing: Sequence[str], members: Sequence[BenchmarkCohort], bench: Benchmark) -> str:
    cohorts = "; ".join(
        f"{one.name}: {counted(len(set(one.cohort.donors.values())), 'donor')}, "
        f"{counted(len(one.cohort.names), 'section')}, labels by {_method(one.labels)}"
        for one in members
    )
    lines = [f"# {study.title}", f"After {study.source}. {study.about.strip()}", f"Run here: {cohorts}."]
    if missing:
        lines.append("**Partial.** Missing: " + "; ".join(missing) + ".")
    return "\n\n".join([*lines, bench.statement.strip()]) + "\n"


def _publish(
    study: Study,
    members: Sequence[BenchmarkCohort],
    folder: Path,
    encoder: str,
    kind: str,
    progress: Progress,
) -> list[Path]:
    """A head of each cohort, trained on all of it, with its licences and the scores of its folds, as an archive."""
    archives = []
    for one in members:
        place = folder / "bench" / "features" / one.name
        features = [place / safe_file_name(single) for single in encoder.split("+")]
        evaluations = sorted(
            (folder / "bench" / "evaluations" / one.name / safe_file_name(encoder)).glob("*/summary.json")
        )
        head = train(
            one.cohort.subset(list(one.labels)),
            features if len(features) > 1 else features[0],
            one.labels,
            kind,
            study.seed,
            folder / "heads" / f"{one.name}-trained",
            progress=progress,
            scores=evaluations[0].parent if evaluations else None,
        )
        words = f"{_method(one.labels)}, after {study.source}"
        named = with_licences(head, data=study.licence, labels=words, name=f"{study.name}-{one.name}")
        named.save(folder / "heads" / one.name)
        archive = folder / "heads" / f"{study.name}-{one.name}.zip"
        push_head(folder / "heads" / one.name, archive)
        archives.append(archive)
    return archives
