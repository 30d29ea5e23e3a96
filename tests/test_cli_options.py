"""Options that many verbs share: each stands only where it does something, and there it does it."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from histomix.cli.app import app
from histomix.errors import InputError

from .conftest import Job

RUN = CliRunner()
#: Verbs that draw at random.
SEEDED = {"demo", "run", "label", "evaluate", "benchmark", "train", "score", "plan"}
#: Verbs that compute for longer than it takes to read a file.
THREADED = SEEDED | {"reproduce", "embed", "predict", "cohort", "report", "view", "export"}


@pytest.fixture(scope="module")
def job(small_job: Job) -> Job:
    """Options do the same whatever the number of spots."""
    return small_job


def verbs(group: typer.Typer = app, *before: str) -> Iterator[tuple[tuple[str, ...], Callable[..., Any]]]:
    """Words of each verb, with its function."""
    for command in group.registered_commands:
        assert command.name is not None and command.callback is not None
        yield (*before, command.name), command.callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from verbs(inner.typer_instance, *before, str(inner.typer_instance.info.name))


VERBS = dict(verbs())


def declared(verb: Callable[..., Any]) -> Iterator[tuple[str | None, bool, Any]]:
    """Of each parameter of a verb: the option (None for an argument), whether it must be given, and its type."""
    hints = get_type_hints(verb, include_extras=True)
    for name, parameter in inspect.signature(verb).parameters.items():
        kind, facts = get_args(hints[name])[:2]
        # typer keeps the first word of an annotation where a default would stand.
        words = [word for word in (facts.default, *(facts.param_decls or ())) if str(word).startswith("-")]
        yield (words or [None])[0], parameter.default is inspect.Parameter.empty, kind


def options(verb: Callable[..., Any]) -> set[str | None]:
    return {option for option, _, _ in declared(verb)}


def needed(verb: Callable[..., Any]) -> list[str]:
    """Words that stand for what a verb cannot do without."""
    found = []
    for option, must, kind in declared(verb):
        if must:
            value = str(next(iter(kind)).value) if isinstance(kind, type) and issubclass(kind, Enum) else "x"
            found += [value] if option is None else [option, value]
    return found


def test_every_verb_takes_what_all_take() -> None:
    assert len(VERBS) > 17
    for words, verb in VERBS.items():
        assert {"--json", "--quiet"} <= options(verb), words


def test_seed_and_threads_stand_where_they_do_something() -> None:
    for option, expected in (("--seed", SEEDED), ("--threads", THREADED)):
        assert {words[0] for words, verb in VERBS.items() if option in options(verb)} == expected


@pytest.mark.parametrize("verb", sorted(THREADED))
def test_threads_reach_the_session(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    @contextlib.contextmanager
    def session(as_json: bool, quiet: bool, threads: int | None = None, goes_on: bool = False) -> Iterator[None]:
        given.extend([as_json, quiet, threads])
        raise typer.Exit
        yield

    monkeypatch.setattr(importlib.import_module(f"histomix.cli.{verb}"), "session", session)
    result = RUN.invoke(app, [verb, *needed(VERBS[verb,]), "--threads", "3", "--json"])
    assert result.exit_code == 0, result.output
    assert given == [True, False, 3]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("predict", "", "--head", "x", "--out", "y"), "an argument is empty"),
        (("predict", "x", "--head", "x", "--out", " "), "--out is empty"),
        (("report", "x", "--out="), "--out is empty"),
        (("report", "x", "--out", "y", "--threads", "99999999999"), "less than or equal"),
        (("score", "x", "--out", "y", "--seed", "-1"), "Invalid value for '--seed'"),
        (("score", "x", "--out", "y", "--seed", "4294967296"), "Invalid value for '--seed'"),
    ],
)
def test_what_a_shell_makes_of_nothing_is_refused(words: tuple[str, ...], said: str) -> None:
    result = RUN.invoke(app, list(words))
    assert result.exit_code == 2 and said in " ".join(result.output.split())


def test_a_session_keeps_the_libraries_to_its_threads() -> None:
    code = (
        "from histomix.cli.session import session\n"
        "with session(False, True, 1):\n"
        "    import scipy.linalg, sklearn.cluster\n"
        "    from threadpoolctl import threadpool_info\n"
        "    print(*(pool['num_threads'] for pool in threadpool_info()))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) == {"1"}


@pytest.fixture(scope="module")
def written(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Run a verb with a seed; what it wrote as JSON."""
    sheet, features, labels = job.sheet, ("--features", job.features), ("--labels", job.labels)
    cells = job.sheet.parent / "truth" / f"{job.image.stem}.cells.csv.gz"
    maps = tmp_path_factory.mktemp("maps")
    words: dict[str, tuple[tuple[Any, ...], str]] = {
        "label": ((sheet, "--reference", job.reference), "manifest.json"),
        "train": ((sheet, *features, *labels, "--head", "mlp", "--set", "epochs=1"), "card.json"),
        "evaluate": ((sheet, *features, *labels, "--heads", "ridge", "--no-nuclei", "--no-spatial"), "summary.json"),
        "benchmark": ((sheet, *labels, "--heads", "ridge", "--no-nuclei"), "benchmark.json"),
        "score": ((maps / job.image.stem, "--cells", cells, "--no-spatial"), "summary.json"),
    }

    def run(verb: str) -> Any:
        out = tmp_path_factory.mktemp(verb) / "out"
        if verb == "score":
            done("predict", job.image, "--head", job.head, "--mpp", 0.5, "--at", job.spots, "--out", maps)
        done(verb, *words[verb][0], "--out", out, "--seed", 5)
        return json.loads((out / words[verb][1]).read_text())

    return run


def done(*words: Any) -> None:
    result = RUN.invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("verb", sorted(SEEDED - {"demo", "run", "plan"}))
def test_a_seed_is_recorded_in_what_is_made(verb: str, written: Callable[[str], Any]) -> None:
    facts = written(verb)
    assert (facts["head"]["parameters"] if verb == "train" else facts)["seed"] == 5


def test_the_seed_of_the_demo_is_that_of_its_phantom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def make_phantom(*_: Any, seed: int, **__: Any) -> Path:
        seeds.append(seed)
        raise InputError("far enough")

    monkeypatch.setattr("histomix.datasets.make_phantom", make_phantom)
    result = RUN.invoke(app, ["demo", "--cohort", "phantom", "--out", str(tmp_path), "--seed", "5"])
    assert seeds == [5] and "far enough" in result.output
