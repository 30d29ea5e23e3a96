"""The viewer with 100,000 tiles and 30 cell types in headless Chromium: first view, switching types, moving.

A synthetic slide (20,000 x 20,000 px, written as a pyramid) and a map of random compositions with bounds. Each figure
is the median of several rounds, with the least and the greatest; every round is a new browser page, seen when the map
and all pictures of the slide in view are drawn; an empty page, opened in the same way before each, tells what of that
is the browser's own. A switch ends two frames later, when the new colours are on the screen. Needs Chromium.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import tifffile
from playwright.sync_api import Page, sync_playwright

import histomix as hm
from histomix.viewer import ViewerSlide, write_viewer

DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
PICTURES = "(async () => { while (!app.pyramid.settled) await new Promise(requestAnimationFrame); })()"
SWITCH = """async (number) => {
  const begun = performance.now();
  await app.show({type: number});
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return performance.now() - begun;
}"""
MOVE = """async () => {
  const begun = performance.now();
  for (let i = 0; i < 20; i++) { app.view.move(9, 4); await new Promise(requestAnimationFrame); }
  return (performance.now() - begun) / 20;
}"""


def slide(path: Path, side_px: int) -> None:
    """A pyramid of noise on a gradient, pink as tissue is."""
    rng = np.random.default_rng(0)
    block = rng.integers(150, 235, (512, 512, 3), dtype=np.uint8)
    block[..., 1] //= 2
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        levels = [side_px // 4**k for k in range(4)]
        for place, side in enumerate(levels):
            steps = -(-side // 512)
            options = {"subifds": len(levels) - 1} if place == 0 else {"subfiletype": 1}
            tiff.write(
                (block for _ in range(steps * steps)),
                shape=(side, side, 3),
                dtype=np.uint8,
                tile=(512, 512),
                compression="jpeg",
                photometric="rgb",
                metadata=None,
                **options,
            )


def composition(n_side: int, n_types: int, side_px: int) -> ad.AnnData:
    """Random compositions on a grid."""
    rng = np.random.default_rng(1)
    step = side_px / n_side
    y, x = np.mgrid[0:n_side, 0:n_side]
    positions = np.stack([(x.ravel() + 0.5) * step, (y.ravel() + 0.5) * step], axis=1)
    values = rng.dirichlet(np.full(n_types, 0.5), len(positions)).astype(np.float32)
    obs = pd.DataFrame(
        {"novelty": rng.random(len(positions)), "read_ok": True}, index=[str(i) for i in range(len(positions))]
    )
    obs["in_scope"] = obs["novelty"] < 0.95
    table = ad.AnnData(values, obs=obs, var=pd.DataFrame(index=[f"type {k}" for k in range(n_types)]))
    table.obsm["spatial"] = positions
    table.layers["lower"], table.layers["upper"] = np.maximum(values - 0.05, 0), np.minimum(values + 0.05, 1)
    table.uns["manifest"] = json.dumps({"unit": "proportion", "places": "grid", "cell_px": step})
    return table


def spread(values: list[float], unit: str) -> str:
    """Median, and the range."""
    return f"{statistics.median(values):,.0f} {unit} ({min(values):,.0f} to {max(values):,.0f})"


def open_page(tab: Page, page: Path, until: list[str]) -> float:
    """Milliseconds until a page says that it is ready and what it is then waited for has come."""
    start = time.perf_counter()
    tab.goto(page.as_uri())
    tab.wait_for_selector("html[data-ready]")
    for one in until:
        tab.evaluate(one)
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    """Write a viewer and look at it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=317, help="tiles along a side (317 x 317 is 100,489)")
    parser.add_argument("--types", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        print("viewer: skipped, there is no Chromium")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        side_px = 20_000
        slide(folder / "slide.tif", side_px)
        start = time.perf_counter()
        with hm.open_slide(folder / "slide.tif", mpp=0.5) as opened:
            table = composition(arguments.side, arguments.types, side_px)
            page = write_viewer([ViewerSlide("slide", opened, table)], folder / "viewer").page
        size = sum(path.stat().st_size for path in (folder / "viewer").rglob("*") if path.is_file())
        print(f"{table.n_obs:,} tiles x {arguments.types} types, slide {side_px} x {side_px} px at 0.5 um/px")
        print(f"written in {time.perf_counter() - start:.0f} s, {size / 1e6:.0f} MB")
        empty_page = folder / "empty.html"
        empty_page.write_text(
            "<!doctype html><html data-ready><title>empty</title><canvas></canvas></html>", encoding="utf-8"
        )
        empty: list[float] = []
        first: list[float] = []
        switch: list[float] = []
        fresh: list[float] = []
        frame: list[float] = []
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            for _ in range(arguments.rounds):
                tab = browser.new_page(viewport={"width": 1400, "height": 900})
                empty.append(open_page(tab, empty_page, [DRAWN]))
                tab.close()
                tab = browser.new_page(viewport={"width": 1400, "height": 900})
                first.append(open_page(tab, page, [PICTURES, DRAWN]))
                fresh.append(tab.evaluate(SWITCH, arguments.types - 1))
                tab.evaluate("app.data.all()")
                switch += [tab.evaluate(SWITCH, number) for number in (3, 11, 7)]
                frame.append(tab.evaluate(MOVE))
                tab.close()
            browser.close()
        print(f"first view: {spread(first, 'ms')}, an empty page: {spread(empty, 'ms')}")
        print(f"a type not yet loaded: {spread(fresh, 'ms')}")
        print(f"switching types: {spread(switch, 'ms')}; a frame while moving: {spread(frame, 'ms')}")


if __name__ == "__main__":
    main()
