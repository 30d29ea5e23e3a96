"""Encoders, heads and cohorts on the same folds: runs, ranking, paired tests and the page."""

from .parts import BenchmarkCohort
from .result import Benchmark
from .run import run_benchmark

__all__ = ["Benchmark", "BenchmarkCohort", "run_benchmark"]
