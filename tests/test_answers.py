"""Answers: node by node against a slow computation, their false discoveries on donors that chose nothing, and their
way through every file without ever becoming a cell type."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

import histomix as hm
from histomix.abundance import read_abundance
from histomix.abundance.groups import coarser_column
from histomix.cohort.measures import map_rows
from histomix.common.hierarchy import Hierarchy, read_hierarchy
from histomix.common.words import NO_ANSWERS, NOT_READ, NOT_TOLD, OUT_OF_SCOPE
from histomix.errors import HeadError, InputError
from histomix.export import export_map
from histomix.heads import Head, answers_of, card_markdown, load_head, private_card
from histomix.heads.answers.fit import FDR, held_out_answers
from histomix.heads.answers.rule import answer_rule
from histomix.heads.answers.tree import tree_from_labels
from histomix.heads.cards.answers import answer_lines
from histomix.heads.head import seal
from histomix.maps import CompositionMap, composition_geojson, composition_table
from histomix.maps.anonymise import private_map
from histomix.maps.answers import answers_sentence
from histomix.prediction import Model, Settings, SlideJob, SlideRun
from histomix.prediction import maps as maps_module

from .conftest import Job
from .slide_heads import TYPES as COLOUR_TYPES
from .slide_heads import Colours, colour_head, tissue_slide

pytestmark = pytest.mark.once

TYPES = ["T cells", "B cells", "Tumour", "Stroma", "Vessels"]
PARENTS = {"T cells": "Lymphoid", "B cells": "Lymphoid", "Lymphoid": "Not tumour", "Stroma": "Not tumour"}


def cohort(n_donors: int, seed: int, side: int = 12, noise: float = 0.25) -> tuple[Any, np.ndarray]:
    """Donors with smooth tissue in which T and B cells cannot be told apart, and held-out predictions of it."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:side, :side].reshape(2, -1)
    labels, predictions = [], []
    for _ in range(n_donors):
        at = rng.uniform(0, side, (3, 2))
        far = np.stack([np.hypot(row - y, column - x) for y, x in at], axis=1)
        parts = np.exp(-far / rng.uniform(1.5, 3)) + 0.05
        parts /= parts.sum(axis=1, keepdims=True)
        mix = rng.uniform(0, 1, len(parts))  # which lymphocytes they are has nothing to do with what is predicted
        vessels = rng.gamma(0.5, 0.04, len(parts))
        truth = np.stack([parts[:, 0] * mix, parts[:, 0] * (1 - mix), parts[:, 1], parts[:, 2], vessels], axis=1)
        guess = rng.uniform(0.45, 0.55, len(parts))
        seen = np.stack([parts[:, 0] * guess, parts[:, 0] * (1 - guess), parts[:, 1], parts[:, 2]], axis=1)
        seen = np.column_stack([seen, np.full(len(parts), 0.02)])
        seen = seen * np.exp(noise * rng.standard_normal(seen.shape) + 0.5 * noise * rng.standard_normal((1, 5)))
        labels.append(truth / truth.sum(axis=1, keepdims=True))
        predictions.append(seen / seen.sum(axis=1, keepdims=True))
    donor = np.repeat([f"d{number}" for number in range(n_donors)], side**2)
    xy_um = np.tile(np.column_stack([column, row]) * 100.0, (n_donors, 1))
    training = SimpleNamespace(
        Y=np.concatenate(labels), section=donor, donor=donor, xy_um=xy_um, cell_types=list(TYPES), unit="proportion"
    )
    return training, np.concatenate(predictions)


def facts_of(training: Any, held_out: np.ndarray, parents: dict[str, str] = PARENTS) -> dict[str, Any]:
    found = held_out_answers(training, held_out, Hierarchy.of(parents, TYPES), "user", 0)
    assert found is not None
    return json.loads(json.dumps(found, sort_keys=True, allow_nan=False))


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    return {"cell_types": TYPES, "answers": facts_of(*cohort(8, 0))}


