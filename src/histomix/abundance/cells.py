"""How many cells a spot has: nuclei counted in the H&E under the spots, or what is expected of its size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import LabelError

if TYPE_CHECKING:
    from ..spots import Section

#: What a spot is presumed to have if nobody says: what cell2location presumes for Visium, at the same density.
_CELLS, _DIAMETER_UM = 8.0, 55.0


def expected_cells(spot_diameter_um: float | None) -> float:
    """Cells that a spot of this diameter is expected to have, where nobody counted them.

    8 in the 55 um of a Visium spot, which is what cell2location presumes, and as many per area in any other; 8 where
    the diameter is unknown.
    """
    return _CELLS * ((spot_diameter_um or _DIAMETER_UM) / _DIAMETER_UM) ** 2


def nuclei_at_spots(section: Section) -> NDArray[np.float64]:
    """Nuclei under each spot of a section whose part of the image can be read (see `histomix.slides.count_nuclei`).

    Raises
    ------
    LabelError
        The section has no image or no spot diameter, or no nuclei were found under half of its spots or more.
    SlideError
        The image cannot be opened, or is too coarse to see nuclei.
    """
    if section.image is None or section.spot_diameter_um is None:
        lacks = "image" if section.image is None else "spot diameter"
        raise LabelError(
            f"the section has no {lacks}, so nuclei cannot be counted under its spots",
            where=section.where,
            hint="Fill in the columns image (with mpp) and spot_diameter_um, or give cells_per_spot as a number",
        )
    from ..slides import count_nuclei

    with section.slide() as slide:
        nuclei = np.asarray(count_nuclei(slide, section.spots_px, section.spot_diameter_um), dtype=np.float64)
    nuclei = nuclei[np.isfinite(nuclei)]
    if not len(nuclei) or np.median(nuclei) == 0:
        raise LabelError(
            f"nuclei were found under {(nuclei > 0).sum():,} of {len(section.keys):,} spots",
            where=section.image,
            hint="Check image and mpp, or give cells_per_spot as a number",
        )
    return nuclei
