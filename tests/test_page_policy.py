"""What a name smuggles into a page does not run, even where nothing escapes it: the browser refuses it.

Every page is made with escaping switched off and hostile names in every place that a user's words reach. The policy
allows the scripts of the package alone, so it must hold without the escaping; a copy without the policy shows that the
attack is one.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from jinja2 import Environment, PackageLoader
from PIL import Image

import histomix as hm
from histomix.benchmark import Benchmark
from histomix.benchmark import page as benchmark_page
from histomix.benchmark.page import write_benchmark_page
from histomix.pages.page import content_policy
from histomix.report import report, write_report
from histomix.report.anonymise import private_evaluation
from histomix.report.inputs import ReportInputs, SlideMap
from histomix.viewer import ViewerSlide, write_viewer, writer

from .conftest import Job, manifest_of
from .viewer_page import chromium, composition

pytestmark = pytest.mark.once

#: What runs where it is let; each says by which way.
PAYLOADS = (
    "<script>owned(`script`)</script>",
    "</script><script>owned(`second script`)</script>",
    "<img src=x onerror=owned(`img`)>",
    "<svg onload=owned(`svg`)><script>owned(`svg script`)</script></svg>",
    "<body onload=owned(`body`)><details open ontoggle=owned(`details`)>",
    "<a class=trap href=javascript:owned(`link`)>x</a>",
    "<a class=trap href=java&#9;script:owned(`spaced`)>x</a>",
    "<form class=trap action=javascript:owned(`form`)><button class=trap>x</button></form>",
    "<iframe srcdoc=&lt;script&gt;parent.owned(`srcdoc`)&lt;/script&gt;></iframe>",
    "<iframe src=javascript:parent.owned(`frame`)></iframe>",
    "<object data=javascript:owned(`object`)></object><embed src=javascript:owned(`embed`)>",
    "<script src=evil.js></script><script src=data/evil.js></script>",
    "<script src=data:text/javascript,owned(`data`)></script>",
    "<script type=module src=evil.js></script><link rel=stylesheet href=evil.css>",
    "<style>:root{--smuggled:1}</style><p style=background:url(javascript:owned(`style`))>",
    "<base href=https://example.invalid/>",
)
FIRST = "<script>window.owned = (way) => { (window.ways ||= []).push(way); };</script>"


def hostile(place: str, ways: tuple[str, ...] = (PAYLOADS[0], PAYLOADS[2])) -> str:
    """A name that leaves any element and attribute it stands in, and brings scripts."""
    return f"{place}\"'></title></style></script>{''.join(ways)}"


TITLE = hostile("title", (FIRST, *PAYLOADS))


class _Named:
    """In the place of pseudonyms: hostile names for everything."""

    def __init__(self) -> None:
        self.slide, self.patient, self.site = (lambda name, kind=kind: hostile(f"{kind} {name} ") for kind in "sdh")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def unescaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is escaped, as if that had been forgotten everywhere."""

    def careless(room: str) -> Environment:
        return Environment(loader=PackageLoader(f"histomix.{room}"), autoescape=False)

    for module in (report, benchmark_page):
        monkeypatch.setattr(module, "page_environment", careless)
    monkeypatch.setattr(writer.html, "escape", lambda text: text)
    monkeypatch.setattr(writer, "script_json", json.dumps)


#: What runs without the policy: as the page is read, as it is shown, and by a click.
SHOWN, CLICKED = ("script", "img", "svg"), ("link",)


def ways_in(browser: Any, page: Path, *, open_to_all: bool = False) -> tuple[list[str], str]:
    """What ran on a page after everything on it was clicked, and a style that was smuggled in.

    A page has some time after all on it is there or refused (``svg`` runs no sooner); one that is ``open_to_all`` has
    as long as takes what runs there for certain.
    """

    def wait(least_ms: int, ways: Sequence[str]) -> None:
        tab.wait_for_timeout(least_ms)
        if open_to_all:
            tab.wait_for_function("ways => ways.every((way) => window.ways?.includes(way))", arg=list(ways))

    for folder in (page.parent, page.parent / "data"):
        folder.mkdir(exist_ok=True)
        (folder / "evil.js").write_text("window.owned && owned(`file`)")
        (folder / "evil.css").write_text(":root{--smuggled:1}")
    tab = browser.new_page()
    tab.on("dialog", lambda dialog: dialog.dismiss())
    tab.goto(page.resolve().as_uri(), wait_until="domcontentloaded")
    tab.wait_for_load_state("load")
    wait(500, SHOWN)
    assert page.resolve().as_uri() in tab.url
    tab.evaluate("document.querySelectorAll('.trap').forEach((one) => one.click())")
    wait(200, CLICKED)
    style = "getComputedStyle(document.documentElement).getPropertyValue('--smuggled')"
    found = tab.evaluate("window.ways || []"), tab.evaluate(style)
    tab.close()
    return found


def refused(browser: Any, page: Path) -> None:
    """Nothing runs with the policy of the page, and much without it."""
    text = page.read_text(encoding="utf-8")
    assert "owned(`script`)</script>" in text and "onerror=owned(`img`)" in text, (
        "the names are in the page as they are"
    )
    assert ways_in(browser, page) == ([], "")
    bare = page.with_name("bare.html")
    bare.write_text(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text), encoding="utf-8")
    ways, style = ways_in(browser, bare, open_to_all=True)
    assert {*SHOWN, *CLICKED} <= set(ways) and style == "1", "without the policy the attack works"


