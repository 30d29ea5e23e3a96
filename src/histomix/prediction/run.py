"""One slide from its file to its map: planned, embedded band by band, finished; resumable at every step."""

from __future__ import annotations

import contextlib
import logging
import shutil
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..common.memory import out_of_memory
from ..embedding.imports.slide_tiles import names_of_slide
from ..errors import HistomixError, InputError, ScaleWarning, SlideError, StorageError
from ..maps.tissue import write_previews
from ..progress import Progress, silent
from ..provenance import atomic_path, digest_json, remove_abandoned
from ..slides import Slide, SlideCache, is_remote
from ..slides.files import slide_digest
from ..spots import read_spots
from .anonymise import nameless_spots
from .areas import knows_fat
from .chunks import (
    FACTS,
    FEATURES,
    SHARPNESS,
    ChunkFeatures,
    check_encoders,
    embed_chunk,
    features_key,
    kept_features,
    kept_folders,
)
from .encoders import Model
from .foreign import plan_features
from .inputs.opening import opened
from .inputs.remote import remote_facts
from .job import FORMAT, Settings, SlideJob, SlideResult
from .maps import write_map
from .plan import Chunk, Plan, bounded_mask, plan_tiles
from .status import Status, known_state, sealed_state

_LOG = logging.getLogger(__name__)
_REPORT = "Its trace is in status.json: please report it with the kind of slide"


