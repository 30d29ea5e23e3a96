"""A cohort sheet drafted from a folder of one's own data: what was found, what was guessed, and what is missing."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..common.naming import file_key, safe_file_name, visible
from ..common.words import counted
from ..errors import HistomixError, InputError, MissingFileError, SlideError
from .beside import is_slide, is_table, named_after, stem_of
from .donor_names import guess_donors
from .formats import SHEET_IMAGE, find_format, split_location
from .formats.base import Description
from .inspect import (
    OF_SPACE_RANGER,
    columns_of,
    describe_result,
    images_near,
    is_image,
    new_sheet,
    section_name,
    section_of,
)
from .readers import read_section_spots
from .sheet_text import REMARK, csv_text
from .single_cells import describe_single_cells

#: Files and folders that are looked at; more are told and left alone.
_MOST = 20_000
_DEPTH = 6
_SHOWN = 5
#: A table of this name is one of signatures.
_REFERENCE = re.compile(r"reference|signature", re.IGNORECASE)
Row = Mapping[str, str]


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
    """

    path: Path
    rows: tuple[Row, ...]
    lacking: tuple[tuple[Row, str], ...]
    guesses: tuple[str, ...]
    references: tuple[Path, ...] = ()
    passed_over: tuple[str, ...] = ()

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
                [f"{row['section']}: {why}" for row, why in self.lacking],
            ),
            ("Passed over", _grouped(self.passed_over)),
        ):
            if sentences:
                lines += ["", f"{title}:", *(f"  - {sentence}" for sentence in sentences)]
        return "\n".join(lines)


def draft_sheet(folder: str | os.PathLike[str], out: str | os.PathLike[str]) -> SheetDraft:
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
    found = _Found()
    for path in _walk(root, found):
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
        sheet, tuple(usable), tuple(lacking), tuple(guesses), tuple(found.references), tuple(found.passed_over)
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


@dataclass
class _Found:
    """What a folder holds, by kind."""

    described: list[tuple[Path, Description]] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    references: list[Path] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)

    def take(self, path: Path, root: Path) -> bool:
        """Put a file or folder where it belongs; whether a folder is a thing of its own, not to be searched."""
        where = path.relative_to(root)
        try:
            if path.is_dir() and describe_result(path) is not None:
                return True
            if describe_single_cells(path) is not None:
                self.references.append(path)
                return True
            format = find_format(path)
            if format is not None:
                self.described.append((path, format.describe(path, {})))
                if path.is_dir():
                    self.images += [image for image in images_near(path) if is_slide(image)]
                return True
        except (HistomixError, OSError) as error:
            why = error.what if isinstance(error, HistomixError) else str(error.strerror)
            self.passed_over.append(f"{where}: {why}")
            return path.is_dir()
        if is_image(path):
            self.images += [path] if is_slide(path) else []
        elif path.is_file() and is_table(path) and _REFERENCE.search(path.name):
            self.references.append(path)
        elif path.is_file() and is_table(path):
            self.tables.append(path)
        return False

    def sections(self, root: Path) -> list[tuple[Row, list[str]]]:
        """Rows, each with what it lacks; of one section that is found several times, the first with counts."""
        inspections = []
        self.images = list(dict.fromkeys(self.images))  # those of a Space Ranger folder are met twice
        names = {section_name(path) for path, _ in self.described}
        owners = {image: file_key(stem_of(image)) for image in self.images}
        own = {file_key(name) for name in names}
        for path, described in self.described:
            mine = file_key(section_name(path))
            near = [image for image in self._near(path, root) if owners[image] == mine or owners[image] not in own]
            tables = [one for one in self.tables if one != path]
            inspections.append(section_of(path, described, near, tables))
        rows = self._without_borrowed([dict(one.rows[0]) for one in inspections])
        lacking = [_lacks(row, one.description) for row, one in zip(rows, inspections, strict=True)]
        return self._told_apart(list(zip(rows, lacking, strict=True)), root)

    def _near(self, path: Path, root: Path) -> list[Path]:
        """Images in the nearest folder at or above the section that has any: those of its own before those of all."""
        place = path if path.is_dir() else path.parent
        while place != root and place != place.parent:
            own = [image for image in self.images if image.is_relative_to(place)]
            if own:
                return own
            place = place.parent
        return self.images

    def _without_borrowed(self, rows: list[dict[str, str]]) -> list[dict[str, str]]:
        """Rows whose image is not by its name another section's."""
        users = Counter(row["image"] for row in rows)
        for image in [image for image, number in users.items() if image and number > 1]:
            named = [row for row in rows if row["image"] == image and named_after([Path(image)], row["section"])]
            for row in rows:
                if named and row["image"] == image and row not in named:
                    row["image"] = ""
        return rows

    def _told_apart(self, rows: list[tuple[Row, list[str]]], root: Path) -> list[tuple[Row, list[str]]]:
        names = Counter((file_key(row["section"]), row["format"]) for row, _ in rows)
        alike = {format for (_, format), number in names.items() if number > 1}  # their folders tell them apart
        kept: list[tuple[Row, list[str]]] = []
        taken: dict[str, Row] = {}
        for row, why in sorted(rows, key=lambda one: (len(one[0]["section"]), not one[0].get("counts"), len(one[1]))):
            place = Path(row["spots"].partition("#")[0])
            other = next((one for one in taken.values() if _extends(row, one)), None)
            if other is not None:
                self.passed_over.append(
                    f"{_under(place, root)}: by its name another table of places of {other['section']}"
                )
                continue
            if row["format"] in alike:
                above = [part for part in _under(place, root).parts[:-1] if part not in OF_SPACE_RANGER]
                if above and row["section"] != above[0]:
                    longer = "_".join(re.sub(r"[^\w-]+", "_", part).strip("_") for part in (*above, row["section"]))
                    row = {
                        **row,
                        "section": safe_file_name(longer if above[-1:] != [row["section"]] else "_".join(above)),
                    }
            if file_key(row["section"]) in taken:
                self.passed_over.append(f"{_under(place, root)}: its section was found elsewhere as well")
                continue
            taken[file_key(row["section"])] = row
            kept.append((row, why))
        return sorted(kept, key=lambda one: _natural(one[0]["section"]))


