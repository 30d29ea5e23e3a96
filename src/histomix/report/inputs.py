"""What the folders given to a report hold."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from anndata import AnnData
from PIL import Image

from ..common.geometry.pitch import nearest_pitch
from ..embedding import feature_manifest, read_features
from ..errors import InputError, MissingFileError
from ..evaluation import Evaluation, read_evaluation
from ..heads import Head
from ..maps import CompositionMap, MapSource
from ..maps.find import maps_in
from ..maps.map import MAP_FILE
from ..pl.figures import Canvas
from ..provenance import read_json, read_sealed


@dataclass(frozen=True)
class SlideMap:
    """A predicted composition map and the slide under it; ``failure`` is why a later attempt gave no newer one."""

    name: str
    composition: CompositionMap
    canvas: Canvas | None
    failure: str | None = None


@dataclass
class ReportInputs:
    """Everything a report can show, by kind; ``failed`` are slides without a map, each with the reason."""

    evaluations: list[Evaluation] = field(default_factory=list)
    canvases: dict[str, Canvas] = field(default_factory=dict)
    features: dict[str, Any] = field(default_factory=dict)
    labels: list[dict[str, Any]] = field(default_factory=list)
    heads: list[dict[str, Any]] = field(default_factory=list)
    maps: list[SlideMap] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    viewers: list[Path] = field(default_factory=list)
    orthogonals: list[dict[str, Any]] = field(default_factory=list)


#: What a report shows: an evaluation, a head or a map, or a folder that a verb of histomix made.
ReportSource = MapSource | Evaluation | Head


def report_inputs(results: Sequence[ReportSource]) -> ReportInputs:
    """Sort what was given by its kind; what a folder is the files in it tell.

    Raises
    ------
    InputError
        A folder is absent or was made by no verb of histomix.
    """
    sources = ReportInputs()
    for source in results:
        if not isinstance(source, str | os.PathLike):
            _add_object(sources, source)
            continue
        folder = Path(source)
        if not folder.is_dir():
            what = "is a file, and results are in folders" if folder.exists() else "there is no such folder"
            raise MissingFileError(what, where=folder, hint="Give folders made by the other verbs")
        maps, failed = maps_in(folder), _failed_in(folder)
        sources.failed += failed
        if (folder / "summary.json").is_file():
            facts = read_sealed(folder / "summary.json", hint="Run histomix evaluate again")
            if "orthogonal" in facts:
                sources.orthogonals.append(facts)
            else:
                sources.evaluations.append(read_evaluation(folder))
        elif (folder / "card.json").is_file():
            read_sealed(folder / "card.json", hint="Train it again, or restore it from a copy")  # refused where edited
            sources.heads.append(read_json(folder / "card.json"))
        elif maps or failed:
            sources.maps += [_slide_map(CompositionMap.open(path), path.name) for path in maps]
        elif any(folder.glob("*.h5ad")):
            _add_features(sources, folder)
        elif (folder / "index.html").is_file() and (folder / "data").is_dir():
            sources.viewers.append(folder / "index.html")
        elif (folder / "manifest.json").is_file():
            sources.labels.append(read_json(folder / "manifest.json"))
        else:
            raise InputError(
                "holds nothing that a report can show",
                where=folder,
                hint="Give folders made by label, embed, train, evaluate, predict or view",
            )
    return sources


def _failed_in(folder: Path) -> list[tuple[str, str]]:
    """Slides of a folder of maps that could not be predicted, each with the reason that its status gives."""
    found = []
    for file in sorted(folder.glob("*/status.json")):
        facts = {} if (file.parent / MAP_FILE).is_file() else read_json(file)
        if facts.get("state") == "failed":
            found.append((file.parent.name, str(facts.get("reason") or "no reason was noted")))
    return found


def _add_object(sources: ReportInputs, source: AnnData | CompositionMap | Evaluation | Head) -> None:
    if isinstance(source, Head):
        sources.heads.append(source.card)
    elif not isinstance(source, Evaluation):
        one = CompositionMap.of(source)
        sources.maps.append(_slide_map(one, one.name))
    elif "orthogonal" in source.summary:
        sources.orthogonals.append(source.summary)
    else:
        sources.evaluations.append(source)


def _slide_map(one: CompositionMap, name: str) -> SlideMap:
    image, canvas = one.preview(), None
    if image is not None:
        scale = image.shape[1] / one.slide["width_px"]
        canvas = Canvas(image, scale, one.cell_px, one.at_spots, one.mpp / scale)
    status = one.status()
    failure = str(status.get("reason")) if status.get("state") == "failed" else None
    return SlideMap(name, one, canvas, failure)


def _add_features(sources: ReportInputs, folder: Path) -> None:
    for section, features in read_features(folder).items():
        manifest = feature_manifest(features)
        sources.features = {"encoder": manifest["encoder"], "tile": manifest["tile"], "slide": manifest["slide"]}
        preview = folder / "previews" / f"{section}.jpg"
        if preview.is_file():
            image = _read_image(preview)
            slide = manifest["slide"]
            scale = image.shape[1] / slide["width_px"]
            sources.canvases[section] = Canvas(image, scale, _mark_px(features), True, slide["mpp"] / scale)


def _mark_px(features: ad.AnnData) -> float:
    """Diameter of a spot on a map, level-0 px: a little less than the usual distance to the nearest spot."""
    xy_px = np.asarray(features.obsm["spatial"], dtype=float)
    return 0.85 * nearest_pitch(xy_px) if len(xy_px) > 1 else 100.0


def _read_image(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
