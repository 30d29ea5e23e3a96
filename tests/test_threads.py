"""The same bytes on any number of threads and workers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from histomix.common import threads
from histomix.common.threads import all_threads, side_by_side, single_thread
from histomix.heads import HEADS, NoveltyModel, make_estimator
from histomix.heads.apply import apply_head, novelty_of
from histomix.heads.models import preprocess
from histomix.prediction import predict_slides
from histomix.progress import progress_bars, tell

from .conftest import Job
from .extras import needs_extra


def _threads() -> int:
    return max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")


def _rows(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, 96)).astype(np.float32)


def test_a_head_is_applied_by_one_thread_of_algebra_however_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product that several threads share is summed otherwise: novelty was 1e-5 apart."""
    monkeypatch.setattr(preprocess, "SMALL", 0)
    X, groups = _rows(300), np.repeat(np.arange(3), 100)
    Y = np.random.default_rng(0).dirichlet(np.ones(4), 300)
    seen: list[int] = []

    def watched(cls: type, name: str) -> None:
        method = getattr(cls, name)

        def noted(self: Any, *given: Any) -> Any:
            seen.append(_threads())
            return method(self, *given)

        monkeypatch.setattr(cls, name, noted)

    ridge, model = make_estimator("ridge").fit(X, Y, groups), NoveltyModel().fit(X, groups)
    watched(HEADS["ridge"], "_predict")
    watched(NoveltyModel, "__call__")
    with threadpool_limits(3, "blas"):
        assert _threads() == 3
        apply_head(ridge, model, None, X, None)
        assert seen and set(seen) == {1}
        novelty_of(model, X, np.arange(300), np.zeros((300, Y.shape[1])))
        assert set(seen) == {1} and _threads() == 3


@pytest.mark.parametrize("name", ["ridge", "knn", "pcr"])
def test_maps_are_the_same_on_one_thread_and_on_two(name: str) -> None:
    X, groups, new = _rows(400), np.repeat(np.arange(4), 100), _rows(5000)
    Y = np.random.default_rng(0).dirichlet(np.ones(4), 400)
    head, model = make_estimator(name).fit(X, Y, groups), NoveltyModel().fit(X, groups)
    made = []
    for count in (1, 2):
        with threadpool_limits(count):
            output = apply_head(head, model, None, new, None)
            made.append((output.values.tobytes(), output.novelty.tobytes()))
    assert made[0] == made[1]


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(threads, "cores", lambda: 2)
    with threadpool_limits(2, "blas"):
        yield


def test_pieces_side_by_side_come_in_order_each_on_one_thread_of_algebra(two_cores: None) -> None:
    together, at_work, told = threading.Barrier(2, timeout=20), set[int](), list[tuple[int, int]]()

    def piece(number: int) -> int:
        together.wait()  # two are worked on at once
        at_work.add(threading.get_ident())
        tell("pieces", number, 8)
        assert _threads() == 1
        with side_by_side() as inner:  # which shares out no more
            assert inner is map
        return number * number

    with progress_bars(lambda _task, done, total: told.append((done, total))), side_by_side() as each:
        assert list(each(piece, range(8))) == [number**2 for number in range(8)]
    assert len(at_work) == 2 and threading.get_ident() not in at_work
    assert sorted(told) == [(number, 8) for number in range(8)]
    assert _threads() == 2


def test_a_piece_that_fails_ends_the_rest_and_one_thread_needs_no_pool(two_cores: None) -> None:
    begun: list[int] = []

    def piece(number: int) -> None:
        begun.append(number)
        if number == 3:
            raise ValueError("the fourth")

    with pytest.raises(ValueError, match="the fourth"), side_by_side() as each:
        list(each(piece, range(1000)))
    assert len(begun) < 20
    with threadpool_limits(1), side_by_side() as each:
        assert each is map


def test_what_needs_threads_gets_them_back_inside_of_one(two_cores: None) -> None:
    with single_thread(), single_thread():
        assert _threads() == 1
        with all_threads():
            assert _threads() == 2
            with single_thread():
                assert _threads() == 1
            assert _threads() == 2
        assert _threads() == 1
    with all_threads():
        assert _threads() == 2


def _maps(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*/*") if path.name != "status.json"}


def test_a_slide_is_the_same_on_one_thread_and_on_two(job: Job, tmp_path: Path) -> None:
    for count in (1, 2):
        with threadpool_limits(count):
            predict_slides([job.image], job.head, tmp_path / str(count), threads=count)
    assert _maps(tmp_path / "1") == _maps(tmp_path / "2") != {}


@pytest.mark.slow
@needs_extra("cluster", "distributed")
def test_a_slide_is_the_same_in_this_process_and_in_two_workers(job: Job, tmp_path: Path) -> None:
    slides = [job.image, job.image.with_name("P2S1.tif")]
    predict_slides(slides, job.head, tmp_path / "here", threads=2)
    predict_slides(slides, job.head, tmp_path / "there", workers=2)
    assert _maps(tmp_path / "here") == _maps(tmp_path / "there") != {}
