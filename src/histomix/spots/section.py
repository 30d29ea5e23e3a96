"""ST sections and the cohort they make."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..common.naming import file_name_fault
from ..common.paths import refuse_replacing
from ..common.words import counted
from ..errors import SectionError, SlideError, UnknownSectionError
from .formats import GENOME, SHEET_IMAGE, load_format
from .readers import read_section_spots
from .sheet import SheetRow, read_sheet

if TYPE_CHECKING:
    from anndata import AnnData

    from ..slides import Slide

_log = logging.getLogger(__name__)

#: Two values of one scale that differ by more than this share are warned of, by more than the second refused.
_MPP_WARN, _MPP_REFUSE = 0.05, 0.20
_HINT_MPP = "Check that the image is the one that the spots were placed on, at its full resolution, and the column mpp"


@dataclass(frozen=True, eq=False)
class Section:
    """One ST section: its spots (and counts) and where its image is.

    ``adata`` has the spot keys as obs_names, csr counts in ``X`` (no genes when not asked for or absent) and the spot
    centres in ``obsm["spatial"]`` (n, 2), level-0 px. Sizes in um are None where neither sheet nor format tells.
    The name is that of files, see `histomix.common.naming.file_name_fault`; SectionError where it cannot be.
    ``mpp`` is the sheet's; ``spots_mpp`` (um per px of the spot coordinates) is what the spots files tell, as
    ``spots_mpp_source`` says, and serves where neither the sheet nor the image tells. ``notes`` are the reader's.
    """

    name: str
    donor: str
    adata: AnnData
    image: Path | None = None
    mpp: float | None = None
    spot_diameter_um: float | None = None
    spot_pitch_um: float | None = None
    labels: Path | None = None
    label_unit: str | None = None
    tissue: str | None = None
    site: str | None = None
    where: str = ""
    spots_mpp: float | None = None
    spots_mpp_source: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if why := file_name_fault(self.name):
            raise SectionError(
                f"a section cannot be called '{self.name}', which names files: it {why}",
                where=self.where or None,
                hint="Use letters, digits, '-' and '_'",
            )

    @property
    def keys(self) -> pd.Index:
        """Spot keys (n,)."""
        keys: pd.Index = self.adata.obs_names
        return keys

    @property
    def spots_px(self) -> np.ndarray:
        """Spot centres (n, 2) as x, y in level-0 px."""
        return np.asarray(self.adata.obsm["spatial"], dtype=np.float64)

    def slide(self) -> Slide:
        """Open the image at the sheet's mpp; without one at the image's own, and else at the one of the spots files.

        Raises
        ------
        SectionError
            The sheet names no image, or the image's mpp and that of the spots files differ by over 20 %.
        SlideError
            The image cannot be opened, or no mpp is known.
        """
        if self.image is None:
            raise SectionError(
                f"the section '{self.name}' has no image", where=self.where, hint="Fill in the column 'image'"
            )
        from ..slides import open_slide

        if self.mpp is not None or self.spots_mpp is None:
            return open_slide(self.image, self.mpp)
        try:
            slide = open_slide(self.image)
        except SlideError:  # of what is wrong with it, only a missing scale is mended by this one
            slide = open_slide(self.image, self.spots_mpp)
            slide.mpp_source = self.spots_mpp_source or "spots files"
            return slide
        try:
            _compare_mpp(slide.mpp, "the image says", self.spots_mpp, self.spots_mpp_source, self.where)
        except SectionError:
            slide.close()
            raise
        return slide


@dataclass(frozen=True)
class Cohort:
    """Sections of one sheet, read from disk each time they are asked for.

    Iteration gives Sections with their counts, one at a time.
    """

    sheet: Path
    rows: list[SheetRow]

    @staticmethod
    def of(source: Cohort | str | os.PathLike[str]) -> Cohort:
        """The cohort itself, or that of a sheet. Raises as `read_cohort`."""
        return read_cohort(source) if isinstance(source, str | os.PathLike) else source

    @property
    def names(self) -> list[str]:
        """Section names in the sheet's order."""
        return [row.section for row in self.rows]

    @property
    def donors(self) -> dict[str, str]:
        """Donor of every section, by section name."""
        return {row.section: row.donor for row in self.rows}

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Section]:
        return (_read_section(row, counts=True) for row in self.rows)

    def _repr_html_(self) -> str:
        from ..notebook import card_html

        donors = len(set(self.donors.values()))
        facts = [("sheet", self.sheet.name), ("tissue", sorted({row.tissue for row in self.rows if row.tissue}))]
        rows = [
            [row.section, row.donor, row.format, row.image.name if row.image else None, row.mpp] for row in self.rows
        ]
        lead = f"{counted(len(self), 'section')} of {counted(donors, 'donor')}"
        return card_html("Cohort", lead, facts, ("section", "donor", "format", "image", "um per px"), rows)

    def section(self, name: str, counts: bool = True) -> Section:
        """Read one section.

        The spots are the same with and without ``counts``: those that the count table, if there is one, has a row for.

        Raises
        ------
        SectionError
            There is no such section, or its files cannot be used.
        """
        return _read_section(self._row(name), counts)

    def refuse_replacing(self, folder: Path, *endings: str) -> None:
        """Refuse a folder in which files called after the sections would take the place of files of the sheet.

        Raises
        ------
        InputError
            One of the files is spots, an image, counts or labels of a section.
        """
        inputs = [getattr(row, column, None) for row in self.rows for column in ("spots", "image", "counts", "labels")]
        targets = [folder / f"{name}{ending}" for name in self.names for ending in endings]
        refuse_replacing([Path(one) for one in inputs if isinstance(one, str | os.PathLike)], targets)

    def subset(self, names: Iterable[str]) -> Cohort:
        """The cohort of the named sections only, in the order given."""
        return Cohort(self.sheet, [self._row(name) for name in names])

    def with_genome(self, genome: str) -> Cohort:
        """The cohort whose counts are of one genome, of several in its files (a xenograft): ``"GRCh38"``."""
        rows = [dataclasses.replace(row, options={GENOME: genome, **row.options}) for row in self.rows]
        return Cohort(self.sheet, rows)

    def _row(self, name: str) -> SheetRow:
        for row in self.rows:
            if row.section == name:
                return row
        near = difflib.get_close_matches(name, self.names, n=3, cutoff=0.5) or self.names[:10]
        raise UnknownSectionError(f"there is no section '{name}'", where=self.sheet, hint=f"It has {', '.join(near)}")


