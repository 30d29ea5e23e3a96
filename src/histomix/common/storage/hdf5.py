"""HDF5 files that are written whole, or fail with the reason: the library itself ends the process on a full disk."""

from __future__ import annotations

import io
import os
from typing import IO, Any

import h5py


class new_hdf5:
    """A new HDF5 file to write, as a context manager.

    What the library cannot write while it closes a file (a full disk, a quota), it tries to write again at the end of
    the process, where it crashes. So it writes through a file of Python's, which takes everything once the disk has
    refused something, and the error is raised here.

    Parameters
    ----------
    path
        The file; overwritten.
    settings
        Of `h5py.File`.

    Raises
    ------
    OSError
        On leaving the block: something could not be written.
    """

    def __init__(self, path: str | os.PathLike[str], **settings: Any) -> None:
        self._path = path
        self._settings = settings

    def __enter__(self) -> h5py.File:
        self._file = open(self._path, "w+b", buffering=0)
        self._forgiving = _Forgiving(self._file)
        self._store = h5py.File(self._forgiving, "w", **self._settings)
        return self._store

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self._store.close()
        except (OSError, RuntimeError):  # it reads zeros where something was lost
            self.check()
            raise
        finally:
            self._file.close()
        self.check()

    def check(self) -> None:
        """Raise what could not be written so far."""
        if self._forgiving.error is not None:
            raise self._forgiving.error


class _Forgiving(io.RawIOBase):
    """A file that keeps the first error of writing, and from then on loses what is written."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self.error: OSError | None = None
        self._raw = file

    def write(self, data: Any) -> int:
        """Write all of ``data``."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while len(rest) and self.error is None:
                rest = rest[self._raw.write(rest) :]
        except OSError as error:
            self.error = error
        if len(rest):
            self._raw.seek(len(rest), os.SEEK_CUR)
        return size

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; with zeros where something was lost."""
        rest = memoryview(buffer).cast("B")
        size = len(rest)
        while len(rest):
            count = self._raw.readinto(rest)  # type: ignore[attr-defined]
            if not count:
                rest[:] = bytes(len(rest))
                break
            rest = rest[count:]
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the size."""
        try:
            return self._raw.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        """The place."""
        return self._raw.tell()
