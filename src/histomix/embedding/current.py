"""Whether features are still those of the sheet: it may have been edited since they were made."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FeatureError, HistomixError
from ..slides.files import is_changed
from .features import feature_manifest
from .identity import slide_fingerprint

if TYPE_CHECKING:
    from anndata import AnnData

    from ..spots import Cohort, Section

_LOG = logging.getLogger(__name__)
#: Centres that differ by more than this, level-0 px, are other places.
_SAME_PX = 1.0
#: Scales that differ by more than this share are other scales.
_SAME_MPP = 1e-3


def require_current(cohort: Cohort, name: str, tables: Sequence[AnnData]) -> None:
    """Refuse features of a section that were made of another image, at other places or scale than the sheet says.

    Parameters
    ----------
    cohort
        Says what the section is now. A section without an image is not looked at.
    name
        Of the section.
    tables
        Its features, by each encoder.

    Raises
    ------
    FeatureError
        With what differs.
    """
    row = next((one for one in cohort.rows if getattr(one, "section", None) == name), None)
    if row is None or getattr(row, "image", None) is None:
        return
    try:
        section = cohort.section(name, counts=False)
        for table in tables:
            differences = _differences(section, table, feature_manifest(table)["slide"])
            if differences:
                raise FeatureError(
                    f"the features of section {name} were made {' and '.join(differences)} than the sheet names now",
                    where=row.where,
                    hint="Embed again: only what has changed is made anew",
                )
    except FeatureError:
        raise
    except HistomixError as error:
        _LOG.warning("section %s: whether its features are still current was not checked (%s)", name, error)


def _differences(section: Section, table: AnnData, slide: dict[str, Any]) -> list[str]:
    differences = []
    image = section.image
    if image is not None and (
        slide.get("fingerprint") not in (None, slide_fingerprint(image)) or is_changed(image, slide.get("digest"))
    ):
        differences.append("of another image")
    mpp, made = section.mpp, slide.get("mpp")
    if mpp is not None and made and abs(mpp - made) > _SAME_MPP * made:
        differences.append(f"at another scale ({made:g} um per px)")
    places = section.keys.get_indexer(table.obs_names)
    shared = places >= 0
    if not shared.all():  # those of the sheet have neither labels nor features then, or the labels of others
        differences.append(f"of other spots ({int((~shared).sum()):,} of {len(shared):,} are not among those)")
    if "spatial" in table.obsm and shared.any():
        moved = np.abs(np.asarray(table.obsm["spatial"], float)[shared] - section.spots_px[places[shared]]).max(axis=1)
        if (moved > _SAME_PX).any():
            differences.append(f"at other places ({int((moved > _SAME_PX).sum()):,} of {int(shared.sum()):,} spots)")
    return differences