def slowly(card: dict[str, Any], values: np.ndarray) -> tuple[str, float, float]:
    """The answer of one tile by the words of the docs, from nothing but the card."""
    facts, types = card["answers"], card["cell_types"]
    share = np.maximum(values.astype(float), 0) / np.maximum(values.astype(float), 0).sum()
    nodes = {one["name"]: one for one in facts["nodes"]}

    def within(name: str, group: str) -> bool:
        while name != group and name in facts["parents"]:
            name = facts["parents"][name]
        return name == group

    name: str | None = types[int(share.argmax())]
    while name is not None:
        total = sum(part for part, one in zip(share, types, strict=True) if within(one, name))
        a, b, _, least = nodes[name]["variance"]
        half = facts["widening"] * nodes[name]["multiplier"] * max(a + b * total, least) ** 0.5
        if nodes[name]["told"] and total - half > 0:
            return name, total - half, min(total + half, 1.0)
        name = facts["parents"].get(name)
    return NOT_TOLD, np.nan, np.nan


@pytest.mark.parametrize("times", [1.0, 37.0])  # proportions, and cells per spot
def test_answers_are_those_of_the_slow_computation_tile_by_tile(card: dict[str, Any], times: float) -> None:
    rule = answer_rule(card)
    assert rule is not None
    values = (times * np.random.default_rng(1).dirichlet(np.full(5, 0.4), 300)).astype(np.float32)
    found = rule.answers(values, np.ones(300, bool))
    names = [*rule.names[: -len(NO_ANSWERS)], NOT_TOLD]
    for row, value in enumerate(values):
        name, lower, upper = slowly(card, value)
        assert names[found.node[row]] == name
        np.testing.assert_allclose([found.lower[row], found.upper[row]], [lower, upper], atol=1e-6)
    assert len(set(found.node.tolist())) > 3, "it tells more than one thing"


def test_an_answer_depends_on_nothing_but_its_tile(card: dict[str, Any]) -> None:
    rule = answer_rule(card)
    assert rule is not None
    values = np.random.default_rng(2).dirichlet(np.full(5, 0.4), 257).astype(np.float32)
    values[7], values[9] = np.nan, 0.0
    usable = np.arange(257) != 11
    whole = rule.answers(values, usable)
    for part in np.array_split(np.arange(257), 6):
        for one, other in zip(rule.answers(values[part], usable[part]), whole, strict=True):
            np.testing.assert_array_equal(one, other[part])
    assert (whole.node[[7, 9, 11]] == -1).all() and np.isnan(whole.lower[[7, 9, 11]]).all()
    assert [len(one) for one in rule.answers(values[:0], usable[:0])] == [0, 0, 0]


def test_types_that_cannot_be_told_apart_are_answered_by_their_group(card: dict[str, Any]) -> None:
    nodes = {one["name"]: one for one in card["answers"]["nodes"]}
    assert nodes["Lymphoid"]["told"] and nodes["Lymphoid"]["answered"] > 0.05
    assert nodes["Lymphoid"]["pearson"] > nodes["Lymphoid"]["null"]
    for name in ("T cells", "B cells"):  # each follows the lymphocytes, and neither is told from the other
        assert nodes[name]["p_adjusted"] < 0.05 < nodes[name]["apart_p_adjusted"]
        assert nodes[name]["pearson"] > nodes[name]["null"] and abs(nodes[name]["apart"]) < 0.1
        assert not nodes[name]["detectable"] and not nodes[name]["told"] and nodes[name]["answered"] == 0
    # Vessels are predicted as one number: their order is that of noise.
    assert not nodes["Vessels"]["detectable"] and not nodes["Vessels"]["told"]
    rule = answer_rule(card)
    assert rule is not None
    tile = np.array([[0.48, 0.42, 0.05, 0.04, 0.01]])
    names = [rule.names[rule.answers(tile * scale, np.ones(1, bool)).node[0]] for scale in (1.0, 20.0)]
    assert names == ["Lymphoid", "Lymphoid"]


