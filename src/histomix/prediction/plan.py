"""Where the tiles of a slide are, in which bands they are embedded, and what the map will say of them."""

from __future__ import annotations

import io
import itertools
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..common.anonymity.nameless import TRAINING_COUNTS, nameless_manifest
from ..common.formats import MAP_FORMAT
from ..common.geometry.polygons import read_regions, region_at
from ..embedding.identity import slide_facts
from ..errors import HeadError, InputError, SlideError
from ..provenance import atomic_path, digest_bytes, digest_json, read_json, write_json
from ..slides import Slide, TileSpec, TissueMask, grid_positions, tissue_mask
from ..slides.tissue import FAT, SMALL, fragment_at, label_fragments
from ..spots.alignment.check import MAX_OUTSIDE
from ..spots.alignment.extent import outside, outside_text
from .areas import knows_fat, planned_areas
from .job import FEATURES_FORMAT, Settings
from .misplaced import doubt_of_spots

if TYPE_CHECKING:
    import pandas as pd

    from ..heads import Head

_LOG = logging.getLogger(__name__)
#: Tiles of one band, at least: whole rows of the grid, so that few file tiles are decoded for two bands.
CHUNK_TILES = 2048
#: A tissue mask holds at most about this many pixels: on larger slides it is coarser.
MASK_PX = 12_000_000
#: More tiles than this are not laid on one slide: their table alone has some GB, and embedding them takes days.
MAX_TILES = 10_000_000
#: A head that sees finer pixels than the slide has by more than this factor is refused.
MAX_UPSAMPLING = 16.0
_ANY_TISSUE = 1e-6
TILE = np.dtype(
    {
        "names": ["x_px", "y_px", "tissue", "column", "row", "fragment", "region", "place"],
        "formats": ["<f8", "<f8", "<f4", "<i4", "<i4", "<i4", "<i4", "<i8"],
    }
)


