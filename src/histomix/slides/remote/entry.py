"""One slide in the cache of remote slides: what is noted of it, and whether it still is what was fetched."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...common.cache import content_digest, is_own


@dataclass(frozen=True)
class CacheEntry:
    """One slide in the cache: a folder with its files, a lock beside it, and a note once it is whole."""

    folder: Path
    lock: Path

    @property
    def note(self) -> Path:
        """The note that is written once the slide is whole."""
        return self.folder / "whole.json"

    def facts(self) -> dict[str, Any] | None:
        """What the note says, if all of its files are there in their sizes and were written by this user."""
        try:
            content: dict[str, Any] = json.loads(self.note.read_text())
            files = {self.folder / name: file["bytes"] for name, file in content["files"].items()}
            whole = is_own(self.note) and all(is_own(path) and path.stat().st_size == files[path] for path in files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return content if whole else None

    def altered(self, facts: Mapping[str, Any]) -> list[str]:
        """Files whose content is no longer the one that was fetched."""
        files = facts["files"].items()
        return [name for name, file in files if content_digest(self.folder / name) != file.get("digest")]

    def present(self) -> int:
        """Space taken by its files."""
        taken = 0
        for path in self.folder.rglob("*"):
            with contextlib.suppress(OSError):
                taken += path.stat().st_size if path.is_file() else 0
        return taken

    def outstanding(self) -> int:
        """Space promised to a transfer that runs and not yet taken."""
        with contextlib.suppress(OSError, ValueError):
            return max(0, int((self.folder / "promised").read_text()) - self.present())
        return 0

    def bytes(self) -> int:
        """Space taken, or promised to a transfer that runs."""
        return self.present() + self.outstanding()

    def remove(self) -> None:
        """Remove what is not locked against it (the caller holds the lock)."""
        shutil.rmtree(self.folder, ignore_errors=True)
