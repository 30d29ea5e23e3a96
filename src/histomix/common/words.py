"""Numbers and nouns in sentences."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """``counted(1200, "spot")`` is ``"1,200 spots"``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