@dataclass(frozen=True)
class Chunk:
    """A stretch of a slide's tiles that is embedded at once: rows ``start`` to ``stop`` of its plan."""

    number: int
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Plan:
    """The tiles of one slide.

    Parameters
    ----------
    tiles
        Structured array (n,) of `TILE`: centre (level-0 px), share on tissue, column and row of the grid (-1 at spots),
        piece of tissue (from 1), region (from 0, -1 for none) and place in the output, from top to bottom.
    keys
        Names of the spots in the order of ``tiles``; None on a grid, whose keys are ``{column}x{row}``.
    facts
        ``slide``, ``tile``, ``places``, ``cell_px``, ``grid``, ``regions``, ``fragments``, ``tissue_mm2``,
        ``tissue_areas``; ``features`` where others computed them.
    areas
        uint8, what is to be read of the tissue (`histomix.prediction.areas.planned_areas`).
    """

    tiles: np.ndarray
    keys: np.ndarray | None
    facts: dict[str, Any]
    areas: np.ndarray

    def __len__(self) -> int:
        return len(self.tiles)

    @property
    def xy_um(self) -> np.ndarray:
        """Centres, float64 (n, 2), um from the corner of level 0."""
        centres: np.ndarray = np.stack([self.tiles["x_px"], self.tiles["y_px"]], axis=1) * self.facts["slide"]["mpp"]
        return centres

    @property
    def at_spots(self) -> bool:
        """Whether the tiles are around given spots, not on a grid."""
        return self.keys is not None

    def names(self, rows: np.ndarray) -> list[str]:
        """Keys of some tiles."""
        if self.keys is not None:
            return [str(key) for key in self.keys[rows]]
        some = self.tiles[rows]
        return [f"{column}x{row}" for column, row in zip(some["column"].tolist(), some["row"].tolist(), strict=True)]

    def table(self, chunk: Chunk) -> pd.DataFrame:
        """The tile table of a band, as the engine takes it."""
        import pandas as pd

        some = self.tiles[chunk.start : chunk.stop]
        columns = {name: np.array(some[name], float) for name in ("x_px", "y_px", "tissue")}
        return pd.DataFrame(columns, index=pd.Index(self.names(np.arange(chunk.start, chunk.stop)), name="spot"))

    @property
    def chunks(self) -> list[Chunk]:
        """The bands: they depend on the tiles alone, never on who embeds them."""
        row = self.tiles["row"]
        ends = [0]
        if self.at_spots:
            ends += list(range(CHUNK_TILES, len(self), CHUNK_TILES))
        else:
            for start in (np.flatnonzero(np.diff(row)) + 1).tolist():
                if start - ends[-1] >= CHUNK_TILES:
                    ends.append(start)
        ends.append(len(self))
        return [Chunk(number, a, b) for number, (a, b) in enumerate(itertools.pairwise(ends))]

    def identity(self) -> str:
        """Digest of the tiles and of the slide under them."""
        slide = {name: self.facts["slide"][name] for name in ("digest", "mpp")}
        keys = None if self.keys is None else self.keys.tolist()
        tiles = np.stack([self.tiles["x_px"], self.tiles["y_px"]]).tobytes()
        facts = {"format": FEATURES_FORMAT, "slide": slide, "keys": keys, "tiles": digest_bytes(tiles)}
        # What others computed never stands for what an encoder gave here.
        return digest_json({**facts, "features": self.facts["features"]} if "features" in self.facts else facts)

    def save(self, folder: Path, request: str) -> None:
        """Write the plan; ``request`` is what it was asked for by.

        Raises
        ------
        StorageError
            The folder cannot be written.
        """
        arrays = {"tiles": self.tiles, "areas": self.areas}
        if self.keys is not None:
            arrays["keys"] = self.keys
        for name, array in arrays.items():
            with atomic_path(folder / f"{name}.npy") as temporary:
                # Not np.save to the file: it may lose what a full disk has no room for without a word.
                buffer = io.BytesIO()
                np.save(buffer, array, allow_pickle=False)
                temporary.write_bytes(buffer.getbuffer())
        facts = {**self.facts, "n_tiles": len(self)}
        write_json(folder / "plan.json", {"request": request, "identity": self.identity(), "facts": facts})

    @classmethod
    def load(cls, folder: Path, request: str | None = None) -> Self | None:
        """Read a plan; None where there is none, or it answers another request."""
        try:
            content = read_json(folder / "plan.json")
            tiles, areas = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("tiles", "areas"))
            keys_file = folder / "keys.npy"
            at_spots = content["facts"]["places"] == "spots"
            keys = np.load(keys_file, allow_pickle=False) if at_spots else None
        except (InputError, OSError, ValueError, KeyError, EOFError):
            return None
        if request is not None and content.get("request") != request:
            return None
        return cls(tiles, keys, content["facts"], areas) if len(tiles) == content["facts"].get("n_tiles") else None


def tile_of(head: Head, stride_um: float | None = None) -> TileSpec:
    """The tile of a head's first encoder, which a grid is made of."""
    first = head.card["encoders"][0]
    return TileSpec(first["size_px"], first["mpp"], stride_um)


def bounded_mask(slide: Slide) -> TissueMask:
    """The slide's tissue mask, at 8 um per px or, on a very large slide, as coarse as keeps it within `MASK_PX`."""
    area_um2 = slide.width_px * slide.height_px * slide.mpp**2
    return tissue_mask(slide, max(8.0, (area_um2 / MASK_PX) ** 0.5))


