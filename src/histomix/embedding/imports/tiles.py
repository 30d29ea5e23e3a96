"""Features that others computed, whatever the file: vectors, places, and what is told of the tiles."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from ...common.words import counted
from ...errors import FeatureError, InputError

ORIGINS = ("corner", "centre")
#: Two values of one size or scale that differ by more than this share are different ones.
SAME = 0.01
_EXTRACT_AGAIN = "Extract the features again"


@dataclass(frozen=True)
class TileFacts:
    """What is told of tiles, by their file or by the user; None where it is not.

    Parameters
    ----------
    encoder
        Name of the encoder, in anybody's spelling.
    tile_um
        Side of a tile, um.
    side_px0
        Side of a tile, level-0 px.
    tile_px, mpp
        Side in px of a tile as it was cut, and um of such a px.
    origin
        What a place is of its tile: ``"corner"`` (upper left) or ``"centre"``.
    scale
        Level-0 px in one px of the places: 1 for level 0, 4 for a level that is four times smaller.
    slide
        Name of the slide.
    slide_mpp, slide_size_px
        Um per px of the slide's level 0, and its width and height in px.
    """

    encoder: str | None = None
    tile_um: float | None = None
    side_px0: float | None = None
    tile_px: float | None = None
    mpp: float | None = None
    origin: str | None = None
    scale: float | None = None
    slide: str | None = None
    slide_mpp: float | None = None
    slide_size_px: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("tile_um", "side_px0", "tile_px", "mpp", "scale", "slide_mpp"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} must be a positive number, not {value!r}")
        if self.origin not in (None, *ORIGINS):
            raise InputError(f"a place is the {' or the '.join(ORIGINS)} of its tile, not {self.origin!r}")

    def told(self) -> dict[str, Any]:
        """The facts that are told."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def or_of(self, other: Self) -> Self:
        """These facts, and of the other where these do not tell."""
        return type(self)(**{**other.told(), **self.told()})


@dataclass(frozen=True, eq=False)
class Part:
    """What one file holds of the features of a slide; the others are beside it.

    Parameters
    ----------
    path
        The file.
    format
        What wrote it, for people.
    vectors
        (n, dim) embeddings.
    xy
        (n, 2) places of the tiles as the file has them.
    keys
        (n,) names of the tiles: barcodes of spots.
    facts
        What the file tells.
    convention
        What is not in the file, but always so in its format.
    manifest
        Of features that histomix made, which tells everything of them.
    """

    path: Path
    format: str
    vectors: np.ndarray | None = None
    xy: np.ndarray | None = None
    keys: np.ndarray | None = None
    facts: TileFacts = TileFacts()
    convention: TileFacts = TileFacts()
    manifest: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class ForeignTiles:
    """The features of one slide as others left them; as `Part`, with everything that its files hold together."""

    name: str
    paths: tuple[Path, ...]
    format: str
    vectors: np.ndarray
    xy: np.ndarray | None
    keys: np.ndarray | None
    facts: TileFacts
    convention: TileFacts
    manifest: Mapping[str, Any] | None = None

    @property
    def where(self) -> Path:
        """The file that the vectors are in."""
        return self.paths[0]


def join_parts(name: str, parts: Sequence[Part]) -> ForeignTiles:
    """The features of one slide from its files.

    Raises
    ------
    FeatureError
        There are no vectors or vectors twice, as many places as vectors are nowhere, the files contradict each other,
        or values are not finite.
    """
    full = [part for part in parts if part.vectors is not None]
    if not full:
        raise FeatureError(
            "there are places of tiles, and no features of them",
            where=parts[0].path if parts else None,
            hint="Give the file of the features too; files of one slide have one name, or NAME= before their path",
        )
    # CLAM leaves the same features as h5 and as pt.
    full = sorted(full, key=lambda part: part.xy is None)
    parts = [part for part in parts if part.vectors is None or part is full[0] or not _alike(part, full[0])]
    full = [part for part in full if part in parts]
    if len(full) > 1:
        names = " and ".join(str(part.path) for part in full[:3])
        raise FeatureError(
            f"there are features of the slide {name} twice: {names}", hint="Give the files of one encoder only"
        )
    main = full[0]
    vectors = _checked(np.asarray(main.vectors), main.path)
    facts, convention = main.facts, main.convention
    xy, keys = main.xy, main.keys
    for part in parts:
        if part is main:
            continue
        _agree(facts, part)
        facts, convention = facts.or_of(part.facts), convention.or_of(part.convention)
        for what, known, more in (("places", xy, part.xy), ("names", keys, part.keys)):
            if more is not None and len(more) != len(vectors):
                raise FeatureError(
                    f"it holds {len(more)} {what} for the {len(vectors)} features of {main.path.name}",
                    where=part.path,
                    hint="Give the places that these features were extracted at",
                )
            if known is not None and more is not None and what == "places" and not np.array_equal(known, more):
                raise FeatureError(
                    f"its places are not those of {main.path.name}", where=part.path, hint="Give one of them only"
                )
        xy, keys = part.xy if xy is None else xy, part.keys if keys is None else keys
    for what, array in (("places", xy), ("names", keys)):
        if array is not None and len(array) != len(vectors):
            raise FeatureError(
                f"it holds {len(vectors)} features and {len(array)} {what} of tiles",
                where=main.path,
                hint="The file is not whole: extract it again",
            )
    if xy is None and keys is None:
        raise FeatureError(
            "it holds features, and no places (coords) of the tiles",
            where=main.path,
            hint="Give the file of the places too: the coords h5 of the same name, or a table with x and y",
        )
    if xy is not None:
        xy = _places(xy, main.path)
    if keys is not None:
        named, counts = np.unique(keys.astype(str), return_counts=True)
        if (counts > 1).any():
            raise FeatureError(
                f"it holds the tile '{named[counts > 1][0]}' more than once",
                where=main.path,
                hint="Keep one row per tile, and the tiles of one slide",
            )
    others = [part for part in parts if part is not main]
    paths = (main.path, *(part.path for part in others))
    beside = list(dict.fromkeys(part.format for part in others if part.xy is not None))
    return ForeignTiles(
        name, paths, " with ".join([main.format, *beside]), vectors, xy, keys, facts, convention, main.manifest
    )


