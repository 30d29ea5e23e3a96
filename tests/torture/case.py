"""What a case is, and what may come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from .materials import Materials

#: Changes a file in place; the generator is the case's own.
Damage = Callable[[Path, np.random.Generator], None]

#: The right result, and nothing else.
RIGHT = "right"
#: A clear error, and nothing else.
ERROR = "error"
#: The right result, or a clear error.
EITHER = "either"
#: The right result, a clear error, or a word of what was left out, after which numbers are of the rest: sums over what
#: a table holds (cells in a tile) are other sums then.
TOLD = "told"
#: No reader can tell what was changed: a result of any value, or a clear error.
UNTOLD = "untold"

KINDS = ("right", "right error", "unclear", "traceback", "crash", "hang", "silent wrong", "lost work")
#: What no input may lead to.
NEVER = KINDS[3:]


@dataclass(frozen=True)
class Role:
    """An input with the command that reads it.

    Parameters
    ----------
    name
        Of the role; its undamaged result is made once.
    file
        What is damaged, relative to the room (the folder of one case).
    make
        Writes the whole, undamaged input into an empty room.
    argv
        The command, run in the room.
    result
        Numbers that the command gave, one row for each spot, tile, ...; they must be those of the whole input.
    kept
        Numbers that must be there where work began, even if the file is refused.
    names
        What an error may call the file by, beside its own name.
    """

    name: str
    file: str
    make: Callable[[Path, Materials], object]
    argv: Callable[[Path, Materials], list[str]]
    result: Callable[[Path], pd.DataFrame]
    kept: Callable[[Path], pd.DataFrame] | None = None
    names: tuple[str, ...] = ()
    tolerance: float = 1e-3


@dataclass(frozen=True)
class Case:
    """A role, its damage, and what must happen."""

    name: str
    role: Role
    damage: Damage
    expect: str = EITHER


@dataclass(frozen=True)
class Outcome:
    """What came of a case: one of `KINDS`, in words why, and in how many seconds."""

    case: Case
    kind: str
    detail: str = ""
    seconds: float = 0.0
    told: frozenset[str] = field(default_factory=frozenset)


def nothing(_path: Path, _rng: np.random.Generator) -> None:
    """No damage: the whole input gives the right result."""


def cases_of(role: Role, damages: Iterable[tuple[str, Damage, str]]) -> Iterator[Case]:
    """The undamaged role, and every damage of it."""
    yield Case(f"{role.name}/whole", role, nothing, RIGHT)
    for name, damage, expect in damages:
        yield Case(f"{role.name}/{name}", role, damage, expect)
