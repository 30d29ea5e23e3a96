"""Where a result cannot be written, the verb says so before any work."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

import histomix as hm
from histomix.errors import InputError
from histomix.export import export_maps
from histomix.prediction import predict_slides
from histomix.provenance import atomic_path
from histomix.sharing import push_head

from .conftest import Job

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes and links are POSIX")


def _no_work(*_told: object) -> NoReturn:
    pytest.fail("work has begun")


VERBS: dict[str, Callable[[Job, Path, Path], Any]] = {
    "label": lambda job, made, out: hm.label(
        job.sheet, reference=job.sheet.parent / "reference.csv", out=out, progress=_no_work
    ),
    "embed": lambda job, made, out: hm.embed(job.sheet, out=out, progress=_no_work),
    "train": lambda job, made, out: hm.train(
        job.sheet, job.features, job.labels, head="ridge", out=out, progress=_no_work
    ),
    "evaluate": lambda job, made, out: hm.evaluate(
        job.sheet, job.features, job.labels, ["ridge"], out=out, progress=_no_work
    ),
    "predict": lambda job, made, out: list(predict_slides([job.image], job.head, out, progress=_no_work)),
    "cohort": lambda job, made, out: hm.cohort_tables([made], out=out, progress=_no_work),
    "export": lambda job, made, out: export_maps([made], "csv", out, progress=_no_work),
    "report": lambda job, made, out: hm.write_report([made], out, progress=_no_work),
    "view": lambda job, made, out: hm.write_viewer([made], out, slides=job.image, progress=_no_work),
    "push": lambda job, made, out: push_head(job.head, out),
}


@pytest.fixture(scope="module")
def one_map(small_job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A map of the job's slide."""
    out = tmp_path_factory.mktemp("maps")
    (result,) = predict_slides([small_job.image], small_job.head, out, progress=False)
    assert result.error is None
    return out / small_job.image.stem


def _file(path: Path) -> Path:
    path.touch()
    return path


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _loop(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


PLACES: dict[str, Callable[[Path], Path]] = {
    "file": _file,
    "pipe": _pipe,
    "loop": _loop,
    "below a file": lambda path: _file(path) / "out",
    "long": lambda path: path.with_name("n" * 300),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("verb", VERBS)
def test_a_place_that_can_be_no_folder_is_refused_before_any_work(
    verb: str, place: str, small_job: Job, one_map: Path, tmp_path: Path
) -> None:
    out = PLACES[place](tmp_path / "out")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"is a file, not a folder|cannot be a folder") as refused:
        VERBS[verb](small_job, one_map, out)
    assert str(out) in str(refused.value) and refused.value.hint
    assert sorted(tmp_path.iterdir()) == before


def test_the_folder_one_is_in_can_be_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "below").mkdir(parents=True)
    for place, inside in (("", "here"), ("..", "here/below")):
        monkeypatch.chdir(tmp_path / inside)
        with atomic_path(place) as temporary:
            temporary.mkdir()
            (temporary / "made").touch()
        assert [path.name for path in (tmp_path / "here").iterdir()] == ["made"]
        assert [path.name for path in tmp_path.iterdir()] == ["here"]
        (tmp_path / "here" / "below").mkdir()