def plan_tiles(
    slide: Slide,
    head: Head,
    settings: Settings,
    spots: pd.DataFrame | None = None,
    mask: TissueMask | None = None,
    digest: str | None = None,
) -> Plan:
    """Find the tiles of a slide.

    Parameters
    ----------
    slide
        The open slide.
    head
        Says which tile.
    settings
        Say where: on a grid, in regions.
    spots
        The spots to predict at instead of a grid (``x_px``, ``y_px``, indexed by key).
    mask
        Tissue, where it has been found already.
    digest
        Of the slide's content.

    Raises
    ------
    SlideError
        There is no tissue, none in the regions, the slide is smaller than a tile, or the grid has too many tiles.
    HeadError
        The slide is far too coarse for the head.
    InputError
        More than 2 % of the spots lie off the slide. Of fewer, the tiles are unreadable.
    """
    spec = tile_of(head, settings.stride_um)
    _check_scale(slide, head, spec)
    mask = bounded_mask(slide) if mask is None else mask
    # In level-0 px: QuPath counts from the corner of the scanned part.
    regions = [] if settings.regions is None else [one.moved(slide.bounds_px) for one in read_regions(settings.regions)]
    redact_url = dict(settings.region_names)
    labels, count = label_fragments(mask)
    facts: dict[str, Any] = {
        "slide": {**slide_facts(slide, spec), "bounds_px": list(slide.bounds_px), "digest": digest},
        "tile": spec.to_dict(),
        "places": "grid" if spots is None else "spots",
        "cell_px": (spec.size_um if spots is not None else (spec.stride_um or spec.size_um)) / slide.mpp,
        "grid": None,
        "regions": [redact_url.get(region.name, region.name) for region in regions],
        "fragments": count,
        "tissue_mm2": mask.area_mm2,
        "tissue_areas": {"mpp": mask.mpp, "fat_mm2": mask.mm2(FAT), "pen_mm2": mask.pen_mm2},
    }
    if spots is None:
        refuse_vast_grid(slide, spec, mask)
        readable = mask if knows_fat(head) else mask.without_fat()
        grid = grid_positions(slide, spec, readable, settings.min_tissue)
        facts["grid"] = list(grid.shape)
        tiles = np.zeros(len(grid.x_px), TILE)
        for name in ("x_px", "y_px", "tissue", "column", "row"):
            tiles[name] = getattr(grid, name)
        keys = None
        if not len(tiles):
            raise _no_tissue(slide, spec, mask, readable)
    else:
        tiles, keys = _at_spots(slide, spec, mask, spots)
        facts["misplaced"] = doubt_of_spots(slide, mask, spots)
    xy_px = np.stack([tiles["x_px"], tiles["y_px"]], axis=1)
    tiles["fragment"] = fragment_at(labels, mask.mpp, xy_px, slide.mpp)
    tiles["region"] = region_at(regions, xy_px)
    if regions and spots is None:
        tiles = tiles[tiles["region"] >= 0]
        if not len(tiles):
            raise SlideError(
                f"no tile of tissue has its centre in the regions of {settings.regions} "
                f"({', '.join(facts['regions'])})",
                where=slide.path,
                hint="Check that the regions were drawn on this slide, at its full resolution",
            )
    excluded: tuple[np.ndarray, np.ndarray] = (np.zeros(0, np.int32), np.zeros(0, np.int32))
    if spots is None:
        tiles["place"] = np.arange(len(tiles))
        if regions:
            some = grid_positions(slide, spec, mask, _ANY_TISSUE)
            away = region_at(regions, np.stack([some.x_px, some.y_px], axis=1)) < 0
            excluded = some.column[away], some.row[away]
    return Plan(tiles, keys, facts, planned_areas(mask, tiles, facts, excluded))


def refuse_vast_grid(slide: Slide, spec: TileSpec, mask: TissueMask) -> None:
    """Refuse a stride that makes more tiles than anybody waits for, before any of them is laid.

    Raises
    ------
    SlideError
        There would be over `MAX_TILES`; says how many, and which stride would do.
    """
    stride_um = spec.stride_um or spec.size_um
    area_um2 = mask.area_mm2 * 1e6
    along = math.sqrt(area_um2) / stride_um
    count = along * along  # not a power, which overflows
    if count > MAX_TILES:
        least = math.sqrt(area_um2 / MAX_TILES)
        raise SlideError(
            f"tiles {stride_um:g} um apart are about {count:,.0f} on its {mask.area_mm2:.3g} mm2 of tissue, more than "
            f"{MAX_TILES:,}",
            where=slide.path,
            hint=f"Give a --stride-um of {math.ceil(least * 10) / 10:g} or more; a tile has {spec.size_um:g} um",
        )


