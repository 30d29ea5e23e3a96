"""Python and the command line say the same: one public function a verb, the same files, paths or objects alike."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import io
import json
import operator
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import histomix as hm
from histomix.cli.app import app
from histomix.errors import HeadError, InputError

from .conftest import Job

#: The public function of each verb of the command line.
FUNCTIONS = {
    "benchmark": "run_benchmark",
    "cohort": "cohort_tables",
    "demo": "demo",
    "doctor": "doctor",
    "embed": "embed",
    "encoders": "cards",
    "evaluate": "evaluate",
    "export": "export_maps",
    "fetch": "fetch_cohort",
    "head list": "list_heads",
    "head pull": "pull_head",
    "head push": "push_head",
    "head show": "head_facts",
    "import-features": "import_features",
    "init": "draft_sheet",
    "run": "run",
    "inspect": "inspect_data",
    "label": "label",
    "plan": "plan",
    "predict": "predict_slides",
    "report": "write_report",
    "reproduce": "reproduce",
    "score": "score_map",
    "train": "train",
    "view": "write_viewer",
}
#: What takes long shows how far it is.
LONG = set(FUNCTIONS) - {"doctor", "encoders", "inspect", "head list", "head pull", "head push", "head show"}
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def job(small_job: Job) -> Job:
    """Whether a verb and its function give the same does not depend on how many spots there are."""
    return small_job


def _verbs() -> Iterator[str]:
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        yield from [name] if inner is None else (f"{name} {verb}" for verb in inner)


def test_every_verb_has_one_public_function() -> None:
    assert sorted(_verbs()) == sorted(FUNCTIONS)
    assert set(FUNCTIONS.values()) < set(hm.__all__) and len(set(FUNCTIONS.values())) == len(FUNCTIONS)
    for verb, name in FUNCTIONS.items():
        function = getattr(hm, name)
        assert inspect.isfunction(function) and inspect.getdoc(function), name
        asked = inspect.signature(function).parameters.get("progress")
        assert (asked is not None and asked.default is True) == (verb in LONG), name


def test_the_page_of_the_interface_lists_them_all() -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `histomix ([a-z -]+)` \| `hm\.(\w+)`", text, flags=re.MULTILINE))
    assert table == FUNCTIONS
    assert set(re.findall(r"`hm\.(\w+)", text)) == set(hm.__all__) - {"__version__"}


def _snippets() -> Iterator[tuple[str, str]]:
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for block in re.findall(
            r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
        ):
            yield path.name, block


def test_the_snippets_of_the_docs_call_what_there_is() -> None:
    """Each call of a public function in the docs has arguments that the function takes."""
    called = set()
    for page, block in _snippets():
        for node in ast.walk(ast.parse(block)):
            if not isinstance(node, ast.Call) or not re.fullmatch(r"hm(\.\w+)+", ast.unparse(node.func)):
                continue
            function = operator.attrgetter(ast.unparse(node.func).removeprefix("hm."))(hm)
            words = {str(word.arg): word.value for word in node.keywords}
            inspect.signature(function).bind(*node.args, **words)
            called.add((page, node.func.attr))  # type: ignore[attr-defined]
    assert {("README.md", "predict"), ("clusters.md", "predict_slides"), ("python.md", "evaluate")} <= called


def test_the_docstrings_say_what_is_raised() -> None:
    for name in set(FUNCTIONS.values()) - {"cards"}:
        assert "\nRaises\n------\n" in (inspect.getdoc(getattr(hm, name)) or ""), name


CALLED_AFTER_EVERY_IMPORT = """
import importlib, inspect, json, pkgutil
import histomix as hm
before = {name: getattr(hm, name) for name in hm.__all__}
absent = []
for found in pkgutil.walk_packages(hm.__path__, "histomix."):
    try:
        importlib.import_module(found.name)
    except ModuleNotFoundError as error:
        absent.append(f"{found.name} needs {error.name}")
