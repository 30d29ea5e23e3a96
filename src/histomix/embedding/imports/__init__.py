"""Features that others computed: found, read, checked, and matched to spots; one small reader a format."""

from __future__ import annotations

from .store import import_features

__all__ = ["import_features"]
