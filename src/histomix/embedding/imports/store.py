"""Features that others computed, as a store like that of `histomix.embed`."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ...common.paths import as_list, refuse_replacing
from ...common.storage.locks import folder_lock
from ...common.words import counted
from ...errors import (
    FeatureError,
    HistomixError,
    InputError,
    MissingExtraError,
    ScaleWarning,
    SectionError,
    StorageError,
)
from ...progress import Progress, progress_bars
from ...provenance import digest_bytes, digest_json, require_folder
from ...slides import Slide, TileSpec, tiles_at_spots, tissue_mask
from ...spots import Cohort, Section, check_alignment
from ..features import (
    OVERVIEW_OWN,
    build_features,
    feature_manifest,
    read_manifests,
    write_features,
    write_overview,
)
from ..identity import (
    alignment_facts,
    encoder_differences,
    encoder_identity,
    library_versions,
    slide_facts,
    write_preview,
)
from .encoder_names import stated_facts
from .files import find_files, read_slide
from .matching import Matched, by_name, nearest, overlapping
from .places import Ground, centres_px, check_places
from .settle import Settled, settle, settle_tile, tile_side_px0
from .tiles import ORIGINS, ForeignTiles, TileFacts

if TYPE_CHECKING:
    from anndata import AnnData

_LOG = logging.getLogger(__name__)
_FATAL = (StorageError, MissingExtraError)
_Path = str | os.PathLike[str]
#: Of the manifest of imported features; raised when the same files give other features.
_FORMAT = 1
#: Sections of which less has a tile are refused.
_FEWEST_MATCHED = 0.5
#: Where spots have no diameter, a tile serves one whose centre is within this part of its side.
_TOLERANCE = 0.25
_OVERVIEW = ("tiles", "identity", "slide", "alignment", "preview", "imported")


def import_features(
    paths: _Path | Sequence[_Path],
    cohort: Cohort | _Path,
    out: _Path | None = None,
    *,
    encoder: str | None = None,
    mpp: float | None = None,
    tile_um: float | None = None,
    origin: str | None = None,
    scale: float | None = None,
    tolerance_um: float | None = None,
    average: bool = False,
    check_alignment: bool = True,
    progress: Progress | bool = True,
) -> dict[str, AnnData]:
    """Take in features that others computed: TRIDENT, CLAM, slide2vec, LazySlide, HEST-bench, or plain tables.

    The format is found from each file. What a file does not say of its tiles must be stated; both are checked against
    the slide and the encoder's card as far as they can be, and the manifest says which was read and which stated. The
    weights themselves are never seen, so an encoder stays *stated*.

    Parameters
    ----------
    paths
        Files, stores of Zarr, and folders of them. Files of one slide have one name, which is that of the section or of
        its image; ``NAME=PATH`` says it otherwise.
    cohort
        Sections, or their sheet. A section without an image needs a scale: the column ``mpp``.
    out
        Folder, as of `histomix.embed`; None keeps everything in memory.
    encoder
        Name of the encoder, in the spelling of TRIDENT, slide2vec, LazySlide or ours; or a card file.
    mpp
        Um per px of the tiles as they were cut.
    tile_um
        Side of a tile, um.
    origin
        What a place is of its tile: ``"corner"`` or ``"centre"``.
    scale
        Level-0 px in one px of the places: 1 for places in level 0.
    tolerance_um
        How far the centre of a tile may be from the spot that it serves; None: half the diameter of a spot, or a
        quarter of the tile where that is not known. Tiles that have barcodes go by these.
    average
        Give each spot the mean of the tiles over it, weighted by the area that they cover of it, as a grid of tiles
        needs.
    check_alignment
        Refuse a section whose spots do not lie on the tissue of its slide.
    progress
        Bars in a terminal or notebook; False for none, or a function that is told ``"import <section>"``.

    Returns
    -------
    dict
        Section -> features, in the order of the cohort. Spots without a tile have no row.

    Raises
    ------
    SheetError
        The sheet has faults; all are named.
    FeatureError
        Some sections failed; all others are done and stored, and the message names each failure. Or no file is of a
        section, or ``out`` holds features of another encoder.
    EncoderError
        The encoder is unknown.
    InputError
        A size, a scale or an origin cannot be one.
    MissingExtraError
        A format needs a library that is not installed.
    StorageError
        Something cannot be written.

    Examples
    --------
    It needs features of another program.

    >>> features = hm.import_features("trident", "sheet.csv", "features-trident")  # doctest: +SKIP
    """
    if tolerance_um is not None and not 0 <= tolerance_um < math.inf:
        raise InputError(f"tolerance_um must be a number of um, not {tolerance_um!r}")
    stated = TileFacts(encoder=encoder, mpp=mpp, tile_um=tile_um, origin=origin, scale=scale)
    sections = Cohort.of(cohort)
    files = find_files(as_list(paths))
    with contextlib.ExitStack() as stack:
        folder = None if out is None else Path(out)
        if folder is not None:
            require_folder(folder, own=OVERVIEW_OWN)
            sections.refuse_replacing(folder, ".h5ad")
            refuse_replacing(itertools.chain(*files.values()), [folder / f"{name}.h5ad" for name in sections.names])
            stack.enter_context(folder_lock(folder))
        report = stack.enter_context(progress_bars(progress))
        work = _Import(files, stated, folder, tolerance_um, average, check_alignment, report)
        work.take_in(sections)
    return work.features


@dataclass
class _Import:
    """One call of `import_features`, and what became of each section."""

    files: Mapping[str, list[Path]]
    stated: TileFacts
    folder: Path | None
    tolerance_um: float | None
    average: bool
    check_alignment: bool
    progress: Progress
    features: dict[str, AnnData] = field(default_factory=dict)
    failed: dict[str, HistomixError] = field(default_factory=dict)
    stored: dict[str, dict[str, Any]] = field(default_factory=dict)
    spec: TileSpec | None = None

    def take_in(self, cohort: Cohort) -> None:
        if self.folder is not None:
            self.stored = read_manifests(self.folder)
            tiles = [manifest["tile"] for name, manifest in self.stored.items() if name not in cohort.names]
            self.spec = TileSpec.from_dict(tiles[0]) if tiles else None
        names = {name for row in cohort.rows for name in _names(row.section, row.image)}
        if not names & set(self.files):
            raise FeatureError(
                f"none of the files is of a section of the sheet: they are of {', '.join(sorted(self.files)[:5])}",
                where=cohort.sheet,
                hint="Call a file after the section or its image, or say which it is of: SECTION=PATH",
            )
        if rest := sorted(set(self.files) - names):
            _LOG.info("%s of the files in no section of the sheet (%s ...)", counted(len(rest), "slide"), rest[0])
        for number, name in enumerate(cohort.names):
            try:
                self._section(cohort.section(name, counts=False))
            except _FATAL:
                raise
            except HistomixError as error:
                if len(cohort) == 1:
                    raise
                _LOG.warning("section %s failed; the others go on", name)
                self.failed[name] = error
            self.progress("import features", number + 1, len(cohort))
        if self.features:
            self._write_overview(cohort)
        if self.failed:
            lines = "".join(f"\n  - {name}: {str(error).rstrip('.')}" for name, error in self.failed.items())
            raise FeatureError(
                f"features of {len(self.failed)} of {len(cohort)} sections could not be taken in:{lines}",
                where=cohort.sheet,
                hint="What is done is kept: mend these and run the same command again",
            ) from next(iter(self.failed.values()))

    def _section(self, section: Section) -> None:
        names = _names(section.name, section.image)
        paths = list(dict.fromkeys(path for name in names for path in self.files.get(name, [])))
        if not paths:
            raise FeatureError(
                f"no file is of section {section.name} or its image",
                hint=f"Call it {names[0]}, or say which it is: {section.name}=PATH",
            )
        tiles = read_slide(section.name, paths, self.stated.encoder)
        if tiles.manifest is not None:
            raise FeatureError(
                "these are features of histomix", where=tiles.where, hint="They need no import: give their folder"
            )
        settled = settle(tiles, self.stated)
        self._check_name(tiles, section)
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", ScaleWarning)
            slide = None if section.image is None else stack.enter_context(section.slide())
            self._store(section, tiles, settled, slide)

    def _store(self, section: Section, tiles: ForeignTiles, settled: Settled, slide: Slide | None) -> None:
        mpp = (section.mpp or section.spots_mpp) if slide is None else slide.mpp
        if mpp is None:
            raise SectionError(
                f"the um per px of section {section.name} is not known, and it has no image",
                where=section.where,
                hint="Fill in the column mpp",
            )
        mask = None if slide is None else tissue_mask(slide)
        seen: dict[str, Any] = {"slide": _no_slide(mpp), "alignment": None, "preview": None}
        if slide is not None and mask is not None and self.check_alignment:
            seen["alignment"] = alignment_facts(check_alignment(section, slide, mask).require())
        side_px0 = tile_side_px0(settled, mpp, tiles)
        spec = settle_tile(settled, side_px0 * mpp, self.spec, tiles)
        size = None if slide is None else (slide.width_px, slide.height_px)
        matched = self._match(section, tiles, settled, side_px0, Ground(mpp, size, mask, section.spots_px))
        keys, xy_px = section.keys[matched.rows], section.spots_px[matched.rows]
        if slide is None:
            places = {"x_px": xy_px[:, 0], "y_px": xy_px[:, 1], "tissue": np.nan}
            table = pd.DataFrame(places, index=keys)
        else:
            seen["slide"] = slide_facts(slide, spec)
            table = tiles_at_spots(slide, xy_px, keys, spec, mask)
            seen["preview"] = None if self.folder is None else write_preview(slide, self.folder, section.name)
        imported = self._imported(section, tiles, settled, side_px0 * mpp, matched)
        facts = stated_facts(settled.card, {"format": tiles.format, **settled.names(), "how": matched.how})
        identity = {
            "format": _FORMAT,
            "slide": seen["slide"]["fingerprint"],
            "mpp": mpp,
            "keys": [str(key) for key in keys],
            "xy_px": digest_bytes(np.ascontiguousarray(xy_px, "<f8").tobytes()),
            "vectors": digest_bytes(np.ascontiguousarray(matched.vectors).tobytes()),
            "tile": [spec.size_px, spec.mpp],
            "encoder": facts["digest"],
        }
        manifest = {
            "section": section.name,
            "identity": digest_json(identity),
            "tiles": len(table),
            "tile": spec.to_dict(),
            "encoder": facts,
            "runtime": None,
            "dtype": str(matched.vectors.dtype),
            "versions": library_versions(),
            **seen,
            "imported": imported,
        }
        self._same_encoder(section.name, manifest)
        features = build_features(np.ascontiguousarray(matched.vectors), table, manifest)
        if self.folder is not None:
            write_features(self.folder / f"{section.name}.h5ad", features)
        self.features[section.name], self.spec = features, spec

    def _match(
        self, section: Section, tiles: ForeignTiles, settled: Settled, side_px0: float, ground: Ground
    ) -> Matched:
        names, spots_px, mpp = np.asarray(section.keys, object), section.spots_px, ground.mpp
        named = None if tiles.keys is None else by_name(tiles.keys, tiles.vectors, names)
        if named is not None and (len(named.rows) or tiles.xy is None):
            _require_most(section, tiles, len(named.rows), "barcode of one of its tiles")
            return self._named(named, section, tiles, settled, side_px0, mpp)
        if settled.facts.origin is None or settled.facts.scale is None:
            raise FeatureError(
                "its tiles are named otherwise than the spots, and what its places are is not said",
                where=tiles.where,
                hint="State --origin and --level0, or give the features of this section",
            )
        centres = check_places(tiles, settled, side_px0, ground)
        spot_um = section.spot_diameter_um
        if self.average:
            spot_px = side_px0 if spot_um is None else spot_um / mpp
            found = overlapping(centres, tiles.vectors, side_px0, spots_px, spot_px, mpp)
            _require_most(section, tiles, len(found.rows), "tiles over it")
            return found
        found = nearest(centres, tiles.vectors, spots_px, mpp, self._tolerance(section, side_px0 * mpp))
        if len(found.rows) < _FEWEST_MATCHED * len(spots_px):
            far = nearest(centres, tiles.vectors, spots_px, mpp, np.inf).distance_um
            raise FeatureError(
                f"only {len(found.rows):,} of {len(spots_px):,} spots have a tile within "
                f"{self._tolerance(section, side_px0 * mpp):.4g} um; half of them are {np.median(far):.4g} um or more "
                "from the nearest",
                where=tiles.where,
                hint="Tiles of a grid are averaged with --average; --tolerance-um takes tiles from farther away",
            )
        return found

    @staticmethod
    def _named(
        named: Matched, section: Section, tiles: ForeignTiles, settled: Settled, side_px0: float, mpp: float
    ) -> Matched:
        """Tiles of the spots' names, which must also lie where these are, where the file says where they lie."""
        if tiles.xy is None:
            return named
        spots_px = section.spots_px[named.rows]
        origins = ORIGINS if settled.facts.origin is None else (settled.facts.origin,)
        centres = [centres_px(tiles, settled, side_px0, origin)[named.tiles] for origin in origins]
        away = min((np.linalg.norm(one - spots_px, axis=1) for one in centres), key=np.median) * mpp
        if np.median(away) > side_px0 * mpp:
            raise FeatureError(
                f"its tiles have the names of the spots of section {section.name}, and lie elsewhere: half of them "
                f"{np.median(away):.4g} um or more away",
                where=tiles.where,
                hint="Give the features of this very section; --scaled states the px of the places",
            )
        return replace(named, distance_um=away)

    def _tolerance(self, section: Section, side_um: float) -> float:
        if self.tolerance_um is not None:
            return self.tolerance_um
        return side_um * _TOLERANCE if section.spot_diameter_um is None else section.spot_diameter_um / 2

    def _imported(
        self, section: Section, tiles: ForeignTiles, settled: Settled, side_um: float, matched: Matched
    ) -> dict[str, Any]:
        """What the manifest says of where the features are from, and how far the spots are from their tiles."""
        count, lost = len(matched.rows), len(section.keys) - len(matched.rows)
        known = matched.distance_um[np.isfinite(matched.distance_um)]
        distance = {"median": float(np.median(known)), "max": float(known.max())} if len(known) else None
        away = "" if distance is None else f", {distance['median']:.3g} um from it (at most {distance['max']:.3g})"
        _LOG.info(
            "section %s: %s; %d of %d spots have a tile by %s%s%s",
            section.name,
            tiles.format,
            count,
            count + lost,
            matched.how,
            away,
            f", {lost} have none and are left out" if lost else "",
        )
        return {
            "format": tiles.format,
            "files": [path.name for path in tiles.paths],
            "read": settled.read,
            "by_format": settled.by_format,
            "stated": settled.stated,
            "tile_um_here": side_um,
            "how": matched.how,
            "tolerance_um": self._tolerance(section, side_um) if matched.how == "nearest" else None,
            "matched": count,
            "unmatched": lost,
            "distance_um": distance,
        }

    @staticmethod
    def _check_name(tiles: ForeignTiles, section: Section) -> None:
        """Refuse a file that says it is of another slide."""
        told = tiles.facts.slide
        if told is None or told in _names(section.name, section.image):
            return
        raise FeatureError(
            f"it says it is of the slide {told}, not of {section.name}"
            + ("" if section.image is None else f" ({section.image.name})"),
            where=tiles.where,
            hint="Give the features of this very slide; a slide that was renamed keeps its old name in their file",
        )

    def _same_encoder(self, name: str, manifest: Mapping[str, Any]) -> None:
        """Refuse to write beside features of another encoder or tile."""
        others = {**self.stored, **{one: feature_manifest(table) for one, table in self.features.items()}}
        others.pop(name, None)
        for other, theirs in others.items():
            if differences := encoder_differences(encoder_identity(theirs), encoder_identity(manifest)):
                raise FeatureError(
                    f"the folder holds features of another encoder or tile ({other}: {differences})",
                    where=self.folder,
                    hint="Choose another --out; imported features and those of embed are never mixed",
                )

    def _write_overview(self, cohort: Cohort) -> None:
        if self.folder is None:
            return
        manifests = {**self.stored, **{name: feature_manifest(table) for name, table in self.features.items()}}
        first = feature_manifest(next(iter(self.features.values())))
        shutil.rmtree(self.folder / ".shards", ignore_errors=True)
        overview = {
            "encoder": first["encoder"],
            "tile": first["tile"],
            "dtype": first["dtype"],
            "request": None,
            "imported": True,
            "embedded": list(self.features),
            "kept": [],
            "failed": {name: str(error) for name, error in self.failed.items()},
            "wanted": {name: manifests[name]["identity"] if name in self.features else None for name in cohort.names},
            "sections": {name: {key: manifests[name].get(key) for key in _OVERVIEW} for name in sorted(manifests)},
            "versions": library_versions(),
        }
        write_overview(self.folder, overview)


def _names(section: str, image: Path | None) -> list[str]:
    """Names that files of a section may have."""
    from .files import slide_name

    return [section] if image is None else list(dict.fromkeys([section, image.stem, slide_name(image)]))


def _no_slide(mpp: float) -> dict[str, Any]:
    """What a manifest says of a slide that is not at hand."""
    names = ("file", "fingerprint", "digest", "width_px", "height_px")
    return {**dict.fromkeys(names), "mpp": mpp, "mpp_source": "sheet", "upsampling": 1.0}


def _require_most(section: Section, tiles: ForeignTiles, count: int, what: str) -> None:
    if count < _FEWEST_MATCHED * len(section.keys):
        raise FeatureError(
            f"only {count:,} of {len(section.keys):,} spots of section {section.name} have the {what}",
            where=tiles.where,
            hint="Give the features of this very section",
        )
