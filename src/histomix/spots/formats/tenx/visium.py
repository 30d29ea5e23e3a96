"""Space Ranger ``outs`` of a Visium section, versions 1 to 4."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from ....common.geometry.pitch import spot_pitch
from ....common.words import counted
from ....errors import SectionError
from ..base import GENOME, Description, Options, SpotFile
from .images import at_reduced_image, describe_images
from .loupe import loupe_notes
from .matrix import find_matrix, is_raw
from .positions import (
    ScaleFactors,
    bin_size,
    find_positions,
    is_positions,
    join_matrix,
    prefix_of,
    read_positions,
    read_scalefactors,
)

#: Printed spots, um (10x Genomics, Visium Spatial Gene Expression user guide).
DIAMETER_UM, PITCH_UM = 55.0, 100.0
#: ``spot_diameter_fullres`` spans a theoretical spot of 65 um (10x Genomics, Space Ranger 1.3, spatial outputs), in
#: some files the printed one.
THEORETICAL_UM = 65.0
#: Relative difference of the written spot diameter from both, beyond which the files do not belong together.
_DIAMETER_TOLERANCE = 0.03
#: Larger over smaller stretch of the lattice beyond which it is not that of Visium.
_DISTORTION = 1.1
_OF_TWO_IMAGES = "The scale factors and the positions are of two images: copy the spatial folder of this section again"
_NO_MPP = "its um per px, which the spots are too few to tell"


class Visium:
    """A Space Ranger ``outs`` folder, its ``spatial`` folder, or a positions file. Spots under tissue only."""

    name = "visium"
    options: Mapping[str, str] = {"image": "'hires' or 'lowres': coordinates in px of that reduced image"}

    def matches(self, path: Path) -> bool:
        """See `Format`."""
        _, spatial = _folders(path)
        return spatial is not None

    def read(self, path: Path, with_counts: bool, options: Options) -> SpotFile:
        """See `Format`. um per px is from the pitch of 100 um, cross-checked with the scale factors."""
        outs, spatial = self._require(path)
        positions, spots = read_tissue(path, spatial)
        factors = read_scalefactors(spatial, positions[0])
        _require_spots(positions[0], factors)
        array = lattice_positions(spots)
        obs = spots[["array_row", "array_col"]].assign(array_x=array[:, 0], array_y=array[:, 1])
        adata, notes = join_matrix(
            obs, spots[["x_px", "y_px"]].to_numpy(), positions[0], outs, with_counts, options.get(GENOME)
        )
        mpp, source = spots_mpp(positions[1], factors)
        if mpp is not None:
            notes += loupe_notes(positions[1], (spatial, outs), mpp, PITCH_UM / 2)
        whole = SpotFile(adata, mpp, source, DIAMETER_UM, PITCH_UM, notes=tuple(notes))
        return at_reduced_image(whole, spatial, factors, options, positions[0])

    def describe(self, path: Path, options: Options) -> Description:
        """See `Format`."""
        outs, spatial = self._require(path)
        (positions_path, everywhere), spots = read_tissue(path, spatial)
        factors = read_scalefactors(spatial, positions_path)
        _require_spots(positions_path, factors)
        mpp, source = spots_mpp(everywhere, factors)
        contents = [f"{counted(len(spots), 'spot')} under tissue of {len(everywhere):,}, by {positions_path.name}"]
        missing = ["the full-resolution image that Space Ranger was given (its column image)"]
        if mpp is None:
            missing.append(_NO_MPP)
        else:
            contents.append(f"about {mpp:.4g} um per px of the full-resolution image, by {source}")
        if factors is None:
            missing.append("scalefactors_json.json")
        matrix = find_matrix(outs, prefix_of(positions_path))
        if matrix is None:
            missing.append("a feature-barcode matrix, so it has no counts")
        else:
            kind = "all spots, under tissue or not" if is_raw(matrix) else "the spots under tissue"
            contents.append(f"counts of {kind}, in {matrix.name}")
        contents += describe_images(spatial, factors, mpp, positions_path)
        row = {"spots": str(path), "format": self.name}
        return Description("the Space Ranger output of one Visium section", tuple(contents), tuple(missing), row)

    def _require(self, path: Path) -> tuple[Path, Path]:
        outs, spatial = _folders(path)
        if spatial is None:
            raise SectionError(
                "holds no spatial/tissue_positions.csv or tissue_positions_list.csv",
                where=path,
                hint="Name the outs folder of Space Ranger, with its spatial folder in it",
            )
        return outs, spatial


def _folders(path: Path) -> tuple[Path, Path | None]:
    """The ``outs`` and the ``spatial`` folder that a path means; the latter None where it means none."""
    if not path.is_dir():
        outs = path.parent.parent if path.parent.name == "spatial" else path.parent
        return outs, path.parent if is_positions(path) else None
    if any(is_positions(item) for item in path.iterdir()):
        return (path.parent if path.name == "spatial" else path), path
    # A spatial folder without positions is still one, of which the reader says what it lacks.
    for outs in (path, path / "outs"):
        if (outs / "spatial").is_dir():
            return outs, outs / "spatial"
    return path, None


def read_tissue(path: Path, spatial: Path) -> tuple[tuple[Path, pd.DataFrame], pd.DataFrame]:
    """All positions (with their file), and those under tissue.

    Raises
    ------
    SectionError
        The positions cannot be read, or none is under tissue.
    """
    file = path if path.is_file() else find_positions(spatial)
    if file is None:
        raise SectionError("has no tissue_positions", where=spatial, hint="Copy the spatial folder again")
    positions = read_positions(file)
    spots = positions[positions["in_tissue"]]
    if spots.empty:
        raise SectionError("has no spot with in_tissue = 1", where=file, hint="Select the spots under the tissue")
    return (file, positions), spots


def _require_spots(positions: Path, factors: ScaleFactors | None) -> None:
    """Refuse bins of Visium HD, whose files are called as those of Visium: their distance is not that of its spots."""
    bin_um = bin_size(positions) or (factors.bin_um if factors else None)
    if bin_um is not None:
        raise SectionError(
            f"holds bins of {bin_um:g} um of Visium HD, not spots of Visium",
            where=positions,
            hint="Give the format visium-hd, or leave the column format empty",
        )


def lattice_positions(positions: pd.DataFrame) -> np.ndarray:
    """Array coordinates (n, 2) of the hexagonal lattice, in pitches: neighbours in a row are two columns apart."""
    return np.column_stack([positions["array_col"] / 2, positions["array_row"] * np.sqrt(3) / 2])


def spots_mpp(positions: pd.DataFrame, factors: ScaleFactors | None) -> tuple[float | None, str | None]:
    """Scale of the positions in um per px, and how it is known; the written spot diameter must agree with it.

    Raises
    ------
    SectionError
        The spots lie on another lattice than that of Visium, or the scale factors are those of another image.
    """
    xy_px, array = positions[["x_px", "y_px"]].to_numpy(), lattice_positions(positions)
    pitch = spot_pitch(xy_px, array)
    if pitch is not None and pitch.source == "array":
        # The pitch below is that of Visium, so that it is Visium must be seen from something else.
        stretch = lattice_stretch(xy_px, array)
        if stretch > _DISTORTION:
            raise SectionError(
                f"the spots do not lie on the hexagonal array of Visium: it would be stretched {stretch:.2f} times",
                where=factors.path if factors else None,
                hint="Give the format of these spots, or their places as a table of spot, x_px, y_px",
            )
    if pitch is None or pitch.source != "array":
        if factors is None or factors.spot_diameter_px is None:
            return None, None
        mpp = THEORETICAL_UM / factors.spot_diameter_px
        return mpp, f"the {THEORETICAL_UM:g} um of spot_diameter_fullres in {factors.path.name}"
    mpp, source = PITCH_UM / pitch.px, f"the {PITCH_UM:g} um between neighbouring spots, {pitch.px:.1f} px apart"
    if factors is not None and factors.mpp is not None and abs(mpp / factors.mpp - 1) > _DIAMETER_TOLERANCE:
        raise SectionError(
            f"says {factors.mpp:.4g} um per px, which is {mpp:.4g} by {source}", where=factors.path, hint=_OF_TWO_IMAGES
        )
    if factors is None or factors.spot_diameter_px is None:
        return mpp, source
    diameter_um = factors.spot_diameter_px * mpp
    if min(abs(diameter_um / known - 1) for known in (THEORETICAL_UM, DIAMETER_UM)) > _DIAMETER_TOLERANCE:
        raise SectionError(
            f"has a spot_diameter_fullres of {factors.spot_diameter_px:.1f} px, which is {diameter_um:.0f} um by "
            f"{source} (a spot has {DIAMETER_UM:g}, and is written as {THEORETICAL_UM:g})",
            where=factors.path,
            hint=_OF_TWO_IMAGES,
        )
    return mpp, source


def lattice_stretch(xy_px: np.ndarray, array: np.ndarray) -> float:
    """How much more an array (n, 2) is stretched in one direction than in the other to lie where the spots do."""
    design = np.column_stack([array, np.ones(len(array))])
    larger, smaller = np.linalg.svd(np.linalg.lstsq(design, xy_px, rcond=None)[0][:2], compute_uv=False)
    return float(larger / smaller) if smaller > 0 else float("inf")


FORMATS = (Visium(),)
