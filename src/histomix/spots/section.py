"""ST sections and the cohort they make."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..errors import SectionError
from .readers import GEOMETRY, read_section_spots
from .sheet import SheetRow, read_sheet

if TYPE_CHECKING:
    from anndata import AnnData

    from ..slides import Slide


@dataclass(frozen=True, eq=False)
class Section:
    """One ST section: its spots (and counts) and where its image is.

    ``adata`` has the spot keys as obs_names, csr counts in ``X`` (no genes when not asked for or absent) and the spot
    centres in ``obsm["spatial"]`` (n, 2), level-0 px. Sizes in um are None where neither sheet nor format tells.
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

    @property
    def keys(self) -> pd.Index:
        """Spot keys (n,)."""
        return self.adata.obs_names

    @property
    def spots_px(self) -> np.ndarray:
        """Spot centres (n, 2) as x, y in level-0 px."""
        return np.asarray(self.adata.obsm["spatial"], dtype=np.float64)

    def slide(self) -> Slide:
        """Open the image at the sheet's mpp (or, without one, at the file's own).

        Raises
        ------
        SectionError
            The sheet names no image.
        SlideError
            The image cannot be opened, or no mpp is known.
        """
        if self.image is None:
            raise SectionError(
                f"the section '{self.name}' has no image", where=self.where, mend="Fill in the column 'image'"
            )
        from ..slides import open_slide

        return open_slide(self.image, self.mpp)


@dataclass(frozen=True)
class Cohort:
    """Sections of one sheet, read from disk each time they are asked for.

    Iteration gives Sections with their counts, one at a time.
    """

    sheet: Path
    rows: list[SheetRow]

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

    def section(self, name: str, counts: bool = True) -> Section:
        """Read one section.

        The spots are the same with and without ``counts``: those that the count table, if there is one, has a row for.

        Raises
        ------
        SectionError
            There is no such section, or its files cannot be used.
        """
        return _read_section(self._row(name), counts)

    def subset(self, names: Iterable[str]) -> Cohort:
        """The cohort of the named sections only, in the order given."""
        return Cohort(self.sheet, [self._row(name) for name in names])

    def _row(self, name: str) -> SheetRow:
        for row in self.rows:
            if row.section == name:
                return row
        near = difflib.get_close_matches(name, self.names, n=3, cutoff=0.5) or self.names[:10]
        raise SectionError(f"there is no section '{name}'", where=self.sheet, mend=f"It has {', '.join(near)}")


def read_cohort(path: str | Path) -> Cohort:
    """Read a cohort sheet (CSV or YAML; columns in `histomix.spots.sheet`).

    Raises
    ------
    SheetError
        With every fault of the sheet, each naming its row and column.
    """
    return Cohort(Path(path), read_sheet(path))


def _read_section(row: SheetRow, counts: bool) -> Section:
    diameter_um, pitch_um = GEOMETRY.get(row.format, (None, None))
    return Section(
        name=row.section,
        donor=row.donor,
        adata=read_section_spots(row.spots, row.format, row.counts, counts),
        image=row.image,
        mpp=row.mpp,
        spot_diameter_um=row.spot_diameter_um or diameter_um,
        spot_pitch_um=row.spot_pitch_um or pitch_um,
        labels=row.labels,
        label_unit=row.label_unit,
        tissue=row.tissue,
        site=row.site,
        where=row.where,
    )
