"""What the store of a remote slide says of it."""

from __future__ import annotations

from typing import Any

from ...common.transfer.store import Store, remote_stat
from ...slides import SlideCache, is_remote, redact_url
from ..job import SlideJob


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
