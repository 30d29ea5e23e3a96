"""What has arrived of a file, beside the place where the whole of it will be."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ...errors import HistomixError, StorageError


@dataclass(frozen=True)
class Part:
    """The bytes so far (``<name>.part``) and a stamp with the version of the file that they are of, if it is known."""

    target: Path

    @property
    def path(self) -> Path:
        """Where the bytes are."""
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def stamp(self) -> Path:
        """Where the version is."""
        return self.target.with_name(f"{self.target.name}.part.stamp")

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def version(self) -> str | None:
        """As `mark` left it."""
        return self.stamp.read_text(encoding="utf-8") if self.stamp.is_file() else None

    def mark(self, version: str | None) -> None:
        """Note of which version the bytes are; None: nobody can tell, so no later call goes on from them."""
        with writing(self.target):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            if version is None:
                self.stamp.unlink(missing_ok=True)
            else:
                with open_unlinked(self.stamp, "w", encoding="utf-8", newline="\n") as stream:
                    stream.write(version)

    def write(self, start: int, chunk: bytes) -> None:
        """Put bytes at a position, which is then the end; what stood behind it is gone."""
        with writing(self.target):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            with open_unlinked(self.path, "r+b" if self.path.is_file() else "wb") as stream:
                stream.truncate(start)
                stream.seek(start)
                stream.write(chunk)

    def clear(self) -> None:
        """Remove the bytes."""
        with writing(self.target):
            self.path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the bytes and the stamp."""
        self.clear()
        self.mark(None)

    def finish(self) -> None:
        """Give the whole file its name."""
        with writing(self.target):
            self.path.replace(self.target)
            self.stamp.unlink(missing_ok=True)


def open_unlinked(path: Path, mode: str, **options: Any) -> IO[Any]:
    """Open a file to write, if it is no link: who else may write to the folder could have any file overwritten by one.

    Raises
    ------
    OSError
        It is a link, or cannot be opened.
    """
    no_follow = getattr(os, "O_NOFOLLOW", 0)
    return open(path, mode, opener=lambda name, flags: os.open(name, flags | no_follow, 0o666), **options)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file that cannot be written."""
    try:
        yield
    except HistomixError:
        raise
    except OSError as error:
        raise StorageError(
            f"cannot be written ({error.strerror or error})",
            where=path,
            hint="Check space and permissions, or choose another folder (for the cache: HISTOMIX_CACHE)",
        ) from error
