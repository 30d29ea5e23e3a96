"""``histomix evaluate`` as a user types it: protocols, a second cohort, a strict audit, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from .command_line import histomix
from .conftest import Job


@pytest.fixture(scope="module")
def job(small_job: Job) -> Job:
    """What the command says is the same whatever the number of spots."""
    return small_job


@pytest.fixture
def command(job: Job) -> list[object]:
    return [*("evaluate", job.sheet, "--features", job.features, "--labels", job.labels), *("--heads", "ridge")]


def test_protocols_groups_and_words(job: Job, command: list[object], tmp_path: Path) -> None:
    types = list(pd.read_csv(job.labels / "P1S1.csv", index_col=0))
    groups = tmp_path / "groups.yaml"
    groups.write_text(json.dumps({"Epithelial": types[:2], "Other": types[2:]}))
    out = tmp_path / "evaluation"
    code, said, _ = histomix(*command, "--folds", "donor,random", "--n-folds", 2, "--groups", groups, "--out", out)
    assert code == 0
    for words in ("donor folds (held-out donors)", "against the labels", "what the protocol adds", "share", "nuclei"):
        assert words in said
    assert "2 donors are too few to tell: the smallest two-sided p that they can give is 2/4 = 0.5" in said
    assert "intervals of level 0.90" not in said or "hold" in said
    metrics = pd.read_csv(out / "metrics.csv", keep_default_na=False)
    assert set(metrics["protocol"]) == {"donor", "random"}
    assert {"Epithelial", "Other"} == set(metrics.loc[metrics["metric"] == "pearson_group", "cell_type"])
    assert not (job.features / "nuclei").exists(), "inputs are only read"
    summary = json.loads((out / "summary.json").read_text())
    assert {one["protocol"] for one in summary["inflation"]} == {"donor", "random"}
    assert summary["probe"]["chance"] == 0.5 and summary["tests"] and summary["detectability"]


def test_a_strict_audit_refuses_before_any_work(job: Job, command: list[object], tmp_path: Path) -> None:
    out = tmp_path / "evaluation"
    code, _, said = histomix(*command, "--folds", "section", "--strict", "--out", out)
    # Every donor of this phantom has one section, so even these folds are clean.
    assert code == 0, said
    sheet = tmp_path / "sheet.csv"
    table = pd.read_csv(job.sheet)
    for column in ("spots", "image"):
        table[column] = [(job.sheet.parent / name).resolve() for name in table[column]]
    table.assign(donor=["P-1", "p1"]).to_csv(sheet, index=False)
    words = [sheet if word == job.sheet else word for word in command]
    code, _, said = histomix(*words, "--strict", "--out", out)
    assert code == 2 and "donors P-1 and p1 stand on either side of a fold" in said and "--strict" in said


def test_a_second_cohort(job: Job, command: list[object], tmp_path: Path) -> None:
    table = pd.read_csv(job.sheet)
    for column in ("spots", "image"):
        table[column] = [(job.sheet.parent / name).resolve() for name in table[column]]
    sheets = []
    for row in range(2):
        sheets.append(tmp_path / f"{row}.csv")
        table.iloc[[row]].to_csv(sheets[-1], index=False)
    words = [sheets[0] if word == job.sheet else word for word in command]
    more = ["--test-sheet", sheets[1], "--test-features", job.features, "--test-labels", job.labels]
    code, said, error = histomix(*words, *more, "--no-nuclei", "--out", tmp_path / "out", "--strict")
    assert code == 0, error
    assert "transfer folds (trained on one cohort, tested on another)" in said
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["sections"] == [table["section"][1]] and summary["donors"] == [table["donor"][1]]
    code, _, said = histomix(*words, *more[:2], "--out", tmp_path / "again")
    assert code == 2 and "--test-features" in said
