"""Nothing goes out and nothing is left behind: every verb is watched, by what Python is asked for and by the kernel."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import typer

from histomix.cli.app import app
from histomix.cli.export import Format
from histomix.datasets import catalogue

from .conftest import Job
from .fake_hub import Hub, fake_hub
from .watching import Scratch, Seen, watch

Words = Sequence[object]


def verbs(program: typer.Typer, before: str = "") -> set[str]:
    """Every verb of the program, and of its groups (``head push``)."""
    found = set()
    for one in program.registered_commands:
        found.add(f"{before}{one.name or one.callback.__name__}")  # type: ignore[union-attr]
    for group in program.registered_groups:
        inner = group.typer_instance
        found |= verbs(inner, f"{before}{group.name or inner.info.name} ")
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A web server of a folder on the loopback: the address that the user names."""
    folder = tmp_path_factory.mktemp("served")

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with fake_hub() as running:
        yield running


def plan_of(job: Job, out: Path, address: str, hub: str) -> dict[str, list[Words]]:
    """Every verb on the phantom, each writing to its folder of ``out``."""
    cells = job.sheet.parent / "truth" / f"{job.image.stem}.cells.csv.gz"
    image, maps, evaluation = job.image, out / "predict" / job.image.stem, out / "evaluate"
    table = ["--features", job.features, "--labels", job.labels]
    repository = "hf://us/head"
    taken = ["--endpoint", hub, "--accept-licence"]
    return {
        "inspect": [["inspect", job.sheet], ["inspect", image]],
        "label": [
            ["label", job.sheet, "--reference", job.reference, "--out", out / "label"],
            ["label", job.sheet, "--method", "nnls", "--reference", job.reference, "--out", out / "label-nnls"],
        ],
        "embed": [["embed", job.sheet, "--out", out / "embed"]],
        "train": [["train", job.sheet, *table, "--head", "ridge", "--out", out / "train"]],
        "evaluate": [["evaluate", job.sheet, *table, "--heads", "ridge", "--out", evaluation]],
        "predict": [
            ["predict", image, "--head", job.head, "--out", out / "predict"],
            ["predict", f"{address}/slide.tif", "--head", job.head, "--out", out / "predict-remote"],
        ],
        "score": [["score", maps, "--cells", cells, "--out", out / "score"]],
        "cohort": [["cohort", out / "predict", "--out", out / "cohort"]],
        "report": [["report", evaluation, job.labels, job.features, job.head, maps, "--out", out / "report"]],
        "view": [["view", out / "predict", evaluation, "--sheet", job.sheet, "--slides", image, "--out", out / "view"]],
        "export": [
            ["export", out / "predict", "--to", form.value, "--out", out / f"export-{form.value}"] for form in Format
        ],
        "benchmark": [
            [
                "benchmark",
                job.sheet,
                "--heads",
                "mean",
                "--labels",
                job.labels,
                "--no-nuclei",
                "--out",
                out / "benchmark",
            ]
        ],
        "head push": [
            ["head", "push", job.head, out / "head.zip"],
            ["head", "push", job.head, repository, "--endpoint", hub, "--yes"],
        ],
        "head show": [["head", "show", out / "head.zip"]],
        "head pull": [
            ["head", "pull", out / "head.zip", "--out", out / "pulled", "--accept-licence"],
            ["head", "pull", repository, "--out", out / "pulled-hub", *taken],
        ],
        "encoders": [["encoders"]],
        "doctor": [["doctor"]],
        "fetch": [["fetch", "hest:TENX95", "--mirror", address], ["fetch", "hest:TENX95", "--mirror", address]],
        "demo": [["demo", "--cohort", "phantom", "--out", out / "demo"]],
    }


@dataclass(frozen=True)
class Watched:
    """What each verb did, with the folders it did it in."""

    seen: dict[str, list[Seen]]
    said: str
    scratch: Scratch
    out: Path
    before: dict[Path, float]


def stamps(folder: Path) -> dict[Path, float]:
    """When each file of a folder was written."""
    return {path: path.stat().st_mtime for path in folder.rglob("*")}


def serve_hest(folder: Path) -> None:
    """The sample of HEST-1k that `fetch` is asked for: it need not be one that can be read."""
    base = folder / "huggingface.co" / "datasets" / "MahmoodLab" / "hest" / "resolve" / "main"
    for part in catalogue.Hest("TENX95").parts:
        path = base / part.format("TENX95")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"patient": "P1"}))


@pytest.fixture(scope="module")
def watched(job: Job, server: tuple[str, Path], hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """All verbs, one after the other."""
    root = tmp_path_factory.mktemp("watched")
    address, served = server
    serve_hest(served)
    shutil.copy(job.image, served / "slide.tif")
    scratch, out = Scratch.made(root / "scratch"), root / "out"
    out.mkdir()
    plan = plan_of(job, out, address, hub.endpoint)
    before = stamps(job.sheet.parent.parent)
    found = iter(watch(scratch, [words for commands in plan.values() for words in commands]))
    seen = {verb: [next(found) for _ in commands] for verb, commands in plan.items()}
    return Watched(seen, (scratch.root / "said.txt").read_text(), scratch, out, before)


VERBS = sorted(verbs(app))


def test_every_verb_is_watched() -> None:
    plan = plan_of(Job(*[Path("/x")] * 7), Path("/out"), "", "")
    assert set(plan) == set(VERBS), "a new verb must be run in plan_of, so that it is watched"


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_calls_nobody_that_was_not_named(watched: Watched, verb: str) -> None:
    for seen in watched.seen[verb]:
        assert seen.code in (0, 2 if verb == "fetch" else 0), watched.said
        assert not seen.beyond_loopback()


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_writes_to_its_out_and_to_the_cache(watched: Watched, verb: str) -> None:
    scratch = watched.scratch
    for seen in watched.seen[verb]:
        # What is written to the folder of temporary files is gone in the end (below).
        stray = seen.outside(watched.out, scratch.cache, scratch.tmp) - {scratch.cache.parent}
        assert not stray


def test_nothing_is_left_but_the_results_and_the_cache(watched: Watched, job: Job) -> None:
    scratch = watched.scratch
    left = {path for path in scratch.files() if not path.is_relative_to(scratch.cache)}
    assert left == {scratch.cache.parent}
    assert stamps(job.sheet.parent.parent) == watched.before, "the inputs were written to"
    assert (scratch.cache.stat().st_mode & 0o777) == 0o700
    assert {path.name for path in scratch.cache.iterdir()} <= {"libraries", "slides", "onnx", "hest-TENX95"}