@pytest.fixture(scope="module")
def material(job: Job) -> ReportInputs:
    """All that a report shows, with hostile names."""
    cohort, features = hm.read_cohort(job.sheet), hm.read_features(job.features)
    labels = hm.read_labels(job.labels)
    found = hm.evaluate(cohort, features, labels, heads=("ridge",), nuclei=False, spatial=False)
    found = private_evaluation(found, _Named())  # type: ignore[arg-type]
    card = json.loads(json.dumps(hm.load_head(job.head).card))
    card |= {name: hostile(name) for name in ("name", "intended_use", "limits", "tissue", "digest")}
    card["cell_types"] = [hostile("type")]
    card["encoders"][0] |= {name: hostile(f"encoder {name}") for name in ("name", "licence", "revision")}
    card["encoder_licences"][0] |= {name: hostile(name) for name in ("encoder", "licence")}
    grid = composition(np.array([(50.0, 50), (150, 50)]), np.array([[0.3, 0.7], [0.5, 0.5]]), [hostile("a"), "b"])
    grid.uns["manifest"] = json.dumps(manifest_of(grid) | {"slide": {"mpp": 0.5}, "unit": hostile("unit")})
    one = SlideMap(hostile("slide"), hm.CompositionMap(grid), None, failure=hostile("failure"))
    labelled = {"method": hostile("method"), "unit": "proportion", "reference": {"file": hostile("file")}}
    return ReportInputs([found], {}, {"encoder": {"name": hostile("features")}}, [labelled], [card], [one])


def test_nothing_that_a_name_brings_runs_in_a_report(
    browser: Any, material: ReportInputs, unescaped: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(report, "report_inputs", lambda _: material)
    page = write_report([], tmp_path / "report", title=TITLE, lead=hostile("lead"))
    refused(browser, page)
    for chart in list((page.parent / "figures").glob("*.svg"))[:2]:
        assert ways_in(browser, chart)[0] == [], "a chart opened by itself"


def test_nothing_that_a_name_brings_runs_on_a_benchmark_page(browser: Any, unescaped: None, tmp_path: Path) -> None:
    row = {
        **{name: hostile(name) for name in ("cohort", "protocol", "encoder", "head")},
        **{"target": "label", "rank": 1, "level_with_best": True, "pearson": 0.5, "low": 0.4, "high": 0.6},
        **{"minus_best": 0.0, "minus_best_low": 0.0, "minus_best_high": 0.0},
        **{"n_types": 2, "n_sections": 2, "n_donors": 2},
    }
    encoder = {"name": hostile("name"), "dim": 2, "size_px": 1, "mpp": 1.0, "licence": hostile("licence")}
    summary = {
        **{"cohorts": [hostile("cohort"), "b"], "encoders": ["a"], "heads": ["b"], "failures": [hostile("failure")]},
        **{"spots": {hostile("spots"): {"left_out": 3}}, "encoder_facts": [encoder]},
    }
    test = {
        **{"cohort": row["cohort"], "protocol": row["protocol"], "target": "label", "compared": "heads"},
        **{"a": hostile("a"), "b": hostile("b"), "fixed": hostile("fixed"), "difference": 0.1, "low": 0.0, "high": 0.2},
        **{"p": 0.01, "p_adjusted": 0.01, "smallest_p": 0.01},
    }
    found = Benchmark(pd.DataFrame(), pd.DataFrame([row]), summary, hostile("statement"), [test], [])
    refused(browser, write_benchmark_page(found, tmp_path, title=TITLE))


def _viewer(folder: Path, title: str = TITLE) -> Path:
    types = [hostile("type"), "b"]
    positions = np.array([(50.0, 50), (150, 50)])
    grid: ad.AnnData = composition(positions, np.array([[0.3, 0.7], [0.5, 0.5]]), types)
    grid.obs_names = [hostile("spot"), "2"]
    Image.new("RGB", (300, 200), (200, 150, 180)).save(folder / "slide.png")
    with hm.open_slide(folder / "slide.png", mpp=0.5) as slide:
        one = ViewerSlide(hostile("slide"), slide, grid, head=hostile("head"), notes=[hostile("note")])
        return write_viewer([one], folder / "viewer", title=title).page


def test_nothing_that_a_name_brings_runs_in_a_viewer(browser: Any, unescaped: None, tmp_path: Path) -> None:
    refused(browser, _viewer(tmp_path))


def test_a_viewer_of_hostile_names_works_and_runs_none(browser: Any, tmp_path: Path) -> None:
    page = _viewer(tmp_path)
    assert ways_in(browser, page) == ([], "")
    tab = browser.new_page()
    tab.goto(page.as_uri())
    tab.wait_for_selector("html[data-ready]")
    assert "owned(`img`)" in tab.inner_text("#type-0 .name")
    tab.close()


def test_policies_are_of_the_templates_and_the_same_for_every_page(
    material: ReportInputs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def policy(page: Path) -> str:
        found = re.search(r'Content-Security-Policy" content="([^"]*)"', page.read_text(encoding="utf-8"))
        assert found is not None
        return html.unescape(found[1])

    monkeypatch.setattr(report, "report_inputs", lambda _: ReportInputs(heads=material.heads, maps=material.maps))
    first = policy(write_report([], tmp_path / "first", title=TITLE))
    monkeypatch.setattr(report, "report_inputs", lambda _: ReportInputs())
    assert (
        first
        == policy(write_report([], tmp_path / "second"))
        == content_policy("report", "_style.html.j2", "_script.html.j2")
    )
    (tmp_path / "a").mkdir()
    one = policy(_viewer(tmp_path / "a"))
    (tmp_path / "b").mkdir()
    assert one == policy(_viewer(tmp_path / "b", "another"))