class SlideRun:
    """The run of one slide: what is asked for, with what, and how far it is.

    `run` is the whole walk in this process. A cluster takes the steps one by one, each in any process: `plan`, `embed`
    for every band, `finish` and `done`. What a step made is kept in the slide's folder and serves the next run.

    Parameters
    ----------
    job
        The slide.
    settings
        What is asked for.
    model
        The head and its encoders, loaded when a step needs them.
    cache
        Where a remote slide goes; None: the default one.

    Attributes
    ----------
    status
        The slide's ``status.json``.
    """

    def __init__(self, job: SlideJob, settings: Settings, model: Model, cache: SlideCache | None = None) -> None:
        self.job, self.settings, self.model, self.cache = job, settings, model, cache
        self.status = Status(job, settings)
        self._plan: Plan | None = None

    def run(self, progress: Progress = silent) -> SlideResult:
        """Predict the slide in this process; a map that is up to date is kept, an interrupted one continued.

        A remote slide is fetched for as long as it is read, and not at all where the store says that it is the same.

        Parameters
        ----------
        progress
            Told how many tiles are done.

        Returns
        -------
        SlideResult
            With the error, where the slide failed; ``status.json`` tells the same.
        """
        if self._is_here:
            return self._run_here(progress)
        try:
            result = self.kept_remotely()
            if result is not None:
                progress(f"predict {self.job.name}", result.tiles, result.tiles)
                return result
            with self.fetched(progress=progress) as here:
                result = here.run(progress)
            self.note_remote()
            return result
        except HistomixError as error:
            return self.failed(error)

    def _run_here(self, progress: Progress) -> SlideResult:
        try:
            result = self.kept()
            if result is None:
                with contextlib.suppress(StorageError):  # what stands in the way will stop the work itself, by its name
                    self.status.running()
                self.remove_leftovers()
                result = self._predict(progress)
                self.done(result)
            else:
                progress(f"predict {self.job.name}", result.tiles, result.tiles)
            return result
        except HistomixError as error:
            return self.failed(error)
        except MemoryError as error:
            return self.failed(out_of_memory(error, self.job.slide))
        except Exception as error:  # noqa: BLE001
            # A fault that nobody foresaw on one slide must not cost the thousands after it; the status keeps its trace.
            _LOG.debug("%s", self.job.slide, exc_info=True)
            self.status.facts["traceback"] = traceback.format_exc()
            what = f"stopped on an error that was not foreseen ({error!r})"
            return self.failed(SlideError(what, where=self.job.slide, hint=_REPORT))
        except BaseException as error:
            with contextlib.suppress(HistomixError):
                self.status.update(state="queued", reason=f"interrupted ({error!r})", owner=None)
            raise

    def _predict(self, progress: Progress) -> SlideResult:
        def told(task: str, done: int, total: int) -> None:
            progress(task, done, total)
            with contextlib.suppress(StorageError):  # how far it is may be lost; the features may not
                self.status.progress(done, total)

        with opened(self.job) as slide:
            for chunk in self.plan(slide):
                self.embed(chunk, slide, told)
        result = self.finish()
        progress(f"predict {self.job.name}", result.tiles, result.tiles)
        return result

    def kept(self) -> SlideResult | None:
        """The result of an earlier run, where it is up to date. Raises SlideError where the slide cannot be read."""
        return self.status.up_to_date()

    def done(self, result: SlideResult) -> None:
        """Write that the slide is done, and of what. Raises StorageError where it cannot."""
        self.status.done(result)

    def failed(self, error: HistomixError) -> SlideResult:
        """Write that the slide failed and why; a map that is up to date stays, and what the status says of it."""
        return self.status.failed(error)

    def plan(self, slide: Slide | None = None) -> list[Chunk]:
        """Find the tiles of the slide and write them to its work folder with its previews; returns the bands to embed.

        A plan of the same slide, head's tile and settings that is there already is kept, and with it the finished
        bands.

        Parameters
        ----------
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
        job, head = self.job, self.model.head
        state = slide_digest(job.path)
        tiles = [(encoder["size_px"], encoder["mpp"]) for encoder in head.card["encoders"]]
        asked = {"format": FORMAT, "slide": state["digest"], "mpp": job.mpp, "tiles": tiles, "fat": knows_fat(head)}
        request = digest_json({**asked, **self.settings.positions})
        plan = Plan.load(job.work, request)
        whole = all((job.folder / name).is_file() for name in ("preview.jpg", "tissue.png"))
        if plan is None or not whole or (self.settings.features is not None and not self._has_features(plan)):
            if plan is None:
                shutil.rmtree(job.work, ignore_errors=True)
            plan = self._new_plan(slide, state)
            plan.save(job.work, request)
        plan.facts["state"] = {**plan.facts["state"], **sealed_state(job, state)}
        self._plan = plan
        return [] if self._has_features(plan) else plan.chunks

    def _new_plan(self, slide: Slide | None, state: dict[str, Any]) -> Plan:
        job, settings, vectors = self.job, self.settings, None
        spots = None if settings.at is None else read_spots(settings.at)
        if spots is not None and job.seal is not None:
            spots = nameless_spots(spots)
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", ScaleWarning)
            here = stack.enter_context(opened(job)) if slide is None else slide
            mask = bounded_mask(here)
            write_previews(job.folder, here, mask)
            if settings.features is None:
                plan = plan_tiles(here, self.model.head, settings, spots, mask, state["digest"])
            else:
                names = names_of_slide(Path(job.file_name), None if job.seal is not None else job.name)
                plan, vectors = plan_features(here, self.model.head, settings, names, mask, spots, state["digest"])
        plan.facts["slide"]["file"] = job.shown_file
        plan.facts["state"] = sealed_state(job, state)
        if vectors is not None:
            ChunkFeatures(job.work, plan, self.model.head).put(vectors)
        return plan

    def planned(self) -> Plan | None:
        """The plan that this run, or an earlier one in its work folder, has made."""
        if self._plan is None:
            self._plan = Plan.load(self.job.work)
        return self._plan

    def embed(self, chunk: Chunk, slide: Slide | None = None, progress: Progress = silent) -> bool:
        """Embed the tiles of one band and store their features in the slide's work folder.

        A band that is stored already is left as it is, and a band that was interrupted goes on at its last finished
        stretch. Any number of processes may embed bands of one slide, and the same tiles give the same bytes.

        Parameters
        ----------
        chunk
            One of the plan's bands.
        slide
            The slide, where it is open already.
        progress
            Told how many of all the slide's tiles are done.

        Returns
        -------
        bool
            Whether anything had to be embedded.

        Raises
        ------
        InputError
            The slide has not been planned.
        SlideError
            The slide cannot be opened, or is not the planned one any more.
        FeatureError
            An encoder is not the one that the head was trained on.
        StorageError
            The features cannot be written; what was finished before is intact.
        """
        job, plan, head = self.job, self._needed_plan(), self.model.head
        features = ChunkFeatures(job.work, plan, head)
        if chunk in features:
            progress(f"predict {job.name}", chunk.stop, len(plan))
            return False
        encoders = self.model.encoders()
        check_encoders(head, encoders)
        self._check_slide(plan)
        with contextlib.nullcontext(slide) if slide is not None else opened(job) as here:
            values = embed_chunk(
                here,
                plan,
                chunk,
                encoders,
                batch_size=self.settings.batch_size,
                name=job.name,
                parts=features.parts(chunk),
                progress=progress,
            )
        self._check_slide(plan)
        features.save(chunk, values)
        return True

    def finish(self) -> SlideResult:
        """Apply the head to the features of all bands and write the map; the work folder is removed.

        Raises
        ------
        InputError
            The slide has not been planned.
        StorageError
            A band is missing, or a file cannot be written.
        SlideError
            The slide is not the planned one any more.
        """
        job, plan, head = self.job, self._needed_plan(), self.model.head
        self._check_slide(plan)
        features = self._kept_features(plan) or ChunkFeatures(job.work, plan, head).join()
        scratch = job.work / "maps"
        shutil.rmtree(scratch, ignore_errors=True)
        with atomic_path(scratch) as temporary:
            temporary.mkdir()
            facts = write_map(
                job.folder,
                temporary,
                features,
                plan,
                head,
                gzip=self.settings.gzip,
                name=job.name,
                facts=dict(job.facts),
                anonymised=None if job.seal is None else job.seal.key,
            )
        shutil.rmtree(scratch, ignore_errors=True)
        self._keep_or_remove(plan, features)
        self._plan = None
        return SlideResult.of(job, facts)

    def remove_leftovers(self) -> None:
        """Remove what a process that was killed left half-written in the slide's folder."""
        work = self.job.work
        for place in (self.job.folder, work, *work.glob("chunks/**/")):
            remove_abandoned(place)

    def _kept_features(self, plan: Plan) -> Path | None:
        return kept_features(kept_folders(self.job, self.settings), features_key(plan, self.model.head))

    def _has_features(self, plan: Plan) -> bool:
        """Whether the features of all tiles are stored."""
        return self._kept_features(plan) is not None or ChunkFeatures(self.job.work, plan, self.model.head).joined

    def _needed_plan(self) -> Plan:
        plan = self.planned()
        if plan is None:
            raise InputError("the slide has not been planned", where=self.job.work, hint="Run the same command again")
        return plan

    def _check_slide(self, plan: Plan) -> None:
        """Refuse a slide that is no longer the one that was planned."""
        planned = plan.facts["state"]
        if slide_digest(self.job.path, known_state(self.job, planned))["digest"] != planned["digest"]:
            raise SlideError(
                "was replaced or changed while it was being read",
                where=self.job.path,
                hint="Run the same command again, when the slide is whole; what was read of the old one is not used",
            )

    def _keep_or_remove(self, plan: Plan, features: Path) -> None:
        """Keep the features for another head where that is asked for; remove the work folder."""
        job, kept = self.job, self.job.folder / "features"
        if self.settings.keep_features and features.parent == job.work:
            with atomic_path(kept) as temporary:
                temporary.mkdir()
                for name in (FEATURES, FACTS, SHARPNESS):
                    (job.work / name).replace(temporary / name)
        elif kept.is_dir() and kept_features([kept], features_key(plan, self.model.head)) is None:
            shutil.rmtree(kept, ignore_errors=True)  # of a slide or of tiles that are no more
        shutil.rmtree(job.work, ignore_errors=True)

    @property
    def _is_here(self) -> bool:
        return not is_remote(self.job.slide) or self.job.local is not None

    @contextlib.contextmanager
    def fetched(self, *, keep: bool = False, progress: Progress = silent) -> Iterator[SlideRun]:
        """The run on a slide that can be read here; a remote one is fetched for the length of the block.

        Parameters
        ----------
        keep
            Leave the slide in the cache for the next band.
        progress
            Told of the transfer.

        Raises
        ------
        DownloadError, SlideError, StorageError, MissingExtraError
            As `histomix.slides.SlideCache.local`.
        """
        if self._is_here:
            yield self
            return
        with (self.cache or SlideCache()).local(self.job.slide, keep=keep, progress=progress) as path:
            here = SlideRun(replace(self.job, local=path), self.settings, self.model, self.cache)
            here._plan = self._plan
            yield here

    @cached_property
    def remote(self) -> dict[str, Any] | None:
        """What the store says of a remote slide (`histomix.prediction.inputs.remote.remote_facts`); asked once."""
        return remote_facts(self.job, self.cache)

    def kept_remotely(self) -> SlideResult | None:
        """As `kept`, where the store says that a remote slide is the same; None where it must be fetched to know.

        Raises
        ------
        DownloadError
            As `remote`.
        """
        return self.status.remote_up_to_date(self.remote)

    def note_remote(self) -> None:
        """Write beside the result of which remote file it was made.

        Raises
        ------
        StorageError
            The status cannot be written.
        """
        self.status.note_remote(self.remote)
