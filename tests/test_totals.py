"""Whether the totals of labels are cells: each rule, and the unit that follows wherever labels go."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from histomix.abundance import Abundance, label, read_labels
from histomix.abundance.ready import label_ready
from histomix.abundance.totals import DETECTION, LEAST_GENES, PICTURE_RATIO, Totals
from histomix.common.metrics import is_present
from histomix.errors import LabelError
from histomix.evaluation.data import CohortData, _common_types
from histomix.heads import make_estimator
from histomix.heads.dataset import _common_types as types_of_sections
from histomix.maps.reading import refers_to
from histomix.maps.units import label_area_um2
from histomix.spots import LABEL_UNITS, RELATIVE, Section

from .test_labelling import Memory, make_reference, make_section, simulate

CELLS = "cells per spot"
#: A whole transcriptome that was seen half as deep as the reference.
SOUND = Totals(total=10.0, nuclei=None, genes=2000, detection=0.5)


def test_totals_that_nothing_contradicts() -> None:
    assert SOUND.doubts == []
    assert replace(SOUND, nuclei=10.0).doubts == []


@pytest.mark.parametrize("nuclei", [10 * PICTURE_RATIO * 1.01, 10 / PICTURE_RATIO / 1.01])
def test_the_picture_shows_other_numbers_of_cells(nuclei: float) -> None:
    (doubt,) = replace(SOUND, nuclei=nuclei).doubts
    assert f"{nuclei:.3g} nuclei" in doubt and "sums to 10 cells" in doubt


def test_a_panel_of_few_genes() -> None:
    (doubt,) = replace(SOUND, genes=66).doubts
    assert "66 genes" in doubt and str(LEAST_GENES) in doubt
    assert replace(SOUND, genes=LEAST_GENES).doubts == []
    assert replace(SOUND, genes=66, nuclei=12.0).doubts == [], "a picture that agrees decides"


@pytest.mark.parametrize("detection", [DETECTION[1] * 1.1, DETECTION[0] / 1.1, np.inf])
def test_cells_that_would_have_given_far_too_many_or_too_few_counts(detection: float) -> None:
    one = replace(SOUND, detection=detection)
    assert "times the counts of a reference cell" in one.doubts[0]
    json.dumps(one.facts(), allow_nan=False)


def sections(**images: Path | None) -> tuple[Memory, pd.DataFrame]:
    counts, signatures, _ = simulate(40, n_genes=400)
    made = []
    for name, image in images.items():
        section = make_section(name, counts)
        section.adata.obsm["spatial"] = np.zeros((len(counts), 2))
        made.append(replace(section, image=image, spot_diameter_um=55.0))
    return Memory(*made), make_reference(signatures)


class Slide:
    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *args: object) -> None:
        pass


def seen(monkeypatch: pytest.MonkeyPatch, nuclei: float) -> None:
    monkeypatch.setattr("histomix.slides.count_nuclei", lambda slide, xy_px, um: np.full(len(xy_px), nuclei))
    monkeypatch.setattr(Section, "slide", lambda section: Slide())


def cells(cohort: Memory, reference: pd.DataFrame, out: Path | None = None) -> dict[str, Abundance]:
    return label(cohort, "poisson", reference, out, CELLS, cells_per_spot=8.0)  # type: ignore[arg-type]


def test_one_section_whose_picture_disagrees_makes_all_labels_relative(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cohort, reference = sections(A=None, B=tmp_path / "he.tif")
    seen(monkeypatch, 9.0)
    assert {one.unit for one in cells(cohort, reference, tmp_path / "good").values()} == {CELLS}
    seen(monkeypatch, 40.0)
    with caplog.at_level(logging.WARNING, logger="histomix"):
        labels = cells(cohort, reference, tmp_path / "bad")
    assert {one.unit for one in labels.values()} == {RELATIVE}
    assert "totals of 1 of 2 sections" in caplog.text and "40 nuclei" in caplog.text
    manifest = json.loads((tmp_path / "bad" / "manifest.json").read_text())
    assert (manifest["unit"], manifest["settings"]["unit"]) == (RELATIVE, CELLS)
    assert manifest["sections"]["A"]["totals"]["doubts"] == [] and manifest["sections"]["B"]["totals"]["nuclei"] == 40
    kept = read_labels(tmp_path / "bad")
    assert {one.unit for one in kept.values()} == {RELATIVE} == {one.provenance["unit"] for one in kept.values()}
    # Going on keeps them, in the same unit; the numbers are those of the method.
    with caplog.at_level(logging.INFO, logger="histomix"):
        again = cells(cohort, reference, tmp_path / "bad")
    assert "2 sections unchanged and kept" in caplog.text
    assert {one.unit for one in again.values()} == {RELATIVE}
    pd.testing.assert_frame_equal(again["A"].values, read_labels(tmp_path / "good")["A"].values)


def test_a_panel_without_a_picture_is_relative() -> None:
    counts, signatures, _ = simulate(40, n_genes=66)
    cohort = Memory(make_section("A", counts))
    assert cells(cohort, make_reference(signatures))["A"].unit == RELATIVE


def test_a_picture_that_cannot_be_counted_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cohort, reference = sections(A=tmp_path / "he.tif")
    seen(monkeypatch, 0.0)
    assert cells(cohort, reference)["A"].unit == CELLS


def test_relative_abundance_can_be_asked_for_and_takes_no_number_of_cells() -> None:
    cohort, reference = sections(A=None)
    labels = label(cohort, "poisson", reference, unit=RELATIVE)["A"]  # type: ignore[arg-type]
    assert labels.unit == RELATIVE and not np.allclose(labels.values.sum(axis=1), 1)
    np.testing.assert_allclose(labels.proportions().values.sum(axis=1), 1)
    with pytest.raises(LabelError, match="takes no cells_per_spot"):
        label(cohort, "poisson", reference, unit=RELATIVE, cells_per_spot=8)  # type: ignore[arg-type]


TABLE = pd.DataFrame({"T": [1.0, 0.2], "B": [0.0, 0.1]}, index=["1x1", "2x1"])


def abundances(unit: str) -> Abundance:
    return Abundance(TABLE.div(TABLE.sum(axis=1), axis=0) if unit == "proportion" else TABLE, unit)


@pytest.mark.parametrize("other", [unit for unit in LABEL_UNITS if unit != RELATIVE])
def test_units_are_never_mixed(other: str) -> None:
    labels = {"A": abundances(RELATIVE), "B": abundances(other)}
    with pytest.raises(LabelError, match=f"the unit is {other}, but that of section A is relative abundance") as caught:
        types_of_sections(labels, ["A", "B"])
    assert "are not mixed" in str(caught.value)
    train, test = (CohortData(SimpleNamespace(), {}, {"A": abundances(unit)}) for unit in (RELATIVE, other))  # type: ignore[arg-type]
    with pytest.raises(LabelError, match=f"in relative abundance, those of the test cohort in {other}"):
        _common_types(train, test)


def test_tables_in_cells_can_be_read_as_relative_and_never_the_reverse(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = SimpleNamespace(sheet="sheet.csv")
    given = {"A": abundances(CELLS)}
    monkeypatch.setattr("histomix.abundance.ready.cohort_labels", lambda cohort, vocabulary: dict(given))

    def ready(unit: str) -> Abundance:
        return label_ready("table", cohort, None, unit, 0, lambda *step: None, None)["A"]  # type: ignore[arg-type]

    assert ready(RELATIVE).unit == RELATIVE
    given["A"] = abundances(RELATIVE)
    assert ready("proportion").unit == "proportion"
    with pytest.raises(LabelError, match="labels in relative abundance cannot be turned into cells per spot"):
        ready(CELLS)


def test_a_type_is_present_by_its_share() -> None:
    assert is_present(1000 * TABLE.to_numpy(), RELATIVE).tolist() == is_present(TABLE.to_numpy(), RELATIVE).tolist()


@pytest.mark.parametrize("head", ["ridge", "mlp", "knn"])
def test_heads_learn_them_and_their_maps_count_no_cells(head: str) -> None:
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(60, 5)).astype(np.float32), rng.gamma(1.0, 0.05, size=(60, 3))
    estimator = make_estimator(head, RELATIVE, 0)
    predicted = estimator.fit(X, Y, groups=np.repeat([0, 1, 2], 20)).predict(X)
    assert estimator.unit == RELATIVE and (predicted >= 0).all()
    head_of = SimpleNamespace(card={"unit": RELATIVE, "training": {"spot_diameter_um": 55.0}})
    assert label_area_um2(head_of) is None  # type: ignore[arg-type]


def test_a_map_says_that_its_totals_are_no_cells() -> None:
    manifest = {"slide": {"mpp": 0.5}, "tile": {"size_px": 224, "mpp": 0.5}, "cell_px": 224, "area": {"spot_um": 55.0}}
    assert "totals are no numbers of cells" in refers_to(manifest | {"unit": RELATIVE})
    assert "totals" not in refers_to(manifest | {"unit": "proportion"})
