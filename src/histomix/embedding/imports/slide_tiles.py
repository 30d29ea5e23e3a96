"""Foreign features of slides that a head reads: whose they are, and that they are what the head was trained on."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from ...common.paths import as_list
from ...errors import FeatureError
from ...provenance import digest_json, fingerprint
from ...slides import Slide, TileSpec, TissueMask
from ..identity import encoder_differences, encoder_identity
from .encoder_names import known_name, stated_facts
from .files import find_files, read_slide, slide_name
from .places import Ground, check_places
from .settle import settle, settle_tile, tile_side_px0
from .tiles import ForeignTiles, TileFacts

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureFiles:
    """Files of features of slides, and what is stated of them; make it with `FeatureFiles.of`.

    Parameters
    ----------
    paths
        Files, stores and folders, as `histomix.import_features` takes them.
    encoders
        The encoders that made them, where it is stated.
    stated
        What else is stated of their tiles.
    digest
        Of the files, by samples of them.
    """

    paths: tuple[str, ...]
    encoders: tuple[str, ...] = ()
    stated: TileFacts = field(default_factory=TileFacts)
    digest: str = ""

    @classmethod
    def of(
        cls,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        encoder: str | Sequence[str] | None = None,
        *,
        tile_um: float | None = None,
        origin: str | None = None,
        scale: float | None = None,
    ) -> Self:
        """Files with their digest.

        Raises
        ------
        FeatureError
            There is no such file, or a folder holds no features.
        InputError
            What is stated cannot be.
        """
        given = tuple(os.fspath(path) for path in as_list(paths))
        names = () if encoder is None else (encoder,) if isinstance(encoder, str) else tuple(encoder)
        stated = TileFacts(tile_um=tile_um, origin=origin, scale=scale)
        found = find_files(given)
        prints = [[name, _print(path)] for name, files in sorted(found.items()) for path in files]
        return cls(given, names, stated, digest_json([prints, list(names), stated.told()]))

    def of_slide(
        self, names: Sequence[str], slide: Slide, mask: TissueMask, entries: Sequence[Mapping[str, Any]]
    ) -> SlideTiles:
        """The features of one slide, as the encoders of a head would have given them.

        Parameters
        ----------
        names
            Names that its files may have.
        slide, mask
            The slide and its tissue, that places are checked against.
        entries
            The encoders of the head's card.

        Raises
        ------
        FeatureError
            There are none of this slide; they are of another encoder, pooling, tile or scale than the head's; or as
            `histomix.import_features`.
        """
        lists: list[tuple[str, ...]] = [self.paths]
        if len(entries) > 1:
            if len(self.paths) != len(entries):
                raise FeatureError(
                    f"features of {len(self.paths)} encoders are given, and the head was trained on {len(entries)} "
                    f"({', '.join(str(entry['name']) for entry in entries)})",
                    hint="Give --features once for each, in this order",
                )
            lists = [(path,) for path in self.paths]
        if self.encoders and len(self.encoders) not in (1, len(entries)):
            raise FeatureError(
                f"{len(self.encoders)} encoders are stated, and the head was trained on {len(entries)}",
                hint="State --encoder once for each, in the order of --features",
            )
        blocks = []
        for number, (paths, entry) in enumerate(zip(lists, entries, strict=True)):
            found = _found(paths, self.digest)
            stated = self.encoders[number if len(self.encoders) > 1 else 0] if self.encoders else None
            blocks.append(_block(found, names, TileFacts(encoder=stated).or_of(self.stated), slide, mask, entry))
        first = blocks[0]
        vectors = [first.vectors]
        for block in blocks[1:]:
            vectors.append(_in_order(block, first, slide))
        return SlideTiles(first.keys, first.centres_px, np.concatenate(vectors, axis=1), first.told)


@dataclass(frozen=True, eq=False)
class SlideTiles:
    """Features of tiles of one slide.

    Parameters
    ----------
    keys
        (n,) unique names.
    centres_px
        (n, 2) level-0 px.
    vectors
        (n, features), float32; several encoders stand side by side.
    told
        What a map says of them; it names no file.
    """

    keys: np.ndarray
    centres_px: np.ndarray
    vectors: np.ndarray
    told: dict[str, Any]


def _block(
    found: Mapping[str, list[Path]],
    names: Sequence[str],
    stated: TileFacts,
    slide: Slide,
    mask: TissueMask,
    entry: Mapping[str, Any],
) -> SlideTiles:
    files = list(dict.fromkeys(path for name in names for path in found.get(name, [])))
    if not files:
        raise FeatureError(
            f"none of the files of features is of this slide: they are of {', '.join(sorted(found)[:5])}",
            where=slide.path,
            hint=f"Call a file {names[0]}, or say which slide it is of: {names[0]}=PATH",
        )
    tiles = read_slide(names[0], files, stated.encoder)
    told = tiles.facts.slide
    if told is not None and told not in names:
        raise FeatureError(
            f"it says it is of the slide {told}, not of {names[0]}",
            where=tiles.where,
            hint="Give the features of this very slide",
        )
    expected = encoder_identity({"encoder": entry, "tile": entry})
    if tiles.manifest is not None:
        _require(expected, encoder_identity(tiles.manifest), tiles)
        centres = np.asarray(tiles.xy, float)
        facts: dict[str, Any] = {"format": tiles.format, "encoder": entry["name"]}
    else:
        named = known_name(stated.encoder or tiles.facts.encoder or str(entry["name"]))
        if named != entry["name"]:
            _require(expected, {**expected, "encoder": named}, tiles)
        settled = settle(tiles, stated)
        if tiles.xy is None:
            raise FeatureError(
                "it names its tiles, and does not say where they are",
                where=tiles.where,
                hint="Give the file of the places too",
            )
        side_px0 = tile_side_px0(settled, slide.mpp, tiles)
        spec = settle_tile(settled, side_px0 * slide.mpp, TileSpec(entry["size_px"], entry["mpp"]), tiles)
        actual = {"encoder": stated_facts(settled.card, {}), "tile": spec.to_dict()}
        _require(expected, encoder_identity(actual), tiles)
        centres = check_places(tiles, settled, side_px0, Ground(slide.mpp, (slide.width_px, slide.height_px), mask))
        facts = {"format": tiles.format, "encoder": settled.card.name, **settled.names()}
    return SlideTiles(_keys(tiles, centres), centres, tiles.vectors.astype(np.float32), facts)


def _require(expected: Mapping[str, Any], actual: Mapping[str, Any], tiles: ForeignTiles) -> None:
    """Refuse features of another encoder, pooling or tile than the head's."""
    if differences := encoder_differences(expected, actual, believe_stated=True):
        raise FeatureError(
            f"the features are not what the head was trained on: {differences}",
            where=tiles.where,
            hint=f"Give features of {expected['encoder']} on tiles of {expected['size_px'] * expected['mpp']:g} um",
        )


