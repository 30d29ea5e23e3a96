"""What the pages say is done: their commands and programs are run on the phantom, in the folder of the tutorial.

Each distinct command is run once. What cannot be run here says why, in the page or in `histomix.cli.examples`.
"""

from __future__ import annotations

import csv
import doctest
import inspect
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import histomix as hm
from histomix.cli.examples import EXAMPLES

from .pages import DOCS, ROOT, RUN, Runner, all_pages, blocks_of, messages
from .test_cli_options import verbs

pytestmark = pytest.mark.once

TUTORIAL = DOCS / "tutorial.md"
#: Pages whose programs take longer than the rest together.
LONG = {"gallery.md"}
PAGES = [page for page in all_pages() if any(one.language in RUN and one.not_run is None for one in blocks_of(page))]
VERBS = [" ".join(words) for words, _ in verbs()]


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """The folder of the tutorial, when all of it has been run."""
    runner = Runner(tmp_path_factory.mktemp("docs"))
    runner.page(TUTORIAL)
    folder = runner.folder
    (table,) = (one.text for one in blocks_of(DOCS / "clinical.md") if one.language == "csv")
    (folder / "clinical.csv").write_text(table, encoding="utf-8")
    shutil.copy(folder / "clinic" / "truth" / "P1S1.cells.csv.gz", folder / "cells.csv.gz")
    return runner


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, few_pictures: None) -> Iterator[None]:
    """The default head of the tutorial is trained there; elsewhere ridge stands for it."""
    import matplotlib as mpl

    from histomix.heads import registry

    monkeypatch.setitem(registry._PLACES, registry.DEFAULT, registry._PLACES["ridge"])
    with mpl.rc_context({"figure.max_open_warning": 0}):
        yield


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.name in LONG else [])
        for page in PAGES
        if page != TUTORIAL
    ],
)
def test_the_blocks_of_a_page_run(page: Path, tour: Runner, quick: None) -> None:
    tour.page(page)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(one.long for one in blocks_of(page))])
def test_the_long_blocks_of_a_page_run(page: Path, tour: Runner) -> None:
    names: dict[str, Any] = {}
    for block in blocks_of(page):
        if block.long:
            tour.block(block, names)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_examples_that_run(verb: str, tour: Runner, quick: None) -> None:
    assert EXAMPLES.get(verb), f"histomix {verb} has no example: add one to histomix/cli/examples.py"
    for example in EXAMPLES[verb]:
        assert example.line.startswith(f"histomix {verb}")
        if not example.not_run:
            tour.command(example.line, f"an example of histomix {verb}")


def test_examples_stand_in_the_help() -> None:
    from typer.testing import CliRunner

    from histomix.cli.app import app

    for verb in VERBS:
        shown = " ".join(CliRunner().invoke(app, [*verb.split(), "--help"], terminal_width=200).output.split())
        assert EXAMPLES[verb][0].line in shown, verb


