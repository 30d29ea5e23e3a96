"""Slides on a Dask cluster: the same bytes, whoever dies."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from histomix.errors import ClusterError, InputError, MissingHeadError, SlideError
from histomix.heads import load_head
from histomix.prediction import Settings, predict_slides, slide_jobs
from histomix.prediction.cluster.cluster import local_cluster, predict_on_cluster, read_resources, running_cluster
from histomix.prediction.cluster.dispatch import _Run
from histomix.prediction.cluster.worker import Work, chunk_task, finish_task, slide_task
from histomix.prediction.slides import queue as queue_slides

from .conftest import Job
from .extras import extra_module

if TYPE_CHECKING:
    from distributed import Client

distributed = extra_module("cluster", "distributed")
STATE = {"status.json"}


def _bytes(out: Path) -> dict[str, bytes]:
    """All files of a run but what says when and by whom."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in STATE
    }


def _states(out: Path) -> dict[str, str]:
    return {path.parent.name: json.loads(path.read_text())["state"] for path in sorted(out.glob("*/status.json"))}


@pytest.fixture(scope="module")
def job(small_job: Job) -> Job:
    """Slides of some 60 tiles, which take a worker seconds: long enough to be killed in the middle."""
    return small_job


@pytest.fixture(scope="module")
def slides(job: Job, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Six slides, of which two are different, and the fourth is broken."""
    folder = tmp_path_factory.mktemp("slides")
    images = sorted(job.image.parent.glob("*.tif"))
    found = []
    for number in range(6):
        path = folder / f"s{number}.tif"
        shutil.copy(images[number % len(images)], path)
        found.append(path)
    found[3].write_bytes(found[3].read_bytes()[:40_000])
    return found


@pytest.fixture(scope="module")
def undisturbed(job: Job, slides: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The six slides, predicted in this process."""
    out = tmp_path_factory.mktemp("undisturbed")
    results = predict_slides(slides, job.head, out, mpp=0.5)
    assert [result.error is None for result in results] == [True, True, True, False, True, True]
    return out


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with local_cluster(2, dashboard=None) as connected:
        yield connected


def _run(
    job: Job, slides: list[Path], out: Path, client: Client, split_from: int = 99, progress: Any = lambda *_: None
) -> list[Any]:
    jobs = slide_jobs(slides, out, 0.5)
    settings = Settings.of(load_head(job.head).card["digest"])
    queue_slides(jobs, settings)
    work = Work(str(job.head), settings, threads=1, split_from=split_from)
    return predict_on_cluster(jobs, work, client, progress=progress)


@contextlib.contextmanager
def _when(ready: Callable[[], bool], act: Callable[[], None]) -> Iterator[None]:
    """Act once, in a thread, as soon as something is so."""
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            if ready():
                act()
                return
            time.sleep(0.02)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _owners(out: Path) -> list[int]:
    """Processes that are at work on a slide."""
    found = []
    for path in out.glob("*/status.json"):
        with contextlib.suppress(OSError, ValueError):
            facts = json.loads(path.read_text())
            if facts["state"] == "running" and facts.get("owner"):
                found.append(facts["owner"]["pid"])
    return found


def test_a_worker_killed_in_mid_slide_changes_nothing(
    job: Job, slides: list[Path], undisturbed: Path, client: Client, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill() -> None:
        killed.append(_owners(tmp_path)[0])
        os.kill(killed[0], signal.SIGKILL)

    said: list[tuple[int, int]] = []
    with _when(lambda: len(_owners(tmp_path)) > 0, kill):
        results = _run(job, slides, tmp_path, client, progress=lambda _, done, total: said.append((done, total)))
    assert killed
    assert [result.error is None for result in results] == [True, True, True, False, True, True]
    # The broken slide is named as it is without a cluster, and stops no other.
    assert isinstance(results[3].error, SlideError) and "s3.tif" in str(results[3].error)
    assert _bytes(tmp_path) == _bytes(undisturbed)
    assert set(_states(tmp_path).values()) == {"done", "failed"} and _states(tmp_path)["s3"] == "failed"
    assert said[0] == (0, 6) and said[-1] == (6, 6)
    assert not list(tmp_path.rglob(".*"))  # no locks, parts or work folders
    tasks = {str(key) for key, *_ in client.cluster.scheduler.transition_log}
    assert any(key.startswith("slide:s0-") for key in tasks)
    again = _run(job, slides, tmp_path, client)
    assert [result.kept for result in again] == [True, True, True, False, True, True]


class _SmallBands(distributed.WorkerPlugin):
    """Bands of few tiles, in every worker, also in those that are started later."""

    name = "small-bands"

    def setup(self, worker: Any) -> None:
        from histomix.prediction import plan

        plan.CHUNK_TILES = 8

    def teardown(self, worker: Any) -> None:
        from histomix.prediction import plan

        plan.CHUNK_TILES = 2048


@contextlib.contextmanager
def _plugin(client: Client, plugin: Any) -> Iterator[None]:
    import cloudpickle

    # Workers cannot import the tests.
    here = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(here)
    client.register_plugin(plugin)
    try:
        yield
    finally:
        client.unregister_worker_plugin(plugin.name)
        cloudpickle.unregister_pickle_by_value(here)


def test_a_large_slide_is_split_in_bands_and_is_the_same(
    job: Job, slides: list[Path], client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histomix.prediction.plan.CHUNK_TILES", 8)
    predict_slides(slides[:2], job.head, tmp_path / "alone", mpp=0.5)
    killed: list[int] = []
    out = tmp_path / "split"

    def half_done() -> bool:
        return len(list((out / "s0" / ".work" / "chunks").glob("*.npy"))) > 1

    def kill() -> None:
        killed.append(next(iter(client.nthreads())))  # type: ignore[arg-type]
        pid = client.run(os.getpid, workers=killed[:1])[killed[0]]
        os.kill(pid, signal.SIGKILL)

    with _plugin(client, _SmallBands()), _when(half_done, kill):
        results = _run(job, slides[:2], out, client, split_from=2)
    assert [result.error for result in results] == [None, None]
    assert _bytes(out) == _bytes(tmp_path / "alone")
    tasks = {str(key).rpartition("-")[0] for key, *_ in client.cluster.scheduler.transition_log}
    assert {"slide:s0", "band:s0-000", "band:s0-001", "finish:s0", "band:s1-000"} <= tasks
    assert not list(out.rglob(".*"))


class _Poison(distributed.WorkerPlugin):
    """Workers that die of one slide."""

    name = "poison"

    def setup(self, worker: Any) -> None:
        from histomix.prediction import SlideRun

        self.clean = SlideRun.plan

        def plan(run: Any, *others: Any) -> Any:
            if run.job.name == "s1":
                os._exit(1)
            return self.clean(run, *others)

        SlideRun.plan = plan  # type: ignore[method-assign]

    def teardown(self, worker: Any) -> None:
        from histomix.prediction import SlideRun

        SlideRun.plan = self.clean  # type: ignore[method-assign]


@pytest.mark.slow
def test_a_slide_that_kills_every_worker_is_given_up_and_named(job: Job, slides: list[Path], tmp_path: Path) -> None:
    import dask

    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), local_cluster(1, dashboard=None) as alone:
        alone.cluster.scheduler.allowed_failures = 0
        with _plugin(alone, _Poison()):
            results = _run(job, slides[:3], tmp_path, alone)
    assert [result.error is None for result in results] == [True, False, True]
    assert "workers that were given this slide died" in str(results[1].error)
    assert "died" in json.loads((tmp_path / "s1" / "status.json").read_text())["reason"]


def _task_in_process(job: Any, work: Work, answers: Any) -> None:
    answers.put(slide_task(job, work))


def test_what_a_worker_that_died_at_the_end_of_a_slide_left_is_removed_by_the_next(
    job: Job, slides: list[Path], undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histomix.prediction.plan.CHUNK_TILES", 8)
    (one,) = slide_jobs(slides[:1], tmp_path, 0.5)
    work = Work(str(job.head), Settings.of(load_head(job.head).card["digest"]), threads=1, split_from=2)
    for chunk in range(slide_task(one, work)["chunks"]):
        assert chunk_task(one, chunk, work) == {"done": chunk}
    (one.folder / ".partial-x").mkdir()
    (one.folder / ".partial-x" / "composition.csv").write_bytes(b"half")
    assert finish_task(one, work)["result"]["tiles"] > 0
    assert not list(one.folder.rglob(".*"))
    made = {name: data for name, data in _bytes(undisturbed).items() if name.startswith("s0/")}
    assert _bytes(tmp_path) == made


def test_a_slide_that_two_workers_were_given_is_made_once(
    job: Job, slides: list[Path], undisturbed: Path, tmp_path: Path
) -> None:
    (one,) = slide_jobs(slides[:1], tmp_path, 0.5)
    work = Work(str(job.head), Settings.of(load_head(job.head).card["digest"]), threads=1)
    answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    # Two threads have lock files of their own, as two processes have.
    both = [threading.Thread(target=_task_in_process, args=(one, work, answers)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    found = [answers.get()["result"] for _ in both]
    assert sorted(result["kept"] for result in found) == [False, True]
    assert found[0]["tiles"] == found[1]["tiles"] > 0
    made = {name: data for name, data in _bytes(undisturbed).items() if name.startswith("s0/")}
    assert _bytes(tmp_path) == made


def _scheduler(folder: Path) -> tuple[list[subprocess.Popen[bytes]], Path]:
    """A scheduler and a worker, each a process of its own as on a real cluster."""
    file = folder / f"scheduler-{time.time_ns()}.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [sys.executable, "-m", "dask"]
    head = [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    body = [*dask, "worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    body += ["--death-timeout", "120", "--local-directory", str(folder)]
    started = [subprocess.Popen(head, **quiet)]  # type: ignore[call-overload]
    while not file.exists():
        time.sleep(0.1)
    return [*started, subprocess.Popen(body, **quiet)], file  # type: ignore[call-overload]


def test_a_scheduler_that_is_gone_is_said_and_the_same_call_goes_on(
    job: Job, slides: list[Path], undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    whole = [slide for slide in slides if slide.name != "s3.tif"]
    processes, file = _scheduler(tmp_path)
    try:
        lost = pytest.raises(ClusterError, match="connection to the Dask scheduler was lost")
        with _when(lambda: "done" in _states_safely(out), processes[0].kill), lost as raised:
            predict_slides(whole, job.head, out, mpp=0.5, scheduler=str(file))
        assert "run the same command" in str(raised.value)
        states = _states(out)
        assert "done" in states.values() and "failed" in states.values()
        reasons = [json.loads((out / name / "status.json").read_text())["reason"] for name in states]
        assert any(reason and "scheduler was lost" in reason for reason in reasons)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    done_before = {name for name, state in states.items() if state == "done"}
    # The same call, on another cluster or on none, takes up what is there.
    results = predict_slides(whole, job.head, out, mpp=0.5)
    assert all(result.error is None for result in results)
    assert done_before <= {result.folder.name for result in results if result.kept}
    made = {name: data for name, data in _bytes(undisturbed).items() if not name.startswith("s3/")}
    assert _bytes(out) == made


def _states_safely(out: Path) -> set[str]:
    with contextlib.suppress(OSError, ValueError):
        return set(_states(out).values())
    return set()


def test_ctrl_c_leaves_no_process_and_the_same_command_goes_on(job: Job, slides: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", "from histomix.cli import main; main()", "predict", *map(str, slides[:3])]
    command += ["--head", str(job.head), "--out", str(out), "--mpp", "0.5", "--workers", "2", "--quiet"]
    command += ["--stride-um", "28"]  # long enough to be met in the middle
    running = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    while not _owners(out) and running.poll() is None:
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 130, errors.decode()
    assert "goes on where it stopped" in errors.decode() and "Traceback" not in errors.decode()
    deadline = time.monotonic() + 20
    while (left := _members(running.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
    results = predict_slides(slides[:3], job.head, out, mpp=0.5, stride_um=28.0)
    assert all(result.error is None for result in results)


def _members(session: int) -> list[int]:
    """Processes of a session that still run."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(place.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_gives_the_same_bytes(
    job: Job, slides: list[Path], undisturbed: Path, tmp_path: Path, workers: int
) -> None:
    predict_slides(slides, job.head, tmp_path, mpp=0.5, workers=workers)
    assert _bytes(tmp_path) == _bytes(undisturbed)


def test_resources_are_asked_for(job: Job, slides: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    assert read_resources("GPU=1, MEMORY=8") == {"GPU": 1.0, "MEMORY": 8.0} and read_resources(None) == {}
    with pytest.raises(InputError, match="is no resource"):
        read_resources("GPU=many")

    class Pretend:
        """A client that keeps what it was asked for."""

        status, scheduler = "running", None

        def __init__(self) -> None:
            self.asked: list[dict[str, Any]] = []

        def submit(self, *_call: Any, **how: Any) -> Any:
            self.asked.append(how)
            return type("Future", (), {"add_done_callback": lambda *_: None})()

        def scheduler_info(self, n_workers: int) -> dict[str, Any]:
            return {"workers": {"a": {"resources": {}}, "b": {"resources": {"GPU": 0}}}}

    client = Pretend()
    jobs = slide_jobs(slides[:2], "out", 0.5)
    run = _Run(jobs, Work("head", Settings("digest")), client, {"GPU": 1.0}, lambda *_: None)  # type: ignore[arg-type]
    run._submit(0, "slide")
    run._submit(1, "band-3")
    assert [how["resources"] for how in client.asked] == [{"GPU": 1.0}] * 2
    assert [how["key"].rpartition("-")[0] for how in client.asked] == ["slide:s0", "band:s1-003"]
    assert client.asked[0]["priority"] < client.asked[1]["priority"]
    run._remark_silence(-1e9)
    assert "none of 2 workers has {'GPU': 1.0}" in caplog.text


def test_what_cannot_work_is_refused_in_words(job: Job, slides: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be used together"):
        predict_slides(slides[:1], job.head, tmp_path, mpp=0.5, workers=1, scheduler="tcp://127.0.0.1:9")
    with pytest.raises(ClusterError, match="no such scheduler file"), running_cluster(str(tmp_path / "none.json")):
        pass
    with pytest.raises(InputError, match="0 workers"), local_cluster(0):
        pass


def test_no_scheduler_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histomix.prediction.cluster.cluster._CONNECT_S", 1)
    with pytest.raises(ClusterError, match="no Dask scheduler answers"), running_cluster("tcp://127.0.0.1:9"):
        pass


def test_workers_of_another_version_or_without_the_head_say_so(job: Job, slides: list[Path], tmp_path: Path) -> None:
    (one,) = slide_jobs(slides[:1], tmp_path, 0.5)
    settings = Settings.of(load_head(job.head).card["digest"])
    other = slide_task(one, Work(str(job.head), settings, version="0.0.1"))
    assert "Install the same version" in str(other["error"])
    absent = slide_task(one, Work(str(tmp_path / "none"), settings))["error"]
    assert isinstance(absent, MissingHeadError)
    changed = slide_task(one, Work(str(job.head), Settings("sha256:other")))
    assert "not the one that the run began with" in str(changed["error"])
    assert json.loads((tmp_path / "s0" / "status.json").read_text())["state"] == "failed"