def _keys(tiles: ForeignTiles, centres: np.ndarray) -> np.ndarray:
    if tiles.keys is not None and len({str(key) for key in tiles.keys}) == len(tiles.keys):
        return np.array([str(key) for key in tiles.keys], object)
    names = [f"{x:.0f}x{y:.0f}" for x, y in centres.tolist()]
    return np.array(names if len(set(names)) == len(names) else [str(n) for n in range(len(names))], object)


def _in_order(block: SlideTiles, first: SlideTiles, slide: Slide) -> np.ndarray:
    """The features of another encoder in the order of the first one's tiles."""
    from scipy.spatial import cKDTree

    distance, rows = cKDTree(block.centres_px).query(first.centres_px)
    if distance.max() > 2.0 or len(np.unique(rows)) < len(rows):
        raise FeatureError(
            "the features of the encoders are not of the same tiles",
            where=slide.path,
            hint="Extract features of the same places with each encoder",
        )
    ordered: np.ndarray = block.vectors[rows]
    return ordered


@functools.lru_cache(maxsize=8)
def _found(paths: tuple[str, ...], _digest: str) -> dict[str, list[Path]]:
    """Files by slide; a folder of thousands is not looked through for each of them."""
    return find_files(paths)


def names_of_slide(path: Path, name: str | None = None) -> list[str]:
    """Names that files of a slide may have."""
    return list(dict.fromkeys(one for one in (path.stem, slide_name(path), name) if one))


def _print(path: Path) -> Any:
    """What tells that a file has changed, without reading the whole of it."""
    if not path.is_dir():
        return fingerprint(path)
    files = (Path(place, name) for place, _, names in os.walk(path) for name in names)
    return sorted([str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns] for file in files)
