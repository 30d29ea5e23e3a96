"""What the viewer is worked with: magnification, whereabouts, thresholds, inks, a second slide and named regions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest

from .extras import extra_module
from .viewer_page import CELL, HOSTILE, TYPES, Built, build, chromium, looking, pixel, settle, shares, until

SCHEMA = json.loads(Path(__file__).with_name("qupath-0.5.1.schema.json").read_text())
VIRIDIS = matplotlib.colormaps["viridis"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("viewer"))


@pytest.fixture(scope="module")
def opened(built: Built) -> Iterator[Any]:
    """The viewer, opened once for all tests."""
    with chromium() as browser, looking(browser, built.page) as tab:
        yield tab


@pytest.fixture
def tab(opened: Any) -> Any:
    """As after opening: the first slide alone, opaque, unhatched, whole, without regions."""
    opened.evaluate(
        """(async () => {
          app.drop(); app.regions.kept.clear(); app.setOpacity(1); app.setHatching(false); app.setTool("pan");
          await app.show({beside: "off", besideType: null, besideSlide: null, threshold: 0, type: 0, layer: "type"});
          if (app.scene.number) await app.open(0);
          app.aimed = app.panes[0]; app.fit("map"); app.selectionChanged();
        })()"""
    )
    return opened


def _downloaded(tab: Any, button: str) -> Path:
    with tab.expect_download() as download:
        tab.click(button)
    return Path(download.value.path())


def _draw(tab: Any, corner: tuple[float, float], other: tuple[float, float], scene: str = "app.scene") -> None:
    code = f"""([a, b]) => {{
      app.selection.start('rectangle', a, {scene}); app.selection.extend(b); app.selection.finish(); }}"""
    tab.evaluate(code, [corner, other])
    until(tab, "document.querySelectorAll('#selected-rows tr').length === 3")


def _inside(built: Built, corner: tuple[float, float], other: tuple[float, float]) -> np.ndarray:
    positions, values = built.grid.obsm["spatial"], np.asarray(built.grid.X)
    known = np.isfinite(values).all(axis=1) & built.grid.obs["in_scope"].to_numpy()
    return known & ((positions > corner) & (positions < other)).all(axis=1)


def test_nothing_lies_on_the_slide_but_its_scale(tab: Any) -> None:
    tab.evaluate("app.show({layer: 'dominant', beside: 'novelty'})")
    until(tab, "app.panes[1].layer === 'novelty'")
    code = """() => app.panes.flatMap(({canvas, number}) => {
      const slide = canvas.getBoundingClientRect();
      return [`caption-${number}`, `legend-${number}`].filter((id) => {
        const box = document.getElementById(id).getBoundingClientRect();
        return !box.height || (box.top < slide.bottom - 1 && box.bottom > slide.top + 1);
      });
    })"""
    assert tab.evaluate(code) == []
    high, other = tab.evaluate("app.panes.map(({height}) => height)")
    assert high == other > 300, "however long their legends, both panes show as much"


def test_the_magnification_is_told_and_chosen(tab: Any) -> None:
    tab.select_option("#times", "10")
    # The slide has 0.5 um/px, and 10x is 1 um per px of the screen.
    assert tab.evaluate("app.view.scale") == pytest.approx(0.5)
    tab.keyboard.press("Escape")
    tab.locator("#times").blur()
    tab.keyboard.press("+")
    assert tab.evaluate("document.getElementById('times').selectedOptions[0].textContent") == "14×"
    tab.evaluate("app.view.set(700, 500, 0.2)")
    assert tab.evaluate("document.getElementById('times').value") == "4"


def test_the_window_is_marked_on_the_whole_slide_and_moved_there(tab: Any) -> None:
    tab.evaluate("app.view.set(700, 550, 2)")
    tab.evaluate("document.getElementById('map-0').scrollIntoView({block: 'center'})")
    whole, window = (tab.locator(name).bounding_box() for name in ("#map-0", "#map-0 > div"))
    wide = tab.evaluate("app.panes[0].width")
    assert window["width"] / whole["width"] == pytest.approx(wide / 2 / 1400, abs=0.02)
    middle = (window["x"] + window["width"] / 2 - whole["x"]) / whole["width"]
    assert middle == pytest.approx(0.5, abs=0.02)
    tab.mouse.click(whole["x"] + 0.25 * whole["width"], whole["y"] + 0.75 * whole["height"])
    np.testing.assert_allclose(tab.evaluate("[app.view.x, app.view.y]"), (350, 825), atol=15)
    shown = tab.evaluate(
        """(() => { const {canvas} = app.minimaps[0]; const {data} = canvas.getContext('2d')
          .getImageData(0.25 * canvas.width, 0.25 * canvas.height, 1, 1); return [...data]; })()"""
    )
    assert 10 < shown[0] < 90 and abs(shown[2] - 120) < 25, "it shows the slide"


def test_slides_are_chosen_from_thumbnails(tab: Any) -> None:
    until(tab, "document.querySelector('#slide-1 canvas').width > 1")
    code = """() => { const canvas = document.querySelector('#slide-1 canvas');
      return [0.1, 0.9].map((part) => canvas.getContext('2d')
        .getImageData(part * canvas.width, canvas.height / 2, 1, 1).data[0]); }"""
    left, right = tab.evaluate(code)
    assert right - left > 80, "the slide's own colours, which run along x"
    assert tab.get_attribute("#slide-0", "aria-selected") == "true"
    tab.focus("#slides")
    tab.keyboard.press("ArrowRight")
    until(tab, "app.scene.number === 1 && document.documentElement.dataset.ready === 's1'")
    assert tab.get_attribute("#slides", "aria-activedescendant") == "slide-1"
    assert "Sections with labels" in tab.inner_text("#slide-1")
    tab.keyboard.press("Home")
    until(tab, "app.scene.number === 0")


def test_the_slide_of_the_second_pane_is_chosen_from_thumbnails(tab: Any) -> None:
    until(tab, "document.querySelector('#beside-slide-1 canvas').width > 1")
    assert tab.get_attribute("#beside-slide-0", "aria-selected") == "true", "it has the slide of the first"
    tab.evaluate("app.show({layer: 'differs'})")
    tab.focus("#beside-slides")
    tab.keyboard.press("ArrowRight")
    until(tab, "app.panes[1].scene.number === 1 && app.panes[1].picture")
    assert tab.get_attribute("#beside-slides", "aria-activedescendant") == "beside-slide-1"
    assert tab.get_attribute("#slides", "aria-activedescendant") == "slide-0", "the first pane keeps its own"
    assert tab.evaluate("app.panes[1].layer") == "type", "a slide without a first look shows what there is of the type"
    tab.keyboard.press("Home")
    until(tab, "!app.other && app.besideSlide === null")


def test_a_threshold_leaves_what_is_above_it(tab: Any, built: Built) -> None:
    values, positions = np.asarray(built.grid.X)[:, 0], built.grid.obsm["spatial"]
    known = _inside(built, (0, 0), (9e9, 9e9))
    top = np.nanmax(values)
    tab.evaluate("""() => { const slider = document.getElementById('threshold'); slider.value = 50;
      slider.dispatchEvent(new Event('input')); }""")
    until(tab, "app.threshold === 0.5 && document.getElementById('legend-0').innerText.includes('shown')")
    share = (values[known] >= 0.5 * top).mean()
    assert f"≥ {50 * top:.1f} %: {100 * share:.1f} % of tiles" in tab.inner_text("#legend-0")
    above, below = int(np.nanargmax(values)), int(np.nanargmin(values))
    x, y = positions[below] + 15
    assert np.abs(pixel(tab, x, y) - built.pixels[int(y), int(x)]).max() < 25, "the slide shows"
    assert np.abs(pixel(tab, *(positions[above] + 15)) - np.array(VIRIDIS(255)[:3]) * 255).max() < 4
    tab.evaluate("app.show({layer: 'novelty'})")
    until(tab, "document.getElementById('legend-0').innerText.includes('≥ 0.50')")
    tab.keyboard.press("2")
    until(tab, "app.panes[0].layer === 'dominant'")
    assert tab.is_hidden("#threshold-row"), "a type has no threshold"


def test_types_are_inks_that_mix(tab: Any, built: Built) -> None:
    tab.keyboard.press("c")
    until(tab, "app.panes[0].layer === 'channels'")
    tab.select_option("#ink-cyan", TYPES[0])
    tab.select_option("#ink-magenta", TYPES[2])
    tab.select_option("#ink-yellow", "")
    until(tab, f"app.channels[2] === '' && app.channels[1] === {json.dumps(TYPES[2])}")
    values, positions = np.asarray(built.grid.X), built.grid.obsm["spatial"]
    inks = np.array([(0, 150, 190), (205, 30, 130)])
    for tile in (3, 31, 60):
        amounts = np.round(7 * values[tile, [0, 2]] / np.nanmax(values[:, [0, 2]], axis=0)) / 7
        expected = 255 * np.prod(1 - amounts[:, None] * (1 - inks / 255), axis=0)
        assert np.abs(pixel(tab, *positions[tile]) - expected).max() < 5
    legend = tab.inner_text("#legend-0")
    assert TYPES[0] in legend and TYPES[2] in legend and HOSTILE[:6] not in legend
    assert tab.inner_text("#caption-0") == f"{TYPES[0]}, {TYPES[2]}, predicted"
    svg = tab.evaluate("drawFigure(app, DrawingPen).text()")
    assert TYPES[2] in svg


def test_each_pane_has_a_type_of_its_own(tab: Any, built: Built) -> None:
    tab.select_option("#beside-type", TYPES[2])
    until(tab, "app.panes[1].type === 2 && !document.getElementById('second').hidden")
    values, positions = np.asarray(built.grid.X), built.grid.obsm["spatial"]
    for pane, number in ((0, 0), (1, 2)):
        top = np.nanmax(values[:, number])
        colour = np.array(VIRIDIS(round(255 * values[40, number] / top))[:3]) * 255
        assert np.abs(pixel(tab, *positions[40], pane) - colour).max() < 4
    assert tab.inner_text("#caption-1") == f"{TYPES[2]}, predicted"
    tab.keyboard.press("5")
    until(tab, "app.panes[0].layer === 'upper'")
    assert tab.evaluate("app.panes[1].layer") == "upper", "it follows the layer"


def test_a_second_slide_stands_beside_at_one_magnification(tab: Any, built: Built) -> None:
    tab.click("#beside-slide-1")
    until(tab, "app.other && app.panes[1].picture && app.panes[1].scene.number === 1")
    settle(tab)
    assert tab.inner_text("#caption-1") == "spots: T cells, predicted"
    assert tab.inner_text("#caption-0").startswith("grid ")
    assert tab.is_visible("#map-1")
    # One scale for the type in both.
    values, spots = np.asarray(built.grid.X)[:, 0], np.asarray(built.spots.X)[:, 0]
    top = max(np.nanmax(values), spots.max())
    place = built.spots.obsm["spatial"][20] + 12
    until(tab, "app.panes[1].scene.pyramid.settled")
    assert np.abs(pixel(tab, *place, 1) - np.array(VIRIDIS(round(255 * spots[20] / top))[:3]) * 255).max() < 4
    first = built.grid.obsm["spatial"][31]
    assert np.abs(pixel(tab, *first, 0) - np.array(VIRIDIS(round(255 * values[31] / top))[:3]) * 255).max() < 4
    # Moving is for each, zooming for both.
    before = tab.evaluate("app.view.x")
    box = tab.locator("#pane-1").bounding_box()
    tab.mouse.move(box["x"] + 100, box["y"] + 100)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 160, box["y"] + 130, steps=3)
    tab.mouse.up()
    tab.mouse.wheel(0, -300)
    assert tab.evaluate("app.view.x") == before != tab.evaluate("app.otherView.x")
    one, other = tab.evaluate("app.panes.map(({times}) => times)")
    assert one == pytest.approx(other)
    # What is under the pointer is read from its own slide, and drawn on it.
    tab.evaluate("app.panes[1].scene.data.all()")
    tab.evaluate("([x, y]) => app.otherView.set(x, y, app.otherView.scale)", built.spots.obsm["spatial"][11].tolist())
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    until(tab, f"document.getElementById('readout').innerText.includes('{100 * spots[11]:.1f} %')")
    _draw(tab, (100, 100), (900, 900), "app.panes[1].scene")
    positions = built.spots.obsm["spatial"]
    inside = (positions < 900).all(axis=1)
    text = tab.inner_text("#selected-text")
    assert text.startswith(f"{(inside & built.spots.obs['in_scope'].to_numpy()).sum()} readable spots")
    tab.click("#beside-slide-0")
    until(tab, "!app.other && app.panes[1].scene === app.scene")
    assert tab.is_hidden("#selected"), "what was drawn on the slide goes with it"


def test_regions_are_named_summed_up_and_saved(tab: Any, built: Built) -> None:
    corners = ((100.0, 100.0), (520.0, 360.0)), ((520.0, 100.0), (1060.0, 560.0))
    for corner, other in corners:
        _draw(tab, corner, other)
        tab.keyboard.press("k")
    assert tab.locator("#regions-rows tr").count() == 2
    assert tab.inner_text("#selection-title") == "Region 2"
    assert tab.evaluate("document.documentElement.scrollHeight <= innerHeight"), "only the panel scrolls"
    tab.fill("#regions-rows tr:first-child input", "=Tumour </b>")
    tab.locator("#regions-rows tr:first-child input").blur()
    means = []
    values = np.asarray(built.grid.X)
    for row, ends in enumerate(corners):
        inside = _inside(built, *ends)
        means.append(values[inside].mean(axis=0))
        cells = tab.locator(f"#regions-rows tr:nth-child({row + 1}) td").all_inner_texts()
        assert float(cells[0]) == pytest.approx(inside.sum() * (CELL * 0.5 / 1000) ** 2, rel=0.05)
        assert cells[1] == f"{100 * means[row][0]:.1f} %"
    tab.locator("#regions-rows tr:first-child button").first.click()
    until(tab, "document.getElementById('selection-title').textContent.startsWith('=Tumour')")
    for number, name in enumerate(TYPES):
        assert shares(tab)[name][0] == pytest.approx(100 * means[0][number], abs=0.06)

    geojson = json.loads(_downloaded(tab, "#regions-geojson").read_text(encoding="utf-8"))
    extra_module("test", "jsonschema").validate(geojson, SCHEMA)
    first = geojson["features"][0]["properties"]
    assert first["objectType"] == "annotation" and first["classification"]["name"] == first["name"] == "=Tumour </b>"
    assert first["measurements"]["T cells"] == pytest.approx(means[0][0], abs=1e-4)
    ring = geojson["features"][0]["geometry"]["coordinates"][0]
    assert ring == [[100, 100], [520, 100], [520, 360], [100, 360], [100, 100]]
    table = pd.read_csv(_downloaded(tab, "#regions-csv"))
    assert table["region"].tolist() == ["'=Tumour </b>", "Region 2"]
    np.testing.assert_allclose(table["T cells"], [mean[0] for mean in means], atol=1e-4)
    assert "=Tumour &#60;/b&#62;" in tab.evaluate("drawFigure(app, DrawingPen).text()")
    # Its outline is drawn, in its colour; a removed one is gone.
    tab.keyboard.press("Escape")
    blue = [0, 114, 178]
    tab.evaluate("app.show({layer: 'none'})")
    assert np.abs(pixel(tab, 300, 360) - blue).max() < 40
    tab.locator("#regions-rows tr:first-child button").last.click()
    until(tab, "document.querySelectorAll('#regions-rows tr').length === 1")
    assert np.abs(pixel(tab, 300, 360) - blue).max() > 40


def test_areas_of_qupath_are_read(tab: Any, built: Built, tmp_path: Path) -> None:
    square = [[100, 100], [700, 100], [700, 700], [100, 700], [100, 100]]
    hole = [[300, 300], [500, 300], [500, 500], [300, 500], [300, 300]]
    features: list[Any] = [
        {"geometry": {"type": "Polygon", "coordinates": [square, hole]},
         "properties": {"objectType": "annotation", "classification": {"name": "Tumor", "color": [200, 0, 0]}}},
        {"geometry": {"type": "MultiPolygon", "coordinates": [[square], [[[800, 800], [900, 800], [900, 900]]]]},
         "properties": {"name": HOSTILE, "classification": {"name": "Stroma", "colorRGB": -13395457}}},
        {"geometry": {"type": "Point", "coordinates": [1, 1]}, "properties": {}},
        {"geometry": {"type": "Polygon", "coordinates": [[[0, 0], ["x", 1], [2, 2], [0, 0]]]}}, None,
    ]  # fmt: skip
    file = tmp_path / "areas.geojson"
    file.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    tab.set_input_files("#regions-file", file)
    until(tab, "document.querySelectorAll('#regions-rows tr').length === 2")
    assert tab.inner_text("#regions-said").startswith("areas.geojson: 2 regions read; 3 passed over")
    kept = tab.evaluate(
        "app.regions.of(app.scene).map(({name, classification, colour}) => [name, classification, colour])"
    )
    assert kept == [["Tumor", "Tumor", [200, 0, 0]], [HOSTILE, "Stroma", [51, 153, 255]]]
    positions = built.grid.obsm["spatial"]
    inside = ((positions > 100) & (positions < 700)).all(axis=1)
    holed = inside & ~((positions > 300) & (positions < 500)).all(axis=1)
    assert tab.evaluate("app.regions.of(app.scene)[0].rows") == np.flatnonzero(holed).tolist()
    # Out and in again they are the same.
    again = _downloaded(tab, "#regions-geojson")
    written = json.loads(again.read_text(encoding="utf-8"))["features"]
    assert [one["geometry"] for one in written] == [one["geometry"] for one in features[:1]] + [
        {"type": "MultiPolygon", "coordinates": [[square], [[[800, 800], [900, 800], [900, 900], [800, 800]]]]}
    ]
    for text in ("{", '{"type": "Topology"}', "7"):
        file.write_text(text)
        tab.set_input_files("#regions-file", file)
        until(tab, "document.getElementById('regions-said').textContent.includes('is no GeoJSON')")
        assert tab.locator("#regions-rows tr").count() == 2
        tab.evaluate("document.getElementById('regions-said').textContent = ''")


def test_a_name_may_hold_letters_that_are_keys_elsewhere(tab: Any) -> None:
    _draw(tab, (100, 100), (520, 360))
    tab.keyboard.press("k")
    tab.focus("#regions-rows input")
    tab.keyboard.type("rt2")
    assert tab.evaluate("[app.tool, app.layer, document.documentElement.dataset.theme]") == ["pan", "type", "light"]
    assert tab.input_value("#regions-rows input").endswith("rt2")
