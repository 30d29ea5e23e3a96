"""From folders of other verbs to the slides of a viewer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from ..common.geometry.pitch import nearest_pitch
from ..common.paths import as_list
from ..common.words import counted, whole_percent
from ..errors import InputError, MissingFileError, UnknownNameError
from ..evaluation import Evaluation, read_evaluation
from ..maps import CompositionMap, MapSource
from ..maps.areas import areas_sentence
from ..maps.find import maps_in
from ..pl.scores import shown_head
from ..prediction.inputs.sources import is_slide_folder
from ..prediction.status import PLACE, read_status
from ..provenance import fingerprint
from ..slides import Slide, open_slide
from ..spots import Cohort
from .writer import ViewerSlide

_HINT = "Name its file, or the folder it is in, with --slides; or its cohort sheet with --sheet"
_SHEET = "Name the cohort sheet that has this section and its image with --sheet"


@dataclass
class _Images:
    """Where slides are, by file name and by section."""

    files: dict[str, list[Path]] = field(default_factory=dict)
    sections: dict[str, tuple[Path, float | None]] = field(default_factory=dict)
    prints: dict[Path, str] = field(default_factory=dict)

    def add(self, path: Path) -> None:
        """Know of one more slide; another of its name is told from it by its content."""
        known = self.files.setdefault(path.name, [])
        if path not in known:
            known.append(path)

    def open(self, name: str, mpp: float | None, digest: str | None, wanted_by: str) -> Slide:
        """Open a slide by its file name, or by its content where it has none; it must be the one that was predicted."""
        named = self.files.get(name, [])
        path = named[0] if named else None
        if digest is not None and (len(named) != 1 or self._print(named[0]) != digest):
            others = named or [file for files in self.files.values() for file in files]
            path = next((file for file in others if self._print(file) == digest), path)
        if path is None:
            raise MissingFileError(f"the slide {name} was not found", where=wanted_by, hint=_HINT)
        if digest is not None and self._print(path) != digest:
            raise InputError(
                "is not the slide that the map was made of (its fingerprint differs)",
                where=path,
                hint="Give the slide as it was, or predict this one",
            )
        return open_slide(path, mpp)

    def _print(self, path: Path) -> str:
        if path not in self.prints:
            self.prints[path] = fingerprint(path)
        return self.prints[path]


#: What a viewer shows: a map, an evaluation, the folder of either or of several maps, or a slide that is open.
ViewSource = MapSource | Evaluation | ViewerSlide


@contextlib.contextmanager
def viewer_slides(
    results: ViewSource | Sequence[ViewSource],
    slides: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    cohort: Cohort | str | os.PathLike[str] | None = None,
    head: str | None = None,
) -> Iterator[list[ViewerSlide]]:
    """Open the slides of maps and evaluations, with what was predicted on them.

    Parameters
    ----------
    results, slides, cohort, head
        As for `histomix.write_viewer`.

    Raises
    ------
    InputError
        A folder holds neither maps nor an evaluation, or a slide is not found or not the one that was predicted.
    SlideError
        A slide cannot be opened.
    """
    images = _Images()
    for given in map(Path, as_list(slides)):
        if not given.exists():
            raise MissingFileError("there is no such slide or folder", where=given, hint="Check --slides")
        for path in [given] if is_slide(given) else _slides_in(given):
            images.add(path)
    for row in () if cohort is None else Cohort.of(cohort).rows:
        if row.image is not None:
            images.sections[row.section] = (Path(row.image), row.mpp)
            images.add(Path(row.image))
    with contextlib.ExitStack() as stack:
        views: list[ViewerSlide] = []
        for source in as_list(results):
            if isinstance(source, ViewerSlide):
                views.append(source)  # whoever opened it closes it
                continue
            for view in _views(source, images, head):
                stack.callback(view.slide.close)
                views.append(view)
        yield views


def _views(source: MapSource | Evaluation, images: _Images, head: str | None) -> Iterator[ViewerSlide]:
    if isinstance(source, Evaluation):
        yield from _sections(source, images, head, "evaluation")
        return
    if not isinstance(source, str | os.PathLike):
        yield _map(CompositionMap.of(source, needs=["head"]), images)
        return
    folder = Path(source)
    if not folder.is_dir():
        what = "is a file, and results are in folders" if folder.exists() else "there is no such folder"
        raise MissingFileError(what, where=folder, hint="Give folders made by predict or evaluate")
    maps = maps_in(folder)
    if (folder / "summary.json").is_file():
        yield from _sections(read_evaluation(folder), images, head, str(folder))
    elif maps:
        for place in maps:
            yield _map(CompositionMap.open(place, needs=["head"]), images, place)
    else:
        raise InputError(
            "holds neither a composition map nor an evaluation",
            where=folder,
            hint="Give folders made by predict or evaluate",
        )


def is_slide(path: Path) -> bool:
    """A file, or a folder that is one slide, as `histomix.predict_slides` has it."""
    return path.is_file() or (path.is_dir() and is_slide_folder(path))


def _slides_in(folder: Path) -> list[Path]:
    """Files and slides of a folder, at any depth; the inside of a slide that is a folder is no other slide."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if is_slide(path):
            found.append(path)
        elif path.is_dir():
            found += _slides_in(path)
    return found