def test_false_discoveries_of_donors_that_chose_nothing() -> None:
    """The rate is FDR or less on average over cohorts, for wholly new donors and for those left out in turn."""
    new, left_out, answered = [], [], []
    for seed in range(6):
        chosen = {"cell_types": TYPES, "answers": facts_of(*cohort(8, seed))}
        rule, (training, predicted) = answer_rule(chosen), cohort(10, 1000 + seed)
        assert rule is not None
        found = rule.answers(predicted, np.ones(len(predicted), bool))
        told = found.node >= 0
        label = rule.hierarchy.sums(training.Y)[np.flatnonzero(told), found.node[told]]
        missed = (label < found.lower[told] - 1e-6) | (label > found.upper[told] + 1e-6)
        new.append(missed.mean())
        answered.append(told.mean())
        left_out.append(chosen["answers"]["left_out"]["missed"]["mean"])
    assert np.mean(new) <= FDR and np.mean(left_out) <= FDR, (new, left_out)
    assert np.mean(new) > FDR / 10 and np.mean(answered) > 0.5, "it is not held by telling nothing"
    assert abs(np.mean(new) - np.mean(left_out)) < 0.04, "what the card says of new donors is so"


def test_no_name_is_told_whose_own_answers_miss(card: dict[str, Any]) -> None:
    told = [one for one in card["answers"]["nodes"] if one["told"]]
    assert told and all(one["missed"] is None or one["missed"] <= FDR for one in told)


def test_noise_is_never_told() -> None:
    training, held_out = cohort(5, 3)
    shuffled = np.random.default_rng(0).permutation(held_out, axis=0)
    facts = facts_of(training, shuffled)
    assert not any(one["told"] for one in facts["nodes"]) and facts["widening"] is None
    rule = answer_rule({"cell_types": TYPES, "answers": facts})
    assert rule is not None and (rule.answers(held_out, np.ones(len(held_out), bool)).node == -1).all()
    assert "nothing can be told" in answer_lines({"cell_types": TYPES, "answers": facts})[0]


def test_the_same_cohort_gives_the_same_answers_and_rows_may_come_in_any_order() -> None:
    training, held_out = cohort(4, 5)
    assert facts_of(training, held_out) == facts_of(training, held_out)
    holes = held_out.copy()
    holes[training.donor == "d3"] = np.nan  # never held out
    assert facts_of(training, holes)["n_groups"] == 3


def test_who_was_held_out_is_said() -> None:
    training, held_out = cohort(4, 6)
    one_patient = SimpleNamespace(**{**vars(training), "donor": np.repeat("p", len(held_out))})
    facts = facts_of(one_patient, held_out)
    assert facts["protocol"] == "held-out section" and not facts["donors_unseen"] and facts["n_donors"] == 1
    told = answers_of({"answers": facts})
    assert told is not None and "four sections of one patient" in told.statement
    assert told.statement.endswith("Of another patient more will miss.")
    two, predicted = cohort(2, 6)
    facts = facts_of(two, predicted)
    assert facts["left_out"] is None
    told = answers_of({"answers": facts})
    assert told is not None and "could not be checked" in told.statement
    one_section = SimpleNamespace(
        **{**vars(training), "donor": np.repeat("p", len(held_out)), "section": np.repeat("s", len(held_out))}
    )
    assert held_out_answers(one_section, held_out, Hierarchy.of({}, TYPES), "labels") is None


