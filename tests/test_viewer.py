"""The viewer in a real browser: pixels, numbers, exports, keys, hostile names."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import anndata as ad
import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import histomix as hm
from histomix.errors import InputError
from histomix.outputs.viewer import ViewerSlide, write_viewer
from histomix.outputs.viewer.encode import MISSING, packed, script_json
from histomix.outputs.viewer.pyramid import TILE_PX, pyramid_levels

HOSTILE = '=1+1 <img src=x onerror="document.title=1"></script><script>document.title=2</script>'
TYPES = ["T cells", HOSTILE, "Cancer epithelial"]
CELL = 100.0
COLUMNS, ROWS = 12, 9
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


def _map(places: np.ndarray, values: np.ndarray, *, spots: bool = False) -> ad.AnnData:
    obs = pd.DataFrame(places, columns=["x_px", "y_px"], index=[str(i) for i in range(len(places))])
    obs["novelty"] = np.linspace(0, 1, len(obs))
    obs["in_scope"] = obs["novelty"] <= 0.9
    obs["read_ok"] = np.isfinite(values).all(axis=1)
    table = ad.AnnData(values.astype(np.float32), obs=obs, var=pd.DataFrame(index=TYPES))
    table.obsm["spatial"] = places
    manifest = {"unit": "proportion", "places": "spots" if spots else "grid", "cell_px": CELL}
    table.uns["manifest"] = json.dumps(manifest)
    return table


@pytest.fixture(scope="module")
def truth() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    grid = np.array([(150 + CELL * c, 150 + CELL * r) for r in range(ROWS) for c in range(COLUMNS)])
    values = rng.dirichlet((1.0, 1.0, 1.0), len(grid))
    values[5] = np.nan
    composition = _map(grid, values)
    composition.layers["lower"], composition.layers["upper"] = np.maximum(values - 0.1, 0), np.minimum(values + 0.1, 1)
    spots = grid[::2] + 7.0
    at_spots = rng.dirichlet((1.0, 1.0, 1.0), len(spots))
    return {"grid": grid, "composition": composition, "at_spots": _map(spots, at_spots, spots=True), "rng": rng}


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """A slide whose every place can be told: colours run along x and y, with cells of 40 px on top."""
    y, x = np.mgrid[0:1100, 0:1400]
    checks = ((x // 40 + y // 40) % 2) * 30
    return np.stack([x / 1400 * 180 + checks, y / 1100 * 180 + checks, np.full(x.shape, 120)], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def page(truth: dict[str, Any], pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("viewer")
    Image.fromarray(pixels).save(folder / "slide.png")
    with hm.open_slide(folder / "slide.png", mpp=0.5) as slide:
        labels = pd.DataFrame(
            np.roll(np.asarray(truth["at_spots"].X), 1, axis=1), truth["at_spots"].obs_names, columns=TYPES
        )
        truth["labels"] = labels
        slides = [
            ViewerSlide(f"grid {HOSTILE}", slide, truth["composition"], head="A head.", notes=["A note."]),
            ViewerSlide("spots", slide, truth["at_spots"], label=labels),
        ]
        return write_viewer(slides, folder / "viewer", title=f"Title {HOSTILE}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


@pytest.fixture
def tab(browser: Any, page: Path) -> Iterator[Any]:
    """The viewer on its first slide, opaque and unhatched; any error of the page fails the test."""
    faults: list[str] = []
    requests: list[str] = []
    tab = browser.new_page(viewport={"width": 1300, "height": 800}, color_scheme="light")
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.as_uri())
    tab.wait_for_selector("html[data-ready=s0]")
    tab.evaluate("app.setOpacity(1); app.setHatching(false)")
    yield tab
    tab.close()
    assert not faults
    assert all(re.match(r"(file|data|blob):", url) for url in requests)


def _until(tab: Any, expression: str) -> None:
    """Wait until an expression holds (the page's own policy forbids the browser driver's way of doing it)."""
    for _ in range(200):
        if tab.evaluate(expression):
            return
        tab.wait_for_timeout(25)
    raise AssertionError(f"never came true: {expression}")


def _settle(tab: Any) -> None:
    _until(tab, "[...app.pyramid.tiles.values()].every((tile) => tile.picture)")
    tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def _pixel(tab: Any, x: float, y: float, pane: int = 0) -> np.ndarray:
    """Colour that a pane shows at a place of the slide, level-0 px."""
    _settle(tab)
    code = """([x, y, number]) => {
      const pane = app.panes[number], [a, , , , e, f] = pane.transform(window.devicePixelRatio);
      return [...pane.canvas.getContext('2d').getImageData(Math.round(a * x + e), Math.round(a * y + f), 1, 1).data];
    }"""
    return np.array(tab.evaluate(code, [x, y, pane])[:3])


def _colour(value: float, top: float) -> np.ndarray:
    return np.array(matplotlib.colormaps["viridis"](round(255 * value / top))[:3]) * 255


def test_the_overlay_has_the_colour_of_the_value(tab: Any, truth: dict[str, Any]) -> None:
    values = np.asarray(truth["composition"].X)
    for number in (0, 2):
        tab.evaluate("(number) => app.show({type: number, layer: 'type'})", number)
        top = np.nanmax(values[:, number])
        for tile in (0, 17, 50, 107):
            expected = _colour(values[tile, number], top)
            assert np.abs(_pixel(tab, *truth["grid"][tile]) - expected).max() < 4


def test_an_unreadable_tile_shows_the_slide(tab: Any, truth: dict[str, Any], pixels: np.ndarray) -> None:
    x, y = truth["grid"][5] + 15
    assert np.abs(_pixel(tab, x, y) - pixels[int(y), int(x)]).max() < 25


def test_the_dominant_type_has_its_colour(tab: Any, truth: dict[str, Any]) -> None:
    tab.keyboard.press("2")
    _until(tab, "app.layer === 'dominant'")
    from histomix.outputs import type_colours

    colours = np.array(list(type_colours(TYPES).values())) * 255
    for tile in (0, 30, 90):
        expected = colours[np.asarray(truth["composition"].X)[tile].argmax()]
        assert np.abs(_pixel(tab, *truth["grid"][tile]) - expected).max() < 3


def test_zoom_reaches_the_slides_own_pixels(tab: Any, pixels: np.ndarray) -> None:
    tab.keyboard.press("5")
    tab.evaluate("app.view.set(700, 500, 2)")
    for x, y in ((660, 500), (700, 540), (745, 425)):
        assert np.abs(_pixel(tab, x, y) - pixels[y, x]).max() < 12
    assert any(name.startswith("0_") for name in tab.evaluate("[...app.pyramid.tiles.keys()]"))


def test_the_wheel_zooms_about_the_pointer_and_keys_move(tab: Any) -> None:
    box = tab.locator("#pane-0").bounding_box()
    tab.mouse.move(box["x"] + 200, box["y"] + 150)
    under = "(p) => app.panes[0].place({clientX: p[0], clientY: p[1]})"
    before, scale = tab.evaluate(under, [box["x"] + 200, box["y"] + 150]), tab.evaluate("app.view.scale")
    tab.mouse.wheel(0, -400)
    _until(tab, f"app.view.scale > {1.5 * scale}")
    after = tab.evaluate(under, [box["x"] + 200, box["y"] + 150])
    np.testing.assert_allclose(after, before, atol=1.5)  # a pointer stands on whole px
    x = tab.evaluate("app.view.x")
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("app.view.x") > x
    tab.keyboard.press("0")
    assert tab.evaluate("app.view.scale") == pytest.approx(scale)


def test_a_selection_has_the_mean_of_its_tiles(tab: Any, truth: dict[str, Any]) -> None:
    tab.keyboard.press("r")
    corners = tab.evaluate(
        """() => [[100, 100], [520, 360]].map(([x, y]) => {
          const box = app.panes[0].canvas.getBoundingClientRect();
          return [box.left + box.width / 2 + (x - app.view.x) * app.view.scale, box.top + box.height / 2 + (y - app.view.y) * app.view.scale];
        })"""  # noqa: E501
    )
    tab.mouse.move(*corners[0])
    tab.mouse.down()
    tab.mouse.move(*corners[1], steps=5)
    tab.mouse.up()
    tab.wait_for_selector("#selected-rows tr")
    grid, values = truth["grid"], np.asarray(truth["composition"].X)
    inside = ((grid > 100) & (grid < (520, 360))).all(axis=1) & np.isfinite(values).all(axis=1)
    rows = [row.inner_text().split("\t") for row in tab.locator("#selected-rows tr").all()]
    found = {cells[0].strip(): float(cells[1]) for cells in rows}
    expected = dict(zip(TYPES, values[inside].mean(axis=0), strict=True))
    assert found == pytest.approx(expected, abs=1.1e-3)
    assert f"{inside.sum()} readable tiles" in tab.inner_text("#selected-text")
    with tab.expect_download() as download:
        tab.click("#export-csv")
    table = pd.read_csv(download.value.path())
    assert len(table) == ((grid > 100) & (grid < (520, 360))).all(axis=1).sum()
    assert "'" + TYPES[1] in table.columns, "a name that begins like a formula is kept text"
    np.testing.assert_allclose(table["T cells"].to_numpy()[:4], values[:4, 0], atol=1e-4)
    np.testing.assert_allclose(table["T cells_upper"].to_numpy()[:4], np.minimum(values[:4, 0] + 0.1, 1), atol=1e-4)
    tab.keyboard.press("Escape")
    assert not tab.is_visible("#selected")


def test_a_lasso_takes_what_is_inside_it(tab: Any) -> None:
    tab.evaluate(
        "app.selection.start('lasso', [100, 100]); [[400, 100], [100, 400]].forEach((p) => app.selection.extend(p));"
        " app.selection.finish()"
    )
    # Centres are 150, 250, ...: x + y < 500 inside the triangle holds (150, 150), (250, 150), (150, 250); ties outside.
    assert sorted(tab.evaluate("app.selection.rows.filter((i) => app.data.x[i] + app.data.y[i] < 499)")) == [0, 1, 12]
    assert all(tab.evaluate("app.selection.rows.map((i) => app.data.x[i] + app.data.y[i] <= 500)"))


def test_two_panes_show_one_place(tab: Any, truth: dict[str, Any]) -> None:
    tab.select_option("#slide", "1")
    tab.wait_for_selector("html[data-ready=s1]")
    assert tab.is_visible("#pane-1")
    tab.evaluate("app.show({type: 0, layer: 'type'})")
    predicted, label = np.asarray(truth["at_spots"].X), truth["labels"].to_numpy()
    top = max(predicted[:, 0].max(), label[:, 0].max())
    box = tab.locator("#pane-0").bounding_box()
    tab.mouse.move(box["x"] + 100, box["y"] + 100)
    tab.mouse.down()
    tab.mouse.move(box["x"] + 160, box["y"] + 130, steps=3)
    tab.mouse.up()
    tab.mouse.wheel(0, -200)
    for spot in (20, 26, 33):
        x, y = truth["at_spots"].obsm["spatial"][spot]
        assert np.abs(_pixel(tab, x, y, 0) - _colour(predicted[spot, 0], top)).max() < 4
        assert np.abs(_pixel(tab, x, y, 1) - _colour(label[spot, 0], top)).max() < 4


def test_the_pointer_reads_values_and_intervals(tab: Any, truth: dict[str, Any]) -> None:
    tab.evaluate("app.data.all()")
    place = tab.evaluate(
        """([x, y]) => { const box = app.panes[0].canvas.getBoundingClientRect();
        return [box.left + box.width / 2 + (x - app.view.x) * app.view.scale, box.top + box.height / 2 + (y - app.view.y) * app.view.scale]; }""",  # noqa: E501
        truth["grid"][40].tolist(),
    )
    tab.mouse.move(*place)
    tab.wait_for_selector("#readout:visible")
    text = tab.inner_text("#readout")
    values = np.asarray(truth["composition"].X)[40]
    assert f"{values[0]:.3f}" in text and f"{max(values[0] - 0.1, 0):.3f} – {min(values[0] + 0.1, 1):.3f}" in text
    assert f"novelty {truth['composition'].obs['novelty'].iloc[40]:.2f}" in text


def test_out_of_scope_tiles_are_hatched(tab: Any, truth: dict[str, Any]) -> None:
    tab.evaluate("app.setHatching(true); app.view.set(1150, 950, 2)")
    _settle(tab)
    code = """([x, y]) => {
      const pane = app.panes[0], [a, , , , e, f] = pane.transform(window.devicePixelRatio);
      const data = pane.canvas.getContext('2d').getImageData(Math.round(a * x + e), Math.round(a * y + f), 40, 40).data;
      return new Set(new Uint32Array(data.buffer)).size;
    }"""
    inside, outside = truth["grid"][90], truth["grid"][106]
    assert tab.evaluate(code, (inside - 15).tolist()) <= 2 < tab.evaluate(code, (outside - 15).tolist())


def test_pictures_of_the_view_are_exported(tab: Any) -> None:
    _settle(tab)
    with tab.expect_download() as download:
        tab.click("#export-png")
    assert re.fullmatch(r"[A-Za-z0-9_.-]+\.png", download.value.suggested_filename)
    picture = np.asarray(Image.open(io.BytesIO(Path(download.value.path()).read_bytes())).convert("RGB"))
    assert (
        picture.shape[1] == 2 * tab.evaluate("app.panes[0].width")
        and len(np.unique(picture.reshape(-1, 3), axis=0)) > 200
    )
    with tab.expect_download() as download:
        tab.click("#export-svg")
    drawing = ElementTree.parse(download.value.path()).getroot()
    rects = drawing.findall(".//{http://www.w3.org/2000/svg}rect")
    assert len(rects) == COLUMNS * ROWS - 1, "one for each readable tile"


def test_names_are_text_wherever_they_go(tab: Any) -> None:
    assert tab.title().startswith("Title =1+1 <img")
    assert tab.locator("img").count() == 0 and tab.locator("script").count() == 1
    assert HOSTILE in tab.inner_text("#type-1 span")
    assert HOSTILE in tab.locator("#slide option").first.inner_text()


def test_search_and_keys_choose_types(tab: Any) -> None:
    tab.keyboard.press("/")
    tab.keyboard.type("cancer")
    assert tab.locator("#type-list li:visible").count() == 1
    tab.fill("#search", "")
    tab.evaluate("document.activeElement.blur(); app.show({type: 0, layer: 'type'})")
    tab.keyboard.press("]")
    _until(tab, "app.type === 1")
    tab.keyboard.press("[")
    _until(tab, "app.type === 0")
    assert tab.get_attribute("#type-0", "aria-selected") == "true"


ACCESSIBLE = """() => {
  const faults = [], visible = (e) => e.offsetParent !== null;
  const name = (e) => e.getAttribute('aria-label') || (e.labels && e.labels.length && e.labels[0].textContent) || e.textContent;
  for (const e of document.querySelectorAll('button, select, input, canvas[role=img], [role=listbox]'))
    if (visible(e) && !name(e).trim()) faults.push('no name: ' + e.outerHTML.slice(0, 80));
  const parse = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; } return [255, 255, 255, 1]; };
  for (const e of document.querySelectorAll('h1, h2, p, li, span, small, label, button, dt, dd, td, th, figcaption')) {
    if (!visible(e) || e.disabled || ![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
    const a = light(parse(getComputedStyle(e).color)), b = light(ground(e)), ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) faults.push(ratio.toFixed(2) + ': ' + e.outerHTML.slice(0, 80));
  }
  const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
  if (new Set(ids).size !== ids.length) faults.push('an id stands twice');
  if (!document.documentElement.lang) faults.push('no language');
  for (const e of document.querySelectorAll('[tabindex]')) if (e.tabIndex > 0) faults.push('tab order: ' + e.id);
  for (const e of document.querySelectorAll('[aria-controls], [aria-labelledby], [aria-activedescendant]'))
    for (const a of ['aria-controls', 'aria-labelledby', 'aria-activedescendant'])
      if (e.hasAttribute(a) && !document.getElementById(e.getAttribute(a))) faults.push(a + ' names nothing: ' + e.id);
  return faults;
}"""  # noqa: E501


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everything_has_a_name_and_can_be_read(tab: Any, theme: str) -> None:
    tab.evaluate("(theme) => { document.documentElement.dataset.theme = theme; app.keys(); }", theme)
    tab.evaluate(
        "app.selection.start('rectangle', [100, 100]); app.selection.extend([500, 500]); app.selection.finish()"
    )
    tab.wait_for_selector("#selected-rows tr")
    assert tab.evaluate(ACCESSIBLE) == []


def test_the_page_brings_its_own_policy(page: Path) -> None:
    text = page.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy and "default-src 'none'" in policy[1] and "unsafe" not in policy[1]
    assert HOSTILE not in text, "the name of a cell type cannot end the script"


def test_numbers_are_packed_to_a_part_in_65534() -> None:
    import base64

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
    assert (tmp_path / "mine.txt").read_text() == "mine"