def _predicted_at(folder: Path) -> Path | None:
    """Where the slide of a map was when it was predicted, if it still is there.

    A map of somebody else leads to no file beyond the folder that slides and maps are in, as none is told of there.
    """
    told = read_status(folder).get(PLACE)
    if not isinstance(told, str):
        return None
    place = folder.absolute()
    path = Path(os.path.normpath(place / told))
    return path if path.is_relative_to(place.parent.parent) and path.exists() else None


def _map(one: CompositionMap, images: _Images, folder: Path | None = None) -> ViewerSlide:
    facts, head = one.slide, one.head
    if folder is not None and (there := _predicted_at(folder)) is not None:
        images.add(there)
    slide = images.open(facts["file"], facts["mpp"], facts["fingerprint"], str(folder or one.where))
    training = head.get("training", {})
    words = f"Head {head['name']}"
    if training:
        words += f", trained on {counted(training['n_spots'], 'spot')} of {counted(training['n_donors'], 'donor')}"
    readable = one.read_ok
    notes = [] if readable.all() else [f"{counted(int((~readable).sum()), 'tile')} could not be read."]
    scope = float(one.in_scope[readable].mean()) if readable.any() else 0.0
    notes.append(f"{whole_percent(scope)} of the readable tiles are in scope of the head; the others are in no number.")
    if one.areas_mm2:
        notes.append(f"{areas_sentence(one.areas_mm2)}.")
    name = folder.name if folder else one.name
    return ViewerSlide(name, slide, one.adata, head=f"{words}.", notes=notes, areas=one.not_read())


def _sections(evaluation: Evaluation, images: _Images, head: str | None, where: str) -> Iterator[ViewerSlide]:
    chosen = head or shown_head(evaluation)
    if chosen not in evaluation.predictions:
        raise UnknownNameError(
            f"the evaluation has no head {chosen!r}",
            where=where,
            hint=f"Choose one of: {', '.join(evaluation.predictions)}",
        )
    facts = evaluation.summary
    for name, predicted in evaluation.predictions[chosen].items():
        if name not in images.sections:
            raise MissingFileError(f"the image of section {name} was not found", where=where, hint=_SHEET)
        path, mpp = images.sections[name]
        slide = open_slide(path, mpp)
        yield ViewerSlide(
            name,
            slide,
            _spots(predicted, evaluation.positions[name].loc[predicted.index], slide, facts),
            label=evaluation.labels[name],
            head=f"Head {chosen}, {facts['protocol']} folds ({facts['protocol_means']}).",
        )


def _spots(predicted: pd.DataFrame, places: pd.DataFrame, slide: Slide, facts: Mapping[str, Any]) -> ad.AnnData:
    """Predictions at spots in the form of a composition map."""
    xy_px = places[["x_px", "y_px"]].to_numpy(float)
    table = ad.AnnData(
        predicted.to_numpy(np.float32), obs=places, var=pd.DataFrame(index=[str(name) for name in predicted.columns])
    )
    table.obsm["spatial"] = xy_px
    # Spots are drawn a little smaller than the usual distance to the nearest one.
    pitch = nearest_pitch(xy_px) if len(xy_px) > 1 else 100 / slide.mpp
    table.uns["manifest"] = {"unit": facts["unit"], "places": "spots", "cell_px": 0.85 * pitch}
    return table
