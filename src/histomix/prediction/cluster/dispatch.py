"""Slides as tasks of a Dask cluster, and large ones as bands of tasks: what is sent, and what becomes of it."""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from ...errors import ClusterError, HistomixError
from ...progress import Progress, silent
from ...provenance import digest_json
from ...slides import is_remote
from ..job import SlideJob, SlideResult
from ..status import Status, now
from .worker import Work, chunk_task, finish_task, forget_slides, slide_task

if TYPE_CHECKING:
    from distributed import Client, Future

logger = logging.getLogger(__name__)
#: A task that takes its worker with it so many times is given up.
ATTEMPTS = 5
_TICK_S = 0.5
_SILENT_WORKERS_S = 30.0


def predict_on_cluster(
    jobs: Sequence[SlideJob],
    work: Work,
    client: Client,
    *,
    resources: Mapping[str, float] | None = None,
    progress: Progress = silent,
) -> list[SlideResult]:
    """Predict slides on a cluster whose workers see the slides, the head and the output folder under the same paths.

    Parameters
    ----------
    jobs
        The slides.
    work
        How.
    client
        A connected Dask client.
    resources
        What a worker must have to be given work (``{"GPU": 1}``).
    progress
        Told how many slides are done.

    Returns
    -------
    One result per job, in their order; a slide that failed carries its error, and stops no other.

    Raises
    ------
    ClusterError
        The scheduler is gone. Unfinished slides say so in their ``status.json``, and the same call goes on.
    """
    run = _Run(jobs, work, client, dict(resources or {}), progress)
    try:
        return run.all()
    finally:
        run.stop()


@dataclass
class _Slide:
    """A slide on its way."""

    job: SlideJob
    status: Status
    chunks: list[int] = field(default_factory=list)
    waiting: set[int] = field(default_factory=set)
    futures: dict[str, Future[Any]] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    rounds: int = 0


