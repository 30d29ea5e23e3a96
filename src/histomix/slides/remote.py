"""Slides at addresses that fsspec reads (s3://, gs://, https://): fetched to a bounded cache, checked, removed."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from ..common.locks import Lock
from ..errors import HistomixError, StorageError
from ..progress import Progress, silent
from .remote_files import remote_name, sidecar_digest, slide_files
from .store import Retry, Store, look, shown
from .transfer import fetch_file

#: Space that the cache may take where nobody says otherwise.
LIMIT_BYTES = 64 << 30
#: Parts of an address that change with every signature, though the file is the same.
_SIGNATURE = re.compile(
    r"^(x-amz-|x-goog-|awsaccesskeyid$|googleaccessid$|signature$|expires$|sig$|s[eptvrk][a-z]?$)", re.I
)


def is_remote(slide: str | os.PathLike[str]) -> bool:
    """Whether a slide is named by an address (``https://...``) rather than by a path."""
    return isinstance(slide, str) and re.match(r"^(?!file:)[a-zA-Z][a-zA-Z0-9+.-]+://", slide) is not None


def default_cache() -> Path:
    """Folder of fetched slides: ``slides`` in ``HISTOMIX_CACHE``, else in the disk's place for passing files."""
    if given := os.environ.get("HISTOMIX_CACHE"):
        return Path(given) / "slides"
    return Path(tempfile.gettempdir()) / f"histomix-slides-{getpass.getuser()}"


@dataclass(frozen=True)
class _Entry:
    """One slide in the cache: a folder with its files, a lock beside it, and a note once it is whole."""

    folder: Path
    lock: Path

    @property
    def note(self) -> Path:
        return self.folder / "whole.json"

    def facts(self) -> dict[str, Any] | None:
        """What the note says, if all of its files are there in their sizes."""
        try:
            found: dict[str, Any] = json.loads(self.note.read_text())
            sizes = {name: (self.folder / name).stat().st_size for name in found["files"]}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if sizes == {name: file["bytes"] for name, file in found["files"].items()} else None

    def bytes(self) -> int:
        """Space taken, or promised to a transfer that runs."""
        taken = 0
        for path in self.folder.rglob("*"):
            with contextlib.suppress(OSError):
                taken += path.stat().st_size
        with contextlib.suppress(OSError, ValueError):
            return max(taken, int((self.folder / "promised").read_text()))
        return taken

    def remove(self) -> None:
        """Remove what is not locked against it (the caller holds the lock)."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class SlideCache:
    """Remote slides on this disk, shared by all processes of this machine.

    Parameters
    ----------
    folder
        Where; None takes `default_cache`.
    limit_bytes
        Space for all slides together. The least recently used one that nobody reads goes first; where all are being
        read, a new one waits.
    options
        For fsspec (``{"anon": True}``); may hold credentials, and is never shown.
    retry
        How lost connections are tried again.
    patience_s
        How long a slide waits for space before it is an error.
    """

    folder: Path = field(default_factory=default_cache)
    limit_bytes: int = LIMIT_BYTES
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    retry: Retry = field(default_factory=Retry)
    patience_s: float = 3600.0

    @contextlib.contextmanager
    def local(
        self,
        slide: str | os.PathLike[str],
        *,
        digest: str | None = None,
        keep: bool = False,
        progress: Progress = silent,
    ) -> Iterator[Path]:
        """The path of a slide for the length of a block: a local path as it is, a remote one fetched.

        Parameters
        ----------
        slide
            A path, or an address that fsspec reads. ``.mrxs`` brings the folder beside it, DICOM the files beside it.
        digest
            ``"sha256:<hex>"`` of the file. Where it is not given, ``<address>.sha256`` is read if there is one.
        keep
            Leave the slide in the cache after the block, for the next reader (a slide in bands); else the last reader
            removes it.
        progress
            Told how many MB have come.

        Raises
        ------
        DownloadError
            It cannot be fetched, or what arrives is not what was promised. Names the address without its secrets.
        SlideError
            It is made of several files that cannot be fetched together.
        StorageError
            The disk is full, or the slide is larger than the cache may be.
        MissingExtraError
            A library of the extra ``remote`` is not installed.
        """
        if not is_remote(slide):
            yield Path(slide)
            return
        url = str(slide)
        entry = self._entry(url)
        with Lock(entry.lock) as lock:
            path = self._fetched(url, entry, lock, digest, progress)
            try:
                yield path
            finally:
                if not keep and lock.alone():
                    entry.remove()

    def forget(self, slide: str | os.PathLike[str]) -> bool:
        """Remove a slide unless somebody reads it; whether it is gone now. Whole or not makes no difference."""
        entry = self._entry(str(slide))
        if not entry.folder.is_dir():
            return True
        with Lock(entry.lock) as lock:
            gone = lock.alone()
            if gone:
                entry.remove()
        return gone

    def _entry(self, url: str) -> _Entry:
        parts = urlsplit(url)
        query = [(name, value) for name, value in parse_qsl(parts.query) if not _SIGNATURE.match(name)]
        same = (parts.scheme, parts.netloc.rpartition("@")[2], parts.path, urlencode(query))
        key = hashlib.sha256("\0".join(same).encode()).hexdigest()[:20]
        return _Entry(self.folder / key, self.folder / f"{key}.lock")

    def _fetched(self, url: str, entry: _Entry, lock: Lock, digest: str | None, progress: Progress) -> Path:
        store = Store(urlsplit(url).scheme.lower(), self.options)
        name = remote_name(url)
        found = look(store, url, self.retry)

        def fresh() -> bool:
            facts = entry.facts()
            return facts is not None and found.version is not None and facts["remote"] == found.to_dict()

        lock.shared()
        if not fresh():
            # One process fetches and the others wait here; then all share it.
            lock.exclusive()
            if not fresh():
                self._fetch(url, entry, store, digest, progress)
            lock.shared()
        if entry.facts() is None:  # removed by another process between the two locks
            return self._fetched(url, entry, lock, digest, progress)
        os.utime(entry.note)
        return entry.folder / "slide" / name

    def _fetch(self, url: str, entry: _Entry, store: Store, digest: str | None, progress: Progress) -> None:
        with _tidy(entry):
            entry.note.unlink(missing_ok=True)
            name, files = remote_name(url), slide_files(store, url, self.retry)
            digest = digest or sidecar_digest(store, url)
            remotes = {file: look(store, address, self.retry) for file, address in files.items()}
            total = sum(remote.size or 0 for remote in remotes.values())
            self._make_room(entry, total)
            done = 0
            for file, address in files.items():
                target = entry.folder / "slide" / file

                def say(arrived: int, _size: int, before: int = done) -> None:
                    progress(f"fetch {name} (MB)", (before + arrived) >> 20, max(total, before + arrived) >> 20)

                fetch_file(
                    store,
                    address,
                    target,
                    digest=digest if file == name else None,
                    retry=self.retry,
                    limit_bytes=self.limit_bytes,
                    progress=say,
                )
                done += target.stat().st_size
            facts = {
                "address": shown(url),
                "remote": remotes[name].to_dict(),
                "files": {f"slide/{file}": {"bytes": (entry.folder / "slide" / file).stat().st_size} for file in files},
            }
            (entry.folder / "promised").unlink(missing_ok=True)
            temporary = entry.note.with_suffix(".new")
            temporary.write_text(json.dumps(facts))
            temporary.replace(entry.note)

    def _make_room(self, entry: _Entry, need: int) -> None:
        """Promise space to a slide, and remove what was used longest ago until there is that much."""
        if need > self.limit_bytes:
            raise StorageError(
                f"the slide ({need / 2**30:.3g} GB) is larger than the cache may be "
                f"({self.limit_bytes / 2**30:.3g} GB)",
                where=self.folder,
                mend="Allow the cache more space",
            )
        waited, step = 0.0, 0.5
        while True:
            with Lock(self.folder / "room.lock") as room:
                room.exclusive()
                if self._evict(entry, need):
                    (entry.folder / "promised").write_text(str(need))
                    return
            if waited >= self.patience_s:
                raise StorageError(
                    f"the cache of slides is full of slides that are being read ({self.limit_bytes / 2**30:.3g} GB)",
                    where=self.folder,
                    mend="Allow the cache more space, or use fewer workers on this machine",
                )
            time.sleep(step)
            waited += step

    def _evict(self, entry: _Entry, need: int) -> bool:
        """Whether ``need`` bytes fit now, after removing what nobody reads, the least recently used first."""
        others = [
            _Entry(path, path.with_name(f"{path.name}.lock"))
            for path in self.folder.iterdir()
            if path.is_dir() and path != entry.folder
        ]
        taken = {other: other.bytes() for other in others}
        # What a broken transfer left is worth less than any whole slide.
        for other in sorted(others, key=lambda one: one.note.stat().st_mtime if one.note.is_file() else 0.0):
            if sum(taken.values()) + need <= self.limit_bytes:
                break
            with Lock(other.lock) as lock:
                if lock.alone():
                    other.remove()
                    taken[other] = 0
        return sum(taken.values()) + need <= self.limit_bytes


@contextlib.contextmanager
def _tidy(entry: _Entry) -> Iterator[None]:
    """Name a full disk; leave parts for the next run, which goes on from them."""
    try:
        (entry.folder / "slide").mkdir(parents=True, exist_ok=True)
        yield
    except HistomixError:
        raise
    except OSError as error:
        raise StorageError(
            f"cannot be written ({error.strerror or error})",
            where=entry.folder,
            mend="Free some space, or choose another folder for the cache of slides (HISTOMIX_CACHE)",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            (entry.folder / "promised").unlink(missing_ok=True)