def test_the_tree_of_the_labels_is_that_of_scipy() -> None:
    Y = np.random.default_rng(0).dirichlet(np.ones(6), 80)
    Y[:, 1] = Y[:, 0] + 0.01 * Y[:, 1]
    names = [f"t{number}" for number in range(6)]
    tree = tree_from_labels(Y, np.repeat("s", 80), names)
    distance = 1 - np.corrcoef(Y.T)
    np.fill_diagonal(distance, 0)
    merges = linkage(squareform(distance, checks=False), "average")
    groups = {node.members for node in tree.nodes if len(node.members) > 1}
    expected = set()
    for height in merges[:-1, 2]:
        code = fcluster(merges, height + 1e-12, "distance")
        expected |= {tuple(np.flatnonzero(code == one).tolist()) for one in np.unique(code)}
    assert groups == {one for one in expected if len(one) > 1} and len(groups) == 4
    assert (0, 1) in groups and Hierarchy.of(tree.parents, names) == tree
    assert tree_from_labels(Y[:, :2], np.repeat("s", 80), names[:2]).parents == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("h.yaml", "Immune:\n  Lymphoid: [T cells, B cells]\n  Other: [Stroma]\n"),
        ("h.csv", "cell_type,group\nT cells,Lymphoid\nB cells,Lymphoid\nLymphoid,Immune\nStroma,Other\nOther,Immune\n"),
    ],
)
def test_a_hierarchy_is_read_from_either_form(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    tree = Hierarchy.of(read_hierarchy(tmp_path / name), TYPES, tmp_path / name)
    members = {node.name: [TYPES[place] for place in node.members] for node in tree.nodes[len(TYPES) :]}
    assert members == {
        "Other": ["Stroma"],
        "Lymphoid": ["T cells", "B cells"],
        "Immune": ["T cells", "B cells", "Stroma"],
    }
    values = np.random.default_rng(0).random((4, 5))
    np.testing.assert_allclose(tree.sums(values)[:, -1], values[:, [0, 1, 3]].sum(axis=1))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("h.csv", "cell_type,group\nT cells,A\nA,B\nB,A\n", "lies within itself"),
        ("h.csv", "cell_type,group\nT cells,A\nA,A\n", "lies within itself"),
        ("h.yaml", "A: [T cells, T cels]\n", "'T cels' is no cell type.*Did you mean 'T cells'"),
        ("h.yaml", "A: [T cells]\nB: [T cells]\n", "'T cells' is in 'A' and in 'B'"),
        ("h.csv", "cell_type,group\nT cells,A\nT cells,B\n", "'T cells' is in 'A' and in 'B'"),
        ("h.yaml", "A: []\n", "line 1: the group 'A' is empty"),
        ("h.yaml", "A: {B: [T cells], C: }\n", "line 1"),
        ("h.csv", "cell_type,group\nX,A\n", "'X' is no cell type"),
        ("h.csv", "cell_type,group\nT cells,B cells\n", "is a cell type and a group"),
        ("h.csv", "cell_type,group\nT cells,not told\n", "no group can be called 'not told'"),
        ("h.csv", "cell_type,group\n", "names no group"),
        ("h.csv", "name,group\nT cells,A\n", "lacks the columns"),
        ("h.yaml", "", "names no group"),
        ("h.yaml", "- T cells\n", "line 1 must hold"),
        ("h.yaml", "A: [[T cells]]\n", "line 1 must hold"),
        ("h.yaml", "A: T cells\n", "line 1 must hold"),
    ],
)
def test_a_hierarchy_that_is_none_is_refused_by_name(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=f"(?s){name}.*{words}"):
        Hierarchy.of(read_hierarchy(tmp_path / name), TYPES, tmp_path / name)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda facts: facts["nodes"].pop(),
        lambda facts: facts["nodes"][0].update(name="other"),
        lambda facts: facts["nodes"][0].update(multiplier=-1.0),
        lambda facts: facts["nodes"][0].update(variance=[0.1, 0.1]),
        lambda facts: facts["nodes"][0].pop("variance"),
        lambda facts: facts.update(widening="wide"),
        lambda facts: facts.update(parents={"Lymphoid": "Lymphoid"}),
        lambda facts: facts.update(parents=["Lymphoid"]),
    ],
)
def test_a_card_whose_answers_are_none_is_refused_when_it_is_loaded(
    spoil: Any, tmp_path: Path, card: dict[str, Any]
) -> None:
    head = answering_head()
    facts = json.loads(json.dumps(head.card["answers"]))
    spoil(facts)
    spoiled = replace(head, card=seal(unsealed(head.card, facts), head.estimator, head.novelty_model))
    spoiled.save(tmp_path / "head")
    with pytest.raises(HeadError, match="answers"):
        load_head(tmp_path / "head")