changed = [name for name, value in before.items() if getattr(hm, name) is not value]
shadowed = [name for name, value in before.items() if name != "pl" and inspect.ismodule(value)]
print(json.dumps([changed, shadowed, absent]))
"""


def test_no_room_shadows_a_name() -> None:
    """In a process of its own, in the order that could hurt: the names first, then every module."""
    done = subprocess.run([sys.executable, "-c", CALLED_AFTER_EVERY_IMPORT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    changed, shadowed, absent = json.loads(done.stdout)
    assert not changed and not shadowed
    # Every module can be imported; one alone is for workers of a cluster, and needs its extra at once.
    alone = [] if importlib.util.find_spec("distributed") else ["histomix.prediction.cluster.nodes needs distributed"]
    assert absent == alone
    names = {found.name.rpartition(".")[2] for found in pkgutil.iter_modules(hm.__path__)}
    assert names & set(hm.__all__) == {"pl"}


def test_the_import_is_quick() -> None:
    def seconds(code: str) -> float:
        """Of the processor, which what else runs here does not stretch."""
        words = [sys.executable, "-c", f"import time\n{code}\nprint(time.process_time())"]
        return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    assert min(seconds("import histomix") for _ in range(2)) - seconds("pass") < 0.3


def _run(*words: str | Path) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


#: What two runs of the same work may differ in.
_TIMES = re.compile(r'"(?:fit_seconds|predict_seconds|seconds|started|finished|tiles_per_second)": [^,\n]+')


def _files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but for its times, and for the folder's own name in it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(".lock"):
            data = path.read_bytes()
            if path.suffix == ".json":
                data = _TIMES.sub("", data.decode()).replace(json.dumps(str(folder))[1:-1], "OUT").encode()
            found[path.relative_to(folder).as_posix()] = data
    return found


def _same(by_verb: Path, by_function: Path, pictures_too: bool = True) -> None:
    ours, theirs = _files(by_verb), _files(by_function)
    assert list(ours) == list(theirs) and ours
    for name, data in ours.items():
        if name.endswith((".png", ".jpg")) and not pictures_too:
            continue
        if data != theirs[name] and name.endswith((".png", ".jpg")):
            # The parts of a figure may be laid out a fraction of a pixel elsewhere.
            pictures = [np.asarray(Image.open(io.BytesIO(one)).convert("RGB"), float) for one in (data, theirs[name])]
            assert pictures[0].shape == pictures[1].shape, name
            assert np.abs(pictures[0] - pictures[1]).mean() < 0.5, name
        else:
            assert data == theirs[name], name


@pytest.fixture(scope="module")
def evaluation(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("api") / "evaluation"
    _run(
        *("evaluate", job.sheet, "--features", job.features, "--labels", job.labels),
        *("--heads", "ridge", "--no-nuclei", "--out", out),
    )
    return out


@pytest.fixture(scope="module")
def maps(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("api") / "maps"
    _run("predict", job.image, "--head", job.head, "--mpp", "0.5", "--out", out)
    return out


def test_label_and_embed_are_the_verbs(job: Job, tmp_path: Path) -> None:
    _run("label", job.sheet, "--reference", job.reference, "--threads", "1", "--out", tmp_path / "verb")
    hm.label(str(job.sheet), reference=job.reference, threads=1, out=tmp_path / "function")
    _same(tmp_path / "verb", tmp_path / "function")
    _same(tmp_path / "verb", job.labels)  # made of the cohort
    _run("embed", job.sheet, "--out", tmp_path / "features")
    hm.embed(job.sheet, out=tmp_path / "function features")
    _same(tmp_path / "features", tmp_path / "function features")
    # Drawn when other tests had told matplotlib to draw otherwise.
    _same(tmp_path / "features", job.features, pictures_too=False)


def test_train_is_the_verb(job: Job, evaluation: Path, tmp_path: Path) -> None:
    words = ("train", job.sheet, "--features", job.features, "--labels", job.labels, "--head", "ridge")
    _run(*words, "--scores", evaluation, "--out", tmp_path / "verb")
    given = {"head": "ridge", "scores": evaluation, "out": tmp_path / "function"}
    hm.train(job.sheet, job.features, job.labels, **given)
    _same(tmp_path / "verb", tmp_path / "function")
    cohort, features, labels = hm.read_cohort(job.sheet), hm.read_features(job.features), hm.read_labels(job.labels)
    scores = hm.read_evaluation(evaluation)
    trained = hm.train(cohort, features, labels, head="ridge", scores=scores)
    assert trained.card == hm.load_head(tmp_path / "verb").card
    assert hm.train(cohort, [features], labels, head="ridge", scores=scores.summary).card == trained.card


def test_evaluate_is_the_verb(job: Job, evaluation: Path, tmp_path: Path) -> None:
    hm.evaluate(job.sheet, job.features, job.labels, ["ridge"], nuclei=False, out=tmp_path / "function")
    _same(evaluation, tmp_path / "function")
    given = (hm.read_cohort(job.sheet), hm.read_features(job.features), hm.read_labels(job.labels))
    found = hm.evaluate(*given, ["ridge"], nuclei=False, features_folders=[job.features])
    assert "spatial" in found.summary, "the verb adds the spatial scores"
    pd.testing.assert_frame_equal(found.metrics, hm.read_evaluation(evaluation).metrics)
    plain = hm.evaluate(*given, ["ridge"], nuclei=False, spatial=False)
    assert "spatial" not in plain.summary


def test_a_second_cohort_is_given_by_paths_too(job: Job) -> None:
    test = hm.CohortData.of(job.sheet, job.features, job.labels)
    given = hm.CohortData(hm.read_cohort(job.sheet), hm.read_features(job.features), hm.read_labels(job.labels))
    options: dict[str, Any] = {"heads": ["ridge"], "nuclei": False, "spatial": False}
    first = hm.evaluate(job.sheet, [job.features], job.labels, test=test, **options)
    second = hm.evaluate(given.cohort, given.features, given.labels, test=given, **options)
    assert first.summary["protocol"] == "transfer"
    pd.testing.assert_frame_equal(first.metrics, second.metrics)


def test_predict_slides_is_the_verb(job: Job, maps: Path, tmp_path: Path) -> None:
    (result,) = hm.predict_slides(job.image, hm.load_head(job.head), tmp_path / "function", mpp=0.5)
    _same(maps, tmp_path / "function")
    stored = hm.CompositionMap.open(result.folder)
    alone = hm.CompositionMap(hm.predict(job.image, job.head, mpp=0.5))
    pd.testing.assert_frame_equal(alone.values(), stored.values(), check_dtype=False)
    with hm.open_slide(job.image, 0.5) as slide:
        pd.testing.assert_frame_equal(
            hm.CompositionMap(hm.predict(slide, hm.load_head(job.head))).values(), alone.values()
        )
    with pytest.raises(HeadError, match="in memory"):
        hm.predict_slides(job.image, hm.load_head(job.head), tmp_path / "many", workers=1)


def test_export_and_cohort_are_the_verbs(job: Job, maps: Path, tmp_path: Path) -> None:
    _run("export", maps, "--to", "csv", "--out", tmp_path / "verb")
    hm.export_maps(maps, "csv", tmp_path / "function")
    _same(tmp_path / "verb", tmp_path / "function")
    one = hm.CompositionMap.open(maps / job.image.stem)
    hm.export_maps([one], "csv", tmp_path / "object")
    _same(tmp_path / "verb", tmp_path / "object")
    written, failures = hm.export_maps(one.adata, "csv", tmp_path / "table")
    assert not failures and [path.name for path in written] == [f"{one.name}.csv"]

    _run("cohort", maps, "--out", tmp_path / "verb tables")
    tables = hm.cohort_tables(maps, tmp_path / "function tables")
    _same(tmp_path / "verb tables", tmp_path / "function tables")
    assert set(tables.files.values()) == {
        path for path in (tmp_path / "function tables").iterdir() if path.name != "manifest.json"
    }
    for given in (one, [one], [one.adata]):
        pd.testing.assert_frame_equal(hm.cohort_tables(given).tidy, tables.tidy)
    assert not hm.cohort_tables(one).files


def test_score_is_the_verb(job: Job, tmp_path: Path) -> None:
    # Dense enough for the spatial scores, which want 20 tiles.
    (found_map,) = hm.predict_slides(job.image, job.head, tmp_path / "maps", mpp=0.5, stride_um=80.0)
    folder = found_map.folder
    cells = job.sheet.parent / "truth" / f"{job.image.stem}.cells.csv.gz"
    _run("score", folder, "--cells", cells, "--out", tmp_path / "verb")
    found = hm.score_map(folder, cells=cells, out=tmp_path / "function")
    _same(tmp_path / "verb", tmp_path / "function")
    again = hm.score_map(hm.CompositionMap.open(folder), cells=cells)
    assert again.summary == found.summary and "spatial" in found.summary


def test_report_and_view_are_the_verbs(
    job: Job, evaluation: Path, maps: Path, few_pictures: None, tmp_path: Path
) -> None:
    _run("report", evaluation, maps, job.head, "--out", tmp_path / "verb")
    hm.write_report([evaluation, maps, job.head], tmp_path / "function")
    _same(tmp_path / "verb", tmp_path / "function")
    objects = [hm.read_evaluation(evaluation), hm.CompositionMap.open(maps / job.image.stem), hm.load_head(job.head)]
    hm.write_report(objects, tmp_path / "objects")
    _same(tmp_path / "verb", tmp_path / "objects")

    words = ("--slides", job.image, "--sheet", job.sheet)
    answer = _run("view", maps, evaluation, *words, "--out", tmp_path / "viewer")
    made = hm.write_viewer([maps, evaluation], tmp_path / "function viewer", slides=job.image, cohort=job.sheet)
    _same(tmp_path / "viewer", tmp_path / "function viewer")
    assert answer["slides"] == list(made.slides) and made.page.is_file()
    cohort = hm.read_cohort(job.sheet)
    hm.write_viewer([objects[1], objects[0]], tmp_path / "objects viewer", slides=[job.image], cohort=cohort)
    _same(tmp_path / "viewer", tmp_path / "objects viewer")


def test_benchmark_is_the_verb(job: Job, tmp_path: Path) -> None:
    words = ("benchmark", job.sheet, "--labels", job.labels, "--heads", "knn", "--no-nuclei")
    _run(*words, "--out", tmp_path / "verb")
    found = hm.run_benchmark(job.sheet, tmp_path / "function", heads="knn", labels=job.labels, nuclei=False)
    ours, theirs = (set(_files(tmp_path / name)) for name in ("verb", "function"))
    assert ours == theirs and found.page == tmp_path / "function" / "page" / "index.html"
    assert (tmp_path / "verb" / "results.csv").read_bytes() == (tmp_path / "function" / "results.csv").read_bytes()
    with pytest.raises(InputError, match="1 folders of labels were given for 2 sheets"):
        hm.run_benchmark([job.sheet, job.sheet], tmp_path / "two", labels=job.labels)


def test_heads_and_facts_are_the_verbs(job: Job, tmp_path: Path) -> None:
    packed = tmp_path / "packed.zip"
    _run("head", "push", job.head, packed)
    hm.push_head(job.head, tmp_path / "function.zip")
    assert packed.read_bytes() == (tmp_path / "function.zip").read_bytes()
    _run("head", "pull", packed, "--accept-licence", "--out", tmp_path / "verb")
    with pytest.raises(InputError, match="not accepted"):
        hm.pull_head(packed, tmp_path / "function")
    hm.pull_head(packed, tmp_path / "function", accept=True)
    _same(tmp_path / "verb", tmp_path / "function")
    shown = _run("head", "show", packed)
    assert hm.head_facts(packed).to_dict().items() <= shown.items()
    assert _run("doctor", "--encoder", "builtin").items() >= hm.doctor("builtin").to_dict().items()
    assert [one["name"] for one in _run("encoders")["encoders"]] == [card.name for card in hm.cards()]
    answer, found = _run("inspect", job.sheet.parent), hm.inspect_data(job.sheet.parent)
    assert answer["sheet"] == found.sheet() and answer["what"] == found.description.what


def test_the_key_of_pseudonyms_is_found_as_the_verbs_find_it(maps: Path, tmp_path: Path) -> None:
    hm.export_maps(maps, "csv", tmp_path / "out", anonymise=True)
    assert (tmp_path / "out.key.csv").is_file()
    hm.cohort_tables(maps, tmp_path / "tables", anonymise=True)
    assert (tmp_path / "tables.key.csv").is_file()
    calls: list[Callable[..., Any]] = [hm.cohort_tables, hm.write_report, hm.write_viewer]
    for call in calls:
        with pytest.raises(InputError, match="with --anonymise only"):
            call([maps], tmp_path / "none", pseudonym_key=tmp_path / "key.csv")
    assert not (tmp_path / "none").exists() and not (tmp_path / "key.csv").exists()


def test_figures_take_folders(evaluation: Path, maps: Path, job: Job) -> None:
    folder = maps / job.image.stem
    for drawn in (
        hm.pl.scores(evaluation, show=False),
        hm.pl.proportions(evaluation, show=False),
        hm.pl.proportions(folder, show=False),
        hm.pl.compare(evaluation, job.image.stem, hm.load_head(job.head).card["cell_types"][0], show=False),
    ):
        assert drawn.has_data()
