"""What every format of spatial data offers: a cheap look, a reading, and a description in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd
from scipy import sparse

from ...errors import SectionError

if TYPE_CHECKING:
    from anndata import AnnData

#: Options of a reading, as text by name: what follows the ``#`` of a location (``outs#bin_um=8``).
Options = Mapping[str, str]
#: What is said of AnnData that cannot be read, and what may mend it.
UNREADABLE = ("cannot be read as h5ad", "Check that the file is whole, or write it again with a current anndata")
#: The option under which a section passes on the image that its sheet names, as a path; never written by users.
SHEET_IMAGE = "sheet_image"
#: The option of every format that names one genome, of counts of several.
GENOME = "genome"


@dataclass(frozen=True, eq=False)
class SpotFile:
    """The spots of one section, as its files tell them.

    Attributes
    ----------
    adata
        obs_names = spot keys (unique text), ``obsm["spatial"]`` (n, 2) float64 spot centres in level-0 px of the image,
        ``X`` csr float32 counts (no genes when not asked for or absent), obs ``array_x``, ``array_y`` where there are
        array coordinates, in which neighbours are one unit apart.
    mpp, mpp_source
        um per px of ``obsm["spatial"]`` as the files tell it, and how they do. The sheet's value and the image's own
        come first.
    spot_diameter_um, spot_pitch_um
        Size of a spot (side, where spots are squares) and distance of neighbours; None where unknown.
    image
        The image that the format itself names, if any; the sheet's comes first.
    notes
        What the user should know about this reading, as sentences without a final stop.
    """

    adata: AnnData
    mpp: float | None = None
    mpp_source: str | None = None
    spot_diameter_um: float | None = None
    spot_pitch_um: float | None = None
    image: Path | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Description:
    """What a file or folder is, in plain words.

    Attributes
    ----------
    what
        The kind of thing, as a noun phrase.
    contents, missing
        What is in it, and what is not but would be needed or useful; sentences without a final stop.
    row
        Cells of the cohort sheet that are known (``spots``, ``format``, ``image``, ``counts``, ``mpp``, ...); empty for
        a thing that is no section.
    """

    what: str
    contents: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    row: Mapping[str, str] = field(default_factory=dict)


class Format(Protocol):
    """One format of spatial data. Instances have no state; heavy libraries are imported in the methods."""

    name: str
    #: Known options, with what each means.
    options: Mapping[str, str]

    def matches(self, path: Path) -> bool:
        """Whether ``path`` looks like this format, by names and a first line; never raises for strange files."""

    def read(self, path: Path, with_counts: bool, options: Options) -> SpotFile:
        """Read the spots (and counts).

        Raises
        ------
        SectionError
            The files cannot be used; says which, why, and how to mend it.
        MissingExtraError
            A library of an extra is needed.
        """

    def describe(self, path: Path, options: Options) -> Description:
        """Say what is there; what can be told without reading counts.

        Raises
        ------
        SectionError
            The files are too damaged to be described.
        """


def require_unique(keys: pd.Index, path: Path) -> None:
    """Raise SectionError when a spot key occurs more than once."""
    if not keys.is_unique:
        key = keys[keys.duplicated()][0]
        raise SectionError(f"has the spot '{key}' more than once", where=path, hint="Keep one row per spot")


def no_counts(spots: int, genes: int = 0) -> sparse.csr_matrix:
    """An empty count matrix."""
    parts = np.empty(0, np.float32), np.empty(0, np.int32), np.zeros(spots + 1, np.int32)
    return sparse.csr_matrix(parts, shape=(spots, genes))


def spots_only(obs: pd.DataFrame, xy_px: np.ndarray) -> AnnData:
    """Spots without counts, as AnnData; ``obs`` is indexed by the spot keys."""
    from anndata import AnnData

    return AnnData(X=no_counts(len(obs)), obs=obs, obsm={"spatial": np.asarray(xy_px, dtype=np.float64)})
