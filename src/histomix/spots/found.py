"""What a folder of one's own data holds: sections, each once, with what each lacks."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import ne
from pathlib import Path

import numpy as np

from ..common.naming import file_key, safe_file_name
from ..errors import HistomixError, SlideError
from ..progress import tell, told
from .alignment.extent import outside
from .beside import Named, is_slide, is_table, stem_of
from .describe import describe_result, is_image
from .formats import SHEET_IMAGE, find_format, split_location
from .formats.base import Description
from .inspect import (
    OF_SPACE_RANGER,
    images_near,
    section_name,
    section_of,
)
from .readers import read_section_spots
from .single_cells import describe_single_cells

#: Files and folders that are looked at; more are told and left alone.
_MOST = 20_000
_DEPTH = 6
#: Share of the spots of a section that must lie on its image.
_ON_IMAGE = 0.5
#: Of several tables of the places of one section, that which is called so.
_PLACES = re.compile(r"spot|position|coordinate|selection", re.IGNORECASE)
#: What a section has too many of, or of an unknown kind, in the words of `tables_of`.
_UNSURE = re.compile(r"which of \d+ tables|the unit of the labels")
#: A table of this name is one of signatures.
_REFERENCE = re.compile(r"reference|signature", re.IGNORECASE)
#: A row of a sheet.
Row = Mapping[str, str]


@dataclass
class Found:
    """What a folder holds, by kind."""

    described: list[tuple[Path, Description]] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)
    references: list[Path] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)

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
        owners = {image: file_key(stem_of(image)) for image in self.images}
        own = {file_key(section_name(path)) for path, _ in self.described}
        images, tables, below = Named(self.images), Named(self.tables), self._below()
        for path, described in told("look at sections", self.described):
            near = images.within(partial(_may_be_of, file_key(section_name(path)), owners, own, below(path, root)))
            inspections.append(section_of(path, described, near, tables.within(partial(ne, path))))
        rows = self._without_borrowed([dict(one.rows[0]) for one in inspections])
        once = self._once([(row, one.description) for row, one in zip(rows, inspections, strict=True)], root)
        lacking = [(row, _lacks(row, described)) for row, described in told("look at images (sections)", once)]
        kept = self._told_apart(lacking, root)
        called = {row["spots"]: row["section"] for row, _ in kept}
        for row, described in once:
            unsure = [text for text in described.missing if _UNSURE.match(text) and row["spots"] in called]
            self.undecided += [f"{called[row['spots']]}: {_from(root, text, row['section'])}" for text in unsure]
        return kept

    def _below(self) -> Callable[[Path, Path], Collection[Path]]:
        """What gives the images in the nearest folder at or above a section that has any: its own, before all."""
        every, by_folder = set(self.images), dict[Path, set[Path]]()
        for image in self.images:
            for folder in image.parents:
                by_folder.setdefault(folder, set()).add(image)

        def below(path: Path, root: Path) -> Collection[Path]:
            place = path if path.is_dir() else path.parent
            while place != root and place != place.parent:
                if place in by_folder:
                    return by_folder[place]
                place = place.parent
            return every

        return below

    def _without_borrowed(self, rows: list[dict[str, str]]) -> list[dict[str, str]]:
        """Rows whose image is not by its name another section's."""
        users = Counter(row["image"] for row in rows)
        for image in [image for image, number in users.items() if image and number > 1]:
            named = [row for row in rows if row["image"] == image and Named([Path(image)]).after(row["section"])]
            for row in rows:
                if named and row["image"] == image and row not in named:
                    row["image"] = ""
        return rows

    def _once(self, rows: list[tuple[Row, Description]], root: Path) -> list[tuple[Row, Description]]:
        """Each section once: tables of one name with the same counts or image are of one section (spots, clusters)."""
        kept: list[tuple[Row, Description]] = []
        files: set[tuple[str, ...]] = set()  # of the sections that are kept
        for row, described in sorted(rows, key=lambda one: not _PLACES.search(str(place_of(one[0], root)))):
            named = file_key(row["section"]), file_key(row["format"])
            own = {(*named, kind, row[kind]) for kind in ("counts", "image") if row.get(kind)}
            if own & files:
                place = place_of(row, root)
                self.passed_over.append(f"{place}: by its name and its files another table of places of a section")
            else:
                files |= own
                kept.append((row, described))
        return kept

    def _told_apart(self, rows: list[tuple[Row, list[str]]], root: Path) -> list[tuple[Row, list[str]]]:
        names = Counter((file_key(row["section"]), row["format"]) for row, _ in rows)
        alike = {format for (_, format), number in names.items() if number > 1}  # their folders tell them apart
        kept: list[tuple[Row, list[str]]] = []
        taken: dict[str, Row] = {}
        for row, why in sorted(rows, key=lambda one: (len(one[0]["section"]), not one[0].get("counts"), len(one[1]))):
            place = place_of(row, root)
            other = next((taken[start] for start in _starts(row["section"]) if _extends(row, taken.get(start))), None)
            if other is not None:
                self.passed_over.append(f"{place}: by its name another table of places of {other['section']}")
                continue
            if row["format"] in alike:
                above = [part for part in place.parts[:-1] if part not in OF_SPACE_RANGER]
                if above and row["section"] != above[0]:
                    longer = "_".join(re.sub(r"[^\w-]+", "_", part).strip("_") for part in (*above, row["section"]))
                    row = {
                        **row,
                        "section": safe_file_name(longer if above[-1:] != [row["section"]] else "_".join(above)),
                    }
            if file_key(row["section"]) in taken:
                self.passed_over.append(f"{place}: its section was found elsewhere as well")
                continue
            taken[file_key(row["section"])] = row
            kept.append((row, why))
        return sorted(kept, key=lambda one: _natural(one[0]["section"]))


