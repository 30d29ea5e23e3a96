"""`CompositionMap`: what a prediction is, on disk and in memory; everyone who reads maps reads them here."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from anndata import AnnData

from ..common.anonymity.nameless import file_stem
from ..common.formats import MAP_FORMAT, refuse_newer
from ..common.storage.altered import STATUS, refuse_altered
from ..common.storage.facts import read_facts
from ..common.storage.h5ad import read_h5ad
from ..common.strangers.hdf5 import absent_parts
from ..common.words import NOT_KNOWN, NOT_TOLD, RESEARCH_USE
from ..errors import MapError, MissingMapError
from ..provenance import read_json
from .areas import AREAS_FILE, read_areas
from .checks import check_map
from .describe import CompositionDescription, describe
from .reading import LEVELS, Reading, reading_of
from .tissue import PREVIEW_FILE, read_picture

MAP_FILE = "composition.h5ad"
#: Layers that hold the ends of intervals.
BOUNDS = ("lower", "upper")
#: What every map in a file says of itself; tables of other kinds have manifests too.
_FACTS = {"slide", "unit", "places", "cell_px"}
_AGAIN = "Run predict again for this slide"


class CompositionMap:
    """A composition map: the table that `histomix.predict` returns, with what it says of itself.

    Parameters
    ----------
    adata
        Tiles x cell types, as `histomix.predict` returns it; it is not copied.
    file
        Where it was read from; None for a map in memory.

    Attributes
    ----------
    adata, file
        As given.
    manifest
        The facts of the run: what was predicted, of which slide, with which head.

    Raises
    ------
    MapError
        The table has no manifest, or that of a newer histomix.
    """

    def __init__(self, adata: AnnData, file: str | os.PathLike[str] | None = None) -> None:
        self.adata = adata
        self.file = None if file is None else Path(file)
        self.manifest = _manifest(adata, self.where)

    @classmethod
    def open(cls, path: str | os.PathLike[str], needs: Sequence[str] = ()) -> Self:
        """Open the map of a folder that ``histomix predict`` wrote, or its ``composition.h5ad``.

        Parameters
        ----------
        path
            The folder or the file.
        needs
            Facts that the manifest must have besides those of every map.

        Raises
        ------
        MapError
            There is no map, it is damaged or something else, a newer histomix made it, or a file of its folder was
            changed since ``status.json`` said that it is done.
        InputError
            ``status.json`` is damaged.
        """
        place = Path(path)
        file = place / MAP_FILE if place.is_dir() else place
        if not file.is_file():
            hint = "Give the folder of a slide that histomix predict wrote"
            raise MissingMapError("there is no composition map", where=file, hint=hint)
        composition = cls(read_h5ad(file, MapError, "is damaged or no composition map", _AGAIN), file)
        if absent := absent_parts(file, ("obs", "var")):
            # AnnData would number tiles and cell types instead.
            raise MapError(f"lacks {' and '.join(absent)}", where=file, hint=_AGAIN)
        composition._require({*_FACTS, *needs})
        check_map(composition.adata, composition.manifest, composition.where)
        if file.name == MAP_FILE:
            refuse_altered(file.parent, MAP_FILE)
        return composition

    @staticmethod
    def of(source: CompositionMap | AnnData | str | os.PathLike[str], needs: Sequence[str] = ()) -> CompositionMap:
        """The map itself, of a table in memory, or opened; ``needs`` as for `open`. Raises as the ways to make one."""
        if isinstance(source, str | os.PathLike):
            return CompositionMap.open(source, needs)
        composition = source if isinstance(source, CompositionMap) else CompositionMap(source)
        composition._require(set(needs))
        return composition

    def _require(self, facts: set[str]) -> None:
        absent = ", ".join(sorted(facts - set(self.manifest)))
        if absent:
            what = f"is no composition map: its manifest lacks {absent}"
            raise MapError(what, where=self.where, hint="Give folders made by predict")

    def __len__(self) -> int:
        return int(self.adata.n_obs)

    def __repr__(self) -> str:
        of = f"{self.name or 'a slide'}: {len(self):,} tiles x {len(self.cell_types)} cell types"
        return f"CompositionMap({of}, {self.unit})"

    def _repr_html_(self) -> str:
        return self.describe()._repr_html_()

    def describe(self) -> CompositionDescription:
        """The map in words and numbers, of the tiles that could be read and are in scope."""
        reading = self.reading
        facts = {
            "slide": str(self.slide["file"]),
            "tiles": len(self),
            "in_scope": int(self.in_scope.sum()),
            "unit": self.unit,
            "head": str(self.head.get("name", "")),
        }
        told = {
            "statement": reading.statement,
            "intervals": reading.calibrated_on and f"calibrated on {reading.calibrated_on}",
            "slide_remarks": " ".join(reading.remarks),
            "limits": reading.limits,
            "numbers": reading.refers_to,
            "use": RESEARCH_USE,
        }
        facts |= {name: words for name, words in told.items() if words}
        return describe(self.values(), self.bounds, facts, reading.used)

    @property
    def reading(self) -> Reading:
        """What may be read from the map: which tiles count, and the words to say beside its numbers."""
        return reading_of(
            self.manifest,
            self.read_ok,
            self.in_scope,
            {name: str(word) for name, word in self._of_types("good_for", NOT_KNOWN).items()},
            pd.DataFrame({fact: self._of_types(fact, np.nan) for fact in LEVELS}, self.cell_types),
        )

    @property
    def where(self) -> str:
        """The file in messages."""
        return "composition" if self.file is None else str(self.file)

    @property
    def folder_name(self) -> str:
        """What the map's folder is called, or a file of another name; "" for a map in memory."""
        if self.file is None:
            return ""
        return self.file.parent.resolve().name if self.file.name == MAP_FILE else self.file.stem

    @property
    def name(self) -> str:
        """What the map is called: as its prediction was told, else as its folder, else as the slide's file."""
        return str(self.manifest.get("name") or self.folder_name or file_stem(str(self.slide.get("file", ""))))

    @property
    def anonymised(self) -> bool:
        """Whether the names in the map are pseudonyms."""
        return bool(self.manifest.get("anonymised"))

    @property
    def slide(self) -> dict[str, Any]:
        """Of the slide: ``file``, ``fingerprint``, ``mpp``, ``width_px``, ``height_px``, ``bounds_px``."""
        return dict(self.manifest.get("slide") or {})

    @property
    def mpp(self) -> float:
        """Um per px of the slide's level 0."""
        return float(self.slide["mpp"])

    @property
    def head(self) -> dict[str, Any]:
        """Of the head: ``name``, ``digest``, ``encoders``, ``training``; empty where the map does not say it."""
        return dict(self.manifest.get("head") or {})

    @property
    def unit(self) -> str:
        """``"proportion"``, ``"cells per spot"``, or ``"relative abundance"`` (totals are no cells)."""
        return str(self.manifest.get("unit", ""))

    @property
    def tile(self) -> dict[str, Any]:
        """What the head saw of each place: ``size_px``, ``mpp``, ``stride_um``."""
        return dict(self.manifest["tile"])

    @property
    def cell_px(self) -> float:
        """Side of the square that a value stands for, level-0 px; at spots the size of the tile."""
        return float(self.manifest["cell_px"])

    @property
    def tile_um(self) -> float:
        """Side of the tile that the head saw of each place, um; tiles of a dense grid overlap."""
        tile = self.manifest.get("tile")
        return float(tile["size_px"]) * float(tile["mpp"]) if tile else self.cell_px * self.mpp

    @property
    def at_spots(self) -> bool:
        """Whether the tiles are around given spots, not on a grid."""
        return bool(self.manifest["places"] == "spots")

    @property
    def fragments(self) -> int:
        """How many fragments of tissue the slide has; ``adata.obs["fragment"]`` counts them from 1."""
        return int(self.manifest.get("fragments", 1))

    @property
    def regions(self) -> list[str]:
        """Names of the regions that were predicted; ``adata.obs["region"]`` has that of each tile."""
        return [str(name) for name in self.manifest.get("regions") or []]

    @property
    def cell_types(self) -> list[str]:
        """Names of the k cell types."""
        return [str(name) for name in self.adata.var_names]

    @property
    def xy_px(self) -> np.ndarray:
        """Centres of the tiles, float64 (n, 2), level-0 px."""
        return np.asarray(self.adata.obsm["spatial"], dtype=float)

    def values(self) -> pd.DataFrame:
        """The composition, tiles x cell types, in `unit`; NaN where a tile could not be read."""
        return self._table(self.adata.X)

    @property
    def bounds(self) -> dict[str, pd.DataFrame]:
        """``lower`` and ``upper`` ends of the intervals, as `values`; empty for a head that is not calibrated."""
        return {name: self._table(self.adata.layers[name]) for name in BOUNDS if name in self.adata.layers}

    @property
    def lower(self) -> pd.DataFrame | None:
        """Lower ends of the intervals, or None."""
        return self.bounds.get("lower")

    @property
    def upper(self) -> pd.DataFrame | None:
        """Upper ends of the intervals, or None."""
        return self.bounds.get("upper")

    @property
    def novelty(self) -> np.ndarray:
        """Percentile among held-out training tiles, float64 (n,) of 0 to 1; NaN where it is not known."""
        return self._column("novelty", np.nan, float)

    @property
    def in_scope(self) -> np.ndarray:
        """Which tiles are like those of the training, bool (n,)."""
        return self._column("in_scope", True, bool)

    @property
    def read_ok(self) -> np.ndarray:
        """Which tiles could be read, bool (n,)."""
        return self._column("read_ok", True, bool)

    @property
    def in_focus(self) -> np.ndarray:
        """Which tiles are in focus, as far as it is known, bool (n,)."""
        return self._column("in_focus", True, bool)

    @property
    def answer(self) -> np.ndarray | None:
        """What each tile is answered with, str (n,): a cell type, a group, or why there is none; None for an older map.

        A cell type or a group is what the tile holds most of, as fine as the head can tell; ``adata.obs`` has the
        interval of its share of the cells in ``answer_lower`` and ``answer_upper``.
        """
        if "answer" not in self.adata.obs:
            return None
        return np.asarray(self.adata.obs["answer"].astype(object).fillna(NOT_TOLD).astype(str))

    @property
    def answer_statement(self) -> str:
        """What an answer is and how many of them miss, in sentences; "" for a map without answers."""
        told = self.manifest.get("answers")
        statement = told.get("statement") if isinstance(told, Mapping) else None
        return statement if isinstance(statement, str) and self.answer is not None else ""

    @property
    def areas_mm2(self) -> dict[str, float]:
        """What became of the tissue, mm2 by name of `histomix.maps.areas.REASONS`; empty for an older map."""
        told = self.manifest.get("tissue_areas")
        areas = told.get("mm2") if isinstance(told, Mapping) else None
        return {str(name): float(area) for name, area in areas.items()} if isinstance(areas, Mapping) else {}

    def not_read(self) -> np.ndarray | None:
        """The raster of what was read and why not, uint8 codes of `histomix.maps.areas.REASONS` in its order from 1.

        Raises
        ------
        MapError
            The file beside the map is damaged.
        """
        path = self._beside(AREAS_FILE)
        return None if path is None else read_areas(path)

    def preview(self) -> np.ndarray | None:
        """The slide at low resolution, uint8 (height, width, 3), where it lies beside the map."""
        return self._picture(PREVIEW_FILE)

    def tissue(self) -> np.ndarray | None:
        """The slide with its tissue outlined, uint8 (height, width, 3), where it lies beside the map."""
        return self._picture("tissue.png")

    def status(self) -> dict[str, Any]:
        """What ``status.json`` beside the map says of the last run on the slide; empty where there is none.

        Raises
        ------
        InputError
            It is damaged.
        """
        path = self._beside(STATUS)
        return {} if path is None else read_json(path, hint="Predict this slide again")

    def _table(self, values: Any) -> pd.DataFrame:
        return pd.DataFrame(np.asarray(values), index=self.adata.obs_names, columns=self.cell_types)

    def _column(self, name: str, otherwise: object, dtype: type) -> np.ndarray:
        if name not in self.adata.obs:
            return np.full(len(self), otherwise, dtype)
        return np.asarray(self.adata.obs[name].to_numpy(dtype))

    def _of_types(self, name: str, otherwise: object) -> dict[str, Any]:
        """What ``adata.var`` says of each cell type."""
        told = self.adata.var[name].tolist() if name in self.adata.var else [otherwise] * len(self.cell_types)
        return dict(zip(self.cell_types, told, strict=True))

    def _beside(self, name: str) -> Path | None:
        path = None if self.file is None else self.file.parent / name
        return path if path is not None and path.is_file() else None

    def _picture(self, name: str) -> np.ndarray | None:
        path = self._beside(name)
        return None if path is None else read_picture(path)


def _manifest(adata: AnnData, where: str) -> dict[str, Any]:
    """The facts of a map. Raises as `CompositionMap`."""
    try:
        manifest = read_facts(adata.uns["manifest"])
    except KeyError as error:
        raise MapError("is no composition map: it has no manifest", where=where, hint=_AGAIN) from error
    except ValueError as error:
        what = f"is damaged or no composition map (its manifest cannot be read: {error})"
        raise MapError(what, where=where, hint=_AGAIN) from error
    if not isinstance(manifest, Mapping):
        raise MapError("is no composition map: its manifest is no list of facts", where=where, hint=_AGAIN)
    refuse_newer(manifest, MAP_FORMAT, "the map was", where, MapError)
    return dict(manifest)
