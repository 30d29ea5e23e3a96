"""What a map says beside its numbers: scope, intervals, areas, and the types that vary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import histomix as hm
from histomix.common.words import RESEARCH_USE, whole_percent
from histomix.maps import CompositionMap
from histomix.maps.reading import calibrated_on, interval_caution, scope_statement, words_by_type
from histomix.maps.varying import LEAST, MOST, varying_types
from histomix.prediction.focus import focus_facts

from .conftest import Job, manifest_of

TYPES = [f"type {number}" for number in range(8)]


def made(in_scope: int = 100, *, bounds: float | None = 0.05, **manifest: Any) -> ad.AnnData:
    """100 tiles in a row: type 0 the commonest and even, type 1 rising much, type 2 rising a little, others even."""
    rising = np.linspace(-1, 1, 100)
    values = np.full((100, 8), 0.02, np.float32)
    values[:, 0], values[:, 1], values[:, 2] = 0.6, 0.2 + 0.15 * rising, 0.1 + 0.06 * rising
    obs = pd.DataFrame({"x_px": 50.0 + 100 * np.arange(100), "y_px": 50.0}, index=[f"{i}x0" for i in range(100)])
    obs["novelty"], obs["in_scope"], obs["read_ok"] = 0.5, np.arange(100) < in_scope, True
    table = ad.AnnData(values, obs=obs, var=pd.DataFrame(index=TYPES))
    if bounds is not None:
        table.layers["lower"], table.layers["upper"] = np.clip(values - bounds, 0, 1), np.clip(values + bounds, 0, 1)
    table.obsm["spatial"] = obs[["x_px", "y_px"]].to_numpy(float)
    slide = {"file": "a.svs", "mpp": 0.5, "width_px": 10_000, "height_px": 100}
    facts = {"slide": slide, "unit": "proportion", "places": "grid", "cell_px": 224.0, "head": {"name": "h"}}
    table.uns["manifest"] = json.dumps({**facts, "tile": {"size_px": 224, "mpp": 0.5, "stride_um": None}, **manifest})
    return table


@pytest.mark.parametrize(
    ("share", "tissue", "words"),
    [
        (
            0.0,
            ["HER2+ breast cancer"],
            "this head was trained on HER2+ breast cancer; 0 % of this slide looks like that",
        ),
        (0.499, ["colon", "skin"], "this head was trained on colon and skin; 49 % of this slide looks like that"),
        (0.004, "not declared", "less than 1 % of this slide looks like the tissue that this head was trained on"),
        (0.5, ["colon"], ""),
        (1.0, None, ""),
        (float("nan"), ["colon"], "no tile of this slide could be read"),
    ],
)
def test_a_slide_with_less_than_half_in_scope_has_a_statement(share: float, tissue: Any, words: str) -> None:
    assert scope_statement(share, tissue) == words


def test_a_share_is_never_said_to_be_more_than_it_is() -> None:
    assert [whole_percent(share) for share in (0.0, 1e-4, 0.29, 0.5, 0.999, 1.0)] == [
        "0 %", "less than 1 %", "29 %", "50 %", "99 %", "100 %"
    ]  # fmt: skip


def test_only_readable_tiles_in_scope_are_in_the_numbers() -> None:
    table = made(in_scope=60)
    table.obs.loc[table.obs_names[:10], "read_ok"] = False
    table.X = np.where(np.arange(100)[:, None] < 10, np.nan, table.X)
    one = CompositionMap(table)
    assert one.reading.used.tolist() == [10 <= number < 60 for number in range(100)]
    assert one.reading.in_scope_share == pytest.approx(50 / 90) and one.reading.statement == ""
    found = one.describe().table
    assert found.loc["type 1", "mean"] == pytest.approx(np.asarray(table.X)[10:60, 1].mean(), rel=1e-5)
    assert one.describe().facts["use"] == RESEARCH_USE
    table.obs["in_scope"] = False
    assert "0 % of this slide" in CompositionMap(table).describe().facts["statement"]


@pytest.mark.parametrize(
    ("calibration", "words", "holds"),
    [
        (None, "", True),
        ({"level": 0.8}, "", True),
        ({"kind": "section", "n_donors": 1, "n_groups": 3}, "sections of one patient", False),
        ({"kind": "section", "n_donors": 2, "n_groups": 6}, "sections of two patients", False),
        ({"kind": "donor", "n_donors": 2, "n_groups": 2}, "two patients", False),
        ({"kind": "donor", "n_donors": 9, "n_groups": 9}, "9 patients", True),
    ],
)
def test_intervals_say_whom_they_were_calibrated_on(calibration: Any, words: str, holds: bool) -> None:
    assert calibrated_on(calibration) == words
    caution = interval_caution(calibration)
    assert (caution == "") == holds and (holds or f"calibrated on: {words}." in caution)
    reading = CompositionMap(made(calibration=calibration)).reading
    assert (reading.calibrated_on, reading.caution) == (words, caution)


def test_a_map_says_what_area_a_number_is_for() -> None:
    area = {"spot_um": 55.0, "label_um2": None}
    plain = CompositionMap(made(area=area)).reading.refers_to
    assert plain == "A number is for a tile of 112 µm on a grid; the head learnt from spots 55 µm wide."
    finer = CompositionMap(made(area=area, cell_px=112.0)).reading.refers_to
    assert "a tile of 112 µm on a grid, one every 56 µm;" in finer
    spots = CompositionMap(made(area={**area, "label_um2": 2376.0}, places="spots")).reading.refers_to
    assert spots.startswith(
        "A number counts cells in the area of a training spot, read from a tile of 112 µm around each"
    )
    assert "not known" in CompositionMap(made()).reading.refers_to


def test_a_prediction_says_it_in_its_own_manifest(job: Job, tmp_path: Path) -> None:
    manifest = manifest_of(hm.predict(job.image, job.head))
    assert manifest["use"] == RESEARCH_USE
    assert manifest["refers_to"].endswith("spots 55 µm wide.") and manifest["area"]["spot_um"] == 55
    assert manifest["calibrated_on"] == "two patients"
    assert -7 < manifest["focus"]["median"] < 0 and manifest["focus"]["words"] == ""


def test_predict_says_it_of_a_slide_unlike_the_training(
    job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histomix.heads.apply.IN_SCOPE_PERCENTILE", -1.0)
    caplog.set_level("INFO", logger="histomix")
    (result,) = hm.predict_slides([job.image], job.head, tmp_path / "maps", progress=False)
    told = "this head was trained on phantom breast; 0 % of this slide looks like that"
    assert result.remarks[0].startswith(told)
    status = json.loads((tmp_path / "maps" / "P1S1" / "status.json").read_text())
    assert status["remarks"][0].startswith(told)
    assert RESEARCH_USE in caplog.text and "calibrated on: two patients" in caplog.text
    found = hm.CompositionMap.open(tmp_path / "maps" / "P1S1")
    assert found.reading.statement[1:-1] == told[1:]
    assert set(found.adata.var["good_for"]) <= {"between slides", "within a slide only", "neither", "not known"}


def test_a_map_keeps_the_words_of_the_card(job: Job) -> None:
    head = hm.load_head(job.head)
    names = head.card["cell_types"]
    by_type = {names[0]: {"good_for": "between slides", "slide_error": 0.07}, names[1]: {"good_for": "neither"}}
    head.card["levels"] = {"n_donors": 5, "n_sections": 5, "level": 0.9, "donors_unseen": True, "by_type": by_type}
    reading = CompositionMap(hm.predict(job.image, head)).reading
    assert [reading.good_for[name] for name in names[:3]] == ["between slides", "neither", "not known"]
    assert reading.slide_error[names[0]] == 0.07 and np.isnan(reading.slide_error[names[1]])


def test_the_types_that_vary_beyond_their_interval_come_first() -> None:
    found = varying_types(CompositionMap(made()))
    assert found.shown == ["type 1", "type 2", found.table.index[2]] and len(found.shown) == LEAST
    # |0.15 r| > 0.05 on two thirds of the slide, |0.06 r| > 0.05 on a sixth; the commonest type differs nowhere.
    beyond = found.table.loc[["type 1", "type 2", "type 0"], "beyond"]
    np.testing.assert_allclose(beyond, [2 / 3, 1 / 6, 0], atol=0.015)
    # By how much, not by how many: a type that hardly differs anywhere, but surely, does not come first.
    sure = made()
    sure.X[:, 3] = np.where(np.arange(100) % 2, 0.019, 0.021)
    for end, bound in (("lower", -1e-4), ("upper", 1e-4)):
        sure.layers[end][:, 3] = np.asarray(sure.X)[:, 3] + bound
    ranked = varying_types(CompositionMap(sure)).table
    assert list(ranked.index[:3]) == ["type 1", "type 2", "type 3"] and ranked.loc["type 3", "beyond"] == 1
    wide = varying_types(CompositionMap(made(bounds=0.5)))
    assert wide.shown[:2] == ["type 1", "type 2"] and "come nearest" in wide.words
    bare = varying_types(CompositionMap(made(bounds=None)))
    assert bare.shown[:2] == ["type 1", "type 2"] and "no intervals" in bare.words and bare.table["beyond"].isna().all()


def test_what_cannot_be_told_is_not_shown_as_varying() -> None:
    table = made()
    table.var["good_for"] = ["between slides", "neither", *["within a slide only"] * 6]
    found = varying_types(CompositionMap(table))
    assert found.shown[0] == "type 2" and "type 1" not in found.shown and found.table.index[-1] == "type 1"
    table.var["good_for"] = "neither"
    assert varying_types(CompositionMap(table)).shown[0] == "type 1", "where there is nothing else, it is shown"
    table.obs["in_scope"] = False
    assert varying_types(CompositionMap(table)).shown == []


def test_as_many_types_are_shown_as_vary() -> None:
    table = made()
    random = np.random.default_rng(0)
    table.X = random.uniform(0, 1, (100, 8)).astype(np.float32)
    table.layers["lower"], table.layers["upper"] = np.clip(table.X - 0.05, 0, 1), np.clip(table.X + 0.05, 0, 1)
    assert len(varying_types(CompositionMap(table)).shown) == MOST


def test_words_by_type_are_one_sentence() -> None:
    assert words_by_type({}) == ""
    unknown = "Whether any cell type can be compared between slides, or within one, is not known."
    assert words_by_type({"T": "not known", "B": "not known"}) == unknown
    told = words_by_type({"T": "between slides", "B": "neither", "C": "between slides", "D": "within a slide only"})
    assert told == (
        "T and C can be compared between slides; D can be compared within a slide only; "
        "B can be compared neither between slides nor within one."
    )
    many = words_by_type({f"t{number}": "between slides" for number in range(9)})
    assert many == "T0, t1, t2 and 6 more types can be compared between slides."


@pytest.mark.parametrize(
    ("sharp", "soft", "words"),
    [
        ([-5.0, -6.5, -3.0, -9.0], False, ""),
        ([-6.7, -6.8, -5.0, -6.9], True, "this slide is soft"),
        ([-7.2, -8.0, -5.0, -7.1], False, "most of this slide is out of focus"),
        ([-6.7, np.nan, -6.8, -5.0], True, "this slide is soft"),
    ],
)
def test_a_slide_that_is_soft_says_so(sharp: list[float], soft: bool, words: str) -> None:
    facts = focus_facts(np.array(sharp), np.array([True, True, True, True]))
    assert facts is not None and facts["soft"] == soft and facts["words"].startswith(words)
    assert bool(facts["words"]) == bool(words)
    reading = CompositionMap(made(focus=facts)).reading
    assert [words in one.lower() for one in reading.remarks] == [True] * bool(words)


def test_the_focus_of_what_cannot_be_measured_is_not_known() -> None:
    assert focus_facts(None, np.ones(4, bool)) is None
    assert focus_facts(np.full(4, np.nan), np.ones(4, bool)) is None
    assert focus_facts(np.array([-6.8, -6.8, -2, -2]), np.array([False, False, True, True]))["words"] == ""
    assert CompositionMap(made(focus="soft", scale_check=3)).reading.remarks == []


def test_a_map_says_that_its_head_was_trained_on_the_slide(job: Job, tmp_path: Path) -> None:
    again, another = tmp_path / "again.tif", tmp_path / "another.tif"
    again.write_bytes(job.image.read_bytes())
    another.write_bytes(job.image.read_bytes() + b"\0")
    known, new = hm.predict_slides([again, another], job.head, tmp_path / "maps", anonymise=True, progress=False)
    assert "the head was trained on this very slide: its map tests nothing" in known.remarks
    assert not any("very slide" in words for words in new.remarks)
    maps = [hm.CompositionMap.open(one.folder) for one in (known, new)]
    assert [bool(one.reading.seen) for one in maps] == [True, False]
    assert maps[0].reading.seen in maps[0].reading.remarks
    truth = tmp_path / "cells.csv"
    pd.DataFrame({"x_px": [300.0, 310.0], "y_px": 300.0, "cell_type": maps[0].cell_types[0]}).to_csv(truth, index=False)
    notes = hm.score_map(known.folder, cells=truth, donor="another", out=tmp_path / "score").summary["notes"]
    assert any("very slide" in note for note in notes)


def test_a_head_whose_card_lists_no_slides_says_nothing_of_them(job: Job) -> None:
    head = hm.load_head(job.head)
    del head.card["training"]["slides"]
    manifest = manifest_of(hm.predict(job.image, head))
    assert "this_slide" not in manifest["head"]["training"] and CompositionMap(made(**manifest)).reading.seen == ""