def unsealed(card: dict[str, Any], facts: dict[str, Any] | None) -> dict[str, Any]:
    return {**{name: value for name, value in card.items() if name not in ("files", "digest")}, "answers": facts}


def answering_head() -> Head:
    """The head on colours, with answers of its three types and a group."""
    head = colour_head([Colours()])
    nodes = [
        {"name": name, "told": told, "detectable": told, "answered": 0.2, "missed": 0.05, "pearson": 0.5, "null": 0.1,
         "p_adjusted": 0.01, "variance": [0.002, 0.01, 0.0, 0.001], "multiplier": 1.7}
        for name, told in [(COLOUR_TYPES[0], True), (COLOUR_TYPES[1], False), (COLOUR_TYPES[2], False), ("Rest", True)]
    ]  # fmt: skip
    facts = {
        "source": "user", "parents": {COLOUR_TYPES[1]: "Rest", COLOUR_TYPES[2]: "Rest"}, "donors_unseen": True,
        "n_donors": 5, "n_groups": 5, "fdr": 0.1, "widening": 1.0, "nodes": nodes,
        "left_out": {"missed": {"mean": 0.08, "low": 0.02, "high": 0.14}},
    }  # fmt: skip
    card = unsealed(head.card, facts)
    return replace(head, card=seal(card, head.estimator, head.novelty_model))