def _alike(one: Part, other: Part) -> bool:
    """Whether two files hold the same features."""
    first, second = np.asarray(one.vectors), np.asarray(other.vectors)
    return first.shape == second.shape and np.array_equal(first, second, equal_nan=first.dtype.kind == "f")


def _checked(vectors: np.ndarray, where: Path) -> np.ndarray:
    """Vectors as float16 or float32; refused where they are no finite numbers."""
    if vectors.ndim == 3 and vectors.shape[0] == 1:  # a batch of one slide
        vectors = vectors[0]
    if vectors.ndim != 2 or not vectors.size:
        raise FeatureError(
            f"the features have the shape {vectors.shape}, not tiles x numbers",
            where=where,
            hint="Give features of tiles, not of a whole slide",
        )
    if vectors.dtype.kind not in "fiu":
        raise FeatureError(f"the features are of the type {vectors.dtype}, not numbers", where=where)
    if vectors.dtype != np.float16:
        vectors = vectors.astype(np.float32)
    finite = np.isfinite(vectors)
    if not finite.all():
        rows = np.flatnonzero(~finite.all(axis=1))
        held = np.isnan(vectors[rows]).any(axis=1)
        shown = f"{counted(len(rows), 'row')} of {len(vectors):,}, the first row {rows[0]}"
        if held.any():
            raise FeatureError(f"features are NaN in {shown}", where=where, hint=f"{_EXTRACT_AGAIN} of these tiles")
        if vectors.dtype == np.float16:
            raise FeatureError(
                f"features are infinite in {shown}: numbers beyond 65,504 were stored as float16",
                where=where,
                hint=f"{_EXTRACT_AGAIN} as float32",
            )
        raise FeatureError(f"features are infinite in {shown}", where=where, hint=_EXTRACT_AGAIN)
    _require_made(vectors, where)
    return vectors


def _require_made(vectors: np.ndarray, where: Path) -> None:
    """Refuse rows that no encoder gives: of zeros alone, as a run that stopped leaves them, and all the same."""
    blank = np.flatnonzero(~vectors.any(axis=1))
    if len(blank):
        shown = f"{counted(len(blank), 'row')} of {len(vectors):,}, the first row {blank[0]}"
        raise FeatureError(
            f"features are all 0 in {shown}, as a run that stopped leaves them", where=where, hint=_EXTRACT_AGAIN
        )
    if len(vectors) > 1 and (vectors == vectors[0]).all():
        raise FeatureError(
            f"features are the same in all {len(vectors):,} rows, as of a slide without tissue or weights not loaded",
            where=where,
            hint=_EXTRACT_AGAIN,
        )


def _places(xy: np.ndarray, where: Path) -> np.ndarray:
    places = np.asarray(xy)
    if places.ndim == 3 and places.shape[0] == 1:
        places = places[0]
    if places.ndim != 2 or places.shape[1] < 2 or places.dtype.kind not in "fiu":
        raise FeatureError(f"the places have the shape {places.shape}, not tiles x (x, y)", where=where)
    places = places[:, :2].astype(float)
    if not np.isfinite(places).all():
        raise FeatureError("some places are no numbers", where=where, hint=_EXTRACT_AGAIN)
    unique, counts = np.unique(places, axis=0, return_counts=True)
    if len(unique) < len(places):
        x, y = unique[counts > 1][0]
        raise FeatureError(
            f"{counted(int((counts > 1).sum()), 'place')} of {len(unique):,} come more than once (x {x:g}, y {y:g})",
            where=where,
            hint="Remove the copies: a tile has one row",
        )
    return places


def _agree(facts: TileFacts, part: Part) -> None:
    """Refuse a file that tells something else than the others."""
    for name, value in part.facts.told().items():
        known = getattr(facts, name)
        if known is not None and not same(known, value):
            raise FeatureError(
                f"it says {value} of {name}, and the file of the features {known}",
                where=part.path,
                hint="Give the files of one extraction",
            )


def same(one: Any, other: Any) -> bool:
    """Whether two facts are the same; sizes may differ by a hundredth."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= SAME * abs(one)
    return bool(one == other)
