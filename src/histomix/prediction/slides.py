"""Several slides: all are attempted, each failure is kept, and what is done is not done again."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..common.anonymity.marked_output import refuse_marked
from ..common.anonymity.pseudonyms import open_pseudonyms
from ..common.geometry.polygons import read_regions
from ..common.paths import as_list
from ..common.storage.locks import Lock, folder_lock
from ..common.words import RESEARCH_USE, head_limits
from ..errors import HeadError
from ..heads import Head
from ..maps.reading import interval_caution, type_facts, words_by_type
from ..progress import Progress, part_of, progress_bars, told
from ..provenance import require_folder
from ..spots import read_spots
from .anonymise import anonymous_jobs, region_names, remove_names
from .chunks import kept_folders
from .cluster.cluster import predict_with_dask
from .encoders import Model, load_head_encoders
from .foreign import files_of_features
from .inputs.sources import slide_jobs
from .job import Settings, SlideJob, SlideResult
from .run import SlideRun
from .status import Status

logger = logging.getLogger(__name__)


def predict_slides(
    slides: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    head: str | os.PathLike[str] | Head,
    out: str | os.PathLike[str],
    *,
    mpp: float | None = None,
    at: str | os.PathLike[str] | None = None,
    stride_um: float | None = None,
    regions: str | os.PathLike[str] | None = None,
    keep_features: bool = False,
    reuse: str | os.PathLike[str] | None = None,
    features: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    encoder: str | Sequence[str] | None = None,
    tile_um: float | None = None,
    origin: str | None = None,
    scale: float | None = None,
    gzip: bool = False,
    wait: bool = False,
    weights: Sequence[str | os.PathLike[str]] | None = None,
    trust_code: bool = False,
    batch_size: int | None = None,
    threads: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    resources: str | None = None,
    anonymise: bool = False,
    pseudonym_key: str | os.PathLike[str] | None = None,
    verify: bool = False,
    force_mpp: bool = False,
    progress: Progress | bool = True,
) -> list[SlideResult]:
    """Predict every slide into a folder of its own under ``out``.

    What is not listed here is as in `histomix.predict`.

    Parameters
    ----------
    slides
        Slides, folders of slides, and sheets, one or several; see `histomix.prediction.inputs.sources.slide_jobs`.
    head
        A trained head, or its folder; processes and clusters need the folder.
    keep_features
        Keep the features in ``<slide>/features``: another head on the same encoders then needs no encoder.
    reuse
        The ``out`` of an earlier run whose kept features may serve.
    features, encoder, tile_um, origin, scale
        As for `histomix.predict`; a file of each slide is found by its name.
    gzip
        Write ``tiles.geojson.gz``.
    wait
        Wait for another run that writes to ``out``, instead of refusing.
    batch_size
        Tiles encoded at once (32 where left out); it never follows the free memory, so that the same command gives the
        same bytes.
    workers
        Use so many processes of this machine (`histomix.prediction.cluster.cluster.local_cluster`).
    scheduler
        Use the Dask cluster whose scheduler has this address; its workers must see slides, head and ``out`` under the
        same paths.
    resources
        What a worker must have to be given work, ``"GPU=1"``.
    anonymise
        Name no slide in what is written: folders and tables have pseudonyms of slides, patients and regions, and tags,
        times, paths and the words of errors are left out. Maps of the same slides that ``out`` has under their names
        are removed first.
    pseudonym_key
        The key file of the pseudonyms (see `histomix.common.anonymity.pseudonyms.key_file`): ``<out>.key.csv`` where
        left out.
    verify
        Read slides whole (remote ones: fetch them) to see whether they are still the same, though neither their sizes
        nor their times have changed.
    force_mpp
        Take ``mpp`` for slides that say another one, too. Without it ``mpp`` is for those that say none, and a slide
        whose own differs by over 2 % fails.

    Returns
    -------
    list of SlideResult
        What became of each slide, in their order.

    Notes
    -----
    A slide whose ``status.json`` says that the same slide (by its content), head and settings are done is kept, and an
    interrupted one goes on at its finished bands. A slide that fails does not stop the others: its result and its
    ``status.json`` carry the error.

    Raises
    ------
    HeadError
        Two slides would share one folder, the head cannot be loaded, or a cluster is to use one that has no folder.
    SectionError, InputError
        The spots, the regions or a sheet cannot be read; or names would stand beside pseudonyms in ``out``.
    FeatureError
        Another run writes to ``out``.
    ClusterError
        The scheduler cannot be reached, or is gone; the same call goes on where it stopped.

    Examples
    --------
    >>> (result,) = hm.predict_slides("slides", "head", "maps", progress=False)  # what is up to date is kept
    >>> result.error is None
    True
    """
    on_cluster = workers is not None or scheduler is not None
    if on_cluster and isinstance(head, Head):
        raise HeadError("other processes cannot see a head in memory", hint="Save it, and give its folder")
    require_folder(out)
    named = jobs = slide_jobs(as_list(slides), out, mpp, force_mpp)
    if at is not None:
        read_spots(at)  # refused here, before any work
    if regions is not None:
        read_regions(regions)
    trained = Head.of(head)
    say_of_head(trained)
    settings = Settings.of(
        trained.card["digest"],
        at=at,
        regions=regions,
        reuse=reuse,
        batch_size=batch_size,
        stride_um=stride_um,
        features=files_of_features(features, encoder, tile_um, origin, scale, stride_um),
        keep_features=keep_features,
        gzip=gzip,
    )
    names = open_pseudonyms(anonymise, pseudonym_key, out)
    if names is None:
        refuse_marked(Path(out))
    else:
        jobs = anonymous_jobs(named, names)
        if regions is not None:
            settings = replace(settings, region_names=region_names(regions, names))
        names.save()  # before any of them is written
    jobs = [replace(job, verify=verify) for job in jobs]
    model = Model(trained, lambda head: load_head_encoders(head, weights, threads, trust_code))
    if settings.features is not None:
        logger.info("features that others computed: their encoder is stated, not verified, and no focus is measured")
    with progress_bars(progress) as report:
        waiting = _not_done(jobs, settings)
        needs_encoders = settings.features is None and not on_cluster
        if weights is not None or (needs_encoders and any(not _may_be_kept(job, settings) for job in waiting)):
            model.encoders()  # one that cannot be loaded stops the run here, not on every slide
        with folder_lock(Path(out), "maps", wait=wait):
            if names is not None:
                remove_names(Path(out), named, names)
            _sweep_locks(jobs)
            queue(waiting, settings)
            if on_cluster and not isinstance(head, Head):
                return predict_with_dask(
                    jobs,
                    settings,
                    head,
                    workers,
                    scheduler,
                    resources,
                    weights=weights,
                    trust_code=trust_code,
                    threads=threads,
                    progress=report,
                )
            results = []
            with part_of(report, "predict (slides)", len(jobs)) as one_more:
                for job in jobs:
                    results.append(SlideRun(job, settings, model).run(report))
                    one_more()
            return results


def say_of_head(head: Head) -> None:
    """Say once what holds for every slide that the head reads."""
    for caution in (*head_limits(head.card), interval_caution(head.card.get("calibration"))):
        if caution:
            logger.warning("%s", caution)
    words = words_by_type({str(name): str(word) for name, word in type_facts(head.card)["good_for"].items()})
    if words:
        logger.info("%s", words)
    logger.info("%s", RESEARCH_USE)


def _not_done(jobs: Sequence[SlideJob], settings: Settings) -> list[SlideJob]:
    """Slides without a whole map; of those that have one all files are read, which takes long where they are many."""
    some = told("look at maps that are there (slides)", jobs) if len(jobs) > 1 else jobs
    return [job for job in some if not Status(job, settings).is_done()]


def _may_be_kept(job: SlideJob, settings: Settings) -> bool:
    """Whether an earlier run kept features for a slide, which may then need no encoder."""
    return any(folder.is_dir() for folder in kept_folders(job, settings))


def _sweep_locks(jobs: Sequence[SlideJob]) -> None:
    """Remove lock files of workers that were killed; one that is held, by a worker of a lost cluster, stays."""
    for path in [path for job in jobs for path in job.folder.glob(".*.lock")]:
        lock = Lock(path)
        if lock.acquire(wait=False):
            lock.release()


def queue(jobs: Sequence[SlideJob], settings: Settings) -> None:
    """Write ``queued`` for every slide that is not done."""
    for job in jobs:
        status = Status(job, settings)
        if not status.is_done():
            status.queued()
