"""Planning: what one more donor brings, which slide is next, and when nothing can be told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import histomix as hm
from histomix.cli.app import app
from histomix.errors import InputError
from histomix.evaluation.data import CohortData, evaluation_data
from histomix.heads import TrainingSet, make_estimator
from histomix.studies.donor_curve import MEAN, curve_sizes, donor_curve, n_fits
from histomix.studies.next_slide import slide_scores

from .conftest import Job

pytestmark = pytest.mark.once


def made(n_donors: int, shift: float = 0.6, n_spots: int = 30, seed: int = 0) -> TrainingSet:
    """Donors whose features are moved by something that a head can only learn to look past from many of them."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(12, 3))
    X, Y, donor = [], [], []
    for number in range(n_donors):
        seen = rng.normal(size=(n_spots, 12))
        X.append(seen + shift * rng.normal(size=12))
        Y.append(seen @ weights + rng.normal(size=(n_spots, 3)))
        donor += [f"P{number}"] * n_spots
    names = np.array(donor)
    return TrainingSet(
        X=np.concatenate(X).astype(np.float32),
        Y=np.exp(np.concatenate(Y) / 4),
        keys=np.arange(len(names)).astype(str),
        section=names,
        donor=names,
        xy_um=rng.uniform(0, 2000, (len(names), 2)),
        cell_types=["A", "B", "C"],
        unit="cells per spot",
        features={"encoders": []},
    )


def test_the_curve_rises_with_donors_and_says_what_one_more_brings() -> None:
    training = made(5)
    steps: list[int] = []
    curve = donor_curve(training, make_estimator("ridge", training.unit), step=lambda: steps.append(1))
    assert len(steps) == n_fits(5)
    means = curve.points[curve.points["cell_type"] == MEAN].set_index("n_donors")["mean"]
    assert means.index.tolist() == curve_sizes(5) == [1, 2, 3, 4] and means.iloc[-1] > means.iloc[0]
    gains = curve.gains.set_index("cell_type")
    assert gains.index.tolist() == ["A", "B", "C", MEAN]
    assert (
        (gains["gain"] > 0).all() and (gains["low"] <= gains["gain"]).all() and (gains["gain"] <= gains["high"]).all()
    )
    assert (gains["gain_of_doubling"] > gains["gain"]).all()
    again = donor_curve(training, make_estimator("ridge", training.unit))
    pd.testing.assert_frame_equal(curve.gains, again.gains)


@pytest.mark.parametrize("n_donors", [1, 2, 3])
def test_under_four_donors_it_declines_and_says_why(n_donors: int) -> None:
    training = made(n_donors)
    with pytest.raises(InputError, match=f"cannot be told from {n_donors}: .* two points at most"):
        donor_curve(training, make_estimator("ridge", training.unit))


def test_the_command_declines_before_any_work(job: Job, tmp_path: Path) -> None:
    words = ["plan", str(job.sheet), "--features", str(job.features), "--labels", str(job.labels)]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "plan"), "--json"])
    assert done.exit_code == 2 and "cannot be told from 2" in json.loads(done.stdout)["error"]["what"]
    assert not (tmp_path / "plan").exists()


def test_a_slide_that_covers_what_is_not_labelled_goes_before_one_like_the_labelled() -> None:
    training = made(4, shift=0.0)
    rng = np.random.default_rng(1)
    far = rng.normal(size=12) * 3
    slides = {
        "alike": training.X[:40] + 0.01,
        "one of three elsewhere": (rng.normal(size=(40, 12)) + far).astype(np.float32),
        "another": (rng.normal(size=(40, 12)) + far).astype(np.float32),
        "a third": (rng.normal(size=(40, 12)) + far).astype(np.float32),
    }
    slides["another"][3] = np.nan
    table = slide_scores(training, slides, make_estimator("ridge", training.unit))
    assert table["slide"].tolist()[-1] == "alike" and table["score"].is_monotonic_decreasing
    assert table.set_index("slide").loc["another", "tiles"] == 39
    assert table.set_index("slide").loc["alike", "coverage"] < table["coverage"].max() / 3


def test_a_plan_of_a_cohort_names_the_slide(tmp_path: Path, job: Job) -> None:
    sheet = hm.make_phantom(
        tmp_path / "phantom", seed=8, donors=4, sections_per_donor=1, size_um=(420.0, 420.0), progress=False
    )
    hm.label(sheet, reference=sheet.parent / "reference.csv", out=tmp_path / "labels", progress=False)
    hm.embed(sheet, out=tmp_path / "features", progress=False)
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "new.tif").write_bytes(job.image.read_bytes())
    (tmp_path / "slides" / "broken.tif").write_bytes(b"II*\0broken")
    words = ["--features", tmp_path / "features", "--labels", tmp_path / "labels", "--slides", tmp_path / "slides"]
    done = CliRunner().invoke(app, ["plan", str(sheet), *map(str, words), "--out", str(tmp_path / "plan"), "--json"])
    assert done.exit_code == 1, "a slide could not be read"
    facts = json.loads(done.stdout)
    assert [one["slide"] for one in facts["slides"]] == ["new"] and "broken.tif" in facts["failures"][0]
    assert facts["donors"][-1]["cell_type"] == MEAN and facts["donors"][-1]["n_donors"] == 4
    for name in ("donors.csv", "curve.csv", "slides.csv", "plan.json", "page/index.html"):
        assert (tmp_path / "plan" / name).is_file(), name
    page = (tmp_path / "plan" / "page" / "index.html").read_text(encoding="utf-8")
    assert "<script" not in page and "new" in page


def test_features_of_other_weights_cannot_be_planned_with(job: Job) -> None:
    from histomix.studies.plan import _slide_features

    training = evaluation_data(CohortData.of(job.sheet, job.features, job.labels)).training
    facts = [{**one, "digest": "sha256:other"} for one in training.features["encoders"]]
    with pytest.raises(InputError, match="other weights of builtin"):
        _slide_features(
            dataclasses.replace(training, features={"encoders": facts}), [job.image], 0.5, None, 1, lambda *_: None
        )
