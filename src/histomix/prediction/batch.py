"""Several slides: all are attempted, each failure is kept, and what is done is not done again."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..errors import HeadError, HistomixError
from ..heads import load_head
from ..outputs import write_composition
from ..progress import Progress, silent
from ..provenance import digest_file, digest_json, fingerprint, read_json, versions, write_json
from ..slides import open_slide
from ..spots import read_spots
from .predict import load_head_encoders, predict

if TYPE_CHECKING:
    from ..encoders import Encoder
    from ..heads import Head

PREVIEW_UM = 8.0
FILES = ("composition.h5ad", "composition.csv", "tiles.geojson", "preview.jpg")


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

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values."""
        return {
            "slide": self.slide,
            "folder": str(self.folder),
            "state": "done" if self.error is None else "failed",
            "reason": None if self.error is None else str(self.error),
            "tiles": self.tiles,
            "unreadable_tiles": self.unreadable,
            "in_scope_tiles": self.in_scope,
            "kept": self.kept,
        }


def predict_slides(
    slides: Sequence[str | os.PathLike[str]],
    head: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    mpp: float | None = None,
    at: str | os.PathLike[str] | None = None,
    stride_um: float | None = None,
    weights: Sequence[str | os.PathLike[str]] | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> list[SlideResult]:
    """Predict every slide into a folder of its own under ``out``; parameters as in `histomix.predict`.

    A slide whose ``status.json`` says that the same slide, head and settings are done is kept. A slide that fails does
    not stop the others: its result and its ``status.json`` carry the error.

    Raises
    ------
    HeadError
        Two slides would share one folder, or the head cannot be loaded.
    SectionError
        The spots file cannot be read.
    """
    paths = [Path(slide) for slide in slides]
    folders = [Path(out) / path.stem for path in paths]
    for place, folder in enumerate(folders):
        if folder in folders[:place]:
            twin = paths[folders.index(folder)]
            raise HeadError(
                f"{twin} and {paths[place]} would both be written to {folder}",
                mend="Rename one of them, or predict them with different --out folders",
            )
    spots = None if at is None else read_spots(at)
    trained = load_head(head)
    encoders = load_head_encoders(trained, weights, threads)
    settings = {
        "head": trained.card["digest"],
        "mpp": mpp,
        "stride_um": stride_um,
        "at": None if at is None else digest_file(at),
        "versions": versions("torch", "onnxruntime", "numpy"),
    }
    return [
        _predict_one(path, folder, trained, encoders, settings, mpp, spots, stride_um, batch_size, progress)
        for path, folder in zip(paths, folders, strict=True)
    ]


def _predict_one(
    path: Path,
    folder: Path,
    head: Head,
    encoders: list[Encoder],
    settings: dict[str, Any],
    mpp: float | None,
    spots: pd.DataFrame | None,
    stride_um: float | None,
    batch_size: int | None,
    progress: Progress,
) -> SlideResult:
    started = time.time()
    status = folder / "status.json"
    try:
        with open_slide(path, mpp) as slide:
            identity = digest_json({**settings, "slide": fingerprint(path)})
            before = _finished(status, identity)
            if before is not None:
                progress(f"predict {slide.name}", before["tiles"], before["tiles"])
                counts = {
                    "tiles": before["tiles"],
                    "unreadable": before["unreadable_tiles"],
                    "in_scope": before["in_scope_tiles"],
                }
                return SlideResult(path.name, folder, **counts, kept=True)
            composition = predict(
                slide, head, at=spots, stride_um=stride_um, encoders=encoders, batch_size=batch_size, progress=progress
            )
            write_composition(folder, composition, slide.thumbnail(max(PREVIEW_UM, slide.mpp)))
        result = SlideResult(
            path.name,
            folder,
            tiles=composition.n_obs,
            unreadable=int((~composition.obs["read_ok"]).sum()),
            in_scope=int(composition.obs["in_scope"].sum()),
        )
    except HistomixError as error:
        result, identity = SlideResult(path.name, folder, error=error), None
    facts = {**result.to_dict(), "identity": identity, "started": started, "seconds": round(time.time() - started, 3)}
    facts["versions"] = settings["versions"]
    try:
        write_json(status, facts)
    except HistomixError as error:
        return result if result.error is not None else SlideResult(path.name, folder, error=error)
    return result


def _finished(status: Path, identity: str) -> dict[str, Any] | None:
    if not status.is_file() or not all((status.parent / name).is_file() for name in FILES):
        return None
    facts = read_json(status, mend="Delete it to predict this slide again")
    return facts if facts.get("state") == "done" and facts.get("identity") == identity else None
