"""What is predicted, how, and what became of it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ..common.anonymity.pseudonyms import Seal
from ..common.transfer.addresses import check_address
from ..embedding.imports.slide_tiles import FeatureFiles
from ..errors import HistomixError, InputError, MissingFileError
from ..maps.areas import AREAS_FILE
from ..maps.map import MAP_FILE
from ..maps.streaming import GEOJSON_FILES
from ..maps.tissue import PREVIEW_FILE
from ..provenance import digest_file, digest_json
from ..slides import is_remote, redact_url, remote_name

#: Raised when the same inputs give other maps, so that older ones are made again; and when they give other features.
FORMAT = 3
FEATURES_FORMAT = 1
#: Tiles encoded at once. Never found from the free memory: the same command gives the same bytes everywhere.
BATCH_SIZE = 32
#: What a finished slide's folder holds, besides ``status.json`` and one of `GEOJSON_FILES`.
FILES = (MAP_FILE, "composition.csv", PREVIEW_FILE, "tissue.png", AREAS_FILE)


@dataclass(frozen=True)
class SlideJob:
    """One slide to be predicted.

    Parameters
    ----------
    slide
        Its path, or a URL.
    folder
        The folder of its results.
    mpp
        Um per px of level 0; None: as the slide says.
    mpp_serves
        Whether ``mpp`` only serves where the slide does not say its own: one that says another fails.
    name
        The slide's name in tables; that of its folder where left out.
    facts
        What a sheet says of it besides (patient, ...), carried into ``status.json`` and the map.
    local
        The copy to read where ``slide`` is a URL.
    seal
        Where the slide is not to be named: ``name`` is a pseudonym, and what else would name it is marked with this
        or left out of every file.
    verify
        Read the slide whole to see whether it is that of an earlier run, though its files look the same.

    Raises
    ------
    InputError
        The URL is of a kind that is not read, or its end is no plain name of a file.
    """

    slide: str
    folder: Path
    mpp: float | None = None
    name: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    local: Path | None = None
    seal: Seal | None = None
    verify: bool = False
    mpp_serves: bool = False

    def __post_init__(self) -> None:
        if is_remote(self.slide):
            check_address(self.slide)
            remote_name(self.slide)
        if not self.name:
            object.__setattr__(self, "name", self.folder.name)

    @property
    def path(self) -> Path:
        """The file to read."""
        return Path(self.slide) if self.local is None else self.local

    @property
    def file_name(self) -> str:
        """The name of the slide's file, whose address may hold secrets."""
        return remote_name(self.slide) if is_remote(self.slide) else Path(self.slide).name

    @property
    def shown_file(self) -> str:
        """What files call the slide's file: its name, or its pseudonym."""
        return self.file_name if self.seal is None else self.name

    @property
    def source(self) -> str:
        """The path, or the address without its secrets."""
        return redact_url(self.slide) if is_remote(self.slide) else self.slide

    @property
    def work(self) -> Path:
        """The folder of unfinished work."""
        return self.folder / ".work"


def check_places(at: object, stride_um: float | None) -> None:
    """Refuse to predict at given places and on a grid at once.

    Raises
    ------
    InputError
        Both are asked for.
    """
    if at is not None and stride_um is not None:
        raise InputError(
            "the places of a spots file lie where they lie: there is no stride between them",
            where=at if isinstance(at, str | os.PathLike) else None,
            hint="Leave out --stride-um, or leave out --at for a grid",
        )


