"""What may be read from a map: which tiles count, and the words that every surface says beside its numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ..common.words import (
    BETWEEN,
    NEITHER,
    NOT_KNOWN,
    WITHIN,
    counted,
    few,
    few_trained_on,
    head_limits,
    seen_slide,
    sentence,
    whole_percent,
)
from ..spots import RELATIVE

#: A slide with a smaller share of its read tiles in scope has no composition to speak of.
LEAST_IN_SCOPE = 0.5
#: Intervals calibrated on fewer donors than this tell nothing of another one.
FEWEST_DONORS = 3
#: What each word says of the types it stands at.
_SAID = {
    BETWEEN: "{} can be compared between slides",
    WITHIN: "{} can be compared within a slide only",
    NEITHER: "{} can be compared neither between slides nor within one",
    NOT_KNOWN: "of {} it is not known",
}


#: What a map has of each cell type's level on slides, from the card of its head; NaN where it is not known.
LEVELS = ("slide_error", "training_mean", "slope", "shrunk_error")


@dataclass(frozen=True, eq=False)
class Reading:
    """What a person may read from a map; see `CompositionMap.reading`.

    Attributes
    ----------
    used
        Readable tiles in scope, bool (n,): what every headline is made of.
    in_scope_share
        Share of the readable tiles that are in scope; NaN where none could be read.
    statement
        What a surface says instead of a composition, of a slide that is out of scope; else "".
    calibrated_on
        Whom the intervals were calibrated on, such as "sections of one patient"; "" without intervals.
    caution
        What to say beside intervals that tell nothing of other patients; else "".
    refers_to
        What area a number is for, and what the head learnt from, in a sentence; "" where the map does not say it.
    limits
        What a head of so few training donors cannot tell; else "".
    scale
        What to say where the um per px cannot be right; else "".
    focus
        What to say of a slide that is soft or out of focus; else "".
    seen
        What to say of a slide that the head was trained on; else "".
    refers_short
        The same in a few words, for a legend.
    good_for
        Of each cell type, what its predictions are good for; "not known" where nothing says it.
    levels
        Of each cell type, `LEVELS`: the half-width around a slide's mean; the mean of the training and the slope by
        which a slide's mean is drawn to it; the half-width around what that gives.
    """

    used: np.ndarray
    in_scope_share: float
    statement: str
    calibrated_on: str
    caution: str
    refers_to: str
    refers_short: str
    limits: str = ""
    scale: str = ""
    focus: str = ""
    seen: str = ""
    good_for: dict[str, str] = field(default_factory=dict)
    levels: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=LEVELS, dtype=float))

    @property
    def slide_error(self) -> dict[str, float]:
        """Of each cell type, the half-width around a slide's mean; NaN where it is not known."""
        return {str(name): float(error) for name, error in self.levels["slide_error"].items()}

    def shrunk(self, means: pd.Series) -> pd.Series:
        """Means of the slide by cell type, in the unit of the map, drawn to those of the training as the head says."""
        levels = self.levels.loc[means.index]
        drawn: pd.Series = levels["training_mean"] + levels["slope"] * (means - levels["training_mean"])
        return drawn

    @property
    def hidden(self) -> int:
        """How many tiles take no part: unreadable, or out of scope."""
        return int((~self.used).sum())

    @property
    def remarks(self) -> list[str]:
        """What may be wrong with the slide itself: its um per px, its focus, that the head knows it."""
        return [words for words in (self.scale, self.focus, self.seen) if words]

    @property
    def notes(self) -> list[str]:
        """Sentences for the small print of a page or a picture, without the statement."""
        return [words for words in (*self.remarks, self.refers_to, self.limits, self.caution) if words]


def reading_of(
    manifest: Mapping[str, Any],
    read_ok: np.ndarray,
    in_scope: np.ndarray,
    good_for: Mapping[str, str],
    levels: pd.DataFrame,
) -> Reading:
    """The reading of a map, from what it says of itself and of its tiles, bool (n,)."""
    head = manifest.get("head") or {}
    used = read_ok & in_scope
    share = float(used.sum() / read_ok.sum()) if read_ok.any() else math.nan
    calibration = manifest.get("calibration") or head.get("calibration")
    return Reading(
        used,
        share,
        sentence(scope_statement(share, head.get("tissue"))),
        calibrated_on(calibration),
        interval_caution(calibration),
        str(manifest.get("refers_to") or refers_to(manifest)),
        refers_shortly(manifest),
        str(manifest.get("limits") or " ".join(head_limits(head))),
        scale=_words(manifest.get("scale_check")),
        focus=_words(manifest.get("focus")),
        seen=seen_slide(head.get("training")),
        good_for=dict(good_for),
        levels=levels.apply(pd.to_numeric, errors="coerce").astype(float),  # a map may come from elsewhere
    )


def scope_statement(share: float, tissue: str | Sequence[str] | None) -> str:
    """What is said instead of a composition of a slide of which less than half is in scope; else "".

    Parameters
    ----------
    share
        Of its readable tiles in scope; NaN where none could be read.
    tissue
        What the head's card declares: names of tissues, or words that there are none.
    """
    if math.isnan(share):
        return "no tile of this slide could be read"
    if share >= LEAST_IN_SCOPE:
        return ""
    if tissue is None or isinstance(tissue, str) or not tissue:
        return f"{whole_percent(share)} of this slide looks like the tissue that this head was trained on"
    names = [str(name) for name in tissue]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"this head was trained on {listed}; {whole_percent(share)} of this slide looks like that"