def _from(root: Path, text: str, section: str) -> str:
    """Words on a section's files in general: paths from the root on, with * for the section, alike for all sections."""
    return text.replace(f"{root}{os.sep}", "").replace(section, "*")


def _may_be_of(
    section: str, owners: Mapping[Path, str], sections: Collection[str], near: Collection[Path], image: Path
) -> bool:
    """Whether an image that lies near a section may be its own: it is not by its name another's."""
    return image in near and (owners[image] == section or owners[image] not in sections)


def _starts(section: str) -> list[str]:
    """Names, as `file_key` has them, of which a section may be another table: what stands before a mark in its own."""
    name = file_key(section)
    ends = [mark.start() for mark in re.finditer(r"[_. -]", name)]
    return [name[:end] for end in ends if not name[end + 1 :].isdecimal()]


def _extends(row: Row, other: Row | None) -> bool:
    """Whether a spots file whose name begins with a section's, and that has no counts of its own, is its table too."""
    return other is not None and row.get("counts") in (None, other.get("counts"))


def _lacks(row: Row, described: Description) -> list[str]:
    """What keeps a row from being used: an image, and its scale where neither it nor the spots tell it."""
    from ..slides import open_slide

    if not row["image"]:
        told = [text for text in described.missing if "image" in text.split("(")[0] or "WSI" in text]
        return [next((text for text in told if "which image" in text), "its image (full resolution)")]
    image = Path(row["image"])
    unscaled = "um per px of its image (column mpp), which the image does not say"
    try:
        with open_slide(image) as slide:
            unscaled, size = "", (slide.width_px, slide.height_px)
    except SlideError:
        try:
            with open_slide(image, 1.0) as slide:
                size = (slide.width_px, slide.height_px)
        except SlideError as damage:
            return [f"an image that can be read: {image.name} {damage.what}"]
    try:
        place, options = split_location(row["spots"])
        spots = read_section_spots(place, row["format"], options={**options, SHEET_IMAGE: row["image"]})
    except HistomixError as error:
        return [f"spots that can be read: it {error.what}"]
    off = outside(np.asarray(spots.adata.obsm["spatial"], float), size)
    if len(off) and off.mean() > 1 - _ON_IMAGE:
        return [
            f"the image that its spots were placed on (full resolution): {100 * (1 - off.mean()):.0f} % of them lie on"
            f" {image.name}, {size[0]:,} x {size[1]:,} px"
        ]
    return [unscaled] if unscaled and not row.get("mpp") and spots.mpp is None else []


def place_of(row: Row, root: Path) -> Path:
    """Where the spots of a row are, from the root on if they are below it."""
    resolved, top = Path(row["spots"].partition("#")[0]).resolve(), root.resolve()
    return resolved.relative_to(top) if resolved.is_relative_to(top) else resolved


def _natural(name: str) -> list[tuple[int, str]]:
    """Orders A2 before A10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def walk(folder: Path, found: Found, depth: int = _DEPTH) -> Iterator[Path]:
    """Every file and folder at most `_DEPTH` levels down that is not part of a thing of its own."""
    seen = listed = 0
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
        listed += len(entries)
        for item in entries:
            tell("look at files", seen, listed)
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
