"""What a worker of a cluster does: a slide, a band of a large one, and the end of it. Safe to be done twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..._version import __version__
from ...common.locks import Lock
from ...errors import ClusterError, HeadError, HistomixError
from ...heads import load_head
from ...slides import SlideCache, is_remote
from ..chunks import embed_chunk
from ..encoders import load_head_encoders
from ..job import Settings, SlideJob, SlideResult
from ..plan import Plan
from ..remote import local_copy, note_remote, remote_facts, remote_up_to_date, slide_failed
from ..slide import finish_slide, mark_done, plan_chunks, remove_leftovers, run_slide
from ..status import Status, read_status, up_to_date

if TYPE_CHECKING:
    from ...encoders import Encoder
    from ...heads import Head

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


@dataclass
class Model:
    """A head and its encoders, loaded once in a process."""

    head: Head
    weights: tuple[str, ...] | None
    threads: int | None
    trust_code: bool
    _encoders: list[Encoder] = field(default_factory=list)
    _lock: Any = field(default_factory=threading.Lock)

    def encoders(self) -> list[Encoder]:
        """The encoders, loaded at the first call."""
        with self._lock:
            if not self._encoders:
                self._encoders = load_head_encoders(self.head, self.weights, self.threads, self.trust_code)
            return self._encoders


_LOADING = threading.Lock()
# A worker with several threads still encodes one batch at a time: an encoder uses all cores that it was given.
_ENCODING = threading.Lock()


@lru_cache(maxsize=2)
def _load(head: str, digest: str, weights: tuple[str, ...] | None, threads: int | None, trust_code: bool) -> Model:
    found = load_head(head)
    if found.card["digest"] != digest:
        raise HeadError(
            "the head is not the one that the run began with",
            where=head,
            hint="Do not change a head while it is being used; run the same command again",
        )
    return Model(found, weights, threads, trust_code)


def model_of(work: Work) -> Model:
    """The head and encoders of a run, loaded once for each process.

    Raises
    ------
    ClusterError
        This worker has another version of histomix.
    HeadError, EncoderError
        They cannot be loaded here.
    """
    if work.version != __version__:
        raise ClusterError(
            f"a worker has histomix {__version__}, and this program is histomix {work.version}",
            hint="Install the same version everywhere",
        )
    with _LOADING:
        return _load(work.head, work.settings.head, work.weights, work.threads, work.trust_code)


def slide_task(job: SlideJob, work: Work) -> dict[str, Any]:
    """Predict a slide; a large one is planned, and the answer is its number of bands.

    Returns
    -------
    ``{"result": ...}``, ``{"chunks": number, "tiles": [of each]}`` or ``{"error": ...}``; plain values throughout.
    """

    def work_on() -> dict[str, Any]:
        facts = remote_facts(job, work.cache)
        kept = remote_up_to_date(job, work.settings, facts)
        if kept is not None:
            return {"result": _plain(kept)}
        with local_copy(job, work.cache, keep=True) as here:
            kept = up_to_date(here, work.settings)
            if kept is None:
                model = model_of(work)
                Status(here, work.settings).running()
                remove_leftovers(here)
                chunks = plan_chunks(here, work.settings, model.head)
                if len(chunks) >= work.split_from:
                    return {"chunks": len(chunks), "tiles": [chunk.stop - chunk.start for chunk in chunks]}
                with _ENCODING:
                    kept = run_slide(here, work.settings, model.head, model.encoders)
            return _ended(here, work, kept, facts)

    return _guarded(job, work, "slide", work_on)


def chunk_task(job: SlideJob, number: int, work: Work) -> dict[str, Any]:
    """Embed one band of a slide that has been planned. Returns ``{"done": number}``, ``again`` or ``error``."""

    def work_on() -> dict[str, Any]:
        plan = Plan.load(job.work)
        if plan is None or number >= len(plan.chunks):
            return {"again": True}
        with local_copy(job, work.cache, keep=True) as here, _ENCODING:
            model = model_of(work)
            embed_chunk(
                here,
                plan.chunks[number],
                model.head,
                model.encoders(),
                batch_size=work.settings.batch_size,
                plan=plan,
            )
        return {"done": number}

    return _guarded(job, work, f"band-{number}", work_on)


def finish_task(job: SlideJob, work: Work) -> dict[str, Any]:
    """Finish a slide whose bands are all there. Returns ``result``, ``again`` or ``error``."""

    def work_on() -> dict[str, Any]:
        facts = remote_facts(job, work.cache)
        with local_copy(job, work.cache, keep=True) as here:
            # Done by a worker that was believed dead, or by one that died before it could say so.
            result = up_to_date(here, work.settings)
            if result is None:
                if Plan.load(job.work) is None:
                    return {"again": True}
                status = Status(here, work.settings)
                before = read_status(job.folder)
                status.facts |= {name: before[name] for name in ("queued", "started") if name in before}
                result = finish_slide(here, work.settings, model_of(work).head)
                mark_done(here, work.settings, status, result)
            return _ended(here, work, result, facts)

    return _guarded(job, work, "slide", work_on)


def _guarded(job: SlideJob, work: Work, part: str, work_on: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do a part of a slide while nobody else does the same one; an error becomes its answer."""
    try:
        # A worker that lost its scheduler may still be at it: what it finishes is then found done.
        with Lock(job.folder / f".{part}.lock", soft=False):
            answer = work_on()
    except HistomixError as error:
        slide_failed(job, work.settings, error)
        answer = {"error": error}
    if "result" in answer or "error" in answer:
        forget_slides([job.slide], work.cache)
    return answer


def forget_slides(slides: Sequence[str], cache: SlideCache | None) -> None:
    """Remove remote slides from this machine, but for those that somebody reads."""
    for slide in filter(is_remote, slides):
        (cache or SlideCache()).forget(slide)


def _ended(job: SlideJob, work: Work, result: SlideResult, facts: dict[str, Any] | None) -> dict[str, Any]:
    if result.error is not None:
        return {"error": result.error}
    note_remote(job, facts)
    return {"result": _plain(result)}


def _plain(result: SlideResult) -> dict[str, Any]:
    return {
        "tiles": result.tiles,
        "unreadable": result.unreadable,
        "in_scope": result.in_scope,
        "kept": result.kept,
        "remarks": list(result.remarks),
    }
