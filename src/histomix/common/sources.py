"""What public functions are given: one thing or several, objects or the paths where they lie."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

Source = TypeVar("Source")


def as_list(given: Source | Sequence[Source]) -> list[Source]:
    """What was given, alone or in a list or tuple, as a list; a text is one thing."""
    several = isinstance(given, Sequence) and not isinstance(given, str)
    return list(cast("Sequence[Source]", given)) if several else [cast("Source", given)]


def paths_among(given: Sequence[Any]) -> list[Path]:
    """Those of the things that are paths."""
    return [Path(one) for one in given if isinstance(one, str | os.PathLike)]
