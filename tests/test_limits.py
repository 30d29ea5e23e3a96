"""What a head of one or two training donors cannot tell stands on every surface that shows its maps."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import tifffile

import histomix as hm
from histomix.common.anonymity.pseudonyms import open_pseudonyms
from histomix.common.words import MADE_LIMIT, few_trained_on, head_limits, training_limit
from histomix.export.heatmap import write_heatmap
from histomix.export.spatial_data import to_spatialdata
from histomix.heads.cards.text import card_terms
from histomix.maps import CompositionMap, composition_geojson, write_composition
from histomix.maps.anonymise import private_map
from histomix.pl.varying import map_notes

from .conftest import Job, manifest_of
from .extras import extra_module
from .slide_files import PATTERN, write_pyramid
from .test_reading import made

ONE_PATIENT = {"n_donors": 1, "n_sections": 3, "n_spots": 900}
SCALE = "cells look 2.0 times larger than in training: check the um per px (--mpp)"


@pytest.mark.parametrize(
    ("donors", "sections", "few", "said"),
    [
        (1, 1, "one section", "how right it is on any other"),
        (1, 3, "sections of one patient", "those of another patient"),
        (2, 2, "one section of each of two patients", "Tiles of another tissue may well be in scope"),
        (2, 5, "sections of two patients", "known from one pair alone"),
        (3, 3, "", ""),
        (8, 16, "", ""),
        (None, None, "", ""),
        ("1", 1, "", ""),
        (True, 1, "", ""),
    ],
)
def test_a_head_of_few_says_what_it_cannot_tell(donors: Any, sections: Any, few: str, said: str) -> None:
    sentence = training_limit(donors, sections)
    assert few_trained_on(donors, sections) == few
    assert said in sentence and bool(sentence) == bool(few) and (not few or f"trained on {few}:" in sentence)


def _map(training: dict[str, int]) -> ad.AnnData:
    table = made(head={"name": "h", "digest": "d", "training": training}, scale_check={"told": True, "words": SCALE})
    facts = manifest_of(table)
    facts["slide"] |= {"fingerprint": "f", "bounds_px": [0, 0]}
    table.uns["manifest"] = json.dumps(facts)
    return table


def _surfaces(table: ad.AnnData, folder: Path) -> dict[str, str]:
    """What each surface says, by its name."""
    one = CompositionMap(table)
    place = folder / "maps" / "a slide"
    write_composition(place, table, np.full((10, 1000, 3), 200, np.uint8))
    collection = composition_geojson(one)
    with tifffile.TiffFile(write_heatmap(folder / "map.ome.tif", one)) as tiff:
        xml = ElementTree.fromstring(str(tiff.ome_metadata))
    names = open_pseudonyms(True, folder.with_name(f"{folder.name}.key.csv"), folder)
    assert names is not None
    (row,) = hm.cohort_tables([folder / "maps"], progress=False).slides.to_dict("records")
    report = hm.write_report([folder / "maps"], folder / "report", progress=False)
    return {
        "describe": " ".join(map(str, one.describe().facts.values())),
        "picture": " ".join(map_notes(one)),
        "GeoJSON": " ".join(value for name, value in collection.items() if name != "features" and value is str(value)),
        "OME-TIFF": " ".join(str(text) for text in xml.itertext()),
        "anonymised": " ".join(private_map(one, names).reading.notes),
        "slides.csv": f"{row['limits']} {row['remark']}",
        "report": report.read_text(encoding="utf-8"),
    }


def test_every_surface_says_it(tmp_path: Path) -> None:
    limit, scale = training_limit(1, 3), SCALE[1:]
    for name, text in _surfaces(_map(ONE_PATIENT), tmp_path / "one").items():
        assert limit in text, name
        assert scale in text, name
    for name, text in _surfaces(_map({**ONE_PATIENT, "n_donors": 3}), tmp_path / "three").items():
        assert "was trained on" not in text, name


def test_a_store_of_spatialdata_says_it() -> None:
    extra_module("st", "spatialdata")
    told = to_spatialdata(_map(ONE_PATIENT)).attrs["histomix"]
    assert told["limits"] == training_limit(1, 3) and SCALE[1:] in told["remarks"]


def test_a_prediction_says_it_in_its_manifest_and_once_a_run(
    job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limit = training_limit(2, 2)
    card = hm.load_head(job.head).card
    assert limit in card["limits"], "the card of the head and its maps say the same"
    assert head_limits(card) == [MADE_LIMIT, limit], "and of the phantom's head that it knows no tissue"
    text = " ".join(card_terms(card))
    assert text.count(limit) == text.count(MADE_LIMIT) == 1, "said once, whoever says it"
    (result,) = hm.predict_slides([job.image], job.head, tmp_path / "maps", progress=False)
    assert result.error is None and caplog.text.count(limit) == caplog.text.count(MADE_LIMIT) == 1
    one = CompositionMap.open(tmp_path / "maps" / "P1S1")
    assert one.manifest["limits"] == one.reading.limits == f"{MADE_LIMIT} {limit}"
    older = {name: value for name, value in one.manifest.items() if name != "limits"}
    one.adata.uns["manifest"] = json.dumps(older)
    assert CompositionMap(one.adata).reading.limits == f"{MADE_LIMIT} {limit}", (
        "a map of before says it by its head's donors"
    )


def test_inspect_says_what_a_head_cannot_tell_and_what_a_map_must_be_read_with(tmp_path: Path) -> None:
    head, place = tmp_path / "head", tmp_path / "map"
    head.mkdir()
    write_composition(place, _map(ONE_PATIENT), np.full((10, 1000, 3), 200, np.uint8))
    for folder, name, facts in (
        (head, "card.json", {"cell_types": ["T"], "training": ONE_PATIENT}),
        (place, "status.json", {"state": "done", "remarks": ["0 % of this slide looks like that"]}),
    ):
        (folder / name).write_text(json.dumps(facts))
    (head / "arrays.safetensors").touch()
    assert training_limit(1, 3) in hm.inspect_data(head).description.contents
    assert "to be read with care: 0 % of this slide looks like that" in hm.inspect_data(place).description.contents


def test_inspect_takes_an_overview_for_no_slide(tmp_path: Path) -> None:
    for mpp in (0.5, 4.0):
        write_pyramid(tmp_path / "slide.tif", PATTERN, mpp=mpp)
        words = " ".join(hm.inspect_data(tmp_path / "slide.tif").description.contents)
        assert ("an overview" in words) == (mpp == 4.0) and ("for histomix predict" in words) == (mpp == 0.5), words
