"""Slides at addresses that fsspec reads (s3://, gs://, https://): fetched to a bounded cache, checked, removed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from ...common.cache import cache_folder, cache_root, content_digest, free_bytes, private_folder, require_space
from ...common.storage.locks import Lock, SharedLock
from ...common.transfer.addresses import check_address, is_address, redact_url
from ...common.transfer.fetch import fetch_file
from ...common.transfer.remote_names import local_path, local_paths, remote_name
from ...common.transfer.retry import Retry
from ...common.transfer.store import Store, remote_stat
from ...errors import DownloadError, HistomixError, StorageError, TooLargeError
from ...progress import Progress, silent
from .entry import CacheEntry
from .files import sidecar_digest, slide_files

_log = logging.getLogger(__name__)
#: Space that the cache may take where nobody says otherwise.
LIMIT_BYTES = 64 << 30
#: Times that a slide is fetched which another process removes meanwhile.
_ROUNDS = 3
#: Parts of an address that change with every signature, though the file is the same.
_SIGNATURE = re.compile(
    r"^(x-amz-|x-goog-|awsaccesskeyid$|googleaccessid$|signature$|expires$|sig$|s[eptvrk][a-z]?$)", re.I
)


def is_remote(slide: str | os.PathLike[str]) -> bool:
    """Whether a slide is named by an address (``https://...``) rather than by a path; not every kind is read."""
    return isinstance(slide, str) and is_address(slide)


def default_cache() -> Path:
    """Folder of fetched slides: ``slides`` in the cache (see `histomix.common.cache`)."""
    return cache_root() / "slides"


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
        InputError
            The address is of a kind that is not read, or names a file outside of its folder; or a listing does.
        SlideError
            It is made of several files that cannot be fetched together.
        StorageError
            The disk has no room for it, it is larger than the cache may be, or others may have filled the cache.
        MissingExtraError
            A library of the extra ``remote`` is not installed.
        """
        if not is_remote(slide):
            yield Path(slide)
            return
        url = str(slide)
        self._secure()
        entry = self._entry(url)
        with SharedLock(entry.lock) as lock:
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
        try:
            self._secure()
        except StorageError:  # another's: nothing in it is ours to remove
            return False
        with SharedLock(entry.lock) as lock:
            gone = lock.alone()
            if gone:
                entry.remove()
        return gone

    def _secure(self) -> None:
        """Make the folder, or see that nobody else can have filled the one that is there."""
        if self.folder == default_cache():
            cache_folder(self.folder.name)
        else:
            private_folder(self.folder)

    def _entry(self, url: str) -> CacheEntry:
        check_address(url)
        parts = urlsplit(url)
        query = [(name, value) for name, value in parse_qsl(parts.query) if not _SIGNATURE.match(name)]
        same = (parts.scheme, parts.netloc.rpartition("@")[2], parts.path, urlencode(query))
        key = hashlib.sha256("\0".join(same).encode()).hexdigest()[:20]
        return CacheEntry(self.folder / key, self.folder / f"{key}.lock")

    def _fetched(self, url: str, entry: CacheEntry, lock: SharedLock, digest: str | None, progress: Progress) -> Path:
        store = Store.of(url, self.options)
        name = remote_name(url)
        path = local_path(entry.folder / "slide", name, where=redact_url(url))
        stat = remote_stat(store, url, self.retry)

        def fresh() -> bool:
            facts = entry.facts()
            if facts is None or stat.version is None or facts.get("remote") != stat.to_dict():
                return False
            if digest is not None and facts["files"].get(f"slide/{name}", {}).get("digest") != digest:
                return False
            if altered := entry.altered(facts):
                _log.warning(
                    "%s: %s was altered in the cache, and is fetched again", redact_url(url), ", ".join(altered)
                )
            return not altered

        for _ in range(_ROUNDS):
            lock.shared()
            if not fresh():
                # One process fetches and the others wait here; then all share it.
                lock.exclusive()
                if not fresh():
                    self._fetch(url, entry, store, digest, progress)
                lock.shared()
            if entry.facts() is not None:
                os.utime(entry.note)
                return path
            # Another process removed it between the two locks.
        raise DownloadError(
            "the slide was removed from the cache each time that it had been fetched",
            where=redact_url(url),
            hint="Use another folder for the cache of slides (HISTOMIX_CACHE)",
        )

    def _fetch(self, url: str, entry: CacheEntry, store: Store, digest: str | None, progress: Progress) -> None:
        with _tidy(entry):
            entry.note.unlink(missing_ok=True)
            name, files = remote_name(url), slide_files(store, url, self.retry)
            paths = local_paths(entry.folder / "slide", files, where=redact_url(url))
            digest = digest or sidecar_digest(store, url, self.retry.silence_s)
            remotes = {file: remote_stat(store, address, self.retry) for file, address in files.items()}
            total = sum(remote.size or 0 for remote in remotes.values())
            self._make_room(url, entry, total)
            done = 0
            for file, address in files.items():
                target = paths[file]

                def say(arrived: int, _size: int, before: int = done) -> None:
                    progress(f"fetch {name} (MB)", (before + arrived) >> 20, max(total, before + arrived) >> 20)

                try:
                    fetch_file(
                        store,
                        address,
                        target,
                        digest=digest if file == name else None,
                        retry=self.retry,
                        limit_bytes=self.limit_bytes - done,
                        progress=say,
                    )
                except TooLargeError:
                    raise self._too_large(redact_url(address)) from None
                done += target.stat().st_size
            facts = {
                "address": redact_url(url),
                "remote": remotes[name].to_dict(),
                "files": {
                    f"slide/{file}": {"bytes": path.stat().st_size, "digest": content_digest(path)}
                    for file, path in paths.items()
                },
            }
            (entry.folder / "promised").unlink(missing_ok=True)
            temporary = entry.note.with_suffix(".new")
            temporary.write_text(json.dumps(facts))
            temporary.replace(entry.note)

    def _too_large(self, where: str, size: str = "") -> StorageError:
        return StorageError(
            f"the slide{size} is larger than the cache may be ({self.limit_bytes / 2**30:.3g} GB)",
            where=where,
            hint="Allow the cache more space",
        )

    def _make_room(self, url: str, entry: CacheEntry, need: int) -> None:
        """Promise space to a slide, and remove what was used longest ago until there is that much."""
        if need > self.limit_bytes:
            raise self._too_large(redact_url(url), f" ({need / 2**30:.3g} GB)")
        waited, step = 0.0, 0.5
        while True:
            with Lock(self.folder / "room.lock"):
                if self._evict(entry, need):
                    (entry.folder / "promised").write_text(str(need))
                    return
            if waited >= self.patience_s:
                raise StorageError(
                    f"the cache of slides is full of slides that are being read ({self.limit_bytes / 2**30:.3g} GB, or "
                    "all that the disk has)",
                    where=self.folder,
                    hint="Allow the cache more space, or use fewer workers on this machine",
                )
            time.sleep(step)
            waited += step

    def _evict(self, entry: CacheEntry, need: int) -> bool:
        """Whether ``need`` bytes fit now, after removing what nobody reads, the least recently used first."""
        others = [
            CacheEntry(path, path.with_name(f"{path.name}.lock"))
            for path in self.folder.iterdir()
            if path.is_dir() and path != entry.folder
        ]
        taken = {other: other.bytes() for other in others}
        missing = max(0, need - entry.present())
        if missing > free_bytes(self.folder) + sum(other.present() for other in others):
            require_space(self.folder, missing, "the slide")

        def fits() -> bool:
            promised = sum(other.outstanding() for other in others)
            room = missing + promised <= free_bytes(self.folder)
            return room and sum(taken.values()) + need <= self.limit_bytes

        # What a broken transfer left is worth less than any whole slide.
        for other in sorted(others, key=lambda one: one.note.stat().st_mtime if one.note.is_file() else 0.0):
            if fits():
                break
            with SharedLock(other.lock) as lock:
                if lock.alone():
                    other.remove()
                    taken[other] = 0
        return fits()


@contextlib.contextmanager
def _tidy(entry: CacheEntry) -> Iterator[None]:
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
            hint="Free some space, or choose another folder for the cache of slides (HISTOMIX_CACHE)",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            (entry.folder / "promised").unlink(missing_ok=True)