def _extends(row: Row, other: Row) -> bool:
    """Whether a spots file, without counts of its own, is another table of a section, by its name."""
    name, start = file_key(row["section"]), file_key(other["section"])
    return (
        row.get("counts") in (None, other.get("counts"))
        and name != start
        and re.match(rf"{re.escape(start)}[_. -](?!\d+$)", name) is not None
    )


def _lacks(row: Row, described: Description) -> list[str]:
    """What keeps a row from being used: an image, and its scale where neither it nor the spots tell it."""
    from ..slides import open_slide

    if not row["image"]:
        told = [text for text in described.missing if "image" in text.split("(")[0] or "WSI" in text]
        return [next((text for text in told if "which image" in text), "its image (full resolution)")]
    image = Path(row["image"])
    unscaled = f"um per px of {image.name} (column mpp), which its file does not say"
    try:
        with open_slide(image):
            unscaled = ""
    except SlideError:
        try:
            with open_slide(image, 1.0):
                pass
        except SlideError as damage:
            return [f"an image that can be read: {image.name} {damage.what}"]
    try:
        place, options = split_location(row["spots"])
        spots = read_section_spots(place, row["format"], options={**options, SHEET_IMAGE: row["image"]})
    except HistomixError as error:
        return [f"spots that can be read: it {error.what}"]
    return [unscaled] if unscaled and not row.get("mpp") and spots.mpp is None else []


def _with_donors(rows: Sequence[tuple[Row, list[str]]], root: Path) -> tuple[list[tuple[Row, list[str]]], list[str]]:
    unknown = [row for row, _ in rows if not row["donor"]]
    if not unknown:
        return list(rows), []
    guess = guess_donors({row["section"]: _folder_of(row, root) for row in unknown})
    return [({**row, "donor": row["donor"] or guess.donors[row["section"]]}, why) for row, why in rows], [guess.words]


def _folder_of(row: Row, root: Path) -> str:
    """The folder around the folder of a section, where there is one below the root."""
    parts = [part for part in _under(Path(row["spots"].partition("#")[0]), root).parts if part not in OF_SPACE_RANGER]
    return parts[-2] if len(parts) > 1 else ""


def _under(path: Path, root: Path) -> Path:
    resolved, top = path.resolve(), root.resolve()
    return resolved.relative_to(top) if resolved.is_relative_to(top) else resolved


def _natural(name: str) -> list[tuple[int, str]]:
    """Orders A2 before A10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _walk(folder: Path, found: _Found, depth: int = _DEPTH) -> Iterator[Path]:
    """Every file and folder at most `_DEPTH` levels down that is not part of a thing of its own."""
    seen = 0
    waiting = [(folder, depth)]
    done: set[Path] = set()
    while waiting:
        place, levels = waiting.pop(0)
        if place.resolve() in done:
            continue
        done.add(place.resolve())
        try:
            entries = sorted(item for item in place.iterdir() if not item.name.startswith("."))
        except OSError as error:
            found.passed_over.append(f"{place.relative_to(folder)}: cannot be read ({error.strerror})")
            continue
        for item in entries:
            seen += 1
            if seen > _MOST:
                found.passed_over.append(f"everything after the first {_MOST:,} files: name a smaller folder")
                return
            if item.is_dir():
                if found.take(item, folder):
                    continue
                if levels > 1:
                    waiting.append((item, levels - 1))
            else:
                yield item
