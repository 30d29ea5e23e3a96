"""`histomix.write_viewer`: maps and evaluations in a zoomable viewer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common.anonymity.pseudonyms import Pseudonyms, pseudonym_file
from ..common.paths import as_list, paths_among
from ..errors import InputError
from ..progress import Progress, progress_bars
from ..spots import Cohort
from .sources import ViewSource, viewer_slides
from .writer import VIEW_MPP, check_viewer_folder, write_pages


@dataclass(frozen=True)
class Viewer:
    """A viewer that was written.

    Attributes
    ----------
    page
        What to open.
    slides
        The names of its slides before any pseudonyms.
    """

    page: Path
    slides: tuple[str, ...]


def write_viewer(
    results: ViewSource | Sequence[ViewSource],
    out: str | os.PathLike[str],
    *,
    slides: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    cohort: Cohort | str | os.PathLike[str] | None = None,
    head: str | None = None,
    title: str = "Cell types, read from H&E",
    mpp: float = VIEW_MPP,
    anonymise: bool = False,
    pseudonym_key: str | os.PathLike[str] | None = None,
    progress: Progress | bool = True,
) -> Viewer:
    """Write ``out/index.html`` and ``out/data/``: a zoomable viewer that opens from disk and loads nothing remote.

    The pictures of the slides are copied into it, so that it can be handed on as one folder.

    Parameters
    ----------
    results
        At least one: maps and evaluations, or the folders that `histomix.predict_slides` and `histomix.evaluate`
        wrote; or slides that are open already, as `histomix.viewer.ViewerSlide`.
    out
        Folder of the viewer; an earlier viewer there is replaced.
    slides
        Slides, or folders of slides. They are found by their names, and must be the files that were predicted.
    cohort
        Where the images of an evaluation's sections are: a cohort or its sheet.
    head
        The head of an evaluation to show; the last one that is no baseline when left out.
    title
        Words at the top.
    mpp
        Finest scale of the pictures, um per px.
    anonymise
        Call slides and sections by pseudonyms, and spots by numbers where their keys are no platform's.
    pseudonym_key
        The key file of the pseudonyms; see `histomix.common.anonymity.pseudonyms.key_file`.
    progress
        Bars in a terminal or notebook; False for none, or a function that is told how many pictures of each slide are
        written.

    Returns
    -------
    Viewer
        Its page, and which slides it has.

    Raises
    ------
    InputError
        There is nothing to show; a folder holds neither maps nor an evaluation; a slide is not found or not the one
        that was predicted; or ``out`` is a file or holds files that no viewer wrote.
    SheetError
        The sheet has faults; all are named.
    SlideError
        A slide cannot be read.
    StorageError
        The folder cannot be written.

    Examples
    --------
    >>> viewer = hm.write_viewer("maps", "viewer-of-maps", slides="slides", progress=False)
    >>> viewer.page.name
    'index.html'
    """
    given = as_list(results)
    if not given:
        raise InputError("there is no slide to view", hint="Predict one, or give an evaluation with its slides")
    check_viewer_folder(out)
    key = pseudonym_file(anonymise, pseudonym_key, out, paths_among(given))
    with viewer_slides(given, slides, cohort, head) as views, progress_bars(progress) as report:
        names = None if key is None else Pseudonyms.open(key)
        page = write_pages(views, out, title=title, mpp=mpp, names=names, progress=report)
        return Viewer(page, tuple(one.name for one in views))
