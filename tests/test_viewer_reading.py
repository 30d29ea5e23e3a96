"""What the viewer opens with: what varies, a plain statement instead of a composition, and words beside numbers."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib
import numpy as np
import pytest
from PIL import Image

import histomix as hm
from histomix.common.words import RESEARCH_USE, training_limit
from histomix.maps.areas import PEN, READ, REASONS, areas_mm2
from histomix.viewer import ViewerSlide, write_viewer

from .conftest import manifest_of
from .viewer_page import CELL, COLUMNS, ROWS, chromium, composition, looking, on_screen, pixel, until

NAMES = ["commonest", "rising", "even", "untold"]
ANSWER = "</script><i>Lymphoid</i>"
TISSUE = "</script><b>HER2+</b> breast"


def _table(in_scope: np.ndarray) -> ad.AnnData:
    """A grid on which one type rises from left to right beyond its interval."""
    positions = np.array([(150 + CELL * c, 150 + CELL * r) for r in range(ROWS) for c in range(COLUMNS)])
    across = positions[:, 0] / positions[:, 0].max()
    values = np.full((len(positions), 4), 0.02)
    values[:, 0], values[:, 1] = 0.6, 0.3 * across
    table = composition(positions, values, NAMES)
    table.layers["lower"], table.layers["upper"] = np.maximum(values - 0.04, 0), values + 0.04
    table.obs["in_scope"] = in_scope
    table.var["good_for"] = ["within a slide only", "between slides", "not known", "neither"]
    table.obs["answer"] = np.where(across > 0.5, ANSWER, "not told")
    facts = manifest_of(table)
    facts |= {
        "answers": {"parents": {}, "fdr": 0.1, "statement": "One in ten misses."},
        "slide": {"mpp": 0.5}, "tile": {"size_px": 112, "mpp": 1.0}, "area": {"spot_um": 55.0}, "cell_px": CELL,
        "head": {"tissue": [TISSUE], "training": {"n_donors": 1, "n_sections": 3}},
        "calibration": {"level": 0.8, "kind": "section", "n_donors": 1},
    }  # fmt: skip
    table.uns["manifest"] = json.dumps(facts)
    return table


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reading")
    Image.fromarray(np.full((1100, 1400, 3), 180, np.uint8)).save(folder / "slide.png")
    n = ROWS * COLUMNS
    inside = _table(np.arange(n) % COLUMNS < 9)
    areas = np.full((69, 88), READ, np.uint8)
    areas[20:60, 20:50] = PEN
    facts = manifest_of(inside) | {"tissue_areas": {"mpp": 8.0, "mm2": areas_mm2(areas, 8.0)}}
    inside.uns["manifest"] = json.dumps(facts)
    with hm.open_slide(folder / "slide.png", mpp=0.5) as slide:
        slides = [
            ViewerSlide("inside", slide, inside, areas=areas),
            ViewerSlide("foreign", slide, _table(np.arange(n) < 10)),
        ]
        return write_viewer(slides, folder / "viewer").page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def test_a_slide_opens_with_what_varies_not_with_the_commonest_type(browser: Any, page: Path) -> None:
    with looking(browser, page) as tab:
        assert tab.evaluate("[app.layer, app.meta.types[app.type]]") == ["differs", "rising"]
        thumbs = tab.locator("#thumbs .thumb").all_inner_texts()
        assert thumbs[:2] == ["H&E", "rising"] and "untold" not in thumbs
        tab.evaluate("app.setOpacity(1); app.setHatching(false)")
        table = _table(np.ones(ROWS * COLUMNS, bool))
        positions, values = table.obsm["spatial"], np.asarray(table.X)[:, 1]
        inside = np.arange(len(values)) % COLUMNS < 9
        mean = values[inside].mean()
        top = tab.evaluate("app.overview.top")
        differences = np.abs(np.asarray(table.X)[inside] - np.asarray(table.X)[inside].mean(axis=0))
        shown = [tab.evaluate("app.meta.types").index(name) for name in thumbs[1:]]
        usual = np.quantile(differences[:, shown], 0.99, method="lower")
        assert top == pytest.approx(usual, abs=1e-5), "one scale for all that is shown"
        assert 0 < top <= np.abs(values[inside] - mean).max() + 1e-4
        signed = matplotlib.colormaps["RdBu_r"]
        for tile in (0, 4, 8):
            place = np.clip(round(127.5 + 127.5 * (values[tile] - mean) / top), 0, 255)
            colour = np.array(signed(int(place))[:3]) * 255
            if abs(values[tile] - mean) <= 0.04:
                colour = colour + 0.7 * (255 - colour)
            assert np.abs(pixel(tab, *positions[tile]) - colour).max() < 6
        # A small map says what the large one does, in fewer steps.
        small = "([place, i]) => unpackedColour(colourBySmall(app.data.smalls[place])(i))"
        tab.evaluate("app.data.small().then((found) => { app.data.smalls = found; })")
        for tile in (0, 4, 8):
            large = pixel(tab, *positions[tile])
            assert np.abs(np.array(tab.evaluate(small, [0, tile])) - large).max() < 8
        tab.locator("#thumbs .thumb").first.click()
        until(tab, "app.layer === 'none'")
        tab.keyboard.press("9")
        until(tab, "app.layer === 'differs'")


def test_numbers_are_of_what_is_in_scope(browser: Any, page: Path) -> None:
    with looking(browser, page) as tab:
        inside = np.arange(ROWS * COLUMNS) % COLUMNS < 9
        expected = np.asarray(_table(inside).X)[inside].mean(axis=0)
        np.testing.assert_allclose(tab.evaluate("app.meta.means.value"), expected, atol=1e-5)
        tab.keyboard.press("r")
        tab.mouse.move(*on_screen(tab, 1010, 110))
        tab.mouse.down()
        tab.mouse.move(*on_screen(tab, 1090, 190), steps=3)
        tab.mouse.up()
        until(tab, "document.getElementById('selected-text').textContent.includes('out of scope')")
        assert "0 readable tiles in scope" in tab.inner_text("#selected-text")
        assert set(tab.locator("#selected-rows td:nth-child(2)").all_inner_texts()) == {"–"}


def test_a_slide_out_of_scope_opens_with_a_statement(browser: Any, page: Path) -> None:
    with looking(browser, page, "#slide=foreign") as tab:
        words = tab.inner_text("#statement")
        assert words.startswith(f"This head was trained on {TISSUE}; 9 % of this slide looks like that.")
        assert tab.evaluate("app.layer") == "none" and tab.is_hidden("#overview")
        assert "out of scope" in tab.inner_text("#legend-0"), "and where, on the H&E"
        assert set(tab.locator("#type-list small:not(.word)").all_inner_texts()) == {"–"}, "no composition"
        far = pixel(tab, 650, 650)
        tab.evaluate("app.setHatching(false)")
        around = [pixel(tab, 650 + step, 650) for step in range(-20, 20)]
        assert np.ptp(np.array(around), axis=0).max() < 8 and far is not None
        tab.evaluate("app.setHatching(true)")
        around = [pixel(tab, 650 + step, 650) for step in range(-20, 20)]
        assert np.ptp(np.array(around), axis=0).max() > 60, "hatched over the H&E"
        tab.click("#slide-0")
        until(tab, "app.meta.name === 'inside' && app.layer === 'differs'")
        assert tab.is_hidden("#statement")


def test_what_was_read_has_a_layer_with_its_areas(browser: Any, page: Path) -> None:
    with looking(browser, page, "#slide=inside") as tab:
        tab.keyboard.press("a")
        until(tab, '!!app.panes[0].picture && "bitmap" in app.panes[0].picture')
        words = tab.inner_text("#legend-0")
        assert "0.389 mm² of tissue" in words and "under pen" in words and "0.0768 mm²" in words
        tab.evaluate("app.setOpacity(1)")
        under_pen, read = pixel(tab, 35 * 16, 40 * 16), pixel(tab, 58 * 16, 40 * 16)
        assert np.abs(np.array(under_pen[:3]) - REASONS[PEN - 1].colour).max() < 6
        assert np.abs(np.array(read[:3]) - 180).max() < 6, "what is read is left clear"
        tab.click("#slide-1")
        until(tab, "app.meta.name === 'foreign'")
        assert tab.is_hidden("#layers input[value=areas]"), "an older map has no such layer"


def test_words_stand_beside_numbers(browser: Any, page: Path) -> None:
    with looking(browser, page) as tab:
        assert tab.locator("#type-list .word").all_inner_texts() == [
            "good for: within a slide only", "good for: between slides", "good for: not known", "good for: neither"
        ]  # fmt: skip
        about = " ".join(tab.locator("#about li").all_inner_texts())
        assert "calibrated on: sections of one patient" in about and "spots 55 µm wide" in about
        assert "rising can be compared between slides" in about.lower()
        legend = tab.evaluate("app.layers.legend({...app.panes[0], layer: 'width'}).note")
        learnt = "112 µm tiles, learnt from 55 µm spots, trained on sections of one patient"
        assert legend == f"{learnt}; intervals calibrated on: sections of one patient"
        assert "calibrated" not in tab.evaluate("app.layers.legend({...app.panes[0], layer: 'type'}).note")
        assert tab.locator("header").inner_text().count(RESEARCH_USE) == 1
        limit = training_limit(1, 3)
        assert limit in tab.locator("#overview-words").inner_text(), (
            "beside the first picture, not in the small print alone"
        )
        assert limit in about and limit.startswith("The head was trained on sections of one patient")
        svg = ElementTree.fromstring(tab.evaluate("drawFigure(app, DrawingPen).text()"))
        lines = [text for text in svg.iter("{http://www.w3.org/2000/svg}text") if text.get("font-size") == "10"]
        small = " ".join(str(line.text) for line in lines)
        for words in (RESEARCH_USE, "calibrated on: sections of one patient", "spots 55 µm wide", limit):
            assert words in small
        # About half its size is a letter wide: no line runs out of the picture.
        assert max(len(str(line.text)) for line in lines) * 5 < float(str(svg.get("width")))
        assert max(float(str(line.get("y"))) for line in lines) < float(str(svg.get("height")))


def test_the_answer_of_a_tile_is_read_out_and_its_rate_is_told(browser: Any, page: Path) -> None:
    with looking(browser, page) as tab:
        last = COLUMNS - 1
        words = tab.evaluate(f"[0, {last}].map((row) => app.readout.words(row))")
        assert "answer: not told" in words[0] and f"answer: {ANSWER}" in words[1]
        tab.evaluate(f"app.readout.show({last}, 50, 50)")
        assert f"answer: {ANSWER}" in tab.locator("#readout").inner_text() and tab.locator("#readout i").count() == 0
        about = " ".join(tab.locator("#about li").all_inner_texts())
        assert f"{ANSWER} " in about and "One in ten misses." in about
        assert tab.evaluate("app.meta.types") == NAMES
