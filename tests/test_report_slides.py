"""Slides on the page of a report: what varies first, and a plain statement where a slide is out of scope."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import histomix as hm
from histomix.common.words import RESEARCH_USE
from histomix.maps import write_composition
from histomix.report import write_report

from .conftest import manifest_of
from .test_reading import TYPES, made


def _page(folder: Path, in_scope: int, levels: dict[str, list[float]] | None = None, **manifest: object) -> str:
    """A report of one map of 100 tiles, as text without marks."""
    table = made(in_scope, area={"spot_um": 55.0}, **manifest)
    table.var["good_for"] = ["within a slide only", "between slides", *["not known"] * 6]
    table.var["slide_error"] = [0.25, 0.125, *[np.nan] * 6]
    for fact, values in (levels or {}).items():
        table.var[fact] = [*values, *[np.nan] * 6]
    facts = manifest_of(table)
    facts["slide"] |= {"fingerprint": "f", "bounds_px": [0, 0]}
    table.uns["manifest"] = json.dumps(facts)
    write_composition(folder / "maps" / "a slide", table, np.full((10, 1000, 3), 200, np.uint8))
    return write_report([folder / "maps"], folder / "report", progress=False).read_text(encoding="utf-8")


def _words(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_a_slide_out_of_scope_has_a_statement_and_no_composition(tmp_path: Path) -> None:
    page = _page(tmp_path, 7, head={"name": "h", "tissue": ["<b>HER2+</b> breast cancer"]})
    told = "This head was trained on &lt;b&gt;HER2+&lt;/b&gt; breast cancer; 7 % of this slide looks like that."
    assert page.count(told) == 2, "at the top of the page and of the slide"
    words = _words(page)
    assert "Composition of the slide" not in words and "most abundant" not in words.lower()
    assert page.index(told) < page.index("<details>"), "what the head says all the same is folded away"
    pictures = sorted(path.name for path in (tmp_path / "report" / "figures").iterdir() if "-over" not in path.name)
    assert [name.split("-")[-1] for name in pictures] == ["scope.png", "maps.png"]


def test_a_slide_shows_first_what_varies(tmp_path: Path) -> None:
    page = _page(tmp_path, 60, calibration={"level": 0.9, "kind": "section", "n_donors": 1})
    pictures = sorted(path.name for path in (tmp_path / "report" / "figures").iterdir() if "-over" not in path.name)
    assert [name.split("-")[-1] for name in pictures] == ["varying.png", "maps.png", "composition.png"]
    assert (
        page.index("varying.png")
        < page.index("maps.png")
        < page.index("The most abundant type")
        < page.index("composition.png")
    )
    words = _words(page)
    assert words.count(RESEARCH_USE) == 2 and 'class="statement"' not in page
    assert "Only 60 % of the tiles look like the training tissue" in words
    assert "Intervals are calibrated on: sections of one patient." in words
    assert "mean bounds of a tile, calibrated on: sections of one patient" in words
    assert "Type 1 can be compared between slides; type 0 can be compared within a slide only" in words
    assert "spots 55 µm wide" in words
    # Means are of the sixty tiles in scope; their interval is the head's.
    mean = np.asarray(made(60).X)[:60, 1].mean()
    row = re.search(rf"<td[^>]*>{TYPES[1]}</td>(.*?)</tr>", page, re.DOTALL)
    assert row is not None and "between slides" in row[1]
    assert f"{mean:.3f}" in row[1] and "± 0.125" in row[1]


def test_a_map_in_memory_without_a_picture_still_says_it(tmp_path: Path) -> None:
    page = write_report([made(in_scope=0)], tmp_path / "report", progress=False).read_text(encoding="utf-8")
    assert "0 % of this slide looks like the tissue that this head was trained on." in page


@pytest.mark.parametrize("in_scope", [0, 100])
def test_describing_says_the_same(in_scope: int) -> None:
    facts = hm.CompositionMap(made(in_scope)).describe().facts
    assert ("statement" in facts) == (in_scope == 0)


def test_the_mean_of_a_slide_stands_beside_the_one_that_is_drawn_to_the_training(tmp_path: Path) -> None:
    levels = {"training_mean": [0.5, np.nan], "slope": [0.2, np.nan], "shrunk_error": [0.03125, np.nan]}
    page = _page(tmp_path, 60, levels)
    words = _words(page)
    assert "0.600 ± 0.250 0.520 ± 0.031" in words, "half of the training, .6 of the slide, of which a fifth is believed"
    assert "no better for telling slides apart" in words
    assert "no better for telling slides apart" not in _words(_page(tmp_path / "without", 60))
