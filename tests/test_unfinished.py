"""Work that was stopped goes on: what was finished is not made again, and nothing else is taken for it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import histomix as hm
from histomix.common.storage.locks import FolderBusyError
from histomix.common.storage.unfinished import UnfinishedWork, digest_array, unfinished_work
from histomix.errors import InputError
from histomix.heads import HEADS, kept_fits, make_estimator
from histomix.heads.base import CompositionRegressor
from histomix.heads.neighbourhood import Positions

from .conftest import Job
from .extras import extra_module

#: Heads that are made of others, or on pixels, keep nothing themselves.
_KEPT = [
    pytest.param(name, marks=[pytest.mark.slow] if name == "hist2cell" else [])
    for name in HEADS
    if name not in ("average", "hist2cell-tiles")
]


@pytest.fixture(autouse=True)
def every_fit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_fits, "LEAST_S", 0.0)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the classes of which a fit was really made."""
    made: list[str] = []
    checked = CompositionRegressor._fit_checked

    def counted(self: CompositionRegressor, *given: Any) -> None:
        made.append(type(self).__name__)
        checked(self, *given)

    monkeypatch.setattr(CompositionRegressor, "_fit_checked", counted)
    return made


def _rows(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, Positions]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(120, 12)).astype(np.float32)
    Y = np.abs(X[:, :3] @ rng.normal(size=(3, 4))) + rng.random((120, 4)) + 0.1
    section = np.repeat(["a", "b", "c"], 40)
    xy_um = 100.0 * np.stack([np.arange(120) % 40 % 8, np.arange(120) % 40 // 8], axis=1)
    return X, Y / Y.sum(axis=1, keepdims=True), section, Positions(section, xy_um)


@contextlib.contextmanager
def _stopped(out: Path) -> Iterator[UnfinishedWork]:
    """Work that is stopped at the end of the block."""
    with contextlib.suppress(KeyboardInterrupt), unfinished_work(out, "a head") as work:
        assert work is not None
        yield work
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", _KEPT)
def test_a_kept_fit_is_the_fit(name: str, tmp_path: Path, fits: list[str]) -> None:
    X, Y, groups, positions = _rows()
    small = {"mlp": {"max_epochs": 3}, "sun2025": {"max_epochs": 2}, "hist2cell": {"epochs": 1}, "gbm": {"max_iter": 5}}

    def fit() -> CompositionRegressor:
        return make_estimator(name, **small.get(name, {})).fit(X, Y, groups, positions=positions)

    alone = fit()
    with _stopped(tmp_path / "out"):
        first = fit()
    fits.clear()
    with unfinished_work(tmp_path / "out", "a head") as work:
        second = fit()
    assert work is not None and work.recalled > 0 and not fits
    assert list(tmp_path.iterdir()) == []
    expected = alone.predict(X, positions).tobytes()
    for other in (first, second):
        assert other.predict(X, positions).tobytes() == expected
        assert set(vars(other)) == set(vars(alone)) and other.search_ == alone.search_
        for member in ("held_out_", "held_out_spread_"):
            mine, theirs = getattr(other, member), getattr(alone, member)
            assert (mine is None) == (theirs is None)
            assert mine is None or mine.tobytes() == theirs.tobytes()


def test_a_fit_of_other_rows_settings_or_threads_is_not_taken(tmp_path: Path, fits: list[str]) -> None:
    X, Y, groups, positions = _rows()

    def fitted(**changed: Any) -> int:
        """How many fits are made after those of `_rows` are there."""
        with _stopped(tmp_path / "out"):
            make_estimator("ridge").fit(X, Y, groups, positions=positions)
        fits.clear()
        given = {"X": X, "Y": Y, "groups": groups, "smooth": 0.0, "threads": None, **changed}
        with unfinished_work(tmp_path / "out", "a head") as work:
            assert work is not None
            if given["threads"]:
                work.computer["threads"] = given["threads"]
            ridge = make_estimator("ridge", smooth_um=given["smooth"])
            ridge.fit(given["X"], given["Y"], given["groups"], positions=positions)
        return len(fits)

    assert fitted() == 0
    other = X.copy()
    other[5, 3] += 1e-6
    assert fitted(X=other) == 1
    assert fitted(Y=Y[::-1].copy()) == 1
    assert fitted(groups=np.repeat(["a", "b"], 60)) == 1
    assert fitted(smooth=50.0) == 1
    assert fitted(threads=[64]) == 1


def test_a_damaged_part_is_made_again(tmp_path: Path) -> None:
    with _stopped(tmp_path / "out") as work:
        work.keep("one", {"a": np.arange(6.0).reshape(2, 3).T}, {"b": [1, "x"]})
    (part,) = (tmp_path / ".out.unfinished").glob("*.part")
    whole = part.read_bytes()
    work = UnfinishedWork(part.parent)
    arrays, facts = work.recall("one") or ({}, {})
    assert facts == {"b": [1, "x"]} and arrays["a"].flags.fnc and arrays["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    for damaged in (b"", whole[:-1], whole[:-1] + b"\xff", b"x" + whole, whole.replace(b"b", b"c")):
        part.write_bytes(damaged)
        assert work.recall("one") is None


def test_two_processes_do_not_mix(tmp_path: Path) -> None:
    with unfinished_work(tmp_path / "out", "a head"):
        other = unfinished_work(tmp_path / "out", "a head")
        with pytest.raises(FolderBusyError, match="is writing a head"):
            other.__enter__()
    assert list(tmp_path.iterdir()) == []


def _files(folder: Path) -> dict[str, bytes]:
    """Every file by its name; the cost of an evaluation is left out, which the clock decides."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if "summary.json" in files:
        summary = json.loads(files["summary.json"])
        del summary["cost"]
        files["summary.json"] = json.dumps(summary).encode()
    return files


def _stopped_once(work: Callable[[Path], None], out: Path, fits: list[str], after: int) -> int:
    """Stop the work after so many fits, then do it again; how many fits the second run made."""
    with pytest.MonkeyPatch.context() as patch:
        checked = CompositionRegressor._fit_checked

        def stopped(self: CompositionRegressor, *given: Any) -> None:
            if len(fits) >= after:
                raise KeyboardInterrupt
            checked(self, *given)

        patch.setattr(CompositionRegressor, "_fit_checked", stopped)
        fits.clear()
        with pytest.raises(KeyboardInterrupt):
            work(out)
    assert [path.name for path in out.parent.iterdir()] == [f".{out.name}.unfinished"]
    fits.clear()
    work(out)
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    return len(fits)


def test_an_evaluation_goes_on(small_job: Job, tmp_path: Path, fits: list[str]) -> None:
    def evaluate(out: Path) -> None:
        hm.evaluate(
            small_job.sheet, small_job.features, small_job.labels, ("ridge", "knn"), "random", out=out, spatial=False
        )

    evaluate(tmp_path / "whole")
    whole, expected = len(fits), _files(tmp_path / "whole")
    assert whole > 6 and b"coverage" in expected["metrics.csv"]
    for after in (1, 3, 5):
        out = tmp_path / str(after) / "out"
        out.parent.mkdir()
        made = _stopped_once(evaluate, out, fits, after)
        assert made == whole - after
        assert _files(out) == expected


def test_training_goes_on(small_job: Job, tmp_path: Path, fits: list[str]) -> None:
    quick = {"max_iter": 3, "learning_rate": 0.1, "max_leaf_nodes": 4}

    def train(out: Path) -> None:
        hm.train(small_job.sheet, small_job.features, small_job.labels, "gbm", out=out, parameters=quick)

    train(tmp_path / "whole")
    whole, expected = len(fits), _files(tmp_path / "whole")
    assert whole >= 3
    out = tmp_path / "stopped" / "out"
    out.parent.mkdir()
    assert _stopped_once(train, out, fits, 2) == whole - 2
    assert _files(out) == expected


def test_a_refused_evaluation_leaves_nothing(small_job: Job, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        hm.evaluate(small_job.sheet, small_job.features, small_job.labels, ("ridge",), "donors", out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


class _Shades:
    """Tiles of one shade each, which can say what they are."""

    def __init__(self, Y: np.ndarray) -> None:
        shade = (255 * Y[:, :1, None, None] / Y.max()).astype(np.uint8)
        self.pixels = np.broadcast_to(shade, (len(Y), 32, 32, 3))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(self.pixels[rows])

    def identity(self) -> str:
        return digest_array(self.pixels) or ""


@pytest.mark.once
def test_a_network_on_pixels_is_trained_on_from_its_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: list[str]
) -> None:
    extra_module("baselines", "torch_geometric")
    X, Y, section, positions = _rows()
    rows = np.r_[:6, 40:46]
    X, Y, positions = X[rows], Y[rows], Positions(section, positions.xy_um, _Shades(Y))[rows]

    def fit(tiles: Any) -> bytes:
        head = make_estimator("hist2cell-tiles", epochs=3, batch_size=8)
        return head.fit(X, Y, positions=dataclasses.replace(positions, tiles=tiles)).predict(X, positions).tobytes()

    trained: list[int] = []
    keep = kept_fits.KeptEpochs.keep

    def stopped(after: int | None, tiles: Any = positions.tiles) -> bytes:
        """The predictions of a fit that is stopped after an epoch: what `trained` has is how far it came."""
        trained.clear()

        def counted(self: kept_fits.KeptEpochs, network: Any, optimiser: Any, schedule: Any, epochs: int) -> None:
            keep(self, network, optimiser, schedule, epochs)
            trained.append(epochs)
            if epochs == after:
                raise KeyboardInterrupt

        monkeypatch.setattr(kept_fits.KeptEpochs, "keep", counted)
        with contextlib.suppress(KeyboardInterrupt), unfinished_work(tmp_path / "out", "a head"):
            return fit(tiles)
        return b""

    expected = fit(positions.tiles)
    assert not stopped(after=2) and trained == [1, 2]
    assert stopped(after=None) == expected and trained == [3]
    # Other pixels are other work, and pixels that cannot say what they are keep nothing.
    stopped(after=1)
    assert stopped(None, _Shades(1 - Y)) != expected and trained == [1, 2, 3]
    assert stopped(None, lambda asked: positions.tiles(asked)) == expected and trained == []
