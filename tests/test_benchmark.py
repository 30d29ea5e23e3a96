"""Encoders x heads on the same spots and folds: resumed, ranked, costed, and told in words."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import histomix as hm
from histomix.benchmark import Benchmark, BenchmarkCohort, run_benchmark
from histomix.benchmark.page import write_benchmark_page
from histomix.benchmark.parts import common_spots
from histomix.benchmark.slide_means import METRICS, WORDS, slide_table
from histomix.encoders import card, register_encoder
from histomix.encoders import user as user_module
from histomix.errors import HistomixError, InputError, UnknownHeadError
from histomix.slides import TileSpec

from .conftest import Job
from .extras import needs_extra


@pytest.fixture(scope="module")
def job(small_job: Job) -> Job:
    """What a benchmark does with its encoders and heads does not depend on how many spots there are."""
    return small_job


class Colours:
    """Mean and spread of each channel of a tile: six features, in no time."""

    digest = "sha256:" + "0" * 64
    views = 1
    dim = 6

    def __init__(self, name: str) -> None:
        self.card = dataclasses.replace(card("builtin"), name=name, dim=6, size_px=56, mpp=2.0, source="python")

    def tile_spec(self) -> TileSpec:
        return TileSpec(56, 2.0)

    def embed(self, tiles: np.ndarray) -> np.ndarray:
        pixels = tiles.reshape(len(tiles), -1, 3).astype(np.float32)
        return np.concatenate([pixels.mean(axis=1), pixels.std(axis=1)], axis=1)


class Blind(Colours):
    """Fails on every tile."""

    def embed(self, tiles: np.ndarray) -> np.ndarray:
        return np.full((len(tiles), 6), np.nan, np.float32)


@pytest.fixture(autouse=True)
def encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_module, "_registered", {})
    for one in (Colours("colours"), Colours("shades"), Blind("blind")):
        register_encoder(one.card, lambda one=one, **_options: one)


def _cohort(job: Job, **changes: Any) -> BenchmarkCohort:
    cohort = hm.read_cohort(job.sheet)
    return BenchmarkCohort("phantom", cohort, changes.pop("labels", None) or hm.read_labels(job.labels), **changes)


def _run(job: Job, out: Path, *names: str, **options: Any) -> Benchmark:
    cohort = options.pop("cohort", None) or _cohort(job)
    options.setdefault("nuclei", False)
    return run_benchmark([cohort], out, names or ("colours", "shades", "colours+shades"), ["knn"], **options)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmark")


@pytest.fixture
def found(job: Job, place: Path) -> Benchmark:
    """Made once: every later call resumes it."""
    return _run(job, place)


def test_every_encoder_and_head_is_scored_over_the_same_spots(found: Benchmark, place: Path) -> None:
    table = found.table
    assert set(table["encoder"]) == {"colours", "shades", "colours+shades"}
    assert {"mean", "ridge", "knn"} <= set(table["head"])
    spots = table[table["metric"] == "pearson"].groupby(["section", "cell_type"])["n_spots"].nunique()
    assert (spots == 1).all()
    pd.testing.assert_frame_equal(
        pd.read_csv(place / "results.csv", keep_default_na=False, na_values={"value": [""]}), table, check_dtype=False
    )


@needs_extra("st", "pyarrow")
def test_the_table_is_written_as_parquet_too(found: Benchmark, place: Path) -> None:
    pd.testing.assert_frame_equal(pd.read_parquet(place / "results.parquet"), found.table, check_dtype=False)


def test_the_ranking_is_that_of_the_table(found: Benchmark) -> None:
    ranking = found.ranking
    table = found.table[(found.table["metric"] == "pearson") & (found.table["target"] == "label")]
    for row in ranking.to_dict("records"):
        rows = table[(table["head"] == row["head"]) & table["encoder"].isin([row["encoder"] or "colours"])]
        assert row["pearson"] == pytest.approx(rows.groupby("section")["value"].mean().mean(), abs=1e-12)
    assert ranking["pearson"].is_monotonic_decreasing and ranking["rank"].tolist() == list(range(1, len(ranking) + 1))
    assert ranking.loc[0, "minus_best"] == 0
    gaps = ranking["pearson"] - ranking.loc[0, "pearson"]
    np.testing.assert_allclose(ranking["minus_best"], gaps, atol=1e-12)
    constant = ranking[ranking["head"] == "mean"]
    assert constant["encoder"].tolist() == [""], "a head that reads no features stands once"
    same = ranking[(ranking["head"] == "ridge") & ranking["encoder"].isin(["colours", "shades"])]
    assert same["pearson"].nunique() == 1, "two names of one encoder have one score"
    assert same["level_with_best"].nunique() == 1


def test_means_of_slides_stand_in_the_ranking_and_on_the_page(found: Benchmark, job: Job, tmp_path: Path) -> None:
    by_section = found.table[found.table["target"] == "label"].groupby(["metric", "encoder", "head", "section"])
    means = by_section["value"].mean().groupby(level=[0, 1, 2]).mean()
    every = sorted(set(found.table.loc[found.table["metric"] == "slide_mae", "cell_type"]))
    rows = found.ranking[found.ranking["encoder"] != ""]
    assert (rows["slide_mae_low"] < rows["slide_mae"]).all() and (rows["slide_mae"] < rows["slide_mae_high"]).all()
    for row in rows.to_dict("records"):
        for metric in ("slide_mae", "slide_mae_constant"):
            assert row[metric] == pytest.approx(means[metric, row["encoder"], row["head"]])
        types = [name for column in WORDS for name in filter(None, row[column].split(", "))]
        assert sorted(types) == every, "a word stands at each type"
    assert found.page is not None
    text = found.page.read_text(encoding="utf-8")
    assert text.count(">Means of slides<") == 1 and f"{rows['slide_mae'].iloc[0]:.3f}<small>" in text
    # Order and spread take three slides, which this cohort has not: they are not known, and no page says 0.
    assert rows["slide_spearman"].isna().all() and rows["spread_kept_low"].isna().all()
    three = dict.fromkeys((f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")), 0.25)
    told = slide_table([{**rows.to_dict("records")[0], **three, "between_slides": "T, B"}])
    assert told[0][3] == ("0.250", "0.250 to 0.250") and told[0][5] == ("T, B", "")


def test_each_encoder_is_shown_with_its_robustness(found: Benchmark) -> None:
    (facts,) = found.summary["robustness"].values()
    rows = found.ranking[found.ranking["encoder"] != ""]
    assert set(facts) == set(rows["encoder"]) and {one["confounder"] for one in facts.values()} == {"donor"}
    for row in rows.to_dict("records"):
        for name in ("ri", "croma"):
            expected = facts[row["encoder"]][name]
            assert row[name] == pytest.approx(np.nan if expected is None else expected, nan_ok=True)
    assert found.page is not None and "CRoMa" in found.page.read_text(encoding="utf-8")


def test_encoders_and_heads_are_compared_over_donors(found: Benchmark, place: Path) -> None:
    encoders = [one for one in found.tests if one["compared"] == "encoders"]
    heads = [one for one in found.tests if one["compared"] == "heads"]
    assert {one["fixed"] for one in encoders} == {"ridge", "knn"}, "the training mean needs no encoder"
    assert {one["fixed"] for one in heads} == {"colours", "shades", "colours+shades"}
    assert sum({one["a"], one["b"]} == {"mean", "ridge"} for one in heads) == 3
    ranking = found.ranking.set_index(["encoder", "head"])["pearson"]
    for one in encoders:
        gap = ranking[one["a"], one["fixed"]] - ranking[one["b"], one["fixed"]]
        assert one["difference"] == pytest.approx(gap, abs=1e-12)
        assert one["n_donors"] == 2 and "too few to tell" in one["statement"]
    assert len(pd.read_csv(place / "tests.csv")) == len(found.tests)


def test_joined_encoders_have_the_features_of_both(found: Benchmark) -> None:
    dims = found.ranking[found.ranking["head"] == "knn"].set_index("encoder")["dim"]
    assert dims["colours+shades"] == 12 and dims["colours"] == 6


def test_the_same_call_again_makes_nothing_and_gives_the_same(found: Benchmark, job: Job, place: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (place / "evaluations").rglob("summary.json")}
    again = _run(job, place)
    assert {path: path.stat().st_mtime_ns for path in (place / "evaluations").rglob("summary.json")} == before
    pd.testing.assert_frame_equal(again.ranking, found.ranking)
    assert again.statement == found.statement


def test_changed_labels_are_scored_anew(job: Job, tmp_path: Path) -> None:
    before = _run(job, tmp_path, "colours").ranking
    labels = hm.read_labels(job.labels)
    turned = {
        name: dataclasses.replace(one, values=one.values.set_axis(one.values.index[::-1]), sd=None, median=None)
        for name, one in labels.items()
    }
    after = _run(job, tmp_path, "colours", cohort=_cohort(job, labels=turned)).ranking
    ridge = [table.set_index("head").loc["ridge", "pearson"] for table in (before, after)]
    assert ridge[0] - ridge[1] > 0.1


def test_another_seed_is_scored_anew(job: Job, tmp_path: Path) -> None:
    summary = tmp_path / "evaluations" / "phantom" / "colours" / "donor" / "summary.json"
    for seed in (0, 1):
        _run(job, tmp_path, "colours", seed=seed)
        assert json.loads(summary.read_text())["seed"] == seed


def test_a_damaged_result_is_made_again(job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = _run(job, tmp_path, "colours")
    (tmp_path / "evaluations" / "phantom" / "colours" / "donor" / "metrics.csv").write_text("nothing\n")
    after = _run(job, tmp_path, "colours")
    assert "metrics.csv" in caplog.text
    pd.testing.assert_frame_equal(before.table, after.table)


def test_an_encoder_that_fails_is_named_and_the_others_are_scored(job: Job, tmp_path: Path) -> None:
    found = _run(job, tmp_path, "blind", "colours", "blind+colours")
    assert set(found.table["encoder"]) == {"colours"}
    assert len(found.failures) == 1 and "phantom, blind" in str(found.failures[0])
    assert found.summary["failures"] == [str(found.failures[0])]
    with pytest.raises(HistomixError, match="phantom, blind"):
        _run(job, tmp_path / "none", "blind")


def test_each_cohort_is_tested_by_heads_of_each_other(job: Job, tmp_path: Path) -> None:
    whole = _cohort(job)
    parts = [
        BenchmarkCohort(name, whole.cohort.subset([section]), {section: whole.labels[section]})
        for name, section in zip(("a", "b"), whole.cohort.names, strict=True)
    ]
    options: dict[str, Any] = {"folds": ["transfer"], "nuclei": False}
    found = run_benchmark(parts, tmp_path, ["colours"], ["knn"], **options)
    assert set(found.table["cohort"]) == {"a to b", "b to a"} and set(found.table["protocol"]) == {"transfer"}
    sections = {"a to b": whole.cohort.names[1], "b to a": whole.cohort.names[0]}
    for name, rows in found.table.groupby("cohort"):
        assert set(rows["section"]) - {""} == {sections[str(name)]}
    # One head of the first cohort, made by hand, scores the same on the second.
    features = {part.name: hm.read_features(tmp_path / "features" / part.name / "colours") for part in parts}
    head = hm.train(parts[0].cohort, features["a"], parts[0].labels, head="ridge")
    predicted = head.predict_features([features["b"][sections["a to b"]]])
    labels = parts[1].labels[sections["a to b"]].values
    expected = predicted.loc[labels.index].corrwith(labels).mean()
    row = found.ranking.query("cohort == 'a to b' and head == 'ridge'")
    assert row["pearson"].item() == pytest.approx(expected, abs=1e-4)
    assert "Trained on one cohort" in found.statement
    with pytest.raises(InputError, match="need two cohorts"):
        run_benchmark(parts[:1], tmp_path / "one", ["colours"], ["knn"], **options)


def test_only_spots_that_every_encoder_could_read_take_part(job: Job) -> None:
    cohort = _cohort(job)
    whole, holed = hm.read_features(job.features), hm.read_features(job.features)
    name = cohort.cohort.names[0]
    holed[name].X[:7] = np.nan
    labels, left_out = common_spots(cohort, [whole, holed])
    assert left_out == 7
    kept = cohort.labels[name].values.index.difference(holed[name].obs_names[:7])
    assert set(labels[name].values.index) == set(kept)
    for other in cohort.cohort.names[1:]:
        pd.testing.assert_frame_equal(labels[other].values, cohort.labels[other].values)


def test_what_cannot_be_run_is_refused_before_any_work(job: Job, tmp_path: Path) -> None:
    cohort = _cohort(job)
    for cohorts, names, heads, protocols, message in (
        ([], ["colours"], ["knn"], ["donor"], "no cohort was named"),
        ([cohort, cohort], ["colours"], ["knn"], ["donor"], "'phantom' stands twice|stands twice"),
        ([cohort], ["colours", "colours"], ["knn"], ["donor"], "the encoder 'colours' stands twice"),
        ([cohort], ["colours"], ["../knn"], ["donor"], "no head named '../knn'"),
        ([cohort], ["colours"], ["default", "average"], ["donor"], "the head 'average' stands twice"),
        ([cohort, dataclasses.replace(cohort, name="PHANTOM")], ["colours"], ["knn"], ["donor"], "stands twice"),
        ([cohort], ["colours"], ["knn"], ["patient"], "no folds called 'patient'"),
    ):
        with pytest.raises((InputError, UnknownHeadError), match=message):
            run_benchmark(cohorts, tmp_path / "out", names, heads, protocols)
    assert not (tmp_path / "out").exists()


def test_the_statement_says_how_the_numbers_were_made(found: Benchmark) -> None:
    text = found.statement
    for words in (
        "Leave-one-donor-out",
        "2 donors",
        "colours: 6 features",
        "No choice was made on a test spot",
        "Seed 0",
    ):
        assert words in text
    assert "Limits" not in text and len(text) < 6000


def test_the_page_opens_from_disk_and_escapes_names(found: Benchmark, job: Job, tmp_path: Path) -> None:
    hostile = dataclasses.replace(found, summary={**found.summary, "failures": ["<script>alert(1)</script>"]})
    page = write_benchmark_page(hostile, tmp_path)
    text = page.read_text()
    assert "<h3>Models and selection</h3>" in text and "## " not in text and "**" not in text
    assert "<script" not in text and "&lt;script&gt;" in text
    assert not re.findall(r'(?:src|href)="(?!#)', text) and "url(" not in text
    assert text.count('class="dot') == len(found.ranking)
