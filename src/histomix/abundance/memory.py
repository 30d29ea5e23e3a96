"""Whether a fit has room, said before it begins."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import InputError


def available_memory() -> int | None:
    """Bytes that can be used without swapping; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        # All of it, where nothing tells what is free: only what can never fit is refused.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def refuse_without_room(needed: int, what: str, mend: str) -> None:
    """Raise InputError if ``needed`` bytes are not available."""
    available = available_memory()
    if available is not None and needed > available:
        raise InputError(
            f"{what} needs about {needed / 1e9:.2g} GB of memory, and {available / 1e9:.2g} GB are available",
            mend=mend,
        )
