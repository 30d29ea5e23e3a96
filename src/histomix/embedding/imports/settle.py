"""What is known of foreign tiles: read from their file, so by their format, or stated by the user."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from ...encoders.card import EncoderCard
from ...errors import FeatureError
from ...slides import TileSpec
from .encoder_names import check_dimension, encoder_card, known_name
from .tiles import ForeignTiles, TileFacts, same

_LOG = logging.getLogger(__name__)
#: Tiles whose um are off by more than the first share are said, by more than the second refused.
SAID, REFUSED = 0.03, 0.10
#: Facts that a manifest tells apart by where they come from.
_FACTS = ("encoder", "tile_um", "side_px0", "tile_px", "mpp", "origin", "scale", "slide_mpp")


@dataclass(frozen=True)
class Settled:
    """The facts of foreign tiles, and where each comes from.

    Parameters
    ----------
    facts
        All that is known.
    read, by_format, stated
        The same, by where it comes from.
    card
        Of the encoder.
    """

    facts: TileFacts
    read: dict[str, Any]
    by_format: dict[str, Any]
    stated: dict[str, Any]
    card: EncoderCard

    def names(self) -> dict[str, Any]:
        """Which facts come from where, without their values."""
        groups = {"read": self.read, "by_format": self.by_format, "stated": self.stated}
        return {where: sorted(facts) for where, facts in groups.items()}


def settle(tiles: ForeignTiles, stated: TileFacts) -> Settled:
    """Join what the files tell, what goes without saying in their format, and what the user states.

    Raises
    ------
    FeatureError
        The user and a file contradict each other, something that must be known is told by neither, or the features
        are not of the length that the encoder gives.
    EncoderError
        There is no card of the encoder.
    """
    told, where = tiles.facts, tiles.where
    if (
        stated.encoder is not None
        and told.encoder is not None
        and known_name(stated.encoder) != known_name(told.encoder)
    ):
        raise _contradiction("the encoder", told.encoder, stated.encoder, tiles)
    side_um = None if told.tile_px is None or told.mpp is None else told.tile_px * told.mpp
    for what, read, given in (
        ("um per px of the tiles", told.mpp, stated.mpp),
        ("tiles' side in um", told.tile_um or side_um, stated.tile_um),
    ):
        if read is not None and given is not None and abs(read - given) > REFUSED * read:
            raise _contradiction(what, read, given, tiles)
    claims: list[tuple[str, Any, Any]] = [
        ("places", told.origin, stated.origin),
        ("px of the places", told.scale, stated.scale),
    ]
    for what, known, claimed in claims:
        if known is not None and claimed is not None and not same(known, claimed):
            raise _contradiction(what, known, claimed, tiles)
    convention = TileFacts(
        **{
            name: value
            for name, value in tiles.convention.told().items()
            if getattr(told, name) is None and getattr(stated, name) is None
        }
    )
    facts = stated.or_of(told).or_of(convention)
    if facts.encoder is None:
        raise FeatureError(
            f"which encoder made these features is not in the file ({tiles.format})",
            where=where,
            hint="State it with --encoder, by a name from: histomix encoders",
        )
    card = encoder_card(facts.encoder)
    check_dimension(card, tiles.vectors.shape[1], where)
    if tiles.xy is not None and tiles.keys is None:
        for name, option in (("origin", "--origin corner or --origin centre"), ("scale", "--level0 or --scaled N")):
            if getattr(facts, name) is None:
                what = "the corners of the tiles or their centres" if name == "origin" else "px of level 0"
                raise FeatureError(
                    f"whether the places are {what} is not in the file ({tiles.format})",
                    where=where,
                    hint=f"State it with {option}",
                )
    return Settled(facts, _known(told), _known(convention), _known(stated), card)


def _known(facts: TileFacts) -> dict[str, Any]:
    return {name: value for name, value in facts.told().items() if name in _FACTS}


def _contradiction(what: str, read: Any, given: Any, tiles: ForeignTiles) -> FeatureError:
    return FeatureError(
        f"{what}: the file says {read}, and {given} is stated",
        where=tiles.where,
        hint="State only what the file does not say, or give the right file",
    )


def tile_side_px0(settled: Settled, slide_mpp: float, tiles: ForeignTiles) -> float:
    """Side of the tiles, level-0 px.

    Raises
    ------
    FeatureError
        It is told by nobody.
    """
    facts = settled.facts
    if facts.side_px0 is not None:
        return facts.side_px0
    if facts.tile_um is not None:
        return facts.tile_um / slide_mpp
    if facts.tile_px is not None and facts.mpp is not None:
        return facts.tile_px * facts.mpp / slide_mpp
    raise FeatureError(
        f"how large the tiles are is not in the file ({tiles.format})",
        where=tiles.where,
        hint="State it with --tile-um; or give the file of the places too, whose attributes tell it",
    )


def settle_tile(settled: Settled, side_um: float, known: TileSpec | None, tiles: ForeignTiles) -> TileSpec:
    """The tile that the encoder saw: its own px over the side of the tiles.

    Tiles are cut in whole px of levels, so those of two slides differ by a little; one nominal tile stands for all.

    Parameters
    ----------
    settled
        What is known.
    side_um
        What the tiles have on this very slide, um.
    known
        The tile of the other sections, or of a head.
    tiles
        For the message.

    Raises
    ------
    FeatureError
        The tiles are of another size than they are said to be, or than the ``known`` tile.
    """
    facts, own = settled.facts, TileSpec(settled.card.size_px, settled.card.mpp)
    nominal = facts.tile_um
    if nominal is None and facts.tile_px is not None and facts.mpp is not None:
        nominal = facts.tile_px * facts.mpp
    if nominal is None:
        near = next((spec for spec in (known, own) if spec is not None and _off(side_um, spec) <= REFUSED / 2), None)
        spec = near or _over(own, float(f"{side_um:.4g}"))
    else:
        near = next((spec for spec in (known, own) if spec is not None and _off(nominal, spec) <= REFUSED / 10), None)
        spec = near or _over(own, nominal)
    if known is not None and _off(spec.size_um, known) > REFUSED / 10:
        raise FeatureError(
            f"its tiles are {spec.size_um:g} um wide, and those asked for {known.size_um:g} um",
            where=tiles.where,
            hint="Only tiles of one size and scale go together",
        )
    spec = spec if known is None else known
    off = _off(side_um, spec)
    if off > REFUSED:
        raise FeatureError(
            f"its tiles are {side_um:.4g} um wide on this slide, not the {spec.size_um:g} um they are said to be",
            where=tiles.where,
            hint="Check the um per px of the slide (the sheet's mpp), --tile-um and --mpp",
        )
    if known is None and spec != own:
        words = "%s: tiles of %g um in %d px; those that %s was made for have %g um"
        _LOG.info(words, tiles.where, spec.size_um, spec.size_px, settled.card.name, own.size_um)
    if off > SAID:
        _LOG.warning("%s: its tiles are %.4g um wide, taken for %g um", tiles.where, side_um, spec.size_um)
    return spec


def _off(side_um: float, spec: TileSpec) -> float:
    return abs(side_um - spec.size_um) / spec.size_um


def _over(own: TileSpec, side_um: float) -> TileSpec:
    return TileSpec(own.size_px, side_um / own.size_px)
