"""Cards: scores with their protocol, intervals in words, the card as Markdown, parameters from text, and pixels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import histomix as hm
from histomix.cli.app import app
from histomix.errors import HeadError, HistomixError
from histomix.heads import (
    HEADS,
    RidgeRegressor,
    assemble,
    card_markdown,
    head_readme,
    load_head,
    parse_settings,
    train,
)
from histomix.heads.cards.card import inner_scores
from histomix.heads.cards.text import card_terms

from .conftest import Job
from .test_head_files import DONORS, MPP, TYPES, cohort_of, features_of, labels_of


@pytest.fixture
def parts() -> tuple[Any, Any, Any]:
    features = {name: features_of(name) for name in DONORS}
    return cohort_of(DONORS), features, {name: labels_of(table) for name, table in features.items()}


# scores


def test_without_an_evaluation_the_card_has_the_score_of_the_inner_splits(parts: Any) -> None:
    card = train(*parts, head="knn").card
    scores = card["scores"]
    assert scores["protocol"] == "held-out sections" and "inner splits" in scores["source"]
    assert (scores["n_sections"], scores["n_donors"], scores["n_spots"]) == (3, 2, 120)
    training = assemble(*parts)
    rows = training.donor == "B"
    fitted = hm.heads.make_estimator("knn").fit(training.X[~rows], training.Y[~rows])
    held_out = np.full(training.Y.shape, np.nan)
    held_out[rows] = fitted.predict(training.X[rows])
    found = inner_scores(training, held_out, "donors")
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(held_out[rows].T, training.Y[rows].T, strict=True)]
    assert found is not None and list(found["pearson"]["by_type"]) == TYPES
    np.testing.assert_allclose(list(found["pearson"]["by_type"].values()), expected, atol=1e-4)
    error = np.sqrt(np.square(held_out[rows] - training.Y[rows]).mean(axis=0)).mean()
    assert found["rmse"]["mean"] == pytest.approx(error, abs=1e-5)
    assert inner_scores(training, np.full(training.Y.shape, np.nan), "donors") is None


def test_an_evaluation_gives_its_scores_of_this_head_with_their_protocol(parts: Any) -> None:
    for table in parts[1].values():
        table.obs[["x_px", "y_px"]] = table.obsm["spatial"]
    found = hm.evaluate(*parts, heads=["knn"], folds="section", spatial=False)
    scores = train(*parts, head="knn", scores=found.summary).card["scores"]
    assert scores["protocol"] == "section folds" and "optimistic" in scores["protocol_means"]
    assert scores["pearson"]["mean"] == pytest.approx(found.summary["scores"]["label"]["knn"]["pearson"]["mean"])
    assert (scores["n_donors"], scores["n_sections"], scores["n_spots"]) == (2, 3, 120)
    assert list(scores["pearson"]["by_type"]) == TYPES
    with pytest.raises(HeadError, match=r"no scores of the head 'mlp'.*--heads mlp"):
        train(*parts, head="mlp", scores=found.summary)
    for name, value in (("unit", "cells per spot"), ("cell_types", TYPES[:2])):
        with pytest.raises(HeadError, match=f"evaluation is of other {name.replace('_', ' ')}"):
            train(*parts, head="knn", scores={**found.summary, name: value})
    other = {"encoders": [{"name": "another", "digest": "sha256:x"}]}
    with pytest.raises(HeadError, match="other encoders"):
        train(*parts, head="knn", scores={**found.summary, "features": other})


# intervals


def test_the_card_says_what_the_intervals_are(parts: Any, tmp_path: Path) -> None:
    head = train(*parts, head="knn", out=tmp_path / "head", level=0.8)
    facts = head.card["calibration"]
    assert (facts["level"], facts["kind"], facts["n_donors"], facts["n_spots"]) == (0.8, "section", 2, 120)
    assert list(facts["coverage"]["by_type"]) == TYPES and "calibrated on 3 sections of 2 donors" in facts["statement"]
    again = load_head(tmp_path / "head")
    slide = features_of("S9")
    for one, two in zip((again.output(slide).lower, again.output(slide).upper), _ends(head, slide), strict=True):
        np.testing.assert_array_equal(one, two)
    assert again.intervals is not None and again.intervals.facts() == facts


def _ends(head: Any, slide: Any) -> tuple[np.ndarray, np.ndarray]:
    found = head.output(slide)
    return found.lower, found.upper


@pytest.mark.parametrize(
    ("donors", "level", "kind", "words"),
    [
        ({"A1": "A", "A2": "A"}, 0.9, "section", "say nothing of the spread between donors"),
        ({"A1": "A"}, 0.9, None, "no intervals: one section cannot tell"),
        (DONORS, None, None, "no intervals: none were asked for"),
    ],
)
def test_with_too_little_to_calibrate_on_the_card_says_so(donors: Any, level: Any, kind: Any, words: str) -> None:
    features = {name: features_of(name) for name in donors}
    labels = {name: labels_of(table) for name, table in features.items()}
    head = train(cohort_of(donors), features, labels, head="ridge", level=level)
    facts = head.card["calibration"]
    if kind is None:
        assert facts is None and head.intervals is None and words in head.card["limits"]
        assert head.output(features_of("S9")).lower is None
    else:
        assert facts["kind"] == kind and facts["n_donors"] == 1 and words in facts["statement"]


def test_intervals_cover_held_out_donors_of_the_phantom(tmp_path: Path) -> None:
    """Each donor is predicted by a head trained on the others: nine labels in ten lie inside, within five points."""
    sheet = hm.make_phantom(
        tmp_path / "p", seed=1, donors=4, sections_per_donor=1, size_um=(900, 900), mpp=1.0, counts=False
    )
    cohort = hm.read_cohort(sheet)
    # One turn of each tile is enough, and the spots lie right.
    features = hm.embed(cohort, hm.load_encoder("builtin", views=1), check_alignment=False)
    truth = hm.datasets.phantom_truth(sheet.parent)
    labels = {}
    for name, table in truth.items():
        values = table.values[table.values.sum(axis=1) > 0]
        labels[name] = hm.Abundance(values.div(values.sum(axis=1), axis=0), "proportion")
    training = assemble(cohort, features, labels)
    coverage = []
    for donor in np.unique(training.donor):
        rows = training.donor != donor
        head = RidgeRegressor().fit(training.X[rows], training.Y[rows], training.donor[rows])
        held_out, spread = hm.heads.held_out_predictions(head, training.X[rows], training.Y[rows], training.donor[rows])
        fit = hm.heads.calibrate(training.Y[rows], held_out, spread, training.donor[rows])
        lower, upper = fit.bounds(head.predict(training.X[~rows]), None)
        coverage.append(((training.Y[~rows] >= lower) & (training.Y[~rows] <= upper)).mean())
    assert 0.85 < np.mean(coverage) < 0.95


# the card as Markdown


def test_the_card_in_words(parts: Any) -> None:
    head = train(*parts, head="ridge")
    text = head.card_markdown()
    assert text == card_markdown(head.card) and text.startswith("# ridge-fake\n") and text.endswith("\n")
    for words in (
        "Predicts 3 cell types (proportion)",
        "trained on 120 spots of 3 sections from 2 donors. Tissue: breast.",
        "Cancer, T cell, Stroma.",
        "- Donors: A, B",
        "- Sections (spots): A1 (40), A2 (40), B1 (40)",
        "- Labels of A1, A2, B1: by hand, proportion",
        "| fake | 1 | 112 px at 0.5 um/px (56 um) | 12 | 1 | MIT | not declared |",
        "It looks at each tile alone.",
        "Protocol: held-out sections",
        "calibrated on 3 sections of 2 donors (120 spots)",
        "Not for diagnosis.",
        head.card["intended_use"],
        f"- alpha_: `{head.card['head']['fitted']['alpha_']}`",
        head.card["digest"],
    ):
        assert words in text, words
    sections = re.findall(r"^## (.*)$", text, re.M)
    expected = (
        "Cell types, Training data, What it sees, Scores, Levels of slides, Answers, Intervals, Intended use, Limits, "
        "Made with"
    )
    assert ", ".join(sections) == expected
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_names_from_files_cannot_break_the_markdown(parts: Any) -> None:
    card = json.loads(json.dumps(train(*parts, head="ridge").card))
    card["encoders"][0]["name"] = card["encoder_licences"][0]["encoder"] = "a|b<script>"
    card["scores"] = card["calibration"] = None
    card["training"]["cell_types_without_labels"] = ["T cell"]
    text = card_markdown(card)
    assert "a\\|b&lt;script>" in text and "<script>" not in text
    assert "None: it was not evaluated." in text and "never predicted: T cell." in text

    # In all that is rendered of it, wherever it stands: no HTML, no link, no heading, no line of its own.
    hostile = "<b>[x](javascript:1)\n# y `z` | $q$"
    spots = card["training"]["sections"]
    card["training"] |= {"donors": [hostile], "sections": {hostile: 1, **spots}, "dropped": {hostile: {hostile: 1}}}
    card["training"]["labels"][0]["provenance"] = {"method": hostile}
    card |= dict.fromkeys(("name", "unit", "tissue", "limits", "intended_use", "histomix", "digest"), hostile)
    card |= {"cell_types": [hostile], "files": {hostile: hostile}, "versions": {hostile: hostile}}
    card["head"] |= {"kind": hostile, "own_choices": {hostile: hostile}}
    for text in (card_markdown(card), head_readme(card).split("\n---\n", 1)[1]):
        assert "<b>" not in text and not re.search(r"(?<!\\)\[x\]\(", re.sub(r"`[^`\n]*`", "", text))
        assert not re.search(r"^# y|^- # y", text, re.M)
        for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert hostile.split("\n")[0] not in head_readme(card)


def test_the_readme_counts_donors_and_sections(parts: Any) -> None:
    card = train(*parts, head="ridge").card
    text = head_readme(card)
    assert "- Donors: 2\n- Sections: 3\n- Spots: 120\n- Labels by by hand" in text
    assert not re.search(r"\b(A1|A2|B1)\b", text)
    for line in card_terms(card):
        assert line.split(": ")[-1].removesuffix(" (commercial use not declared)") in text


# parameters


def test_parameters_are_read_by_their_kind() -> None:
    texts = ["n_neighbors=7", "smooth_um=80", "rings_um=150,300"]
    assert parse_settings("knn", texts) == {"n_neighbors": 7, "smooth_um": 80, "rings_um": (150, 300)}
    assert parse_settings("knn", ["rings_um=150", "smooth_um = 0.5"]) == {"rings_um": (150,), "smooth_um": 0.5}
    assert parse_settings("mlp", ["epochs=none", "hidden=64,32"]) == {"epochs": None, "hidden": (64, 32)}
    assert parse_settings("ridge", ["alpha=none", "rings_um=()"]) == {"alpha": None, "rings_um": ()}
    assert parse_settings("mlp", ["rings_um=", "slide_scale=false"]) == {"rings_um": (), "slide_scale": False}
    for head, text, message in (
        ("knn", "n_neighbors=many", r"n_neighbors is int \| None; 'many' is not that"),
        ("knn", "n_neighbors=true", "n_neighbors is int"),
        ("knn", "n_neighbors", "is not NAME=VALUE.*n_neighbors, n_components"),
        ("knn", "gamma=1", "no parameter 'gamma' to set"),
        ("mlp", "seed=1", "no parameter 'seed' to set"),
        ("forest", "a=1", "no head named 'forest'"),
    ):
        with pytest.raises(HeadError, match=message):
            parse_settings(head, [text])


def test_train_takes_parameters_scores_and_a_level(job: Job, tmp_path: Path) -> None:
    run, out = CliRunner(), str(tmp_path / "head")
    data = [str(job.sheet), "--features", str(job.features), "--labels", str(job.labels)]
    evaluated = run.invoke(app, ["evaluate", *data, "--heads", "ridge", "--out", str(tmp_path / "eval"), "--json"])
    assert evaluated.exit_code == 0, evaluated.output
    options = ["--head", "ridge", "--set", "alpha=0.5", "--set", "smooth_um=60", "--level", "0.8"]
    found = run.invoke(app, ["train", *data, *options, "--scores", str(tmp_path / "eval"), "--out", out])
    assert found.exit_code == 0, found.output
    assert "Intervals of level 0.80" in found.output
    card = load_head(out).card
    assert card["head"]["parameters"]["alpha"] == 0.5 and card["head"]["parameters"]["smooth_um"] == 60
    assert card["scores"]["protocol"] == "donor folds" and card["calibration"]["level"] == 0.8
    assert run.invoke(app, ["train", *data, "--set", "nothing=1", "--out", out]).exit_code == 2
    assert run.invoke(app, ["train", *data, "--scores", str(tmp_path), "--out", out]).exit_code == 2
    plain = run.invoke(app, ["train", *data, "--head", "ridge", "--level", "0", "--out", out, "--json"])
    assert json.loads(plain.stdout)["card"]["calibration"] is None


def test_help_names_every_head() -> None:
    text = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "300"}).output
    for name in HEADS:
        assert re.search(rf"\b{name}\b", text), name


# pixels


def test_rows_bring_their_pixels_from_the_slides(tmp_path: Path) -> None:
    cohort = cohort_of({"A1": "A", "B1": "B"})
    features = {name: features_of(name, n=12) for name in cohort.names}
    labels = {name: labels_of(table) for name, table in features.items()}
    assert assemble(cohort, features, labels).positions.tiles is None
    pictures = {}
    for row in cohort.rows:
        pictures[row.section] = np.random.default_rng(len(pictures)).integers(0, 255, (4000, 4000, 3)).astype(np.uint8)
        row.image = tmp_path / f"{row.section}.png"
        Image.fromarray(pictures[row.section]).save(row.image, compress_level=0)
        features[row.section].obsm["spatial"] = np.floor(features[row.section].obsm["spatial"])
    training = assemble(cohort, features, labels)
    positions = training.positions[np.array([20, 3, 15])]
    assert positions.tiles is not None
    tiles = positions.tiles(np.array([0, 1, 2, 1]))
    assert tiles.shape == (4, 112, 112, 3) and tiles.dtype == np.uint8
    np.testing.assert_array_equal(tiles[1], tiles[3])
    for tile, row in zip(tiles, (20, 3, 15), strict=False):
        x, y = (training.xy_um[row] / MPP).astype(int)
        window = np.pad(pictures[training.section[row]], ((56, 56), (56, 56), (0, 0)), constant_values=255)
        np.testing.assert_array_equal(tile, window[y : y + 112, x : x + 112])
    cohort.rows[0].image.unlink()
    with pytest.raises(HistomixError, match=r"A1\.png"):
        positions.tiles(np.array([1]))
