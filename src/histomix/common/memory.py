"""How much memory there is: of the computer, and of the container or job that this process lives in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that can still be used without swapping, and without being killed for them.

    The least of what the computer has available and of what every control group above this process (a container, a
    Slurm job, a pod) leaves: its limit without what is used, where files that the kernel may drop do not count.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` are.

    Returns
    -------
    None where nothing tells.
    """
    rooms = list(_group_rooms(root))
    # On Linux it reads /proc/meminfo, which a sandbox may hide.
    with contextlib.suppress(OSError, psutil.Error):
        rooms.append(int(psutil.virtual_memory().available))
    return min(rooms, default=None)


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
