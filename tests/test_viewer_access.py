"""The viewer for every reader: keys alone, axe's rules, hostile names, and a hundred thousand tiles."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import histomix as hm
from histomix.viewer import ViewerSlide, write_viewer

from .extras import extra_module
from .viewer_page import HOSTILE, Built, build, chromium, composition, looking, pixel, settle, shares, until

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("viewer"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def tab(browser: Any, built: Built) -> Iterator[Any]:
    with looking(browser, built.page) as tab:
        yield tab


def _tab_to(tab: Any, wanted: str) -> None:
    """Press Tab until the element has the focus, as a reader without a mouse does."""
    for _ in range(60):
        tab.keyboard.press("Tab")
        if tab.evaluate("(id) => document.activeElement.id === id", wanted):
            return
    raise AssertionError(f"Tab never reaches {wanted}")


def test_a_selection_is_made_read_and_saved_by_keys_alone(tab: Any, built: Built) -> None:
    _tab_to(tab, "pane-0")
    until(tab, "app.aiming && !document.getElementById('readout').hidden")
    # A known place under the cross; then Enter, 240 screen px to the right and 180 down, Enter.
    tab.evaluate("app.view.set(100, 100, 0.6)")
    tab.keyboard.press("Enter")
    for key in ["ArrowRight"] * 4 + ["ArrowDown"] * 3:
        tab.keyboard.press(key)
    tab.keyboard.press("Enter")
    until(tab, "!document.getElementById('selected').hidden && document.querySelectorAll('#selected-rows tr').length")
    positions, values = built.grid.obsm["spatial"], np.asarray(built.grid.X)
    inside = (positions < (100 + 240 / 0.6, 100 + 180 / 0.6)).all(axis=1)
    assert shares(tab)["T cells"][0] == pytest.approx(100 * np.nanmean(values[inside, 0]), abs=0.06)
    until(tab, "document.getElementById('said').textContent.startsWith('Selection: 12 readable tiles')")
    _tab_to(tab, "export-csv")
    with tab.expect_download() as download:
        tab.keyboard.press("Enter")
    assert len(pd.read_csv(download.value.path())) == inside.sum()
    tab.keyboard.press("Escape")
    until(tab, "document.getElementById('selected').hidden")


def test_the_tile_under_the_cross_is_read_out(tab: Any, built: Built) -> None:
    tab.evaluate("app.data.all()")
    _tab_to(tab, "pane-0")
    tab.evaluate("([x, y]) => app.view.set(x, y, 1)", built.grid.obsm["spatial"][30].tolist())
    words = f"T cells {100 * built.grid.X[30, 0]:.1f} %"
    until(tab, f"document.getElementById('said').textContent.includes({json.dumps(words)})")


def test_search_list_and_layers_by_keys(tab: Any) -> None:
    tab.keyboard.press("/")
    tab.keyboard.type("cancer")
    assert tab.locator("#type-list li:visible").count() == 1
    assert "1 of 3" in tab.inner_text("#found")
    tab.keyboard.press("Enter")
    until(tab, "app.type === 2 && document.activeElement.id === 'type-list'")
    tab.keyboard.press("/")
    tab.keyboard.press("Escape")
    assert tab.locator("#type-list li:visible").count() == 3
    _tab_to(tab, "type-list")
    tab.keyboard.press("Home")
    until(tab, "app.type === 0")
    tab.keyboard.press("ArrowDown")
    until(tab, "app.type === 1")
    assert tab.get_attribute("#type-1", "aria-selected") == "true"
    assert tab.get_attribute("#type-list", "aria-activedescendant") == "type-1"
    tab.keyboard.press("]")
    until(tab, "app.type === 2")
    tab.focus("input[name=layer]:checked")
    tab.keyboard.press("ArrowRight")
    until(tab, "app.layer === 'type'")
    tab.keyboard.press("ArrowRight")
    until(tab, "app.layer === 'dominant'")
    scale = tab.evaluate("app.view.scale")
    tab.keyboard.press("+")
    assert tab.evaluate("app.view.scale") == pytest.approx(1.4 * scale)
    opacity = tab.evaluate("app.opacity")
    tab.keyboard.press(",")
    assert tab.evaluate("app.opacity") == pytest.approx(opacity - 0.1)


def test_keys_of_one_letter_can_be_turned_off(tab: Any) -> None:
    tab.keyboard.press("?")
    until(tab, "document.getElementById('keys').open")
    tab.focus("#single")
    tab.keyboard.press("Space")
    tab.keyboard.press("Escape")
    until(tab, "!document.getElementById('keys').open")
    tab.keyboard.press("2")
    tab.keyboard.press("r")
    assert tab.evaluate("[app.layer, app.tool]") == ["differs", "pan"]


def test_tab_reaches_every_control_and_shows_where_it_is(tab: Any) -> None:
    tab.evaluate("app.show({beside: 'dominant'})")
    tab.evaluate(
        "app.selection.start('rectangle', [100, 100]); app.selection.extend([500, 500]); app.selection.finish()"
    )
    until(tab, "document.querySelectorAll('#selected-rows tr').length === 3")
    wanted = set(
        tab.evaluate(
            """[...document.querySelectorAll('button, select, input:not([type=radio]), canvas[tabindex], ul[tabindex]')]
            .filter((e) => e.checkVisibility()).map((e) => e.id)"""
        )
    )
    reached: set[str] = set()
    for _ in range(len(wanted) + 5):
        tab.keyboard.press("Tab")
        found = tab.evaluate(
            """() => { const e = document.activeElement, at = e.matches('[type=radio]') ? e.nextElementSibling : e;
            const style = getComputedStyle(at);
            const seen = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
            return [e.id || e.name || e.className, seen]; }"""
        )
        assert found[1] or found[0] == "", f"{found[0]} has the focus and does not show it"
        reached.add(found[0])
    assert wanted - {""} <= reached and "layer" in reached
    assert tab.evaluate("[...document.querySelectorAll('[tabindex]')].every((e) => e.tabIndex === 0)")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Any, built: Built, theme: str) -> None:
    axe = extra_module("dev", "axe_playwright_python.sync_playwright").Axe()
    # Colours on their way to others would be measured, so nothing moves.
    with looking(browser, built.page, color_scheme=theme, reduced_motion="reduce") as tab:
        assert tab.get_attribute("html", "data-theme") == theme
        states = {
            "plain": "0",
            "dominant, a selection and two panes": """app.show({layer: 'dominant', beside: 'width'}).then(() => {
              app.selection.start('rectangle', [100, 100]); app.selection.extend([500, 500]); app.selection.finish();
              app.regions.keep(); document.getElementById('search').value = 'cells'; app.panel.filter(); })""",
            "a second slide in inks": "app.show({layer: 'channels', besideSlide: 1, threshold: 0.2})",
            "keys": "app.help()",
        }
        for name, code in states.items():
            tab.evaluate(code)
            settle(tab)
            found = axe.run(tab).response["violations"]
            faults = [
                (fault["id"], [node["target"] for node in fault["nodes"]])
                for fault in found
                if fault["impact"] in ("serious", "critical")
            ]
            assert not faults, f"{name}, {theme}"


def test_motion_is_kept_from_who_wants_none(browser: Any, built: Built) -> None:
    code = "getComputedStyle(document.getElementById('help')).transitionDuration"
    with looking(browser, built.page, reduced_motion="reduce") as tab:
        assert tab.evaluate(code) == "0s"


def test_a_small_window_shows_everything(browser: Any, built: Built) -> None:
    with looking(browser, built.page, "#slide=spots", viewport={"width": 390, "height": 760}) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        assert tab.evaluate("app.panes.every((pane) => pane.width > 300 && pane.height > 150)")


def test_names_are_text_wherever_they_go(tab: Any) -> None:
    assert tab.title().startswith("Title =cmd()")
    assert tab.locator("img").count() == 0 and tab.locator("script:not([type])").count() == 1
    assert tab.inner_text("#type-1 .name").split() == HOSTILE.split()
    assert HOSTILE.split()[1] in tab.locator("#slide-0").inner_text()
    tab.evaluate("app.show({type: 1, layer: 'type'})")
    assert "<img" in tab.inner_text("#caption-0")


def test_the_page_brings_its_own_policy(built: Built) -> None:
    text = built.page.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy and "default-src 'none'" in policy[1] and "unsafe" not in policy[1] and "http" not in policy[1]
    for element in ("script", "style"):
        (body,) = re.findall(rf"<{element}>(.*?)</{element}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy[1]
    found: list[tuple[str, str | None]] = []
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, attrs: found.extend(attrs)  # type: ignore[method-assign]
    reader.feed(text)
    assert not [name for name, _ in found if name == "style" or name.startswith("on")]
    assert {value for name, value in found if name in ("src", "href")} == {"#type-list"}


def test_the_policy_bars_what_a_name_could_bring_in(browser: Any, built: Built) -> None:
    code = """(() => {
      const script = document.createElement('script'), other = document.createElement('script');
      const place = document.createElement('div');
      for (const act of [
        () => { script.textContent = 'window.broken = 1'; },
        () => { other.src = 'data:text/javascript,window.broken=3'; },
        () => { place.innerHTML = '<img src=x onerror="window.broken = 2">'; },
        () => { document.body.append(script, other, place); },
        () => { setTimeout('window.broken = 4', 0); },
      ]) { try { act(); } catch (error) { console.log(String(error)); } }
      return fetch('data:text/plain,out').then(() => 'fetched', () => 'barred');
    })()"""
    tab = browser.new_page()
    barred: list[str] = []
    tab.on("console", lambda message: barred.append(message.text))
    tab.goto(built.page.as_uri())
    tab.wait_for_selector("html[data-ready]")
    assert tab.evaluate(code) == "barred"
    tab.wait_for_timeout(100)
    assert tab.evaluate("window.broken") is None
    assert any("Content Security Policy" in text for text in barred) and any("Trusted" in text for text in barred)
    tab.close()


def test_a_hundred_thousand_tiles(browser: Any, tmp_path: Path) -> None:
    side, types = 317, [f"type {k}" for k in range(30)]
    rng = np.random.default_rng(2)
    y, x = np.mgrid[0:side, 0:side]
    positions = np.stack([x.ravel() * 8.0 + 4, y.ravel() * 8.0 + 4], axis=1)
    values = rng.random((len(positions), len(types))).astype(np.float32)
    Image.new("RGB", (8 * side, 8 * side), (220, 180, 200)).save(tmp_path / "slide.png")
    table = composition(positions, values, types, cell=8.0)
    table.obs["in_scope"] = True
    with hm.open_slide(tmp_path / "slide.png", mpp=2.0) as slide:
        page = write_viewer([ViewerSlide("large", slide, table)], tmp_path / "viewer").page
    with looking(browser, page) as tab:
        assert tab.evaluate("app.data.n") == len(positions)
        tab.evaluate("app.setOpacity(1); app.view.set(1270, 1270, 4)")
        from matplotlib import colormaps

        for number in (0, 29, 7):
            tab.evaluate("(number) => app.show({type: number, layer: 'type'})", number)
            tile = 158 * side + 160
            colour = np.array(colormaps["viridis"](round(255 * values[tile, number] / values[:, number].max()))[:3])
            assert np.abs(pixel(tab, *positions[tile]) - 255 * colour).max() < 4
        tab.evaluate(
            "app.selection.start('rectangle', [0, 0]); app.selection.extend([2536, 1268]); app.selection.finish()"
        )
        until(tab, "document.querySelectorAll('#selected-rows tr').length === 30")
        half = values[positions[:, 1] < 1268]
        for number in (0, 29):
            assert shares(tab)[f"type {number}"][0] == pytest.approx(100 * half[:, number].mean(), abs=0.06)
        # More tiles than a drawing program would open are drawn as one picture.
        tab.evaluate("app.fit()")
        with tab.expect_download() as download:
            tab.click("#export-svg")
        drawing = Path(download.value.path()).read_text(encoding="utf-8")
        assert "<image " in drawing and 'fill="rgb(' not in drawing.split("<image ")[1]
