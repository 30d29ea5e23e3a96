"""One family of errors: each says what is wrong, where, and how to mend it."""

from __future__ import annotations

import os

from .extras import mending


class HistomixError(Exception):
    """Base of every error that histomix raises on purpose.

    Parameters
    ----------
    what
        What is wrong, as a sentence without a final stop.
    where
        The file (and row, column or place in it) that the error is about.
    mend
        What the user can do about it, as a sentence without a final stop.
    """

    def __init__(self, what: str, *, where: str | os.PathLike[str] | None = None, mend: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else os.fspath(where)
        self.mend = mend
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        # A list of details ends its own lines.
        text = text if text.endswith("\n") else f"{text}. " if self.mend else f"{text}."
        return f"{text}{self.mend}." if self.mend else text


class InputError(HistomixError):
    """The user's data or arguments cannot be used. Found before work began, the command line exits with 2."""


class SheetError(InputError):
    """A cohort sheet has faults; ``problems`` lists every one of them with its row and column."""

    def __init__(self, problems: list[str], *, where: str | os.PathLike[str]) -> None:
        self.problems = list(problems)
        count = "1 fault" if len(self.problems) == 1 else f"{len(self.problems)} faults"
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"the cohort sheet has {count}:{lines}", where=where, mend="Mend the sheet and run again")

    def __str__(self) -> str:
        return f"{self.where}: {self.what}\n{self.mend}."


class SlideError(InputError):
    """A slide cannot be opened, or lacks a fact (such as mpp) that it needs."""


class SlideReadError(SlideError):
    """Pixels of an open slide cannot be decoded; the message names the place in level-0 px."""


class SectionError(InputError):
    """The spots or the counts of a section cannot be used."""


class AlignmentError(SectionError):
    """The spots do not lie where the tissue of the image is."""


class LabelError(InputError):
    """Abundance labels, or the reference they come from, cannot be used."""


class EncoderError(InputError):
    """An encoder is unknown, or its weights are missing, gated, truncated or of another architecture."""


class FeatureError(InputError):
    """Stored features are missing, damaged, or not what a head or a cohort expects."""


class HeadError(InputError):
    """A head cannot be trained, loaded or applied."""


class DownloadError(HistomixError):
    """A public file could not be brought here; what has arrived is kept, and the same call goes on from there."""


class MissingExtraError(HistomixError):
    """A library that belongs to an optional extra is not installed, or cannot be on this Python."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the library {library}, which is not installed",
            mend=mending(extra),
        )


class StorageError(HistomixError):
    """A result could not be written (disk full, no permission); nothing half-written was left."""


class ClusterError(HistomixError):
    """A cluster cannot be reached, or lost its scheduler; what its workers finished is kept."""


class ScaleWarning(UserWarning):
    """Pixels were asked for at a finer scale than the slide has, so they are interpolated."""
