"""A viewer with known numbers, and a browser to look at it with."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import histomix as hm
from histomix.viewer import ViewerSlide, write_viewer

from .extras import extra_module

HOSTILE = '=cmd()|"/C calc" <img src=x onerror="document.title=1"></script><script>document.title=2</script>\u2028'
TYPES = ["T cells", HOSTILE, "Cancer epithelial"]
CELL, COLUMNS, ROWS = 100.0, 12, 9
UNREADABLE, OUT_OF_SCOPE = 5, 0.9
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass(frozen=True)
class Built:
    """A viewer and what was put into it."""

    page: Path
    pixels: np.ndarray
    grid: ad.AnnData
    spots: ad.AnnData
    labels: pd.DataFrame


def composition(
    positions: np.ndarray, values: np.ndarray, types: list[str], *, spots: bool = False, cell: float = CELL
) -> ad.AnnData:
    """A composition map with rising novelty, the last tenth out of scope."""
    obs = pd.DataFrame(positions, columns=["x_px", "y_px"], index=[f"{i}" for i in range(len(positions))])
    obs["novelty"] = np.linspace(0, 1, len(obs))
    obs["in_scope"] = obs["novelty"] <= OUT_OF_SCOPE
    obs["read_ok"] = np.isfinite(values).all(axis=1)
    table = ad.AnnData(values.astype(np.float32), obs=obs, var=pd.DataFrame(index=types))
    table.obsm["spatial"] = positions
    table.uns["manifest"] = json.dumps(
        {
            "unit": "proportion",
            "places": "spots" if spots else "grid",
            "cell_px": cell,
            "calibration": None if spots else {"level": 0.8},
        }
    )
    return table


def build(folder: Path) -> Built:
    """Two slides: a map on a grid with intervals and a hostile name, and spots with labels."""
    rng = np.random.default_rng(1)
    positions = np.array([(150 + CELL * c, 150 + CELL * r) for r in range(ROWS) for c in range(COLUMNS)])
    values = rng.dirichlet((1.0, 1.0, 1.0), len(positions))
    values[UNREADABLE] = np.nan
    grid = composition(positions, values, TYPES)
    grid.layers["lower"], grid.layers["upper"] = np.maximum(values - 0.1, 0), np.minimum(values + 0.1, 1)
    grid.obs_names = [f"@{i}" for i in range(grid.n_obs)]
    spots = composition(positions[::2] + 7.0, rng.dirichlet((1.0, 1.0, 1.0), len(positions[::2])), TYPES, spots=True)
    labels = pd.DataFrame(np.roll(np.asarray(spots.X), 1, axis=1), spots.obs_names, columns=TYPES)
    # Colours run along x and y, with checks of 40 px on top, so that every place can be told.
    y, x = np.mgrid[0:1100, 0:1400]
    checks = ((x // 40 + y // 40) % 2) * 30
    pixels = np.stack([x / 1400 * 180 + checks, y / 1100 * 180 + checks, np.full(x.shape, 120)], axis=-1)
    pixels = pixels.astype(np.uint8)
    Image.fromarray(pixels).save(folder / "slide.png")
    with hm.open_slide(folder / "slide.png", mpp=0.5) as slide:
        slides = [
            ViewerSlide(f"grid {HOSTILE}", slide, grid, head="A head.", notes=["A note."]),
            ViewerSlide("spots", slide, spots, label=labels),
        ]
        page = write_viewer(slides, folder / "viewer", title=f"Title {HOSTILE}").page
    return Built(page, pixels, grid, spots, labels)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Debian's Chromium under Playwright, or a skip that says what is missing."""
    sync_api = extra_module("dev", "playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("the viewer's tests need Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        # A name that does not exist is refused at once, without asking anybody.
        args = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP *.invalid ~NOTFOUND"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        yield browser
        browser.close()


@contextlib.contextmanager
def looking(browser: Any, page: Path, link: str = "", **options: Any) -> Iterator[Any]:
    """The viewer in a tab, with its first slide shown; any fault of the page, or request that leaves it, fails."""
    faults: list[str] = []
    requests: list[str] = []
    tab = browser.new_page(**{"viewport": {"width": 1300, "height": 800}, "color_scheme": "light", **options})
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.as_uri() + link)
    tab.wait_for_selector("html[data-ready]")
    yield tab
    tab.close()
    faults += [f"asked for {url}" for url in requests if not re.match(r"(file|data|blob):", url)]
    if faults:
        pytest.fail("; ".join(faults))


def until(tab: Any, expression: str, seconds: float = 30.0) -> None:
    """Wait until an expression holds (the page's own policy forbids the browser driver's way of doing it)."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if tab.evaluate(expression):
            return
        tab.wait_for_timeout(20)
    raise AssertionError(f"never came true: {expression}")


def settle(tab: Any) -> None:
    """Wait until every picture has come and has been drawn."""
    until(tab, "app.pyramid.settled")
    tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def pixel(tab: Any, x: float, y: float, pane: int = 0) -> np.ndarray:
    """Colour that a pane shows at a place of the slide, level-0 px."""
    settle(tab)
    code = """([x, y, number]) => {
      const pane = app.panes[number], [a, , , , e, f] = pane.transform(window.devicePixelRatio);
      const context = pane.canvas.getContext('2d');
      return [...context.getImageData(Math.round(a * x + e), Math.round(a * y + f), 1, 1).data];
    }"""
    return np.array(tab.evaluate(code, [x, y, pane])[:3])


def on_screen(tab: Any, x: float, y: float) -> tuple[float, float]:
    """Where the first pane shows a place of the slide, in px of the window."""
    code = """([x, y]) => {
      const box = app.panes[0].canvas.getBoundingClientRect(), { view } = app;
      const across = (x - view.x) * view.scale, down = (y - view.y) * view.scale;
      return [box.left + box.width / 2 + across, box.top + box.height / 2 + down];
    }"""
    across, down = tab.evaluate(code, [x, y])
    return across, down


def shares(tab: Any) -> dict[str, tuple[float, float]]:
    """The table of the selection: cell type to (mean of the selection, mean of the slide), in per cent."""
    rows = tab.evaluate(
        "[...document.querySelectorAll('#selected-rows tr')].map((row) => [...row.children].map((c) => c.textContent))"
    )
    return {name: (float(here.rstrip(" %")), float(slide.rstrip(" %"))) for name, here, slide in rows}
