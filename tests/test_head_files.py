"""Features and labels joined, heads trained with a card, saved, loaded, and refused when anything is off."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load, save

from histomix.abundance import Abundance
from histomix.errors import FeatureError, HeadError, HistomixError, LabelError, SectionError
from histomix.heads import HEADS, Head, MLPRegressor, RidgeRegressor, assemble, load_head, make_estimator, train
from histomix.provenance import digest_bytes, digest_json

from .extras import heads_here

TYPES = ["Cancer", "T cell", "Stroma"]
DIM = 12
MPP = 0.5


def manifest(section: str, **changes: Any) -> dict[str, Any]:
    encoder = {"name": "fake", "digest": "sha256:e", "dim": DIM, "views": 1, "licence": "MIT", "revision": "1"}
    return {
        "section": section,
        "identity": f"sha256:{section}",
        "slide": {"file": f"{section}.tif", "fingerprint": f"sample-sha256:{section}", "mpp": MPP},
        "tile": {"size_px": 112, "mpp": 0.5, "stride_um": None} | changes.pop("tile", {}),
        "encoder": encoder | changes.pop("encoder", {}),
        **changes,
    }


def features_of(section: str, n: int = 40, seed: int = 0, **changes: Any) -> ad.AnnData:
    rng = np.random.default_rng([seed, *section.encode()])
    facts = manifest(section, **changes)
    X = rng.standard_normal((n, facts["encoder"]["dim"])).astype(np.float16)
    table = ad.AnnData(X, obs=pd.DataFrame(index=[f"{i}x{i % 7}" for i in range(n)]))
    table.obsm["spatial"] = rng.uniform(0, 4000, (n, 2))
    table.uns["manifest"] = json.dumps(facts)
    return table


def labels_of(table: ad.AnnData, unit: str = "proportion", types: list[str] = TYPES) -> Abundance:
    cells = np.exp(np.asarray(table.X, dtype=float)[:, : len(types)])
    values = pd.DataFrame(cells, index=table.obs_names, columns=types)
    if unit == "proportion":
        values = values.div(values.sum(axis=1), axis=0)
    return Abundance(values, unit, provenance={"method": "by hand", "file": "/home/someone/labels.csv"})


def cohort_of(donors: dict[str, str], tissue: str | None = "breast") -> Any:
    rows = [
        SimpleNamespace(
            section=name, donor=donor, tissue=tissue, site=None, image=None, mpp=None, spot_diameter_um=100.0
        )
        for name, donor in donors.items()
    ]

    class Cohort(SimpleNamespace):
        def __len__(self) -> int:
            return len(rows)

        def section(self, name: str, counts: bool) -> Any:
            raise SectionError("has no files here", where=name)

    return Cohort(rows=rows, names=list(donors), donors=donors)


DONORS = {"A1": "A", "A2": "A", "B1": "B"}


@pytest.fixture
def job() -> tuple[Any, dict[str, ad.AnnData], dict[str, Abundance]]:
    features = {name: features_of(name) for name in DONORS}
    return cohort_of(DONORS), features, {name: labels_of(table) for name, table in features.items()}


@pytest.fixture
def saved(job: Any, tmp_path: Path) -> Path:
    train(*job, head="ridge", out=tmp_path / "head")
    return tmp_path / "head"


# joining


def test_rows_are_joined_on_spot_keys_and_the_rest_is_counted(job: Any, caplog: pytest.LogCaptureFixture) -> None:
    cohort, features, labels = job
    values = labels["A2"].values
    shuffled = values.iloc[::-1].iloc[:-3][TYPES[::-1]]  # no labels of spots 0, 1, 2; other order of rows and types
    extra = pd.DataFrame([[1.0, 0.0, 0.0]] * 2, index=["90x90", "91x91"], columns=TYPES)
    labels["A2"] = Abundance(pd.concat([extra, shuffled]), "proportion")
    features["A2"].X[5] = np.nan
    with caplog.at_level(logging.INFO):
        training = assemble(cohort, features, labels)
    assert training.dropped == {"A2": {"labels without a tile": 2, "tiles without a label": 3, "unreadable tiles": 1}}
    assert (
        "section A2: left out labels without a tile (2), tiles without a label (3), unreadable tiles (1)" in caplog.text
    )
    assert training.cell_types == TYPES and training.unit == "proportion"
    assert training.X.dtype == np.float32 and training.Y.dtype == np.float64
    assert pd.Series(training.section).value_counts().to_dict() == {"A1": 40, "A2": 36, "B1": 40}
    for i in range(len(training.X)):
        name, key = training.section[i], training.keys[i]
        row = features[name].obs_names.get_loc(key)
        np.testing.assert_array_equal(training.X[i], features[name].X[row])
        np.testing.assert_array_equal(training.Y[i], labels[name].values.loc[key, TYPES])
        np.testing.assert_allclose(training.xy_um[i], features[name].obsm["spatial"][row] * MPP)
        assert training.donor[i] == DONORS[name]


def test_several_encoders_stand_side_by_side(job: Any) -> None:
    cohort, features, labels = job
    other = {"name": "other", "digest": "sha256:o", "dim": 5}
    more = {name: features_of(name, seed=1, encoder=other)[::-1].copy() for name in DONORS}
    training = assemble(cohort, [features, more], labels)
    assert [encoder["name"] for encoder in training.features["encoders"]] == ["fake", "other"]
    np.testing.assert_array_equal(training.X[:40, :DIM], features["A1"].X)
    np.testing.assert_array_equal(training.X[:40, DIM:], more["A1"].X[::-1])
    head = train(cohort, [features, more], labels, head="ridge")
    aligned = more["B1"][::-1].copy()
    assert head.predict_features([features["B1"], aligned]).shape == (40, 3)
    with pytest.raises(FeatureError, match="needs features of fake, other; 1 tables"):
        head.predict_features(features["B1"])
    with pytest.raises(FeatureError, match="encoder other, not fake"):
        head.predict_features([aligned, features["B1"]])
    with pytest.raises(FeatureError, match="the tiles expected"):
        head.predict_features([features["B1"], more["B1"]])
    changed = {**manifest("A1")["slide"], "fingerprint": "another"}
    more["A1"].uns["manifest"] = json.dumps(manifest("A1", encoder=other, slide=changed))
    with pytest.raises(FeatureError, match=r"section A1: .*different slides"):
        assemble(cohort, [features, more], labels)


def _without(section: str) -> Callable[..., None]:
    return lambda features, labels: features.pop(section)


def _relabel(section: str, **options: Any) -> Callable[..., None]:
    def change(features: Any, labels: Any) -> None:
        labels[section] = labels_of(features[section], **options)

    return change


def _rename(features: Any, labels: Any) -> None:
    labels["B1"] = Abundance(labels["B1"].values.set_axis([f"spot{i}" for i in range(40)]), "proportion")


def _reencode(features: Any, labels: Any) -> None:
    features["B1"] = features_of("B1", encoder={"digest": "sha256:new"})


def _unreadable(features: Any, labels: Any) -> None:
    features["B1"].X[:] = np.nan


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (_without("A2"), FeatureError, "no features of section A2.*histomix embed"),
        (lambda features, labels: labels.clear(), LabelError, r"no labels of 3 sections \(A1, A2, B1\)"),
        (_rename, LabelError, "section B1: none of the 40 labels .*'spot0'.* belongs .*'0x0'"),
        (
            _relabel("B1", unit="cells per spot"),
            LabelError,
            "section B1: the unit is cells per spot, but .* A1 is prop",
        ),
        (_relabel("A2", types=["Cancer", "B cell"]), LabelError, "A2: .*has B cell and lacks T cell, Stroma"),
        (_reencode, FeatureError, "section B1: .* section A1: digest sha256:new, not sha256:e"),
        (_unreadable, FeatureError, "section B1: no labelled tile could be read"),
    ],
)
def test_what_cannot_be_joined_is_named(job: Any, spoil: Any, error: type[HistomixError], message: str) -> None:
    cohort, features, labels = job
    spoil(features, labels)
    with pytest.raises(error, match=message):
        assemble(cohort, features, labels)


# training


@pytest.mark.parametrize("unit", ["proportion", "cells per spot"])
@pytest.mark.parametrize("name", heads_here(name for name in HEADS if name != "hist2cell-tiles"))  # it needs pixels
def test_a_saved_head_predicts_the_same(job: Any, name: str, unit: str, tmp_path: Path) -> None:
    cohort, features, _ = job
    labels = {section: labels_of(table, unit) for section, table in features.items()}
    quick = {
        "mlp": {"hidden": (8, 8), "members": 2, "max_epochs": 3},
        "sun2025": {"hidden": (16,) * 6, "learning_rate": 0.001, "dropout": 0.1, "max_epochs": 3},
        "hist2cell": {"learning_rate": 0.001, "epochs": 2},
    }
    estimator = make_estimator(name, unit, **quick[name]) if name in quick else name
    head = train(cohort, features, labels, head=estimator, out=tmp_path / "head", scores={"protocol": "donor"})
    again = load_head(tmp_path / "head")
    assert again.card == head.card and again.estimator.get_params().keys() == head.estimator.get_params().keys()
    slide = features_of("S9")
    slide.X[3] = np.nan
    predicted = head.predict_features(slide)
    pd.testing.assert_frame_equal(again.predict_features(slide), predicted, check_exact=True)
    np.testing.assert_array_equal(again.novelty(slide), head.novelty(slide))
    assert list(predicted.columns) == TYPES and predicted.index.equals(slide.obs_names)
    assert predicted.iloc[3].isna().all() and predicted.drop(index="3x3").notna().all(axis=None)
    assert np.flatnonzero(np.isnan(head.novelty(slide))).tolist() == [3]
    assert sorted(path.name for path in (tmp_path / "head").iterdir()) == [
        "card.json",
        "intervals.safetensors",
        "novelty.safetensors",
        "weights.safetensors",
    ]
    assert not [path for path in tmp_path.iterdir() if path.name != "head"]


def test_the_same_command_gives_the_same_bytes(job: Any, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train(*job, head=MLPRegressor(members=2, max_epochs=3), out=tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_the_card_says_what_the_head_is(job: Any, saved: Path) -> None:
    cohort, features, labels = job
    card = json.loads((saved / "card.json").read_text())
    assert card["head"]["kind"] == "ridge" and card["head"]["fitted"]["alpha_"] > 0
    assert card["cell_types"] == TYPES and card["unit"] == "proportion" and card["tissue"] == ["breast"]
    assert card["encoders"][0] | {"size_px": 112, "mpp": 0.5, "digest": "sha256:e"} == card["encoders"][0]
    assert card["encoder_licences"] == [{"encoder": "fake", "licence": "MIT", "commercial_use": "not declared"}]
    facts = card["training"]
    assert (facts["n_spots"], facts["n_sections"], facts["n_donors"], facts["donors"]) == (120, 3, 2, ["A", "B"])
    provenance = {"method": "by hand", "file": "labels.csv"}
    assert facts["labels"] == [{"sections": ["A1", "A2", "B1"], "unit": "proportion", "provenance": provenance}]
    assert "/home" not in json.dumps(card)
    assert card["files"]["weights.safetensors"] == digest_bytes((saved / "weights.safetensors").read_bytes())
    assert train(cohort_of(DONORS, tissue=None), features, labels, head="mean").card["tissue"] == "not declared"
    assert train(cohort, features, labels, head="mean", tissue="lung").card["tissue"] == ["lung"]


def test_inner_splits_of_two_donors_are_by_section(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    original = RidgeRegressor.fit
    monkeypatch.setattr(
        RidgeRegressor,
        "fit",
        lambda self, X, Y, groups, positions: (
            given.extend([groups, positions]) or original(self, X, Y, groups, None, positions)
        ),
    )
    train(*job, head="ridge")
    assert given[0].tolist() == ["A1"] * 40 + ["A2"] * 40 + ["B1"] * 40
    assert given[1].section.tolist() == ["A1"] * 40 + ["A2"] * 40 + ["B1"] * 40
    np.testing.assert_allclose(given[1].xy_um[:40], job[1]["A1"].obsm["spatial"] * MPP)


def test_estimators_that_cannot_be_heads_are_refused(job: Any) -> None:
    with pytest.raises(HeadError, match="no head named 'forest'"):
        train(*job, head="forest")
    with pytest.raises(HeadError, match="predicts cells per spot, but the labels are in proportion"):
        train(*job, head=RidgeRegressor("cells per spot"))
    mine = type("Mine", (RidgeRegressor,), {})
    with pytest.raises(HeadError, match="a Mine cannot be saved"):
        train(*job, head=mine())


# applying


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": {"name": "other"}}, "encoder other, not fake"),
        ({"encoder": {"digest": "sha256:newer"}}, "digest sha256:newer, not sha256:e"),
        ({"encoder": {"views": 4}}, "views 4, not 1"),
        ({"encoder": {"dim": 9}}, "dim 9, not 12"),
        ({"tile": {"size_px": 224}}, "size_px 224, not 112"),
        ({"tile": {"mpp": 1.0}}, "mpp 1.0, not 0.5"),
    ],
)
def test_features_of_another_encoder_or_tile_are_refused(saved: Path, changes: Any, message: str) -> None:
    head, slide = load_head(saved), features_of("S9", **changes)
    for apply in (head.predict_features, head.novelty):
        with pytest.raises(FeatureError, match=f"features of S9: .*head was trained on: {message}.*head: fake"):
            apply(slide)


def test_a_stride_is_not_another_tile(saved: Path) -> None:
    assert load_head(saved).predict_features(features_of("S9", tile={"stride_um": 20.0})).shape == (40, 3)


def test_a_slide_without_one_readable_tile_is_all_nan(saved: Path) -> None:
    slide = features_of("S9")
    slide.X[:] = np.nan
    head: Head = load_head(saved)
    assert head.predict_features(slide).isna().all(axis=None) and np.isnan(head.novelty(slide)).all()


class Disk:
    """A table on disk: it gives rows, counts them, and is never read whole."""

    def __init__(self, X: np.ndarray, path: Path) -> None:
        np.save(path, X)
        self.table = np.load(path, mmap_mode="r")
        self.shape = self.table.shape
        self.largest = 0

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, rows: Any) -> np.ndarray:
        found = self.table[rows]
        self.largest = max(self.largest, len(found))
        return found


@pytest.mark.parametrize("context", [{}, {"rings_um": (300.0,)}, {"smooth_um": 150.0}])
def test_a_head_applied_to_rows_on_disk_is_that_head_on_features(job: Any, tmp_path: Path, context: Any) -> None:
    head = train(*job, head=RidgeRegressor(**context))
    assert head.context_um == (300.0 if "rings_um" in context else 450.0 if context else 0.0)
    slide = features_of("S9", n=9000)
    slide.X[[3, 8500]] = np.nan
    slide.obsm["spatial"][:, 1] = np.sort(10 * slide.obsm["spatial"][:, 1])  # row after row, as a grid is
    xy_um = slide.obsm["spatial"] * MPP
    disk = Disk(slide.X, tmp_path / "X.npy")
    found, same = head.apply(disk, xy_um), head.output(slide)
    assert disk.largest <= 8192
    np.testing.assert_allclose(found.values, same.values, rtol=1e-5)
    np.testing.assert_allclose(found.values, head.predict_features(slide), rtol=1e-5)
    np.testing.assert_allclose(found.novelty, head.novelty(slide), rtol=1e-6)
    np.testing.assert_allclose(found.lower, same.lower, rtol=1e-5)
    np.testing.assert_allclose(found.upper, same.upper, rtol=1e-5)
    seen = np.isfinite(found.values)
    assert (found.lower[seen] <= found.values[seen]).all() and (found.values[seen] <= found.upper[seen]).all()
    assert all(a.dtype == np.float32 for a in (found.values, found.lower, found.upper))
    assert np.flatnonzero(np.isnan(found.values).any(axis=1)).tolist() == [3, 8500]
    assert not found.in_scope[[3, 8500]].any() and found.in_scope.mean() > 0.5


@pytest.mark.parametrize("context", [{"rings_um": (300.0,)}, {"smooth_um": 150.0}])
def test_an_unreadable_tile_is_nobodys_neighbour(job: Any, context: Any) -> None:
    head, slide = train(*job, head=RidgeRegressor(**context)), features_of("S9", n=200)
    slide.X[5] = np.nan
    without = np.delete(np.arange(200), 5)
    found = head.output(slide)
    np.testing.assert_allclose(found.values[without], head.output(slide[without].copy()).values, rtol=1e-6)


def test_two_slides_are_not_neighbours(job: Any) -> None:
    head = train(*job, head=RidgeRegressor(rings_um=(300.0,), smooth_um=100.0))
    one, two = features_of("S8"), features_of("S9")
    X, xy_um = np.concatenate([one.X, two.X]), np.concatenate([t.obsm["spatial"] * MPP for t in (one, two)])
    both = head.apply(X, xy_um, np.repeat(["S8", "S9"], 40))
    np.testing.assert_allclose(both.values[:40], head.output(one).values, rtol=1e-5)
    np.testing.assert_allclose(both.values[40:], head.output(two).values, rtol=1e-5)
    assert np.abs(head.apply(X, xy_um).values - both.values).max() > 1e-3


def test_features_without_places_are_refused_by_a_head_that_looks_around(job: Any) -> None:
    slide = features_of("S9")
    del slide.obsm["spatial"]
    assert np.isfinite(train(*job, head="ridge").output(slide).values).all()
    with pytest.raises(FeatureError, match="do not say where their tiles are"):
        train(*job, head=RidgeRegressor(smooth_um=100.0)).output(slide)


# files


def _edit_card(change: Callable[[dict[str, Any]], Any], seal: bool = True) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        card = json.loads((folder / "card.json").read_text())
        change(card)
        if seal:
            card.pop("digest")
            card["digest"] = digest_json(card)
        (folder / "card.json").write_text(json.dumps(card))

    return edit


def _edit_arrays(change: Callable[[dict[str, np.ndarray]], Any], name: str = "weights") -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        arrays = load((folder / f"{name}.safetensors").read_bytes())
        change(arrays)
        _replace(save(arrays), name)(folder)

    return edit


def _replace(data: bytes, name: str = "weights") -> Callable[[Path], None]:
    """Put other bytes in place and stamp the card with their digest, as someone who means it would."""

    def edit(folder: Path) -> None:
        (folder / f"{name}.safetensors").write_bytes(data)
        _edit_card(lambda card: card["files"].update({f"{name}.safetensors": digest_bytes(data)}))(folder)

    return edit


def _flip_byte(folder: Path) -> None:
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(data)


@pytest.mark.parametrize("name", ["card.json", "intervals.safetensors", "novelty.safetensors", "weights.safetensors"])
def test_a_changed_byte_anywhere_is_refused(saved: Path, name: str) -> None:
    whole = (saved / name).read_bytes()
    for place in np.unique(np.linspace(0, len(whole) - 2, 60).astype(int)).tolist():
        changed = bytearray(whole)
        changed[place] ^= 1
        (saved / name).write_bytes(changed)
        with pytest.raises(HeadError, match=name):
            load_head(saved)
    (saved / name).write_bytes(whole)
    load_head(saved)


def _truncate(folder: Path) -> None:
    data = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "card.json").unlink(), "card.json is missing.*histomix train"),
        (lambda folder: (folder / "weights.safetensors").unlink(), "weights.safetensors: there is no such file"),
        (lambda folder: (folder / "novelty.safetensors").unlink(), "novelty.safetensors: there is no such file"),
        (lambda folder: (folder / "card.json").write_text("{"), "card.json: cannot be read as JSON"),
        (lambda folder: (folder / "card.json").write_text("[]"), "card.json: is JSON, but not an object"),
        (lambda folder: (folder / "card.json").write_text("{}"), "card.json: the card is not the one"),
        (_flip_byte, "weights.safetensors: .*its sha256 differs"),
        (_truncate, "weights.safetensors: .*its sha256 differs"),
        (_replace(b"\x10\0\0\0\0\0\0\0{}"), "not in the safetensors format"),
        (_replace(b""), "not in the safetensors format"),
        (_edit_card(lambda card: card.update(unit="cells per spot"), seal=False), "the card is not the one"),
        (_edit_card(lambda card: card.update(format=3, histomix="9.1")), r"newer histomix \(9.1\).*Upgrade"),
        (_edit_card(lambda card: card.update(format=1)), "older histomix.*its format is 1.*Train it again"),
        (_edit_card(lambda card: card.update(format=3), seal=False), "newer histomix.*Upgrade"),
        (_edit_card(lambda card: card["head"].update(kind="forest")), "no head named 'forest'.*ridge"),
        (_edit_card(lambda card: card["head"]["parameters"].update(gamma=1)), "no parameter gamma"),
        (_edit_card(lambda card: card["head"].update(parameters=3)), "card.json: "),
        (_edit_card(lambda card: card["head"]["fitted"].clear()), "n_features_in_ is None"),
        (_edit_card(lambda card: card.pop("encoders")), "card is incomplete.*encoders"),
        (_edit_card(lambda card: card.update(encoders=[])), "not those of a head"),
        (_edit_card(lambda card: card.update(unit="percent")), "not those of a head"),
        (_edit_card(lambda card: card["encoders"][0].update(dim=9)), "not for those of the card's encoders"),
        (_edit_card(lambda card: card["cell_types"].pop()), "arrays are of 3 cell types, the card of 2"),
        (
            _edit_arrays(lambda arrays: arrays.update(coef_=arrays["coef_"][:-1])),
            r"coef_ has shape \(11, 3\); .*\(12, 3\)",
        ),
        (_edit_arrays(lambda arrays: arrays.update(more=arrays["coef_"])), "the saved arrays are .*'more'"),
        (_edit_arrays(lambda arrays: arrays.pop("coef_")), "the saved arrays are"),
        (_edit_arrays(lambda arrays: arrays["coef_"].fill(np.nan)), "coef_ holds NaN"),
        (_edit_arrays(lambda arrays: arrays.update(coef_=np.full((12, 3), 1e300))), "coef_ holds numbers beyond"),
        (_edit_arrays(lambda arrays: arrays.update(coef_=np.ones((12, 3), np.int64))), "coef_ is of the type int64"),
        (_edit_arrays(lambda arrays: arrays.update(coef_=np.ones((12, 3), bool))), "coef_ is of the type bool"),
        (_edit_arrays(lambda arrays: arrays["scale"].fill(0), "novelty"), "scale holds zeros"),
        (_edit_arrays(lambda arrays: arrays["centre"].fill(np.nan), "novelty"), "centre holds NaN"),
        (_edit_arrays(lambda arrays: arrays["noise"].fill(-1), "novelty"), "noise holds no variance"),
        (_edit_arrays(lambda arrays: arrays["shares"].fill(2), "novelty"), "shares holds what is no share"),
        (_edit_card(lambda card: card.update(cell_types="abc")), "not those of a head"),
        (_edit_card(lambda card: card.update(cell_types=["a", "a", "b"])), "not those of a head"),
        (_edit_card(lambda card: card.update(cell_types=["a", "", "b"])), "not those of a head"),
        (_edit_arrays(lambda arrays: arrays.update(present_=np.ones(3))), "present_ is not boolean"),
        (_edit_arrays(lambda arrays: arrays.pop("axes"), "novelty"), "novelty score have shapes"),
        (lambda folder: (folder / "intervals.safetensors").unlink(), "intervals.safetensors: there is no such file"),
        (_edit_card(lambda card: card["files"].pop("intervals.safetensors")), "intervals.safetensors: .*sha256"),
        (_edit_card(lambda card: card.update(calibration="yes")), "not those of a head"),
        (_edit_arrays(lambda arrays: arrays.pop("multiplier"), "intervals"), "intervals have shapes"),
        (_edit_arrays(lambda arrays: arrays["variance"].fill(-1), "intervals"), "intervals hold negative"),
    ],
)
def test_a_damaged_head_is_refused(saved: Path, spoil: Callable[[Path], None], message: str) -> None:
    load_head(saved)
    spoil(saved)
    with pytest.raises(HeadError, match=message) as caught:
        load_head(saved)
    assert "head" in str(caught.value.where) and caught.value.hint


def test_a_head_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HeadError, match="no such folder"):
        load_head(tmp_path / "nowhere")


def test_saving_replaces_a_head_and_nothing_else(job: Any, saved: Path, tmp_path: Path) -> None:
    head = train(*job, head="mean", out=saved)
    assert load_head(saved).card == head.card
    (saved / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for place in (saved, tmp_path / "file"):
        with pytest.raises(HeadError, match=r"holds other files|is a file, not a folder"):
            head.save(place)
    assert (saved / "notes.txt").exists() and load_head(saved).card == head.card
    (tmp_path / "empty").mkdir()
    head.save(tmp_path / "empty")
    assert load_head(tmp_path / "empty").card == head.card


def test_a_head_on_real_sections_beats_the_mean_and_keeps_level_with_ridge(data_dir: Path) -> None:
    """Leave one section out of C2, C3, C4, on plain colour and texture features that need no encoder's weights."""
    from histomix.slides import TileSpec, open_slide, read_tile

    folder, spec = data_dir / "her2st", TileSpec(56, 2.0)
    features, labels = {}, {}
    for name in ("C2", "C3", "C4"):
        spots = pd.read_csv(folder / "spots" / f"{name}_selection.tsv", sep="\t")
        spots.index = spots["x"].astype(str) + "x" + spots["y"].astype(str)
        values = pd.read_csv(folder / "proportions" / "major" / f"{name}.tsv.gz", sep="\t", index_col=0)
        rows = []
        with open_slide(folder / "images" / f"{name}.jpg", mpp=0.69) as slide:
            for x_px, y_px in spots[["pixel_x", "pixel_y"]].to_numpy():
                tile = read_tile(slide, x_px, y_px, spec).astype(np.float32) / 255
                quantiles = np.quantile(tile.reshape(-1, 3), np.linspace(0.05, 0.95, 5), axis=0)
                steps = [np.abs(np.diff(tile[::k, ::k], axis=axis)).mean((0, 1)) for k in (1, 2, 4) for axis in (0, 1)]
                rows.append(np.concatenate([quantiles.ravel(), np.ravel(steps)]))
        table = ad.AnnData(np.array(rows, np.float32), obs=pd.DataFrame(index=spots.index))
        table.obsm["spatial"] = spots[["pixel_x", "pixel_y"]].to_numpy(float)
        table.uns["manifest"] = json.dumps(manifest(name, encoder={"dim": table.n_vars}))
        features[name], labels[name] = table, Abundance(values.div(values.sum(axis=1), axis=0), "proportion")

    scores: dict[str, list[float]] = {"mlp": [], "ridge": []}
    for held_out in features:
        cohort = cohort_of({name: "C" for name in features if name != held_out})
        for kind, found in scores.items():
            predicted = train(cohort, features, labels, head=kind).predict_features(features[held_out])
            truth = labels[held_out].values
            both = predicted.loc[predicted.index.intersection(truth.index)]
            found.append(both.corrwith(truth.loc[both.index]).mean())
    assert np.mean(scores["ridge"]) > 0.3
    assert np.mean(scores["mlp"]) > np.mean(scores["ridge"]) - 0.02
