"""A slice of the corpus of damaged and hostile inputs; ``make torture`` runs all of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import histomix

from .extras import extra_module
from .torture.case import NEVER
from .torture.families import FAMILIES
from .torture.judge import error_fault, wrong_numbers

pytestmark = pytest.mark.once

#: How many cases: about a minute of one core.
FEW = 45
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What came of the slice. It runs in a process without threads, since its children are forks of it."""
    extra_module("onnx", "onnx")
    extra_module("st", "pyarrow")
    extra_module("remote", "aiohttp")
    if not hasattr(os, "fork"):
        pytest.skip("needs a system that can fork")
    answer = tmp_path_factory.mktemp("torture") / "outcomes.json"
    command = [sys.executable, "-m", "tests.torture", "--few", str(FEW), "--json", str(answer)]
    paths = os.pathsep.join([str(Path(histomix.__file__).parent.parent), str(ROOT)])
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert answer.is_file(), done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(answer.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_no_damage_is_turned_into_data(outcomes: list[dict[str, Any]], family: str) -> None:
    mine = [one for one in outcomes if one["family"] == family]
    assert mine
    bad = [f"{one['kind']}: {one['name']}: {one['detail']}" for one in mine if one["kind"] in NEVER]
    assert not bad, "\n".join(bad)


def test_the_corpus_is_large_and_each_case_is_one_of_its_own() -> None:
    names = [case.name for family in FAMILIES.values() for case in family.cases()]
    assert len(names) >= 1000
    assert len(set(names)) == len(names)


class TestJudge:
    WHOLE = pd.DataFrame({"a": [1.0, 2.0, np.nan]}, index=["x", "y", "z"])

    def test_the_same_numbers_are_right(self) -> None:
        assert not wrong_numbers(self.WHOLE.iloc[::-1], self.WHOLE, 1e-6, told=False)

    @pytest.mark.parametrize("told", [False, True])
    def test_other_numbers_and_more_rows_are_wrong(self, told: bool) -> None:
        assert "2 rows are wrong" in wrong_numbers(self.WHOLE * 2, self.WHOLE, 1e-6, told).replace("2 of 3", "2")
        more = pd.concat([self.WHOLE, self.WHOLE.set_axis(["u", "v", "w"])])
        assert "made up" in wrong_numbers(more, self.WHOLE, 1e-6, told)
        assert "more than once" in wrong_numbers(pd.concat([self.WHOLE, self.WHOLE]), self.WHOLE, 1e-6, told)

    def test_less_is_right_only_where_it_was_told(self) -> None:
        for less in (self.WHOLE.iloc[1:], self.WHOLE * np.nan, self.WHOLE[[]]):
            assert "lost" in wrong_numbers(less, self.WHOLE, 1e-6, told=False)
            assert not wrong_numbers(less, self.WHOLE, 1e-6, told=True)

    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("error: out/a.csv: has no rows. Fill it in.", ""),
            ("failed: a.csv: has no rows. Fill it in.", ""),
            ("error: a.csv: has no rows.", "no hint"),
            ("error: b.csv: has no rows. Fill it in.", "the file is not named"),
            ("error: a.csv: cannot be read (KeyError('x')). Fill it in.", "it speaks of KeyError"),
            ("nothing", "no error is named"),
        ],
    )
    def test_an_error_says_what_where_and_how(self, text: str, fault: str) -> None:
        assert error_fault(text, "", ["out/a.csv"]) == fault
