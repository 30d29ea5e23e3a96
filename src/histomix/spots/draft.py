"""A cohort sheet drafted from a folder of one's own data: what was found, what was guessed, and what is missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common.naming import visible
from ..common.words import counted
from ..errors import InputError, MissingFileError
from ..progress import Progress, progress_bars
from .donor_names import guess_donors
from .found import Found, Row, place_of, walk
from .inspect import (
    OF_SPACE_RANGER,
    columns_of,
    new_sheet,
)
from .sheet_text import REMARK, csv_text

_SHOWN = 5


@dataclass(frozen=True)
class SheetDraft:
    """What `draft_sheet` found.

    Attributes
    ----------
    path
        The sheet.
    rows
        Rows that can be used as they are, with absolute paths.
    lacking
        Rows that stand in the sheet as remarks, each with what is missing.
    guesses
        What was guessed, as sentences without a final stop.
    references
        Files that may be the reference of the cell types.
    passed_over
        Files that were not used, with the reason.
    undecided
        Columns that stay empty because a person has to choose, each with its section.
    """

    path: Path
    rows: tuple[Row, ...]
    lacking: tuple[tuple[Row, str], ...]
    guesses: tuple[str, ...]
    references: tuple[Path, ...] = ()
    passed_over: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()

    def text(self) -> str:
        """The draft in words, for a terminal."""
        donors = {row["donor"] for row in self.rows}
        lines = [f"{counted(len(self.rows), 'section')} of {counted(len(donors), 'donor')}"]
        for row in self.rows:
            facts = [f"{name} {Path(row[name]).name}" for name in ("image", "counts", "labels") if row.get(name)]
            facts += [f"{row['mpp']} um per px"] if row.get("mpp") else []
            lines.append(f"  {row['section']}: donor {row['donor']}, {', '.join([row['format'], *facts])}")
        for title, sentences in (
            ("Guessed, to be checked", self.guesses),
            (
                f"Missing, in the sheet as remarks ({REMARK}): fill them in and remove the {REMARK}",
                _grouped([f"{row['section']}: {why}" for row, why in self.lacking]),
            ),
            ("Left for you to choose, in the columns counts, labels and label_unit", _grouped(self.undecided)),
            ("Passed over", _grouped(self.passed_over)),
        ):
            if sentences:
                lines += ["", f"{title}:", *(f"  - {sentence}" for sentence in sentences)]
        return "\n".join(lines)


def draft_sheet(
    folder: str | os.PathLike[str], out: str | os.PathLike[str], *, progress: Progress | bool = True
) -> SheetDraft:
    """Write a cohort sheet of the sections in a folder, with the images, counts and labels that belong to them by name.

    Paths in the sheet are relative to it. What is guessed (donors, um per px by the pitch of the spots) stands in the
    sheet as a remark. A section that lacks an image or a scale stands there as a remark too, which `read_cohort`
    passes over.

    Parameters
    ----------
    folder
        Is searched at any depth.
    out
        The sheet (CSV). An earlier one is never replaced, as it may have been mended by hand.
    progress
        Told of the files, and then of the sections, that were looked at; see `histomix.progress.progress_bars`.

    Raises
    ------
    InputError
        The folder is absent or holds no section, or ``out`` is there already.
    StorageError
        The sheet cannot be written.

    Examples
    --------
    >>> draft = hm.draft_sheet("clinic", "clinic.csv")
    >>> [row["section"] for row in draft.rows]
    ['P1S1']
    """
    root, sheet = Path(folder), Path(out)
    if not root.is_dir():
        raise MissingFileError("there is no such folder", where=root, hint="Name the folder that your data is in")
    if sheet.exists():
        raise InputError(
            "is there already, and may have been mended by hand", where=sheet, hint="Choose another --out, or remove it"
        )
    found = Found()
    with progress_bars(progress):
        for path in walk(root, found):
            found.take(path, root)
        sections = found.sections(root)
    if not sections:
        seen = "; ".join(found.passed_over[:_SHOWN]) or f"{counted(len(found.images), 'image')}, no spots"
        raise InputError(
            f"holds no section of spatial transcriptomics ({seen})",
            where=root,
            hint="Name a folder with Space Ranger outputs, .h5ad or spots files; histomix inspect says what a file is",
        )
    rows, guesses = _with_donors(sections, root)
    usable = [row for row, why in rows if not why]
    lacking = [(row, "; ".join(why)) for row, why in rows if why]
    measured = [row["section"] for row in usable if row.get("mpp") and row["format"] == "st"]
    if measured:
        guesses.append(
            f"um per px by the pitch of the spots ({', '.join(measured[:_SHOWN])}{', ...' * (len(measured) > _SHOWN)})"
        )
    draft = SheetDraft(
        *(sheet, tuple(usable), tuple(lacking), tuple(guesses), tuple(found.references), tuple(found.passed_over)),
        undecided=tuple(found.undecided),
    )
    new_sheet(sheet, _sheet_text(draft))
    return draft


def _grouped(sentences: Sequence[str]) -> list[str]:
    """Files with one reason on one line."""
    groups: dict[str, list[str]] = {}
    for sentence in sentences:
        name, _, why = sentence.partition(": ")
        groups.setdefault(why, []).append(name)
    return [
        f"{', '.join(names[:2])}{f' and {len(names) - 2} more' if len(names) > 2 else ''}: {why}"
        for why, names in groups.items()
    ]


def _sheet_text(draft: SheetDraft) -> str:
    """The header, the rows, and below them as remarks what is missing and what was guessed."""
    folder = draft.path.parent
    columns = columns_of([*draft.rows, *(row for row, _ in draft.lacking)])
    columns += [] if "mpp" in columns or not draft.lacking else ["mpp"]
    lines = [csv_text(draft.rows, columns, folder)]
    for row, why in draft.lacking:
        lines.append(f"{REMARK} {visible(row['section'])}, missing: {visible(why, 2000)}\n")
        lines.append(f"{REMARK}{csv_text([row], columns, folder, header=False)}")
    lines += [f"{REMARK} guessed: {visible(guess, 2000)}\n" for guess in draft.guesses]
    return "".join(lines)


def _with_donors(rows: Sequence[tuple[Row, list[str]]], root: Path) -> tuple[list[tuple[Row, list[str]]], list[str]]:
    unknown = [row for row, _ in rows if not row["donor"]]
    if not unknown:
        return list(rows), []
    guess = guess_donors({row["section"]: _folder_of(row, root) for row in unknown})
    return [({**row, "donor": row["donor"] or guess.donors[row["section"]]}, why) for row, why in rows], [guess.words]


def _folder_of(row: Row, root: Path) -> str:
    """The folder around the folder of a section, where there is one below the root."""
    parts = [part for part in place_of(row, root).parts if part not in OF_SPACE_RANGER]
    return parts[-2] if len(parts) > 1 else ""