def _at_spots(slide: Slide, spec: TileSpec, mask: TissueMask, spots: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Tiles around spots from top to bottom, so that bands of them lie together; ``place`` keeps their own order."""
    from ..slides import tiles_at_spots

    xy_px, size_px = spots[["x_px", "y_px"]].to_numpy(float), (slide.width_px, slide.height_px)
    if outside(xy_px, size_px).mean() > MAX_OUTSIDE:
        raise InputError(
            outside_text(xy_px, size_px),
            where=slide.path,
            hint="Give the spots of this very image, in its level-0 px",
        )
    table = tiles_at_spots(slide, spots[["x_px", "y_px"]].to_numpy(float), spots.index, spec, mask=mask)
    order = np.lexsort((table["x_px"].to_numpy(), table["y_px"].to_numpy()))
    tiles = np.zeros(len(table), TILE)
    for name in ("x_px", "y_px", "tissue"):
        tiles[name] = table[name].to_numpy()[order]
    tiles["column"] = tiles["row"] = -1
    tiles["place"] = order
    return tiles, np.array([str(key) for key in table.index[order]], dtype=np.str_)


def _check_scale(slide: Slide, head: Head, spec: TileSpec) -> None:
    for encoder in head.card["encoders"]:
        if slide.upsampling(encoder["mpp"]) > MAX_UPSAMPLING:
            raise HeadError(
                f"the head reads {encoder['mpp']:.3g} um/px and the slide has {slide.mpp:.3g} um/px, "
                f"{slide.mpp / encoder['mpp']:.1f} times coarser: there are no cells to be seen on it",
                where=slide.path,
                hint="Give the slide's true um per px with --mpp, or take a scan of higher magnification",
            )
    wide_px = spec.size_um / slide.mpp
    if wide_px > 2 * max(slide.width_px, slide.height_px):
        raise SlideError(
            f"the head's tile of {spec.size_um:g} um is {wide_px:.0f} px wide, and the slide has "
            f"{slide.width_px} x {slide.height_px} px",
            where=slide.path,
            hint="Check that this is the slide itself, not a label or an overview, and that its mpp is right",
        )


def _no_tissue(slide: Slide, spec: TileSpec, mask: TissueMask, readable: TissueMask) -> SlideError:
    """What is on a slide instead of tissue for at least half a tile."""
    there = [f"tissue mask: {float(readable.mask.sum()) * mask.mpp**2 / 1e6:.3g} mm2, less than half a tile of "
             f"{spec.size_um:g} um at every place"]  # fmt: skip
    if readable is not mask and mask.mm2(FAT) > 0:
        there.append(f"fat, which this head has no cell type for: {mask.mm2(FAT):.3g} mm2")
    if mask.mm2(SMALL) > 0:
        there.append(f"pieces too small to read: {mask.mm2(SMALL):.3g} mm2")
    if mask.pen_mm2 > 0:
        there.append(f"pen marks or black: {mask.pen_mm2:.3g} mm2")
    return SlideError(
        f"no tissue was found ({'; '.join(there)})",
        where=slide.path,
        hint="Check that this is an H&E slide and that its mpp is right; --at predicts at places you name",
    )


def knows_slide(plan: Plan, head: Head) -> bool | None:
    """Whether the head was trained on this slide, by its content; None where the head's card does not tell."""
    slides = head.card["training"].get("slides")
    return plan.facts["slide"]["digest"] in slides.values() if isinstance(slides, dict) and slides else None


def manifest_of(plan: Plan, head: Head, more: Mapping[str, Any]) -> dict[str, Any]:
    """What the map says of itself, with ``more``; without donors where that says that the map is anonymised."""
    names = ("name", "digest", "head", "encoders", "encoder_licences", "tissue")
    # Of the training only what is asked of a map: how much it was, and whether a donor had a part in it.
    training = {name: value for name, value in head.card["training"].items() if name in (*TRAINING_COUNTS, "donors")}
    if (seen := knows_slide(plan, head)) is not None:
        training["this_slide"] = seen
    facts = {
        "format": MAP_FORMAT,
        **{name: plan.facts[name] for name in ("slide", "tile", "places", "cell_px", "grid", "regions", "fragments")},
        **{name: plan.facts[name] for name in ("tissue_mm2", "tissue_areas")},
        "unit": head.card["unit"],
        "head": {**{name: head.card[name] for name in names if name in head.card}, "training": training},
        "calibration": head.card.get("calibration"),
        **({"features": plan.facts["features"]} if "features" in plan.facts else {}),
        **more,
    }
    return nameless_manifest(facts) if "anonymised" in more else facts
