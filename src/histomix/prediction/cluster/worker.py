"""What a worker of a cluster does: a slide, a band of a large one, and the end of it. Safe to be done twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..._version import __version__
from ...common.storage.locks import Lock
from ...errors import ClusterError, HeadError, HistomixError
from ...heads import Head, load_head
from ...slides import SlideCache, is_remote
from ..encoders import Model, load_head_encoders
from ..job import Settings, SlideJob, SlideResult
from ..run import SlideRun

#: A slide with at least so many bands is split; smaller ones are one task.
SPLIT_FROM = 3


@dataclass(frozen=True)
class Work:
    """What every task of a run has in common.

    Parameters
    ----------
    head
        Folder of the head, which all workers must see.
    settings
        How slides are predicted.
    weights
        Local weights of the head's encoders.
    trust_code
        Let an encoder run code of its own.
    threads
        CPU threads of an encoder in each worker.
    split_from
        Number of bands from which on a slide is split.
    version
        Of histomix, which must be the same everywhere.
    cache
        Where remote slides go. Credentials do not travel: each worker has those of its own environment.
    """

    head: str
    settings: Settings
    weights: tuple[str, ...] | None = None
    trust_code: bool = False
    threads: int | None = None
    split_from: int = SPLIT_FROM
    version: str = __version__
    cache: SlideCache | None = None


_LOADING = threading.Lock()
# A worker with several threads still encodes one batch at a time: an encoder uses all cores that it was given.
_ENCODING = threading.Lock()


@lru_cache(maxsize=2)
def _model(
    folder: str, digest: str, weights: tuple[str, ...] | None, threads: int | None, trust_code: bool, version: str
) -> Model:
    def head() -> Head:
        if version != __version__:
            raise ClusterError(
                f"a worker has histomix {__version__}, and this program is histomix {version}",
                hint="Install the same version everywhere",
            )
        loaded = load_head(folder)
        if loaded.card["digest"] != digest:
            raise HeadError(
                "the head is not the one that the run began with",
                where=folder,
                hint="Do not change a head while it is being used; run the same command again",
            )
        return loaded

    return Model(head, lambda loaded: load_head_encoders(loaded, weights, threads, trust_code))


def run_of(job: SlideJob, work: Work) -> SlideRun:
    """A slide's run with the head and encoders of this process, which are loaded once, when a step needs them.

    Steps raise ClusterError where this worker has another version of histomix, and HeadError or EncoderError where
    head or encoders cannot be loaded here.
    """
    with _LOADING:
        model = _model(work.head, work.settings.head, work.weights, work.threads, work.trust_code, work.version)
    return SlideRun(job, work.settings, model, work.cache)


def slide_task(job: SlideJob, work: Work) -> dict[str, Any]:
    """Predict a slide; a large one is planned, and the answer is its number of bands.

    Returns
    -------
    ``{"result": ...}``, ``{"chunks": number, "tiles": [of each]}`` or ``{"error": ...}``; plain values throughout.
    """

    def work_on(run: SlideRun) -> dict[str, Any]:
        kept = run.kept_remotely()
        if kept is not None:
            return {"result": kept.to_dict()}
        with run.fetched(keep=True) as here:
            result = here.kept()
            if result is None:
                here.status.running()
                here.remove_leftovers()
                chunks = here.plan()
                if len(chunks) >= work.split_from:
                    return {"chunks": len(chunks), "tiles": [chunk.stop - chunk.start for chunk in chunks]}
                with _ENCODING:
                    result = here.run()
        return _answer(run, result)

    return _guarded(run_of(job, work), "slide", work_on)


def chunk_task(job: SlideJob, number: int, work: Work) -> dict[str, Any]:
    """Embed one band of a slide that has been planned. Returns ``{"done": number}``, ``again`` or ``error``."""

    def work_on(run: SlideRun) -> dict[str, Any]:
        plan = run.planned()
        if plan is None or number >= len(plan.chunks):
            return {"again": True}
        with run.fetched(keep=True) as here, _ENCODING:
            here.embed(plan.chunks[number])
        return {"done": number}

    return _guarded(run_of(job, work), f"band-{number}", work_on)


def finish_task(job: SlideJob, work: Work) -> dict[str, Any]:
    """Finish a slide whose bands are all there. Returns ``result``, ``again`` or ``error``."""

    def work_on(run: SlideRun) -> dict[str, Any]:
        _ = run.remote  # asked before the slide is read, which may change meanwhile
        with run.fetched(keep=True) as here:
            # Done by a worker that was believed dead, or by one that died before it could say so.
            result = here.kept()
            if result is None:
                if here.planned() is None:
                    return {"again": True}
                here.remove_leftovers()  # of a worker that died at the end of this slide
                here.status.take_over()
                result = here.finish()
                here.done(result)
        return _answer(run, result)

    return _guarded(run_of(job, work), "slide", work_on)


def _guarded(run: SlideRun, part: str, work_on: Callable[[SlideRun], dict[str, Any]]) -> dict[str, Any]:
    """Do a part of a slide while nobody else does the same one; an error becomes its answer."""
    try:
        # A worker that lost its scheduler may still be at it: what it finishes is then found done.
        with Lock(run.job.folder / f".{part}.lock", soft=False):
            answer = work_on(run)
    except HistomixError as error:
        run.failed(error)
        answer = {"error": error}
    if "result" in answer or "error" in answer:
        forget_slides([run.job.slide], run.cache)
    return answer


def _answer(run: SlideRun, result: SlideResult) -> dict[str, Any]:
    if result.error is not None:
        return {"error": result.error}
    run.note_remote()
    return {"result": result.to_dict()}


def forget_slides(slides: Sequence[str], cache: SlideCache | None) -> None:
    """Remove remote slides from this machine, but for those that somebody reads."""
    for slide in filter(is_remote, slides):
        (cache or SlideCache()).forget(slide)
