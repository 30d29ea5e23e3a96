"""Results of another version of histomix: a layout newer than the known one is refused, never guessed at."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..errors import InputError

#: Of a composition map's layout; raised when an older version would misread it.
MAP_FORMAT = 1


def refuse_newer(
    facts: Mapping[str, Any],
    known: int,
    what: str,
    where: str | os.PathLike[str] | None,
    error: type[InputError] = InputError,
) -> None:
    """Refuse a result whose ``format`` is newer than ``known``; one that has no format is older than formats.

    Parameters
    ----------
    facts
        The manifest or card of the result.
    known
        The newest format that this version reads.
    what
        The result in words, such as ``"the head was"``.
    where, error
        The file, and the error to raise.

    Raises
    ------
    InputError
        Or ``error``: the format is newer.
    """
    number = facts.get("format")
    if isinstance(number, int) and number > known:
        versions = facts.get("versions")
        maker = facts.get("histomix") or (versions.get("histomix") if isinstance(versions, Mapping) else None)
        raise error(
            f"{what} made by a newer histomix ({maker}): its format is {number}, and this version reads {known}",
            where=where,
            hint="Upgrade histomix",
        )