@dataclass(frozen=True)
class Settings:
    """How slides are predicted; make it with `Settings.of`.

    Parameters
    ----------
    head
        Digest of the head.
    stride_um
        Distance of the grid's tiles; None: side by side.
    at, regions
        Paths of a spots file and of a GeoJSON with regions of interest.
    at_digest, regions_digest
        Digests of their content.
    min_tissue
        Tiles with a smaller share of tissue are left out of a grid.
    keep_features
        Keep the features of every slide for another head.
    reuse
        Output folder of an earlier run whose kept features may serve.
    features
        Features that others computed, which are read instead of the slides' tiles.
    gzip
        Compress the GeoJSON.
    batch_size
        Tiles encoded at once.
    region_names
        What to call regions instead of their names in the file: (name, pseudonym).
    """

    head: str
    stride_um: float | None = None
    at: str | None = None
    at_digest: str | None = None
    regions: str | None = None
    regions_digest: str | None = None
    min_tissue: float = 0.5
    keep_features: bool = False
    reuse: str | None = None
    features: FeatureFiles | None = None
    gzip: bool = False
    batch_size: int = BATCH_SIZE
    region_names: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def of(
        cls,
        head: str,
        *,
        at: str | os.PathLike[str] | None = None,
        regions: str | os.PathLike[str] | None = None,
        reuse: str | os.PathLike[str] | None = None,
        batch_size: int | None = None,
        **others: Any,
    ) -> Self:
        """Settings with the digests of the files that they name; InputError where places are asked for in two ways."""
        check_places(at, others.get("stride_um"))
        if reuse is not None and not Path(reuse).is_dir():
            raise MissingFileError(
                "there is no such folder", where=reuse, hint="Give the --out of a run with --keep-features"
            )
        return cls(
            head=head,
            at=None if at is None else os.fspath(at),
            at_digest=None if at is None else digest_file(at),
            regions=None if regions is None else os.fspath(regions),
            regions_digest=None if regions is None else digest_file(regions),
            reuse=None if reuse is None else os.fspath(reuse),
            batch_size=batch_size or BATCH_SIZE,
            **others,
        )

    @property
    def positions(self) -> dict[str, Any]:
        """What decides where tiles are."""
        names = ("stride_um", "at_digest", "regions_digest", "min_tissue")
        positions: dict[str, Any] = {name: getattr(self, name) for name in names}
        return positions if self.features is None else {**positions, "features": self.features.digest}

    @property
    def identity(self) -> str:
        """Digest of everything but the slide that decides what a map holds."""
        return digest_json({"format": FORMAT, "head": self.head, "gzip": self.gzip, **self.positions})

    def files_of(self, names: Collection[str]) -> tuple[str, ...]:
        """The names of the files of a finished slide; none where one is absent from ``names``.

        A large GeoJSON is packed though it was not asked for.
        """
        packed = GEOJSON_FILES[1] in names or self.gzip
        wanted = (*FILES, GEOJSON_FILES[packed])
        return wanted if set(wanted) <= set(names) else ()


@dataclass(frozen=True)
class SlideResult:
    """What became of one slide."""

    slide: str
    folder: Path
    tiles: int = 0
    unreadable: int = 0
    in_scope: int = 0
    kept: bool = False
    error: HistomixError | None = None
    remarks: tuple[str, ...] = field(default=())
    areas_mm2: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        job: SlideJob,
        facts: Mapping[str, Any] | None = None,
        *,
        kept: bool = False,
        error: HistomixError | None = None,
    ) -> Self:
        """The result of a job, from what `to_dict` or ``status.json`` tells of it.

        Parameters
        ----------
        job
            The slide.
        facts
            ``tiles``, ``unreadable_tiles``, ``in_scope_tiles``, ``areas_mm2`` and ``remarks``; what is left out is 0 or
            none.
        kept
            Whether an earlier run made the map; its remarks were made then, and are not made again.
        error
            Why there is no map.
        """
        told = facts or {}
        names = ("tiles", "unreadable_tiles", "in_scope_tiles")
        tiles, unreadable, in_scope = (int(told.get(name) or 0) for name in names)
        remarks = () if kept else tuple(told.get("remarks") or ())
        areas = {str(name): float(area) for name, area in (told.get("areas_mm2") or {}).items()}
        return cls(job.file_name, job.folder, tiles, unreadable, in_scope, kept, error, remarks, areas)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values."""
        return {
            "slide": self.slide,
            "folder": str(self.folder),
            "state": "done" if self.error is None else "failed",
            "reason": None if self.error is None else str(self.error),
            "kind": None if self.error is None else type(self.error).__name__,
            "tiles": self.tiles,
            "unreadable_tiles": self.unreadable,
            "in_scope_tiles": self.in_scope,
            "areas_mm2": {name: round(area, 6) for name, area in self.areas_mm2.items()},
            "kept": self.kept,
            "remarks": list(self.remarks),
        }
