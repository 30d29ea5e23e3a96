"""Draw the pictures of the viewer in the docs from a finished phantom demo, with Chromium.

Usage: histomix demo --cohort phantom --out DEMO && python scripts/viewer_picture.py DEMO docs/viewer.png
"""

from __future__ import annotations

import io
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

SECTION = "P4S1"
#: Corners of the free selection, in shares of the slide.
_SHAPE = ((0.20, 0.17), (0.46, 0.13), (0.63, 0.30), (0.55, 0.52), (0.28, 0.46))
_WINDOW = {"viewport": {"width": 1320, "height": 800}, "reduced_motion": "reduce"}
_COLOURS = 256
#: Every picture in view, and every thumbnail that is not out of sight.
_DRAWN = """app.pyramid.settled
  && [...document.querySelectorAll('#slides canvas')].slice(0, 6).every((canvas) => canvas.width > 1)"""


def main(demo: Path, target: Path) -> None:
    """The map of a held-out donor with a region, its novelty, and a label beside its prediction, dark."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    page = (demo / "viewer" / "index.html").resolve().as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        light = browser.new_page(**_WINDOW, color_scheme="light")
        light.goto(f"{page}#slide={SECTION}")
        light.wait_for_selector("html[data-ready]")
        light.evaluate(
            """(shape) => {
              const place = ([x, y]) => [x * app.meta.width_px, y * app.meta.height_px];
              app.selection.start('lasso', place(shape[0]));
              for (const corner of shape.slice(1)) app.selection.extend(place(corner));
              app.selection.finish();
              app.regions.keep();
            }""",
            _SHAPE,
        )
        light.wait_for_selector("#selected-rows tr")
        _save(light, target)
        light.evaluate("app.drop(); app.show({layer: 'novelty'})")
        light.evaluate("document.querySelector('input[name=layer]:checked').scrollIntoView({block: 'center'})")
        _save(light, target.with_name(f"{target.stem}-novelty{target.suffix}"))
        dark = browser.new_page(**_WINDOW, color_scheme="dark")
        dark.goto(page)
        dark.wait_for_selector("html[data-ready]")
        dark.click("#slides li >> nth=-1")
        dark.wait_for_selector("#second:visible")
        dark.evaluate("app.show({layer: 'dominant'}).then(() => app.view.zoom(1.3, app.meta))")
        _save(dark, target.with_name(f"{target.stem}-beside{target.suffix}"))
        browser.close()


def _save(tab: Any, target: Path) -> None:
    """A picture with few colours, which is small and looks the same."""
    end = time.monotonic() + 60
    while time.monotonic() < end and not tab.evaluate(_DRAWN):
        tab.wait_for_timeout(50)
    tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    picture = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
    few = picture.quantize(_COLOURS, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    few.save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
