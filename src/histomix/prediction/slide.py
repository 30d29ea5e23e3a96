"""One slide from its file to its map: planned, embedded band by band, finished; resumable at every step."""

from __future__ import annotations

import contextlib
import logging
import shutil
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import HistomixError, ScaleWarning, SlideError, StorageError, origins
from ..maps.streaming import composition_writer
from ..maps.tissue import write_previews
from ..maps.units import label_area_um2, unit_facts
from ..progress import Progress, silent
from ..provenance import atomic_path, digest_json
from ..slides import Slide, open_slide
from ..slides.files import slide_digest
from ..spots import read_spots
from .anonymise import nameless_spots
from .chunks import (
    FACTS,
    FEATURES,
    check_slide,
    disk_array,
    embed_chunk,
    features_key,
    join_chunks,
    kept_features,
    load_plan,
    release,
)
from .job import Settings, SlideJob, SlideResult
from .maps import apply_head, blocks
from .plan import Chunk, Plan, bounded_mask, manifest_text, plan_tiles
from .status import Status, failure, is_done, read_status, sealed_state, up_to_date

if TYPE_CHECKING:
    from ..encoders import Encoder
    from ..heads import Head

_LOG = logging.getLogger(__name__)
_REPORT = "Its trace is in status.json: please report it with the kind of slide"
Encoders = Sequence["Encoder"] | Callable[[], Sequence["Encoder"]]


def plan_chunks(job: SlideJob, settings: Settings, head: Head, slide: Slide | None = None) -> list[Chunk]:
    """Find the tiles of a slide and write them to its work folder with its previews; returns the bands to embed.

    A plan of the same slide, head's tile and settings that is there already is kept, and with it the finished bands.

    Parameters
    ----------
    job
        The slide.
    settings, head
        What is asked for, and the head.
    slide
        The slide, where it is open already.

    Returns
    -------
    list
        The bands, in order; none where features that were kept serve.

    Raises
    ------
    SlideError
        The slide cannot be read, has no tissue, or has no mpp.
    HeadError
        It is far too coarse for the head.
    InputError
        The spots or regions cannot be read.
    StorageError
        The work folder cannot be written.
    """
    state = slide_digest(job.path)
    tiles = [(encoder["size_px"], encoder["mpp"]) for encoder in head.card["encoders"]]
    request = digest_json({"slide": state["digest"], "mpp": job.mpp, "tiles": tiles, **settings.positions})
    plan = Plan.load(job.work, request)
    if plan is None or not all((job.folder / name).is_file() for name in ("preview.jpg", "tissue.png")):
        if plan is None:
            shutil.rmtree(job.work, ignore_errors=True)
        spots = None if settings.at is None else read_spots(settings.at)
        if spots is not None and job.seal is not None:
            spots = nameless_spots(spots)
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", ScaleWarning)
            opened = stack.enter_context(open_slide(job.path, job.mpp)) if slide is None else slide
            mask = bounded_mask(opened)
            write_previews(job.folder, opened, mask)
            plan = plan_tiles(opened, head, settings, spots, mask, state["digest"])
        plan.facts["slide"]["file"] = job.shown_file
        plan.facts["state"] = sealed_state(job, state)
        plan.save(job.work, request)
    plan.facts["state"] = {**plan.facts["state"], **sealed_state(job, state)}
    return [] if _features_of(job, settings, plan, head) is not None else plan.chunks


def finish_slide(job: SlideJob, settings: Settings, head: Head) -> SlideResult:
    """Apply the head to the features of all bands and write the map; the work folder is removed.

    Raises
    ------
    StorageError
        A band is missing, or a file cannot be written.
    SlideError
        The slide is not the planned one any more.
    """
    plan = load_plan(job)
    check_slide(job, plan.facts["state"])
    features = _features_of(job, settings, plan, head) or join_chunks(job, plan, head)
    results = job.work / "maps"
    shutil.rmtree(results, ignore_errors=True)
    with atomic_path(results) as temporary:
        temporary.mkdir()
        counts = _write_maps(job, settings, head, plan, features, temporary)
    shutil.rmtree(results, ignore_errors=True)
    _keep_or_remove(job, settings, plan, head, features)
    return SlideResult(job.file_name, job.folder, len(plan), *counts, remarks=_remarks(plan, *counts))


