"""How much memory there is: of the computer, and of the container or job that this process lives in."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

from ..errors import OutOfMemoryError


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that can still be used without swapping, and without being killed for them.

    The least of what the computer has available, of what every control group above this process (a container, a
    Slurm job, a pod) leaves: its limit without what is used, where files that the kernel may drop do not count; and of
    what is left of this process's own limit of addresses (``ulimit -v``).

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` are.

    Returns
    -------
    None where nothing tells.
    """
    rooms = [*_group_rooms(root), *_own_room()]
    # On Linux it reads /proc/meminfo, which a sandbox may hide.
    with contextlib.suppress(OSError, psutil.Error):
        rooms.append(int(psutil.virtual_memory().available))
    return min(rooms, default=None)


def peak_bytes() -> int | None:
    """Most memory that this process has held so far; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def out_of_memory(error: MemoryError, where: str | os.PathLike[str] | None = None) -> OutOfMemoryError:
    """The error of the family for one of Python's or NumPy's.

    Parameters
    ----------
    error
        What was raised.
    where
        What was being worked on.
    """
    if isinstance(error, OutOfMemoryError):
        return error
    asked = getattr(error, "_total_size", None)  # of an array of NumPy
    used = psutil.Process().memory_info().rss
    free = available_memory()
    what = "there is not enough memory"
    if isinstance(asked, int):
        what += f": {_gib(asked)} were asked for beside the {_gib(used)} in use"
    else:
        what += f": {_gib(used)} are in use"
    what += "" if free is None else f", and {_gib(free)} are free"
    enough = used + asked if isinstance(asked, int) else 2 * used
    hint = f"Give it {_gib(enough)} or more (a larger machine, container or job), or split the work"
    made = OutOfMemoryError(what, where=where, hint=hint)
    made.__cause__ = error
    return made


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _own_room() -> Iterator[int]:
    """What is left of the addresses that this process may have; nothing where that is not limited."""
    with contextlib.suppress(ImportError, OSError, ValueError, psutil.Error):
        import resource  # of POSIX alone

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            yield max(0, limit - psutil.Process().memory_info().vms)


def _group_rooms(root: Path) -> Iterator[int]:
    """What each control group above this process leaves, in both versions of Linux's cgroups."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return  # no Linux
    for line in lines:
        number, controllers, place = line.split(":", 2)
        if number == "0":
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # A container may see its own group at the top, under a path that only the computer outside knows.
        group = PurePosixPath(place.lstrip("/"))
        for folder in (mount / group, *(mount / above for above in group.parents)):
            room = _room(folder, *names)
            if room is not None:
                yield room


def _room(folder: Path, limit: str, used: str, droppable: str) -> int | None:
    """Limit without use of one group; None without a limit (``max``, or no such file)."""
    try:
        room = int((folder / limit).read_text(encoding="utf-8")) - int((folder / used).read_text(encoding="utf-8"))
        facts = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
        return max(0, room + int(facts.get(droppable, 0)))
    except (OSError, ValueError):
        return None
