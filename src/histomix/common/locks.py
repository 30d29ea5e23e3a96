"""A lock that ends with its process, however the process ends."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType

try:
    import fcntl
except ImportError:  # Windows has no such locks; a cache there is for one process
    fcntl = None  # type: ignore[assignment]


class Lock:
    """A lock file that many may share or one may have; the file goes when the last one leaves it.

    The kernel drops the lock of a killed process (``flock``), so that nothing stale is left to be judged by its age.
    Use it as a context manager; it is open, not locked, at first.

    Parameters
    ----------
    path
        The lock file; made where it is absent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1

    def __enter__(self) -> Lock:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.alone():
            self.path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = -1

    def exclusive(self) -> None:
        """Wait until nobody else has it, and have it alone."""
        self._take(getattr(fcntl, "LOCK_EX", 0))

    def shared(self) -> None:
        """Have it together with others."""
        self._take(getattr(fcntl, "LOCK_SH", 0))

    def alone(self) -> bool:
        """Have it alone if nobody else has it; False, and as before or not at all, if somebody has."""
        if fcntl is None:
            return True
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return self._is_current()

    def _take(self, how: int) -> None:
        while True:
            if fcntl is not None:
                fcntl.flock(self._file, how)
            # The last holder may have removed the file between our opening and our locking it.
            if self._is_current():
                return
            os.close(self._file)
            self._open()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)

    def _is_current(self) -> bool:
        with contextlib.suppress(OSError):
            return os.path.samestat(self.path.stat(), os.fstat(self._file))
        return False
