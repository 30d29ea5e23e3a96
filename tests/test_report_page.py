"""The report as a page: whole, safe against hostile names, and looked at in a browser."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from PIL import Image

import histomix as hm
from histomix.abundance import Abundance
from histomix.common.naming import plain_name
from histomix.common.palette import DARK, GROUND, INK, QUIET
from histomix.evaluation import read_evaluation
from histomix.maps import write_composition
from histomix.pages.page import Drawer, content_policy, darkened
from histomix.pages.statement import statement_html
from histomix.report import write_report
from histomix.report.panels import evaluation_panels
from histomix.report.sections import Budget

from .conftest import Job
from .extras import extra_module
from .rich_summary import HOSTILE, enriched

pytestmark = pytest.mark.once

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class _Page(HTMLParser):
    """Elements, attributes and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def page(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a report can show, with hostile cell types and titles."""
    folder = tmp_path_factory.mktemp("report")
    cohort, features = hm.read_cohort(job.sheet), hm.read_features(job.features)
    labels = {}
    for name, table in hm.read_labels(job.labels).items():
        types = [*HOSTILE, *table.cell_types][: len(table.cell_types)]
        labels[name] = Abundance(table.values.set_axis(types, axis=1), table.unit)
    found = hm.evaluate(cohort, features, labels, heads=("ridge",), spatial=False)
    dataclasses.replace(found, summary=enriched(found.summary, "ridge")).save(folder / "evaluation")
    composition = hm.predict(job.image, job.head)
    for layer, shift in (("lower", -0.05), ("upper", 0.05)):
        composition.layers[layer] = np.clip(np.asarray(composition.X) + shift, 0, 1)
    write_composition(folder / "map" / "a '<b>' & c", composition, np.full((100, 100, 3), 200, np.uint8))
    (folder / "viewer" / "data").mkdir(parents=True)
    (folder / "viewer" / "index.html").write_text("<!doctype html><title>viewer</title>")
    parts = ["evaluation", "map", "viewer"]
    sources = [*(folder / name for name in parts), job.labels, job.features, job.head]
    return write_report(sources, folder / "report", title="{{ policy }} </title><script>1</script>")


def test_every_part_is_there(page: Path) -> None:
    reader = _Page()
    reader.feed(page.read_text(encoding="utf-8"))
    text = " ".join(reader.words)
    for words in (
        *("The run at a glance", "The cohort", "Is one head better than another?", "Which cell types can be read"),
        *("Do the intervals hold", "What is taken for what?", "Who lives beside whom?", "What leaky folds", "Audit"),
        *("Protocol, for a methods section", "Model card", "Run facts", "zoomable viewer", "Features name the section"),
    ):
        assert words in text, words
    assert "+0.500" in text and "−0.010" in text and "< 0.001" in text
    assert "91 % of held-out values" in text and "1 error" in text
    ids = {value for name, value in reader.attributes if name == "id"}
    links = [str(value) for name, value in reader.attributes if name == "href"]
    assert {link[1:] for link in links if link.startswith("#")} <= ids
    for link in [link for link in links if not link.startswith("#")]:
        assert (page.parent / link).resolve().is_file(), link


def test_a_hostile_name_stays_text(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    reader = _Page()
    reader.feed(text)
    assert reader.tags.count("script") == 1 and reader.tags.count("style") == 1
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert not [value for name, value in reader.attributes if name in ("src", "href") and ":" in str(value)]
    for name in HOSTILE:
        assert plain_name(name) in " ".join(reader.words), "without marks that hide or turn what is read"


def test_the_policy_allows_only_the_page_itself(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]  # type: ignore[index]
    assert "unsafe" not in policy and "http" not in policy and policy.startswith("default-src 'none'")
    for name in ("style", "script"):
        (part,) = re.findall(rf"<{name}>(.*?)</{name}>", text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert 'style="' not in text, "a style attribute would be refused by the policy"
    assert policy == html.unescape(content_policy("report", "_style.html.j2", "_script.html.j2")), (
        "of the templates alone"
    )


def test_charts_have_a_dark_twin(page: Path) -> None:
    charts = [path for path in (page.parent / "figures").glob("*.svg") if not path.stem.endswith("-dark")]
    assert len(charts) >= 8
    for path in charts:
        twin = path.with_name(f"{path.stem}-dark.svg").read_text()
        light = path.read_text()
        assert QUIET in light and QUIET not in twin and DARK[QUIET] in twin and (INK in light) == (DARK[INK] in twin)
        assert path.with_suffix(".png").is_file()
    assert darkened(f"{INK} #123456") == f"{DARK[INK]} #123456"


def test_the_same_folders_give_the_same_page(page: Path, job: Job, few_pictures: None, tmp_path: Path) -> None:
    sources = [page.parent.parent / "evaluation", job.head]
    first, second = (write_report(sources, tmp_path / name) for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    for path in (first.parent / "figures").iterdir():
        assert path.read_bytes() == (second.parent / "figures" / path.name).read_bytes(), path.name


def test_a_part_is_there_only_where_the_summary_has_it(page: Path, tmp_path: Path) -> None:
    found = read_evaluation(page.parent.parent / "evaluation")
    parts = ("audit", "tests", "detectability", "calibration", "spatial", "inflation", "probe")
    bare = {key: value for key, value in found.summary.items() if key not in parts}
    shown = {"spatial": ["colocalisation", "spatial"], "probe": ["audit"]}
    for name in parts:
        (tmp_path / name).mkdir()
        one = dataclasses.replace(found, summary={**bare, name: found.summary[name]})
        panels = evaluation_panels(one, "ridge", "label", Drawer(tmp_path / name))
        assert [panel["key"] for panel in panels if panel["key"] != "confusion"] == shown.get(name, [name])
    (tmp_path / "empty").mkdir()
    empty = bare | {"audit": [], "tests": [], "spatial": {}, "calibration": {}, "detectability": None, "probe": None}
    panels = evaluation_panels(dataclasses.replace(found, summary=empty), "ridge", "label", Drawer(tmp_path / "empty"))
    assert [panel["key"] for panel in panels] == ["audit", "confusion"]
    assert "nothing to report" in panels[0]["lead"]


def test_a_map_against_cells_and_regions(tmp_path: Path) -> None:
    name = HOSTILE[4]
    score = {"mean": 0.4321, "types": {name: {"mean": 0.4321}}}
    facts = {
        **{"protocol": "orthogonal", "protocol_means": "measured cells", "n_spots": 500, "unit": "proportion"},
        **{"folds": [{"name": "core <b>"}], "interval": {"caution": "one slide"}, "notes": ["a note"]},
        "scores": {"truth": {"map": {"pearson": score}, "constant": {"pearson": {"mean": None, "types": {}}}}},
        "orthogonal": {
            "cells": {
                **{"n_counted": 900, "n_cells": 1000, "n_tiles": 80, "counted_in_um": 56.0},
                "pearson": {"mean": 0.4321, "low": 0.3, "high": 0.5},
            },
            "regions": {
                **{"auroc": {name: {"tumour": 0.9, "stroma": None}, "B": {"tumour": 0.2, "stroma": 0.5}}, "ari": 0.25},
                "auroc_words": "AUROC of each type for each region",
                "expected": [
                    {
                        "cell_types": [name],
                        "region": "tumour",
                        "auroc": 0.9,
                        "low": None,
                        "high": None,
                        "n_inside": 5,
                        "n_outside": 9,
                    }
                ],
            },
        },
    }
    (tmp_path / "score").mkdir()
    (tmp_path / "score" / "summary.json").write_text(json.dumps(facts))
    text = write_report([tmp_path / "score"], tmp_path / "report").read_text()
    reader = _Page()
    reader.feed(text)
    words = " ".join(reader.words)
    assert "0.432 (0.300 to 0.500, blocks of this slide)" in words and "adjusted Rand index 0.250" in words
    assert name in words and "core <b>" in words and "onerror" not in dict(reader.attributes)


def test_many_types_in_many_sections_are_drawn_from_best_to_worst(page: Path) -> None:
    found = read_evaluation(page.parent.parent / "evaluation")
    assert Budget(found, 2).types == found.summary["cell_types"]
    few = Budget(found, 80)
    assert len(few.types) == 3 and "3 of 8" in few.words
    means = found.metrics[found.metrics["metric"] == "pearson"].groupby("cell_type")["value"].mean()
    assert {means.idxmax(), means.idxmin()} <= set(few.types)


def test_blocks_of_a_statement() -> None:
    text = "# Protocol\n\n## Data\n\n- **a**: one\n- b <i>\n\nWords `x`\nmore."
    assert statement_html(text, 4).splitlines() == [
        "<h4>Data</h4>",
        "<ul><li>a: one</li><li>b &lt;i&gt;</li></ul>",
        "<p>Words x more.</p>",
    ]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    sync_api = extra_module("dev", "playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


def test_a_map_on_a_dark_page_has_its_paper_and_keeps_its_colours(tmp_path: Path) -> None:
    figure = Figure(figsize=(4, 3), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(np.full((20, 20, 3), 250, np.uint8))
    axes.set_title("words", color=INK)
    bar = figure.colorbar(ScalarMappable(Normalize(-1, 1), "RdBu_r"), ax=axes)
    paths = Drawer(tmp_path).picture(figure, "map")
    light, over = (np.asarray(Image.open(tmp_path / paths[name])).astype(int) for name in ("light", "over"))
    share = over[..., 3:] / 255
    dark = (light[..., :3] * (1 - share) + over[..., :3] * share).round()

    def middle(part: Any) -> tuple[int, int]:
        left, bottom, right, top = part.get_window_extent().extents
        return len(light) - round((bottom + top) / 2), round((left + right) / 2)

    assert (light[2, 2] == 255).all()
    np.testing.assert_allclose(dark[2, 2], np.array(to_rgb(DARK[GROUND])) * 255, atol=1)
    assert 180 < dark[middle(picture)].mean() < 220, "the glass of a slide is dimmed"
    np.testing.assert_array_equal(dark[middle(bar.ax)], light[middle(bar.ax)])
    left, bottom, right, top = (round(one) for one in axes.title.get_window_extent().extents)
    words = np.s_[len(light) - top : len(light) - bottom, left:right]
    assert light[words].min() < 60 < 200 < dark[words].max(), "dark words on paper, light ones on a dark page"


def test_cards_and_facts_are_for_people_with_the_record_behind(job: Job, tmp_path: Path) -> None:
    text = write_report([job.head, job.labels, job.features], tmp_path / "report", progress=False).read_text("utf-8")
    card = json.loads((job.head / "card.json").read_text())
    training = card["training"]
    assert f"{training['n_spots']:,} spots, {training['n_sections']} section" in text
    records = [json.loads(html.unescape(one)) for one in re.findall(r'<pre class="raw"[^>]*>(.*?)</pre>', text, re.S)]
    assert records[0]["digest"] == card["digest"] and records[0]["training"]["n_spots"] == training["n_spots"]
    assert records[1]["method"] and records[2]["encoder"]["name"]
    assert str(job.head.parent) not in text, "a path may name a person"
    outside = re.sub(r"<pre.*?</pre>", "", text, flags=re.S)
    assert "n_features_in" not in outside and "{" not in outside.split("Model card", 2)[-1].split("<script>")[0]


@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(page: Path, browser: Any, width: int) -> None:
    faults: list[str] = []
    requests: list[str] = []
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("dialog", lambda dialog: faults.append(dialog.message))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.resolve().as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width, "the page never scrolls sideways"
    second = tab.get_by_role("tab").nth(1)
    second.click()
    assert second.get_attribute("aria-selected") == "true"
    assert tab.locator("[role=tabpanel]:visible").count() == 1
    tab.locator("a.thumb").first.click()
    assert tab.get_by_role("tab").nth(0).get_attribute("aria-selected") == "true"
    before = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.locator("#theme").click()
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != before
    dark = "getComputedStyle(document.querySelector('img.on-dark')).display"
    assert tab.evaluate(dark) == "block"
    tab.emulate_media(media="print")
    assert tab.locator("[role=tabpanel]:visible").count() == 2, "paper has every section"
    assert tab.evaluate(dark) == "none"
    assert all(url.startswith("file:") for url in requests)
    assert not faults
    tab.close()


def test_the_page_is_accessible(page: Path, browser: Any) -> None:
    axe = extra_module("dev", "axe_playwright_python.sync_playwright")
    tab = browser.new_page(viewport={"width": 1280, "height": 900}, bypass_csp=True)
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        tab.goto(page.resolve().as_uri())
        found = axe.Axe().run(tab, options={"runOnly": ["wcag2a", "wcag2aa"]})
        assert not [(one["id"], one["nodes"][0]["html"]) for one in found.response["violations"]], scheme
    tab.close()