@pytest.fixture
def predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A map on disk, written a hundred tiles at a time."""
    monkeypatch.setattr(maps_module, "BLOCK", 100)
    return streamed(answering_head(), tmp_path)


def streamed(head: Head, folder: Path) -> Path:
    slide = tissue_slide(folder / "A.tif") if not (folder / "A.tif").exists() else folder / "A.tif"
    out = folder / str(len(list(folder.iterdir()))) / "A"  # the same name each time: it stands in the map
    found = SlideRun(SlideJob(str(slide), out), Settings.of(head.card["digest"]), Model(head, [Colours()])).run()
    assert found.error is None, found.error
    return out


def test_a_map_is_answered_the_same_in_memory_in_stretches_and_again(predicted: Path, tmp_path: Path) -> None:
    head = answering_head()
    memory = hm.predict(tmp_path / "A.tif", head, encoders=[Colours()])  # type: ignore[list-item]
    disk = ad.read_h5ad(predicted / "composition.h5ad")
    pd.testing.assert_frame_equal(disk.obs, memory.obs, check_names=False)
    assert set(disk.obs["answer"]) >= {COLOUR_TYPES[0], "Rest"} and COLOUR_TYPES[1] not in set(disk.obs["answer"])
    again = streamed(head, tmp_path)
    for name in ("composition.csv", "tiles.geojson", "composition.h5ad"):
        assert (again / name).read_bytes() == (predicted / name).read_bytes(), name
    rows = np.flatnonzero(disk.obs["answer"].isin([COLOUR_TYPES[0], "Rest", NOT_TOLD]))
    for row in rows[:40]:
        name, lower, upper = slowly(head.card, np.asarray(disk.X[row]))
        assert disk.obs["answer"].iloc[row] == name
        np.testing.assert_allclose(disk.obs[["answer_lower", "answer_upper"]].iloc[row], [lower, upper], atol=1e-6)
    no_place = disk.obs["answer"].isin(NO_ANSWERS)
    assert disk.obs.loc[no_place, "answer_lower"].isna().all() and disk.obs.loc[~no_place, "answer_lower"].notna().all()
    assert (disk.obs["answer"].eq(OUT_OF_SCOPE) == (~disk.obs["in_scope"] & disk.obs["read_ok"])).all()


def test_an_answer_is_in_every_file_and_never_a_cell_type(predicted: Path, tmp_path: Path) -> None:
    one = CompositionMap.open(predicted)
    assert one.answer is not None and one.cell_types == COLOUR_TYPES
    csv = pd.read_csv(predicted / "composition.csv", keep_default_na=False)
    assert list(csv.columns)[:5] == ["x_px", "y_px", *COLOUR_TYPES] and csv.columns[-1] == "answer"
    assert list(csv["answer"]) == list(one.answer) == list(composition_table(one)["answer"])
    features = composition_geojson(one, metadata=True)["features"]
    assert [one["properties"].get("metadata", {}).get("answer", NOT_READ) for one in features] == list(csv["answer"])
    assert all("answer" not in one["properties"].get("measurements", {}) for one in features)
    # Given as labels, a map has three cell types.
    csv.insert(0, "spot", [f"{row}x1" for row in range(len(csv))])
    csv.to_csv(tmp_path / "labels.csv", index=False)
    assert read_abundance(tmp_path / "labels.csv", "proportion").cell_types == COLOUR_TYPES
    named = {row["cell_type"] for row in map_rows(one)} | {row["other_type"] for row in map_rows(one)}
    assert named - {None, ""} == set(COLOUR_TYPES)
    path = export_map(predicted, "csv", tmp_path / "out")
    table = pd.read_csv(path, encoding="utf-8-sig", keep_default_na=False)
    assert list(table["answer"]) == list(one.answer)
    exported = ad.read_h5ad(export_map(predicted, "anndata", tmp_path / "out"))
    assert list(exported.var_names) == COLOUR_TYPES and list(exported.obs["answer"]) == list(one.answer)


def test_a_tile_that_has_no_answer_says_why(tmp_path: Path) -> None:
    head = answering_head()
    map_ = hm.predict(tissue_slide(tmp_path / "A.tif"), head, encoders=[Colours()])  # type: ignore[list-item]
    rule = head.answer_rule
    assert rule is not None
    from histomix.prediction.answers import answer_columns

    state = np.arange(map_.n_obs) % 4
    read_ok, in_scope, in_focus = state != 1, state != 2, state != 3
    in_scope[state == 1] = False  # an unreadable tile is never in scope
    found = answer_columns(rule, np.asarray(map_.X), read_ok, in_scope, in_focus)["answer"]
    assert [set(found[state == one]) for one in (1, 2, 3)] == [{NOT_READ}, {OUT_OF_SCOPE}, {NOT_TOLD}]
    assert COLOUR_TYPES[0] in set(found[state == 0])


def test_a_head_without_a_table_gives_no_answers(tmp_path: Path) -> None:
    head = colour_head([Colours()])
    assert head.answer_rule is None and answers_of(head.card) is None
    head.save(tmp_path / "head")
    assert load_head(tmp_path / "head").answer_rule is None
    map_ = CompositionMap.of(
        hm.predict(tissue_slide(tmp_path / "A.tif"), head, encoders=[Colours()])  # type: ignore[list-item]
    )
    assert map_.answer is None and map_.answer_statement == "" and answers_sentence(map_) == ""
    assert "answer" not in composition_table(map_) and "answers" not in map_.manifest
    words = [one["properties"].get("metadata", {}) for one in composition_geojson(map_, metadata=True)["features"]]
    assert all("answer" not in one for one in words)
    assert answer_lines(head.card) == ["answers: none; maps have no column of them"]


def test_names_of_nobody_stay(predicted: Path) -> None:
    from histomix.common.anonymity.pseudonyms import Pseudonyms

    one, names = CompositionMap.open(predicted), Pseudonyms(b"k" * 32)
    told = private_map(one, names)
    assert list(told.answer) == list(one.answer) and told.answer_statement == one.answer_statement != ""
    np.testing.assert_array_equal(told.adata.obs["answer_lower"], one.adata.obs["answer_lower"])
    card = {**answering_head().card, "training": {"donors": ["Ann"]}}
    assert private_card(card, names)["answers"] == card["answers"]


def test_a_trained_head_answers_and_says_so(job: Job, tmp_path: Path) -> None:
    (tmp_path / "h.yaml").write_text("Immune: [T cells, B cells, Macrophages]\n", encoding="utf-8")
    head = hm.train(
        job.sheet, job.features, job.labels, head="ridge", hierarchy=tmp_path / "h.yaml", out=tmp_path / "h"
    )
    facts = load_head(tmp_path / "h").card["answers"]
    assert facts == head.card["answers"] and facts["source"] == "user" and facts["n_groups"] == 2
    assert facts["nodes"][-1]["name"] == "Immune" and "## Answers" in head.card_markdown()
    assert "Immune" in card_markdown(head.card) and any("Immune" in line for line in answer_lines(head.card))
    by_labels = hm.train(job.sheet, job.features, job.labels, head="ridge").card["answers"]
    assert by_labels["source"] == "labels" and len(by_labels["nodes"]) > 8
    assert hm.train(job.sheet, job.features, job.labels, head="ridge", level=None).card["answers"] is None
    with pytest.raises(InputError, match="no cell type"):
        hm.train(job.sheet, job.features, job.labels, head="ridge", hierarchy={"Neurons": "Brain"})


def test_the_sentence_counts_the_tiles_in_scope(predicted: Path) -> None:
    one = CompositionMap.open(predicted)
    words = answers_sentence(one)
    share = float(np.mean(one.answer[one.reading.used] == COLOUR_TYPES[0]))
    assert f"{COLOUR_TYPES[0]} {int(100 * share + 1e-9)} %" in words and words.endswith(one.answer_statement)
    assert OUT_OF_SCOPE not in words.split(". ")[0]


def test_labels_bring_the_groups_of_the_user_or_of_the_reference(job: Job, tmp_path: Path) -> None:
    (tmp_path / "h.yaml").write_text("Immune: [T cells, B cells, Macrophages]\n", encoding="utf-8")
    made = hm.label(job.sheet, reference=job.reference, hierarchy=tmp_path / "h.yaml", out=tmp_path / "labels")
    expected = {"source": "user", "parents": dict.fromkeys(["T cells", "B cells", "Macrophages"], "Immune")}
    for labels in (made, hm.read_labels(tmp_path / "labels")):
        assert all(table.provenance["hierarchy"] == expected for table in labels.values())
    card = hm.train(job.sheet, job.features, tmp_path / "labels", head="ridge").card
    assert card["answers"]["source"] == "user" and card["answers"]["parents"] == expected["parents"]
    hm.label(job.sheet, reference=job.reference, out=tmp_path / "labels")  # the last word is that of the last run
    assert all("hierarchy" not in table.provenance for table in hm.read_labels(tmp_path / "labels").values())
    (tmp_path / "h.yaml").write_text("Brain: [Neurons]\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"h\.yaml.*'Neurons' is no cell type"):
        hm.label(job.sheet, reference=job.reference, hierarchy=tmp_path / "h.yaml")


def test_a_coarser_column_of_the_reference_is_found_by_its_name_and_its_nesting() -> None:
    types = pd.Series(["a1", "a2", "b1", "b2", "Fat", "a1"])
    obs = pd.DataFrame({
        "celltype_major": ["A", "A", "a2", "a2", "Fat", "A"],  # a group that is called like a type
        "lineage": ["x", "x", "x", "y", "y", "x"],  # fewer groups
        "level1": [1, 1, 2, 2, 3, 1],  # numbers of clusters
        "broad_type": ["A", "A", "B", "B", "C", "other"],  # one type in two groups
        "batch": ["A", "A", "B", "B", "C", "A"],
    })  # fmt: skip
    found = coarser_column(obs, types)
    assert found == {"a1": "A", "a2": "A", "b1": "a2 (group)", "b2": "a2 (group)"}
    assert Hierarchy.of(found, sorted(set(types))).parents == found
    assert coarser_column(obs[["batch", "level1", "broad_type"]], types) == {}