def run_slide(
    job: SlideJob,
    settings: Settings,
    head: Head,
    encoders: Encoders,
    progress: Progress = silent,
) -> SlideResult:
    """Predict one slide in this process; a map that is up to date is kept, an interrupted one continued.

    Parameters
    ----------
    job
        The slide.
    settings, head
        What is asked for, and the head.
    encoders
        The head's encoders, or a function that loads them when they are needed.
    progress
        Told how many tiles are done.

    Returns
    -------
    SlideResult
        With the error, where the slide failed; ``status.json`` tells the same.
    """
    status = Status(job, settings)
    try:
        kept = up_to_date(job, settings)
    except HistomixError as error:
        return mark_failed(job, settings, status, error)
    if kept is not None:
        progress(f"predict {job.name}", kept.tiles, kept.tiles)
        return kept
    try:
        with contextlib.suppress(StorageError):  # what stands in the way will stop the work itself, with its name
            status.running()
        remove_leftovers(job)
        result = _predict(job, settings, head, encoders, status, progress)
        mark_done(job, settings, status, result)
        return result
    except HistomixError as error:
        return mark_failed(job, settings, status, error)
    except Exception as error:  # noqa: BLE001
        # A fault that nobody foresaw on one slide must not cost the thousands after it; the status keeps its trace.
        _LOG.debug("%s", job.slide, exc_info=True)
        status.facts["traceback"] = traceback.format_exc()
        unforeseen = SlideError(f"stopped on an error that was not foreseen ({error!r})", where=job.slide, hint=_REPORT)
        return mark_failed(job, settings, status, unforeseen)
    except BaseException as error:
        with contextlib.suppress(HistomixError):
            status.update(state="queued", reason=f"interrupted ({error!r})", owner=None)
        raise


def _predict(
    job: SlideJob, settings: Settings, head: Head, encoders: Encoders, status: Status, progress: Progress
) -> SlideResult:
    def told(task: str, done: int, total: int) -> None:
        progress(task, done, total)
        with contextlib.suppress(StorageError):  # how far it is may be lost; the features may not
            status.progress(done, total)

    with contextlib.ExitStack() as stack:
        opened = stack.enter_context(open_slide(job.path, job.mpp))
        chunks = plan_chunks(job, settings, head, opened)
        if chunks:
            plan = load_plan(job)
            loaded = encoders() if callable(encoders) else encoders
            size = settings.batch_size
            for chunk in chunks:
                embed_chunk(job, chunk, head, loaded, batch_size=size, plan=plan, slide=opened, progress=told)
    result = finish_slide(job, settings, head)
    progress(f"predict {job.name}", result.tiles, result.tiles)
    return result


def mark_done(job: SlideJob, settings: Settings, status: Status, result: SlideResult) -> None:
    """Write that a slide is done, with what it was made of.

    Raises
    ------
    StorageError
        The status cannot be written.
    """
    state = slide_digest(job.path)
    sizes = {name: (job.folder / name).stat().st_size for name in settings.files}
    digests = {**status.facts["digests"], "slide": state["digest"]}
    kept = sealed_state(job, state)
    status.finished(result, digests=digests, state_of_slide=kept, files=sizes, mpp_given=job.mpp)


def mark_failed(job: SlideJob, settings: Settings, status: Status, error: HistomixError) -> SlideResult:
    """Write that a slide failed and why.

    A map of an earlier run stays, and the status tells that it is older. Where the status says that the very map asked
    for is done, it stays too: the slide could not be reached (a share that is not there today).
    """
    result = failure(job, error)
    _forget_frames(error)
    with contextlib.suppress(HistomixError):  # a full disk has no room for the status either; the result tells it
        if not is_done(job, settings, read_status(job.folder)):
            status.finished(result)
    return result


