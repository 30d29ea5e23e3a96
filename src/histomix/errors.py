"""One family of errors: each says what is wrong, where, and how to mend it.

Beside the family, an error is of Python's own kind where there is one: wrong values are a ``ValueError``, values of a
wrong type a ``TypeError``, absent files a ``FileNotFoundError``, unknown names a ``KeyError``, absent libraries an
``ImportError``, and what the disk or the network refuses is an ``OSError``. So a handler of one of these, around code
that raises errors of the family, must let the family pass first.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from .extras import mending


class HistomixError(Exception):
    """Base of every error that histomix raises on purpose.

    Parameters
    ----------
    what
        What is wrong, as a sentence without a final stop.
    where
        The file (and row, column or place in it) that the error is about.
    hint
        What the user can do about it, as a sentence without a final stop.
    """

    #: Attributes that Python's own kind of the error keeps outside ``__dict__``; they are pickled too.
    _kept: ClassVar[tuple[str, ...]] = ()

    def __init__(self, what: str, *, where: str | os.PathLike[str] | None = None, hint: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else os.fspath(where)
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        # A list of details ends its own lines.
        text = text if text.endswith("\n") else f"{text}. " if self.hint else f"{text}."
        return f"{text}{self.hint}." if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        # Not by the constructor, whose arguments differ from class to class.
        state = self.__dict__ | {name: getattr(self, name) for name in self._kept}
        return _restored, (type(self), self.args), state

    def __setstate__(self, state: Mapping[str, Any] | None) -> None:
        for name, value in (state or {}).items():
            setattr(self, name, value)


def _restored(kind: type[HistomixError], args: tuple[Any, ...]) -> HistomixError:
    # By that of Python's kinds which holds most: only its ``__new__`` may make the others. Of kinds that hold no more
    # than any exception, MemoryError's makes its own kind alone.
    own: Any = max(
        (base for base in kind.__mro__ if base.__module__ == "builtins"),
        key=lambda base: (base.__basicsize__, base is Exception),
    )
    error: HistomixError = own.__new__(kind, *args)
    error.args = args
    return error


class InputError(HistomixError, ValueError):
    """The user's data or arguments cannot be used. Found before work began, the command line exits with 2."""


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that is needed is not there."""

    _kept = ("errno", "strerror", "filename")

    def __init__(self, what: str, *, where: str | os.PathLike[str] | None = None, hint: str | None = None) -> None:
        super().__init__(what, where=where, hint=hint)
        self.errno, self.strerror, self.filename = errno.ENOENT, what, self.where


def missing_of(kind: type[InputError]) -> type[MissingFileError]:
    """The error for an absent file in the family of ``kind``: ``MissingLabelError`` of ``LabelError``."""
    return next(one for one in kind.__subclasses__() if issubclass(one, MissingFileError))


class UnknownNameError(InputError, KeyError):
    """Nothing has the name that was given."""


class InputTypeError(InputError, TypeError):
    """A value is of a type that cannot be used, whatever it holds."""


class SheetError(InputError):
    """A cohort sheet has faults; ``problems`` lists every one of them with its row and column."""

    def __init__(self, problems: list[str], *, where: str | os.PathLike[str]) -> None:
        self.problems = list(problems)
        count = "1 fault" if len(self.problems) == 1 else f"{len(self.problems)} faults"
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"the cohort sheet has {count}:{lines}", where=where, hint="Mend the sheet and run again")

    def __str__(self) -> str:
        return f"{self.where}: {self.what}\n{self.hint}."


class MissingSheetError(SheetError, MissingFileError):
    """There is no such sheet."""


class SlideError(InputError):
    """A slide cannot be opened, or lacks a fact (such as mpp) that it needs."""


class SlideReadError(SlideError):
    """Pixels of an open slide cannot be decoded; the message names the place in level-0 px."""


class MissingSlideError(SlideError, MissingFileError):
    """There is no such slide."""


class SectionError(InputError):
    """The spots or the counts of a section cannot be used."""


class MissingSectionError(SectionError, MissingFileError):
    """A file of a section is not there."""


class UnknownSectionError(SectionError, UnknownNameError):
    """The cohort has no section of that name."""


class AlignmentError(SectionError):
    """The spots do not lie where the tissue of the image is."""


class LabelError(InputError):
    """Abundance labels, or the reference they come from, cannot be used."""


class MissingLabelError(LabelError, MissingFileError):
    """A file of labels, or of the reference they come from, is not there."""


class UnknownMethodError(LabelError, UnknownNameError):
    """No way of labelling has that name."""


class EncoderError(InputError):
    """An encoder is unknown, or its weights are missing, gated, truncated or of another architecture."""


class MissingEncoderError(EncoderError, MissingFileError):
    """An encoder's card or weights are not where they are said to be."""


class UnknownEncoderError(EncoderError, UnknownNameError):
    """No encoder has that name."""


class FeatureError(InputError):
    """Stored features are missing, damaged, or not what a head or a cohort expects."""


class MissingFeatureError(FeatureError, MissingFileError):
    """There is no such file of features."""


class HeadError(InputError):
    """A head cannot be trained, loaded or applied."""


class MissingHeadError(HeadError, MissingFileError):
    """There is no head in that place, or a file of it is not there."""


class UnknownHeadError(HeadError, UnknownNameError):
    """No head of that name is in this version."""


class HeadTypeError(HeadError, InputTypeError):
    """What a head is given is of a type that it cannot use."""


class MapError(InputError):
    """A composition map is damaged, was made by a newer histomix, or is none."""


class MissingMapError(MapError, MissingFileError):
    """There is no composition map in that place."""


class DownloadError(HistomixError, ConnectionError):
    """A public file could not be brought here; what has arrived is kept, and the same call goes on from there."""


class MissingDownloadError(DownloadError, FileNotFoundError):
    """There is no such file at the address."""


class RefusedDownloadError(DownloadError, PermissionError):
    """The server asks for credentials, or does not give the file to these."""


class TooLargeError(DownloadError):
    """A file is larger than it may be here; nothing of it was kept."""


class MissingExtraError(HistomixError, ImportError):
    """A library that belongs to an optional extra is not installed, or cannot be on this Python."""

    _kept = ("name",)

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the library {library}, which is not installed",
            hint=mending(extra),
        )
        self.name = library


class StorageError(HistomixError, OSError):
    """A result could not be written (disk full, no permission); nothing half-written was left."""


class OutOfMemoryError(HistomixError, MemoryError):
    """Something takes more memory than there is; the message says what would have been enough."""


class ClusterError(HistomixError, ConnectionError):
    """A cluster cannot be reached, or lost its scheduler; what its workers finished is kept."""


class ScaleWarning(UserWarning):
    """Pixels were asked for at a finer scale than the slide has, so they are interpolated."""


def origins(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that it came from, by ``raise ... from`` or while another was handled, each once.

    Libraries that keep errors and raise them again may close the chain to a circle.
    """
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__context__, one.__cause__]
