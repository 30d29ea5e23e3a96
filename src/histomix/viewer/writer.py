"""The viewer: slides, composition and labels in one folder that opens from disk.

The page's own program (``assets/*.js``, about 1,800 lines on the browser's canvas) draws it, without a library. A
hundred thousand tiles are one small picture whose pixels are the tiles, made anew for each cell type in a few
milliseconds and enlarged by the canvas; the slide beneath is a pyramid of JPEGs. Bokeh's picture tiles are those of map
servers, and nothing of it reads a slide's pyramid from disk; OpenSeadragon does, but comes from npm, and a canvas that
has drawn picture files from disk may not be read again, so the view could not be saved.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pandas as pd

from .._version import __version__
from ..common.anonymity.nameless import Renaming, nameless_keys
from ..common.anonymity.pseudonyms import Pseudonyms
from ..common.palette import SIGNED_MAP, TRUST_MAP, type_colours
from ..common.words import RESEARCH_USE
from ..errors import InputError
from ..maps import CompositionMap
from ..maps.answers import answers_sentence
from ..maps.areas import REASONS
from ..maps.reading import words_by_type
from ..maps.varying import varying_types
from ..pages.page import source_digest
from ..progress import Progress
from ..provenance import atomic_path, require_folder
from ..slides import Slide
from .encode import areas_picture, script_json, write_script
from .layers import Numbers, write_overview, write_places, write_state, write_type
from .pyramid import TILE_PX, pyramid_levels, write_pyramid

if TYPE_CHECKING:
    from anndata import AnnData

#: The finest scale stored: nuclei have a shape, and a slide takes a quarter of what it does at 0.25.
VIEW_MPP = 0.5
COLOUR_MAPS = ("viridis", "cividis", "magma")
_SCRIPTS = (
    *("core", "pyramid", "colours", "overlay", "scene", "pane", "selection", "regions", "readout", "export"),
    *("overview", "slides", "panel", "main"),
)
_OURS = {"index.html", "data"}
NOVELTY_WORDS = "novelty, percentile of held-out training tiles"


@dataclass(frozen=True)
class ViewerSlide:
    """One slide of a viewer.

    Parameters
    ----------
    name
        What the viewer calls it.
    slide
        The open slide; its pixels are copied at `VIEW_MPP`.
    composition
        A map from `histomix.predict`: tiles x cell types.
    label
        Labels at (some of) the same places, with the same cell types, for the second pane.
    head
        Which head made the composition, in words.
    notes
        What a reader must know.
    areas
        The raster of what was read and what was not (`histomix.maps.CompositionMap.not_read`), for a layer of its own.
    """

    name: str
    slide: Slide
    composition: AnnData
    label: pd.DataFrame | None = None
    head: str = ""
    notes: Sequence[str] = field(default_factory=tuple)
    areas: np.ndarray | None = None


def check_viewer_folder(out: str | os.PathLike[str]) -> None:
    """Refuse to replace a file, or a folder that holds anything a viewer did not write."""
    place = Path(out)
    require_folder(place)
    foreign = sorted(path.name for path in place.iterdir() if path.name not in _OURS) if place.is_dir() else []
    if foreign:
        raise InputError(
            f"holds {foreign[0]!r}, which no viewer wrote and replacing the folder would delete",
            where=place,
            hint="Choose an empty or new folder as --out",
        )


def write_pages(
    slides: Sequence[ViewerSlide],
    out: str | os.PathLike[str],
    *,
    title: str,
    mpp: float,
    names: Pseudonyms | None,
    progress: Progress,
) -> Path:
    """Write the viewer of open slides; parameters and errors are those of `histomix.write_viewer`."""
    place = Path(out)
    if names is not None:
        slides = [_nameless(one, names) for one in slides]
        names.save()
    with atomic_path(place) as folder:
        (folder / "data").mkdir(parents=True)
        metas = [_write_slide(one, f"s{number}", folder / "data", mpp, progress) for number, one in enumerate(slides)]
        facts = {
            **{"title": title, "version": __version__, "slides": metas, "tile_px": TILE_PX, "use": RESEARCH_USE},
            **{"maps": {name: _colour_map(name) for name in COLOUR_MAPS}, "signed": _colour_map(SIGNED_MAP)},
            "trust": _colour_map(TRUST_MAP),
        }
        (folder / "index.html").write_text(_page(title, facts), encoding="utf-8", errors="replace", newline="\n")
    return place / "index.html"


def _nameless(one: ViewerSlide, names: Pseudonyms) -> ViewerSlide:
    known = CompositionMap.of(one.composition)
    keys = pd.Index(known.adata.obs_names.astype(str))
    told = pd.Index(nameless_keys(list(keys)))
    composition = known.adata.copy()
    composition.obs_names = told
    label = None if one.label is None else one.label.reindex(keys).set_axis(told, axis=0)
    if known.anonymised:
        return replace(one, composition=composition, label=label)
    name = names.slide(known.manifest.get("name") or one.name)
    renaming = Renaming({one.name: name, one.slide.path.name: name, one.slide.name: name})
    head, notes = renaming.sentence(one.head), [renaming.sentence(str(note)) for note in one.notes]
    return replace(one, name=name, composition=composition, label=label, head=head, notes=notes)


def _write_slide(one: ViewerSlide, key: str, data: Path, mpp: float, progress: Progress) -> dict[str, Any]:
    folder = data / key
    folder.mkdir()
    slide, composition = one.slide, CompositionMap.of(one.composition)
    levels = pyramid_levels(slide.width_px, slide.height_px, slide.mpp, mpp)
    total = sum(level.columns * level.rows for level in levels)
    (folder / "tiles").mkdir()
    present = write_pyramid(
        slide, folder / "tiles", f"{key}/tiles", levels, lambda done: progress(f"view {one.name}", done, total)
    )
    obs, types = composition.adata.obs, composition.cell_types
    colours, reading = type_colours(types), composition.reading
    label = None if one.label is None else one.label.reindex(index=obs.index, columns=types).to_numpy(float)
    values = composition.values().to_numpy(float)
    means = {
        "value": [None] * len(types) if reading.statement else _means(values[reading.used]),
        "label": None if label is None else _means(label),
    }
    bounds = {name: table.to_numpy(float) for name, table in composition.bounds.items()}
    numbers = Numbers(values, bounds, label, np.asarray(composition.in_scope, bool), means["value"] or [])
    varying = [types.index(name) for name in varying_types(composition).shown] if label is None else []
    tops = [write_type(folder, key, number, numbers) for number in range(len(types))]
    differs_top = write_overview(folder, key, numbers, varying)
    answers = write_state(folder, key, composition, numbers)
    write_places(folder, key, composition)
    raster = one.areas if composition.areas_mm2 else None
    if raster is not None:
        write_script(folder, key, "areas", areas_picture(raster))
    told = [*one.notes, answers_sentence(composition), *reading.notes, words_by_type(reading.good_for)]
    return {
        "key": key,
        "name": one.name,
        "kind": "Maps" if label is None else "Sections with labels",
        "head": one.head,
        "notes": [str(note) for note in told if note],
        "statement": reading.statement,
        "varying": varying,
        "differs_top": differs_top,
        "good_for": [reading.good_for[name] for name in types],
        "refers_to": reading.refers_to,
        "refers_short": reading.refers_short,
        "limits": reading.limits,
        "remarks": reading.remarks,
        "calibrated_on": reading.calibrated_on if reading.caution else "",
        "width_px": slide.width_px,
        "height_px": slide.height_px,
        "mpp": slide.mpp,
        "levels": [
            {"mpp": level.mpp, "columns": level.columns, "rows": level.rows, "tiles": tiles}
            for level, tiles in zip(levels, present, strict=True)
        ],
        "types": types,
        "answers": answers,
        "colours": [[round(255 * part) for part in colours[name]] for name in types],
        "unit": composition.unit,
        "n": len(composition),
        "cell_px": composition.cell_px,
        "spots": composition.at_spots,
        "has_bounds": len(bounds) == 2,
        "has_label": label is not None,
        "has_scope": "in_scope" in obs,
        "has_novelty": bool(np.isfinite(np.asarray(composition.novelty, float)).any()),
        "interval_words": _interval_words(composition),
        "novelty_words": NOVELTY_WORDS,
        "top": max(tops, default=1.0),
        "means": means,
        "areas": [] if raster is None else _areas(composition),
        "areas_px": [0, 0] if raster is None else _raster_px(composition, raster),
    }


def _areas(composition: CompositionMap) -> list[list[Any]]:
    """Title, colour and mm2 of each part of the tissue that there is, the largest first."""
    areas = composition.areas_mm2
    there = sorted((reason for reason in REASONS if areas.get(reason.name)), key=lambda reason: -areas[reason.name])
    return [[reason.title, list(reason.colour), round(areas[reason.name], 6)] for reason in there]


def _raster_px(composition: CompositionMap, raster: np.ndarray) -> list[float]:
    """Width and height of the raster of areas, level-0 px."""
    scale = float(composition.manifest["tissue_areas"]["mpp"]) / composition.mpp
    return [raster.shape[1] * scale, raster.shape[0] * scale]


def _interval_words(composition: CompositionMap) -> str:
    """What the intervals are, with their level where the map says it."""
    facts = composition.manifest.get("calibration") or composition.head.get("calibration") or {}
    level = facts.get("level")
    return f"{100 * level:g} % interval" if isinstance(level, int | float) else "interval"


def _means(values: np.ndarray) -> list[float]:
    known = np.isfinite(values).all(axis=1)
    return [round(float(value), 6) for value in values[known].mean(axis=0)] if known.any() else [0.0] * values.shape[1]


def _colour_map(name: str) -> list[list[int]]:
    colours = np.asarray(matplotlib.colormaps[name](np.linspace(0, 1, 256)))[:, :3]
    return (colours * 255).round().astype(int).tolist()  # type: ignore[no-any-return]


def _page(title: str, facts: Mapping[str, Any]) -> str:
    """The page: its policy allows the program and the style of the package, and scripts that this program loads."""
    assets = files(__package__) / "assets"
    script = "\n".join((assets / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)
    style = (assets / "viewer.css").read_text(encoding="utf-8")
    page = (assets / "viewer.html").read_text(encoding="utf-8")
    parts = {
        "TITLE": html.escape(title),
        "USE": html.escape(RESEARCH_USE),
        "SCRIPT_HASH": source_digest(script),
        "STYLE_HASH": source_digest(style),
        "STYLE": style,
        "FACTS": script_json(facts),
        "SCRIPT": script,
    }
    return re.sub(r"@@([A-Z_]+)@@", lambda match: parts[match[1]], page)