class _Run:
    def __init__(
        self,
        jobs: Sequence[SlideJob],
        work: Work,
        client: Client,
        resources: dict[str, float],
        progress: Progress,
    ) -> None:
        self.work, self.client, self.resources, self.progress = work, client, resources, progress
        self.slides = [_Slide(job, Status(job, work.settings)) for job in jobs]
        self.results: list[SlideResult | None] = [None] * len(jobs)
        self.ended: queue.SimpleQueue[tuple[int, str, Future[Any]]] = queue.SimpleQueue()
        # Two runs on one scheduler must not share tasks by chance of their names.
        self.address = str(client.scheduler.address) if client.scheduler is not None else None
        self.token = [str(jobs[0].folder.parent) if jobs else "", work.settings.identity, time.time()]

    def all(self) -> list[SlideResult]:
        for number in range(len(self.slides)):
            self._submit(number, "slide")
        done, quiet_since = 0, time.monotonic()
        self.progress("predict (slides)", 0, len(self.slides))
        while done < len(self.slides):
            try:
                number, part, future = self.ended.get(timeout=_TICK_S)
            except queue.Empty:
                quiet_since = self._remark_silence(quiet_since)
                continue
            quiet_since = time.monotonic()
            slide = self.slides[number]
            if self.results[number] is not None or slide.futures.get(part) is not future:
                continue  # of a slide that has failed, or a task that was given up
            del slide.futures[part]
            self._take(number, part, future)
            if self.results[number] is not None:
                done += 1
                self.progress("predict (slides)", done, len(self.slides))
        return [result for result in self.results if result is not None]

    def stop(self) -> None:
        """Take back what is not done (an error, Ctrl-C): workers end the task at hand, and get no further one."""
        left = [future for slide in self.slides for future in slide.futures.values()]
        if left and self.client.status == "running":
            self.client.cancel(left, force=True)
        remote = [slide.job.slide for slide in self.slides if is_remote(slide.job.slide)]
        if remote and self.client.status == "running":
            with contextlib.suppress(OSError, TimeoutError):
                self.client.run(forget_slides, remote, self.work.cache, on_error="ignore")

    def _submit(self, number: int, part: str) -> None:
        """Send a task; its key is what the dashboard shows: ``slide:NAME``, ``band:NAME-003``, ``finish:NAME``."""
        slide = self.slides[number]
        call, more, name = slide_task, (), f"slide:{slide.job.name}"
        if part.startswith("band"):
            chunk = int(part.partition("-")[2])
            call, more, name = chunk_task, (chunk,), f"band:{slide.job.name}-{chunk:03d}"  # type: ignore[assignment]
        elif part == "finish":
            call, name = finish_task, f"finish:{slide.job.name}"
        attempt = slide.attempts.get(part, 0)
        mark = digest_json([self.token, number, part, attempt, slide.rounds]).removeprefix("sha256:")[:8]
        future = self.client.submit(
            call,
            slide.job,
            *more,
            self.work,
            key=f"{name}-{mark}",
            pure=False,
            # What has been begun is finished first: few slides are open at a time, and little is lost with a worker.
            priority={"slide": 0, "finish": 20}.get(part, 10),
            resources=self.resources or None,
        )
        slide.futures[part] = future
        future.add_done_callback(lambda ended: self.ended.put((number, part, ended)))

    def _take(self, number: int, part: str, future: Future[Any]) -> None:
        """Go on from the end of a task."""
        slide = self.slides[number]
        if future.status in ("cancelled", "lost"):
            self._lost()
        if future.status == "error":
            self._died(number, part, future.exception())
            return
        try:
            answer: dict[str, Any] = future.result()
        except (OSError, CancelledError):  # the scheduler went between the end of the task and its answer
            self._lost()
        if "error" in answer:
            self._failed(number, answer["error"])
        elif "result" in answer:
            facts = answer["result"]
            self.results[number] = SlideResult.of(slide.job, facts, kept=facts["kept"])
        elif "again" in answer:
            self._again(number)
        elif "chunks" in answer:
            slide.chunks, slide.waiting = answer["tiles"], set(range(answer["chunks"]))
            for chunk in range(answer["chunks"]):
                self._submit(number, f"band-{chunk}")
        else:
            slide.waiting.discard(answer["done"])
            self._note_chunks(slide)
            if not slide.waiting:
                self._submit(number, "finish")

    def _again(self, number: int) -> None:
        """A slide whose plan has gone, with the work folder, is begun anew; not for ever."""
        slide = self.slides[number]
        slide.rounds += 1
        if slide.rounds >= ATTEMPTS:
            self._failed(
                number,
                ClusterError(
                    "its unfinished work disappeared again and again",
                    where=slide.job.work,
                    hint="Check that all workers see the output folder, and that no other program cleans it",
                ),
            )
            return
        self._drop(slide)
        self._submit(number, "slide")

    def _died(self, number: int, part: str, error: BaseException) -> None:
        """A task ended without an answer: its worker died too often, or something is wrong with the program there."""
        slide = self.slides[number]
        slide.attempts[part] = slide.attempts.get(part, 0) + 1
        if type(error).__name__ == "KilledWorker":
            if slide.attempts[part] < ATTEMPTS:
                self._submit(number, part)
                return
            what = "the workers that were given this slide died, each of them"
            hint = "Give each worker more memory (fewer --workers), or predict this slide alone to see the reason"
        else:
            what = f"a worker failed with {type(error).__name__}: {error}"
            hint = "Check that histomix is installed on all workers in this version, and that they see the same folders"
        self._failed(number, ClusterError(what, where=slide.job.folder, hint=hint))

    def _failed(self, number: int, error: HistomixError) -> None:
        slide = self.slides[number]
        self._drop(slide)
        self.results[number] = SlideResult.of(slide.job, error=error)
        _say(slide, state="failed", reason=str(error), kind=type(error).__name__, finished=now(), owner=None)

    def _drop(self, slide: _Slide) -> None:
        if slide.futures:
            self.client.cancel(list(slide.futures.values()), force=True)
        slide.futures.clear()
        slide.waiting.clear()

    def _note_chunks(self, slide: _Slide) -> None:
        done = sum(tiles for chunk, tiles in enumerate(slide.chunks) if chunk not in slide.waiting)
        _say(slide, state="running", tiles_done=done, tiles=sum(slide.chunks))

    def _lost(self) -> NoReturn:
        """The scheduler is gone: have every unfinished slide say so.

        Raises
        ------
        ClusterError
            Always.
        """
        error = ClusterError(
            "the connection to the Dask scheduler was lost",
            where=self.address,
            hint="Start the cluster again and run the same command: finished slides and bands are kept",
        )
        for number, slide in enumerate(self.slides):
            if self.results[number] is None and slide.status.read().get("state") != "done":
                kind = type(error).__name__
                _say(slide, state="failed", reason=str(error), kind=kind, finished=now(), owner=None)
            slide.futures.clear()
        raise error

    def _remark_silence(self, since: float) -> float:
        """Say, once in a while, that nobody works."""
        if self.client.status in ("closed", "closing"):
            self._lost()
        if time.monotonic() - since < _SILENT_WORKERS_S:
            return since
        workers = self.client.scheduler_info(n_workers=-1)["workers"] if self.client.status == "running" else {}
        able = [
            worker
            for worker in workers.values()
            if all(worker.get("resources", {}).get(name, 0) >= much for name, much in self.resources.items())
        ]
        if not able:
            what = f"none of {len(workers)} workers has {self.resources}" if workers else "there are no workers"
            logger.warning("waiting: %s on the cluster", what)
        return time.monotonic()


def _say(slide: _Slide, **changes: Any) -> None:
    """Change facts of a status that workers write too; a full disk must not hide what happened."""
    with contextlib.suppress(HistomixError):
        slide.status.amend(**changes)
