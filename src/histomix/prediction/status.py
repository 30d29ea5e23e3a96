"""``status.json`` of one slide: what is going on, what was made of what, and whether it is still up to date."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import socket
import time
import traceback
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ..common.storage.altered import STATUS
from ..errors import HistomixError, InputError, origins
from ..provenance import digest_file, read_json, versions, write_json
from ..slides import is_remote
from ..slides.files import slide_digest, slide_state
from .job import Settings, SlideJob, SlideResult

_log = logging.getLogger(__name__)
_EVERY_S = 2.0
#: What the status of a slide that is not to be named says: nothing with a name, a path, a date or foreign words in it.
_NAMELESS = (
    *("slide", "name", "facts", "anonymised", "digests", "versions", "state", "reason", "kind", "tiles_done", "tiles"),
    *("unreadable_tiles", "in_scope_tiles", "kept", "remarks", "seconds", "state_of_slide", "files", "file_digests"),
    "mpp_given",
    *("areas_mm2", "remote", "owner"),
)
#: Where a slide lies, from the folder of its map; what has no names leaves it out.
PLACE = "path"
WITHHELD = "not kept, since the words of an error may name the slide: the same command says them again"


def _place(job: SlideJob) -> dict[str, str]:
    """Where the slide is: its address, or its path from the folder of its map where both are in one folder.

    So the viewer finds it, and no way to a file elsewhere on the computer is written.
    """
    if is_remote(job.slide):
        return {"source": job.source}
    slide, out = Path(job.slide).absolute(), job.folder.absolute().parent
    if not slide.is_relative_to(out.parent):
        return {}
    return {PLACE: Path(os.path.relpath(slide, job.folder.absolute())).as_posix()}


class Status:
    """The status of one slide; every `update` writes the file.

    States are ``queued``, ``running``, ``done`` and ``failed``. A running slide names the process and the computer
    that run it, and how many tiles are done.
    """

    def __init__(self, job: SlideJob, settings: Settings) -> None:
        self.job, self.settings = job, settings
        self._written = 0.0

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What this run writes."""
        job, settings = self.job, self.settings
        facts: dict[str, Any] = {
            "slide": job.shown_file,
            **_place(job),
            "name": job.name,
            "facts": dict(job.facts),
            "digests": {"head": settings.head, "settings": settings.identity, "slide": None},
            "versions": versions("numpy", "torch", "onnxruntime", "tifffile", "openslide-python", "anndata"),
        }
        if job.seal is not None:
            facts["anonymised"] = job.seal.key
        return facts

    def read(self) -> dict[str, Any]:
        """What the file says."""
        return read_status(self.job.folder)

    def is_done(self, facts: Mapping[str, Any] | None = None) -> bool:
        """Whether the file (or ``facts`` of it) says that a map of this head and these settings is done and whole."""
        told = self.read() if facts is None else facts
        digests, sizes = told.get("digests"), told.get("files")
        if told.get("state") != "done" or not isinstance(digests, dict) or not isinstance(sizes, dict):
            return False
        if (digests.get("head"), digests.get("settings")) != (self.settings.head, self.settings.identity):
            return False
        if told.get("mpp_given") != self.job.mpp or not self.settings.files_of(sizes):
            return False
        if not _tells_counts(told):
            return False
        contents = told.get("file_digests")
        if not isinstance(contents, dict) or not self.settings.files_of(contents):
            return False
        files = {name: self.job.folder / name for name in sizes}
        if not all(file.is_file() and file.stat().st_size == sizes[name] for name, file in files.items()):
            return False
        # Somebody may have edited a table, to the same size.
        return all(_digest_or_none(self.job.folder / name) == digest for name, digest in contents.items())

    def up_to_date(self) -> SlideResult | None:
        """The result of an earlier run if the same slide, head and settings made it and its files are whole.

        The slide is told by its content: a new modification time alone makes nothing stale (and is noted, so that the
        content is not read again next time), and neither does another version of a library.

        Raises
        ------
        SlideError
            The slide cannot be read.
        """
        before = self.read()
        if not self.is_done(before):
            return None
        known = before.get("state_of_slide") or {}
        state = slide_digest(self.job.path, None if self.job.verify else known_state(self.job, known))
        if state["digest"] != before["digests"].get("slide"):
            _log.warning("%s: the map there is of another slide, or of this one before it changed", self.job.folder)
            return None
        if sealed_state(self.job, state) != known:
            self.amend(state_of_slide=sealed_state(self.job, state))
        return SlideResult.of(self.job, before, kept=True)

    def remote_up_to_date(self, facts: Mapping[str, Any] | None) -> SlideResult | None:
        """As `up_to_date` where the store says that the slide is the same; None where it must be fetched to know.

        A store that gives no version (no ETag, no date) says nothing.
        """
        if facts is None or facts["version"] is None or self.job.verify:
            return None
        before = self.read()
        if before.get("remote") != facts or not self.is_done(before):
            return None
        return SlideResult.of(self.job, before, kept=True)

    def note_remote(self, facts: Mapping[str, Any] | None) -> None:
        """Write beside a slide's result of which remote file it was made.

        Raises
        ------
        StorageError
            The status cannot be written.
        """
        if facts is not None and self.read().get("state") == "done":
            self.amend(remote=facts)

    def queued(self) -> None:
        """Say that the slide waits."""
        self.update(state="queued", reason=None, queued=now())

    def running(self) -> None:
        """Say that this process has begun."""
        self._begun = time.time()
        owner = {"pid": os.getpid(), "host": socket.gethostname()}
        self.update(state="running", reason=None, owner=owner, started=now(), finished=None)

    def take_over(self) -> None:
        """Keep when the slide was queued and begun, as another process wrote it."""
        before = self.read()
        self.facts |= {name: before[name] for name in ("queued", "started") if name in before}

    def progress(self, done: int, total: int) -> None:
        """Say how far it is, at most every two seconds."""
        if time.monotonic() - self._written > _EVERY_S:
            self.update(tiles_done=done, tiles=total)

    def done(self, result: SlideResult) -> None:
        """Say that the slide is done, with what it was made of.

        Raises
        ------
        StorageError
            The status cannot be written.
        """
        state = slide_digest(self.job.path)
        there = [path.name for path in self.job.folder.iterdir()]
        places = {name: self.job.folder / name for name in self.settings.files_of(there)}
        sizes = {name: place.stat().st_size for name, place in places.items()}
        contents = {name: digest_file(place) for name, place in places.items()}
        digests = {**self.facts["digests"], "slide": state["digest"]}
        kept = sealed_state(self.job, state)
        self._finished(
            result, digests=digests, state_of_slide=kept, files=sizes, file_digests=contents, mpp_given=self.job.mpp
        )

    def failed(self, error: HistomixError) -> SlideResult:
        """Say that the slide failed and why.

        A map of an earlier run stays, and the status tells that it is older. Where the status says that the very map
        asked for is done, it stays too: the slide could not be reached (a share that is not there today).
        """
        result = SlideResult.of(self.job, error=error)
        _forget_frames(error)
        with contextlib.suppress(HistomixError):  # a full disk has no room for the status either; the result tells it
            if not self.is_done():
                self._finished(result)
        return result

    def _finished(self, result: SlideResult, **more: Any) -> None:
        """Say how it ended."""
        seconds = round(time.time() - getattr(self, "_begun", time.time()), 3)
        told = {name: value for name, value in result.to_dict().items() if name not in ("slide", "folder")}
        if result.error is None:
            told["tiles_done"] = told.get("tiles")
        self.update(**{**told, "finished": now(), "seconds": seconds, "owner": None, **more})

    def update(self, **changes: Any) -> None:
        """Change facts and write the file.

        Raises
        ------
        StorageError
            It cannot be written.
        """
        self.facts.update(changes)
        write_status(self.job, self.facts)
        self._written = time.monotonic()

    def amend(self, **changes: Any) -> None:
        """Change facts of what the file says, which another process may have written.

        Raises
        ------
        StorageError
            It cannot be written.
        """
        write_status(self.job, {**self.read(), **changes})


def _tells_counts(told: Mapping[str, Any]) -> bool:
    """Whether what a result is made of is of the right kinds."""
    counts = [told.get(name, 0) for name in ("tiles", "unreadable_tiles", "in_scope_tiles")]
    areas, remarks = told.get("areas_mm2", {}), told.get("remarks", [])
    return (
        all(isinstance(count, int) for count in counts)
        and isinstance(areas, dict)
        and all(isinstance(area, int | float) for area in areas.values())
        and isinstance(remarks, list)
        and isinstance(told.get("state_of_slide", {}), dict)
    )


def _digest_or_none(path: Path) -> str | None:
    try:
        return digest_file(path)
    except (OSError, InputError):
        return None


def _forget_frames(error: BaseException | None) -> None:
    """Let go of what the frames of an error hold, such as arrays on disk: the result keeps the error for long."""
    for one in origins(error):
        traceback.clear_frames(one.__traceback__)


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
