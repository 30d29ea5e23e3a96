"""What is no section of the trained tissue gets its sentence, and none a confident map."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import histomix as hm
from histomix.maps import CompositionMap
from histomix.slides import open_slide

from .conftest import Job
from .strange_slides import MADE, MADE_OF_TISSUE, SIDE

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def read(job: Job, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], Path]]:
    """Status and folder of each, read by the head of the phantom that comes with the package."""
    folder = tmp_path_factory.mktemp("strange")
    hm.pull_head("phantom", folder / "head", accept=True)
    with open_slide(job.image) as slide:
        tissue = slide.read(200, 200, SIDE, SIDE, slide.mpp)
    pictures = {name: make() for name, (make, _) in MADE.items()}
    pictures |= {name: change(tissue) for name, (change, _) in MADE_OF_TISSUE.items()}
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    images = [folder / f"{name}.png" for name in pictures]
    hm.predict_slides(images, folder / "head", folder / "maps", mpp=0.5, progress=False)
    return {name: (_status(folder / "maps" / name), folder / "maps" / name) for name in pictures}


def _status(folder: Path) -> dict[str, Any]:
    status: dict[str, Any] = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    return status


def test_a_head_that_cannot_tell_other_tissue_says_so(job: Job, read: dict[str, tuple[dict[str, Any], Path]]) -> None:
    assert "Tiles of another tissue may well be in scope" in hm.load_head(job.head).card["limits"]
    taught = hm.load_head(read["white"][1].parents[1] / "head").card
    assert taught["training"]["n_donors"] == 4 and "another tissue" not in taught["limits"]


@pytest.mark.parametrize("name", [*MADE, *MADE_OF_TISSUE])
def test_each_gets_its_sentence_and_none_a_confident_map(
    name: str, read: dict[str, tuple[dict[str, Any], Path]]
) -> None:
    status, folder = read[name]
    words = MADE[name][1] if name in MADE else MADE_OF_TISSUE[name][1]
    told = [str(status.get("reason", "")), *status.get("remarks", [])]
    assert any(words in one for one in told), told
    if status["state"] != "done":
        assert not (folder / "composition.h5ad").exists()
        return
    one = CompositionMap.open(folder)
    assert one.reading.statement and np.mean(one.in_scope) < 0.5
    tables = hm.cohort_tables(folder, progress=False)
    assert tables.slides["remark"].tolist() == [" ".join([one.reading.statement, *one.reading.remarks])]
    assert any(column.startswith("proportion:") for column in tables.slides) == (not one.reading.statement)
