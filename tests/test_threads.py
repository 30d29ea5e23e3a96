"""The same bytes on any number of threads and workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from histomix.heads import HEADS, NoveltyModel, make_estimator
from histomix.heads.apply import apply_head, novelty_of
from histomix.heads.models import preprocess
from histomix.prediction import predict_slides

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
    for threads in (1, 2):
        with threadpool_limits(threads):
            output = apply_head(head, model, None, new, None)
            made.append((output.values.tobytes(), output.novelty.tobytes()))
    assert made[0] == made[1]


def _maps(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*/*") if path.name != "status.json"}


def test_a_slide_is_the_same_on_one_thread_and_on_two(job: Job, tmp_path: Path) -> None:
    for threads in (1, 2):
        with threadpool_limits(threads):
            predict_slides([job.image], job.head, tmp_path / str(threads), threads=threads)
    assert _maps(tmp_path / "1") == _maps(tmp_path / "2") != {}


@pytest.mark.slow
@needs_extra("cluster", "distributed")
def test_a_slide_is_the_same_in_this_process_and_in_two_workers(job: Job, tmp_path: Path) -> None:
    slides = [job.image, job.image.with_name("P2S1.tif")]
    predict_slides(slides, job.head, tmp_path / "here", threads=2)
    predict_slides(slides, job.head, tmp_path / "there", workers=2)
    assert _maps(tmp_path / "here") == _maps(tmp_path / "there") != {}