FUNCTIONS = [name for name in hm.__all__ if inspect.isfunction(getattr(hm, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_has_an_example_that_holds(
    name: str, tour: Runner, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tour.folder)
    (found,) = doctest.DocTestFinder(recurse=False).find(getattr(hm, name), name, globs={"hm": hm})
    assert found.examples, f"the docstring of hm.{name} has no Examples"
    if any(one.options.get(doctest.SKIP) for one in found.examples):
        before = found.docstring.partition("Examples\n")[2].partition(">>>")[0].strip("- \n")
        assert before, f"the Examples of hm.{name} do not say why they are skipped"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    failed = runner.run(found).failed
    assert not failed, capsys.readouterr().out


def test_what_is_not_run_says_why() -> None:
    silent = [
        block.name
        for page in all_pages()
        for block in blocks_of(page)
        if block.not_run is not None and len(block.not_run) < 8
    ]
    assert not silent


# -- every file and column ------------------------------------------------------------------------------------------


def _named(part: str) -> set[str]:
    """What a section of the page of outputs has in code, and the measures that are generated into it."""
    text = (DOCS / "outputs.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(part)}.*?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, part
    return set(re.findall(r"`([^`]+)`", found[1]))


#: Folder of the tutorial -> the section of the page that is about it.
FOLDERS = {
    "labels": "label",
    "features": "embed",
    "evaluation": "evaluate, score",
    "score": "evaluate, score",
    "head": "train",
    "maps/patient-9": "predict",
    "fine/patient-9": "predict",
    "tables": "cohort",
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_and_column_is_on_the_page(folder: str, tour: Runner) -> None:
    named = _named(FOLDERS[folder])
    patterns = [re.sub(r"<[^>]+>|\\\*", "[^/]+", re.escape(one).replace(r"\<", "<")) for one in named]
    types = set(hm.load_head(tour.folder / "head").card["cell_types"])
    for path in sorted((tour.folder / folder).rglob("*")):
        name = path.relative_to(tour.folder / folder).as_posix()
        if not path.is_file() or name.startswith(".") or name.endswith(".lock"):
            continue
        assert any(re.fullmatch(pattern, name) for pattern in patterns), f"{folder}/{name} is not on docs/outputs.md"
        if path.suffix == ".csv" and path.name != "slides.csv":
            with path.open(encoding="utf-8-sig", newline="") as lines:
                unknown = set(next(csv.reader(lines))) - named - types
            assert not unknown, f"columns of {folder}/{name} that are not on docs/outputs.md: {sorted(unknown)}"


def test_everything_in_a_map_is_on_the_page(tour: Runner) -> None:
    named = _named("predict")
    adata = hm.CompositionMap.open(tour.folder / "fine" / "patient-9").adata
    assert set(adata.obs) | set(adata.var) | set(adata.layers) <= named


def test_every_measure_and_metric_is_on_the_page(tour: Runner) -> None:
    from histomix.cohort.measures import DEFINITIONS

    def column(path: Path, name: str) -> set[str]:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            return {row[name] for row in csv.DictReader(lines)}

    assert column(tour.folder / "tables" / "cohort.csv", "measure") <= set(DEFINITIONS)
    assert column(tour.folder / "evaluation" / "metrics.csv", "metric") <= _named("evaluate, score")


# -- messages, figures, names ---------------------------------------------------------------------------------------


def test_the_messages_of_the_page_are_those_of_the_program() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| \*(.+?)\* \|", text, re.MULTILINE)
    assert len(shown) > 25
    source = messages()
    for one in shown:
        pattern = re.compile(".*?".join(re.escape(part) for part in one.split("…")), re.DOTALL)
        assert any(pattern.search(text) for text in source), f"no message of the program says {one!r}"


def test_every_figure_is_in_the_gallery() -> None:
    text = (DOCS / "gallery.md").read_text(encoding="utf-8")
    assert [name for name in hm.pl.__all__ if f"hm.pl.{name}(" not in text] == []


def test_every_public_name_is_on_the_page_of_the_api() -> None:
    listed = set(re.findall(r"^   (\w[\w.]*)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE))
    public = set(hm.__all__) - {"pl", "__version__"} | {f"pl.{name}" for name in hm.pl.__all__}
    assert listed == public


def test_the_notebook_is_that_of_the_script_and_names_nobody() -> None:
    import runpy

    script = runpy.run_path(str(ROOT / "scripts" / "tutorial_notebook.py"))
    assert not script["stale"](), "run scripts/tutorial_notebook.py WORK"
    text = (DOCS / "tutorial-python.ipynb").read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)
    for cell in json.loads(text)["cells"]:
        assert cell["cell_type"] == "markdown" or cell["execution_count"] is None


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import runpy

    script = runpy.run_path(str(ROOT / "scripts" / "tutorial_notebook.py"))
    monkeypatch.chdir(tmp_path)
    script["run"]()


# -- links ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", all_pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_their_anchors_are_there(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        if anchor and target.suffix == ".md":
            assert anchor in _anchors(target), f"{link}: there is no such heading"


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub and Sphinx give the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "") for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def test_every_page_is_on_the_site() -> None:
    listed = set(re.findall(r"^([\w/-]+)$", (DOCS / "index.md").read_text(encoding="utf-8"), re.MULTILINE))
    pages = {
        page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md") if "api" not in page.parts
    }
    linked = {page for page in pages if page.startswith("development/decisions/")}  # listed by their README
    assert pages - linked - {"index"} <= listed
