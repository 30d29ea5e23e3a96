"""Spots to predict at that lie on a slide, and not where its tissue has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from ..spots import Section
from ..spots.alignment.check import check_alignment

if TYPE_CHECKING:
    from ..slides import Slide, TissueMask


def doubt_of_spots(slide: Slide, mask: TissueMask, spots: pd.DataFrame) -> str:
    """What speaks against spots on a slide, as the check of a section says it before it is embedded; "" for nothing.

    x and y in each other's place, um for px, the spots of another slide: most such spots lie within the image, and a
    head says something of any tile. Of spots that cover a part of the tissue nothing is said.

    Parameters
    ----------
    slide, mask
        The slide, open, and its tissue.
    spots
        ``x_px, y_px`` of the spots.
    """
    table = AnnData(obs=pd.DataFrame(index=spots.index.astype(str)))
    table.obsm["spatial"] = spots[["x_px", "y_px"]].to_numpy(np.float64)
    return "; ".join(check_alignment(Section("spots", "", table), slide, mask).problems)