def read_cohort(path: str | os.PathLike[str]) -> Cohort:
    """Read a cohort sheet (CSV or YAML; columns in `histomix.spots.sheet`).

    Raises
    ------
    SheetError
        With every fault of the sheet, each naming its row and column.

    Examples
    --------
    >>> list(hm.read_cohort("sheet.csv").names)
    ['P1S1', 'P2S1', 'P3S1']
    """
    return Cohort(Path(path), read_sheet(Path(path)))


def _read_section(row: SheetRow, counts: bool) -> Section:
    options = dict(row.options)
    if row.image is not None:
        options[SHEET_IMAGE] = str(row.image)
    if row.mpp is not None and "mpp" in load_format(row.format).options:
        options.setdefault("mpp", str(row.mpp))
    spots = read_section_spots(row.spots, row.format, row.counts, counts, options)
    for note in spots.notes:
        _log.info("%s: %s", row.spots, note)
    if row.mpp is not None and spots.mpp is not None:
        _compare_mpp(row.mpp, "the sheet says", spots.mpp, spots.mpp_source, row.where)
    return Section(
        name=row.section,
        donor=row.donor,
        adata=spots.adata,
        image=row.image or spots.image,
        mpp=row.mpp,
        spot_diameter_um=row.spot_diameter_um or spots.spot_diameter_um,
        spot_pitch_um=row.spot_pitch_um or spots.spot_pitch_um,
        labels=row.labels,
        label_unit=row.label_unit,
        tissue=row.tissue,
        site=row.site,
        where=row.where,
        spots_mpp=spots.mpp,
        spots_mpp_source=spots.mpp_source,
        notes=spots.notes,
    )


def _compare_mpp(mpp: float, who: str, spots_mpp: float, source: str | None, where: str) -> None:
    ratio = max(mpp, spots_mpp) / min(mpp, spots_mpp)
    if ratio <= 1 + _MPP_WARN:
        return
    text = f"{who} {mpp:.4g} um per px, but the spots files {spots_mpp:.4g} ({source or 'as stored'})"
    if ratio > 1 + _MPP_REFUSE:
        raise SectionError(text, where=where or None, hint=_HINT_MPP)
    _log.warning("%s: %s; the former is taken", where, text)
