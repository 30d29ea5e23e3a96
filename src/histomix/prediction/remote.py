"""Remote slides in a run: what their store says of them, and a copy for as long as they are read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..common.transfer.store import Store, remote_stat
from ..progress import Progress, silent
from ..slides import SlideCache, is_remote, redact_url
from .job import SlideJob


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
    stat = remote_stat(Store.of(job.slide, cache.options), job.slide, cache.retry)
    facts = {"address": redact_url(job.slide), **stat.to_dict()}
    return facts if job.seal is None else {"mark": job.seal.mark(facts), "version": facts["version"] and "marked"}