def _forget_frames(error: BaseException | None) -> None:
    """Let go of what the frames of an error hold, such as arrays on disk: the result keeps the error for long."""
    for one in origins(error):
        traceback.clear_frames(one.__traceback__)


def remove_leftovers(job: SlideJob) -> None:
    """Remove what a process that was killed left half-written in a slide's folder."""
    for place in (job.folder, job.work, *job.work.glob("chunks/**/")):
        for partial in place.glob(".partial-*"):
            shutil.rmtree(partial, ignore_errors=True)


def _features_of(job: SlideJob, settings: Settings, plan: Plan, head: Head) -> Path | None:
    """Features that were kept by an earlier run and serve this one."""
    folders = [job.folder / "features"]
    if settings.reuse is not None:
        folders.append(Path(settings.reuse) / job.folder.name / "features")
    return kept_features(folders, features_key(plan, head))


def _on_disk(folder: Path) -> Callable[[str, tuple[int, ...], str], np.ndarray]:
    return lambda name, shape, dtype: disk_array(folder / f"{name}.npy", shape, dtype)


def _write_maps(
    job: SlideJob, settings: Settings, head: Head, plan: Plan, features: Path, temporary: Path
) -> tuple[int, int]:
    """Stream the map to its files; returns how many tiles were unreadable and how many are in scope.

    Arrays on disk live in here alone: Windows neither renames nor removes a file that is mapped.
    """
    X = np.load(features, mmap_mode="r", allow_pickle=False)
    maps = apply_head(head, X, plan, _on_disk(temporary))
    area = label_area_um2(head)
    scope = head.scope(maps.in_scope[maps.read_ok])
    more: dict[str, Any] = {"facts": dict(job.facts), "name": job.name, **unit_facts(head, plan.facts), "scope": scope}
    if job.seal is not None:
        more["anonymised"] = job.seal.key
    manifest = manifest_text(plan, head, more)
    unreadable = in_scope = 0
    with composition_writer(job.folder, settings.gzip) as append:
        for block in blocks(plan, maps, head, manifest, area):
            append(block)
            unreadable += int((~block.obs["read_ok"]).sum())
            in_scope += int(block.obs["in_scope"].sum())
            for array in (maps.values, maps.lower, maps.upper, maps.combined):
                if array is not None:
                    release(array)
    return unreadable, in_scope


def _keep_or_remove(job: SlideJob, settings: Settings, plan: Plan, head: Head, features: Path) -> None:
    """Keep the features for another head where that is asked for; remove the work folder."""
    kept, key = job.folder / "features", features_key(plan, head)
    if settings.keep_features and features.parent == job.work:
        with atomic_path(kept) as temporary:
            temporary.mkdir()
            for name in (FEATURES, FACTS):
                (job.work / name).replace(temporary / name)
    elif kept.is_dir() and kept_features([kept], key) is None:
        shutil.rmtree(kept, ignore_errors=True)  # of a slide or of tiles that are no more
    shutil.rmtree(job.work, ignore_errors=True)


def _remarks(plan: Plan, unreadable: int, in_scope: int) -> tuple[str, ...]:
    remarks = []
    if unreadable:
        remarks.append(f"{unreadable} of {len(plan)} tiles could not be read")
    if in_scope < 0.5 * (len(plan) - unreadable):
        remarks.append(
            f"only {in_scope} of {len(plan)} tiles are like those that the head was trained on: "
            "check the stain, the tissue, and the um per px"
        )
    upsampling = plan.facts["slide"]["upsampling"]
    if upsampling > 1.05:
        remarks.append(f"tiles are interpolated, {upsampling:.2f} times finer than the slide")
    return tuple(remarks)
