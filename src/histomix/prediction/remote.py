"""Remote slides in a run: fetched for as long as they are read, and not fetched at all where nothing has changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..common.transfer.store import Store, remote_stat
from ..errors import DownloadError, HistomixError
from ..progress import Progress, silent
from ..slides import SlideCache, is_remote, redact_url
from .job import Settings, SlideJob, SlideResult
from .slide import Encoders, mark_failed, run_slide
from .status import Status, failure, is_done, read_status, write_status

if TYPE_CHECKING:
    from ..heads import Head


@contextlib.contextmanager
def local_copy(
    job: SlideJob, cache: SlideCache | None = None, *, keep: bool = False, progress: Progress = silent
) -> Iterator[SlideJob]:
    """The job with a path that can be read here; a remote slide is fetched for the length of the block.

    Parameters
    ----------
    job
        Its ``slide`` may be an address.
    cache
        Where remote slides go; None: the default one.
    keep
        Leave the slide in the cache for the next band.
    progress
        Told of the transfer.

    Raises
    ------
    DownloadError, SlideError, StorageError, MissingExtraError
        As `histomix.slides.SlideCache.local`.
    """
    if not is_remote(job.slide):
        yield job
        return
    with (cache or SlideCache()).local(job.slide, keep=keep, progress=progress) as path:
        yield replace(job, local=path)


def remote_facts(job: SlideJob, cache: SlideCache | None = None) -> dict[str, Any] | None:
    """What the store says of a remote slide (address without secrets, size, version); None for a local one.

    Of a slide that is not to be named, all of it as a mark beside the version.

    Raises
    ------
    DownloadError
        The store cannot be reached, or has no such file.
    """
    if not is_remote(job.slide):
        return None
    cache = cache or SlideCache()
    found = remote_stat(Store.of(job.slide, cache.options), job.slide, cache.retry)
    facts = {"address": redact_url(job.slide), **found.to_dict()}
    return facts if job.seal is None else {"mark": job.seal.mark(facts), "version": facts["version"] and "marked"}


def remote_up_to_date(job: SlideJob, settings: Settings, facts: dict[str, Any] | None) -> SlideResult | None:
    """The result of an earlier run if the store says that its slide is the same; None where it must be fetched to know.

    A store that gives no version (no ETag, no date) says nothing.
    """
    before = read_status(job.folder)
    if facts is None or facts["version"] is None or before.get("remote") != facts or not is_done(job, settings, before):
        return None
    names = ("tiles", "unreadable_tiles", "in_scope_tiles")
    tiles, unreadable, in_scope = (int(before.get(name) or 0) for name in names)
    return SlideResult(job.file_name, job.folder, tiles, unreadable, in_scope, kept=True)


def run_anywhere(
    job: SlideJob,
    settings: Settings,
    head: Head,
    encoders: Encoders,
    progress: Progress = silent,
    cache: SlideCache | None = None,
) -> SlideResult:
    """As `histomix.prediction.run_slide`, for a slide that may be remote: fetched, predicted and removed."""
    try:
        facts = remote_facts(job, cache)
        kept = remote_up_to_date(job, settings, facts)
        if kept is not None:
            progress(f"predict {job.name}", kept.tiles, kept.tiles)
            return kept
        with local_copy(job, cache, progress=progress) as here:
            result = run_slide(here, settings, head, encoders, progress)
        note_remote(job, facts)
        return result
    except HistomixError as error:
        return slide_failed(job, settings, error)


def slide_failed(job: SlideJob, settings: Settings, error: HistomixError) -> SlideResult:
    """Note that a slide failed; a map that is done stays where only the store could not be reached."""
    if isinstance(error, DownloadError) and is_done(job, settings, read_status(job.folder)):
        return failure(job, error)
    return mark_failed(job, settings, Status(job, settings), error)


def note_remote(job: SlideJob, facts: dict[str, Any] | None) -> None:
    """Write beside a slide's result of which remote file it was made.

    Raises
    ------
    StorageError
        The status cannot be written.
    """
    status = read_status(job.folder)
    if facts is not None and status.get("state") == "done":
        write_status(job, {**status, "remote": facts})
