"""The demo: which cohort it takes, and the whole job on the phantom."""

from __future__ import annotations

from pathlib import Path

import pytest

from histomix.errors import InputError
from histomix.road import demo


def test_an_unknown_cohort_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no demo cohort 'her3st'"):
        demo(tmp_path / "demo", cohort="her3st")


@pytest.mark.parametrize("folder", [None, "empty"])
def test_her2st_that_is_not_there_is_refused(
    folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HISTOMIX_DATA", raising=False)
    if folder is not None:
        monkeypatch.setenv("HISTOMIX_DATA", str(tmp_path / folder))
    with pytest.raises(InputError, match="HISTOMIX_DATA") as caught:
        demo(tmp_path / "demo", cohort="her2st")
    assert "--cohort phantom" in str(caught.value)
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_the_phantom_demo_beats_the_mean_and_approaches_the_labels(tmp_path: Path) -> None:
    said: list[str] = []
    result = demo(tmp_path, cohort="phantom", say=said.append)
    assert result.report == tmp_path / "report" / "index.html" and result.report.is_file()
    assert (tmp_path / "viewer" / "index.html").is_file()
    assert 'href="../viewer/index.html"' in result.report.read_text(encoding="utf-8")
    score = {head: entry["pearson"]["mean"] for head, entry in result.summary["scores"]["truth"].items()}
    assert score["mean"] == 0
    assert 0.5 < score["ridge"] - 0.02 < score["mlp"] < score["label"]
    assert any("against the truth" in line for line in said)
    again = demo(tmp_path, cohort="phantom")
    assert again.summary["scores"] == result.summary["scores"]
