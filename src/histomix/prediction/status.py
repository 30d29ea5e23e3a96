"""``status.json`` of one slide: what is going on, what was made of what, and whether it is still up to date."""

from __future__ import annotations

import datetime
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import HistomixError, InputError
from ..provenance import read_json, versions, write_json
from ..slides import is_remote
from ..slides.files import slide_digest, slide_state
from .job import Settings, SlideJob, SlideResult

STATUS = "status.json"
_EVERY_S = 2.0
#: What the status of a slide that is not to be named says: nothing with a name, a path, a date or foreign words in it.
_NAMELESS = (
    *("slide", "name", "facts", "anonymised", "digests", "versions", "state", "reason", "kind", "tiles_done", "tiles"),
    *("unreadable_tiles", "in_scope_tiles", "kept", "remarks", "seconds", "state_of_slide", "files", "mpp_given"),
    *("remote", "owner"),
)
WITHHELD = "not kept, since the words of an error may name the slide: the same command says them again"


class Status:
    """The status of one slide; every `update` writes the file.

    States are ``queued``, ``running``, ``done`` and ``failed``. A running slide names the process and the computer
    that run it, and how many tiles are done.
    """

    def __init__(self, job: SlideJob, settings: Settings) -> None:
        self.path = job.folder / STATUS
        self.facts: dict[str, Any] = {
            "slide": job.shown_file,
            **({"source": job.source} if is_remote(job.slide) else {}),
            "name": job.name,
            "facts": dict(job.facts),
            "digests": {"head": settings.head, "settings": settings.identity, "slide": None},
            "versions": versions("numpy", "torch", "onnxruntime", "tifffile", "openslide-python", "anndata"),
        }
        if job.seal is not None:
            self.facts["anonymised"] = job.seal.key
        self._job, self._written = job, 0.0

    def queued(self) -> None:
        """Say that the slide waits."""
        self.update(state="queued", reason=None, queued=now())

    def running(self) -> None:
        """Say that this process has begun."""
        self._begun = time.time()
        owner = {"pid": os.getpid(), "host": socket.gethostname()}
        self.update(state="running", reason=None, owner=owner, started=now(), finished=None)

    def progress(self, done: int, total: int) -> None:
        """Say how far it is, at most every two seconds."""
        if time.monotonic() - self._written > _EVERY_S:
            self.update(tiles_done=done, tiles=total)

    def finished(self, result: SlideResult, **more: Any) -> None:
        """Say how it ended."""
        seconds = round(time.time() - getattr(self, "_begun", time.time()), 3)
        told = {name: value for name, value in result.to_dict().items() if name not in ("slide", "folder")}
        self.update(**{**told, "finished": now(), "seconds": seconds, "owner": None, **more})

    def update(self, **changes: Any) -> None:
        """Change facts and write the file.

        Raises
        ------
        StorageError
            It cannot be written.
        """
        self.facts.update(changes)
        write_status(self._job, self.facts)
        self._written = time.monotonic()


def now() -> str:
    """The time, ISO 8601 in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def write_status(job: SlideJob, facts: Mapping[str, Any]) -> None:
    """Write the status of a slide; of one that is not to be named, only what names nobody.

    Raises
    ------
    StorageError
        It cannot be written.
    """
    told = dict(facts)
    if job.seal is not None:
        told = {name: value for name, value in facts.items() if name in _NAMELESS}
        if told.get("reason") is not None:
            told["reason"] = WITHHELD
        if told.get("owner") is not None:
            told["owner"] = {"pid": told["owner"]["pid"]}
    write_json(job.folder / STATUS, told)


def sealed_state(job: SlideJob, state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a slide as a file may keep it: of one that is not to be named, with names and times only marked."""
    if job.seal is None or "files" not in state:
        return dict(state)
    return {"digest": state.get("digest"), "files_mark": job.seal.mark(state["files"])}


def known_state(job: SlideJob, kept: Mapping[str, Any]) -> dict[str, Any]:
    """What `sealed_state` kept, as `histomix.slides.files.slide_digest` takes it; empty where the files have changed.

    Raises
    ------
    SlideError
        A file cannot be found.
    """
    if job.seal is None:
        return dict(kept)
    now_there = slide_state(job.path)
    same = job.seal.mark(now_there["files"]) == kept.get("files_mark")
    return {**now_there, "digest": kept.get("digest")} if same else {}


def read_status(folder: Path) -> dict[str, Any]:
    """The status of a slide; empty where there is none that can be read."""
    try:
        return read_json(folder / STATUS)
    except InputError:
        return {}


def up_to_date(job: SlideJob, settings: Settings) -> SlideResult | None:
    """The result of an earlier run if the same slide, head and settings made it and its files are whole.

    The slide is told by its content: a new modification time alone makes nothing stale (and is noted, so that the
    content is not read again next time), and neither does another version of a library.

    Raises
    ------
    SlideError
        The slide cannot be read.
    """
    before = read_status(job.folder)
    if not is_done(job, settings, before):
        return None
    known = before.get("state_of_slide") or {}
    found = slide_digest(job.path, known_state(job, known))
    if found["digest"] != before["digests"].get("slide"):
        return None
    if sealed_state(job, found) != known:
        write_status(job, {**before, "state_of_slide": sealed_state(job, found)})
    names = ("tiles", "unreadable_tiles", "in_scope_tiles")
    tiles, unreadable, in_scope = (int(before.get(name) or 0) for name in names)
    return SlideResult(job.file_name, job.folder, tiles, unreadable, in_scope, kept=True)


def is_done(job: SlideJob, settings: Settings, status: dict[str, Any]) -> bool:
    """Whether a status says that a map of this head and these settings is done, and its files are there whole."""
    digests = status.get("digests")
    if status.get("state") != "done" or not isinstance(digests, dict):
        return False
    if (digests.get("head"), digests.get("settings")) != (settings.head, settings.identity):
        return False
    if status.get("mpp_given") != job.mpp:
        return False
    sizes = status.get("files")
    if not isinstance(sizes, dict) or not set(settings.files) <= set(sizes):
        return False
    return all((job.folder / name).is_file() and (job.folder / name).stat().st_size == sizes[name] for name in sizes)


def failure(job: SlideJob, error: HistomixError) -> SlideResult:
    """The result of a slide that failed."""
    return SlideResult(job.file_name, job.folder, error=error)
