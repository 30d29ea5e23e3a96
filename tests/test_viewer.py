"""The viewer in a real browser: pixels, numbers, layers, selections, panes, exports."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import histomix as hm
from histomix.common.palette import TRUST_MAP, type_colours
from histomix.errors import InputError
from histomix.viewer import ViewerSlide, write_viewer
from histomix.viewer.encode import MISSING, packed, script_json
from histomix.viewer.pyramid import TILE_PX, pyramid_levels

from .viewer_page import (
    COLUMNS,
    HOSTILE,
    OUT_OF_SCOPE,
    ROWS,
    TYPES,
    UNREADABLE,
    Built,
    build,
    chromium,
    composition,
    looking,
    on_screen,
    pixel,
    settle,
    shares,
    until,
)

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("viewer"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def tab(browser: Any, built: Built) -> Iterator[Any]:
    """The viewer on its first slide, opaque and unhatched."""
    with looking(browser, built.page) as tab:
        tab.evaluate("app.setOpacity(1); app.setHatching(false)")
        yield tab


def _colour(value: float, top: float, name: str = "viridis") -> np.ndarray:
    return np.array(matplotlib.colormaps[name](round(255 * min(value / top, 1)))[:3]) * 255


def test_the_overlay_has_the_colour_of_the_value(tab: Any, built: Built) -> None:
    values, positions = np.asarray(built.grid.X), built.grid.obsm["spatial"]
    for number in (0, 2):
        tab.evaluate("(number) => app.show({type: number, layer: 'type'})", number)
        top = np.nanmax(values[:, number])
        for tile in (0, 17, 50, 107):
            assert np.abs(pixel(tab, *positions[tile]) - _colour(values[tile, number], top)).max() < 4


def test_bounds_width_and_novelty_have_layers(tab: Any, built: Built) -> None:
    positions, top = built.grid.obsm["spatial"], np.nanmax(built.grid.X[:, 0])
    lower, upper = (np.asarray(built.grid.layers[name])[:, 0] for name in ("lower", "upper"))
    novelty = built.grid.obs["novelty"].to_numpy()
    layers = {
        "lower": (lower, top, "viridis"),
        "upper": (upper, top, "viridis"),
        "width": (upper - lower, np.nanmax(upper - lower), TRUST_MAP),
        "novelty": (novelty, 1.0, TRUST_MAP),
    }
    tab.evaluate("app.show({type: 0})")
    for name, (values, most, colours) in layers.items():
        tab.check(f"input[name=layer][value={name}]")
        until(tab, f"app.panes[0].layer === '{name}'")
        for tile in (0, 40, 107):
            assert np.abs(pixel(tab, *positions[tile]) - _colour(values[tile], most, colours)).max() < 4
    assert "80 % interval" in tab.evaluate(
        "app.show({layer: 'width'}).then(() => app.layers.legend(app.panes[0]).title)"
    )
    tab.check("input[name=layer][value=upper]")
    until(tab, "app.panes[0].layer === 'upper'")
    assert "≥" in tab.inner_text("#legend-0"), "bounds above the scale of the values are said to be clipped"


def test_the_scale_may_be_shared_by_all_types(tab: Any, built: Built) -> None:
    values, positions = np.asarray(built.grid.X), built.grid.obsm["spatial"]
    tab.evaluate("app.show({type: 2, layer: 'type'})")
    for choice, top in (
        ("all", np.nanmax(values)),
        ("usual", np.percentile(values[np.isfinite(values[:, 2]), 2], 99)),
    ):
        tab.select_option("#range", choice)
        until(tab, f"app.range === '{choice}'")
        assert np.abs(pixel(tab, *positions[31]) - _colour(values[31, 2], top)).max() < 4
        assert f"{100 * top:.0f} %" in tab.inner_text("#legend-0 .ends")


def test_an_unreadable_tile_shows_the_slide(tab: Any, built: Built) -> None:
    x, y = built.grid.obsm["spatial"][UNREADABLE] + 15
    assert np.abs(pixel(tab, x, y) - built.pixels[int(y), int(x)]).max() < 25


def test_the_dominant_type_has_its_colour_and_its_share(tab: Any, built: Built) -> None:
    tab.keyboard.press("2")
    until(tab, "app.panes[0].layer === 'dominant'")
    values = np.asarray(built.grid.X)
    colours = np.array(list(type_colours(TYPES).values())) * 255
    for tile in (0, 30, 90):
        assert np.abs(pixel(tab, *built.grid.obsm["spatial"][tile]) - colours[values[tile].argmax()]).max() < 3
    known = np.isfinite(values).all(axis=1) & built.grid.obs["in_scope"].to_numpy()
    share = np.bincount(values[known].argmax(axis=1), minlength=3) / known.sum()
    legend = dict(tab.evaluate("app.layers.legend(app.panes[0]).entries.map(([name, , part]) => [name, part])"))
    assert legend == pytest.approx(dict(zip(TYPES, share, strict=True)))


def test_zoom_reaches_the_slides_own_pixels(tab: Any, built: Built) -> None:
    tab.keyboard.press("8")
    until(tab, "app.panes[0].layer === 'none'")
    tab.evaluate("app.view.set(700, 500, 2)")
    for x, y in ((660, 500), (700, 540), (745, 425)):
        assert np.abs(pixel(tab, x, y) - built.pixels[y, x]).max() < 12
    assert any(name.startswith("0_") for name in tab.evaluate("[...app.pyramid.tiles.keys()]"))


def test_the_wheel_zooms_about_the_pointer(tab: Any) -> None:
    box = tab.locator("#pane-0").bounding_box()
    at = [box["x"] + 200, box["y"] + 150]
    tab.mouse.move(*at)
    under = "(p) => app.panes[0].place({clientX: p[0], clientY: p[1]})"
    before, scale = tab.evaluate(under, at), tab.evaluate("app.view.scale")
    tab.mouse.wheel(0, -400)
    until(tab, f"app.view.scale > {1.5 * scale}")
    np.testing.assert_allclose(tab.evaluate(under, at), before, atol=1.5)  # a pointer stands on whole px
    tab.keyboard.press("0")
    assert tab.evaluate("app.view.scale") == pytest.approx(scale)
    tab.keyboard.press("0")
    assert tab.evaluate("app.view.scale") < scale, "asked for again, the whole slide is shown"


def test_two_fingers_zoom(browser: Any, built: Built) -> None:
    with looking(browser, built.page, has_touch=True) as tab:
        touch, scale = tab.context.new_cdp_session(tab), tab.evaluate("app.view.scale")

        def fingers(kind: str, *points: tuple[int, int]) -> None:
            shapes = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": shapes})

        fingers("touchStart", (300, 400), (400, 400))
        fingers("touchMove", (300, 400), (450, 400))
        fingers("touchMove", (300, 400), (500, 400))
        fingers("touchEnd")
        until(tab, f"Math.abs(app.view.scale / {scale} - 2) < 0.05")


def test_a_selection_has_the_mean_of_its_tiles(tab: Any, built: Built) -> None:
    tab.keyboard.press("r")
    tab.mouse.move(*on_screen(tab, 100, 100))
    tab.mouse.down()
    tab.mouse.move(*on_screen(tab, 300, 200), steps=3)
    until(tab, "app.selection.drawing && document.querySelectorAll('#selected-rows tr').length === 3")
    tab.mouse.move(*on_screen(tab, 520, 360), steps=3)
    tab.mouse.up()
    until(tab, "!app.selection.drawing && document.getElementById('selected-text').textContent.startsWith('12 ')")
    positions, values = built.grid.obsm["spatial"], np.asarray(built.grid.X)
    known = np.isfinite(values).all(axis=1) & built.grid.obs["in_scope"].to_numpy()
    inside = ((positions > 100) & (positions < (520, 360))).all(axis=1)
    found = shares(tab)
    for number, name in enumerate(TYPES):
        expected = 100 * values[inside & known, number].mean(), 100 * values[known, number].mean()
        assert found[name] == pytest.approx(expected, abs=0.06)
    with tab.expect_download() as download:
        tab.click("#export-csv")
    table = pd.read_csv(download.value.path())
    assert len(table) == inside.sum()
    assert "'" + TYPES[1] in table.columns, "a name that begins like a formula is kept text"
    assert table["spot"].tolist() == [f"'@{i}" for i in np.flatnonzero(inside)]
    np.testing.assert_allclose(table["T cells"], values[inside, 0], atol=1e-4)
    np.testing.assert_allclose(table["T cells_upper"], np.asarray(built.grid.layers["upper"])[inside, 0], atol=1e-4)
    tab.keyboard.press("Escape")
    until(tab, "document.getElementById('selected').hidden")


def test_a_lasso_takes_what_is_inside_it(tab: Any, built: Built) -> None:
    tab.click("#tool-lasso")
    tab.mouse.move(*on_screen(tab, 60, 60))
    tab.mouse.down()
    for place in ((480, 60), (60, 480)):
        tab.mouse.move(*on_screen(tab, *place), steps=12)
    tab.mouse.up()
    # Centres are 150, 250, ...: the triangle x + y < 540 holds (150, 150), (250, 150), (350, 150), (150, 250), ...
    positions = built.grid.obsm["spatial"]
    assert tab.evaluate("app.selection.rows") == np.flatnonzero(positions.sum(axis=1) < 520).tolist()
    assert tab.is_visible("#selected")


def test_two_panes_show_one_place(tab: Any, built: Built) -> None:
    tab.click("#slide-1")
    tab.wait_for_selector("html[data-ready=s1]")
    assert tab.is_visible("#pane-1")
    tab.evaluate("app.show({type: 0, layer: 'type'})")
    predicted, label = np.asarray(built.spots.X), built.labels.to_numpy()
    top = max(predicted[:, 0].max(), label[:, 0].max())
    scale = tab.evaluate("app.view.scale")
    box = tab.locator("#pane-1").bounding_box()
    tab.mouse.move(box["x"] + 100, box["y"] + 100)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 160, box["y"] + 130, steps=3)
    tab.mouse.up()
    tab.mouse.wheel(0, -200)
    until(tab, f"app.view.scale > {scale}")
    tab.mouse.move(1290, 790)
    for spot in (20, 26, 33):
        x, y = built.spots.obsm["spatial"][spot] + 12
        assert np.abs(pixel(tab, x, y, 0) - _colour(predicted[spot, 0], top)).max() < 4
        assert np.abs(pixel(tab, x, y, 1) - _colour(label[spot, 0], top)).max() < 4
    # The pointer over one pane is marked at the same place of the other.
    before = tab.evaluate("app.panes[1].canvas.toDataURL()")
    tab.mouse.move(*on_screen(tab, 700, 500))
    until(tab, "app.cursor && app.cursor.pane === app.panes[0]")
    settle(tab)
    assert tab.evaluate("app.panes[1].canvas.toDataURL()") != before
    tab.select_option("#beside", "off")
    until(tab, "document.getElementById('second').hidden")


def test_the_pointer_reads_values_intervals_and_labels(tab: Any, built: Built) -> None:
    tab.evaluate("app.data.all()")
    tab.mouse.move(*on_screen(tab, *built.grid.obsm["spatial"][40]))
    tab.wait_for_selector("#readout:visible")
    text, values = tab.inner_text("#readout"), np.asarray(built.grid.X)[40]
    for value in values:
        assert f"{100 * value:.1f} %" in text
        assert f"{100 * max(value - 0.1, 0):.1f} – {100 * min(value + 0.1, 1):.1f} %" in text
    assert f"in scope, novelty {built.grid.obs['novelty'].iloc[40]:.2f}" in text and "80 % interval" in text
    tab.mouse.move(*on_screen(tab, *built.grid.obsm["spatial"][UNREADABLE]))
    until(tab, "document.getElementById('readout').innerText.includes('could not be read')")
    tab.click("#slide-1")
    tab.wait_for_selector("html[data-ready=s1]")
    tab.evaluate("app.data.all()")
    tab.mouse.move(*on_screen(tab, *built.spots.obsm["spatial"][11]))
    tab.wait_for_selector("#readout:visible")
    for value in built.labels.iloc[11]:
        assert f"{100 * value:.1f} %" in tab.inner_text("#readout")


def test_out_of_scope_and_unreadable_tiles_are_hatched(tab: Any, built: Built) -> None:
    code = """([x, y]) => {
      const pane = app.panes[0], [a, , , , e, f] = pane.transform(window.devicePixelRatio);
      const context = pane.canvas.getContext('2d');
      const data = context.getImageData(Math.round(a * x + e), Math.round(a * y + f), 40, 40).data;
      return new Set(new Uint32Array(data.buffer)).size;
    }"""
    tab.keyboard.press("2")
    tab.evaluate("app.setHatching(true); app.view.set(1150, 950, 2)")
    settle(tab)
    positions = built.grid.obsm["spatial"]
    inside, outside = positions[90], positions[106]
    assert tab.evaluate(code, (inside - 15).tolist()) == 1 < tab.evaluate(code, (outside - 15).tolist())
    tab.evaluate("app.view.set(650, 150, 2)")
    settle(tab)
    hatched = tab.evaluate(code, (positions[UNREADABLE] - 15).tolist())
    tab.evaluate("app.setHatching(false)")
    settle(tab)
    assert hatched != tab.evaluate(code, (positions[UNREADABLE] - 15).tolist())
    assert "out of scope" not in tab.inner_text("#legend-0")
    tab.keyboard.press("h")
    assert "out of scope" in tab.inner_text("#legend-0") and "could not be read" in tab.inner_text("#legend-0")


def test_the_view_is_saved_as_a_picture(tab: Any) -> None:
    settle(tab)
    with tab.expect_download() as download:
        tab.click("#export-png")
    assert re.fullmatch(r"[A-Za-z0-9_.-]+\.png", download.value.suggested_filename)
    picture = np.asarray(Image.open(io.BytesIO(Path(download.value.path()).read_bytes())).convert("RGB"))
    wide, high = tab.evaluate("[app.panes[0].width, app.panes[0].height]")
    assert picture.shape[1] == 2 * (wide + 32) and picture.shape[0] > 2 * high
    assert len(np.unique(picture[::4, ::4].reshape(-1, 3), axis=0)) > 50


def test_the_view_is_saved_as_a_drawing(tab: Any, built: Built) -> None:
    tab.evaluate("app.setHatching(true)")
    settle(tab)
    with tab.expect_download() as download:
        tab.click("#export-svg")
    drawing = ElementTree.parse(download.value.path()).getroot()
    fills = [rect.get("fill", "") for rect in drawing.iter(f"{SVG}rect")]
    assert sum(fill.startswith("rgb(") for fill in fills) == COLUMNS * ROWS - 1, "one for each readable tile"
    assert fills.count("url(#outside)") == (built.grid.obs["novelty"] > OUT_OF_SCOPE).sum()
    assert fills.count("url(#unread)") == 1
    words = " ".join("".join(text.itertext()) for text in drawing.iter(f"{SVG}text"))
    assert "µm" in words and "out of scope" in words and f"grid {HOSTILE}".strip() in words
    assert not [node for node in drawing.iter() if node.tag.removeprefix(SVG) in ("script", "img", "foreignObject")]
    (image,) = drawing.iter(f"{SVG}image")
    assert image.get("href", "").startswith("data:image/jpeg;base64,")


def test_many_spots_look_the_same_from_afar_and_from_near(browser: Any, built: Built, tmp_path: Path) -> None:
    y, x = np.mgrid[0:55, 0:69]
    positions = np.stack([x.ravel() * 20.0 + 10, y.ravel() * 20.0 + 10], axis=1)
    values = np.random.default_rng(3).dirichlet((1.0, 1.0, 1.0), len(positions))
    table = composition(positions, values, TYPES, spots=True, cell=16.0)
    Image.fromarray(built.pixels).save(tmp_path / "slide.png")
    with hm.open_slide(tmp_path / "slide.png", mpp=0.5) as slide:
        page = write_viewer([ViewerSlide("many", slide, table)], tmp_path / "viewer").page
    inside, outside, top = 30 * 69 + 33, 54 * 69 + 33, values[:, 2].max()
    with looking(browser, page) as tab:
        tab.evaluate("app.setOpacity(1); app.show({type: 2, layer: 'type'})")
        for scale in (0.7, 3):  # px by px, and disc by disc
            tab.evaluate("([x, y, scale]) => app.view.set(x, y, scale)", [*positions[inside].tolist(), scale])
            assert np.abs(pixel(tab, *positions[inside]) - _colour(values[inside, 2], top)).max() < 4
            between = positions[inside] + 10
            assert np.abs(pixel(tab, *between) - _colour(values[inside, 2], top)).max() > 20, "the slide is between"
            tab.evaluate("([x, y, scale]) => app.view.set(x, y, scale)", [*positions[outside].tolist(), scale])
            hatched = {tuple(pixel(tab, *(positions[outside] + (dx, 0)))) for dx in range(-5, 6)}
            tab.evaluate("app.setHatching(false)")
            assert len({tuple(pixel(tab, *(positions[outside] + (dx, 0)))) for dx in range(-5, 6)}) == 1 < len(hatched)
            tab.evaluate("app.setHatching(true)")


def test_a_link_names_a_slide_and_a_lost_file_is_told(browser: Any, built: Built, tmp_path: Path) -> None:
    with looking(browser, built.page, "#slide=spots") as tab:
        assert tab.get_attribute("html", "data-ready") == "s1"
    alone = tmp_path / "index.html"
    alone.write_text(built.page.read_text(encoding="utf-8"), encoding="utf-8")
    tab = browser.new_page()
    tab.goto(alone.as_uri())
    until(tab, "document.getElementById('status').textContent.includes('keep index.html beside its data folder')")
    tab.close()


def test_a_slide_without_tissue_is_shown(browser: Any, built: Built, tmp_path: Path) -> None:
    Image.fromarray(built.pixels).save(tmp_path / "slide.png")
    with hm.open_slide(tmp_path / "slide.png", mpp=0.5) as slide:
        page = write_viewer([ViewerSlide("empty", slide, built.grid[:0].copy())], tmp_path / "viewer").page
    with looking(browser, page) as tab:
        tab.keyboard.press("2")
        until(tab, "app.panes[0].layer === 'dominant'")
        assert np.abs(pixel(tab, 700, 540) - built.pixels[540, 700]).max() < 25
        assert "0 tiles" in tab.inner_text("#about")


def test_numbers_are_packed_to_a_part_in_65534() -> None:
    values = np.array([0.0, 0.3, 2.0, np.nan, 5.0])
    codes = np.frombuffer(base64.b64decode(packed(values, 2.0)), "<u2")
    np.testing.assert_allclose(codes[:3] / 65534 * 2.0, values[:3], atol=2 / 65534)
    assert codes[3] == MISSING and codes[4] == 65534
    assert json.loads(script_json({"a": "</script>\u2028"})) == {"a": "</script>\u2028"}
    assert "<" not in script_json({"a": "</script>"})


def test_levels_halve_until_one_tile_holds_the_slide() -> None:
    levels = pyramid_levels(40_000, 30_000, 0.25, 0.5)
    assert [level.mpp for level in levels] == [0.5 * 2**k for k in range(len(levels))]
    assert (levels[0].columns, levels[0].rows) == (-(-20_000 // TILE_PX), -(-15_000 // TILE_PX))
    assert (levels[-1].columns, levels[-1].rows) == (1, 1) and levels[-2].columns > 1
    assert pyramid_levels(500, 400, 4.0, 0.5)[0].mpp == 4.0, "a coarse slide is not blown up"


def test_a_folder_of_others_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="there is no slide"):
        write_viewer([], tmp_path)
    with pytest.raises(InputError, match=r"mine\.txt"):
        write_viewer([object()], tmp_path)  # type: ignore[list-item]
    with pytest.raises(InputError, match="is a file"):
        write_viewer([object()], tmp_path / "mine.txt")  # type: ignore[list-item]
    assert (tmp_path / "mine.txt").read_text() == "mine"
