"""What a benchmark found, and its files."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ..common.naming import SPREADSHEET_NOTE, spreadsheet_table
from ..common.tables import write_parquet
from ..errors import HistomixError
from ..provenance import atomic_path, write_json

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
    page
        The page of them all, ``index.html``.
    """

    table: pd.DataFrame
    ranking: pd.DataFrame
    summary: dict[str, Any]
    statement: str
    tests: list[dict[str, Any]] = field(default_factory=list)
    failures: list[HistomixError] = field(default_factory=list)
    page: Path | None = None


def write_benchmark(benchmark: Benchmark, place: Path) -> None:
    """Write every file of a benchmark but its page."""
    tests = pd.DataFrame(benchmark.tests).reindex(columns=list(_TESTS))
    for name, table in ((TABLE, benchmark.table), (RANKING, benchmark.ranking), (TESTS, tests)):
        with atomic_path(place / name) as temporary:
            spreadsheet_table(table).to_csv(temporary, index=False, lineterminator="\n")
    if importlib.util.find_spec("pyarrow") is not None:
        with atomic_path((place / TABLE).with_suffix(".parquet")) as temporary:
            write_parquet(benchmark.table, temporary, index=False)
    with atomic_path(place / STATEMENT) as temporary:
        temporary.write_text(benchmark.statement, encoding="utf-8", newline="\n")
    write_json(place / SUMMARY, {**benchmark.summary, "csv": SPREADSHEET_NOTE})