def calibrated_on(calibration: Mapping[str, Any] | None) -> str:
    """Whom intervals were calibrated on, from a card's ``calibration``; "" where there are none or it does not say."""
    donors = _donors(calibration)
    if calibration is None or donors is None:
        return ""
    patients = f"{few(donors)} patient{'' if donors == 1 else 's'}"
    return f"sections of {patients}" if calibration.get("kind") == "section" else patients


def interval_caution(calibration: Mapping[str, Any] | None) -> str:
    """What to say beside intervals that tell nothing of other patients; "" where they may be taken as they are."""
    donors = _donors(calibration)
    if calibration is None or donors is None:
        return ""
    if calibration.get("kind") != "section" and donors >= FEWEST_DONORS:
        return ""
    whom, widened = calibrated_on(calibration), calibration.get("widened") or {}
    if widened.get("factor"):
        return (
            f"Intervals are calibrated on: {whom}, and made {widened['factor']:g} times wider for other patients "
            f"({widened.get('source', 'source not declared')}). How far patients of this tissue differ is not known."
        )
    return (
        f"Intervals are calibrated on: {whom}. The values of another patient lie outside them more often than they say."
    )


def refers_to(manifest: Mapping[str, Any]) -> str:
    """What area a number of a map is for, and what the head learnt from; "" where the manifest does not say it."""
    widths = _widths(manifest)
    if widths is None:
        return ""
    side_um, step_um, spot_um = widths
    learnt = f"spots {spot_um:.0f} µm wide" if spot_um else "spots whose width is not known"
    if manifest.get("places") == "spots":
        where = f"a tile of {side_um:.0f} µm around each spot"
    else:
        apart = "" if abs(step_um - side_um) < 0.01 * side_um else f", one every {step_um:.0f} µm"
        where = f"a tile of {side_um:.0f} µm on a grid{apart}"
    counts = (manifest.get("area") or {}).get("label_um2") is not None
    what = "A number counts cells in the area of a training spot, read from" if counts else "A number is for"
    if manifest.get("unit") == RELATIVE:
        what = "A number is an abundance relative to others of its type (totals are no numbers of cells) for"
    return f"{what} {where}; the head learnt from {learnt}."


def refers_shortly(manifest: Mapping[str, Any]) -> str:
    """`refers_to` in a few words, and on how few the head was trained, for a legend."""
    widths, training = _widths(manifest), (manifest.get("head") or {}).get("training") or {}
    few_ones = few_trained_on(training.get("n_donors"), training.get("n_sections"))
    whom = f"trained on {few_ones}" if few_ones else ""
    if widths is None:
        return whom
    side_um, _, spot_um = widths
    learnt = f"learnt from {spot_um:.0f} µm spots" if spot_um else ""
    return ", ".join(filter(None, (f"{side_um:.0f} µm tiles", learnt, whom)))


def _words(fact: Any) -> str:
    """The words of a fact of the manifest as a sentence; a map may come from elsewhere."""
    return sentence(str(fact.get("words") or "")) if isinstance(fact, Mapping) else ""


def _widths(manifest: Mapping[str, Any]) -> tuple[float, float, float | None] | None:
    """Width of a tile, of a cell of the map and of a training spot, um."""
    tile, slide = manifest.get("tile") or {}, manifest.get("slide") or {}
    if not tile or not slide.get("mpp"):
        return None
    spot_um = (manifest.get("area") or {}).get("spot_um")
    side_um, step_um = float(tile["size_px"]) * float(tile["mpp"]), float(manifest["cell_px"]) * float(slide["mpp"])
    return side_um, step_um, float(spot_um) if spot_um else None


def type_facts(card: Mapping[str, Any]) -> pd.DataFrame:
    """What a map says of each cell type of a head: ``good_for`` (a word) and `LEVELS` (NaN if not known)."""
    from ..heads import levels_of  # who has a card has the room open; who has a map need not

    names, levels = [str(name) for name in card["cell_types"]], levels_of(card)
    words = [NOT_KNOWN if levels is None else levels.word(name) for name in names]
    told = {fact: [None if levels is None else levels.number(name, fact) for name in names] for fact in LEVELS}
    return pd.DataFrame({"good_for": words} | {fact: np.array(told[fact], float) for fact in LEVELS}, index=names)


def words_by_type(good_for: Mapping[str, str]) -> str:
    """What the cell types are good for, in one sentence; "" without cell types."""
    groups: dict[str, list[str]] = {}
    for name, word in good_for.items():
        groups.setdefault(word, []).append(name)
    if not groups:
        return ""
    if set(groups) == {NOT_KNOWN}:
        return "Whether any cell type can be compared between slides, or within one, is not known."
    parts = [said.format(_listed(groups[word])) for word, said in _SAID.items() if word in groups]
    return sentence("; ".join(parts))


def _listed(names: Sequence[str], most: int = 4) -> str:
    """Names in a sentence; many are counted."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {counted(len(names) - most + 1, 'more type')}"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _donors(calibration: Mapping[str, Any] | None) -> int | None:
    told = None if calibration is None else calibration.get("n_donors")
    return int(told) if isinstance(told, int | float) else None
